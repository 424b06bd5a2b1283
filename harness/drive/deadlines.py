"""Time limits of exchanges: one heap entry each, looked at again when it is due, so that the hot path keeps no time."""

from __future__ import annotations

import heapq
from array import array

from harness import clock
from harness.drive import wire
from harness.records import Outcome, Timeouts

CHECK_NS = 1_000_000_000  # every exchange is looked at once a second, limits or not, to compact what it holds
COMPACT_READS = 128

Limit = tuple[int, Outcome, float]  # when, what then, the limit in seconds


class Deadlines:
    """The heap. An entry whose connection has moved on to another exchange (`epoch`) is skipped when it comes up."""

    def __init__(self, timeouts: Timeouts) -> None:
        self.timeouts = timeouts
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
        if not conn.buf:
            return
        seconds, nanos = wire.TIMESPEC.unpack(conn.buf[-1][1][0][2])
        conn.last_ns = nanos if seconds == wire.USER_STAMP_SECONDS else seconds * clock.NS + nanos - self.offset_ns
        if not conn.body_seen:
            begin = b"".join(read[0] for read in conn.buf)
            conn.body_seen = bool(conn.packed) or 0 < begin.find(b"\r\n\r\n") < len(begin) - 4


def compact(conn: wire.Conn) -> int:
    """Turn all reads but the last two into flat bytes, if they are many: less than half the size. Returns bytes held."""
    if len(conn.buf) > COMPACT_READS:
        keep = conn.buf[-2:]
        conn.packed.append(pack(conn.buf[:-2]))
        conn.buf[:] = keep  # in place: the loop holds this list
    return sum(len(data) for _, _, data in conn.packed)


def pack(buf: list[wire.Stamped]) -> tuple[bytes, bytes, bytes]:
    """Reads as three columns: 16-byte stamps, uint32 lengths, the bytes themselves."""
    return (
        b"".join([read[1][0][2] for read in buf]),
        array("I", [len(read[0]) for read in buf]).tobytes(),
        b"".join([read[0] for read in buf]),
    )
