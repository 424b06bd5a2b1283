"""Ending a set of processes: who is reported as having outlived SIGKILL."""

from __future__ import annotations

import os
from itertools import count
from types import SimpleNamespace

import pytest

from harness.measure.targets.server import proc


def test_a_process_that_was_sent_no_signal_has_outlived_none():
    """One that is born after the last look is not in the report: here it is this very process, which lives on."""
    looks = count()

    def find() -> list[proc.Process]:
        me = proc.read(os.getpid())
        return [me] if me and next(looks) >= 3 else []

    assert proc.end(find, 0.0) == []


@pytest.mark.parametrize(("dies_after_s", "outlives"), [(40, False), (59, False), (61, True)])
def test_a_process_takes_its_time_to_die(monkeypatch, dies_after_s, outlives):
    """In uninterruptible sleep when it is killed: waited for, a minute at most, by a clock that only the waiting turns."""
    me, now_s, killed = proc.read(os.getpid()), [0.0], []

    def sleep(seconds):
        now_s[0] += seconds

    monkeypatch.setattr(proc, "clock", SimpleNamespace(NS=10**9, sleep=sleep, monotonic_ns=lambda: int(now_s[0] * 1e9)))
    monkeypatch.setattr(proc, "send", lambda _, sig: killed.append((now_s[0], sig.name)))
    monkeypatch.setattr(proc, "alive", lambda *_: me if now_s[0] < 5 + dies_after_s else None)
    assert (proc.end(lambda: [me], 5.0) == [me]) == outlives
    assert killed[0] == (0.0, "SIGTERM")
    assert killed[1] == (pytest.approx(5.0, abs=0.1), "SIGKILL")
