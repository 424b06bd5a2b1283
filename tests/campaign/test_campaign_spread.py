"""Repetitions spread over hours: when each may begin, what is said of it, and what a resumed campaign waits for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from harness.base import clock
from harness.config.experiment import parse_experiment
from harness.measure.campaign import file, spread
from harness.measure.campaign.campaign import begin, foresee
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from tests.campaign.campaign_values import Quiet

START = datetime(2026, 11, 26, 6, 0, tzinfo=UTC)
DATA = {
    "experiment": "e",
    "targets": [{"name": "a", "kind": "hosted", "url": "http://127.0.0.1:9/v1", "model": "m"}],
    "workloads": ["fixed:16x4"],
    "loads": [{"concurrency": [1], "requests": 4}],
    "repetitions": 4,
}
SPREAD = parse_experiment(DATA | {"spread_hours": 24}, "x")


class Clock:
    """A wall clock that its own sleeps move."""

    def __init__(self, monkeypatch, now):
        self.now, self.sleeps = now, []
        monkeypatch.setattr(clock, "utc_now", lambda: self.now)
        monkeypatch.setattr(clock, "sleep", self.sleep)

    def sleep(self, seconds):
        self.sleeps.append(seconds)
        self.now += timedelta(seconds=seconds)


def test_when_each_repetition_may_begin():
    """Four over 24 hours: at 0, 6, 12 and 18 hours after the campaign's start, whatever the hour of its resumption."""
    dues = [spread.due_utc(SPREAD, START.isoformat(timespec="seconds"), k) for k in (1, 2, 3, 4)]
    assert [(due - START).total_seconds() / 3600 for due in dues] == [0, 6, 12, 18]


def test_it_is_waited_for(monkeypatch):
    """At 07:00 the second, due at 12:00, is waited for until then, and said once; one that is late begins at once."""
    said: list[str] = []
    now = Clock(monkeypatch, START + timedelta(hours=1))
    spread.wait(spread.due_utc(SPREAD, START.isoformat(), 2), 2, said.append)
    assert now.now == START + timedelta(hours=6)
    assert len(said) == 1
    assert "12:00 UTC" in said[0]
    before = list(now.sleeps)
    spread.wait(spread.due_utc(SPREAD, START.isoformat(), 1), 1, said.append)
    assert now.sleeps == before


def test_nothing_is_spread_unless_asked():
    """Without spread_hours there is no instant, nothing to say, and the stored config is that of before."""
    spec = parse_experiment(DATA, "x")
    assert spread.due_utc(spec, START.isoformat(), 3) is None
    assert spread.plan_words(spec, START.isoformat(), [1, 2]) == ()
    assert "spread_hours" not in spec.public()
    assert SPREAD.public()["spread_hours"] == 24


def test_a_campaign_may_be_resumed_with_another_spread():
    """It changes when a cell runs, not what it is."""
    assert file.digest(SPREAD.public()) == file.digest(parse_experiment(DATA, "x").public())


def test_a_dry_run_shows_when(monkeypatch, tmp_path):
    """A line a repetition."""
    Clock(monkeypatch, START)
    notes = foresee(SPREAD, tmp_path).notes
    assert [note for note in notes if "no sooner" in note] == [
        f"repetition {k} begins no sooner than 2026-11-{day} {hour} UTC"
        for k, day, hour in ((1, 26, "06:00"), (2, 26, "12:00"), (3, 26, "18:00"), (4, 27, "00:00"))
    ]


def test_a_campaign_waits_between_its_repetitions(monkeypatch, tmp_path):
    """Its cells come block by block, each when it is due."""

    now = Clock(monkeypatch, START)
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    with begin(SPREAD, tmp_path / "out", Intent(), Quiet()) as campaign:
        begun = [(run.cell.repetition, (now.now - START).total_seconds() / 3600) for run in campaign.cells(Stop())]
    assert begun == [(1, pytest.approx(0)), (2, pytest.approx(6)), (3, pytest.approx(12)), (4, pytest.approx(18))]
