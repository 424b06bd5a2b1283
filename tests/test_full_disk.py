"""A disk that fills while a run goes on, for every writer: the run ends, says why, and what was stored is readable."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import pipeline
from harness.analyse.summary import summarise
from harness.campaign import preflight
from harness.config import ExperimentSpec
from harness.errors import HarnessError
from harness.records import DriveProgress
from harness.store.reader import read_run
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
MIB = 1 << 20


@pytest.fixture
def disk(tmp_path, monkeypatch) -> Iterator:
    """Makes a filesystem of so many bytes; the forecast, which would refuse it, looks away."""
    monkeypatch.setattr(preflight, "check_disk", lambda *_: None)
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    place = tmp_path / "disk"
    place.mkdir()

    def make(size_bytes: int) -> Path:
        words = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(place)]
        if subprocess.run(words, capture_output=True, check=False).returncode:
            pytest.skip("a tmpfs cannot be mounted here")
        return place

    yield make
    subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


class Display:
    """Silent; `at` is called with the progress of the measured phase."""

    def __init__(self, at=lambda progress: None) -> None:
        self.at = at

    def phase(self, name: str) -> None: ...
    def say(self, text: str) -> None: ...
    def cell(self, index: int, total: int, name: str) -> None: ...
    def progress(self, progress: DriveProgress) -> None:
        self.at(progress)


def end_of(out: Path, server: GoldenServer, display: Display, **changes) -> tuple[HarnessError, Path]:
    """The error that a run on this disk ends with, and its directory."""
    data = {
        "experiment": "t",
        "targets": [{"name": "a", "kind": "adopt", "url": server.url, "model": "golden"}],
        "workloads": ["fixed:16x60"],
        "loads": [{"concurrency": [8], "requests": 1500}],
        "warmup_requests": 0,
        "observe": {"gpu": "off"},
        "min_free_gib": 0,
    }
    spec = ExperimentSpec.model_validate(data | changes)
    try:
        ran = pipeline.run_experiment(spec, out / "t", display, pipeline.Stop())
        error = ran.worst()
    except HarnessError as raised:
        error = raised
    (run_dir,) = [path.parent for path in out.rglob("manifest.json")]
    return error, run_dir


def full(error: HarnessError, run_dir: Path) -> int:
    """What holds of every run on a full disk; how many rows it has."""
    words = ("No space left", "no room")
    assert any(word in str(error) for word in words), error
    assert error.exit_code in (5, 7)
    run = read_run(run_dir)
    assert run.manifest.state == "failed"
    assert any(word in run.manifest.error for word in words), run.manifest.error
    assert not (run_dir / "reserve.tmp").exists()
    verdict = summarise(run).verdict
    assert verdict.state == "INVALID"
    said = " ".join(f"{reason.message}; {reason.advice}" for reason in verdict.reasons)
    assert "out-of-memory" not in said
    assert any(word in said for word in words), said
    return len(run.requests)


@pytest.fixture(scope="module")
def server():
    with GoldenServer(ttft_s=0.0, itl_s=0.0) as golden:
        yield golden


def test_prompts(disk, server):
    """20 MB of prompts on a disk of 4: nothing was sent, the run says why."""
    plan = {"workloads": ["fixed:2000x4"], "loads": [{"concurrency": [2], "requests": 2000}]}
    assert full(*end_of(disk(4 * MIB), server, Display(), **plan)) == 0


def test_spool(disk, server):
    """26 MB of replies on a disk of 6: the worker finds no room, and that is what is said of its death; its replies so far are rows."""
    assert full(*end_of(disk(6 * MIB), server, Display())) >= 100


@pytest.mark.parametrize("phase", ["early", "late"])
def test_everything_else(disk, server, phase):
    """Something else fills the disk in mid-run, to the last byte: part files, telemetry and the manifest find no room."""
    place, filled = disk(40 * MIB), []

    def fill(progress: DriveProgress) -> None:
        if filled or progress.done < (1 if phase == "early" else 700):
            return
        filled.append(place / "filler")
        with filled[0].open("wb", buffering=0) as file:
            for size in (1 << 16, 1 << 12):
                try:
                    while file.write(bytes(size)):
                        pass
                except OSError:
                    continue

    full(*end_of(place, server, Display(fill)))
