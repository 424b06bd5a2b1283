"""A trace file -> columns of planned requests: sliced, sampled, scaled, fitted to a context, its blocks made prefixes."""

from __future__ import annotations

from array import array
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import MAX_REQUESTS
from harness.measure.plan.prefixes import Chains, Pairs
from harness.measure.plan.streams import I64, Purpose, key, raw, uniform
from harness.measure.plan.traces.formats import Layout, recognise
from harness.measure.plan.traces.rows import rows_of, unreadable
from harness.measure.plan.traces.values import BadRow, TraceRow
from harness.measure.plan.workload import Options

_HOUR_NS = 3_600_000_000_000
_TICK_NS = 500_000_000  # a distance between times from which on they are ticks
_MASK = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Trace:
    """What was kept. `time_ns` counts from the slice's start and is None where the format has no times."""

    layout: Layout
    time_ns: I64 | None
    prompt: I64
    output: I64
    session: I64 | None
    pairs: list[Pairs] | None
    line: I64
    think_ns: I64 | None
    notes: tuple[str, ...]


@dataclass(slots=True)
class _Counts:
    rows: int = 0
    bad: int = 0
    failed: int = 0
    dropped: int = 0
    truncated: int = 0
    bound: int = 0
    first_bad: str = ""


@dataclass(slots=True)
class _Kept:
    time_ns: array[int] = field(default_factory=lambda: array("q"))
    prompt: array[int] = field(default_factory=lambda: array("q"))
    output: array[int] = field(default_factory=lambda: array("q"))
    session: array[int] = field(default_factory=lambda: array("q"))
    line: array[int] = field(default_factory=lambda: array("q"))
    think_ns: array[int] = field(default_factory=lambda: array("q"))
    pairs: list[Pairs] = field(default_factory=list)


def read_trace(
    path: Path, options: Options, *, seed: int, wanted: int | None, context_limit_tokens: int | None
) -> Trace:
    """The slice's first `wanted` rows (all of them for None). Raises ConfigError naming file, line, column and value."""
    layout = recognise(path)
    block_tokens = _block_tokens(path, layout, options)
    most = min(options.limit or MAX_REQUESTS + 1, wanted or MAX_REQUESTS + 1)
    counts, kept = _Counts(), _Kept()
    sessions = _Sessions(layout, seed, options.sample)
    chains = Chains(block_tokens) if block_tokens else None
    first_ns: int | None = None
    last_ns = -(2**63)
    for row in rows_of(path, layout, options.tokenizer):
        counts.rows += 1
        if isinstance(row, TraceRow) and row.time_ns is not None and row.time_ns < last_ns:
            reason = f"times go backwards by {(last_ns - row.time_ns) / 1e9:g} s; sort the file by time"
            row = BadRow(f"{path}, line {row.line}", str(layout.time), f"{row.time_ns / 1e9} s", reason)  # noqa: PLW2901
        if isinstance(row, BadRow):
            _count_bad(row, counts, options)
            continue
        if row.time_ns is not None:
            last_ns = row.time_ns
            first_ns = row.time_ns if first_ns is None else first_ns
            offset_s = (row.time_ns - first_ns) / 1e9
            if options.to_s is not None and offset_s >= options.to_s:
                break
            if options.from_s is not None and offset_s < options.from_s:
                sessions.see(row)
                continue
        number, keep = sessions.see(row)
        if keep:
            _keep(row, number, kept, chains, options, context_limit_tokens, counts)
            if len(kept.prompt) >= most:
                break
    _enough(path, kept, counts, options, wanted)
    return _trace(layout, kept, counts, options, sessions.known, context_limit_tokens, first_ns)


def _block_tokens(path: Path, layout: Layout, options: Options) -> int | None:
    if layout.hashes is None:
        return None
    block = options.block or layout.block_tokens
    if block is None:
        raise ConfigError("the trace has block hashes of unknown size", path, "give it: ?block=TOKENS")
    scaled = block * options.scale
    if scaled < 1 or scaled != int(scaled):
        what = f"scale {options.scale:g}: blocks of {block} tokens become {scaled:g}"
        raise ConfigError("the scale does not leave whole blocks", what, f"choose a multiple of {1 / block:g}")
    return int(scaled)


class _Sessions:
    """Numbers sessions as they appear and decides which are kept; without sessions each row is its own."""

    def __init__(self, layout: Layout, seed: int, sample: float) -> None:
        self.known = layout.session is not None or layout.kind == "weka"
        self.chained = layout.parent is not None
        self.base, self.limit = key(seed, Purpose.TRACE_SAMPLE), int(sample * 2**64)
        self.sample = sample
        self.numbers: dict[Hashable, int] = {}
        self.count = 0

    def see(self, row: TraceRow) -> tuple[int, bool]:
        if not self.known or row.session is None:
            number = self.count
            self.count += 1
        elif self.chained:
            number = self.numbers.get(row.parent, -1) if row.parent not in (None, -1, "-1") else -1
            if number < 0:
                number = self.count
                self.count += 1
            self.numbers[row.session] = number
        else:
            known = self.numbers.get(row.session)
            number = self.count if known is None else known
            if known is None:
                self.numbers[row.session] = number
                self.count += 1
        return number, self.sample >= 1 or self._draw(number) < self.limit

    def _draw(self, number: int) -> int:
        """splitmix64 of the number, as in streams.at, for one number at a time."""
        z = (self.base + (number + 1) * 0x9E3779B97F4A7C15) & _MASK
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)


def _count_bad(row: BadRow, counts: _Counts, options: Options) -> None:
    if row.failure:
        counts.failed += 1
    elif options.skip_bad:
        counts.bad += 1
        counts.first_bad = counts.first_bad or f"{row.where}: {row.reason}"
    else:
        raise unreadable(row)


def _keep(
    row: TraceRow,
    session: int,
    kept: _Kept,
    chains: Chains | None,
    options: Options,
    limit: int | None,
    counts: _Counts,
) -> None:
    prompt, output = row.prompt_tokens, row.output_tokens
    if options.scale != 1:
        prompt, output = max(1, round(prompt * options.scale)), max(1, round(output * options.scale))
    if limit is not None and prompt + output > limit:
        if options.context == "drop" or output >= limit:
            counts.dropped += 1
            return
        counts.truncated += 1
        prompt = limit - output
    if chains is not None:
        number = len(kept.prompt)
        kept.pairs.append(chains.pairs(number, row.hashes, prompt, row.scope) if row.hashes else ())
    counts.bound += row.bound
    kept.prompt.append(prompt)
    kept.output.append(output)
    kept.session.append(session)
    kept.line.append(row.line)
    if row.time_ns is not None:
        kept.time_ns.append(row.time_ns)
    if row.think_ns is not None:
        kept.think_ns.append(row.think_ns)


def _enough(path: Path, kept: _Kept, counts: _Counts, options: Options, wanted: int | None) -> None:
    have = len(kept.prompt)
    if have > MAX_REQUESTS:
        raise ConfigError(
            "plan too large", f"{path}: more than {MAX_REQUESTS:,} rows", "use limit, from and to, or sample"
        )
    if not have:
        what = f"{path}: {counts.rows:,} rows read, {counts.dropped:,} above the context limit, {counts.bad + counts.failed:,} bad"
        raise ConfigError("no row of the trace is left", what, "widen from and to, sample, or the context limit")
    if wanted is not None and have < min(wanted, options.limit or wanted):
        raise ConfigError(
            "the trace is shorter than asked",
            f"{path}: {have:,} usable rows, {wanted:,} requests asked for",
            "ask for fewer, or widen the slice",
        )


def _trace(
    layout: Layout,
    kept: _Kept,
    counts: _Counts,
    options: Options,
    sessions_known: bool,
    limit: int | None,
    first_ns: int | None,
) -> Trace:
    prompt, output = np.array(kept.prompt), np.array(kept.output)
    notes = [f"trace: {layout.name}, {len(prompt):,} of {counts.rows:,} rows read"]
    if options.scale != 1:
        notes[0] += f"; all lengths and blocks times {options.scale:g}"
    if options.sample < 1:
        what = "sessions, whole" if sessions_known else "rows"
        notes.append(f"trace: a share of {options.sample:g} of the {what} was kept")
    if counts.failed:
        notes.append(f"trace: {counts.failed:,} rows of requests that failed (output 0) left out")
    if counts.bad:
        notes.append(f"trace: {counts.bad:,} bad rows skipped; the first: {counts.first_bad}")
    if counts.bound:
        notes.append(
            f"trace: in {counts.bound:,} of the {len(prompt):,} rows the log does not say how much was generated: their output "
            "is max_tokens, the most it may have been"
        )
    if counts.dropped or counts.truncated:
        notes.append(
            f"trace: context limit {limit} tokens: {counts.dropped:,} longer requests dropped, {counts.truncated:,} prompts cut"
        )
    time_ns: I64 | None = None
    if len(kept.time_ns) == len(prompt):
        start_ns = (first_ns or 0) + round((options.from_s or 0) * 1e9)
        time_ns = np.array(kept.time_ns)
        if options.from_s is None:  # a slice by time begins at its edge, the whole file at its first row kept
            start_ns = int(time_ns[0])
        time_ns -= start_ns
    session = np.array(kept.session) if sessions_known else None
    pairs = kept.pairs if any(kept.pairs) else None
    think = np.array(kept.think_ns) if len(kept.think_ns) == len(prompt) else None
    return Trace(layout, time_ns, prompt, output, session, pairs, np.array(kept.line), think, tuple(notes))


def spread_ticks(trace: Trace, seed: int) -> tuple[I64, tuple[str, ...]]:
    """(times, notes): times recorded in coarse ticks, each moved to a random place between its tick and the next, in the
    file's order; other times as they are. Raises ConfigError where there are none."""
    time_ns = trace.time_ns
    if time_ns is None:
        raise ConfigError("the trace has no times", trace.layout.name, "use poisson or another arrival process")
    ticks, counts = np.unique(time_ns, return_counts=True)
    if not trace.layout.ticks or len(ticks) < 2 or (tick := int(np.median(np.diff(ticks)))) < _TICK_NS:
        return time_ns, ()
    room = np.minimum(np.append(np.diff(ticks), tick), tick)
    place = uniform(raw(seed, Purpose.TRACE_TICKS, len(time_ns)))
    order = np.lexsort((place, np.repeat(np.arange(len(ticks)), counts)))
    offsets = np.floor(place[order] * np.repeat(room, counts)).astype(np.int64)
    note = f"trace: times stand in ticks of {tick / 1e9:g} s and were spread inside them, uniformly"
    return time_ns + offsets, (note,)


def refuse_gaps(time_ns: I64, line: I64, options: Options) -> None:
    """Raises ConfigError where the planned times hold a pause of more than an hour, naming the lines around it."""
    gaps = np.diff(time_ns)
    if options.gaps == "keep" or not len(gaps) or gaps.max() <= _HOUR_NS:
        return
    at = int(gaps.argmax())
    raise ConfigError(
        "the trace has a gap of hours",
        f"{gaps[at] / _HOUR_NS:.1f} h without a request between lines {line[at]} and {line[at + 1]}",
        "slice it with from and to, speed it up (--arrivals trace:SPEEDUP), or keep the gap: ?gaps=keep",
    )
