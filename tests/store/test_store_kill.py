"""kill -9 at random moments of a run and of its end."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from harness import clock
from harness.store.reader import read_run

CHILD = Path(__file__).with_name("kill_child.py")
ROOT = Path(__file__).resolve().parents[2]
NS = 1_000_000_000


def _killed_at_random(tmp_path, tries, arguments, after_s):
    """(run directory, log lines, moment of the kill) of `tries` children, each killed `after_s` after its first row."""
    chance = random.Random(tmp_path.name)
    logs = [tmp_path / f"log{k}" for k in range(tries)]
    children = [
        subprocess.Popen(
            [sys.executable, str(CHILD), str(tmp_path / f"run{k}"), str(log), *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT)},
        )
        for k, log in enumerate(logs)
    ]
    due: dict[int, int] = {}
    killed: dict[int, int] = {}
    try:
        while len(killed) < tries:
            for k, child in enumerate(children):
                assert child.poll() is None or k in killed, "the child failed by itself"
                if k not in due and logs[k].exists() and logs[k].stat().st_size:
                    due[k] = clock.monotonic_ns() + int(chance.uniform(*after_s) * NS)
                if k in due and k not in killed and clock.monotonic_ns() >= due[k]:
                    killed[k] = clock.monotonic_ns()
                    child.kill()
            clock.sleep(0.002)
    finally:
        for child in children:
            child.kill()
            child.wait()
    for k, log in enumerate(logs):
        lines = [tuple(map(int, line.split())) for line in log.read_text().splitlines() if line.count(" ") == 1]
        yield tmp_path / f"run{k}", lines, killed[k]


@pytest.mark.timeout(120)
def test_kill_loses_at_most_two_seconds(tmp_path):
    """8 runs killed at random moments: every row added 2 s before the kill is there, none twice, none out of order."""
    lost = []
    for run_dir, added, killed_ns in _killed_at_random(tmp_path, 8, ("1", "0"), (2.1, 4.0)):
        run = read_run(run_dir)
        seqs = run.requests["seq"].tolist()
        assert run.manifest.state == "interrupted"
        assert seqs == list(range(len(seqs)))
        due = [last for last, at_ns in added if at_ns <= killed_ns - 2 * NS]
        assert due, "the child ran for less than 2 s"
        assert len(seqs) > due[-1]
        lost.append(len(added) * 2 - len(seqs))
    assert max(lost) > 0, "no kill came before a flush: the test tests nothing"


@pytest.mark.timeout(120)
def test_kill_around_the_merge_loses_and_doubles_nothing(tmp_path):
    """8 runs killed just before, in or after finish: all rows flushed are there once, whatever files were left."""
    states = set()
    for run_dir, added, killed_ns in _killed_at_random(tmp_path, 8, ("0.01", "0.6"), (0.55, 1.3)):
        run = read_run(run_dir)
        seqs = run.requests["seq"].tolist()
        states.add(run.manifest.state)
        assert seqs == list(range(len(seqs)))
        due = [last for last, at_ns in added if at_ns <= killed_ns - NS]
        assert len(seqs) > max(due, default=-1)
        if run.manifest.state == "complete":
            assert len(seqs) == added[-1][0] + 1
            assert run.server["stamp_ns"].tolist() == seqs[::2]
    assert "interrupted" in states
