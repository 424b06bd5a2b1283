"""Exchanges: sent, answered, ended. The loop owns the time, connections.py the way there, this the states between."""

from __future__ import annotations

from collections import deque
from typing import Any

from harness.base import clock
from harness.measure.drive import dialect, http1, reader, sse, wire
from harness.measure.drive.connections import ConnectFailedError, Connections, Deadlines
from harness.measure.drive.shard import BEGUN, Shard
from harness.measure.drive.turns import Turns
from harness.records import OVERRUN_TIMES, Outcome

LATE_NS = 5_000_000
GATHER_MAX_NS, GATHER_OF_GAP, GATHER_OF_REPLY = 1_000_000, 20, 4000
PACE_MEMORY = 8  # exchanges
# What one reply may hold: twice its tokens in the longest events that were seen (about 500 bytes), prompt ids in the first one.
MOST_BYTES, MOST_BYTES_A_TOKEN = 4 << 20, 2048
LOOK_READS = 16  # beyond the reads that an overrun must have at least
_OUT = 4  # EPOLLOUT


class Exchanges:
    """All of one worker. The reader takes the streams that it adopted by itself; every other event comes to
    `event`. Ended exchanges stand in `outbox` as flat tuples, the fields of rows.Raw with the reads not yet packed."""

    def __init__(
        self,
        connections: Connections,
        head: bytes,
        shard: Shard,
        reading: reader.Reader,
        deadlines: Deadlines,
        turns: Turns | None = None,
        spoken: str = "completions",
        *,
        resends: bool = True,
    ) -> None:
        self.resends = resends  # a request that a kept-alive connection lost, before any reply, once more
        self.head, self.shard, self.reader, self.deadlines, self.turns = head, shard, reading, deadlines, turns
        self.connections, self.spoken = connections, spoken
        self.ready: deque[wire.Conn] = deque()  # connected, their request not yet sent
        self.again: deque[tuple[int, int, int, int, bool, int]] = deque()  # to be tried on a new connection
        self.freed: deque[int] = deque()  # when each exchange that ended did so: the closed loop's free slots
        self.outbox: deque[tuple[Any, ...]] = deque()
        self.in_flight = 0
        self.sent = self.user_reads = self.late_sends = 0  # user_reads: besides the reader's own
        self.gather_ns = 0  # how long reads may wait for company
        self.careful_replies = 0  # read by the framing parser in the loop, for part of their length or all of it

    # ------------------------------------------------------------ sending

    def start(self, index: int, due_ns: int) -> None:
        began = clock.monotonic_ns()
        conn = self.connections.take_idle()
        if conn is None:
            self.start_on_new(index, due_ns, began, 0, False, 0)
            return
        conn.index, conn.due_ns, conn.begun_ns = index, due_ns, began
        self.deadlines.set(conn, began)
        self.send(conn)

    def start_on_new(
        self, index: int, due_ns: int, began: int, address_at: int, retried: bool, connect_started: int
    ) -> None:
        connections = self.connections
        if not connections.addresses:
            self._fail_unsent(index, due_ns, Outcome.CONNECT_ERROR, connections.resolve_error, retried=retried)
            return
        try:
            conn = connections.open(address_at)
        except OSError as error:
            what = Outcome.DROPPED if error.errno in wire.NO_RESOURCES else Outcome.CONNECT_ERROR
            self._fail_unsent(index, due_ns, what, error.strerror or str(error), retried=retried)
            return
        conn.index, conn.due_ns, conn.begun_ns, conn.retried = index, due_ns, began, retried
        conn.connect_started_ns = connect_started or conn.connect_started_ns
        self.deadlines.set(conn, clock.monotonic_ns())

    def send(self, conn: wire.Conn) -> None:
        if conn.state not in (wire.IDLE, wire.SENDING):
            return  # failed while it stood in the queue
        conn.state = wire.SENDING
        if not self.shard.sent[conn.index]:
            self.shard.sent[conn.index] = BEGUN
        try:
            wire.begin_send(conn, self.head, self._piece(conn.index))
        except OSError as error:
            self.lost(conn, error)
            return
        self._send_rest(conn)

    def _piece(self, index: int) -> memoryview:
        """The request's own headers and body."""
        late = self.turns.bodies.get(index) if self.turns is not None else None
        return memoryview(self.shard.piece(index) if late is None else late)

    def _send_rest(self, conn: wire.Conn) -> None:
        try:
            gone = wire.send_more(conn)
        except OSError as error:
            self.lost(conn, error)
            return
        self.connections.watch_out(conn, wanted=not gone)
        if gone:
            conn.state = wire.WAITING
            if conn.fresh():
                self.reader.adopt(conn)
                conn.look_reads = OVERRUN_TIMES * self.shard.target_tokens[conn.index] + LOOK_READS
                self.reader.look(conn, conn.look_reads, self._most_bytes(conn))
            conn.last_ns = conn.sent_ns
            self.sent += 1
            self.shard.sent[conn.index] = conn.sent_ns
            if conn.sent_ns - conn.due_ns > LATE_NS:
                self.late_sends += 1

    # ------------------------------------------------------------ everything that is not a read in mid-stream

    def event(self, conn: wire.Conn, event: int) -> None:
        """What the reader did not take: epoll's events, and its own on streams that it adopted."""
        if event & reader.MAY_END:
            self._candidate(conn)
        elif event & reader.UNUSUAL:
            self._carefully(conn)
        elif event & reader.LONG:
            self.look(conn)
        elif event & reader.CLOSED:
            self.reader.release(conn)
            self._closed_by_peer(conn)
        elif event & reader.LOST:
            self.reader.release(conn)
            self.lost(conn, self.reader.error(conn.fd, event))
        elif conn.state in wire.ON_THE_WAY:
            self._on_the_way(conn, readable=bool(event & ~_OUT))
        elif conn.state == wire.IDLE:
            if self.connections.idle_ended(conn):
                self._discard(conn)
        else:
            if conn.state == wire.SENDING and event & _OUT:
                self._send_rest(conn)
            if event & ~_OUT and conn.state != wire.CLOSED:
                self._read_slow(conn)

    def _on_the_way(self, conn: wire.Conn, *, readable: bool) -> None:
        try:
            if self.connections.advance(conn, readable=readable) and conn.state == wire.SENDING:
                self.ready.append(conn)
        except ConnectFailedError as error:
            after = conn.address_at + 1
            if conn.index < 0:
                self._discard(conn)
            elif error.try_next and after < len(self.connections.addresses):
                self.again.append(
                    (conn.index, conn.due_ns, conn.begun_ns, after, conn.retried, conn.connect_started_ns)
                )
                self._discard(conn)
            else:
                self.finish(conn, Outcome.CONNECT_ERROR, str(error), reuse=False)

    def _read_slow(self, conn: wire.Conn) -> None:
        try:
            read = conn.recv(wire.RECV_BYTES, wire.ANCILLARY_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self.lost(conn, error)
            return
        data = read[0]
        if not data:
            self._closed_by_peer(conn)
            return
        if not read[1]:
            read = (data, wire.user_stamp())
            self.user_reads += 1
        conn.buf.append(read)
        self.reader.own_bytes += len(data) + reader.READ_BYTES
        if len(conn.buf) >= reader.COMPACT_READS and not self.look(conn):
            return
        if conn.careful is None:
            self._carefully(conn)
        else:
            self._feed_careful(conn, data)

    def _candidate(self, conn: wire.Conn) -> None:
        """The bytes so far end like a last chunk. After `data: [DONE]` they are: the stream has said that it is over.
        Otherwise the framing parser decides, and reads along from here on."""
        if http1.has_done(self.reader.tail(conn, http1.TAIL_BYTES)):
            self.finish(conn, "", "", reuse=bool(http1.usual_head(self.reader.begin(conn))))
        else:
            self._carefully(conn)

    def _carefully(self, conn: wire.Conn) -> None:
        """Let the framing parser read along from here on, after what has come so far."""
        self.reader.release(conn)
        conn.state = conn.state if conn.state == wire.SENDING else wire.CAREFUL
        self.careful_replies += 1
        conn.careful = http1.Response()
        self._feed_careful(conn, wire.received(conn))

    def _feed_careful(self, conn: wire.Conn, data: bytes) -> None:
        assert conn.careful is not None
        try:
            conn.careful.feed(data)
        except http1.HttpError as error:
            self.finish(conn, Outcome.PROTOCOL_ERROR, str(error), reuse=False)
            return
        if conn.careful.complete:
            self.finish(conn, "", "", reuse=conn.careful.reusable and conn.state != wire.SENDING)

    def _closed_by_peer(self, conn: wire.Conn) -> None:
        if self._was_stale(conn):
            self._retry(conn)
        else:
            self.finish(conn, "eof", "", reuse=False)

    def lost(self, conn: wire.Conn, error: OSError) -> None:
        if self._was_stale(conn):
            self._retry(conn)
        else:
            self.finish(conn, Outcome.RESET, error.strerror or type(error).__name__, reuse=False)

    def _was_stale(self, conn: wire.Conn) -> bool:
        return self.resends and conn.fresh() and conn.reused and not conn.retried

    def _retry(self, conn: wire.Conn) -> None:
        """A kept-alive connection that the server had closed: once more, on a new one. The row says so."""
        self.again.append((conn.index, conn.due_ns, conn.begun_ns, 0, True, 0))
        self._discard(conn)

    # ------------------------------------------------------------ ends

    def _most_bytes(self, conn: wire.Conn) -> int:
        return MOST_BYTES + MOST_BYTES_A_TOKEN * self.shard.target_tokens[conn.index]

    def look(self, conn: wire.Conn) -> bool:
        """Whether a reply in flight may go on: it is ended where it holds more than it may, or bears too many tokens."""
        most = self._most_bytes(conn)
        if self.reader.held(conn) > most:
            self.finish(conn, Outcome.PROTOCOL_ERROR, f"response longer than {most} bytes", reuse=False)
            return False
        if (reads := self.reader.reads(conn)) >= conn.look_reads > 0:
            if too_long := dialect.overrun(
                _tokens_of(self.spoken, self.reader.all(conn)), self.shard.target_tokens[conn.index]
            ):
                self.finish(conn, Outcome.OVERRUN, too_long, reuse=False)
                return False
            conn.look_reads = 2 * reads
        self.reader.look(conn, conn.look_reads, most)
        return True

    def end_longest(self, most: int) -> None:
        """Of all replies in flight, where together they hold more than `most` bytes."""
        conn = max((c for c in self.connections.by_fd.values() if c.index >= 0), key=self.reader.held, default=None)
        if conn is not None:
            why = f"the longest of {self.in_flight} replies that held more than {most} bytes together"
            self.finish(conn, Outcome.PROTOCOL_ERROR, why, reuse=False)

    def finish(self, conn: wire.Conn, outcome: str, error: str, *, reuse: bool) -> None:
        now, index = clock.monotonic_ns(), conn.index
        if not outcome:
            self._learn_pace(now - conn.sent_ns, self.reader.reads(conn))
        self.reader.release(conn)
        self.outbox.append(
            (conn.index, str(outcome), error, conn.due_ns, conn.connect_started_ns, conn.connect_ns, conn.tls_ns,
             conn.reused, conn.sent_ns if conn.state != wire.SENDING else 0, now, conn.retried, conn.packed, conn.buf)
        )  # fmt: skip
        if reuse and self.connections.kept:
            self.connections.keep(conn)
        else:
            self._discard(conn, hard=bool(outcome) and outcome != "eof")
        self._slot_free(index, now)

    def _learn_pace(self, took_ns: int, reads: int) -> None:
        """A read may wait for a small part of the gap between two tokens, so that none merge, and of a whole reply, as much
        as the next send of a closed loop is late by it."""
        allowed = min(GATHER_MAX_NS, took_ns // GATHER_OF_GAP // max(1, reads), took_ns // GATHER_OF_REPLY)
        self.gather_ns += (allowed - self.gather_ns) // PACE_MEMORY

    def _fail_unsent(self, index: int, due_ns: int, outcome: Outcome, error: str, *, retried: bool) -> None:
        now = clock.monotonic_ns()
        self.outbox.append((index, str(outcome), error, due_ns, 0, 0, 0, None, 0, now, retried, [], []))
        self._slot_free(index, now)

    def _slot_free(self, index: int, now: int) -> None:
        """An exchange is over, and with it its slot, unless its session goes on."""
        self.in_flight -= 1
        if self.turns is None or self.turns.ended(index):
            self.freed.append(now)

    def _discard(self, conn: wire.Conn, *, hard: bool = False) -> None:
        self.reader.release(conn)
        self.connections.drop(conn, hard=hard)

    def cancel_all(self) -> None:
        """End everything in flight now; the connections are reset, so that the server stops generating."""
        for conn in [c for c in self.connections.by_fd.values() if c.index >= 0]:
            self.finish(conn, Outcome.CANCELLED, "", reuse=False)
        self.ready.clear()
        while self.again:
            index, due, _, _, retried, _ = self.again.popleft()
            self._fail_unsent(index, due, Outcome.CANCELLED, "", retried=retried)


def _tokens_of(spoken: str, data: bytes) -> int:
    """Tokens in the bytes of a reply that goes on, by the server's usage or one a chunk; of what can be read of it."""
    response, events, reply = http1.Response(), sse.SseParser(), dialect.reply(spoken)
    try:
        for event in events.feed(response.feed(data)):
            reply.take(event.data, 0)
    except (http1.HttpError, sse.SseError, ValueError, RecursionError):
        pass
    return reply.visible_tokens()
