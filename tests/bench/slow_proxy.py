"""A proxy that makes a real server slow without making this machine busy: so many completions at once, each begun so much later.

What it adds is waiting alone, so that a server's capacity does not depend on what else the machine does. Everything but completions goes
through as it is. In a thread: `with SlowProxy(server_url, slots=4, delay_s=0.4) as proxy: proxy.url`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading
from typing import Self
from urllib.parse import urlsplit


class SlowProxy:
    """HTTP/1.1, one request a connection. `slots`: completions at once, the others wait in order."""

    def __init__(self, server_url: str, slots: int, delay_s: float) -> None:
        self._to, self._slots, self._delay_s = urlsplit(server_url), slots, delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self._to.path}"

    async def _listen(self) -> None:
        self._free = asyncio.Semaphore(self._slots)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await client.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            body = await client.readexactly(int(length[1])) if length else b""
            head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head).replace(b"\r\n", b"\r\nconnection: close\r\n", 1)
            if b"/completions " in head.split(b"\r\n", 1)[0]:
                async with self._free:
                    await asyncio.sleep(self._delay_s)
                    await self._relay(head + body, back)
            else:
                await self._relay(head + body, back)
        back.close()

    async def _relay(self, request: bytes, back: asyncio.StreamWriter) -> None:
        reader, writer = await asyncio.open_connection(self._to.hostname, self._to.port)
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        back.write(head)
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        if length:
            back.write(await reader.readexactly(int(length[1])))
        else:
            tail = b""
            while not tail.endswith(b"0\r\n\r\n") and (data := await reader.read(1 << 16)):
                back.write(data)
                tail = (tail + data)[-8:]
        await back.drain()
        writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
