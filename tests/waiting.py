"""How tests wait: for conditions. How long a machine takes is nothing that a test may know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Self, TypeVar

HANG_S = 120.0  # no expectation but a guard against hanging: what is waited for comes, or never does
_POLL_S = 0.005
_TICK_S = 0.002
T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "", hang_s: float = HANG_S) -> T:
    """The first true value of `condition`; AssertionError with `what` if none came."""
    end = time.monotonic() + hang_s
    while not (found := condition()):
        assert time.monotonic() < end, f"waited {hang_s:g} s in vain for: {what or condition}"
        time.sleep(_POLL_S)
    return found


class Machine:
    """While the context lasts, a thread that asks to be woken every 2 ms: how late this machine wakes whoever waits.

    `worst_ns` is what the machine's other work may have added to any one moment that a test looked at.
    """

    def __init__(self) -> None:
        self.worst_ns = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while True:
            asked = time.monotonic_ns()
            over = self._over.wait(_TICK_S)
            self.worst_ns = max(self.worst_ns, time.monotonic_ns() - asked - round(_TICK_S * 1e9))
            if over:
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def unread_bytes(server_port: int, client_port: int | None = None) -> int:
    """What the clients of a server on IPv4 loopback (one of them: `client_port`) have received and not read."""
    with open("/proc/net/tcp", encoding="ascii") as table:
        rows = [line.split() for line in table][1:]
    port = lambda address: int(address.partition(":")[2], 16)  # noqa: E731
    queues = [row[4] for row in rows if port(row[2]) == server_port and client_port in (None, port(row[1]))]
    return sum(int(queue.partition(":")[2], 16) for queue in queues)
