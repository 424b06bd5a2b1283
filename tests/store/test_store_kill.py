"""kill -9 at random moments of a run and of its end."""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from harness.base import clock
from harness.store.reader import read_run
from tests.waiting import until

pytestmark = pytest.mark.timing
CHILD = Path(__file__).with_name("kill_child.py")
ROOT = Path(__file__).resolve().parents[2]
NS = 1_000_000_000


class Child:
    """A run that writes rows in a process of its own; what its log says."""

    def __init__(self, folder: Path, name: str, *arguments: str) -> None:
        self.run_dir, self._log = folder / name, folder / f"{name}.log"
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD), str(self.run_dir), str(self._log), *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )

    def said(self, word: str) -> list[tuple[int, ...]]:
        """The numbers after each whole line of that word."""
        text = self._log.read_text() if self._log.exists() else ""
        lines = (line.split() for line in text[: text.rfind("\n") + 1].splitlines())
        return [tuple(map(int, numbers)) for first, *numbers in lines if first == word]

    def stopped_itself(self) -> bool:
        assert self.process.poll() is None, "the child failed by itself"
        return bool(self.said("finish")) and psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED


@contextlib.contextmanager
def children(folder: Path, count: int, *arguments: str):
    made = [Child(folder, f"run{k}", *arguments) for k in range(count)]
    try:
        yield made
    finally:
        for child in made:
            child.process.kill()
            child.process.wait()


def test_kill_loses_at_most_two_seconds(tmp_path):
    """8 runs killed at random moments: every row added 2 s before the kill, and as long as the machine let the run stand meanwhile,
    is there, none twice, none out of order."""
    chance = random.Random(tmp_path.name)
    lost = []
    with children(tmp_path, 8, "1", "0") as made:
        left = {child: chance.uniform(2.2, 3.5) for child in made}
        killed: dict[Child, int] = {}

        def kill_who_is_due() -> bool:
            for child in set(left) - set(killed):
                assert child.process.poll() is None, "the child failed by itself"
                rows = child.said("row")
                if rows and rows[-1][1] - rows[0][1] >= left[child] * NS:
                    killed[child] = clock.monotonic_ns()
                    child.process.kill()
            return len(killed) == len(left)

        until(kill_who_is_due, "each child ran for its time")
    for child, killed_ns in killed.items():
        rows = child.said("row")
        run = read_run(child.run_dir)
        seqs = run.requests["seq"].tolist()
        assert run.manifest.state == "interrupted"
        assert seqs == list(range(len(seqs)))
        stood_ns = max(after - before for (_, before), (_, after) in pairwise(rows))
        due = [last for last, at_ns in rows if at_ns <= killed_ns - 2 * NS - stood_ns]
        assert len(seqs) > max(due, default=-1)
        lost.append(len(rows) * 2 - len(seqs))
    assert max(lost) > 0, "no kill came before a flush: the test tests nothing"


def test_kill_around_the_merge_loses_and_doubles_nothing(tmp_path):
    """8 runs killed at moments from before to after their finish, by how long an unharmed one's takes: all rows that stood on
    disk when it began are there once, whatever files were left."""
    with children(tmp_path, 9, "0.01", "0.6") as (unharmed, *made):
        until(unharmed.stopped_itself)
        unharmed.process.send_signal(signal.SIGCONT)
        (((takes_ns,),),) = [until(lambda: unharmed.said("finished"))]
        states = []
        for k, child in enumerate(made):
            until(child.stopped_itself)
            there = read_run(child.run_dir).requests["seq"].tolist()
            if k:  # the first is killed where it stopped
                child.process.send_signal(signal.SIGCONT)
                kill_ns = clock.monotonic_ns() + takes_ns * k // 6
                until(lambda kill_ns=kill_ns: clock.monotonic_ns() >= kill_ns)
            child.process.kill()
            child.process.wait()
            run = read_run(child.run_dir)
            seqs, rows = run.requests["seq"].tolist(), child.said("row")
            states.append(run.manifest.state)
            assert seqs == list(range(len(seqs)))
            assert 0 < len(there) <= len(seqs)
            if run.manifest.state == "complete":
                assert len(seqs) == rows[-1][0] + 1
                assert run.server["stamp_ns"].tolist() == seqs[::2]
    assert states[0] == "interrupted"
    assert set(states) <= {"interrupted", "complete"}
