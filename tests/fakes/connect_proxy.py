"""A forward proxy in a thread: CONNECT tunnels and plain requests with a whole URL, and what it was asked.

with ConnectProxy(user="u", password="p") as proxy: proxy.url
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import threading
from typing import Self


class ConnectProxy:
    """`heads`: each request's head as it came. `refuse`: the status that every request gets instead. Names are resolved to 127.0.0.1."""

    def __init__(self, user: str | None = None, password: str = "", *, refuse: int | None = None) -> None:
        self.user, self.password, self.refuse = user, password, refuse
        self.heads: list[str] = []
        self.port = 0
        self._stop: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url_with_password(self) -> str:
        return f"http://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            self.heads.append(head)
            if self.refuse is not None or not self._is_known(head):
                status = self.refuse or 407
                writer.write(f"HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
                writer.close()
                return
            method, where, _ = head.split("\r\n", 1)[0].split(" ", 2)
            far = where if method == "CONNECT" else where.removeprefix("http://").partition("/")[0]
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(far.rpartition(":")[2]))
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                up = _pump(reader, far_writer)
            else:
                up = self._requests(head, reader, far_writer)
            await asyncio.gather(up, _pump(far_reader, writer))

    async def _requests(self, head: str, reader: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        """Plain requests of one connection, each with its path alone."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                where = head.split(" ", 2)[1]
                path = "/" + where.removeprefix("http://").partition("/")[2]
                length = head.lower().partition("content-length:")[2].partition("\r\n")[0]
                sink.write(head.replace(where, path, 1).encode("latin-1") + await reader.readexactly(int(length or 0)))
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
        sink.close()

    def _is_known(self, head: str) -> bool:
        if self.user is None:
            return True
        word = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return f"proxy-authorization: basic {word}".lower() in head.lower()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    with contextlib.suppress(ConnectionError):
        sink.close()
