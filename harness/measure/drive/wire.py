"""Sockets: the only module that opens one. Non-blocking connections with kernel receive stamps, plain or TLS.

A connection's `recv` returns `(bytes, ancillary)` like socket.recvmsg; the ancillary data of the first element is a
struct timespec on CLOCK_REALTIME from the kernel or, where there is none, what `user_stamp` makes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import socket
import ssl
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from harness.base import clock
from harness.base.errors import ConfigError
from harness.measure.drive.http1 import Response
from harness.measure.drive.proxy import Tunnel

RECV_BYTES = 65536
ANCILLARY_BYTES = 64
SO_TIMESTAMPNS = getattr(socket, "SO_TIMESTAMPNS", 35)
USER_STAMP_SECONDS = -1  # marks a stamp taken in user space: (-1, CLOCK_MONOTONIC ns)
TIMESPEC = struct.Struct("=qq")
NO_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM))

Stamped = tuple[Any, ...]  # (bytes, ancillary, ..)
Address = tuple[int, Any]  # family, sockaddr
CONNECTING, HANDSHAKE, SENDING, WAITING, CAREFUL, IDLE, CLOSED, TUNNEL = range(8)
ON_THE_WAY = frozenset((CONNECTING, TUNNEL, HANDSHAKE))


@dataclass(frozen=True, slots=True)
class Destination:
    """Where requests go. `unix`: path of a Unix socket (http+unix://%2Fpath%2Fto.sock/v1)."""

    host: str
    port: int
    host_header: str
    base_path: str
    tls: bool
    unix: str | None = None


def destination(base_url: str) -> Destination:
    """Read a base URL. Raises ConfigError on a scheme or host that cannot be used."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if re.search(r"[\x00-\x20\x7f]", base_url):
        raise ConfigError("a base URL cannot hold spaces or control characters", ascii(base_url), "percent-encode them")
    if parts.scheme == "http+unix":
        return Destination("localhost", 0, "localhost", path, tls=False, unix=unquote(parts.netloc))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("not a base URL", base_url, "use http://HOST:PORT/v1 or https://HOST/v1")
    tls = parts.scheme == "https"
    netloc = parts.netloc.rpartition("@")[2]
    return Destination(parts.hostname, parts.port or (443 if tls else 80), netloc, path, tls=tls)


def resolve(to: Destination) -> list[Address]:
    """Addresses to try, in the system's order. Raises OSError (socket.gaierror) if the name is unknown."""
    if to.unix is not None:
        return [(socket.AF_UNIX, to.unix)]
    infos = socket.getaddrinfo(to.host, to.port, type=socket.SOCK_STREAM)
    return [(family, address) for family, _, _, _, address in infos]


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Certificate and host name are checked, against the system's store and `ca_file`. Raises ConfigError."""
    context = ssl.create_default_context()
    if ca_file:
        try:
            context.load_verify_locations(Path(ca_file).expanduser())
        except (OSError, ssl.SSLError) as error:
            raise ConfigError("the CA file cannot be used", ca_file, str(error)) from None
    context.set_alpn_protocols(["http/1.1"])
    return context


def user_stamp() -> list[tuple[int, int, bytes]]:
    """Stands in for the kernel's ancillary data, in the same shape."""
    return [(0, 0, TIMESPEC.pack(USER_STAMP_SECONDS, clock.monotonic_ns()))]


def hold_kernel_stamping() -> socket.socket | None:
    """Switch the kernel's receive stamps on and keep them on while the result is open: it turns them on lazily, so
    that the first segments of the first connection would come without."""
    holder = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        holder.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        holder.close()
        return None
    return holder


class Tls:
    """TLS through memory: ciphertext is received (and stamped) by recvmsg, decrypted here."""

    __slots__ = ("_in", "_kernel_stamps", "_out", "_sock", "_ssl", "pending")

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, host: str, *, kernel_stamps: bool) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._sock = sock
        self._kernel_stamps = kernel_stamps
        self.pending = b""  # ciphertext that the kernel did not take yet

    def handshake(self, readable: bool) -> bool:
        """One step; True when done. Raises OSError (ssl.SSLError included) when it fails."""
        if readable:
            data = self._sock.recv(RECV_BYTES)
            if not data:
                raise ConnectionResetError(errno.ECONNRESET, "connection closed in the TLS handshake")
            self._in.write(data)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self.flush()
        return True

    def recv(self, size: int, ancillary: int) -> Stamped:
        """Plaintext with the stamp of the ciphertext that completed it; raises BlockingIOError if none is complete."""
        if self._kernel_stamps:
            data, stamp, _, _ = self._sock.recvmsg(size, ancillary)
        else:
            data, stamp = self._sock.recv(size), []
        if not data:
            return (b"", stamp)
        self._in.write(data)
        plain: list[bytes] = []
        try:
            while piece := self._ssl.read(RECV_BYTES):
                plain.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not plain:
                return (b"", stamp)
        self.flush()
        if not plain:
            raise BlockingIOError
        return (b"".join(plain), stamp)

    def write(self, data: bytes) -> None:
        self._ssl.write(data)

    def flush(self) -> bool:
        """Send what is pending; True when all of it is gone."""
        self.pending += self._out.read()
        while self.pending:
            try:
                taken = self._sock.send(self.pending)
            except BlockingIOError:
                return False
            self.pending = self.pending[taken:]
        return True


class Conn:
    """One connection and the request on it (`index` -1: none). Plain state for the loop, which owns all changes."""

    __slots__ = (
        "address_at", "begun_ns", "body_seen", "buf", "careful", "connect_ns", "connect_started_ns", "due_ns", "epoch",
        "fd", "index", "last_ns", "look_reads", "out", "packed", "recv", "retried", "reused", "sent_ns", "sock", "state",
        "tls", "tls_ns", "tunnel", "waits_out",
    )  # fmt: skip

    def __init__(self, sock: socket.socket, recv: Callable[[int, int], Stamped], address_at: int) -> None:
        self.sock, self.fd, self.recv, self.address_at = sock, sock.fileno(), recv, address_at
        self.state = CONNECTING
        self.tls: Tls | None = None
        self.tunnel: Tunnel | None = None
        self.connect_started_ns = self.connect_ns = self.tls_ns = 0
        self.reused = False
        self.waits_out = True
        self.epoch = 0
        self.index = -1
        self.out: list[memoryview] = []
        self.clear()

    def clear(self) -> None:
        """Forget the exchange that is over; its lists are not emptied, they went elsewhere."""
        self.index = -1
        self.due_ns = self.begun_ns = self.sent_ns = self.last_ns = 0
        self.buf: list[Stamped] = []
        self.packed: list[Iterable[bytes]] = []  # three columns each, as reader.pack makes them
        self.careful: Response | None = None
        self.retried = self.body_seen = False
        self.look_reads = 0  # reads at which the reply is looked at
        self.epoch += 1

    def fresh(self) -> bool:
        """True until a byte of the response has come."""
        return not self.buf and not self.packed


def connect(
    to: Destination, addresses: list[Address], address_at: int, context: ssl.SSLContext | None, *, kernel_stamps: bool
) -> Conn:
    """Begin a connection without waiting for it. Raises OSError."""
    family, address = addresses[address_at]
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kernel_stamps:
            sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        conn = Conn(sock, sock.recvmsg if kernel_stamps else _plain_recv(sock), address_at)
        if context is not None:
            begin_tls(conn, context, to.host, kernel_stamps=kernel_stamps)
        conn.connect_started_ns = clock.monotonic_ns()
        code = sock.connect_ex(address)
        if code not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        return conn
    except BaseException:
        sock.close()
        raise


def begin_tls(conn: Conn, context: ssl.SSLContext, host: str, *, kernel_stamps: bool) -> None:
    """From here on the connection speaks TLS with `host`."""
    conn.tls = Tls(conn.sock, context, host, kernel_stamps=kernel_stamps)
    conn.recv = conn.tls.recv


def _plain_recv(sock: socket.socket) -> Callable[[int, int], Stamped]:
    def recv(size: int, _ancillary: int) -> Stamped:
        return (sock.recv(size), [])

    return recv


def connect_error(conn: Conn) -> int:
    """errno of a connection attempt that has ended, 0 for success."""
    return conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def something_waits(conn: Conn) -> bool:
    """True if the kernel has something for this connection that has not been read: bytes, an end, a connection made."""
    poller = select.poll()
    poller.register(conn.fd, select.POLLOUT if conn.state == CONNECTING else select.POLLIN)
    return bool(poller.poll(0))


def begin_send(conn: Conn, head: bytes, rest: memoryview) -> None:
    """Queue a request; `send_more` moves it to the kernel."""
    if conn.tls is not None:
        conn.tls.write(head + bytes(rest))
    else:
        conn.out = [memoryview(head), rest]


def send_more(conn: Conn) -> bool:
    """Give the kernel what it takes; True when it has the last byte. `sent_ns` is read just before the call that
    succeeds: a client descheduled in that call would otherwise make the server look faster than it was."""
    conn.sent_ns = clock.monotonic_ns()
    if conn.tls is not None:
        return conn.tls.flush()
    try:
        taken = conn.sock.sendmsg(conn.out)
    except BlockingIOError:
        return False
    while conn.out and taken >= len(conn.out[0]):
        taken -= len(conn.out[0])
        del conn.out[0]
    if conn.out:
        conn.out[0] = conn.out[0][taken:]
    return not conn.out


def close(conn: Conn, *, hard: bool = False) -> None:
    """Close; `hard` resets the connection so that the server learns at once that nobody reads."""
    conn.state = CLOSED
    if hard:
        with contextlib.suppress(OSError):
            conn.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    conn.sock.close()


def received(conn: Conn) -> bytes:
    """All bytes of the reply so far, of a connection whose stream the reader has not adopted."""
    return b"".join((*(data for _, _, data in conn.packed), *(read[0] for read in conn.buf)))
