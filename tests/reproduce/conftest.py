"""A machine without a GPU, and a pipeline that makes the runs asked of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import pipeline
from harness.base import clock
from harness.base.errors import HarnessError, StoreError
from harness.measure.campaign.ran import Ran
from harness.measure.reproduce import rows as reproduce_run
from harness.records import Analysis
from tests.reproduce.published_values import CPU, summary


class Runner:
    """measure_campaign, conclude and analyse replaced: a run for each cell, of the campaign `now`; `fails` raises at a target's first cell."""

    def __init__(self, out: Path) -> None:
        self.out, self.now = out, "20261124T113000Z"
        self.runs: list[object] = []
        self.places: list[Path] = []
        self.loads: list[list[str]] = []
        self.fails: dict[str, HarnessError] = {}
        self.concluded: list[tuple[str, int, int]] = []

    def measure_campaign(self, spec, out, display, stop):
        self.places.append(out)
        self.loads.append([load.points()[0].name for load in spec.loads])
        name = spec.targets[0].name
        for load in spec.loads:
            if name in self.fails:
                raise self.fails[name]
            for repetition in range(1, spec.repetitions + 1):
                self.runs.append(summary(load.points()[0].concurrency, repetition, target=name, campaign=self.now))
        return Ran(self.now, len(spec.loads))

    def measure(self, spec):
        return self.measure_campaign(spec, self.out, None, None)

    def conclude(self, spec, out, ran, summaries, costs, report_path, exit_code):
        self.concluded.append((ran.campaign_id, len(summaries), exit_code))

    def analyse(self, path, campaign=None):
        if not self.runs:
            raise StoreError("no run", path, "")
        newest = campaign or max(run.campaign_id for run in self.runs)
        return Analysis(path, tuple(run for run in self.runs if run.campaign_id == newest), ())


@pytest.fixture
def runner(monkeypatch, tmp_path):
    made = Runner(tmp_path / "results")
    monkeypatch.setattr(pipeline, "measure_campaign", made.measure_campaign)
    monkeypatch.setattr(reproduce_run, "conclude", made.conclude)
    monkeypatch.setattr(reproduce_run, "analyse", made.analyse)
    monkeypatch.setattr(clock, "utc_stamp", lambda: made.now)
    monkeypatch.setattr(reproduce_run, "_SECOND_S", 0.0)
    return made


@pytest.fixture
def cpu(monkeypatch):
    monkeypatch.setattr("harness.measure.reproduce.obstacles.this_machine", lambda: CPU)
