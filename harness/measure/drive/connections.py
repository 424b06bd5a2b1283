"""Connections of one worker: opened, kept for the next exchange, dropped."""

from __future__ import annotations

import os
import ssl
from typing import Any

from harness.base import clock
from harness.measure.drive import wire

_IN, _OUT = 1, 4  # EPOLLIN, EPOLLOUT


class ConnectFailedError(Exception):
    """Why a connection did not come about; `try_next`: another address of the host may do."""

    def __init__(self, reason: str, *, try_next: bool = True) -> None:
        super().__init__(reason)
        self.try_next = try_next


class Connections:
    """All of one worker. `by_fd`: those that are open or being opened; `opening`: how many are not yet usable."""

    def __init__(self, base_url: str, ca_file: str | None, poll: Any, *, kernel_stamps: bool) -> None:
        self.to = wire.destination(base_url)
        self.poll, self.kernel_stamps = poll, kernel_stamps
        self.context: ssl.SSLContext | None = wire.tls_context(ca_file) if self.to.tls else None
        self.addresses: list[wire.Address] = []
        self.resolve_error = ""
        self.by_fd: dict[int, wire.Conn] = {}
        self.opening = 0
        self._idle: list[wire.Conn] = []

    def resolve(self) -> None:
        """Look the host up once, before the start; a name that is not found fails every request, in its row."""
        try:
            self.addresses = wire.resolve(self.to)
        except OSError as error:
            self.resolve_error = f"name resolution: {error.strerror or error}"

    def open(self, address_at: int) -> wire.Conn:
        """Begin a connection to one of the addresses. Raises OSError."""
        conn = wire.connect(self.to, self.addresses, address_at, self.context, kernel_stamps=self.kernel_stamps)
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
        if conn.state in (wire.CONNECTING, wire.HANDSHAKE):
            self.opening -= 1
        self.by_fd.pop(conn.fd, None)
        self.poll.unregister(conn.fd)
        conn.epoch += 1
        wire.close(conn, hard=hard)
