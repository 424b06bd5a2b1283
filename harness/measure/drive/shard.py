"""A worker's share of the plan, on disk: request bytes in segments, an index beside them, and a column of send stamps.

The bytes begin after the lines that all requests share (those hold the API key and stay in memory):
`x-request-id`, `content-length`, an empty line, the body. They are written while the run goes on (feed.py); behind the index
stands how many are. Where a gate is asked before each send (admission.py) a column beside it says of which it has been, and how it
answered. The stamps survive a worker that is killed, so that the parent knows which of its requests were
on their way, and both columns outlive the parent (left_drive.py).
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records import Phase

UNSCHEDULED = -1
AWAITS = -2  # goes out after the reply to another
NOT_READY_S = 0.001  # then it is looked again whether a request is written
SEGMENT_BITS = 44  # of a request's place: its segment above them, its offset there below
_FIELDS = 4  # int64 of an index entry: place, length, scheduled_ns (UNSCHEDULED in a closed loop, AWAITS for a later turn), output tokens
_OPEN_SEGMENTS = 2
BEGUN = -1  # a send stamp: some of the request's bytes may be gone
NOT_YET, ADMITTED, PASSED_OVER = 0, 1, 2  # of a request, in the gate's column


def index_file(scratch: Path, worker: int) -> Path:
    return scratch / f"shard-{worker}.index"


def sent_file(scratch: Path, worker: int) -> Path:
    """int64 per request: CLOCK_MONOTONIC of the send, 0 before it, BEGUN where it began and has not ended."""
    return scratch / f"shard-{worker}.sent"


def gate_file(scratch: Path, worker: int) -> Path:
    """A byte per request: NOT_YET, ADMITTED, PASSED_OVER."""
    return scratch / f"shard-{worker}.gate"


def segment_file(scratch: Path, worker: int, segment: int) -> Path:
    return scratch / f"shard-{worker}.bodies-{segment:06}"


def planned_file(scratch: Path) -> Path:
    """Prompts of requests in sessions, see turns.Planned."""
    return scratch / "planned"


def delete_prompts(scratch: Path) -> None:
    """Of all workers, when nobody sends any more."""
    for path in (planned_file(scratch), *scratch.glob("shard-*.bodies-*")):
        path.unlink(missing_ok=True)


def request_id(run_id: str, phase: Phase, seq: int) -> str:
    """Unique within a campaign and safe as a header value."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in run_id)
    return f"{safe}-{phase.value[0]}{abs(seq)}"


def with_headers(body: bytes, name: str) -> bytes:
    """A request after the lines that all share."""
    return f"x-request-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def indices(owner: Sequence[int]) -> array[int]:
    """Per position in the plan: the index in its owner's shard."""
    seen: dict[int, int] = {}
    indices = array("q")
    for w in owner:
        indices.append(seen.get(w, 0))
        seen[w] = indices[-1] + 1
    return indices


def create(scratch: Path, worker: int, due_ns: Sequence[int], target_tokens: Sequence[int]) -> None:
    """An index in which no request is written yet, and the stamps beside it."""
    rows = array("q", bytes(8 * _FIELDS * (len(due_ns) + 1)))
    for row, (due, tokens) in enumerate(zip(due_ns, target_tokens, strict=True)):
        rows[_FIELDS * row + 2], rows[_FIELDS * row + 3] = due, tokens
    index_file(scratch, worker).write_bytes(rows.tobytes())
    sent_file(scratch, worker).write_bytes(bytes(8 * len(due_ns)))


def publish(index: int, first: int, rows: array[int], count: int) -> None:
    """Into the index file of `count` requests: the entries of those from `first` on, and then, by itself, that they are there."""
    os.pwrite(index, rows.tobytes(), 8 * _FIELDS * first)
    os.pwrite(index, (first + len(rows) // _FIELDS).to_bytes(8, sys.byteorder), 8 * _FIELDS * count)


def open_sent(scratch: Path, worker: int) -> memoryview:
    """The send stamps, shared with whoever else has them open."""
    return _mapped(sent_file(scratch, worker))


def open_gate(scratch: Path, worker: int, count: int) -> memoryview:
    """The gate's column, made anew, shared with the worker that opens it later."""
    path = gate_file(scratch, worker)
    path.write_bytes(bytes(count))
    return _bytes_of(path)


class Shard:
    """A worker's view of its share. `scheduled_ns` and `target_tokens` (of output) per request; `sent` is shared with the parent."""

    def __init__(self, scratch: Path, worker: int) -> None:
        self._scratch, self._worker = scratch, worker
        self._index = _mapped(index_file(scratch, worker))
        rows = array("q")
        rows.frombytes(self._index[:-_FIELDS].tobytes())
        self.scheduled_ns: Sequence[int] = rows[2::_FIELDS]
        self.target_tokens: Sequence[int] = rows[3::_FIELDS]
        self.sent = open_sent(scratch, worker)
        gate = gate_file(scratch, worker)
        self._gate = _bytes_of(gate) if gate.exists() else None
        self._written = 0  # of the requests, when it was last looked
        self._segments: dict[int, int] = {}  # number -> descriptor

    def __len__(self) -> int:
        return len(self.target_tokens)

    def is_ready(self, index: int) -> bool:
        """Whether the request's bytes are written, and it was admitted or passed over."""
        if index >= self._written:
            self._written = self._index[-_FIELDS]
        return index < self._written and (self._gate is None or self._gate[index] != NOT_YET)

    def is_passed_over(self, index: int) -> bool:
        """Whether a request that is ready is to be left out."""
        return self._gate is not None and self._gate[index] == PASSED_OVER

    def piece(self, index: int) -> bytes:
        """The request's own headers and body."""
        place, length = self._index[_FIELDS * index], self._index[_FIELDS * index + 1]
        segment = place >> SEGMENT_BITS
        descriptor = self._segments.get(segment)
        if descriptor is None:
            descriptor = self._open(segment)
        return os.pread(descriptor, length, place & ((1 << SEGMENT_BITS) - 1))

    def _open(self, segment: int) -> int:
        """A few stay open: a file that is open takes its room, deleted or not."""
        while len(self._segments) >= _OPEN_SEGMENTS:
            os.close(self._segments.pop(next(iter(self._segments))))
        name = segment_file(self._scratch, self._worker, segment)
        self._segments[segment] = descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        return descriptor


@dataclass(frozen=True, slots=True)
class LeftShard:
    """What a worker's share says when its drive is no more, per index: bytes of the request (0: made later, see turns.py), the gate's
    column, the send stamps."""

    lengths: Sequence[int]
    gate: bytes
    sent: Sequence[int]


def left(scratch: Path, worker: int) -> LeftShard:
    """Raises OSError: a file is not there; ValueError: not whole."""
    rows, sent = array("q"), array("q")
    rows.frombytes(index_file(scratch, worker).read_bytes())
    sent.frombytes(sent_file(scratch, worker).read_bytes())
    gate = gate_file(scratch, worker).read_bytes()
    if not len(sent) == len(gate) == len(rows) // _FIELDS - 1:
        raise ValueError(f"files of worker {worker} are of different lengths")
    return LeftShard(rows[1:-_FIELDS:_FIELDS], gate, sent)


def _mapped(path: Path) -> memoryview:
    """A file of int64 in memory, written through."""
    return _bytes_of(path).cast("q")


def _bytes_of(path: Path) -> memoryview:
    with path.open("r+b") as file:
        if not os.fstat(file.fileno()).st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0))
