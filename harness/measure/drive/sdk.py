"""The SDK driver: the same plan and the same rows through openai's AsyncOpenAI over httpx, as a user's code would.

Stamps are taken in user space when the SDK hands a chunk out, so they contain the SDK's own work: that is the point.
It runs in a worker process like the wire driver and is told the same words.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
from collections import deque
from typing import Any

import openai

from harness.base import clock
from harness.base.files import NO_ROOM_EXIT_CODE, is_no_room
from harness.measure.control_request import is_loopback
from harness.measure.drive import dialect
from harness.measure.drive.scheduling import Pauses
from harness.measure.drive.shard import AWAITS, NOT_READY_S, Shard
from harness.measure.drive.spool import Writer
from harness.measure.drive.turns import Content, Turns
from harness.records import Outcome, Timeouts

LATE_NS = 5_000_000
NOT_READY_NS = int(1e9 * NOT_READY_S)
_VLLM_ONLY = ("ignore_eos", "min_tokens", "return_token_ids")


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
        context = ssl.create_default_context(cafile=self.config["ca_file"]) if self.config["ca_file"] else True
        http = openai.DefaultAsyncHttpxClient(
            trust_env=not is_loopback(self.config["base_url"]),
            proxy=None if self.config["proxy_env"] is None else os.environ[self.config["proxy_env"]],
            verify=context,
            follow_redirects=False,
            timeout=openai.Timeout(None, connect=self.timeouts.connect_s),
            # none: concurrency is the plan's business
            limits=type(openai.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=None if self.config["kept"] else 0),
        )
        self.client = openai.AsyncOpenAI(
            api_key=self.config["api_key"] or "none", base_url=self.config["base_url"], max_retries=0, http_client=http
        )
        self.spool.put(("ready",))
        cpu = clock.process_cpu_s()
        async with self.client:
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
        call = _Call(
            self.client, self.config["api"], self.timeouts, name, body, self.share.target_tokens[index], content
        )
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


class _Call:
    """One request through the SDK, and what became of it."""

    def __init__(
        self,
        client: openai.AsyncOpenAI,
        api: str,
        timeouts: Timeouts,
        name: str,
        body: dict[str, Any],
        target_tokens: int,
        content: Content | None,
    ) -> None:
        self.client, self.api, self.timeouts, self.name, self.body = client, api, timeouts, name, body
        self.target_tokens = target_tokens
        self.reply = dialect.reply(api, content)
        self.sent_ns: int | None = None
        self.first_byte_ns: int | None = None
        self.ended_ns = 0
        self.reads = 0
        self.status: int | None = None
        self.outcome, self.error = Outcome.OK, ""

    async def run(self) -> None:
        phase = Outcome.TIMEOUT_FIRST_TOKEN
        try:
            async with asyncio.timeout(self.timeouts.total_s):
                async with asyncio.timeout(self.timeouts.first_token_s):
                    stream = await self._create()
                    chunks = aiter(stream)
                    more = await self._next(chunks)
                phase = Outcome.TIMEOUT_IDLE
                while more and not self._too_long():
                    async with asyncio.timeout(self.timeouts.idle_s):
                        more = await self._next(chunks)
            if too_long := self._too_long():
                self.outcome, self.error = Outcome.OVERRUN, too_long
                await stream.close()
            elif self.reply.error is not None:
                self.outcome, self.error = Outcome.ERROR_EVENT, self.reply.error
            elif not self.reply.chunk_ns:
                self.outcome, self.error = Outcome.EMPTY_REPLY, self.reply.emptiness()
            elif not self.reply.finish_reason:
                self.outcome, self.error = Outcome.TRUNCATED, "the stream ended before its finish"
        except asyncio.CancelledError:
            self.outcome = Outcome.CANCELLED
            raise
        except TimeoutError:
            total = self.timeouts.total_s
            spent = (clock.monotonic_ns() - (self.sent_ns or 0)) / 1e9
            self.outcome = Outcome.TIMEOUT_TOTAL if total is not None and spent >= total else phase
        except Exception as error:
            self._failed(error)
        finally:
            self.ended_ns = clock.monotonic_ns()

    def _too_long(self) -> str | None:
        return dialect.overrun(self.reply.visible_tokens(), self.target_tokens)

    async def _create(self) -> Any:
        extra = {key: self.body.pop(key) for key in _VLLM_ONLY if key in self.body}
        where: Any = self.client.chat.completions if self.api == "chat" else self.client.completions
        self.sent_ns = clock.monotonic_ns()
        stream = await where.create(**self.body, extra_body=extra, extra_headers={"x-request-id": self.name})
        self.first_byte_ns = clock.monotonic_ns()
        self.status = stream.response.status_code
        return stream

    async def _next(self, chunks: Any) -> bool:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return False
        stamp = clock.monotonic_ns()
        self.reads += 1
        self.reply.take_value(chunk.model_dump(exclude_unset=True), stamp)
        return True

    def _failed(self, error: Exception) -> None:
        cause: BaseException = error.__cause__ or error
        self.error = str(error)
        # by name: openai 2 stands on httpx, openai 3 on httpx2, with the same names
        match type(cause).__name__:
            case _ if isinstance(error, openai.APIStatusError):
                self.outcome, self.status = Outcome.HTTP_ERROR, error.status_code
                body = error.body if isinstance(error.body, dict) else {}
                redirect = "redirect, not followed" if 300 <= error.status_code < 400 else ""
                code = f" ({error.code})" if isinstance(error.code, str) and error.code else ""
                message = f"{body['message']}{code}" if body.get("message") else ""
                parts = (f"HTTP {error.status_code}", redirect, message)
                self.error = ": ".join(part for part in parts if part)
            case "ConnectTimeout" | "PoolTimeout":
                self.outcome = Outcome.TIMEOUT_CONNECT
            case "ConnectError":
                self.outcome, self.error = Outcome.CONNECT_ERROR, str(cause)
            case "ReadError" | "WriteError":
                self.outcome, self.error = Outcome.RESET, str(cause) or "connection reset"
            case "RemoteProtocolError":
                cut = "peer closed" in str(cause) or "disconnected" in str(cause)
                self.outcome = Outcome.TRUNCATED if cut else Outcome.PROTOCOL_ERROR
            case _ if isinstance(error, openai.APIError) and not isinstance(error, openai.APIConnectionError):
                self.outcome = Outcome.ERROR_EVENT
            case _:
                self.outcome = Outcome.PROTOCOL_ERROR

    def facts(self) -> dict[str, Any]:
        """Fields of RequestRecord that are not the plan's."""
        reply, tokens = self.reply, self.reply.chunk_tokens()
        return {
            "connect_started_ns": None,
            "connect_ns": None,
            "tls_ns": None,
            "sent_ns": self.sent_ns,
            "first_byte_ns": self.first_byte_ns,
            "first_token_ns": reply.chunk_ns[0] if reply.chunk_ns else None,
            "last_token_ns": reply.chunk_ns[-1] if reply.chunk_ns else None,
            "ended_ns": self.ended_ns,
            "chunk_ns": tuple(reply.chunk_ns),
            "chunk_tokens": tokens,
            "prompt_tokens": reply.prompt,
            "cached_prompt_tokens": reply.cached,
            "output_tokens": reply.output,
            "reasoning_tokens": reply.reasoning,
            "counted_output_tokens": sum(tokens) if tokens else None,
            "merged_reads": 0,
            "reads": self.reads,
            "response_bytes": 0,
            "connection_reused": None,
            "outcome": self.outcome.value,
            "http_status": self.status,
            "finish_reason": reply.finish_reason,
            "error": self.error or None,
            "first_visible_ns": reply.first_visible_ns,
            "reasoning_chunks": reply.reasoning_chunks,
            "reasoning_hidden": reply.reasoning_hidden,
            "cache_written_5m_tokens": reply.written_5m,
            "cache_written_1h_tokens": reply.written_1h,
        }
