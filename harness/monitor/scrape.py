"""Pages over HTTP: any number of servers in one event loop, each by its own clock, so that one that is slow or gone delays no other."""

from __future__ import annotations

import asyncio
import ssl
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress

import httpx

from harness.base import redaction
from harness.base.loopback import is_loopback
from harness.measure.control_request import MOST_BYTES
from harness.measure.drive.proxy import url_of
from harness.monitor.connection import HEADERS, Connection
from harness.monitor.page import PageError, PageReader
from harness.monitor.watched import Watched

LONGEST_S = 10.0  # for a page, or the interval where that is shorter
SPREAD_S = (
    0.05  # between the first pages of two servers: at once where they are few, over the interval where they are many
)


def open_client(url: str, verify: object = True) -> httpx.AsyncClient:
    """A client for one server, for what is asked now and then or through a proxy of the environment, which a loopback server has none of."""
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=600)
    return httpx.AsyncClient(trust_env=not is_loopback(url), verify=verify, limits=limits)  # type: ignore[arg-type]


async def fetch(client: httpx.AsyncClient, url: str, limit_s: float, headers: Mapping[str, str] = HEADERS) -> str:
    """Text of a page, whole within `limit_s`. Raises PageError: why there is none."""
    try:
        async with asyncio.timeout(limit_s), client.stream("GET", url, headers=dict(headers), timeout=None) as answer:
            if answer.status_code != httpx.codes.OK:
                raise PageError(f"HTTP status {answer.status_code}")
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > MOST_BYTES:
                    raise PageError(f"the page is longer than {MOST_BYTES} bytes")
    except httpx.InvalidURL as error:
        raise PageError(f"no URL that can be asked: {error}") from None
    except TimeoutError:
        raise PageError(f"no page within {limit_s:g} s") from None
    except httpx.HTTPError as error:
        raise PageError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
    return body.decode("utf-8", "replace")


class _Proxied:
    """As a Connection, through the proxy that the environment names."""

    def __init__(self, url: str, verify: ssl.SSLContext) -> None:
        self._url, self._client = url, open_client(url, verify)

    async def page(self, limit_s: float) -> str:
        return await fetch(self._client, self._url, limit_s)

    async def close(self) -> None:
        await self._client.aclose()


class Scraper:
    """The servers of one pool that are asked for their pages."""

    def __init__(
        self,
        reader: PageReader,
        interval_s: float,
        now_ns: Callable[[], int],
        made: Callable[[str], Watched],
        verify: ssl.SSLContext,
    ) -> None:
        """`made`: what is kept of a server, by its name. `verify`: shared by all connections."""
        self._reader, self._interval_s, self._now_ns, self._made, self._verify = (
            reader,
            interval_s,
            now_ns,
            made,
            verify,
        )
        self._tasks: dict[str, tuple[str, asyncio.Task[None]]] = {}
        self.watched: dict[str, Watched] = {}
        self.gone: list[Watched] = []

    def follow(self, servers: Mapping[str, str]) -> None:
        """Ask just these from now on: name -> URL. One that is left out is no longer watched; what is known of it is in `gone`."""
        for name in [n for n, (url, _) in self._tasks.items() if servers.get(n) != url]:
            self._tasks.pop(name)[1].cancel()
            if name not in servers:
                self.gone.append(self.watched.pop(name))
        span_s = min(self._interval_s, SPREAD_S * len(servers))
        for name, url in servers.items():
            if name not in self._tasks:
                self.watched.setdefault(name, self._made(name))
                late_s = zlib.crc32(name.encode()) % 1000 / 1000 * span_s
                self._tasks[name] = (url, asyncio.create_task(self._ask(name, url, late_s)))

    async def _ask(self, name: str, url: str, late_s: float) -> None:
        loop, watched, limit_s = asyncio.get_running_loop(), self.watched[name], min(LONGEST_S, self._interval_s)
        due_s = loop.time() + late_s
        of: Connection | _Proxied | None = None
        try:
            while True:
                await asyncio.sleep(due_s - loop.time())
                try:
                    of = of or (_Proxied if url_of(url, None) else Connection)(url, self._verify)
                    page = self._reader.read(await of.page(limit_s))
                    watched.take(page, self._now_ns())
                except PageError as error:
                    watched.miss(self._now_ns(), str(error))
                except Exception as error:  # of whatever kind: it is this server's alone
                    watched.miss(self._now_ns(), redaction.text(f"{type(error).__name__}: {error}"))
                due_s += self._interval_s
                if due_s < loop.time():  # this machine slept
                    due_s = loop.time() + late_s
        finally:
            if of is not None:
                await of.close()

    async def close(self) -> None:
        tasks = [task for _, task in self._tasks.values()]
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
