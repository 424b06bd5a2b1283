"""One request through a vendor's SDK: openai's AsyncOpenAI for chat, completions and Responses, anthropic's AsyncAnthropic for Messages."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

from harness.base import clock
from harness.base.loopback import is_loopback
from harness.measure.drive import dialect
from harness.measure.drive.dialect.errors import message_of
from harness.measure.drive.places import tells_place
from harness.measure.drive.rate_headers import tells
from harness.records import Outcome, Timeouts

_NAMED = {  # what `create` wants by name; all else goes into the body as it is
    "completions": ("model", "prompt", "stream"),
    "chat": ("model", "messages", "stream"),
    "responses": ("model", "input", "stream"),
    "messages": ("model", "messages", "max_tokens", "stream"),
}
_KEYS = ("authorization", "x-api-key", "api-key")  # headers that an SDK may put a key in
_NO_KEY = "none"


class Vendor:
    """The SDK of a worker's API and its client. The client knows no key: it is put into each request where that leaves, in the header that
    the target names, so that no repr of the SDK's holds it."""

    def __init__(self, config: dict[str, Any], connect_s: float | None) -> None:
        self.api, self._headers = config["api"], config["headers"]
        base_url = config["base_url"]
        sdk: Any
        if self.api == "messages":
            import anthropic as sdk

            base_url = base_url.removesuffix("/v1")  # which it adds itself
        else:
            import openai as sdk
        self.sdk = sdk
        context = ssl.create_default_context(cafile=config["ca_file"]) if config["ca_file"] else True
        http = sdk.DefaultAsyncHttpxClient(
            trust_env=not is_loopback(base_url),
            proxy=config["proxy_url"],
            verify=context,
            follow_redirects=False,
            timeout=sdk.Timeout(None, connect=connect_s),
            # none: concurrency is the plan's business
            limits=type(sdk.DEFAULT_CONNECTION_LIMITS)(max_keepalive_connections=None if config["kept"] else 0),
            event_hooks={"request": [self._sign]},
        )
        make = sdk.AsyncAnthropic if self.api == "messages" else sdk.AsyncOpenAI
        self.client = make(api_key=_NO_KEY, base_url=base_url, max_retries=0, http_client=http)

    async def _sign(self, request: Any) -> None:
        for name in _KEYS:
            request.headers.pop(name, None)
        request.headers.update(self._headers)

    async def create(self, body: dict[str, Any], request_id: str) -> Any:
        """The stream of a reply. Raises what the SDK raises."""
        named = {key: body[key] for key in _NAMED[self.api] if key in body}
        extra = {key: value for key, value in body.items() if key not in named}
        where = {
            "completions": lambda: self.client.completions,
            "chat": lambda: self.client.chat.completions,
            "responses": lambda: self.client.responses,
            "messages": lambda: self.client.messages,
        }[self.api]()
        return await where.create(**named, extra_body=extra, extra_headers={"x-request-id": request_id})


def _message(error: Any) -> str:
    """What the API says in an SDK's error: openai keeps the error itself as its body, anthropic what it stands in."""
    body = error.body
    return (message_of(body if "error" in body else {"error": body}) or "") if isinstance(body, dict) else ""


class Call:
    """One request through an SDK, and what became of it."""

    def __init__(
        self,
        vendor: Vendor,
        timeouts: Timeouts,
        name: str,
        body: dict[str, Any],
        target_tokens: int,
        reply: dialect.Reply,
    ) -> None:
        self.vendor, self.timeouts, self.name, self.body, self.reply = vendor, timeouts, name, body, reply
        self.target_tokens = target_tokens
        self.sent_ns: int | None = None
        self.first_byte_ns: int | None = None
        self.ended_ns = 0
        self.reads = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
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
        self.sent_ns = clock.monotonic_ns()
        stream = await self.vendor.create(self.body, self.name)
        self.first_byte_ns = clock.monotonic_ns()
        self._head(stream.response)
        return stream

    def _head(self, response: Any) -> None:
        """Its status, and of its headers those that are looked at."""
        self.status = response.status_code
        named = ((name.lower(), value) for name, value in response.headers.items())
        self.headers = {name: value for name, value in named if tells(name) or tells_place(name) or name == "date"}

    async def _next(self, chunks: Any) -> bool:
        try:
            chunk = await anext(chunks)
        except StopAsyncIteration:
            return False
        stamp = clock.monotonic_ns()
        self.reads += 1
        self.reply.take_value(chunk.model_dump(exclude_unset=True, warnings=False), stamp)
        return True

    def _failed(self, error: Exception) -> None:
        sdk, cause = self.vendor.sdk, error.__cause__ or error
        self.error = str(error)
        # by name: openai 2 stands on httpx, openai 3 on httpx2, with the same names
        match type(cause).__name__:
            case _ if isinstance(error, sdk.APIStatusError) and error.status_code == 200:  # anthropic's, of an event
                self.outcome, self.error = Outcome.ERROR_EVENT, _message(error) or "error"
            case _ if isinstance(error, sdk.APIStatusError):
                self.outcome = Outcome.HTTP_ERROR
                self._head(error.response)
                redirect = "redirect, not followed" if 300 <= error.status_code < 400 else ""
                parts = (f"HTTP {error.status_code}", redirect, _message(error))
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
            case _ if isinstance(error, sdk.APIError) and not isinstance(error, sdk.APIConnectionError):
                self.outcome, self.error = Outcome.ERROR_EVENT, _message(error) or self.error
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
            "headers": self.headers,
            "finish_reason": reply.finish_reason,
            "error": self.error or None,
            "first_visible_ns": reply.first_visible_ns,
            "reasoning_chunks": reply.reasoning_chunks,
            "reasoning_hidden": reply.reasoning_hidden,
            "cache_written_5m_tokens": reply.written_5m,
            "cache_written_1h_tokens": reply.written_1h,
        }
