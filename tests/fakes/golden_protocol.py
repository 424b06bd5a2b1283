"""How the golden server speaks on a connection: HTTP/1.1 by hand, so that every write of a token is its own and is timed."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.fakes.golden_server import GoldenServer

WORD = " tok"
HOLD_POLL_S = 0.002


@dataclass
class Served:
    """What the server did for one request, on CLOCK_MONOTONIC."""

    request_id: str
    recv_ns: int
    prompt_tokens: int
    output_tokens: int
    body: dict = field(repr=False)
    number: int = 1  # its place among all requests; its token ids are 10,000 times that and on
    connection: int = 1  # which of the server's connections it came on
    cached: int | None = None  # prompt tokens that an earlier prompt began with
    wait: int = 1  # 0: it is answered at once
    send_ns: list[int] = field(default_factory=list)  # one per token-bearing chunk: just before it was written
    written_ns: list[int] = field(default_factory=list)  # and just after
    chunk_tokens: list[int] = field(default_factory=list)
    ended_ns: int | None = None
    cancelled: bool = False  # the client went away


class Protocol(asyncio.Protocol):
    def __init__(self, server: GoldenServer) -> None:
        self.server = server
        self.input = b""
        self.active: Served | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.requests = self.number = 0
        self.method = self.extra = ""
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport
        self.server.connections += 1
        self.number = self.server.connections
        self.server.open_connections += 1
        self.server._protocols.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self.server.open_connections -= 1
        self.server._protocols.discard(self)
        if self.timer:
            self.timer.cancel()
        if self.active:
            self.active.cancelled = True
            self._over()

    def data_received(self, data: bytes) -> None:
        self.input += data
        self._next()

    def _next(self) -> None:
        if self.active is not None:
            return
        end = self.input.find(b"\r\n\r\n")
        if end < 0:
            return
        first, *lines = self.input[:end].decode("latin-1").split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        if len(self.input) < end + 4 + length:
            return
        recv_ns = time.monotonic_ns()
        body = self.input[end + 4 : end + 4 + length]
        self.input = self.input[end + 4 + length :]
        self.requests += 1
        self.method, path, _ = first.split(" ", 2)
        self._route(path.partition("?")[0], headers, body, recv_ns)
        if self.active is None and self.input:
            self._next()

    def _route(self, path: str, headers: dict[str, str], body: bytes, recv_ns: int) -> None:
        server = self.server
        if path.startswith("/v1/") and server.api_keys and headers.get("authorization", "")[7:] not in server.api_keys:
            self._reply(401, {"error": {"message": "bad key", "type": "authentication_error", "code": 401}})
        elif path in ("/v1/completions", "/v1/chat/completions"):
            self._complete(path, headers, body, recv_ns)
        elif path == "/v1/models":
            entry = {"id": server.model, "object": "model", "created": 1, "owned_by": "vllm", "root": server.model}
            self._reply(200, {"object": "list", "data": [entry | {"max_model_len": server.max_model_len}]})
        elif path == "/metrics":
            self._reply(200, server.metrics(), "text/plain; version=0.0.4; charset=utf-8")
        elif path == "/version":
            self._reply(200, {"version": server.version})
        elif path == "/health":
            self._reply(200, "", "text/plain")
        elif path == "/tokenize" and server.tokenizes:
            asked = json.loads(body)
            words = server.words_of(asked["messages"] if "messages" in asked else asked["prompt"])
            ids = [100 + sum(map(ord, word)) % 10_000 for word in words]
            self._reply(200, {"count": len(ids), "max_model_len": server.max_model_len, "tokens": ids})
        else:
            self._reply(404, {"error": {"message": f"no such path {path}", "type": "NotFoundError", "code": 404}})

    def _reply(self, status: int, body: object, kind: str = "application/json", extra: str = "") -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n{extra}\r\n"
        self.transport.write(head.encode() + (b"" if self.method == "HEAD" else data))

    def _complete(self, path: str, headers: dict[str, str], raw: bytes, recv_ns: int) -> None:
        server = self.server
        try:
            body = json.loads(raw)
            chat = path.endswith("/chat/completions")
            prompt = server.words_of(body["messages"] if chat else body["prompt"])
        except (ValueError, KeyError, TypeError):
            self._reply(400, {"error": {"message": "bad request", "type": "BadRequestError", "code": 400}})
            return
        if body.get("model") != server.model:
            message = f"The model `{body.get('model')}` does not exist."
            self._reply(404, {"error": {"message": message, "type": "NotFoundError", "code": 404}})
            return
        if server.reject_above is not None and server.in_flight >= server.reject_above:
            server.rejected += 1
            error = {"message": "too many requests", "type": "rate_limit_error", "code": 429}
            self._reply(429, {"error": error}, extra="retry-after: 2\r\n")
            return
        wanted = body.get("max_completion_tokens") or body.get("max_tokens") or 16
        self.extra = ""
        if server.account is not None:
            status, told = server.account.offer(time.monotonic(), len(prompt), wanted)
            self.extra = "".join(f"{name}: {value}\r\n" for name, value in told.items())
            if status != 200:
                server.rejected += 1
                error = {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
                self._reply(status, {"error": error}, extra=self.extra)
                return
        name = headers.get("x-request-id") or f"anonymous-{len(server.log)}"
        cached = server.take_cached(prompt)
        served = Served(name, recv_ns, len(prompt), wanted, body, len(server.log) + 1, self.number, cached)
        served.wait = 0 if server.is_seen(prompt) else 1
        server.log[name] = self.active = served
        server.served += 1
        server.in_flight += 1
        server.max_in_flight = max(server.max_in_flight, server.in_flight)
        server.prompt_tokens_total += served.prompt_tokens
        self._begin(served, chat)

    def _begin(self, served: Served, chat: bool) -> None:
        server, loop = self.server, asyncio.get_running_loop()
        if server.hold is not None and server.hold(served):
            self.timer = loop.call_later(HOLD_POLL_S, self._begin, served, chat)
            return
        if not served.body.get("stream"):
            after = server.ttft_s + server.itl_s * (served.output_tokens - 1)
            self.timer = loop.call_later(after, self._whole, served, chat)
            return
        self.transport.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
            + self.extra.encode()
            + b"\r\n"
        )
        at = loop.time() + server.ttft_s * served.wait
        self.timer = loop.call_at(at, self._step, served, chat, at)

    def _usage(self, served: Served, done: int) -> dict:
        usage: dict = {
            "prompt_tokens": served.prompt_tokens,
            "total_tokens": served.prompt_tokens + done,
            "completion_tokens": done,
        }
        cached = self.server.cached_tokens if served.cached is None else served.cached
        if cached is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": cached}
        if self.server.reasoning_tokens is not None:
            usage["completion_tokens_details"] = {"reasoning_tokens": self.server.reasoning_tokens}
        return usage

    def _event(self, served: Served, chat: bool, choice: dict | None, usage: dict | None) -> bytes:
        kind, prefix = ("chat.completion.chunk", "chatcmpl-") if chat else ("text_completion", "cmpl-")
        value: dict = {"id": prefix + served.request_id, "object": kind, "created": 1, "model": self.server.model}
        value["choices"] = [] if choice is None else [{"index": 0, **choice, "logprobs": None}]
        if usage is not None:
            value["usage"] = usage
        return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"

    def _step(self, served: Served, chat: bool, at: float) -> None:
        """Send one HTTP chunk of `join_chunks` events; then the next one, on an absolute deadline."""
        server, out = self.server, b""
        options = served.body.get("stream_options") or {}
        running = bool(options.get("continuous_usage_stats"))
        before = done = sum(served.chunk_tokens)
        if chat and not served.send_ns:
            first = {"delta": {"role": "assistant", "content": ""}, "finish_reason": None}
            out += self._event(served, chat, first, self._usage(served, 0) if running else None)
        for _ in range(server.join_chunks):
            if done >= served.output_tokens:
                break
            n = min(server.tokens_per_chunk, served.output_tokens - done)
            done += n
            text = WORD * n
            choice: dict = {"delta": {"content": text}} if chat else {"text": text}
            choice["finish_reason"] = "length" if done == served.output_tokens else None
            if served.body.get("return_token_ids"):
                first_id = served.number * 10_000 + done - n
                choice["token_ids"] = list(range(first_id, first_id + n))
            out += self._event(served, chat, choice, self._usage(served, done) if running else None)
            served.chunk_tokens.append(n)
            served.send_ns.append(0)
        last = done == served.output_tokens
        if last and options.get("include_usage") and server.usage:
            out += self._event(served, chat, None, self._usage(served, done))
        if last and server.done:
            out += b"data: [DONE]\n\n"
        out = b"%x\r\n%b\r\n" % (len(out), out)
        if last:
            out += b"0\r\n\r\n"
        now = time.monotonic_ns()
        served.send_ns = [t or now for t in served.send_ns]
        self.transport.write(out)
        served.written_ns += [time.monotonic_ns()] * (len(served.send_ns) - len(served.written_ns))
        server.generation_tokens_total += done - before
        if last:
            self._over()
        else:
            self.timer = asyncio.get_running_loop().call_at(
                at + server.itl_s * served.wait, self._step, served, chat, at + server.itl_s * served.wait
            )

    def _whole(self, served: Served, chat: bool) -> None:
        n = served.output_tokens
        content: dict = {"message": {"role": "assistant", "content": WORD * n}} if chat else {"text": WORD * n}
        choice = {"index": 0, **content, "finish_reason": "length", "logprobs": None}
        kind = "chat.completion" if chat else "text_completion"
        body = {"id": served.request_id, "object": kind, "created": 1, "model": self.server.model, "choices": [choice]}
        self.server.generation_tokens_total += n
        self._reply(200, body | {"usage": self._usage(served, n)})
        self._over()

    def _over(self) -> None:
        assert self.active is not None
        self.active.ended_ns = time.monotonic_ns()
        self.server.in_flight -= 1
        self.server.finished += not self.active.cancelled
        self.active = None
        if self.server.close_after is not None and self.requests >= self.server.close_after:
            self.transport.close()
        elif self.input:
            self._next()
