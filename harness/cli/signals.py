"""Ctrl-C and SIGTERM during a measurement."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click


@contextmanager
def signals(stop: Any) -> Iterator[None]:
    """Ctrl-C once drains, twice (or SIGTERM) aborts; outside a measurement it ends at once. Cleaning up is not interrupted."""

    def handle(signum: int, _frame: FrameType | None) -> None:
        first = stop.asked == 0
        stop.request()
        if signum == signal.SIGTERM:
            stop.request()
        if (first and not stop.driving) or stop.asked > 2:
            for name in (signal.SIGINT, signal.SIGTERM):
                signal.signal(name, signal.SIG_IGN)
            raise KeyboardInterrupt
        click.echo("draining: Ctrl-C again aborts" if stop.asked == 1 else "aborting", err=True)

    before = {name: signal.signal(name, handle) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
