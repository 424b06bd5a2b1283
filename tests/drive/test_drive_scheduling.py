"""Stops of the garbage collector are counted."""

from __future__ import annotations

import gc

from harness.base import clock
from harness.measure.drive.scheduling import Pauses


def test_pauses_are_counted_while_entered():
    """Two collections within, one after; none that comes by itself."""
    gc.disable()
    try:
        begun_ns = clock.monotonic_ns()
        with Pauses() as pauses:
            gc.collect()
            gc.collect()
        took_ns = clock.monotonic_ns() - begun_ns
        gc.collect()
    finally:
        gc.enable()
    assert pauses.count == 2
    assert 0 < pauses.longest_ns < pauses.total_ns <= took_ns
    assert "stopped it 2 times" in pauses.words()
