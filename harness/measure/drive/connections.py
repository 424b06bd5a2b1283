"""Connections of one worker: opened, kept for the next exchange, dropped; and the time limits of the exchanges on them."""

from __future__ import annotations

import heapq
import os
import ssl
from typing import Any

from harness.base import clock
from harness.measure.drive import wire
from harness.measure.drive.proxy import Proxy, ProxyError, Tunnel
from harness.measure.drive.reader import Reader
from harness.records import Outcome, Timeouts

_IN, _OUT = 1, 4  # EPOLLIN, EPOLLOUT
CHECK_NS = 1_000_000_000  # every exchange is looked at once a second, limits or not, to compact what it holds

Limit = tuple[int, Outcome, float]  # when, what then, the limit in seconds


class ConnectFailedError(Exception):
    """Why a connection did not come about; `try_next`: another address of the host may do."""

    def __init__(self, reason: str, *, try_next: bool = True) -> None:
        super().__init__(reason)
        self.try_next = try_next


class Connections:
    """All of one worker. `by_fd`: those that are open or being opened; `opening`: how many are not yet usable. Unless `kept`, every
    exchange has a connection of its own."""

    def __init__(
        self,
        base_url: str,
        ca_file: str | None,
        poll: Any,
        *,
        kernel_stamps: bool,
        proxy: Proxy | None = None,
        kept: bool = True,
    ) -> None:
        self.to, self.proxy, self.kept = wire.destination(base_url), proxy, kept
        self.poll, self.kernel_stamps = poll, kernel_stamps
        self.context: ssl.SSLContext | None = wire.tls_context(ca_file) if self.to.tls else None
        self.addresses: list[wire.Address] = []
        self.resolve_error = ""
        self.by_fd: dict[int, wire.Conn] = {}
        self.opening = 0
        self._idle: list[wire.Conn] = []

    def resolve(self) -> None:
        """Look the host up once, before the start (a proxy's, where one is asked); a name that is not found fails every request, in
        its row."""
        near = self.to if self.proxy is None else wire.Destination(self.proxy.host, self.proxy.port, "", "", tls=False)
        try:
            self.addresses = wire.resolve(near)
        except OSError as error:
            self.resolve_error = f"name resolution: {error.strerror or error}"

    def open(self, address_at: int) -> wire.Conn:
        """Begin a connection to one of the addresses. Raises OSError."""
        tunnels = self.proxy is not None and self.to.tls
        context = None if tunnels else self.context
        conn = wire.connect(self.to, self.addresses, address_at, context, kernel_stamps=self.kernel_stamps)
        if self.proxy is not None and tunnels:
            conn.tunnel = Tunnel(self.proxy, self.to.host, self.to.port)
        self.by_fd[conn.fd] = conn
        self.poll.register(conn.fd, _OUT)
        self.opening += 1
        return conn

    def advance(self, conn: wire.Conn, *, readable: bool) -> bool:
        """One step on the way; True when it is usable: SENDING if a request waits for it, else IDLE. Raises ConnectFailedError."""
        if conn.state == wire.CONNECTING:
            code = wire.connect_error(conn)
            if code:
                raise ConnectFailedError(os.strerror(code))
            conn.connect_ns = clock.monotonic_ns()
            readable = False
        if conn.tunnel is not None:
            if not self._tunnel(conn, conn.tunnel, readable=readable):
                return False
            readable = False
        if conn.tls is not None and not self._handshake(conn, conn.tls, readable=readable):
            return False
        self.opening -= 1
        self.watch_out(conn, wanted=False)
        if conn.index >= 0:
            conn.state = wire.SENDING
        else:
            conn.state = wire.IDLE
            self._idle.append(conn)
        return True

    def _tunnel(self, conn: wire.Conn, tunnel: Tunnel, *, readable: bool) -> bool:
        conn.state = wire.TUNNEL
        try:
            done = tunnel.step(conn.sock, readable=readable)
        except BlockingIOError:
            return False
        except OSError as error:
            why = error.strerror or str(error)
            why = why if isinstance(error, ProxyError) else f"proxy {self.proxy.name if self.proxy else ''}: {why}"
            raise ConnectFailedError(why, try_next=False) from None
        self.watch_out(conn, wanted=bool(tunnel.pending))
        if done and self.context is not None:
            conn.tunnel = None
            wire.begin_tls(conn, self.context, self.to.host, kernel_stamps=self.kernel_stamps)
        return done

    def _handshake(self, conn: wire.Conn, tls: wire.Tls, *, readable: bool) -> bool:
        conn.state = wire.HANDSHAKE
        try:
            done = tls.handshake(readable)
        except BlockingIOError:
            return False
        except OSError as error:
            reason = (
                getattr(error, "verify_message", "") or getattr(error, "reason", "") or error.strerror or str(error)
            )
            raise ConnectFailedError(f"TLS: {reason}", try_next=False) from None
        self.watch_out(conn, wanted=bool(tls.pending))
        if done:
            conn.tls_ns = clock.monotonic_ns()
        return done

    def watch_out(self, conn: wire.Conn, *, wanted: bool) -> None:
        """Whether the poll tells when the kernel takes bytes again."""
        if conn.waits_out != wanted:
            conn.waits_out = wanted
            self.poll.modify(conn.fd, _IN | _OUT if wanted else _IN)

    def take_idle(self) -> wire.Conn | None:
        """A connection that is kept alive, the last used first."""
        while self._idle:
            conn = self._idle.pop()
            if conn.state == wire.IDLE:
                return conn
        return None

    def keep(self, conn: wire.Conn) -> None:
        """Its exchange is over, and it may carry another."""
        conn.clear()
        conn.reused, conn.state = True, wire.IDLE
        self._idle.append(conn)

    def idle_ended(self, conn: wire.Conn) -> bool:
        """A kept-alive connection speaks only to say that it is closed; anything else makes it unusable too."""
        try:
            conn.recv(wire.RECV_BYTES, wire.ANCILLARY_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def drop(self, conn: wire.Conn, *, hard: bool) -> None:
        """Close it; `hard`: reset it."""
        if conn.state in wire.ON_THE_WAY:
            self.opening -= 1
        self.by_fd.pop(conn.fd, None)
        self.poll.unregister(conn.fd)
        conn.epoch += 1
        wire.close(conn, hard=hard)


class Deadlines:
    """Limits of exchanges: one heap entry each, looked at again when it is due, so that the reader keeps no time. An entry whose connection has moved on to another exchange (`epoch`) is skipped when it comes up."""

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
        limits: list[tuple[int, Outcome, float | None]] = []
        if conn.state in wire.ON_THE_WAY:
            limits.append((max(conn.begun_ns, conn.connect_started_ns), Outcome.TIMEOUT_CONNECT, t.connect_s))
        elif conn.body_seen:
            limits.append((conn.last_ns, Outcome.TIMEOUT_IDLE, t.idle_s))
        else:
            limits.append((conn.sent_ns or conn.begun_ns, Outcome.TIMEOUT_FIRST_TOKEN, t.first_token_s))
        limits.append((conn.begun_ns, Outcome.TIMEOUT_TOTAL, t.total_s))
        return [(begin + int(limit * 1e9), what, limit) for begin, what, limit in limits if limit is not None]

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
