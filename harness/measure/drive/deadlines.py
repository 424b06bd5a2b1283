"""Time limits of exchanges: one heap entry each, looked at again when it is due, so that the reader keeps no time."""

from __future__ import annotations

import heapq

from harness.base import clock
from harness.measure.drive import wire
from harness.measure.drive.reader import Reader
from harness.records import Outcome, Timeouts

CHECK_NS = 1_000_000_000  # every exchange is looked at once a second, limits or not, to compact what it holds

Limit = tuple[int, Outcome, float]  # when, what then, the limit in seconds


class Deadlines:
    """The heap. An entry whose connection has moved on to another exchange (`epoch`) is skipped when it comes up."""

    def __init__(self, timeouts: Timeouts, reader: Reader) -> None:
        self.timeouts, self.reader = timeouts, reader
        self.offset_ns = 0  # CLOCK_REALTIME - CLOCK_MONOTONIC, set by the loop
        self._heap: list[tuple[int, int, wire.Conn, int]] = []
        self._serial = 0

    @property
    def next_ns(self) -> int | None:
        return self._heap[0][0] if self._heap else None

    def set(self, conn: wire.Conn, now_ns: int) -> None:
        """Look at this exchange at its next limit, or in a second."""
        self._serial += 1
        at = min([now_ns + CHECK_NS, *(limit[0] for limit in self._limits(conn))])
        heapq.heappush(self._heap, (at, self._serial, conn, conn.epoch))

    def pop(self, now_ns: int) -> wire.Conn | None:
        """The next exchange that is due for a look, if there is one."""
        while self._heap and self._heap[0][0] <= now_ns:
            _, _, conn, epoch = heapq.heappop(self._heap)
            if conn.epoch == epoch and conn.index >= 0:
                return conn
        return None

    def passed(self, conn: wire.Conn, now_ns: int) -> Limit | None:
        """The first limit that this exchange has passed."""
        self._look(conn)
        return min((limit for limit in self._limits(conn) if limit[0] <= now_ns), default=None)

    def _limits(self, conn: wire.Conn) -> list[Limit]:
        t = self.timeouts
        found: list[tuple[int, Outcome, float | None]] = []
        if conn.state in (wire.CONNECTING, wire.HANDSHAKE):
            found.append((max(conn.begun_ns, conn.connect_started_ns), Outcome.TIMEOUT_CONNECT, t.connect_s))
        elif conn.body_seen:
            found.append((conn.last_ns, Outcome.TIMEOUT_IDLE, t.idle_s))
        else:
            found.append((conn.sent_ns or conn.begun_ns, Outcome.TIMEOUT_FIRST_TOKEN, t.first_token_s))
        found.append((conn.begun_ns, Outcome.TIMEOUT_TOTAL, t.total_s))
        return [(begin + int(limit * 1e9), what, limit) for begin, what, limit in found if limit is not None]

    def _look(self, conn: wire.Conn) -> None:
        """Learn from the reads so far whether the body has begun and when the last byte came."""
        stamp = self.reader.last_stamp(conn)
        if stamp is None:
            return
        seconds, nanos = stamp
        conn.last_ns = nanos if seconds == wire.USER_STAMP_SECONDS else seconds * clock.NS + nanos - self.offset_ns
        if not conn.body_seen:
            begin = self.reader.begin(conn) if self.reader.adopted(conn) else wire.received(conn)
            conn.body_seen = 0 < begin.find(b"\r\n\r\n") < len(begin) - 4
