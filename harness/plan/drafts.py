"""What a plan's rows are before they have seeds and times: drawn from lengths, from a trace, or as sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.errors import ConfigError
from harness.plan.lengths import Lengths, sample, smallest_total_tokens
from harness.plan.prefixes import Pairs
from harness.plan.preset import SessionSpec
from harness.plan.rows import NULL
from harness.plan.streams import F64, I64, U64, Purpose, at, interpolate, key, raw, uniform
from harness.plan.trace import Trace

REDRAWS = 4_000  # a workload of which 1 % fits leaves a row unplaced once in 10^17
MEASURED = (Purpose.LENGTHS, Purpose.REDRAWS)
WARMUP = (Purpose.WARMUP_LENGTHS, Purpose.WARMUP_REDRAWS)
SESSION_DRAWS = 64


@dataclass(frozen=True, slots=True)
class Draft:
    """Rows without seeds. `stream`: the row whose seed the row's own tokens come from, itself for None. `after`: the row
    whose reply is awaited, NULL for none. `times_ns`: recorded times; `rank`: the prompt's rank, where it was drawn."""

    prompt: I64
    output: I64
    session: I64 | None = None
    pairs: list[Pairs] | None = None
    stream: I64 | None = None
    after: I64 | None = None
    think_ns: I64 | None = None
    times_ns: I64 | None = None
    rank: F64 | None = None
    notes: tuple[str, ...] = field(default=())


def _too_long(limit: int, total: float, word: str) -> ConfigError:
    value = f"context limit {limit} tokens; {word} prompt + output of the workload: {total:.0f} tokens"
    advice = "raise context_limit_tokens (and the server's maximum length), or choose a shorter workload"
    return ConfigError("the context limit leaves almost nothing of the workload", value, advice)


def of_lengths(lengths: Lengths, seed: int, count: int, limit: int | None, purposes: tuple[Purpose, Purpose]) -> Draft:
    """Row i depends on seed, i and limit only, not on how many rows are drawn. Raises ConfigError."""
    u = uniform(raw(seed, purposes[0], 2 * count))
    rank = u[0::2].copy()
    prompt, output = sample(lengths, rank, u[1::2])
    if limit is None:
        return Draft(prompt, output, rank=rank)
    means = (float(prompt.mean()), float(output.mean())) if count else (0.0, 0.0)
    if smallest_total_tokens(lengths) > limit:
        raise _too_long(limit, smallest_total_tokens(lengths), "least")
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
        raise _too_long(limit, sum(means), "mean")
    notes = (_limit_note(prompt, output, redrawn, means, limit),) if redrawn else ()
    return Draft(prompt, output, rank=rank, notes=notes)


def _limit_note(prompt: I64, output: I64, redrawn: int, means: tuple[float, float], limit: int) -> str:
    return (
        f"context limit {limit} tokens: {redrawn:,} of {len(prompt):,} requests ({redrawn / len(prompt):.1%}) were redrawn because "
        f"prompt + output was above it; mean prompt {means[0]:.1f} -> {prompt.mean():.1f} tokens, "
        f"mean output {means[1]:.1f} -> {output.mean():.1f} tokens"
    )


def of_trace(trace: Trace) -> Draft:
    return Draft(
        trace.prompt, trace.output, trace.session, trace.pairs, times_ns=trace.time_ns, notes=trace.notes
    )  # fmt: skip


def in_sessions(trace: Trace) -> Draft:
    """A session trace in closed loop: session after session, each call after the one before it."""
    session = trace.session if trace.session is not None else np.arange(len(trace.prompt), dtype=np.int64)
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


# ---------------------------------------------------------------- sessions drawn from quantiles


def session_values(spec: SessionSpec) -> Mapping[str, Any]:
    return {"kind": "sessions", **spec.model_dump(mode="json")}


def of_sessions(spec: SessionSpec, seed: int, requests: int, limit: int | None, purpose: Purpose) -> Draft:
    """The first `requests` calls of sessions 0, 1, ..; session i depends on seed, i and limit only.

    All calls of a session come from one stream, so that each prompt begins with the one before it. A session's calls and
    first prompt are drawn once, at opposite ranks (in a bounded context it is the sessions that begin long that are short;
    independent ranks would leave a fifth of the 128k sessions cut off); its new tokens, outputs and think times up to 64 times, until all its calls fit the
    context; else it ends before the first that does not. Raises ConfigError.
    """
    context = min(spec.context_limit_tokens, limit or spec.context_limit_tokens)
    least = spec.first_prompt_tokens[0] + max(spec.output_tokens[0], 1)
    if least > context:
        raise _too_long(context, least, "least")
    base = np.full(1, key(seed, purpose), np.uint64)
    parts: list[_Calls] = []
    have = done = 0
    calls = sum(spec.calls_per_session) / len(spec.calls_per_session)
    while have < requests:
        number = np.arange(done, done + 64 + min(8192, round((requests - have) / calls)), dtype=np.int64)
        parts.append(_sessions(spec, at(base, number.astype(np.uint64)), number, context))
        have += len(parts[-1].session)
        done += len(number)
        if done > 20_000 and have < done // 1000:
            raise _too_long(context, least, "least")
    joined = (np.concatenate(column)[:requests] for column in zip(*(part.columns() for part in parts), strict=True))
    session, call, prompt, output, think, ended = joined
    first = np.append(True, np.diff(session) != 0)
    row = np.arange(len(prompt), dtype=np.int64)
    kept = session[first]
    note = f"sessions: {len(kept):,}, of which {int(ended[first].sum()):,} end before a call that would not fit {context:,} tokens"
    missing = int(kept[-1]) + 1 - len(kept)
    if missing:
        note += f"; {missing:,} more had no call that fits and are left out"
    return Draft(
        prompt,
        output,
        np.cumsum(first) - 1,
        None,
        np.maximum.accumulate(np.where(first, row, 0)),
        np.where(first, NULL, row - 1),
        np.where(call == 0, NULL, think),
        notes=(note,),
    )


@dataclass(frozen=True, slots=True)
class _Calls:
    """One row a call, session after session. `ended`: 1 where the session ends early."""

    session: I64
    call: I64
    prompt: I64
    output: I64
    think_ns: I64
    ended: I64

    def columns(self) -> tuple[I64, ...]:
        return self.session, self.call, self.prompt, self.output, self.think_ns, self.ended

    def where(self, keep: Any) -> _Calls:
        return _Calls(*(column[keep] for column in self.columns()))


def _sessions(spec: SessionSpec, starts: U64, number: I64, context: int) -> _Calls:
    levels = np.array(spec.quantile_levels)

    def draw(start: U64, counter: U64, values: list[float]) -> F64:
        return interpolate(uniform(at(start, counter)), levels, np.array(values, np.float64))

    zero = np.zeros(len(starts), np.uint64)
    rank = uniform(at(starts, zero))
    calls = np.maximum(np.rint(interpolate(rank, levels, np.array(spec.calls_per_session))), 1).astype(np.int64)
    first_prompt = np.rint(interpolate(1 - rank, levels, np.array(spec.first_prompt_tokens))).astype(np.int64)
    done: list[_Calls] = []
    pending = np.arange(len(starts))
    for attempt in range(SESSION_DRAWS):
        n = calls[pending]
        begin = np.cumsum(n) - n
        call = np.arange(int(n.sum()), dtype=np.int64) - np.repeat(begin, n)
        start = np.repeat(at(starts[pending], zero[pending] + np.uint64(1 + attempt)), n)
        counter = (3 * call).astype(np.uint64)
        new = np.rint(draw(start, counter, spec.new_prompt_tokens_per_later_call)).astype(np.int64)
        output = np.maximum(np.rint(draw(start, counter + np.uint64(1), spec.output_tokens)), 1).astype(np.int64)
        think_ns = np.rint(draw(start, counter + np.uint64(2), spec.think_time_s) * 1e9).astype(np.int64)
        grown = np.cumsum(np.where(call == 0, np.repeat(first_prompt[pending], n), new))
        prompt = grown - np.repeat(grown[begin] - first_prompt[pending], n)
        too_long = prompt + output > context
        broken = np.cumsum(too_long)
        fits = broken == np.repeat(broken[begin] - too_long[begin], n)  # no call of the session so far was too long
        whole = np.logical_and.reduceat(fits, begin)
        last = attempt == SESSION_DRAWS - 1
        taken = np.repeat(whole | last, n) & fits
        rows = _Calls(
            np.repeat(number[pending], n), call, prompt, output, think_ns, np.repeat(~whole, n).astype(np.int64)
        )
        done.append(rows.where(taken))
        pending = pending[~whole]
        if not len(pending):
            break
    joined = _Calls(*(np.concatenate(column) for column in zip(*(part.columns() for part in done), strict=True)))
    return joined.where(np.lexsort((joined.call, joined.session)))
