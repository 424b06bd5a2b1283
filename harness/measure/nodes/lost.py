"""Rows for the requests of a node that was lost: what can be said of them, which is little."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from harness.base.clock import NS
from harness.measure.drive.shard import request_id
from harness.measure.job import Job
from harness.records import Outcome, PlannedRequest, RequestRecord, row_without_reply


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
        yield row_without_reply(
            request,
            Outcome.LOST if sent else Outcome.DROPPED,
            why,
            request_id=request_id(job.run_id, job.phase, request.seq),
            phase=job.phase,
            worker=worker,
            scheduled_ns=scheduled_ns,
            due_ns=at.heard_ns if scheduled_ns is None else scheduled_ns,
            ended_ns=at.lost_ns,
        )


def _end_ns(job: Job, at: LostAt) -> int | None:
    return None if job.duration_s is None else at.started_ns + int(job.duration_s * NS)
