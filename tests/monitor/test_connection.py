"""The connection to a metrics page against servers that answer each in its own way, and some in none."""

from __future__ import annotations

import asyncio
import ssl

import pytest

from harness.monitor.connection import Connection
from harness.monitor.page import PageError
from tests.fakes.certificates import certificate, server_context
from tests.monitor.watching import Pages

OK = b"HTTP/1.1 200 OK\r\n"
PAGE = b"a 1\n"
LONG = OK + b"content-length: 4\r\n\r\n" + PAGE
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n2\r\na \r\n2\r\n1\n\r\n0\r\n\r\n"
CLOSING = OK + b"connection: close\r\ncontent-length: 4\r\n\r\n" + PAGE
TO_THE_END = OK + b"\r\n" + PAGE


def asked(answers: list[bytes | None], *, then: bool = True) -> tuple[list[str], list[str], int]:
    """What a connection has of a server that gives these answers (None: none, ever), the requests, and how many connections there were.
    `then` False: it hangs up after each."""
    requests, connections, found = [], 0, []

    async def handle(reader, writer) -> None:
        nonlocal connections
        connections += 1
        while answers:
            try:
                requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
            except asyncio.IncompleteReadError:
                break
            answer = answers.pop(0)
            if answer is None:
                await asyncio.sleep(600)
            for at in range(0, len(answer), 7):  # in pieces that end anywhere
                writer.write(answer[at : at + 7])
                await writer.drain()
            if not then or answer == TO_THE_END:
                break
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connection = Connection(f"http://127.0.0.1:{port}/x?y=1", ssl.create_default_context())
        for answer in list(answers):
            try:
                found.append(await connection.page(0.3 if answer is None else 30))
            except PageError as error:
                found.append(str(error))
        await connection.close()
        server.close()

    asyncio.run(main())
    return found, requests, connections


def test_pages_come_over_one_connection_however_they_are_framed():
    """By length, in chunks; one that closes, or ends with its connection, is followed by another."""
    found, requests, connections = asked([LONG, CHUNKED, LONG, CLOSING, TO_THE_END, LONG])
    assert found == [PAGE.decode()] * 6
    assert connections == 3
    assert {request.partition("\r\n")[0] for request in requests} == {"GET /x?y=1 HTTP/1.1"}
    assert all("\r\nhost: 127.0.0.1:" in request for request in requests)


def test_a_server_that_hangs_up_between_pages_misses_none():
    """A restart, or a keep-alive that is over: connected anew, without a word."""
    assert asked([LONG] * 3, then=False)[::2] == ([PAGE.decode()] * 3, 3)


def test_over_tls_the_certificate_is_checked(tmp_path):
    """By the authority that is known; without it the page is not read, and why is said."""
    cert, key = certificate(tmp_path)
    pages = Pages(server_context(cert, key))
    pages.of = {"/metrics": lambda: "a 1\n"}
    url = f"https://127.0.0.1:{pages.port}/metrics"

    async def read(verify: ssl.SSLContext) -> str:
        connection = Connection(url, verify)
        try:
            return await connection.page(30)
        finally:
            await connection.close()

    assert asyncio.run(read(ssl.create_default_context(cafile=str(cert)))) == "a 1\n"
    with pytest.raises(PageError, match="TLS: "):
        asyncio.run(read(ssl.create_default_context()))
    pages.close()


@pytest.mark.timing
def test_what_is_no_page_is_said_and_the_next_one_comes():
    """Another service, a status, half an answer, a packed one, silence: each in a few words; none spoils the page after it."""
    bad = {
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n": "what answers there is no web server",
        b"HTTP/1.1 302 Found\r\nlocation: /login\r\ncontent-length: 0\r\n\r\n": "HTTP status 302",
        OK + b"content-encoding: gzip\r\ncontent-length: 4\r\n\r\n1234": "packed (gzip)",
        None: "no page within 0.3 s",
    }
    for answer, says in bad.items():
        first, second = asked([answer, LONG])[0]
        assert says in first
        assert second == PAGE.decode()
    (cut,) = asked([OK + b"content-length: 9\r\n\r\n" + PAGE], then=False)[0]
    assert "closed the connection" in cut


def test_a_place_where_nothing_is_says_so():
    """A port that nobody has, a name that there is not, a URL that is none."""

    async def why(url: str) -> str:
        with pytest.raises(PageError) as error:
            await Connection(url, ssl.create_default_context()).page(30)
        return str(error.value)

    assert "nothing listens there" in asyncio.run(why("http://127.0.0.1:1/metrics"))
    assert "no connection: " in asyncio.run(why("http://nowhere.invalid/metrics"))
    assert "no URL that can be asked" in asyncio.run(why("http://a:port/metrics"))
