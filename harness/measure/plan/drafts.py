"""What a plan's rows are before they have seeds and times: drawn from lengths, or from a trace."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.lengths import Lengths, sample, smallest_total_tokens
from harness.measure.plan.prefixes import Pairs
from harness.measure.plan.rows import NULL
from harness.measure.plan.streams import F64, I64, Purpose, at, key, raw, uniform
from harness.measure.plan.traces.reading import Trace

REDRAWS = 4_000  # a workload of which 1 % fits leaves a row unplaced once in 10^17
MEASURED = (Purpose.LENGTHS, Purpose.REDRAWS)
WARMUP = (Purpose.WARMUP_LENGTHS, Purpose.WARMUP_REDRAWS)


@dataclass(frozen=True, slots=True)
class Draft:
    """Rows without seeds. `stream`: the row whose seed the row's own tokens come from, itself for None. `after`: the row
    whose reply is awaited, NULL for none. `rank`: the prompt's rank, where it was drawn."""

    prompt: I64
    output: I64
    session: I64 | None = None
    pairs: list[Pairs] | None = None
    stream: I64 | None = None
    after: I64 | None = None
    think_ns: I64 | None = None
    rank: F64 | None = None
    notes: tuple[str, ...] = field(default=())


def too_long(limit: int, total: float, word: str) -> ConfigError:
    value = f"context limit {limit} tokens; {word} prompt + output of the workload: {total:.0f} tokens"
    advice = "raise context_limit_tokens (and the server's maximum length), or choose a shorter workload"
    return ConfigError("the context limit leaves almost nothing of the workload", value, advice)


def of_lengths(lengths: Lengths, seed: int, count: int, limit: int | None, purposes: tuple[Purpose, Purpose]) -> Draft:
    """Row i depends on seed, i and limit only, not on how many rows are drawn. Raises ConfigError."""
    u = uniform(raw(seed, purposes[0], 2 * count))
    rank = u[0::2].copy()
    prompt, output = sample(lengths, rank, u[1::2])
    if limit is None or not count:
        return Draft(prompt, output, rank=rank)
    means = float(prompt.mean()), float(output.mean())
    if smallest_total_tokens(lengths) > limit:
        raise too_long(limit, smallest_total_tokens(lengths), "least")
    pending = np.flatnonzero(prompt + output > limit)
    redrawn, base = len(pending), np.full(1, key(seed, purposes[1]), np.uint64)
    for attempt in range(REDRAWS):
        if not len(pending) or (attempt == 20 and len(pending) > 0.82 * count):  # 0.99 ** 20: under about 1 % fits
            break
        start = at(base, np.full(1, attempt, np.uint64))
        counters = pending.astype(np.uint64) * np.uint64(2)
        again = uniform(at(start, counters))
        p, o = sample(lengths, again, uniform(at(start, counters + np.uint64(1))))
        prompt[pending], output[pending], rank[pending] = p, o, again
        pending = pending[p + o > limit]
    if len(pending):
        raise too_long(limit, sum(means), "mean")
    notes = (_limit_note(prompt, output, redrawn, means, limit),) if redrawn else ()
    return Draft(prompt, output, rank=rank, notes=notes)


def _limit_note(prompt: I64, output: I64, redrawn: int, means: tuple[float, float], limit: int) -> str:
    return (
        f"context limit {limit} tokens: {redrawn:,} of {len(prompt):,} requests ({redrawn / len(prompt):.1%}) were redrawn because "
        f"prompt + output was above it; mean prompt {means[0]:.1f} -> {prompt.mean():.1f} tokens, "
        f"mean output {means[1]:.1f} -> {output.mean():.1f} tokens"
    )


def of_trace(trace: Trace) -> Draft:
    return Draft(trace.prompt, trace.output, trace.session, trace.pairs, notes=trace.notes)


def in_sessions(trace: Trace) -> Draft:
    """A session trace in closed loop: session after session, each call after the one before it."""
    session = trace.session if trace.session is not None else np.arange(len(trace.prompt))
    order = np.argsort(session, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    moved = place.tolist()
    pairs = None
    if trace.pairs is not None:
        rows = (trace.pairs[i] for i in order.tolist())
        pairs = [tuple(n if k % 2 else moved[n] for k, n in enumerate(row)) for row in rows]
    sorted_session = session[order]
    first = np.append(True, np.diff(sorted_session) != 0)
    after = np.where(first, NULL, np.arange(len(order)) - 1)
    think = trace.think_ns[order] if trace.think_ns is not None else np.zeros(len(order), np.int64)
    think = np.where(first, NULL, np.maximum(think, 0))
    return Draft(trace.prompt[order], trace.output[order], sorted_session, pairs, None, after, think, notes=trace.notes)


def sample_of_trace(trace: Trace, seed: int, count: int) -> Draft:
    """Warm-up: lengths of rows of the trace chosen at random, prompts of their own."""
    chosen = np.floor(uniform(raw(seed, Purpose.WARMUP_TRACE, count)) * len(trace.prompt)).astype(np.int64)
    return Draft(trace.prompt[chosen], trace.output[chosen])
