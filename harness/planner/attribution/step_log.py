"""Engine steps out of a vLLM server's log, for the split of cost between input and output tokens.

vLLM with `--enable-logging-iteration-details` prints one line a step:

    Iteration(7): 1 context requests, 640 context tokens, 12 generation requests, 12 generation tokens,
    iteration elapsed time: 9.81 ms, GPU KV cache usage: 3.4%

Under async scheduling (vLLM's default) the printed time is that of handing the step over, about 0.03 ms, and not the step's. Then
the log's own stamps are differenced; where they hold whole seconds only, one observation is a whole second of a busy engine.
Best: `--no-async-scheduling`, where the printed time is the step's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import FloatArray

_HANDED_OVER_MS = 0.5  # a median step printed as faster than this was not waited for
WHOLE_SECONDS = "log stamps of whole seconds, one busy second a row"
PRINTED = "time printed for each step"
STAMPS = "differences of log stamps"
_RESOLUTION_S = {PRINTED: 1e-5, STAMPS: 1e-3, WHOLE_SECONDS: 1.0}
_IDLE_STEPS = 8  # a gap longer than this many median gaps is an engine without work
_LINE = re.compile(
    r"(?P<month>\d\d)-(?P<day>\d\d) (?P<h>\d\d):(?P<m>\d\d):(?P<s>\d\d)(?:[.,](?P<frac>\d+))? .*?"
    r"Iteration\(\d+\): \d+ context requests, (?P<prefill>\d+) context tokens, "
    r"(?P<decode>\d+) generation requests, (?P<written>\d+) generation tokens, "
    r"iteration elapsed time: (?P<ms>[\d.]+) ms(?P<dummy> \(dummy\))?(?:, \w+ KV cache usage: (?P<kv>[\d.]+)%)?"
)
_CACHE = re.compile(r"KV cache size: ([\d,]+) tokens")


@dataclass(frozen=True, slots=True)
class Steps:
    """Observations of a busy engine, one row each: `steps` engine steps that took `seconds` together.

    `kv_tokens` is summed over the steps (tokens of KV cache in use, read once a decode step); None where the log does not give
    the cache's size. `shapes` names the workload of each row, for leaving one out. `timed_by` says where `seconds` is from.
    `every_step` counts the steps that could not be timed as well: shares of cost are taken over all of them.
    """

    seconds: FloatArray
    steps: FloatArray
    prefill_tokens: FloatArray
    decode_seqs: FloatArray
    kv_tokens: FloatArray | None
    shapes: tuple[str, ...]
    timed_by: str
    resolution_s: float  # of the clock that timed them
    every_step: tuple[
        float, float, float, float
    ]  # steps, prefill tokens, decode sequences, KV tokens: untimed steps too

    @property
    def count(self) -> int:
        return len(self.seconds)


@dataclass(frozen=True, slots=True)
class _Read:
    at_s: float
    whole_seconds: bool
    prefill: int
    decode: int
    kv_share: float | None
    ms: float


def _seconds(month: int, day: int, h: int, m: int, s: int) -> float:
    """Only differences within a run are used: months of 31 days will do."""
    return float(((month * 31 + day) * 24 + h) * 3600 + m * 60 + s)


def _stamp(at: datetime) -> float:
    return _seconds(at.month, at.day, at.hour, at.minute, at.second) + at.microsecond / 1e6


def _read(line: str) -> _Read | None:
    match = _LINE.search(line)
    if match is None or match["dummy"]:
        return None
    month, day, h, m, s = (int(match[k]) for k in ("month", "day", "h", "m", "s"))
    at = _seconds(month, day, h, m, s) + (float(f"0.{match['frac']}") if match["frac"] else 0.0)
    share = float(match["kv"]) / 100 if match["kv"] else None
    return _Read(at, match["frac"] is None, int(match["prefill"]), int(match["decode"]), share, float(match["ms"]))


def parse(
    lines: Iterable[str],
    shape: str,
    *,
    kv_cache_tokens: int | None = None,
    between: tuple[datetime, datetime] | None = None,
) -> Steps:
    """The steps that a server's log tells of, all labelled `shape`.

    `kv_cache_tokens`: size of the cache, else the log's own line about it, else KV is unknown. Dummy steps are left out.
    `between`: first and last instant, in the log's own clock (the server's local time; the log has no year): one run of several.
    Raises ConfigError where there are fewer than 8 usable steps.
    """
    read: list[_Read] = []
    limits = None if between is None else (_stamp(between[0]), _stamp(between[1]))
    for line in lines:
        if kv_cache_tokens is None and (size := _CACHE.search(line)):
            kv_cache_tokens = int(size[1].replace(",", ""))
        one = _read(line)
        if one is not None and (limits is None or limits[0] <= one.at_s <= limits[1]):
            read.append(one)
    if len(read) < 8:
        raise ConfigError(
            "too few engine steps in the server's log",
            f"{shape}: {len(read)}",
            "start vLLM with --enable-logging-iteration-details (flags of the target), best with --no-async-scheduling",
        )
    cache = kv_cache_tokens if all(r.kv_share is not None for r in read) else None
    if median(r.ms for r in read) >= _HANDED_OVER_MS:
        return _steps(read, [([r], r.ms / 1000) for r in read], shape, cache, PRINTED)
    if any(r.whole_seconds for r in read):
        return _steps(read, _by_second(read), shape, cache, WHOLE_SECONDS)
    return _steps(read, _by_stamp(read), shape, cache, STAMPS)


def _by_stamp(read: Sequence[_Read]) -> list[tuple[list[_Read], float]]:
    """A step took the time since the line before it. A step that decodes had work before it; one that does not may follow an
    idle engine, and is left out where its gap is long."""
    timed = [(one, one.at_s - before.at_s) for before, one in pairwise(read) if one.at_s > before.at_s]
    if not timed:
        return []
    longest = _IDLE_STEPS * median(gap for _, gap in timed)
    return [([one], gap) for one, gap in timed if one.decode or gap <= longest]


def _by_second(read: Sequence[_Read]) -> list[tuple[list[_Read], float]]:
    """Whole seconds with a busy second on either side: steps are taken to fill them."""
    by_second: dict[float, list[_Read]] = {}
    for r in read:
        by_second.setdefault(r.at_s, []).append(r)
    return [(group, 1.0) for at, group in by_second.items() if at - 1 in by_second and at + 1 in by_second]


def _steps(
    read: Sequence[_Read], rows: Sequence[tuple[list[_Read], float]], shape: str, cache: int | None, timed_by: str
) -> Steps:
    if not rows:
        raise ConfigError(
            "no step in the server's log can be timed",
            f"{shape}: {timed_by}",
            "run the server with --no-async-scheduling, or log with fractions of a second",
        )

    def kv_tokens(steps: Sequence[_Read]) -> float:
        return sum((r.kv_share or 0.0) * (cache or 0) for r in steps if r.decode)

    groups = [group for group, _ in rows]
    return Steps(
        seconds=np.array([seconds for _, seconds in rows]),
        steps=np.array([float(len(g)) for g in groups]),
        prefill_tokens=np.array([float(sum(r.prefill for r in g)) for g in groups]),
        decode_seqs=np.array([float(sum(r.decode for r in g)) for g in groups]),
        kv_tokens=None if cache is None else np.array([kv_tokens(g) for g in groups]),
        shapes=(shape,) * len(groups),
        timed_by=timed_by,
        resolution_s=_RESOLUTION_S[timed_by],
        every_step=(
            float(len(read)), float(sum(r.prefill for r in read)), float(sum(r.decode for r in read)), kv_tokens(read)
        ),
    )  # fmt: skip


def together(parts: Sequence[Steps]) -> Steps:
    """Several logs (one a shape) as one set of observations; KV stays known only if all of them know it."""
    if not parts:
        raise ConfigError("no engine steps", "no log", "give at least one server.log")
    known = [p.kv_tokens for p in parts if p.kv_tokens is not None]
    return Steps(
        seconds=np.concatenate([p.seconds for p in parts]),
        steps=np.concatenate([p.steps for p in parts]),
        prefill_tokens=np.concatenate([p.prefill_tokens for p in parts]),
        decode_seqs=np.concatenate([p.decode_seqs for p in parts]),
        kv_tokens=np.concatenate(known) if len(known) == len(parts) else None,
        shapes=tuple(s for p in parts for s in p.shapes),
        timed_by="; ".join(sorted({p.timed_by for p in parts})),
        resolution_s=max(p.resolution_s for p in parts),
        every_step=(
            sum(p.every_step[0] for p in parts),
            sum(p.every_step[1] for p in parts),
            sum(p.every_step[2] for p in parts),
            sum(p.every_step[3] for p in parts),
        ),
    )
