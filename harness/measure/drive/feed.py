"""Writes requests into the workers' shards while they are sent: a bounded number of bytes ahead, and none are kept when over."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from harness.base import clock
from harness.measure.drive import dialect, shard, turns
from harness.measure.job import Job
from harness.records import Endpoint, Prompt

AHEAD_BYTES = 256 << 20  # of all workers: written and not begun
SEGMENT_BYTES = 16 << 20


class Feed:
    """The requests of a drive on their way to its workers, in the plan's order. Where arrivals are not in that order, the first
    call writes all of them."""

    def __init__(
        self, job: Job, owner: Sequence[int], workers: int, endpoint: Endpoint, scratch: Path, tree: turns.Tree
    ) -> None:
        requests = self.requests = job.requests
        self.job, self.endpoint, self.tree = job, endpoint, tree
        self._planned = turns.Planned(shard.planned_file(scratch)) if tree.waiting else None
        self._prompts: Iterator[Prompt] = iter(job.prompts)
        self._owner, self._next = owner, 0
        self.piece_bytes = array("q")  # per request that is written, where a gate asks for it
        due_ns: list[list[int]] = [[] for _ in range(workers)]
        tokens: list[list[int]] = [[] for _ in range(workers)]
        for i, request in enumerate(requests):
            due_ns[owner[i]].append(self._due_ns(i))
            tokens[owner[i]].append(request.target_output_tokens)
        for worker in range(workers):
            shard.create(scratch, worker, due_ns[worker], tokens[worker])
        if tree.waiting:
            turns.write_tree(tree, owner, workers, scratch)
        self._ahead_bytes = 0
        scheduled = [r.scheduled_ns for r in requests if r.scheduled_ns is not None]
        self._limit_bytes = AHEAD_BYTES if all(map(int.__le__, scheduled, scheduled[1:])) else 1 << 62
        self._of_worker = [_Written(scratch, worker) for worker in range(workers)]

    def _due_ns(self, i: int) -> int:
        if i in self.tree.root:
            return shard.AWAITS
        due = self.requests[i].scheduled_ns
        return shard.UNSCHEDULED if due is None else due

    @property
    def written(self) -> int:
        """So many of the plan's requests."""
        return self._next

    @property
    def is_low(self) -> bool:
        """Less than half of what may be ahead is, and there is more."""
        return self._next < len(self.requests) and self._ahead_bytes < self._limit_bytes // 2

    def fill(self, budget_ns: int) -> bool:
        """Write what may be ahead, for about so long; True if there is more that may. Raises OSError."""
        until = clock.monotonic_ns() + budget_ns
        self._ahead_bytes -= sum(written.begun() for written in self._of_worker)
        while more := self._next < len(self.requests) and self._ahead_bytes < self._limit_bytes:
            self._write()
            if clock.monotonic_ns() > until:
                break
        self._publish()
        return more

    def units(self, position: int) -> list[Any]:
        """The planned prompt of a request in a session, see turns.Planned; written now if it was not yet."""
        assert self._planned is not None
        while self._next <= position:
            self._write()
        self._publish()
        return self._planned.units(position)

    def _publish(self) -> None:
        for written in self._of_worker:
            written.publish()

    def over(self, worker: int, index: int) -> None:
        """The request has its row: nobody reads its bytes again."""
        self._of_worker[worker].over(index)

    def _write(self) -> None:
        i, prompt = self._next, next(self._prompts)
        self._next += 1
        request, written = self.requests[i], self._of_worker[self._owner[i]]
        followed = i in self.tree.followers
        size = 0
        if self._planned is not None and (followed or i in self.tree.root):
            size += self._planned.add(i, prompt)
        piece = b""
        if i not in self.tree.root:  # else its bytes are made when it is known what they answer
            body = dialect.encode(self.endpoint, request, prompt, followed=followed)
            piece = shard.with_headers(body, shard.request_id(self.job.run_id, self.job.phase, request.seq))
        size += len(piece)
        if self.job.gate is not None:
            self.piece_bytes.append(len(piece))
        written.add(piece, size, self._due_ns(i), request.target_output_tokens)
        self._ahead_bytes += size

    def close(self) -> None:
        for written in self._of_worker:
            written.close()
        if self._planned is not None:
            self._planned.close()


class _Written:
    """What of one worker's share is written. A segment goes when all its requests have their rows."""

    def __init__(self, scratch: Path, worker: int) -> None:
        self._scratch, self._worker = scratch, worker
        self._sent = shard.open_sent(scratch, worker)
        self._index = os.open(shard.index_file(scratch, worker), os.O_WRONLY | os.O_CLOEXEC)
        self._size = array("q")  # per request: bytes written for it
        self._segment_of = array("q")  # per request; -1: none, or it has its row
        self._left: dict[int, int] = {}  # segment -> requests without a row
        self._begun = 0  # every request before it was begun, or waits for another
        self._file: IO[bytes] | None = None
        self._segment, self._at = -1, 0
        self._rows = array("q")  # index entries that the worker does not see yet
        self._published = 0

    def add(self, piece: bytes, size: int, due_ns: int, target_tokens: int) -> None:
        """The next request; without a piece it waits for another's reply."""
        self._size.append(size)
        if not piece:
            self._segment_of.append(-1)
            self._rows.extend((0, 0, due_ns, target_tokens))
            return
        file = self._segment_file()
        file.write(piece)
        self._segment_of.append(self._segment)
        self._left[self._segment] += 1
        self._rows.extend((self._segment << shard.SEGMENT_BITS | self._at, len(piece), due_ns, target_tokens))
        self._at += len(piece)

    def publish(self) -> None:
        """The worker may send what was added."""
        if not self._rows:
            return
        if self._file is not None:
            self._file.flush()
        shard.publish(self._index, self._published, self._rows, len(self._sent))
        self._published = len(self._size)
        self._rows = array("q")

    def begun(self) -> int:
        """Bytes of requests that were begun since the last call."""
        size = 0
        while self._begun < len(self._size):
            i = self._begun
            if self._segment_of[i] >= 0 and not self._sent[i]:
                break
            size += self._size[i]
            self._begun += 1
        return size

    def over(self, index: int) -> None:
        segment = self._segment_of[index] if index < len(self._segment_of) else -1
        if segment < 0:
            return
        self._segment_of[index] = -1
        self._left[segment] -= 1
        if not self._left[segment] and segment != self._segment:
            self._delete(segment)

    def _segment_file(self) -> IO[bytes]:
        """Where the next request goes."""
        if self._file is not None and self._at < SEGMENT_BYTES:
            return self._file
        if self._file is not None:
            self._file.close()
            if not self._left[self._segment]:
                self._delete(self._segment)
        self._segment, self._at = self._segment + 1, 0
        self._left[self._segment] = 0
        self._file = shard.segment_file(self._scratch, self._worker, self._segment).open("wb")
        return self._file

    def _delete(self, segment: int) -> None:
        del self._left[segment]
        shard.segment_file(self._scratch, self._worker, segment).unlink()

    def close(self) -> None:
        if self._file is not None:
            with suppress(OSError):  # what is not written yet nobody sends
                self._file.close()
        os.close(self._index)
