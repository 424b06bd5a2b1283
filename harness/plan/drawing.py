"""Workload, load and seed -> Plan."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness.errors import ConfigError
from harness.plan.arrivals import MAX_REQUESTS, arrivals
from harness.plan.lengths import Lengths, sample, smallest_total_tokens, spec
from harness.plan.preset import lengths_of
from harness.plan.streams import I64, U64, Purpose, at, key, raw, uniform
from harness.records import Load, Plan, PlannedRequest

_REDRAWS = 4_000  # a workload of which 1 % fits leaves a row unplaced once in 10^17
_POOL_SAMPLE = 4_096
_POOL_REQUEST_S, _POOL_TOKEN_S = 0.005, 0.0005
_POOL_MAX = 1_000_000
_NULL = -(2**63)
_MEASURED = (Purpose.LENGTHS, Purpose.REDRAWS)
_WARMUP = (Purpose.WARMUP_LENGTHS, Purpose.WARMUP_REDRAWS)


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Lengths as drawn; `redrawn` rows were above the limit at first, the means are those before any redraw."""

    prompt: I64
    output: I64
    redrawn: int
    prompt_mean: float
    output_mean: float


def _too_long(limit: int, total: float, word: str) -> ConfigError:
    value = f"context limit {limit} tokens; {word} prompt + output of the workload: {total:.0f} tokens"
    advice = "raise context_limit_tokens (and the server's maximum length), or choose a shorter workload"
    return ConfigError("the context limit leaves almost nothing of the workload", value, advice)


def _lengths(lengths: Lengths, seed: int, count: int, limit: int | None, purposes: tuple[Purpose, Purpose]) -> _Drawn:
    """Row i depends on seed, i and limit only, not on how many rows are drawn. Raises ConfigError."""
    u = uniform(raw(seed, purposes[0], 2 * count))
    prompt, output = sample(lengths, u[0::2], u[1::2])
    means = (float(prompt.mean()), float(output.mean())) if count else (0.0, 0.0)
    if limit is None:
        return _Drawn(prompt, output, 0, *means)
    if smallest_total_tokens(lengths) > limit:
        raise _too_long(limit, smallest_total_tokens(lengths), "least")
    pending = np.flatnonzero(prompt + output > limit)
    redrawn, base = len(pending), np.full(1, key(seed, purposes[1]), np.uint64)
    for attempt in range(_REDRAWS):
        if not len(pending) or (attempt == 20 and len(pending) > 0.82 * count):  # 0.99 ** 20: under about 1 % fits
            break
        start = at(base, np.full(1, attempt, np.uint64))
        counters = pending.astype(np.uint64) * np.uint64(2)
        p, o = sample(lengths, uniform(at(start, counters)), uniform(at(start, counters + np.uint64(1))))
        prompt[pending], output[pending] = p, o
        pending = pending[p + o > limit]
    if len(pending):
        raise _too_long(limit, sum(means), "mean")
    return _Drawn(prompt, output, redrawn, *means)


def _limit_note(drawn: _Drawn, limit: int) -> str:
    share = drawn.redrawn / len(drawn.prompt)
    return (
        f"context limit {limit} tokens: {drawn.redrawn:,} of {len(drawn.prompt):,} requests ({share:.1%}) were redrawn because "
        f"prompt + output was above it; mean prompt {drawn.prompt_mean:.1f} -> {drawn.prompt.mean():.1f} tokens, "
        f"mean output {drawn.output_mean:.1f} -> {drawn.output.mean():.1f} tokens"
    )


def _pool(lengths: Lengths, slots: int, seed: int, duration_s: float, limit: int | None) -> tuple[int, str]:
    """Requests to draw for a closed loop of given duration: no slot is expected to finish a request in less than 5 ms
    + 0.5 ms for each output token (2,000 tokens/s in one stream), on the mean output of the first 4,096 rows."""
    output = _lengths(lengths, seed, _POOL_SAMPLE, limit, _MEASURED).output
    request_s = _POOL_REQUEST_S + _POOL_TOKEN_S * int(output.sum()) / _POOL_SAMPLE
    wanted = slots * (1 + math.ceil(duration_s / request_s))
    count = min(wanted, max(_POOL_MAX, slots))
    held = f", held to that where the rule asks for {wanted:,}" if count < wanted else ""
    return count, (
        f"closed loop for {duration_s:g} s: a pool of {count:,} requests was drawn{held} (every slot finishing one in "
        f"{request_s * 1e3:.1f} ms); not all need be sent, and a run that uses them up ends early"
    )


def _prompt_seeds(seed: int, seqs: I64) -> I64:
    """Distinct for distinct seq: a Weyl sequence with an odd step modulo 2^63."""
    words: U64 = np.uint64(key(seed, Purpose.PROMPTS)) + seqs.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (words & np.uint64(2**63 - 1)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Rows:
    """Columns of planned requests; scheduled_ns None in a closed loop."""

    seq: I64
    scheduled_ns: I64 | None
    prompt: I64
    output: I64
    prompt_seed: I64

    def requests(self) -> tuple[PlannedRequest, ...]:
        null = [None] * len(self.seq)
        offsets = null if self.scheduled_ns is None else self.scheduled_ns.tolist()
        columns = (
            self.seq.tolist(),
            offsets,
            self.prompt.tolist(),
            self.output.tolist(),
            null,
            self.prompt_seed.tolist(),
        )
        return tuple(map(PlannedRequest, *columns))

    def canonical(self) -> bytes:
        """Row count, then seq, scheduled_ns, prompt, output, session_id, prompt_seed of each row; 8 bytes each,
        little-endian, null as -2^63."""
        null = np.full(len(self.seq), _NULL, np.int64)
        offsets = null if self.scheduled_ns is None else self.scheduled_ns
        table = np.column_stack((self.seq, offsets, self.prompt, self.output, null, self.prompt_seed))
        return len(self.seq).to_bytes(8, "little") + table.astype("<i8").tobytes()


def _digest(lengths: Lengths, seed: int, load: Load, tables: tuple[_Rows, _Rows]) -> str:
    header: dict[str, Any] = {"format": 1, "workload": spec(lengths), "seed": seed, "load": asdict(load)}
    digest = hashlib.sha256(json.dumps(header, sort_keys=True, separators=(",", ":")).encode() + b"\n")
    for rows in tables:
        digest.update(rows.canonical())
    return digest.hexdigest()


def _check(load: Load, requests: int | None, duration_s: float | None, seed: int, warmup_requests: int) -> None:
    if (load.concurrency is None) == (load.rate_rps is None):
        raise ConfigError("a load is either closed or open", repr(load), "give exactly one of concurrency and rate")
    if (load.concurrency is not None and load.concurrency < 1) or (
        load.rate_rps is not None and not 0 < load.rate_rps < math.inf
    ):
        raise ConfigError("load out of range", repr(load), "concurrency must be at least 1, a rate above 0")
    if (requests is None) == (duration_s is None):
        given = f"requests {requests}, duration {duration_s}"
        raise ConfigError(
            "a plan ends after a number of requests or a time", given, "give exactly one of requests and duration"
        )
    if (requests is not None and not 1 <= requests <= MAX_REQUESTS) or (
        duration_s is not None and not 0 < duration_s < math.inf
    ):
        given = f"requests {requests}, duration {duration_s}"
        raise ConfigError("plan size out of range", given, f"1 to {MAX_REQUESTS:,} requests, or a duration above 0 s")
    if not 0 <= seed < 2**63 or not 0 <= warmup_requests <= MAX_REQUESTS:
        given = f"seed {seed}, warm-up {warmup_requests}"
        raise ConfigError("seed or warm-up out of range", given, "seed: 0 to 2^63 - 1; warm-up: 0 or more requests")


def draw(
    workload: str,
    load: Load,
    *,
    requests: int | None,
    duration_s: float | None,
    seed: int,
    warmup_requests: int,
    context_limit_tokens: int | None,
) -> tuple[Plan, tuple[str, ...]]:
    """Draw a plan, and sentences for the manifest about what the draw had to do.

    `workload`: a short form (`fixed:128x32`, `uniform:64-256x16-64`, `lognormal:512x128:0.8`), a preset's name, or the
    path of a preset file. Exactly one of `requests` and `duration_s`: an open loop takes every arrival before
    `duration_s`; a closed loop gets a pool (rule in `_pool`), not all of which need be sent. A request whose prompt +
    output is above `context_limit_tokens` is drawn again.
    Each of lengths, arrivals, prompts and warm-up has its own stream of the seed: another rate leaves the lengths as they
    are, and a longer plan begins with the shorter one. Raises ConfigError.
    """
    _check(load, requests, duration_s, seed, warmup_requests)
    lengths = lengths_of(workload)
    notes: list[str] = []
    offsets: I64 | None = None
    if load.rate_rps is not None:
        offsets = arrivals(load.arrivals, load.rate_rps, seed, requests, duration_s)
        count = len(offsets)
    elif requests is not None:
        count = requests
    else:
        count, note = _pool(lengths, load.concurrency or 0, seed, duration_s or 0, context_limit_tokens)
        notes.append(note)
    drawn = _lengths(lengths, seed, count, context_limit_tokens, _MEASURED)
    if drawn.redrawn and context_limit_tokens is not None:
        notes.append(_limit_note(drawn, context_limit_tokens))
    warm = _lengths(lengths, seed, warmup_requests, context_limit_tokens, _WARMUP)
    seqs, warm_seqs = np.arange(count, dtype=np.int64), -1 - np.arange(warmup_requests, dtype=np.int64)
    measured = _Rows(seqs, offsets, drawn.prompt, drawn.output, _prompt_seeds(seed, seqs))
    warmup = _Rows(warm_seqs, None, warm.prompt, warm.output, _prompt_seeds(seed, warm_seqs))
    sha256 = _digest(lengths, seed, load, (measured, warmup))
    return Plan(measured.requests(), warmup.requests(), load, workload, seed, sha256), tuple(notes)
