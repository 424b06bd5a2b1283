"""How finished exchanges leave a worker: append-only segment files that the parent tails and deletes.

A pipe would block the read loop when the parent is slow, or need a second buffer; a file takes everything at the
price of one memory copy, and outlives both processes. Each message is a length and a marshalled tuple: flat, from our own
process, same Python.
"""

from __future__ import annotations

import fcntl
import marshal
import os
import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import clock

SEGMENT_BYTES = 16 * 1024 * 1024
_LENGTH = struct.Struct("<Q")


def _segment(scratch: Path, worker: int, number: int) -> Path:
    return scratch / f"spool-{worker}-{number:06d}"


def _lock(scratch: Path, worker: int) -> int:
    return os.open(scratch / f"spool-{worker}.lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)


def is_written(scratch: Path, worker: int) -> bool:
    """True while a process lives that has the Writer of this spool open."""
    fd = _lock(scratch, worker)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


class Writer:
    """The worker's end. `put` never waits for the reader. `preface`: a message that every segment begins with, so that
    it can be read without those before it."""

    def __init__(self, scratch: Path, worker: int) -> None:
        self._scratch, self._worker = scratch, worker
        self.preface: tuple[Any, ...] | None = None
        self._number = -1
        self._fd = -1
        self._room = 0
        self._held = _lock(scratch, worker)  # until this process ends
        fcntl.flock(self._held, fcntl.LOCK_EX)

    def put(self, message: tuple[Any, ...]) -> None:
        payload = marshal.dumps(message)
        if self._room <= 0:
            self._next_segment()
        parts = [_LENGTH.pack(len(payload)), payload]
        wanted = len(payload) + _LENGTH.size
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
    told to."""

    def __init__(self, scratch: Path, worker: int) -> None:
        self._scratch, self._worker = scratch, worker
        self._number = min((int(p.name.rpartition("-")[2]) for p in scratch.glob(f"spool-{worker}-*")), default=0)
        self._fd = -1
        self._read_to_end: deque[tuple[int, Path]] = deque()  # when, which segment

    def messages(self) -> Iterator[tuple[Any, ...]]:
        """Every message that is complete by now."""
        while True:
            message = self._read()
            if message is not None:
                yield message
            elif not self._advance():
                return

    def _read(self) -> tuple[Any, ...] | None:
        if self._fd < 0:
            try:
                self._fd = os.open(_segment(self._scratch, self._worker, self._number), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        here = os.lseek(self._fd, 0, os.SEEK_CUR)
        head = os.read(self._fd, _LENGTH.size)
        if len(head) == _LENGTH.size:
            payload = _read_exactly(self._fd, _LENGTH.unpack(head)[0])
            if payload is not None:
                value: tuple[Any, ...] = marshal.loads(payload)  # noqa: S302 - written by our own worker, mode 0600
                return value
        os.lseek(self._fd, here, os.SEEK_SET)
        return None

    def _advance(self) -> bool:
        """Go to the next segment if the writer has: then this one is whole, and a last look found nothing more."""
        if self._fd < 0 or not _segment(self._scratch, self._worker, self._number + 1).exists():
            return False
        if os.lseek(self._fd, 0, os.SEEK_CUR) < os.fstat(self._fd).st_size:
            return True  # it grew between the two looks
        self.close()
        self._read_to_end.append((clock.monotonic_ns(), _segment(self._scratch, self._worker, self._number)))
        self._number += 1
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


def _read_exactly(fd: int, wanted: int) -> bytes | None:
    parts: list[bytes] = []
    while wanted:
        part = os.read(fd, wanted)
        if not part:
            return None
        parts.append(part)
        wanted -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
