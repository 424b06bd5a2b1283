"""Every request of a run against a hosted API, failed, cut and warm-up ones included: what a vendor may bill, beside what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from harness.base.clock import NS
from harness.judge.columns import ints
from harness.records import RETRIED, Manifest, Outcome, RequestRecord, RunData, SentRequest

_TEXTS = ("outcome", "finish_reason", "error")  # the others are whole numbers
_ENDED = (Outcome.OK, Outcome.EMPTY_REPLY)  # a finish reason says it of the others


class StoredRow(NamedTuple):
    """What a bill needs of a stored row: columns of RequestRecord, None where null."""

    outcome: str
    finish_reason: str | None
    error: str | None
    http_status: int | None
    due_ns: int | None
    sent_ns: int | None
    ended_ns: int | None
    first_token_ns: int | None
    prompt_tokens: int | None
    cached_prompt_tokens: int | None
    output_tokens: int | None
    reasoning_tokens: int | None
    cache_written_5m_tokens: int | None
    cache_written_1h_tokens: int | None
    target_prompt_tokens: int | None
    target_output_tokens: int | None


def _as_a_fact(stamp_ns: int | None) -> float | None:
    return None if stamp_ns is None else 0.0


def sent_of(row: RequestRecord | StoredRow, to_utc_s: Callable[[int | None], float | None] = _as_a_fact) -> SentRequest:
    """A row as far as its bill is concerned. `to_utc_s`: its stamps onto seconds since 1970; without it, whether there is one."""
    return SentRequest(
        outcome=str(row.outcome),
        http_status=row.http_status,
        sent_utc_s=to_utc_s(row.due_ns if row.outcome == Outcome.LOST else row.sent_ns),
        ended_utc_s=to_utc_s(row.ended_ns),
        usage=_usage(row),
        asked_prompt_tokens=row.target_prompt_tokens or 0,
        asked_output_tokens=row.target_output_tokens or 0,
        bore_tokens=row.first_token_ns is not None,
        finished=row.outcome in _ENDED or row.finish_reason is not None,
        retried=row.error == RETRIED,
    )


def _usage(row: RequestRecord | StoredRow) -> tuple[int, ...] | None:
    """Prompt and output must have been told; the other parts are 0 where they were not, and cache writes left out where neither was."""
    if row.prompt_tokens is None or row.output_tokens is None:
        return None
    parts = (row.prompt_tokens, row.cached_prompt_tokens or 0, row.output_tokens, row.reasoning_tokens or 0)
    writes = (row.cache_written_5m_tokens, row.cache_written_1h_tokens)
    return parts if writes == (None, None) else (*parts, *(tokens or 0 for tokens in writes))


def sent_requests(run: RunData) -> tuple[SentRequest, ...]:
    """All rows of all phases, in their order."""
    frame, to_utc_s = run.requests, _to_utc_s(run.manifest)
    columns = [_texts(frame, name) if name in _TEXTS else _whole(frame, name) for name in StoredRow._fields]
    return tuple(sent_of(StoredRow(*values), to_utc_s) for values in zip(*columns, strict=True))


def _whole(frame: Any, name: str) -> list[int | None]:
    column = ints(frame, name)
    return [
        value if there else None for value, there in zip(column.data.tolist(), column.present.tolist(), strict=True)
    ]


def _texts(frame: Any, name: str) -> list[str | None]:
    if name not in frame:
        return [None] * len(frame)
    return [value if isinstance(value, str) else None for value in frame[name].tolist()]


def _to_utc_s(manifest: Manifest) -> Callable[[int | None], float | None]:
    """CLOCK_MONOTONIC onto seconds since 1970, by the last anchor of the load generator at or before a stamp; without anchors (a run
    that was killed), when the run began."""
    reports = [report for report in manifest.drive.values() if isinstance(report, Mapping)]
    anchors = sorted(tuple(anchor[:2]) for report in reports for anchor in report.get("anchors") or ())
    at, offset = np.array([a[0] for a in anchors], np.int64), [a[1] for a in anchors]

    def to_utc_s(stamp_ns: int | None) -> float | None:
        if stamp_ns is None:
            return None
        if not anchors:
            began = datetime.fromisoformat(manifest.created_utc)
            return (began.replace(tzinfo=UTC) if began.tzinfo is None else began).timestamp()
        real_ns = int(stamp_ns + offset[max(0, int(np.searchsorted(at, stamp_ns, "right")) - 1)])
        return real_ns / NS

    return to_utc_s
