"""Workload, load and seed -> Plan."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import MAX_REQUESTS, Process, burstiness, parse
from harness.measure.plan.drafts import Draft
from harness.measure.plan.prefixes import Pairs, hit_ratio
from harness.measure.plan.rows import NULL, Rows, digest, prompt_seeds
from harness.measure.plan.sources import PlanDraft, Terms, from_lengths, from_sessions, from_trace, reading
from harness.measure.plan.streams import I64, Purpose, key
from harness.measure.plan.traces.reading import read_trace
from harness.measure.plan.workload import Workload, read_workload
from harness.records import Load, Plan

_SERVER_BLOCK_TOKENS = 16  # vLLM's default block
_RATIO_ROWS = 200_000  # the note's hit ratio is that of so many requests: it is for people
_OWN_TIMES = ("batch", "preset", "trace")


def draw(
    workload: str,
    load: Load,
    *,
    requests: int | None,
    duration_s: float | None,
    seed: int,
    warmup_requests: int,
    context_limit_tokens: int | None,
    salt: int = 0,
) -> tuple[Plan, tuple[str, ...]]:
    """Draw a plan, and sentences for the manifest about what the draw had to do.

    `workload`: a short form (`fixed:128x32`, `uniform:64-256x16-64`, `lognormal:512x128:0.8`), a preset's name, the path
    of a preset file or of a trace, each with options after a `?` (workload.Options). Exactly one of `requests` and
    `duration_s` (neither: a whole trace at its own times): an open loop takes every arrival before `duration_s`; a closed
    loop gets a pool (rule in sources._pool), not all of which need be sent. A request whose prompt + output is above
    `context_limit_tokens` is drawn again; in a trace it is dropped or its prompt cut.
    The plan's load holds the mean rate where the arrivals brought their own times. Each of lengths, arrivals, prompts and
    warm-up has its own stream of the seed: another rate leaves the lengths as they are, and a longer plan begins with the
    shorter one. `salt`: all prompts have other words for each value; lengths, arrivals, what prompts share and `sha256` are those of 0. Raises ConfigError.
    """
    _check(load, requests, duration_s, seed, warmup_requests)
    source = read_workload(workload)
    process = None if load.is_closed else _process(source, load)
    terms = Terms(source, load, process, requests, duration_s, seed, warmup_requests, context_limit_tokens)
    if source.trace is not None:
        draft = from_trace(terms, read_trace(source.trace, **reading(terms)))
    elif source.preset is not None and source.preset.sessions is not None:
        draft = from_sessions(terms, source.preset.sessions)
    elif source.lengths is not None:
        draft = from_lengths(terms, source.lengths, source.preset)
    else:
        raise ConfigError("workload holds nothing to draw from", workload, "give it a shape, tables or sessions")
    rate = load.rate_rps if load.rate_rps is not None else draft.rate_rps
    plan = _plan(terms, draft, replace(load, rate_rps=rate), salt)
    return plan, (*draft.measured.notes, *draft.notes, *_remarks(plan, draft))


def _process(workload: Workload, load: Load) -> Process:
    if load.arrivals != "preset":
        return parse(load.arrivals)
    own = workload.own_process()
    if own is None:
        raise ConfigError(
            "only a preset has arrivals of its own", load.arrivals, "use poisson, constant, gamma:SHAPE, .."
        )
    return own


# ---------------------------------------------------------------- rows, notes, checks


def _plan(terms: Terms, draft: PlanDraft, load: Load, salt: int) -> Plan:
    count = len(draft.measured.prompt)
    seqs, warm_seqs = np.arange(count), -1 - np.arange(terms.warmup_requests)
    measured = _rows(terms, draft.measured, seqs, draft.scheduled_ns)
    warmup = _rows(terms, draft.warmup, warm_seqs, None)
    sha256 = digest(draft.values, terms.seed, load, (measured, warmup))
    rows = (measured.salted(salt).requests(), warmup.salted(salt).requests())
    return Plan(*rows, load, terms.workload.text, terms.seed, sha256, salt)


def _rows(terms: Terms, draft: Draft, seqs: I64, scheduled_ns: I64 | None) -> Rows:
    own = prompt_seeds(terms.seed, seqs)
    seeds = own if draft.stream is None else own[draft.stream]
    prefix: list[Pairs] | None = None
    if draft.pairs is not None:
        prefix = _with_seeds(draft.pairs, own.tolist())
    elif system := terms.workload.options.system:
        # warm-up gets another one: the measured system prompt must be new to the server, as in a first minute
        other = 0 if not len(seqs) or seqs[0] >= 0 else 1
        seed = (key(terms.seed, Purpose.SYSTEM_PROMPT) + other) & (2**63 - 1)
        prefix = [(seed, min(system, length)) for length in draft.prompt.tolist()]
    think_ns, factor = draft.think_ns, terms.workload.options.think
    if think_ns is not None and factor != 1:
        none = think_ns == NULL
        think_ns = np.where(none, NULL, np.rint(np.where(none, 0, think_ns) * factor).astype(np.int64))
    return Rows(
        seqs, scheduled_ns, draft.prompt, draft.output, seeds, draft.session, prefix, draft.after, think_ns
    )  # fmt: skip


def _with_seeds(pairs: list[Pairs], seeds: list[int]) -> list[Pairs]:
    """Rows become seeds, in the list itself: two lists for a million requests are hundreds of megabytes."""
    for i, one in enumerate(pairs):
        if one:
            pairs[i] = tuple([n if k % 2 else seeds[n] for k, n in enumerate(one)])
    return pairs


def _remarks(plan: Plan, draft: PlanDraft) -> list[str]:
    notes = []
    if draft.scheduled_ns is not None:
        sent = draft.scheduled_ns[draft.scheduled_ns != NULL]
        what = "sessions" if draft.measured.after is not None else "arrivals"
        words = burstiness(sent).words() if sent[-1] > sent[0] else f"{len(sent):,} at once"
        notes.append(f"planned {what} ({plan.load.arrivals}): {words}")
    if draft.measured.stream is not None or any(r.prefix for r in plan.requests):
        ratio = hit_ratio(plan.requests[:_RATIO_ROWS], _SERVER_BLOCK_TOKENS)
        part = f"of the first {_RATIO_ROWS:,} requests, " if len(plan.requests) > _RATIO_ROWS else ""
        notes.append(
            f"prefix reuse: {part}{ratio.by_token:.1%} of the prompt tokens stand at the beginning of an earlier prompt; in blocks of "
            f"{ratio.block_tokens} tokens, a cache without limits can serve {ratio.by_block:.1%}"
        )
    return notes


def _check(load: Load, requests: int | None, duration_s: float | None, seed: int, warmup_requests: int) -> None:
    kind = load.arrivals.partition(":")[0]
    timed = not load.is_closed and kind in _OWN_TIMES
    if load.is_closed != (load.rate_rps is None) and not (timed and load.rate_rps is None):
        raise ConfigError("a load is either closed or open", repr(load), "give exactly one of concurrency and rate")
    if (load.concurrency is not None and load.concurrency < 1) or (
        load.rate_rps is not None and not 0 < load.rate_rps < math.inf
    ):
        raise ConfigError("load out of range", repr(load), "concurrency must be at least 1, a rate above 0")
    size = f"requests {requests}, duration {duration_s}"
    if (requests is None) == (duration_s is None) and not (timed and kind == "trace" and requests is None):
        raise ConfigError(
            "a plan ends after a number of requests or a time", size, "give exactly one of requests and duration"
        )
    if (requests is not None and not 1 <= requests <= MAX_REQUESTS) or (
        duration_s is not None and not 0 < duration_s < math.inf
    ):
        raise ConfigError("plan size out of range", size, f"1 to {MAX_REQUESTS:,} requests, or a duration above 0 s")
    if not 0 <= seed < 2**63 or not 0 <= warmup_requests <= MAX_REQUESTS:
        words = f"seed {seed}, warm-up {warmup_requests}"
        raise ConfigError("seed or warm-up out of range", words, "seed: 0 to 2^63 - 1; warm-up: 0 or more requests")
