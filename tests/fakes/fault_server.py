"""A server that misbehaves on demand: the first path segment names the fault (`http://127.0.0.1:PORT/<fault>/v1`).

`FAULTS` lists them with what a client should make of each; hostile_replies.HOSTILE are served too, `every` gives the next of those
that end at each request, IN_TURN's names those of a list. GET answers what hostile_replies.MODELS has under the fault, or a list of one model. Connections are kept alive unless the fault says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import struct
import threading
from collections import Counter
from typing import Self

from tests.fakes import hostile_replies
from tests.waiting import HANG_S, unread_bytes

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
LENGTH_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
TOKENS = 3

# fault -> outcome of a client whose limit of that name is a second or less
FAULTS = {
    "ok": "ok",
    "slow_head": "timeout_first_token",
    "slow_head_done": "ok",
    "byte_chunks": "ok",
    "byte_writes": "ok",
    "chance_end": "ok",
    "chunk_extension": "ok",
    "trailer": "ok",
    "giant_line": "protocol_error",
    "chunk_size_small": "protocol_error",
    "chunk_size_large": "protocol_error",
    "chunk_size_word": "protocol_error",
    "gzip": "protocol_error",
    "redirect": "http_error",
    "continue_100": "ok",
    "status_400": "http_error",
    "status_429": "http_error",
    "status_429_date": "http_error",
    "status_500": "http_error",
    "status_500_html": "http_error",
    "status_503": "http_error",
    "error_event": "error_event",
    "error_first": "error_event",
    "error_json": "error_event",
    "json_reply": "protocol_error",
    "bad_json": "protocol_error",
    "not_http": "protocol_error",
    "reset_before": "reset",
    "reset_in": "reset",
    "reset_after": "ok",
    "close_before": "truncated",
    "close_in": "truncated",
    "half_closed": "ok",
    "hang": "timeout_first_token",
    "hang_after_head": "timeout_first_token",
    "hang_in": "timeout_idle",
    "drip": "timeout_total",
    "half_event": "truncated",
    "no_usage": "ok",
    "no_done": "ok",
    "no_finish": "truncated",
    "empty_done": "empty_reply",
    "empty_stop": "empty_reply",
    "empty_no_done": "empty_reply",
    "empty_hidden": "empty_reply",
    "several_tokens": "ok",
    "joined_events": "ok",
    "content_length": "ok",
    "close_delimited": "ok",
    "http_1_0": "ok",
    "crlf_events": "ok",
    "comments": "ok",
    "role_first": "ok",
    "reasoning": "ok",
    "hidden_reasoning": "ok",
    "tool_call": "ok",
    "leak_key": "http_error",
}


def event(text: str | None, finish: str | None = None, usage: dict | None = None, **more: object) -> bytes:
    """One completion event; `text` None: no choice at all."""
    choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": finish}]
    return (
        b"data: " + json.dumps({"choices": choices, **({"usage": usage} if usage else {}), **more}).encode() + b"\n\n"
    )


def delta(finish: str | None = None, **what: object) -> bytes:
    """One chat event."""
    return (
        b"data: " + json.dumps({"choices": [{"index": 0, "delta": what, "finish_reason": finish}]}).encode() + b"\n\n"
    )


def usage_of(tokens: int, reasoning: int | None = None) -> dict:
    """Usage of 8 prompt tokens and so many of output, with those that were reasoning where they are told."""
    told = {} if reasoning is None else {"completion_tokens_details": {"reasoning_tokens": reasoning}}
    return {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens, **told}


USAGE = event(None, usage=usage_of(TOKENS))
DONE = b"data: [DONE]\n\n"
STREAM = [event(" a"), event(" b"), event(" c", "length"), USAGE, DONE]


def chunk(data: bytes, size: str | None = None) -> bytes:
    return (size or f"{len(data):x}").encode() + b"\r\n" + data + b"\r\n"


def chunked(events: list[bytes]) -> bytes:
    return b"".join(map(chunk, events)) + b"0\r\n\r\n"


def plain(status: int, body: bytes, *headers: str, kind: str = "application/json") -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def error_body(message: str) -> bytes:
    return json.dumps({"error": {"message": message, "type": "x", "code": 1}}).encode()


def fixed(fault: str, key: str) -> bytes | None:
    """The whole answer of faults that are only bytes."""
    match fault:
        case "ok":
            return HEAD + chunked(STREAM)
        case "byte_chunks":
            return HEAD + b"".join(chunk(bytes([b])) for b in b"".join(STREAM)) + b"0\r\n\r\n"
        case "chunk_extension":
            return HEAD + b"".join(chunk(e, f"{len(e):X};name=value") for e in STREAM) + b"0\r\n\r\n"
        case "trailer":
            return HEAD + b"".join(map(chunk, STREAM)) + b"0\r\nx-sum: 1\r\n\r\n"
        case "giant_line":
            return HEAD + chunk(STREAM[0]) + chunk(b"data: " + b"x" * (50 * 1024 * 1024)) + chunked(STREAM[1:])
        case "chunk_size_small":
            return HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "5") + chunked(STREAM[2:])
        case "chunk_size_large":
            return HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "fff") + chunked(STREAM[2:])
        case "chunk_size_word":
            return HEAD + chunk(STREAM[0]) + chunk(STREAM[1], "size") + chunked(STREAM[2:])
        case "gzip":
            body = gzip.compress(b"".join(STREAM))
            return LENGTH_HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        case "redirect":
            return plain(307, b"", "location: http://127.0.0.1:1/elsewhere")
        case "continue_100":
            return b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + chunked(STREAM)
        case "status_400" | "status_402" | "status_500" | "status_503":
            return plain(int(fault[-3:]), error_body(f"no luck\n with {fault}"))
        case "status_429":
            return plain(429, error_body("slow down"), "retry-after: 7")
        case "status_429_date":
            return plain(429, error_body("slow down"), "retry-after: Wed, 21 Oct 2026 07:28:00 GMT")
        case "status_500_html":
            return plain(500, b"<html>oops</html>", kind="text/html")
        case "leak_key":
            return plain(401, error_body(f"key {key} is not valid; also sk-abcdefghijklmnop"))
        case "error_event":
            return HEAD + chunked([STREAM[0], b"data: " + error_body("engine died") + b"\n\n", DONE])
        case "error_first":
            return HEAD + chunked([b"data: " + error_body("engine died") + b"\n\n", DONE])
        case "error_json":
            return plain(200, error_body("not today"))
        case "json_reply":
            return plain(200, b'{"choices": [{"index": 0, "text": " a b c", "finish_reason": "length"}]}')
        case "bad_json":
            return HEAD + chunked([STREAM[0], b"data: {oops\n\n", *STREAM[1:]])
        case "not_http":
            return b"SSH-2.0-OpenSSH_9.9\r\n\r\n" + b"x" * 100
        case "no_usage":
            return HEAD + chunked([*STREAM[:3], DONE])
        case "no_done":
            return HEAD + chunked(STREAM[:4])
        case "no_finish":
            return HEAD + chunked(STREAM[:2])
        case "empty_done":
            return HEAD + chunked([DONE])
        case "empty_stop":
            return HEAD + chunked([event("", "stop"), event(None, usage=usage_of(0)), DONE])
        case "empty_no_done":
            return HEAD + chunked([event("", "stop")])
        case "empty_hidden":
            says = [delta(role="assistant", content=""), delta("length")]
            return HEAD + chunked([*says, event(None, usage=usage_of(9, reasoning=9)), DONE])
        case "hidden_reasoning":
            says = [
                delta(role="assistant", content=""),
                delta(content="a"),
                delta(content="b"),
                delta("stop", content="c"),
            ]
            return HEAD + chunked([*says, event(None, usage=usage_of(TOKENS + 1000, reasoning=1000)), DONE])
        case "several_tokens":
            parts = [(" a b", None, 2), (" c d e", None, 5), (" f", "length", 6)]
            usages = [{"prompt_tokens": 8, "completion_tokens": n} for _, _, n in parts]
            events = [event(t, f, u) for (t, f, _), u in zip(parts, usages, strict=True)]
            return HEAD + chunked([*events, event(None, usage=usages[-1]), DONE])
        case "joined_events":
            return HEAD + chunked([b"".join(STREAM[:2]), b"".join(STREAM[2:])])
        case "content_length":
            body = b"".join(STREAM)
            return LENGTH_HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
        case "crlf_events":
            return HEAD + chunked([e.replace(b"\n", b"\r\n") for e in STREAM])
        case "comments":
            return HEAD + chunked([b": ping\n\n", STREAM[0], b": ping\n\n", *STREAM[1:]])
        case "role_first":
            says = [
                delta(role="assistant", content=""),
                delta(content=" a"),
                delta(content=" b"),
                delta("stop", content=" c"),
            ]
            return HEAD + chunked([*says, USAGE, DONE])
        case "reasoning":
            usage = {"prompt_tokens": 8, "completion_tokens": 3, "completion_tokens_details": {"reasoning_tokens": 2}}
            usage |= {"prompt_tokens_details": {"cached_tokens": 4}}
            says = [delta(reasoning_content="h"), delta(reasoning="m"), delta("stop", content="a")]
            return HEAD + chunked([*says, event(None, usage=usage), DONE])
        case "tool_call":
            named = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": ""}}
            says = [delta(tool_calls=[named])]
            says += [delta(tool_calls=[{"index": 0, "function": {"arguments": a}}]) for a in ('{"a"', ":1}")]
            return HEAD + chunked([*says, delta("tool_calls"), USAGE, DONE])
    return None


class FaultServer:
    """Serves every fault of FAULTS; `hits` counts requests per fault."""

    def __init__(self) -> None:
        self.hits: Counter[str] = Counter()
        self.port = 0
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread: threading.Thread

    def url(self, fault: str) -> str:
        return f"http://127.0.0.1:{self.port}/{fault}/v1"

    def __enter__(self) -> Self:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main(started)), daemon=True)
        self._thread.start()
        assert started.wait(HANG_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self, started: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        tasks: set[asyncio.Task] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while await self._one(reader, writer):
                    pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self._stop.wait()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.sleep(0)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; True to keep the connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        if head.startswith("get "):
            return await self._list(head.split(" ", 2)[1], writer)
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        await reader.readexactly(length)
        fault = head.split(" ", 2)[1].split("/")[1]
        key = head.partition("authorization: bearer ")[2].partition("\r\n")[0]
        self.hits[fault] += 1
        if fault in hostile_replies.IN_TURN:  # the request's number says which: the m12 of `x-request-id: run-m12`
            names = hostile_replies.IN_TURN[fault]
            fault = names[int(head.partition("x-request-id: run-m")[2].partition("\r\n")[0]) % len(names)]
        elif fault == "every":
            fault = hostile_replies.ENDING[self.hits[fault] % len(hostile_replies.ENDING)]
        if fault in hostile_replies.HOSTILE:
            for piece in hostile_replies.answer(fault):
                if writer.transport.is_closing():
                    return False
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            return True
        answer = fixed(fault, key)
        if answer is not None:
            writer.write(answer)
            await writer.drain()
            return True
        return await self._live(fault, writer)

    async def _list(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """The answer to GET /models; 404 to every other."""
        fault = path.split("/")[1]
        if not path.endswith("/models"):
            writer.write(plain(404, b"{}"))
        elif fault == "models_drip":
            await self._slowly(writer, b"HTTP/1.1 200 OK\r\nx: " + b"y" * 10_000, 0.05)
        elif fault == "models_endless":
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n")
            while not writer.transport.is_closing():
                writer.write(b" " * 65536)
                await writer.drain()
        else:
            writer.write(plain(200, hostile_replies.MODELS.get(fault, b'{"data": [{"id": "golden"}]}')))
            await writer.drain()
            return True
        return False

    async def _slowly(self, writer: asyncio.StreamWriter, data: bytes, pause_s: float) -> None:
        for byte in data:
            if writer.transport.is_closing():
                return
            writer.write(bytes([byte]))
            await asyncio.sleep(pause_s)

    async def _was_read(self, writer: asyncio.StreamWriter) -> None:
        """Until the client has taken all that was written to it."""
        await writer.drain()
        while unread_bytes(self.port, writer.get_extra_info("peername")[1]):  # noqa: ASYNC110 - nothing tells us when
            await asyncio.sleep(0.001)

    async def _live(self, fault: str, writer: asyncio.StreamWriter) -> bool:
        """Faults that are a matter of time or of how a connection ends."""
        begin = HEAD + chunk(STREAM[0])
        match fault:
            case "slow_head":
                await self._slowly(writer, HEAD, 0.1)
            case "slow_head_done":
                await self._slowly(writer, HEAD, 0.001)
                writer.write(chunked(STREAM))
                return True
            case "byte_writes":
                await self._slowly(writer, HEAD + chunked(STREAM), 0)
                return True
            case "chance_end":
                # A chunk whose bytes end like a last chunk, written alone so that a read ends there; a comment in SSE.
                writer.write(begin)
                await self._was_read(writer)
                trap = b": \r\n0\r\n\r\n"
                writer.write(f"{len(trap):x}\r\n".encode() + trap)
                await self._was_read(writer)
                writer.write(b"\r\n" + chunked(STREAM[1:]))
                return True
            case "reset_before" | "reset_in" | "reset_after" | "close_before" | "close_in":
                how, when = fault.split("_")
                data = {"before": b"", "in": begin, "after": HEAD + b"".join(map(chunk, STREAM))}[when]
                writer.write(data)
                await writer.drain()
                await asyncio.sleep(0.03)
                if how == "reset":
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                return False
            case "half_closed":
                writer.write(HEAD + b"".join(map(chunk, STREAM)))
                writer.write_eof()
                await asyncio.sleep(0.1)
                return False
            case "hang":
                await asyncio.sleep(30)
            case "hang_after_head":
                writer.write(HEAD)
                await asyncio.sleep(30)
            case "hang_in":
                writer.write(begin)
                await asyncio.sleep(30)
            case "drip":
                writer.write(HEAD)
                while not writer.transport.is_closing():
                    writer.write(chunk(event(" a")))
                    await asyncio.sleep(0.1)
            case "half_event":
                writer.write(begin + chunk(STREAM[1][:20]))
                await writer.drain()
                return False
            case "close_delimited":
                writer.write(LENGTH_HEAD + b"connection: close\r\n\r\n" + b"".join(STREAM))
                return False
            case "http_1_0":
                writer.write(LENGTH_HEAD.replace(b"1.1", b"1.0") + b"\r\n" + b"".join(STREAM))
                return False
        return False
