"""The SDK driver: the same plan and the same rows through the vendors' own SDKs, as a user's code would (`sdk_call`).

Stamps are taken in user space when the SDK hands a chunk out, so they contain the SDK's own work: that is the point.
It runs in a worker process like the wire driver and is told the same words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections import deque
from typing import Any

from harness.base import clock
from harness.base.files import NO_ROOM_EXIT_CODE, is_no_room
from harness.measure.drive import dialect
from harness.measure.drive.scheduling import Pauses
from harness.measure.drive.sdk_call import Call, Vendor
from harness.measure.drive.shard import AWAITS, NOT_READY_S, Shard
from harness.measure.drive.spool import Writer
from harness.measure.drive.turns import Content, Turns
from harness.records import Timeouts

LATE_NS = 5_000_000
NOT_READY_NS = int(1e9 * NOT_READY_S)


def run(config: dict[str, Any], share: Shard, spool: Writer, control_fd: int, turns: Turns | None = None) -> None:
    """Drive the shard to its end in this process."""
    driver = _Driver(config, share, spool, control_fd, turns)
    with driver.pauses:
        asyncio.run(driver.run())


def split_piece(piece: bytes) -> tuple[str, dict[str, Any]]:
    """Request id and JSON body of one shard entry."""
    head, _, body = piece.partition(b"\r\n\r\n")
    value: dict[str, Any] = json.loads(body)
    return head.split(b"\r\n")[0].partition(b": ")[2].decode(), value


class _Driver:
    def __init__(
        self, config: dict[str, Any], share: Shard, spool: Writer, control_fd: int, turns: Turns | None
    ) -> None:
        self.config, self.share, self.spool, self.control_fd, self.turns = config, share, spool, control_fd, turns
        self.sessions: dict[int, asyncio.Queue[tuple[int, int] | None]] = {}  # root -> later turns; None: it is over
        self.timeouts = Timeouts(*config["timeouts"])
        scheduled = share.scheduled_ns
        firsts = (i for i in range(len(share)) if scheduled[i] != AWAITS)
        self.order = deque(sorted(firsts, key=lambda i: scheduled[i]))
        self.tasks: set[asyncio.Task[None]] = set()
        self.begun = asyncio.Event()
        self.halted = asyncio.Event()  # no new sends
        self.started_ns = 0
        self.in_flight = self.late_sends = 0
        self.cut = False
        self.head_of_line = asyncio.Lock()  # requests become ready in their order: one looks
        self.words = b""
        self.pauses = Pauses()

    async def run(self) -> None:
        asyncio.get_running_loop().add_reader(self.control_fd, self._commands)
        self.vendor = Vendor(self.config, self.timeouts.connect_s)
        self.spool.put(("ready",))
        cpu = clock.process_cpu_s()
        async with self.vendor.client:
            status = asyncio.create_task(self._status())
            await self._either(self.begun)
            cpu = clock.process_cpu_s()
            if not self.halted.is_set():
                await (self._open_loop() if self.config["slots"] is None else self._closed_loop())
            while self.tasks:
                await asyncio.wait(self.tasks)
            status.cancel()
        report = {
            "cpu_s": clock.process_cpu_s() - cpu,
            "loop_lag_max_s": None,
            "late_sends": self.late_sends,
            "user_reads": 0,
            "cut": self.cut,
            "pauses": self.pauses.words(),
            "ended_ns": clock.monotonic_ns(),
        }
        self.spool.put(("report", json.dumps(report)))

    async def _status(self) -> None:
        while True:
            anchor = clock.anchor()
            self.spool.put(("anchor", anchor.monotonic_ns, anchor.offset_ns, anchor.error_ns))
            for _ in range(4):
                self.spool.put(("status", 0, self.in_flight))
                await asyncio.sleep(0.25)

    async def _either(self, event: asyncio.Event) -> None:
        """Until `event` or a stop."""
        waits = [asyncio.create_task(event.wait()), asyncio.create_task(self.halted.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()

    def _commands(self) -> None:
        data = os.read(self.control_fd, 4096)
        if not data:
            os._exit(3)  # the parent is gone
        *lines, self.words = (self.words + data).split(b"\n")
        for line in lines:
            word, _, value = line.partition(b" ")
            if word == b"go":
                self.started_ns = int(value)
                self.begun.set()
            elif word == b"clock":
                self.spool.put(("clock", clock.monotonic_ns()))
            elif word in (b"turn", b"skip") and self.turns is not None:
                self._later(self.turns, word, value)
            elif word in (b"drain", b"abort"):
                self.halted.set()
                for queue in self.sessions.values():
                    queue.put_nowait(None)
                if word == b"abort":
                    for task in self.tasks:
                        task.cancel()

    def _later(self, turns: Turns, word: bytes, value: bytes) -> None:
        over = turns.command(word, value)
        if over is not None:
            self.sessions[over].put_nowait(None)
        for due_ns, index in turns.due:
            self.sessions[turns.root[index]].put_nowait((due_ns, index))
        turns.due.clear()

    async def _session(self, root: int, due_ns: int) -> None:
        """One request, and the later turns that follow from its reply."""
        if self.turns is None:
            await self._one(root, due_ns)
            return
        queue = self.sessions[root] = asyncio.Queue()
        self._spawn(self._turn(root, root, due_ns))
        while (turn := await queue.get()) is not None:
            self._spawn(self._turn(root, turn[1], turn[0]))
        del self.sessions[root]

    async def _turn(self, root: int, index: int, due_ns: int) -> None:
        assert self.turns is not None
        if await self._sleep_until(due_ns):
            if not await self._one(index, due_ns) or self.turns.ended(index):
                self.sessions[root].put_nowait(None)
        elif root in self.sessions:
            self.sessions[root].put_nowait(None)  # the time is over, or a stop

    async def _sleep_until(self, at_ns: int) -> bool:
        """Wait for an absolute instant; False if a stop or the end of the duration came first."""
        limit = self.config["duration_ns"]
        stop_ns = None if limit is None else self.started_ns + limit
        until = at_ns if stop_ns is None else min(at_ns, stop_ns)
        left = (until - clock.monotonic_ns()) / 1e9
        if left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.halted.wait(), left)
        if stop_ns is not None and clock.monotonic_ns() >= stop_ns:
            self.cut = self.cut or bool(self.order)
            return False
        return not self.halted.is_set()

    async def _open_loop(self) -> None:
        while self.order:
            due = self.started_ns + self.share.scheduled_ns[self.order[0]]
            if not await self._sleep_until(due):
                return
            self._spawn(self._session(self.order.popleft(), due))

    async def _closed_loop(self) -> None:
        for _ in range(self.config["slots"]):
            self._spawn(self._slot())

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and is_no_room(error):
            os._exit(NO_ROOM_EXIT_CODE)  # nothing more can be told: a task's error alone would end nothing

    async def _slot(self) -> None:
        due = self.started_ns
        while await self._sleep_until(due) and self.order:
            await self._session(self.order.popleft(), due)
            due = clock.monotonic_ns()

    async def _is_to_go(self, index: int) -> bool:
        """Wait until another process has written and admitted a request; False if it is passed over, or not before a stop."""
        async with self.head_of_line:
            while not self.share.is_ready(index):
                if not await self._sleep_until(clock.monotonic_ns() + NOT_READY_NS):
                    self.cut = self.cut or not self.halted.is_set()
                    return False
        return not self.share.is_passed_over(index)

    async def _one(self, index: int, due_ns: int) -> bool:
        """Send it and see it end; False if it does not go out."""
        late = self.turns.bodies.get(index) if self.turns is not None else None
        if late is None and not await self._is_to_go(index):
            return False
        name, body = split_piece(late or self.share.piece(index))
        content = Content() if self.turns is not None and self.turns.followers[index] else None
        reply = dialect.reply(self.config["spoken"], content)
        call = Call(self.vendor, self.timeouts, name, body, self.share.target_tokens[index], reply)
        self.in_flight += 1
        try:
            self.share.sent[index] = clock.monotonic_ns()
            await call.run()
        finally:
            self.in_flight -= 1
            self.late_sends += (call.sent_ns or due_ns) - due_ns > LATE_NS
            kept = None if content is None else (content.text, content.token_ids)
            self.spool.put(("facts", index, {"due_ns": due_ns} | call.facts(), kept))
        return True
