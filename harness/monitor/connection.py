"""A kept connection to one server's metrics page: a ninth of the work that a client for every purpose has with one, which hundreds of servers
every few seconds make the most of all that a monitor does."""

from __future__ import annotations

import asyncio
import os
import ssl

import httpx

from harness.measure.control_request import MOST_BYTES
from harness.measure.drive.http1 import HttpError, Response
from harness.monitor.page import PageError

HEADERS = {"accept": "text/plain;version=0.0.4", "accept-encoding": "identity"}

_STATUS_HINTS = {
    401: ": it wants a login, and is to be read without",
    403: ": it wants a login, and is to be read without",
    404: ": is it the URL of the metrics page, http://HOST:PORT/metrics?",
}


class Connection:
    """Asks one URL again and again, a page at a time; connects when it must."""

    def __init__(self, url: str, verify: ssl.SSLContext) -> None:
        """Raises PageError: no URL that can be asked."""
        try:
            place = httpx.URL(url)
        except httpx.InvalidURL as error:
            raise PageError(f"no URL that can be asked: {error}") from None
        self._host, self._tls = place.host, verify if place.scheme == "https" else None
        self._port = place.port or (443 if self._tls else 80)
        lines = [b"GET " + place.raw_path + b" HTTP/1.1", b"host: " + place.netloc, b"user-agent: vllm-cost-harness"]
        lines += [f"{name}: {value}".encode("latin-1") for name, value in HEADERS.items()]
        self._request = b"\r\n".join([*lines, b"", b""])
        self._kept: _Exchange | None = None

    async def page(self, limit_s: float) -> str:
        """Text of the page, whole within `limit_s`. Raises PageError: why there is none."""
        try:
            async with asyncio.timeout(limit_s):
                response, body = await self._answer()
        except TimeoutError:
            self._drop()
            raise PageError(f"no page within {limit_s:g} s") from None
        except (OSError, HttpError, PageError) as error:
            self._drop()
            raise PageError(_why(error)) from None
        if not response.reusable:
            self._drop()
        if response.status != httpx.codes.OK:
            raise PageError(f"HTTP status {response.status}{_STATUS_HINTS.get(response.status or 0, '')}")
        if (coding := response.headers.get("content-encoding", "identity")) != "identity":
            raise PageError(f"its page is packed ({coding[:20]}), and was asked for as it is")
        return body.decode("utf-8", "replace")

    async def _answer(self) -> tuple[Response, bytes]:
        if self._kept is not None and self._kept.open:
            try:
                return await self._kept.ask(self._request)
            except ConnectionResetError:
                if self._kept.began:  # else the server had let it go as we asked
                    raise
        loop = asyncio.get_running_loop()
        _, self._kept = await loop.create_connection(_Exchange, self._host, self._port, ssl=self._tls)
        return await self._kept.ask(self._request)

    async def close(self) -> None:
        self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


class _Exchange(asyncio.Protocol):
    """One request and its response on a connection that stands."""

    def __init__(self) -> None:
        self.open = self.began = False

    async def ask(self, request: bytes) -> tuple[Response, bytes]:
        """Raises ConnectionResetError, HttpError, PageError: too long."""
        self._response, self._body, self.began = Response(), bytearray(), False
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        await self._over
        return self._response, bytes(self._body)

    def close(self) -> None:
        if self.open:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        if not self._asked():
            self.close()  # of nothing that was asked
            return
        self.began = True
        try:
            self._body += self._response.feed(data)
        except HttpError as error:
            self._over.set_exception(error)
            return
        if len(self._body) > MOST_BYTES:
            self._over.set_exception(PageError(f"the page is longer than {MOST_BYTES} bytes"))
        elif self._response.complete:
            self._over.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.open = False
        if not self._asked():
            return
        if self.began and self._response.end_of_input():
            self._over.set_result(None)
        else:
            self._over.set_exception(ConnectionResetError(str(error or "the server closed the connection")))

    def _asked(self) -> bool:
        over: asyncio.Future[None] | None = getattr(self, "_over", None)
        return over is not None and not over.done()


def _why(error: Exception) -> str:
    """In a few words, and what to look at."""
    if isinstance(error, HttpError):
        return f"what answers there is no web server: {error}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    if isinstance(error, ConnectionRefusedError):
        return "nothing listens there: is the server up, and is this its port?"
    if isinstance(error, OSError):
        code = error.errno or 0
        return f"no connection: {os.strerror(code) if code > 0 else error.strerror or error}"
    return str(error)
