"""What several nodes say of a drive, as one: progress and report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.base import clock
from harness.measure.drive.driver import reason_of
from harness.measure.drive.sums import sums_of
from harness.records import DriveProgress, DriveReport

NODE_LOST = "node_lost"  # a drive's stop_reason: it went on without one


def progress_of(each: Sequence[DriveProgress], total: int, elapsed_s: float) -> DriveProgress:
    """Of all nodes together."""
    return DriveProgress(
        done=sum(one.done for one in each),
        total=total,
        in_flight=sum(one.in_flight for one in each),
        failed=sum(one.failed for one in each),
        output_tokens=sum(one.output_tokens for one in each),
        elapsed_s=elapsed_s,
    )


def _stop_reason(reports: Sequence[DriveReport], word: str | None, *, any_lost: bool) -> str:
    reasons = {report.stop_reason for report in reports}
    if any_lost:
        return NODE_LOST
    if "worker_died" in reasons:
        return "worker_died"
    if word is not None:
        return reason_of(word)
    return "duration" if "duration" in reasons else "done"


def report_of(
    reports: Sequence[DriveReport | None],
    clocks: Sequence[tuple[int, int]],
    *,
    names: Sequence[str],
    workers: int,
    driver: str,
    started_ns: int,
    any_lost: bool,
    word: str | None,
    anchors: Sequence[clock.Anchor],
    notes: Sequence[str],
    facts: Sequence[Mapping[str, Any]],
) -> DriveReport:
    """One report of all: `reports` None for a node that was lost; `workers`: of a node; `clocks`: of each (its clock - ours, error), ns; the anchors are this
    machine's, where every stamp is by now."""
    there = [report for report in reports if report is not None]
    ends = [report.ended_ns - clocks[k][0] for k, report in enumerate(reports) if report is not None]
    offsets = []
    for k, report in enumerate(reports):
        own = [] if report is None else list(report.clock_offsets)
        own += [(0, 0)] * (workers - len(own))  # of workers that a small share did not need
        apart = [
            (offset, error) if abs(offset) > error else (0, 0) for offset, error in own
        ]  # else it is its machine's
        offsets += [(clocks[k][0] + offset, clocks[k][1] + error) for offset, error in apart]
    return DriveReport(
        **sums_of(there),
        driver=driver,
        started_ns=started_ns,
        ended_ns=max(ends, default=clock.monotonic_ns()),
        stop_reason=_stop_reason(there, word, any_lost=any_lost),
        anchors=[(a.monotonic_ns, a.offset_ns, a.error_ns) for a in anchors],
        clock_offsets=offsets,
        notes=[*notes, *(f"{names[k]}: {note}" for k, report in enumerate(reports) if report for note in report.notes)],
        nodes=facts,
    )
