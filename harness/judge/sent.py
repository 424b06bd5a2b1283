"""Every request of a run against a hosted API, failed, cut and warm-up ones included: what a vendor may bill, beside what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from harness.base.clock import NS
from harness.judge.columns import ints
from harness.records import RETRIED, Manifest, Outcome, RunData, SentRequest

_USAGE = ("prompt_tokens", "cached_prompt_tokens", "output_tokens", "reasoning_tokens")
_WRITES = ("cache_written_5m_tokens", "cache_written_1h_tokens")
_ENDED = (Outcome.OK, Outcome.EMPTY_REPLY)  # a finish reason says it of the others


def sent_requests(run: RunData) -> tuple[SentRequest, ...]:
    """All rows of all phases, in their order."""
    frame = run.requests
    columns = {
        name: _whole(frame, name)
        for name in (*_USAGE, *_WRITES, "http_status", "sent_ns", "ended_ns", "first_token_ns")
    }
    asked = [_whole(frame, f"target_{part}_tokens") for part in ("prompt", "output")]
    to_utc_s = _to_utc_s(run.manifest)
    outcomes, reasons, errors = (_texts(frame, name) for name in ("outcome", "finish_reason", "error"))
    return tuple(
        SentRequest(
            outcome=str(outcomes[n]),
            http_status=columns["http_status"][n],
            sent_utc_s=to_utc_s(columns["sent_ns"][n]),
            ended_utc_s=to_utc_s(columns["ended_ns"][n]),
            usage=_usage([columns[name][n] for name in _USAGE], [columns[name][n] for name in _WRITES]),
            asked_prompt_tokens=asked[0][n] or 0,
            asked_output_tokens=asked[1][n] or 0,
            bore_tokens=columns["first_token_ns"][n] is not None,
            finished=outcomes[n] in _ENDED or reasons[n] is not None,
            retried=errors[n] == RETRIED,
        )
        for n in range(len(frame))
    )


def _whole(frame: Any, name: str) -> list[int | None]:
    column = ints(frame, name)
    return [
        value if there else None for value, there in zip(column.data.tolist(), column.present.tolist(), strict=True)
    ]


def _texts(frame: Any, name: str) -> list[str | None]:
    if name not in frame:
        return [None] * len(frame)
    return [value if isinstance(value, str) else None for value in frame[name].tolist()]


def _usage(parts: Sequence[int | None], writes: Sequence[int | None]) -> tuple[int, ...] | None:
    """Prompt and output must have been told; the other parts are 0 where they were not."""
    if parts[0] is None or parts[2] is None:
        return None
    return tuple(part or 0 for part in (*parts, *(writes if any(writes) else ())))


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
