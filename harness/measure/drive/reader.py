"""How a worker waits and reads: poll, receive, stamp, append. In Python, and compiled (reader.c) where there is a compiler.

A stream is adopted before its reply's first byte. The reader takes its bytes by itself and only says when it begins
otherwise than usual (UNUSUAL), may have ended (MAY_END), has come to a length at which it is to be looked at (LONG), was closed
by the server (CLOSED) or lost (LOST, with an errno in it); events of all other descriptors come back as epoll gave them.
"""

from __future__ import annotations

import ctypes
import os
import select
import sys
from array import array
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import HarnessError
from harness.base.files import cache_dir
from harness.measure.drive import cc, wire
from harness.measure.drive.http1 import ENDS, may_end, usual_head

SOURCE = Path(__file__).with_name("reader.c")
UNUSUAL, MAY_END, CLOSED, LOST, LONG = 1 << 16, 1 << 17, 1 << 18, 1 << 19, 1 << 20  # beyond epoll's own bits
LEAST_REST_NS = 50_000  # shorter rests cost more than they save
MARGIN_NS = 100_000  # a rest ends so long before the caller is due, for it may end late
COMPACT_READS = 128
READ_BYTES = 20  # stamp and length of a read, beside what it brought
HEAD_BYTES = 65536  # more than a usual head has
_SHORT = 8  # a read of fewer bytes may be the rest of an end that was split
_ENOUGH = 256  # reads out of one poll after which the next follows at once: more may wait than one poll gives

Events = list[tuple[int, int]]  # descriptor, what
Packed = Iterable[bytes]  # three columns, as `pack` makes them


class Reader:
    """The reader in Python: where nothing can be compiled, and for TLS, whose bytes go through the interpreter anyway.

    `found`, `woke_ns`: events of the last turn, and when it woke up; `user_reads`: reads without the kernel's stamp;
    `busy_max_ns`: the longest from waking up until everything that was there had been read; `own_bytes`: of replies that
    stand in Python's memory, those that others have read too."""

    name = "reader in Python"

    def __init__(self) -> None:
        self.poll = make_poll()
        self.found = self.woke_ns = self.user_reads = self.busy_max_ns = self.own_bytes = 0
        self._hot: dict[int, tuple[Any, list[wire.Stamped]]] = {}
        self._lost: dict[int, OSError] = {}

    def wait(self, timeout_s: float, until_ns: int, gather_ns: int) -> Events:
        """Read adopted streams until something is for the caller, a poll found nothing, or it is `until_ns`. Where a poll
        came at once and yet found little, more may gather for `gather_ns`: waking up for every chunk costs more than
        reading it, and the kernel's stamps do not depend on the read."""
        now, hot, poll, stamp, size, room = clock.monotonic_ns, self._hot, self.poll.poll, wire.user_stamp, wire.RECV_BYTES, wire.ANCILLARY_BYTES  # fmt: skip
        asked: Events = []
        before = now()
        while True:
            events = poll(timeout_s)
            woke = now()
            for fd, event in events:
                h = hot.get(fd)
                if h is None:
                    asked.append((fd, event))
                    continue
                recv, buf = h
                try:
                    read = recv(size, room)
                except BlockingIOError:
                    continue
                except OSError as error:
                    self._lost[fd] = error
                    asked.append((fd, LOST))
                    continue
                data = read[0]
                if not data:
                    asked.append((fd, CLOSED))
                    continue
                if not read[1]:
                    read = (data, stamp())
                    self.user_reads += 1
                buf.append(read)
                self.own_bytes += len(data) + READ_BYTES
                if len(buf) == 1:
                    if usual_head(data) is None:
                        asked.append((fd, UNUSUAL))
                    elif may_end(data):
                        asked.append((fd, MAY_END))
                elif data.endswith(ENDS) or len(data) < _SHORT:
                    asked.append((fd, MAY_END))
                elif len(buf) >= COMPACT_READS:
                    asked.append((fd, LONG))
            then, found = now(), len(events)
            self.busy_max_ns = max(self.busy_max_ns, then - woke)
            if asked or not found or then >= until_ns:
                self.found, self.woke_ns = found, woke
                return asked
            rest_ns = min(gather_ns, until_ns - then - MARGIN_NS)
            if (
                woke - before < gather_ns
                and found < _ENOUGH
                and rest_ns >= LEAST_REST_NS
                and not self.user_reads  # our own stamps would be as late as the read
            ):
                clock.sleep(rest_ns / clock.NS)
                then = now()
            before = then

    def adopt(self, conn: wire.Conn) -> None:
        """Take a stream over before its first read."""
        self._hot[conn.fd] = (conn.recv, conn.buf)

    def look(self, conn: wire.Conn, look_reads: int, look_bytes: int) -> None:
        """LONG comes where it has so many reads or bytes, once; of this reader, every COMPACT_READS reads."""

    def adopted(self, conn: wire.Conn) -> bool:
        return conn.fd in self._hot

    def release(self, conn: wire.Conn) -> None:
        """Give it back: all that was read stands in its `packed` and `buf`. Nothing happens if it was not adopted."""
        self._hot.pop(conn.fd, None)

    def error(self, fd: int, event: int) -> OSError:
        """What a LOST event means."""
        code = event & ~LOST
        return self._lost.pop(fd, None) or OSError(code, os.strerror(code))

    def forget(self, packed: list[Packed], buf: list[wire.Stamped]) -> None:
        """What a connection's `packed` and `buf` held is not needed any more."""
        self.own_bytes -= sum(_size(piece) for piece in packed if isinstance(piece, tuple))
        self.own_bytes -= sum(len(read[0]) + READ_BYTES for read in buf)

    @property
    def held_bytes(self) -> int:
        """Of all replies that were not forgotten."""
        return self.own_bytes

    def begin(self, conn: wire.Conn) -> bytes:
        """The first bytes of an adopted stream, its head among them."""
        return b"".join(list(conn.packed[0])[2:] if conn.packed else [read[0] for read in conn.buf[:2]])

    def tail(self, conn: wire.Conn, size: int) -> bytes:
        """The last bytes of an adopted stream: `size` of them, or what two reads hold."""
        return b"".join([read[0] for read in conn.buf[-2:]])[-size:]

    def last_stamp(self, conn: wire.Conn) -> tuple[int, int] | None:
        """Seconds and nanoseconds of the last read; None before the first."""
        return wire.TIMESPEC.unpack(conn.buf[-1][1][0][2]) if conn.buf else None

    def reads(self, conn: wire.Conn) -> int:
        """How many of an adopted stream, about."""
        return len(conn.buf) + COMPACT_READS * len(conn.packed)

    def all(self, conn: wire.Conn) -> bytes:
        """All bytes of the reply so far."""
        return wire.received(conn)

    def held(self, conn: wire.Conn) -> int:
        """Bytes held. All reads but the last two become flat bytes here, if they are many: less than half the size."""
        if len(conn.buf) > COMPACT_READS:
            keep = conn.buf[-2:]
            conn.packed.append(pack(conn.buf[:-2]))
            conn.buf[:] = keep  # in place: the loop above holds this list
        return sum(map(_size, conn.packed))


def _size(piece: Packed) -> int:
    """Bytes of packed reads, their stamps and lengths too."""
    return sum(map(len, piece))


class _Stream(ctypes.Structure):
    """The beginning of reader.c's `struct stream`."""

    _fields_ = (
        ("reads", ctypes.c_int64),
        ("bytes", ctypes.c_int64),
        ("_reads_room", ctypes.c_int64),
        ("_bytes_room", ctypes.c_int64),
        ("stamps", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("look_reads", ctypes.c_int64),
        ("look_bytes", ctypes.c_int64),
    )


class _State(ctypes.Structure):
    """The beginning of reader.c's `struct reader`."""

    _fields_ = tuple((name, ctypes.c_int64) for name in ("user_reads", "busy_max_ns", "woke_ns", "found", "held"))


class Held:
    """Reads in the compiled reader's memory, as the three columns of `pack`; copied when they are asked for."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream

    def __iter__(self) -> Iterator[bytes]:
        at, stream = ctypes.string_at, self.stream
        yield at(stream.stamps, 16 * stream.reads)
        yield at(stream.lengths, 4 * stream.reads)
        yield at(stream.data, stream.bytes)


class CompiledReader(Reader):
    """reader.c, loaded through ctypes: an adopted stream costs the interpreter nothing until it ends."""

    name = "compiled reader"

    def __init__(self, library: Path) -> None:
        """Raises OSError if the library cannot be loaded."""
        c = ctypes.CDLL(str(library))
        c.reader_new.restype = ctypes.POINTER(_State)
        c.reader_adopt.restype = ctypes.POINTER(_Stream)
        c.reader_asked.restype = ctypes.POINTER(ctypes.c_int32)
        c.reader_adopt.argtypes = [ctypes.c_void_p, ctypes.c_int]
        c.reader_wait.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        c.reader_release.argtypes = [ctypes.c_void_p, ctypes.c_int]
        c.reader_reuse.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        super().__init__()
        self._c, self._wait = c, c.reader_wait
        state = c.reader_new(self.poll.fileno())
        self._state: _State = state.contents
        self._r = ctypes.cast(state, ctypes.c_void_p)
        self._asked = c.reader_asked(self._r)
        self._streams: dict[int, _Stream] = {}

    def wait(self, timeout_s: float, until_ns: int, gather_ns: int) -> Events:
        n = self._wait(self._r, int(timeout_s * 1000), until_ns, gather_ns, _ENOUGH)
        state = self._state
        self.found, self.woke_ns = state.found, state.woke_ns
        self.user_reads, self.busy_max_ns = state.user_reads, state.busy_max_ns
        if not n:
            return []
        flat = self._asked[: 2 * n]
        return list(zip(flat[::2], flat[1::2], strict=True))

    def adopt(self, conn: wire.Conn) -> None:
        """Raises MemoryError."""
        stream = self._c.reader_adopt(self._r, conn.fd)
        if not stream:
            raise MemoryError
        self._streams[conn.fd] = stream.contents

    def look(self, conn: wire.Conn, look_reads: int, look_bytes: int) -> None:
        stream = self._streams.get(conn.fd)
        if stream is not None:
            stream.look_reads, stream.look_bytes = look_reads, look_bytes

    def adopted(self, conn: wire.Conn) -> bool:
        return conn.fd in self._streams

    def release(self, conn: wire.Conn) -> None:
        stream = self._streams.pop(conn.fd, None)
        if stream is not None:
            self._c.reader_release(self._r, conn.fd)
            conn.packed.append(Held(stream))
            if not stream.reads:
                self.forget(conn.packed, [])
                conn.packed.clear()

    def forget(self, packed: list[Packed], buf: list[wire.Stamped]) -> None:
        super().forget(packed, buf)
        for piece in packed:
            if isinstance(piece, Held):
                self._c.reader_reuse(self._r, ctypes.byref(piece.stream))

    @property
    def held_bytes(self) -> int:
        return self.own_bytes + int(self._state.held)

    def all(self, conn: wire.Conn) -> bytes:
        stream = self._streams.get(conn.fd)
        return super().all(conn) if stream is None else ctypes.string_at(stream.data, stream.bytes)

    def begin(self, conn: wire.Conn) -> bytes:
        stream = self._streams.get(conn.fd)
        return super().begin(conn) if stream is None else ctypes.string_at(stream.data, min(stream.bytes, HEAD_BYTES))

    def tail(self, conn: wire.Conn, size: int) -> bytes:
        stream = self._streams.get(conn.fd)
        if stream is None:
            return super().tail(conn, size)
        size = min(size, stream.bytes)
        return ctypes.string_at(stream.data + stream.bytes - size, size)

    def last_stamp(self, conn: wire.Conn) -> tuple[int, int] | None:
        stream = self._streams.get(conn.fd)
        if stream is None and conn.packed and not conn.buf and isinstance(held := conn.packed[-1], Held):
            stream = held.stream  # given back, and nothing has come since
        if stream is None:
            return super().last_stamp(conn)
        if not stream.reads:
            return None
        return wire.TIMESPEC.unpack(ctypes.string_at(stream.stamps + 16 * (stream.reads - 1), 16))

    def reads(self, conn: wire.Conn) -> int:
        stream = self._streams.get(conn.fd)
        return super().reads(conn) if stream is None else int(stream.reads)

    def held(self, conn: wire.Conn) -> int:
        stream = self._streams.get(conn.fd)
        return super().held(conn) if stream is None else int(stream.bytes + READ_BYTES * stream.reads)


def pack(buf: list[wire.Stamped]) -> tuple[bytes, bytes, bytes]:
    """Reads as three columns: 16-byte stamps, uint32 lengths, the bytes themselves."""
    return (
        b"".join([read[1][0][2] for read in buf]),
        array("I", [len(read[0]) for read in buf]).tobytes(),
        b"".join([read[0] for read in buf]),
    )


def library() -> str | None:
    """Path of the compiled reader, made if need be; None where it cannot be, or HARNESS_READER=python asks for the other."""
    if os.environ.get("HARNESS_READER") == "python" or not hasattr(select, "epoll"):
        return None
    try:
        return str(cc.build(SOURCE, cache_dir("reader"), library=True))
    except HarnessError as error:
        _say_once(f"the reader runs in Python: {'; '.join(str(error).splitlines())}")
        return None


@cache
def _say_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def make(compiled: str | None, *, tls: bool) -> Reader:
    """The compiled one where it exists, whole, and can be used."""
    if compiled is not None and not tls and cc.is_whole(Path(compiled)):
        try:
            return CompiledReader(Path(compiled))
        except (OSError, AttributeError):  # another machine's, say, in a shared home
            pass
    return Reader()


class _Poll:
    """select.poll in the shape of epoll, for systems without epoll."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register, self.modify, self.unregister = self._poll.register, self._poll.modify, self._poll.unregister

    def poll(self, timeout_s: float) -> list[tuple[int, int]]:
        return self._poll.poll(timeout_s * 1000)


def make_poll() -> Any:
    """epoll, or the nearest thing this system has."""
    return select.epoll() if hasattr(select, "epoll") else _Poll()
