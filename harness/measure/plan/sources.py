"""What a plan is drawn from: lengths, a trace, or sessions, each with its arrivals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import Process, arrivals, burstiness
from harness.measure.plan.drafts import MEASURED, WARMUP, Draft, in_sessions, of_lengths, of_trace, sample_of_trace
from harness.measure.plan.lengths import Lengths, spec
from harness.measure.plan.prefixes import reuse
from harness.measure.plan.preset import Preset, SessionSpec
from harness.measure.plan.rows import NULL
from harness.measure.plan.sessions import of_sessions, session_values
from harness.measure.plan.streams import I64, Purpose
from harness.measure.plan.traces.reading import Trace, refuse_gaps, spread_ticks
from harness.measure.plan.workload import Workload
from harness.records import Load

_POOL_SAMPLE = 4_096
_POOL_REQUEST_S, _POOL_TOKEN_S = 0.005, 0.0005
_POOL_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Terms:
    """What `draw` was asked for, with the arrival process that an open loop's word means (None: closed loop)."""

    workload: Workload
    load: Load
    process: Process | None
    requests: int | None
    duration_s: float | None
    seed: int
    warmup_requests: int
    limit: int | None


@dataclass(frozen=True, slots=True)
class PlanDraft:
    """A plan without seeds: both drafts, and the times of the measured one."""

    measured: Draft
    warmup: Draft
    scheduled_ns: I64 | None
    rate_rps: float | None
    values: Mapping[str, Any]  # what was drawn from, for the digest
    notes: tuple[str, ...]


def _rate(terms: Terms) -> float | None:
    """Requests/s that are asked for; None for a batch and for a trace at its own times. Raises ConfigError."""
    rate = terms.load.rate_rps
    if rate is None and terms.load.arrivals == "preset":
        rate = terms.workload.own_rate_rps()
    if rate is None and terms.process is not None and terms.process.kind not in ("batch", "trace"):
        raise ConfigError(
            "the arrivals need a rate", terms.load.arrivals, "the preset's source gives none: add --rate R"
        )
    return rate


def _times(terms: Terms, count: int | None) -> tuple[I64 | None, float | None]:
    """(scheduled_ns, rate) of an open loop; None in a closed one. `count`: how many, else the asked requests or duration."""
    if terms.process is None:
        return None, None
    rate = _rate(terms)
    if terms.process.kind == "batch" and terms.load.rate_rps is not None:
        raise ConfigError("a batch has no rate", f"{terms.load.rate_rps:g}/s", "all is sent at once: leave --rate out")
    wanted = terms.requests if count is None else count
    return arrivals(terms.process, rate or 1.0, terms.seed, wanted, terms.duration_s if count is None else None), rate


def from_lengths(terms: Terms, lengths: Lengths, preset: Preset | None) -> PlanDraft:
    notes = () if terms.workload.histograms is None else terms.workload.histograms.notes
    scheduled, rate = _times(terms, None)
    if scheduled is not None:
        count = len(scheduled)
    elif terms.requests is not None:
        count = terms.requests
    else:
        count, note = _pool(lengths, terms.load.concurrency or 0, terms.seed, terms.duration_s or 0, terms.limit)
        notes = (*notes, note)
    measured = of_lengths(lengths, terms.seed, count, terms.limit, MEASURED)
    warmup = of_lengths(lengths, terms.seed, terms.warmup_requests, terms.limit, WARMUP)
    if preset is not None and preset.prefix is not None and measured.rank is not None:
        _no_system_prompt(terms)
        measured = replace(measured, pairs=reuse(preset.prefix, measured.prompt, measured.rank, terms.seed))
        target = preset.prefix.token_hit_ratio_unlimited_cache
        notes = (
            *notes,
            f"prefix reuse: the preset's source has a token hit ratio of {target:.1%} (cache without limits)",
        )
    return PlanDraft(measured, warmup, scheduled, rate, spec(lengths), notes)


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


def reading(terms: Terms) -> dict[str, Any]:
    """Arguments of read_trace: no more of the file is read than the plan needs."""
    options, wanted = terms.workload.options, terms.requests
    if terms.process is not None and terms.duration_s is not None:
        if terms.process.kind != "trace":
            times, _ = _times(terms, None)
            wanted = None if times is None else len(times)
        elif terms.load.rate_rps is None:
            end_s = (options.from_s or 0) + terms.duration_s * terms.process.numbers[0]
            options = replace(options, to_s=end_s if options.to_s is None else min(end_s, options.to_s))
    return {"options": options, "seed": terms.seed, "wanted": wanted, "context_limit_tokens": terms.limit}


def from_trace(terms: Terms, trace: Trace) -> PlanDraft:
    values = {"kind": "trace", "format": trace.layout.name}
    warmup = sample_of_trace(trace, terms.seed, terms.warmup_requests)
    measured = of_trace(trace)
    if trace.pairs is not None:
        _no_system_prompt(terms)
    if trace.layout.kind == "weka" and (terms.process is None or terms.process.kind != "trace"):
        if terms.process is not None:
            advice = "replay the recorded times: --arrivals trace[:SPEEDUP]"
            raise ConfigError("a session trace has its own order", terms.load.arrivals, advice)
        return PlanDraft(in_sessions(trace), warmup, None, None, values, (_SESSION_NOTE,))
    if terms.process is None or terms.process.kind != "trace":
        notes: tuple[str, ...] = (f"trace: {len(trace.prompt):,} rows offered in the file's order, its times not used",)
        scheduled, rate = _times(terms, len(trace.prompt))
        return PlanDraft(measured, warmup, scheduled, rate, values, notes)
    scheduled, rate, notes = _recorded_times(terms, trace, terms.process)
    if len(scheduled) < len(trace.prompt):
        measured = _first(measured, len(scheduled))
    return PlanDraft(measured, warmup, scheduled, rate, values, notes)


def _recorded_times(terms: Terms, trace: Trace, process: Process) -> tuple[I64, float | None, tuple[str, ...]]:
    """The trace's own times, sped up or brought to a mean rate, up to the duration."""
    times, notes = spread_ticks(trace, terms.seed)
    speedup, rate = process.numbers[0], terms.load.rate_rps
    span_ns = int(times[-1] - times[0])
    if rate is not None:
        if speedup != 1 or span_ns <= 0:
            what = f"rate {rate:g}/s and {terms.load.arrivals}, {span_ns / 1e9:g} s recorded"
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
    if terms.duration_s is not None:
        times = times[times < terms.duration_s * 1e9]
        if not len(times):
            raise ConfigError(
                "no request would be sent", f"{terms.duration_s:g} s of the trace", "choose a longer duration"
            )
    refuse_gaps(times, trace.line, terms.workload.options)
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


def from_sessions(terms: Terms, sessions: SessionSpec) -> PlanDraft:
    """The arrivals are those of sessions. Raises ConfigError."""
    if terms.process is not None and terms.process.kind == "trace":
        raise ConfigError("the arrivals need a trace", terms.load.arrivals, "give a trace file as the workload")
    if terms.requests is None:
        what = f"duration {terms.duration_s} s"
        raise ConfigError("how many calls fit a time depends on the server", what, "give requests")
    measured = of_sessions(sessions, terms.seed, terms.requests, terms.limit, Purpose.SESSIONS)
    warm = of_sessions(sessions, terms.seed, max(terms.warmup_requests, 1), terms.limit, Purpose.WARMUP_LENGTHS)
    warmup = Draft(warm.prompt[: terms.warmup_requests], warm.output[: terms.warmup_requests])
    if measured.pairs is not None:
        _no_system_prompt(terms)
    scheduled: I64 | None = None
    rate = None
    if terms.process is not None and measured.after is not None:
        first = np.flatnonzero(measured.after == NULL)
        starts, rate = _times(terms, len(first))
        scheduled = np.full(len(measured.prompt), NULL)
        if starts is not None:
            scheduled[first] = starts
    return PlanDraft(measured, warmup, scheduled, rate, session_values(sessions), (_SESSION_NOTE,))


def _no_system_prompt(terms: Terms) -> None:
    if terms.workload.options.system:
        raise ConfigError(
            "a shared system prompt and shared prefixes exclude each other", terms.workload.text, "leave `system` out"
        )
