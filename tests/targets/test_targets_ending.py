"""Ending a set of processes: who is reported as having outlived SIGKILL."""

from __future__ import annotations

import os
from itertools import count

from harness.measure.targets.server import proc


def test_a_process_that_was_sent_no_signal_has_outlived_none():
    """One that is born after the last look is not in the report: here it is this very process, which lives on."""
    looks = count()

    def find() -> list[proc.Process]:
        me = proc.read(os.getpid())
        return [me] if me and next(looks) >= 3 else []

    assert proc.end(find, 0.0) == []
