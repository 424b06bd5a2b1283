"""Experiments, a silent display and ways to look at a campaign's directory, for the campaign tests."""

from __future__ import annotations

from pathlib import Path

from harness import pipeline
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.campaign import conclude
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.records import DriveProgress
from harness.store.manifest import read_manifest


def spec(**changes) -> ExperimentSpec:
    """Two adopted targets, two workloads, two loads, two repetitions: 16 cells."""
    url = "http://127.0.0.1:9/v1"
    data = {
        "experiment": "t",
        "targets": [{"name": n, "kind": "adopt", "url": url, "model": "golden"} for n in ("a", "b")],
        "workloads": ["fixed:16x4", "fixed:24x2"],
        "loads": [{"concurrency": [1, 2], "requests": 4}],
        "repetitions": 2,
        "warmup_requests": 0,
        "observe": {"gpu": "off"},
        "min_free_gib": 0,
    }
    return ExperimentSpec.model_validate(data | changes)


def small(url: str, **changes) -> ExperimentSpec:
    """One target at `url`, one workload, two loads of four requests, two repetitions: 4 cells of a fraction of a second."""
    target = {"name": "own", "kind": "adopt", "url": url, "model": "golden"}
    return spec(**({"targets": [target], "workloads": ["fixed:16x4"]} | changes))


class Quiet:
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.cells: list[str] = []

    def phase(self, name: str) -> None:
        self.said.append(f"phase {name}")

    def say(self, text: str) -> None:
        self.said.append(text)

    def cell(self, index: int, total: int, name: str) -> None:
        self.cells.append(name)

    def progress(self, progress: DriveProgress) -> None: ...


def run(experiment: ExperimentSpec, out: Path, *, resume: str | None = None, stop=None, display=None, **intent):
    """One invocation, closed without a report."""
    display = display or Quiet()
    intent = Intent(resume=resume, **intent)
    ran = pipeline.measure_campaign(experiment, out, display, stop or Stop(), intent)
    conclude(experiment, out, ran, (), (), None, 0)
    return ran


def states(out: Path) -> dict[str, str]:
    """Cell name -> state on disk of every run directory directly in `out`."""
    return {p.name.partition("_")[2]: read_manifest(p).state for p in sorted(out.glob("*Z*_*")) if p.is_dir()}
