"""How finished exchanges leave a worker: append-only segment files that the parent tails and deletes.

A pipe would block the read loop when the parent is slow, or need a second buffer; a file takes everything at the
price of one memory copy, and outlives both processes. Each message is a record: MAGIC, the payload's length, a CRC-32 of length and
payload, a marshalled tuple (flat, from our own process, same Python). A record that is damaged is passed over, up to the next that
is whole, and spoken of; both readers' replies come here whole, so this is the one place where records are made.
"""

from __future__ import annotations

import fcntl
import marshal
import mmap
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.files import open_lock, try_lock

SEGMENT_BYTES = 16 * 1024 * 1024
MAGIC = b"\xf5spool\x1a\n"  # what reading begins again at after damage; 0xf5 is in no UTF-8 text
_HEAD = struct.Struct("<8sQI")
_LENGTH = struct.Struct("<Q")


def _segment(scratch: Path, worker: int, number: int) -> Path:
    return scratch / f"spool-{worker}-{number:06d}"


def _lock(scratch: Path, worker: int) -> int:
    return open_lock(scratch / f"spool-{worker}.lock")


def is_written(scratch: Path, worker: int) -> bool:
    """True while a process lives that has the Writer of this spool open."""
    fd = _lock(scratch, worker)
    try:
        return not try_lock(fd, shared=True)
    finally:
        os.close(fd)


class Writer:
    """The worker's end. `put` never waits for the reader. `preface`: a message that every segment begins with, so that
    it can be read without those before it. `veil` takes each message and gives it without secrets; None where there are none."""

    def __init__(self, scratch: Path, worker: int) -> None:
        self._scratch, self._worker = scratch, worker
        self.preface: tuple[Any, ...] | None = None
        self.veil: Callable[[tuple[Any, ...]], tuple[Any, ...]] | None = None
        self._number = -1
        self._fd = -1
        self._room = 0
        self._held = _lock(scratch, worker)  # until this process ends
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def put(self, message: tuple[Any, ...]) -> None:
        payload = marshal.dumps(message if self.veil is None else self.veil(message))
        if self._room <= 0:
            self._next_segment()
        crc = zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload))))
        parts = [_HEAD.pack(MAGIC, len(payload), crc), payload]
        wanted = len(payload) + _HEAD.size
        done = os.writev(self._fd, parts)
        while (
            done < wanted
        ):  # only a full disk or a signal ends a file write early; the next try raises if it is the disk
            rest = b"".join(parts)[done:]
            done += os.write(self._fd, rest)
        self._room -= wanted

    def _next_segment(self) -> None:
        self.close()
        self._number += 1
        path = _segment(self._scratch, self._worker, self._number)
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._room = SEGMENT_BYTES
        if self.preface is not None:
            self.put(self.preface)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Tail:
    """The parent's end: yields whole messages in order, from the first segment that is there; deletes what was read when
    told to. `written`: False where the worker is gone, so that what is cut off will not come. `damaged`: what could not be read."""

    def __init__(self, scratch: Path, worker: int, *, written: bool = True) -> None:
        self._scratch, self._worker, self._written = scratch, worker, written
        self.damaged: list[str] = []
        self._number = min(self._numbers(), default=0)
        self._fd = -1
        self._at = 0
        self._read_to_end: deque[tuple[int, Path]] = deque()  # when, which segment

    def _numbers(self) -> list[int]:
        names = [path.name.rpartition("-")[2] for path in self._scratch.glob(f"spool-{self._worker}-*")]
        return [int(name) for name in names if name.isdecimal()]

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Every message that is complete by now."""
        while True:
            message = self._read()
            if message is not None:
                yield message
            elif not self._advance():
                return

    def _read(self) -> tuple[Any, ...] | None:
        """The next message of this segment; None where there is none yet, or none any more."""
        if self._fd < 0:
            try:
                self._fd = os.open(_segment(self._scratch, self._worker, self._number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            self._at = 0
        size = os.fstat(self._fd).st_size
        while self._at < size:
            message, after = self._record(size)
            if message is not None:
                self._at = after
                return message
            if after == self._at:  # no more can be read by now: it may still come, into a segment without a successor
                whole, known = self._is_whole(), size
                size = os.fstat(self._fd).st_size
                if not whole:
                    return None
                if size > known:
                    continue
                after = size
            name = _segment(self._scratch, self._worker, self._number).name
            self.damaged.append(f"{name}: {after - self._at:,} bytes at {self._at:,} cannot be read")
            self._at = after
        return None

    def _is_whole(self) -> bool:
        """True if nothing more will be written into this segment."""
        return not self._written or _segment(self._scratch, self._worker, self._number + 1).exists()

    def _record(self, size: int) -> tuple[tuple[Any, ...] | None, int]:
        """The message of the record here and where it ends; else None and where the next may begin (here: nowhere yet)."""
        if size - self._at >= _HEAD.size:
            magic, length, crc = _HEAD.unpack(os.pread(self._fd, _HEAD.size, self._at))
            after = self._at + _HEAD.size + length
            if magic != MAGIC:
                return None, self._next_magic(size)
            if after <= size:
                message = _message(_read_exactly(self._fd, length, self._at + _HEAD.size), crc)
                return (message, after) if message is not None else (None, self._next_magic(size))
        if not self._is_whole() or os.fstat(self._fd).st_size > size:
            return None, self._at
        return None, self._next_magic(size)

    def _next_magic(self, size: int) -> int:
        """Where the next record may begin; here if nowhere."""
        with mmap.mmap(self._fd, size, access=mmap.ACCESS_READ) as data:
            at = data.find(MAGIC, self._at + 1)
        return self._at if at < 0 else at

    def _advance(self) -> bool:
        """Go to the next segment if the writer has: then this one is whole, and a last look found nothing more."""
        if self._fd < 0:
            return False
        if not _segment(self._scratch, self._worker, self._number + 1).exists():
            return self._skip_lost()
        if self._at < os.fstat(self._fd).st_size:
            return True  # it grew between the two looks
        self.close()
        self._read_to_end.append((clock.monotonic_ns(), _segment(self._scratch, self._worker, self._number)))
        self._number += 1
        return True

    def _skip_lost(self) -> bool:
        """Where nobody writes any more: go to the next segment that is there, if one is; those between were lost."""
        following = min((n for n in self._numbers() if n > self._number), default=None)
        if self._written or following is None:
            return False
        self.damaged.append(f"spool-{self._worker}: no segment between {self._number} and {following}")
        self.close()
        self._number = following
        return True

    def forget(self, before_ns: int) -> None:
        """Delete the segments whose last message was read before that moment."""
        while self._read_to_end and self._read_to_end[0][0] < before_ns:
            self._read_to_end.popleft()[1].unlink(missing_ok=True)

    def is_behind(self, size: int) -> bool:
        """True if more than about `size` bytes have been written and not been read."""
        return _segment(self._scratch, self._worker, self._number + max(1, size // SEGMENT_BYTES)).exists()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _message(payload: bytes | None, crc: int) -> tuple[Any, ...] | None:
    """The tuple of a record, None if it is damaged."""
    if payload is None or zlib.crc32(payload, zlib.crc32(_LENGTH.pack(len(payload)))) != crc:
        return None
    try:
        message = marshal.loads(payload)  # noqa: S302 - written by our own worker, mode 0600
    except (ValueError, TypeError, EOFError):  # another Python's
        return None
    return message if isinstance(message, tuple) else None


def _read_exactly(fd: int, wanted: int, at: int) -> bytes | None:
    parts: list[bytes] = []
    while wanted:
        part = os.pread(fd, wanted, at)
        if not part:
            return None
        parts.append(part)
        wanted -= len(part)
        at += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
