"""Sessions drawn from quantiles: chains of calls whose context grows, and is compacted when the next call would not fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.measure.plan.drafts import Draft, too_long
from harness.measure.plan.lengths import geometric
from harness.measure.plan.prefixes import Pairs, beginning
from harness.measure.plan.preset import SessionSpec
from harness.measure.plan.rows import NULL
from harness.measure.plan.streams import F64, I64, U64, Purpose, at, interpolate, key, uniform

_REDRAWS = 64
_BATCH = 8192


def session_values(spec: SessionSpec) -> Mapping[str, Any]:
    return {"kind": "sessions", **spec.model_dump()}


def of_sessions(spec: SessionSpec, seed: int, requests: int, limit: int | None, purpose: Purpose) -> Draft:
    """The first `requests` calls of sessions 0, 1, ..; session i depends on seed, i and limit only.

    Calls, first prompt, new tokens, outputs and think times are drawn independently from their quantiles (new tokens
    and outputs geometrically between them: they lie far apart). A call's prompt is the one before it and new tokens. Where that and the
    output are above the context, the context is compacted: the call keeps only the first `compaction_keeps_tokens` of the
    prompt before it (less, if even that does not fit). What does not fit alone is drawn again, up to 64 times; then the session
    ends before it. Raises ConfigError.
    """
    context = min(spec.context_limit_tokens, limit or spec.context_limit_tokens)
    least = spec.first_prompt_tokens[0] + max(spec.output_tokens[0], 1)
    if least > context:
        raise too_long(context, least, "least")
    base = np.full(1, key(seed, purpose), np.uint64)
    parts: list[_Calls] = []
    have = done = 0
    calls = sum(spec.calls_per_session) / len(spec.calls_per_session)
    while have < requests:
        number = np.arange(done, done + 64 + min(_BATCH, round((requests - have) / calls)))
        parts.append(_sessions(spec, at(base, number.astype(np.uint64)), number, context))
        have += len(parts[-1].session)
        done += len(number)
        if done > 20_000 and have < done // 1000:
            raise too_long(context, least, "least")
    joined = (np.concatenate(column)[:requests] for column in zip(*(part.columns() for part in parts), strict=True))
    return _draft(_Calls(*joined), context)


@dataclass(frozen=True, slots=True)
class _Calls:
    """One row a call, session after session. `kept`: tokens of the prompt before it that the call begins with, NULL for
    all of it. `ended`: 1 where the session ends early."""

    session: I64
    call: I64
    prompt: I64
    output: I64
    think_ns: I64
    kept: I64
    ended: I64

    def columns(self) -> tuple[I64, ...]:
        return self.session, self.call, self.prompt, self.output, self.think_ns, self.kept, self.ended


def _draft(rows: _Calls, context: int) -> Draft:
    first = rows.call == 0
    row = np.arange(len(rows.prompt))
    kept = rows.session[first]
    compacted = rows.kept != NULL
    note = (
        f"sessions: {len(kept):,}; the context of {int(compacted.sum()):,} calls was compacted to fit {context:,} tokens, "
        f"{int(rows.ended[first].sum()):,} sessions end before a call that would not fit"
    )
    missing = int(kept[-1]) + 1 - len(kept)
    if missing:
        note += f"; {missing:,} more had no call that fits and are left out"
    stream = np.maximum.accumulate(np.where(first | compacted, row, 0))
    return Draft(
        rows.prompt,
        rows.output,
        np.cumsum(first) - 1,
        _pairs(rows, stream) if compacted.any() else None,
        stream,
        np.where(first, NULL, row - 1),
        np.where(first, NULL, rows.think_ns),
        notes=(note,),
    )


def _pairs(rows: _Calls, stream: I64) -> list[Pairs]:
    """What each prompt begins with: after a compaction, the tokens kept of the prompt before; its own stream follows."""
    pairs: list[Pairs] = []
    now: Pairs = ()
    before = 0  # the stream that the prompt before goes on with
    for row, (call, kept, own) in enumerate(zip(rows.call.tolist(), rows.kept.tolist(), stream.tolist(), strict=True)):
        if call == 0:
            now = ()
        elif own == row:
            now = beginning(now, before, kept)
        pairs.append(now)
        before = own
    return pairs


def _sessions(spec: SessionSpec, starts: U64, number: I64, context: int) -> _Calls:
    """Whole sessions, one for each of `starts`, as far as they fit."""
    levels = np.array(spec.quantile_levels)
    zero = np.zeros(len(starts), np.uint64)
    drawn = interpolate(uniform(at(starts, zero)), levels, np.array(spec.calls_per_session))
    calls = np.maximum(np.rint(drawn), 1).astype(np.int64)
    begin = np.cumsum(calls) - calls
    call = np.arange(int(calls.sum())) - np.repeat(begin, calls)
    new, output, think_ns = (np.empty(len(call), np.int64) for _ in range(3))
    pending = np.arange(len(call))
    own = np.repeat(np.arange(len(starts)), calls)
    for attempt in range(_REDRAWS):
        stream = at(starts[own[pending]], np.full(len(pending), 1 + attempt, np.uint64))
        values = _values(spec, levels, stream, call[pending])
        new[pending], output[pending], think_ns[pending] = values
        pending = pending[new[pending] + output[pending] > context]
        if not len(pending):
            break
    stuck = np.zeros(len(call), bool)
    stuck[pending] = True
    broken = np.cumsum(stuck)
    fits = broken == np.repeat(broken[begin] - stuck[begin], calls)
    prompt, kept = _grown(new, output, begin, calls, context, spec.compaction_keeps_tokens)
    ended = np.repeat(~np.logical_and.reduceat(fits, begin), calls).astype(np.int64)
    rows = _Calls(np.repeat(number, calls), call, prompt, output, think_ns, kept, ended)
    return _Calls(*(column[fits] for column in rows.columns()))


def _values(spec: SessionSpec, levels: F64, stream: U64, call: I64) -> tuple[I64, I64, I64]:
    """(new tokens, of a first call its prompt; output tokens; think time)."""
    counter = (3 * call).astype(np.uint64)
    u = uniform(at(stream, counter))
    later = interpolate(u, *geometric(spec.quantile_levels, spec.new_prompt_tokens_per_later_call))
    first = interpolate(u, levels, np.array(spec.first_prompt_tokens))
    outputs = geometric(spec.quantile_levels, [max(tokens, 1) for tokens in spec.output_tokens])
    output = interpolate(uniform(at(stream, counter + np.uint64(1))), *outputs)
    think_s = interpolate(uniform(at(stream, counter + np.uint64(2))), levels, np.array(spec.think_time_s))
    new = np.maximum(np.rint(np.where(call == 0, first, later)), 1).astype(np.int64)
    return new, np.maximum(np.rint(output), 1).astype(np.int64), np.rint(think_s * 1e9).astype(np.int64)


def _grown(new: I64, output: I64, begin: I64, calls: I64, context: int, keeps: int) -> tuple[I64, I64]:
    """(prompt, kept) of every call: call by call over all sessions that have one."""
    prompt, kept = new.copy(), np.full(len(new), NULL)
    for k in range(1, int(calls.max())):
        row = begin[calls > k] + k
        grown = prompt[row - 1] + new[row]
        over = grown + output[row] > context
        room = context - new[row] - output[row]
        left = np.maximum(np.minimum(np.minimum(prompt[row - 1], keeps), room), 0)
        prompt[row] = np.where(over, left + new[row], grown)
        kept[row] = np.where(over, left, NULL)
    return prompt, kept
