"""What a plan is drawn from: lengths, a trace, or sessions, each with its arrivals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import Process, arrivals
from harness.measure.plan.burstiness import burstiness
from harness.measure.plan.drafts import MEASURED, WARMUP, Draft, in_sessions, of_lengths, of_trace, sample_of_trace
from harness.measure.plan.lengths import Lengths, spec
from harness.measure.plan.prefixes import reuse
from harness.measure.plan.preset import Preset, SessionSpec
from harness.measure.plan.rows import NULL
from harness.measure.plan.sessions import of_sessions, session_values
from harness.measure.plan.streams import I64, Purpose
from harness.measure.plan.trace import Trace, refuse_gaps, spread_ticks
from harness.measure.plan.workload import Workload
from harness.records import Load

_POOL_SAMPLE = 4_096
_POOL_REQUEST_S, _POOL_TOKEN_S = 0.005, 0.0005
_POOL_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Asked:
    """The words of `draw`, with the arrival process that an open loop's word means (None: closed loop)."""

    workload: Workload
    load: Load
    process: Process | None
    requests: int | None
    duration_s: float | None
    seed: int
    warmup_requests: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class Drawn:
    measured: Draft
    warmup: Draft
    scheduled_ns: I64 | None
    rate_rps: float | None
    values: Mapping[str, Any]  # what was drawn from, for the digest
    notes: tuple[str, ...]


def _rate(asked: Asked) -> float | None:
    """Requests/s that are asked for; None for a batch and for a trace at its own times. Raises ConfigError."""
    rate = asked.load.rate_rps
    if rate is None and asked.load.arrivals == "preset":
        rate = asked.workload.own_rate_rps()
    if rate is None and asked.process is not None and asked.process.kind not in ("batch", "trace"):
        raise ConfigError(
            "the arrivals need a rate", asked.load.arrivals, "the preset's source gives none: add --rate R"
        )
    return rate


def _drawn_times(asked: Asked, count: int | None) -> tuple[I64 | None, float | None]:
    """(scheduled_ns, rate) of an open loop; None in a closed one. `count`: how many, else the asked requests or duration."""
    if asked.process is None:
        return None, None
    rate = _rate(asked)
    if asked.process.kind == "batch" and asked.load.rate_rps is not None:
        raise ConfigError("a batch has no rate", f"{asked.load.rate_rps:g}/s", "all is sent at once: leave --rate out")
    wanted = asked.requests if count is None else count
    return arrivals(asked.process, rate or 1.0, asked.seed, wanted, asked.duration_s if count is None else None), rate


def from_lengths(asked: Asked, lengths: Lengths, preset: Preset | None) -> Drawn:
    notes = () if asked.workload.histograms is None else asked.workload.histograms.notes
    scheduled, rate = _drawn_times(asked, None)
    if scheduled is not None:
        count = len(scheduled)
    elif asked.requests is not None:
        count = asked.requests
    else:
        count, note = _pool(lengths, asked.load.concurrency or 0, asked.seed, asked.duration_s or 0, asked.limit)
        notes = (*notes, note)
    measured = of_lengths(lengths, asked.seed, count, asked.limit, MEASURED)
    warmup = of_lengths(lengths, asked.seed, asked.warmup_requests, asked.limit, WARMUP)
    if preset is not None and preset.prefix is not None and measured.rank is not None:
        _no_system_prompt(asked)
        measured = replace(measured, pairs=reuse(preset.prefix, measured.prompt, measured.rank, asked.seed))
        target = preset.prefix.token_hit_ratio_unlimited_cache
        notes = (
            *notes,
            f"prefix reuse: the preset's source has a token hit ratio of {target:.1%} (cache without limits)",
        )
    return Drawn(measured, warmup, scheduled, rate, spec(lengths), notes)


def _pool(lengths: Lengths, slots: int, seed: int, duration_s: float, limit: int | None) -> tuple[int, str]:
    """Requests to draw for a closed loop of given duration: no slot is expected to finish a request in less than 5 ms
    + 0.5 ms for each output token (2,000 tokens/s in one stream), on the mean output of the first 4,096 rows."""
    output = of_lengths(lengths, seed, _POOL_SAMPLE, limit, MEASURED).output
    request_s = _POOL_REQUEST_S + _POOL_TOKEN_S * int(output.sum()) / _POOL_SAMPLE
    wanted = slots * (1 + math.ceil(duration_s / request_s))
    count = min(wanted, max(_POOL_MAX, slots))
    held = f", held to that where the rule asks for {wanted:,}" if count < wanted else ""
    return count, (
        f"closed loop for {duration_s:g} s: a pool of {count:,} requests was drawn{held} (every slot finishing one in "
        f"{request_s * 1e3:.1f} ms); not all need be sent, and a run that uses them up ends early"
    )


def reading(asked: Asked) -> dict[str, Any]:
    """Arguments of read_trace: no more of the file is read than the plan needs."""
    options, wanted = asked.workload.options, asked.requests
    if asked.process is not None and asked.duration_s is not None:
        if asked.process.kind != "trace":
            drawn, _ = _drawn_times(asked, None)
            wanted = None if drawn is None else len(drawn)
        elif asked.load.rate_rps is None:
            end_s = (options.from_s or 0) + asked.duration_s * asked.process.numbers[0]
            options = replace(options, to_s=end_s if options.to_s is None else min(end_s, options.to_s))
    return {"options": options, "seed": asked.seed, "wanted": wanted, "context_limit_tokens": asked.limit}


def from_trace(asked: Asked, trace: Trace) -> Drawn:
    values = {"kind": "trace", "format": trace.layout.name}
    warmup = sample_of_trace(trace, asked.seed, asked.warmup_requests)
    measured = of_trace(trace)
    if trace.pairs is not None:
        _no_system_prompt(asked)
    if trace.layout.kind == "weka" and (asked.process is None or asked.process.kind != "trace"):
        if asked.process is not None:
            advice = "replay the recorded times: --arrivals trace[:SPEEDUP]"
            raise ConfigError("a session trace has its own order", asked.load.arrivals, advice)
        return Drawn(in_sessions(trace), warmup, None, None, values, (_SESSION_NOTE,))
    if asked.process is None or asked.process.kind != "trace":
        notes: tuple[str, ...] = (f"trace: {len(trace.prompt):,} rows offered in the file's order, its times not used",)
        scheduled, rate = _drawn_times(asked, len(trace.prompt))
        return Drawn(measured, warmup, scheduled, rate, values, notes)
    scheduled, rate, notes = _recorded_times(asked, trace, asked.process)
    if len(scheduled) < len(trace.prompt):
        measured = _first(measured, len(scheduled))
    return Drawn(measured, warmup, scheduled, rate, values, notes)


def _recorded_times(asked: Asked, trace: Trace, process: Process) -> tuple[I64, float | None, tuple[str, ...]]:
    """The trace's own times, sped up or brought to a mean rate, up to the duration."""
    times, notes = spread_ticks(trace, asked.seed)
    speedup, rate = process.numbers[0], asked.load.rate_rps
    span_ns = int(times[-1] - times[0])
    if rate is not None:
        if speedup != 1 or span_ns <= 0:
            what = f"rate {rate:g}/s and {asked.load.arrivals}, {span_ns / 1e9:g} s recorded"
            raise ConfigError(
                "the trace cannot be brought to a rate", what, "give a rate or a speed-up, and rows of different times"
            )
        speedup = rate / ((len(times) - 1) * 1e9 / span_ns)
    if speedup != 1:
        times = np.rint(times / speedup).astype(np.int64)
        notes = (
            *notes,
            f"trace: recorded times divided by {speedup:.6g}",
        )
    if asked.duration_s is not None:
        times = times[times < asked.duration_s * 1e9]
        if not len(times):
            raise ConfigError(
                "no request would be sent", f"{asked.duration_s:g} s of the trace", "choose a longer duration"
            )
    refuse_gaps(times, trace.line, asked.workload.options)
    if trace.layout.kind == "weka":
        notes = (
            *notes,
            "sessions: replayed open loop at their recorded times, all beginning together; no reply is awaited",
        )
    return times, rate or burstiness(times).mean_rate_rps or 1.0, notes


def _first(draft: Draft, count: int) -> Draft:
    session = None if draft.session is None else draft.session[:count]
    pairs = None if draft.pairs is None else draft.pairs[:count]
    return replace(draft, prompt=draft.prompt[:count], output=draft.output[:count], session=session, pairs=pairs)


_SESSION_NOTE = (
    "sessions: closed loop; in a closed loop a slot takes a whole session, with arrivals each is the start of a session, and a "
    "later call goes out think_ns after the reply to after_seq"
)


def from_sessions(asked: Asked, sessions: SessionSpec) -> Drawn:
    """The arrivals are those of sessions. Raises ConfigError."""
    if asked.process is not None and asked.process.kind == "trace":
        raise ConfigError("the arrivals need a trace", asked.load.arrivals, "give a trace file as the workload")
    if asked.requests is None:
        what = f"duration {asked.duration_s} s"
        raise ConfigError("how many calls fit a time depends on the server", what, "give requests")
    measured = of_sessions(sessions, asked.seed, asked.requests, asked.limit, Purpose.SESSIONS)
    warm = of_sessions(sessions, asked.seed, max(asked.warmup_requests, 1), asked.limit, Purpose.WARMUP_LENGTHS)
    warmup = Draft(warm.prompt[: asked.warmup_requests], warm.output[: asked.warmup_requests])
    if measured.pairs is not None:
        _no_system_prompt(asked)
    scheduled: I64 | None = None
    rate = None
    if asked.process is not None and measured.after is not None:
        first = np.flatnonzero(measured.after == NULL)
        starts, rate = _drawn_times(asked, len(first))
        scheduled = np.full(len(measured.prompt), NULL)
        if starts is not None:
            scheduled[first] = starts
    return Drawn(measured, warmup, scheduled, rate, session_values(sessions), (_SESSION_NOTE,))


def _no_system_prompt(asked: Asked) -> None:
    if asked.workload.options.system:
        raise ConfigError(
            "a shared system prompt and shared prefixes exclude each other", asked.workload.text, "leave `system` out"
        )
