"""An OpenAI-compatible streaming server that knows the truth: every token, every chunk and when each was sent.

As a context manager it runs in a thread (`with GoldenServer(ttft_s=0.02, itl_s=0.005) as server: server.url`);
from a shell, `python -m tests.fakes.golden_server --port 0 --ttft-s 0.02` prints its URL and serves until a signal.
It speaks like vLLM 0.32: chunk shapes, running usage where asked for, `/metrics`, `/version`, `/tokenize`, `/health`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import quote

from tests.waiting import until

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
    cached: int | None = None  # prompt tokens that an earlier prompt began with
    number: int = 1  # its place among all requests; its token ids are 10,000 times that and on
    connection: int = 1  # which of the server's connections it came on
    send_ns: list[int] = field(default_factory=list)  # one per token-bearing chunk: just before it was written
    written_ns: list[int] = field(default_factory=list)  # and just after
    chunk_tokens: list[int] = field(default_factory=list)
    ended_ns: int | None = None
    cancelled: bool = False  # the client went away


class GoldenServer:
    """`ttft_s` to the first chunk, `itl_s` between chunks of `tokens_per_chunk` tokens, on absolute deadlines.

    `api_keys`: others get 401. `reject_above`: more requests in flight get 429 with Retry-After. `close_after`: the
    server closes a connection after so many requests. `tls`: an ssl.SSLContext. `cached_tokens`: reported in usage.
    `unix`: listen on this path instead of a port. `hold`: a reply does not begin while this says true. `done`, `usage`: send `[DONE]`, the usage chunk. `join_chunks`: so many events per HTTP chunk and write.
    """

    def __init__(
        self,
        ttft_s: float = 0.01,
        itl_s: float = 0.002,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        model: str = "golden",
        max_model_len: int = 32768,
        api_keys: tuple[str, ...] = (),
        reject_above: int | None = None,
        close_after: int | None = None,
        tokens_per_chunk: int = 1,
        join_chunks: int = 1,
        cached_tokens: int | None = None,
        caches_by_token: bool = False,
        template_tokens: int = 0,
        tokenizes: bool = True,
        reasoning_tokens: int | None = None,
        done: bool = True,
        usage: bool = True,
        version: str = "0.32.0",
        tls: ssl.SSLContext | None = None,
        unix: str | None = None,
        hold: Callable[[Served], bool] | None = None,
    ) -> None:
        self.ttft_s, self.itl_s, self.model, self.max_model_len = ttft_s, itl_s, model, max_model_len
        self.api_keys, self.reject_above, self.close_after = api_keys, reject_above, close_after
        self.tokens_per_chunk, self.join_chunks = tokens_per_chunk, join_chunks
        self.cached_tokens, self.reasoning_tokens = cached_tokens, reasoning_tokens
        self.template = [f"<t{i}>" for i in range(template_tokens)]
        self.tokenizes, self.cache = tokenizes, {} if caches_by_token else None
        self.done, self.usage, self.version, self.tls = done, usage, version, tls
        self.host, self.port, self.unix, self.hold = host, port, unix, hold
        self.log: dict[str, Served] = {}
        self.in_flight = self.max_in_flight = self.connections = self.open_connections = 0
        self.prompt_tokens_total = self.generation_tokens_total = self.finished = self.rejected = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._protocols: set[_Protocol] = set()
        self._failed: BaseException | None = None

    @property
    def root(self) -> str:
        if self.unix is not None:
            return f"http+unix://{quote(self.unix, safe='')}"
        return f"{'https' if self.tls else 'http'}://{'localhost' if self.tls else self.host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        started.wait()
        if self._failed is not None:
            raise self._failed
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self, started: threading.Event) -> None:
        try:
            asyncio.run(self._main(started))
        except BaseException as error:
            self._failed = error
            started.set()

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        if self.unix is not None:
            server = await self._loop.create_unix_server(lambda: _Protocol(self), self.unix, backlog=4096)
        else:
            server = await self._loop.create_server(
                lambda: _Protocol(self), self.host, self.port, backlog=4096, ssl=self.tls
            )
            self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for protocol in list(self._protocols):
            protocol.transport.abort()

    def strays_ns(self, request_id: str, stamps: Sequence[int]) -> list[int]:
        """How far a client's stamps lie outside the writes of their chunks (0: within), whatever else the machine did between.
        Chunks that came in one read share the stamp of the last of them, which alone is looked at."""
        served = self.log[request_id]
        until(lambda: served.ended_ns, f"{request_id} has ended")
        writes = list(zip(stamps, served.send_ns, served.written_ns, strict=True))
        last = [
            write for write, later in zip(writes, [*writes[1:], None], strict=True) if not later or later[0] != write[0]
        ]
        return [max(begun - at, at - over, 0) for at, begun, over in last]

    def words_of(self, prompt: str | list) -> list:
        """The golden tokenizer: one token per word, and the template's around a chat; token ids are themselves."""
        if isinstance(prompt, str):
            return prompt.split()
        if prompt and isinstance(prompt[0], dict):
            words = " ".join(str(message["content"]) for message in prompt).split()
            return [*self.template, *words, *(["<end>", "<reply>"] if self.template else [])]
        return prompt

    def take_cached(self, prompt: list) -> int | None:
        """How many first tokens of the prompt an earlier one had too, all but the last at most; the prompt is kept."""
        if self.cache is None:
            return None
        at, cached, known = self.cache, 0, True
        for token in prompt:
            known = known and token in at
            cached += known
            at = at.setdefault(token, {})
        return min(cached, len(prompt) - 1)

    def metrics(self) -> str:
        label = f'{{model_name="{self.model}"}}'
        rows = {
            "vllm:num_requests_running": ("gauge", self.in_flight),
            "vllm:num_requests_waiting": ("gauge", 0),
            "vllm:kv_cache_usage_perc": ("gauge", 0.0),
            "vllm:prompt_tokens_total": ("counter", self.prompt_tokens_total),
            "vllm:generation_tokens_total": ("counter", self.generation_tokens_total),
            "vllm:request_success_total": ("counter", self.finished),
            "vllm:num_preemptions_total": ("counter", 0),
        }
        lines = []
        for name, (kind, value) in rows.items():
            lines += [f"# TYPE {name.removesuffix('_total')} {kind}", f"{name}{label} {float(value)}"]
        return "\n".join(lines) + "\n"


class _Protocol(asyncio.Protocol):
    def __init__(self, server: GoldenServer) -> None:
        self.server = server
        self.input = b""
        self.active: Served | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.requests = self.number = 0
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
        _, path, _ = first.split(" ", 2)
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
        self.transport.write(head.encode() + data)

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
        name = headers.get("x-request-id") or f"anonymous-{len(server.log)}"
        tokens = count_tokens(prompt) if isinstance(prompt, str) else len(prompt)
        served = Served(name, recv_ns, tokens, wanted, body, len(server.log) + 1, self.number)
        server.log[name] = self.active = served
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
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        at = loop.time() + server.ttft_s
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
                at + server.itl_s, self._step, served, chat, at + server.itl_s
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


def main() -> None:
    parser = argparse.ArgumentParser(description="golden server: an OpenAI-compatible stream of known tokens")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--ttft-s", type=float, default=0.02)
    parser.add_argument("--itl-s", type=float, default=0.005)
    parser.add_argument("--model", default="golden")
    parser.add_argument("--api-key", action="append", default=[])
    parser.add_argument("--reject-above", type=int)
    parser.add_argument("--tokens-per-chunk", type=int, default=1)
    a = parser.parse_args()
    server = GoldenServer(
        a.ttft_s,
        a.itl_s,
        port=a.port,
        model=a.model,
        api_keys=tuple(a.api_key),
        reject_above=a.reject_above,
        tokens_per_chunk=a.tokens_per_chunk,
    )
    with server:
        print(server.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
