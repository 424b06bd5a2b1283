"""Asks a job's gate (../gate.py) about each request before its worker may send it, and keeps the answers where the worker looks.

Prompts are written ahead as ever; a worker leaves one alone until its byte in the gate's column (shard.py) is set, and passes
over those that are not its drive's. A session's later turn is asked about when its body has been made, and only then told of.
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.base import clock
from harness.measure.drive import shard
from harness.measure.drive.feed import Feed
from harness.measure.drive.turns import Tree, Turn
from harness.measure.gate import Answer, Asked, Gate
from harness.measure.job import Job

FOREVER_NS = 1 << 62
LATER_NS = 2_000_000  # a request that has to wait is asked about again after so long
LOOK_NS = 5_000_000  # and a closed loop's next ones looked for, as slots come free
LOOK_AHEAD_NS = 25_000_000  # where every slot has its next one already: waking up takes the worker's cache from it
SLICE_NS = 5_000_000


class Admission:
    """What of a drive may go out. `stopped`: the gate, or the drive, wants nothing more to."""

    def __init__(
        self, job: Job, gate: Gate, feed: Feed, owner: Sequence[int], workers: int, tree: Tree, scratch: Path
    ) -> None:
        self._job, self.gate, self._feed, self._owner, self._tree = job, gate, feed, owner, tree
        self._index = shard.indices(owner)
        self._columns = [shard.open_gate(scratch, w, count) for w, count in enumerate(_counts(owner, workers))]
        self.passed_over = 0
        self.stopped = False
        self._started_ns: int | None = None
        firsts = (i for i in range(len(job.requests)) if i not in tree.root)
        slots = job.load.concurrency
        self._is_closed = slots is not None
        self._left = Counter(tree.root.values())  # root -> later turns of its session that are not over
        self._open = [0] * workers  # admitted and not over; a session as long as it lasts
        self._queues: list[deque[int]]
        if slots is None:
            self._queues = [deque(sorted(firsts, key=lambda i: (job.requests[i].scheduled_ns or 0, i)))]
            self._room: list[int] = []
        else:
            self._queues = [deque() for _ in range(workers)]
            for i in firsts:
                self._queues[owner[i]].append(i)
            self._room = [len(range(w, slots, workers)) + gate.ahead for w in range(workers)]
        self._look_ns = LOOK_AHEAD_NS if slots is not None and gate.ahead * workers >= slots else LOOK_NS
        self._turns: list[tuple[int, int, Turn]] = []  # heap: due_ns, position

    def start(self, started_ns: int) -> None:
        self._started_ns = started_ns

    def later(self, turn: Turn) -> None:
        """A turn whose reply has come: it waits for its gate."""
        heapq.heappush(self._turns, (turn.due_ns, turn.position, turn))

    def round(self, tell: Callable[[int, str], None]) -> int:
        """Ask about what is near; the instant to come back at, FOREVER_NS where a row must come first."""
        now = clock.monotonic_ns()
        until = now + SLICE_NS
        while not self.stopped and now <= until:
            turn_ns = self._turns[0][0] - self.gate.lead_ns if self._turns else FOREVER_NS
            if turn_ns <= now:
                goes_on = self._ask_turn(self._turns[0][2], tell)
            else:
                queue, at_ns = self._next_first(now)
                if queue is None or at_ns > now:
                    return min(turn_ns, at_ns)
                goes_on = self._ask_first(queue)
            if not goes_on:
                return now + LATER_NS
            now = clock.monotonic_ns()
        return FOREVER_NS if self.stopped else now

    def _next_first(self, now: int) -> tuple[deque[int] | None, int]:
        """The queue with the first that is next, and when it may be asked about."""
        if self._is_closed:
            waiting = [w for w, queue in enumerate(self._queues) if queue]
            able = [w for w in waiting if self._open[w] < self._room[w]]
            if not able:
                return None, now + self._look_ns if waiting else FOREVER_NS
            queue, at_ns = self._queues[min(able, key=lambda w: self._queues[w][0])], now
        else:
            queue = self._queues[0]
            if not queue or self._started_ns is None:
                return None, FOREVER_NS
            at_ns = self._due_ns(queue[0]) - self.gate.lead_ns
        return queue, at_ns if queue[0] < self._feed.written else max(at_ns, now + LATER_NS)

    def _due_ns(self, position: int) -> int:
        assert self._started_ns is not None
        return self._started_ns + (self._job.requests[position].scheduled_ns or 0)

    def _ask_first(self, queue: deque[int]) -> bool:
        """False where it has to wait."""
        position = queue[0]
        due_ns = None if self._is_closed else self._due_ns(position)
        request = self._job.requests[position]
        answer = self.gate.ask(Asked(position, request, due_ns, self._feed.piece_bytes[position]))
        match answer:
            case Answer.SEND:
                self._open[self._owner[position]] += 1
                self._set(position, shard.ADMITTED)
            case Answer.SKIP:
                self._pass_over(position)
                self._feed.over(self._owner[position], self._index[position])
        return self._settled(answer, queue.popleft)

    def _ask_turn(self, turn: Turn, tell: Callable[[int, str], None]) -> bool:
        request = self._job.requests[turn.position]
        answer = self.gate.ask(Asked(turn.position, request, turn.due_ns, turn.body_bytes))
        match answer:
            case Answer.SEND:
                self._set(turn.position, shard.ADMITTED)
                tell(turn.worker, turn.line)
            case Answer.SKIP:
                tell(turn.worker, f"skip {self._index[turn.position]}")
                over = self._pass_over(turn.position)
                self._session_less(self._tree.root[turn.position], over)
        return self._settled(answer, lambda: heapq.heappop(self._turns))

    def _settled(self, answer: Answer, take: Callable[[], object]) -> bool:
        if answer is Answer.LATER:
            return False
        self.stopped = answer is Answer.STOP
        if not self.stopped:
            take()
        return True

    def _set(self, position: int, what: int) -> None:
        self._columns[self._owner[position]][self._index[position]] = what

    def _pass_over(self, position: int) -> int:
        """It and all that wait for it; how many."""
        left_out = [position]
        for one in left_out:  # grows while it is read
            self._set(one, shard.PASSED_OVER)
            left_out += self._tree.followers.get(one, ())
        self.passed_over += len(left_out)
        return len(left_out)

    def _session_less(self, root: int, turns: int) -> None:
        self._left[root] -= turns
        if self._left[root] < 0:  # the first is over, too
            del self._left[root]
            self._open[self._owner[root]] -= 1

    def over(self, position: int) -> None:
        """It has its row."""
        self._session_less(self._tree.root.get(position, position), 1)

    def admitted(self, worker: int, index: int) -> bool:
        return self._columns[worker][index] == shard.ADMITTED


def _counts(owner: Sequence[int], workers: int) -> list[int]:
    counts = Counter(owner)
    return [counts[w] for w in range(workers)]
