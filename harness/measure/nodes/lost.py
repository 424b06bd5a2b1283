"""Rows for the requests of a node that was lost: what can be said of them, which is little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.base.clock import NS
from harness.measure.drive.shard import request_id
from harness.measure.job import Job
from harness.records import Outcome, PlannedRequest, RequestRecord


@dataclass(frozen=True, slots=True)
class LostAt:
    """Instants of CLOCK_MONOTONIC: the load began; the node was last heard of; it was given up; sending was to end early (None: not)."""

    started_ns: int
    heard_ns: int
    lost_ns: int
    stopped_ns: int | None


def rows_of_lost(
    job: Job, left: Iterable[tuple[bool, PlannedRequest]], at: LostAt, worker: int, why: str
) -> Iterator[RequestRecord]:
    """`left`: the node's requests without a row, each with whether a closed loop may have come to it. A row is `lost` where the request may
    have been sent, `dropped` where it was not yet due; there is none where it would not have been sent any more."""
    ends = [end for end in (at.stopped_ns, _end_ns(job, at)) if end is not None]
    cut_ns = min(ends, default=None)
    for begun, request in left:
        scheduled_ns = None if request.scheduled_ns is None else at.started_ns + request.scheduled_ns
        if scheduled_ns is None:
            sent = begun
            if not sent and cut_ns is not None:
                continue
        else:
            sent = scheduled_ns <= at.lost_ns
            if cut_ns is not None and scheduled_ns > cut_ns:
                continue
        yield _row(job, request, Outcome.LOST if sent else Outcome.DROPPED, worker, scheduled_ns, at, why)


def _end_ns(job: Job, at: LostAt) -> int | None:
    return None if job.duration_s is None else at.started_ns + int(job.duration_s * NS)


def _row(
    job: Job,
    request: PlannedRequest,
    outcome: Outcome,
    worker: int,
    scheduled_ns: int | None,
    at: LostAt,
    why: str,
) -> RequestRecord:
    return RequestRecord(
        request_id=request_id(job.run_id, job.phase, request.seq),
        seq=request.seq,
        phase=job.phase.value,
        worker=worker,
        session_id=request.session_id,
        target_prompt_tokens=request.target_prompt_tokens,
        target_output_tokens=request.target_output_tokens,
        scheduled_ns=scheduled_ns,
        due_ns=at.heard_ns if scheduled_ns is None else scheduled_ns,
        connect_started_ns=None,
        connect_ns=None,
        tls_ns=None,
        sent_ns=None,
        first_byte_ns=None,
        first_token_ns=None,
        last_token_ns=None,
        ended_ns=at.lost_ns,
        chunk_ns=(),
        chunk_tokens=None,
        prompt_tokens=None,
        cached_prompt_tokens=None,
        output_tokens=None,
        reasoning_tokens=None,
        counted_output_tokens=None,
        merged_reads=0,
        reads=0,
        response_bytes=0,
        connection_reused=None,
        outcome=outcome.value,
        http_status=None,
        finish_reason=None,
        error=why,
    )
