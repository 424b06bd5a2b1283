"""The worker's loop: send what is due, receive, stamp, append. Nothing is parsed, built or written while bytes wait.

A reply's end is seen by its last bytes; a candidate that is not the usual `[DONE]` ending is confirmed by the real
framing parser before the connection is used again, and the parent checks every reply's framing once more. Ended
exchanges wait in `outbox` and are packed and spooled one at a time, only when a poll found little to read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.base import clock
from harness.measure.drive import reader, scheduling, wire
from harness.measure.drive.connections import Connections, Deadlines
from harness.measure.drive.exchanges import Exchanges
from harness.measure.drive.proxy import Proxy
from harness.measure.drive.shard import AWAITS, NOT_READY_S, Shard
from harness.measure.drive.spool import Writer
from harness.measure.drive.turns import Turns
from harness.records import Outcome, Timeouts

SENDS_PER_POLL = 8  # between two looks at what came
OPENING_AT_ONCE = 32
FEW = 64  # reads of a turn that leave time for packing
TIMERS_PER_POLL = 4
PACK_SHARE = 256  # of that many ended replies one is packed a turn even while bytes wait, so that memory stays bounded
MAX_HELD_BYTES = 1 << 30  # of all replies in a worker's memory: more, and the longest in flight is ended
TICK_NS = 250_000_000
ANCHOR_NS = 1_000_000_000
PREPARE_S = 5.0
FOREVER_NS = 1 << 62
NOT_READY_NS = int(1e9 * NOT_READY_S)
_IN = 1  # EPOLLIN


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """What a worker needs besides its shard. `slots`: concurrency of a closed loop, None in an open one."""

    base_url: str
    ca_file: str | None
    head: bytes  # request line and the headers that all requests share; holds the API key
    slots: int | None
    timeouts: Timeouts
    duration_ns: int | None
    kernel_stamps: bool
    reader: str | None  # path of the compiled one
    spoken: str = "completions"  # dialect of the replies
    proxy: Proxy | None = None
    kept: bool = True  # connections are used again
    resends: bool = True  # a request that a stale connection lost


class Loop:
    """One worker. `prepare` opens connections, `run` returns when all its requests are over."""

    def __init__(
        self, config: LoopConfig, shard: Shard, spool: Writer, control_fd: int, turns: Turns | None = None
    ) -> None:
        self.config, self.shard, self.spool, self.control_fd, self.turns = config, shard, spool, control_fd, turns
        scheduled = shard.scheduled_ns
        self.order = sorted((i for i in range(len(shard)) if scheduled[i] != AWAITS), key=lambda i: scheduled[i])
        self.words = b""  # of a command that has not come whole
        self.next = 0  # position in `order`
        self.reader = reader.make(config.reader, tls=wire.destination(config.base_url).tls)
        self.poll = self.reader.poll
        self.timer = scheduling.WakeTimer()
        self.armed_ns = FOREVER_NS
        self.holder = wire.hold_kernel_stamping() if config.kernel_stamps else None
        self.deadlines = Deadlines(config.timeouts, self.reader)
        self.connections = Connections(
            config.base_url, config.ca_file, self.poll, kernel_stamps=self.holder is not None,
            proxy=config.proxy, kept=config.kept,
        )  # fmt: skip
        self.exchanges = Exchanges(
            self.connections,
            config.head,
            shard,
            self.reader,
            self.deadlines,
            turns,
            config.spoken,
            resends=config.resends,
        )
        self.started_ns = FOREVER_NS
        self.stop_at_ns = FOREVER_NS
        self.stopping = False
        self.unwritten: set[int] = set()  # requests that were due before they were written, or admitted
        self.cut = False  # the duration ended the sending
        self.next_anchor_ns = self.next_tick_ns = self.look_at_ns = 0
        self.lag_max_ns = 0
        self.stopped_max_ns = 0  # the longest that a tick came late: the process was stopped, or had no core
        self.gave_up_s: float | None = None  # when, after the start, this process gave up its priority
        self.cpu_start_s = 0.0

    def prepare(self) -> None:
        """Resolve the name, and in a closed loop open the connections, a few at a time."""
        connections = self.connections
        connections.resolve()
        self.poll.register(self.control_fd, _IN)
        if self.timer.fd >= 0:
            self.poll.register(self.timer.fd, _IN)
        give_up = clock.monotonic_ns() + int(1e9 * min(PREPARE_S, self.config.timeouts.connect_s or PREPARE_S))
        wanted = min(self.config.slots or 0, len(self.order)) if connections.addresses and connections.kept else 0
        while (wanted or connections.opening) and clock.monotonic_ns() < give_up and not self.stopping:
            while wanted and connections.opening < OPENING_AT_ONCE:
                wanted -= 1
                try:
                    connections.open(0)
                except OSError:
                    wanted = 0
            for fd, event in self.poll.poll(0.05):
                self._event(fd, event)

    def run(self) -> None:
        """The loop; returns when nothing is left to send, read or pack. The reader comes back only when something else
        than a read in mid-stream happened, or may be due."""
        wait, event_of, now, ex = self.reader.wait, self._event, clock.monotonic_ns, self.exchanges
        self.cpu_start_s = clock.process_cpu_s()
        timeout_s = 0.0
        while not self._over():
            for fd, event in wait(timeout_s, self.look_at_ns, ex.gather_ns):
                event_of(fd, event)
            timeout_s = self._other_work(self.reader.woke_ns)
            busy = now() - self.reader.woke_ns
            if busy > self.lag_max_ns and self.started_ns <= self.reader.woke_ns:
                self.lag_max_ns = busy
        self.lag_max_ns = max(self.lag_max_ns, self.reader.busy_max_ns)

    def _other_work(self, woke: int) -> float:
        """Everything but mid-stream reads, in small portions; returns how long the next poll may wait, in seconds."""
        ex = self.exchanges
        self._send_due()
        if ex.outbox:
            self._pack_some()
        self._check_limits(woke)
        if woke >= self.next_tick_ns:
            if self.next_tick_ns and woke - self.next_tick_ns > self.stopped_max_ns:
                self.stopped_max_ns = woke - self.next_tick_ns
            self.next_tick_ns = woke + TICK_NS
            self._tick(woke)
        now = clock.monotonic_ns()
        self.look_at_ns = at = self._next_look(now)
        if at <= now:
            return 0
        if self.timer.fd < 0:
            return min(at - now, TICK_NS) / 1e9
        if at != self.armed_ns:
            self.armed_ns = at
            self.timer.arm(at)
        return 1.0  # the timer wakes us; the second is a net under it

    def _over(self) -> bool:
        ex = self.exchanges
        if ex.in_flight or ex.outbox:
            return False
        return self.stopping or (self.started_ns != FOREVER_NS and not self._to_send())

    def _to_send(self) -> bool:
        return self.next < len(self.order) or (self.turns is not None and self.turns.pending > 0)

    def _next_look(self, now: int) -> int:
        """When something other than a read is due next; `now` or less if it is already."""
        ex = self.exchanges
        if ex.outbox or ex.ready or ex.again:
            return now
        limit = self.deadlines.next_ns
        at = self.next_tick_ns if limit is None else min(limit, self.next_tick_ns)
        if self.stopping or not self._to_send():
            return at
        if self.turns is not None and self.turns.due:
            at = min(at, self.turns.due[0][0])
        if self.next >= len(self.order):
            return min(at, self.stop_at_ns)
        if self.config.slots is None:
            due = self.started_ns + self.shard.scheduled_ns[self.order[self.next]]
        else:
            due = self.started_ns if ex.freed else FOREVER_NS
        if due <= now and not self.shard.is_ready(self.order[self.next]):
            due = now + NOT_READY_NS
        return min(at, due, self.stop_at_ns)

    def _tick(self, now: int) -> None:
        if now >= self.next_anchor_ns:
            self.next_anchor_ns = now + ANCHOR_NS
            anchor = clock.anchor()
            self.deadlines.offset_ns = anchor.offset_ns
            self.spool.preface = ("anchor", anchor.monotonic_ns, anchor.offset_ns, anchor.error_ns)
            self.spool.put(self.spool.preface)
        self.spool.put(("status", self.exchanges.sent, self.exchanges.in_flight))
        if self.reader.held_bytes > MAX_HELD_BYTES:
            self.exchanges.end_longest(MAX_HELD_BYTES)

    def _send_due(self) -> None:
        ex, budget = self.exchanges, SENDS_PER_POLL
        while ex.again and budget:
            budget -= 1
            ex.start_on_new(*ex.again.popleft())
        while ex.ready and budget:
            budget -= 1
            ex.send(ex.ready.popleft())
        if self.stopping or not self._to_send():
            return
        now = clock.monotonic_ns()
        if now < self.started_ns:
            return
        if now >= self.stop_at_ns:
            self.stopping = self.cut = True
            return
        while self.turns is not None and budget and (turn := self.turns.next_due(now)) is not None:
            budget -= 1
            ex.in_flight += 1
            ex.start(turn[1], turn[0])
        order, scheduled = self.order, self.shard.scheduled_ns
        while budget and self.next < len(order):
            budget -= 1
            index = order[self.next]
            if self.config.slots is None:
                due = self.started_ns + scheduled[index]
                if due > now:
                    return
            elif ex.freed:
                due = ex.freed[0]
            else:
                return
            if not self.shard.is_ready(index):
                self.unwritten.add(index)
                return
            if self.shard.is_passed_over(index):
                self.next += 1
                continue
            if self.config.slots is not None:
                ex.freed.popleft()
            self.next += 1
            ex.in_flight += 1
            ex.start(index, due)

    def _pack_some(self) -> None:
        for _ in range(len(self.exchanges.outbox) // PACK_SHARE + (self.reader.found < FEW)):
            self._pack_one()

    def _pack_one(self) -> None:
        *meta, packed, buf = self.exchanges.outbox.popleft()
        pieces = [*packed, reader.pack(buf)] if buf else packed
        stamps, lengths, data = (
            (b"".join(column) for column in zip(*pieces, strict=True)) if pieces else (b"", b"", b"")
        )
        self.spool.put(("exchange", *meta, stamps, lengths, data))
        self.reader.forget(packed, buf)

    def _check_limits(self, now: int) -> None:
        for _ in range(TIMERS_PER_POLL):
            conn = self.deadlines.pop(now)
            if conn is None:
                return
            limit = self.deadlines.passed(conn, now)
            if limit is not None and limit[1] != Outcome.TIMEOUT_TOTAL and wire.something_waits(conn):
                self.deadlines.set(conn, now)  # we are late, not the server: read first, then judge
            elif limit is not None:
                self.exchanges.finish(conn, limit[1], f"limit {limit[2]:g} s", reuse=False)
            elif self.exchanges.look(conn):
                self.deadlines.set(conn, now)

    def _event(self, fd: int, event: int) -> None:
        conn = self.connections.by_fd.get(fd)
        if conn is not None:
            self.exchanges.event(conn, event)
        elif fd == self.control_fd:
            self._commands()
        elif fd == self.timer.fd:
            self.armed_ns = FOREVER_NS
            self.timer.arm(FOREVER_NS)

    def _commands(self) -> None:
        try:
            words = os.read(self.control_fd, 4096)
        except BlockingIOError:
            return
        if not words:  # the parent is gone: what has ended can still be read from the spool
            while self.exchanges.outbox:
                self._pack_one()
            os._exit(3)
        *lines, self.words = (self.words + words).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            match word:
                case b"turn" | b"skip" if self.turns is not None:
                    if self.turns.command(word, value) is not None:
                        self.exchanges.freed.append(clock.monotonic_ns())
                case b"go":
                    self.started_ns = int(value)
                    if self.config.duration_ns is not None:
                        self.stop_at_ns = self.started_ns + self.config.duration_ns
                    if self.config.slots is not None:
                        self.exchanges.freed.extend([self.started_ns] * self.config.slots)
                case b"clock":
                    self.spool.put(("clock", clock.monotonic_ns()))
                case b"yield" if self.gave_up_s is None:
                    self.gave_up_s = max(0, clock.monotonic_ns() - self.started_ns) / 1e9
                    scheduling.give_up_priority()
                case b"drain":
                    self.stopping = True
                case b"abort":
                    self.stopping = True
                    self.exchanges.cancel_all()
