"""A disk that fills while a run goes on, for every writer: the run ends, says why, and what was stored is readable."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import pipeline
from harness.base.errors import HarnessError
from harness.base.files import NO_ROOM_EXIT_CODE
from harness.config.experiment import ExperimentSpec
from harness.judge.summary import summarise
from harness.judge.validity.verdict import stopped_early
from harness.measure.campaign import preflight
from harness.measure.drive import feed, sdk, worker
from harness.measure.drive.processes import WorkerProcess
from harness.measure.run import Stop
from harness.records import DriveProgress
from harness.store import writer
from harness.store.parts import SCRATCH
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


def end_of(out: Path, server: GoldenServer, display: Display, **changes) -> tuple[HarnessError | None, Path]:
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
        ran = pipeline.measure_campaign(spec, out / "t", display, Stop())
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


def test_prompts_that_are_written_as_they_are_sent(disk, server, monkeypatch):
    """20 MB of prompts pass through a disk of 8 where 1 MiB may be ahead."""
    monkeypatch.setattr(feed, "AHEAD_BYTES", MIB)
    monkeypatch.setattr(feed, "SEGMENT_BYTES", MIB // 4)
    plan = {"workloads": ["fixed:2000x4"], "loads": [{"concurrency": [2], "requests": 2000}]}
    error, run_dir = end_of(disk(8 * MIB), server, Display(), **plan)
    assert error is None, error
    assert len(read_run(run_dir).requests) == 2000


def test_prompts_written_later(disk, server, monkeypatch):
    """The disk is full when the run has long begun: rows so far are stored, in the room that the prompts leave, the run says why, its workers
    are gone."""
    monkeypatch.setattr(writer, "RESERVE_BYTES", 0)
    monkeypatch.setattr(feed, "AHEAD_BYTES", MIB)
    monkeypatch.setattr(feed, "SEGMENT_BYTES", 16 * MIB)
    plan = {"workloads": ["fixed:2000x4"], "loads": [{"concurrency": [2], "requests": 2000}]}
    assert full(*end_of(disk(8 * MIB), server, Display(), **plan)) > 0


def test_rows_that_find_the_disk_full_before_the_prompts_do(tmp_path, server, monkeypatch):
    """As long as prompts stand there, there is room for nothing else: they go, whoever finds out first."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    begun, refused, most = [], [], server.finished + 300
    monkeypatch.setattr(server, "hold", lambda _: server.finished >= most and not refused)

    def with_room(write):
        def wrapped(path, *rest):
            if begun and any(tmp_path.rglob("shard-*.bodies-*")):
                refused.append(path)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            return write(path, *rest)

        return wrapped

    for name in ("write_file", "write_manifest"):
        monkeypatch.setattr(writer, name, with_room(getattr(writer, name)))

    def at(progress: DriveProgress) -> None:
        if progress.done >= 100:
            begun.append(progress)

    assert full(*end_of(tmp_path, server, Display(at))) >= 100
    assert refused


def test_spool(disk, server):
    """26 MB of replies on a disk of 6: the worker finds no room, and that is what is said of its death; its replies so far are rows,
    or stand in the spool that is kept for `recover`."""
    error, run_dir = end_of(disk(6 * MIB), server, Display())
    assert full(error, run_dir) > 0 or list((run_dir / SCRATCH).glob("drive-*"))


@pytest.mark.parametrize("phase", ["early", "late"])
def test_everything_else(disk, server, phase, monkeypatch):
    """Something else fills the disk in mid-run, to the last byte: part files, telemetry and the manifest find no room."""
    place, filled = disk(40 * MIB), []
    most = server.finished + 1200
    monkeypatch.setattr(server, "hold", lambda _: server.finished >= most and not filled)

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


@pytest.fixture
def no_space(monkeypatch):
    """A function that finds no room; where a process would end, the exit code is raised instead."""

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(os, "_exit", leave)

    def find(*_) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return find


def test_a_worker_without_room_says_so_in_its_exit_code(monkeypatch, no_space):
    """Its last words may find no room either; the parent knows the code, and the verdict repeats what the parent says."""
    monkeypatch.setattr(worker, "main", no_space)
    dead = WorkerProcess.__new__(WorkerProcess)
    dead.number, dead._popen = 0, SimpleNamespace(returncode=worker.run())
    reason = stopped_early(SimpleNamespace(drive={"stop_reason": "worker_died", "notes": ["x", dead.epitaph()]}))
    assert "no room on disk" in reason.message
    assert "free disk space" in reason.advice


def test_a_worker_of_the_sdk_driver_ends_when_a_reply_finds_no_room(no_space):
    """An error of one task would end that task only, and its row would be missing without a word."""

    async def reply() -> None:
        no_space()

    async def one() -> SystemExit:
        task = asyncio.ensure_future(reply())
        await asyncio.wait([task])
        with pytest.raises(SystemExit) as caught:
            sdk._Driver._ended(SimpleNamespace(tasks={task}), task)
        return caught.value

    assert asyncio.run(one()).code == NO_ROOM_EXIT_CODE


def test_a_killed_worker_is_still_said_to_be_killed():
    """SIGKILL and no more: what to look for is the kernel's out-of-memory kill."""
    notes = ["load-generator worker 0 died (SIGKILL)"]
    reason = stopped_early(SimpleNamespace(drive={"stop_reason": "worker_died", "notes": notes}))
    assert "out-of-memory" in reason.advice
