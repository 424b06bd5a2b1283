"""Repetitions spread over a day: the k-th begins no sooner than start + (k - 1) x spread_hours / repetitions, by the wall clock.

The start is the campaign's, so that one that is resumed waits for the same instants. What is late begins at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from harness.base import clock
from harness.config.experiment import ExperimentSpec

_LOOK_S = 30.0  # a machine that slept, or whose clock was set, is noticed


def due_utc(spec: ExperimentSpec, created_utc: str, repetition: int) -> datetime | None:
    """When a repetition may begin; None where nothing is spread."""
    if spec.spread_hours is None:
        return None
    start = datetime.fromisoformat(created_utc)
    start = start if start.tzinfo else start.replace(tzinfo=UTC)
    return start + timedelta(hours=(repetition - 1) * spec.spread_hours / spec.repetitions)


def left_s(due: datetime | None) -> float:
    """Seconds until then, 0 if it is over."""
    return 0.0 if due is None else max(0.0, (due - clock.utc_now()).total_seconds())


def wait(due: datetime | None, repetition: int, say: Callable[[str], None]) -> None:
    """Until a repetition may begin."""
    if due is None or not left_s(due):
        return
    say(f"repetition {repetition} begins at {due:%Y-%m-%d %H:%M} UTC (spread_hours); it is waited for")
    while (rest_s := left_s(due)) > 0:
        clock.sleep(min(rest_s, _LOOK_S))


def plan_words(spec: ExperimentSpec, created_utc: str, repetitions: Sequence[int]) -> tuple[str, ...]:
    """One line a repetition that is to come, for a dry run."""
    dues = [(repetition, due_utc(spec, created_utc, repetition)) for repetition in repetitions]
    return tuple(f"repetition {k} begins no sooner than {due:%Y-%m-%d %H:%M} UTC" for k, due in dues if due is not None)
