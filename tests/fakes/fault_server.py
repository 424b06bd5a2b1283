"""A server that misbehaves on demand: the first path segment names the fault (`http://127.0.0.1:PORT/<fault>/v1`).

`fault_replies.FAULTS` lists them with what a client should make of each; hostile_replies.HOSTILE are served too, `every` gives the next
of those that end at each request, IN_TURN's names those of a list. GET answers what hostile_replies.MODELS has under the fault, or a list
of one model. Connections are kept alive unless the fault says otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from typing import Self

from tests.fakes import hostile_replies
from tests.fakes.fault_replies import HEAD, LENGTH_HEAD, STREAM, chunk, chunked, event, fixed, plain
from tests.waiting import HANG_S, unread_bytes


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
