"""An OpenAI-compatible streaming server that knows the truth: every token, every chunk and when each was sent.

As a context manager it runs in a thread (`with GoldenServer(ttft_s=0.02, itl_s=0.005) as server: server.url`);
from a shell, `python -m tests.fakes.golden_server --port 0 --ttft-s 0.02` prints its URL and serves until a signal.
It speaks like vLLM 0.32: chunk shapes, running usage where asked for, `/metrics`, `/version`, `/tokenize`, `/health`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Self
from urllib.parse import quote

from tests.fakes.golden_protocol import Protocol, Served
from tests.fakes.limited_account import LimitedAccount
from tests.waiting import until


class GoldenServer:
    """`ttft_s` to the first chunk, `itl_s` between chunks of `tokens_per_chunk` tokens, on absolute deadlines.

    `api_keys`: others get 401. `reject_above`: more requests in flight get 429 with Retry-After. `close_after`: the
    server closes a connection after so many requests. `tls`: an ssl.SSLContext. `cached_tokens`: reported in usage.
    `caches_by_token`: usage reports how much of each prompt an earlier one began with; `template_tokens` stand before every chat
    (2 after it). `tokenizes`: /tokenize is there. `answers_seen`: a prompt that it had before is answered at once, and nothing tells of it.
    `account`: its limits are enforced, and told in every head.
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
        answers_seen: bool = False,
        template_tokens: int = 0,
        tokenizes: bool = True,
        reasoning_tokens: int | None = None,
        done: bool = True,
        usage: bool = True,
        version: str = "0.32.0",
        tls: ssl.SSLContext | None = None,
        unix: str | None = None,
        hold: Callable[[Served], bool] | None = None,
        account: LimitedAccount | None = None,
    ) -> None:
        self.ttft_s, self.itl_s, self.model, self.max_model_len = ttft_s, itl_s, model, max_model_len
        self.api_keys, self.reject_above, self.close_after = api_keys, reject_above, close_after
        self.tokens_per_chunk, self.join_chunks = tokens_per_chunk, join_chunks
        self.cached_tokens, self.reasoning_tokens = cached_tokens, reasoning_tokens
        self.template = [f"<t{i}>" for i in range(template_tokens)]
        self.tokenizes, self.cache = tokenizes, {} if caches_by_token else None
        self.seen: set[tuple[str, ...]] | None = set() if answers_seen else None
        self.account = account
        self.done, self.usage, self.version, self.tls = done, usage, version, tls
        self.host, self.port, self.unix, self.hold = host, port, unix, hold
        self.log: dict[str, Served] = {}  # a resumed run sends its names again
        self.served = 0
        self.in_flight = self.max_in_flight = self.connections = self.open_connections = 0
        self.prompt_tokens_total = self.generation_tokens_total = self.finished = self.rejected = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stop: asyncio.Event | None = None
        self._protocols: set[Protocol] = set()
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
            server = await self._loop.create_unix_server(lambda: Protocol(self), self.unix, backlog=4096)
        else:
            server = await self._loop.create_server(
                lambda: Protocol(self), self.host, self.port, backlog=4096, ssl=self.tls
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

    def is_seen(self, prompt: list) -> bool:
        """An answer cache has the prompt; if not, it is kept."""
        if self.seen is None:
            return False
        known = len(self.seen)
        self.seen.add(tuple(map(str, prompt)))
        return len(self.seen) == known

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


def main() -> None:
    parser = argparse.ArgumentParser(description="golden server: an OpenAI-compatible stream of known tokens")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--host", default="127.0.0.1")
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
        host=a.host,
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
