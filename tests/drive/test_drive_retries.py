"""When a request is sent again: only on a kept-alive connection that was closed before any byte of the reply, and once."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

import pytest

from harness.measure.drive import reader
from harness.records import RETRIED
from tests.drive.offering import offer
from tests.fakes.fault_replies import HEAD, STREAM, chunk, chunked

pytestmark = pytest.mark.timing
WHOLE = HEAD + chunked(STREAM)


class Scripted:
    """Answers the first request of a connection in full and its second with `second` and a close, by reset where told. With
    `first`, the first one gets that. `got`: (connection, when) of each request that came whole."""

    def __init__(self, second: bytes = b"", *, first: bytes | None = None, reset: bool = False) -> None:
        self.second, self.first, self.reset = second, first, reset
        self.got: list[tuple[int, int]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self):
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown(
            socket.SHUT_RDWR
        )  # a close alone lets the thread wait on, for whoever has the descriptor's number next
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        number = 0
        with contextlib.suppress(OSError):
            while True:
                conn = self._listener.accept()[0]
                number += 1
                threading.Thread(target=self._serve, args=(conn, number), daemon=True).start()

    def _serve(self, conn: socket.socket, number: int) -> None:
        with conn, contextlib.suppress(OSError):
            for nth in (1, 2):
                if not self._request(conn):
                    return
                self.got.append((number, time.monotonic_ns()))
                conn.sendall((WHOLE if self.first is None else self.first) if nth == 1 else self.second)
                if nth == 1 and self.first is not None:
                    break
            if self.reset:
                conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _request(self, conn: socket.socket) -> bool:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := conn.recv(65536)):
                return False
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
        while left > 0:
            left -= len(conn.recv(left))
        return True


@pytest.fixture(params=["compiled", "python"], autouse=True)
def _reader(request, monkeypatch):
    if request.param == "compiled" and reader.library() is None:
        pytest.skip("no compiler here")
    if request.param == "python":
        monkeypatch.setenv("HARNESS_READER", "python")


def rows_of(server: Scripted, n: int = 2, **more):
    rows, _ = offer(server.url, n, tokens=3, vllm_extensions=False, **({"concurrency": 1} | more))
    return sorted(rows, key=lambda row: row.seq)


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_closed_before_any_reply_costs_no_request(reset):
    """It is sent once more, on a new connection, and the row says so."""
    with Scripted(reset=reset) as server:
        rows = rows_of(server)
    assert [row.outcome for row in rows] == ["ok", "ok"]
    assert [row.error for row in rows] == [None, RETRIED]
    assert [connection for connection, _ in server.got] == [1, 1, 2]
    assert rows[1].connection_reused is False


@pytest.mark.parametrize("more", [{"concurrency": 1}, {"concurrency": None, "gap_s": 0.3}], ids=["closed", "open"])
def test_a_request_sent_again_is_as_late_as_it_is(more):
    """Its time runs from when it was first due, before the server had the first copy of it; it was sent when the second went."""
    with Scripted() as server:
        first, second = rows_of(server, **more)
    (_, had_first), (_, had_second) = server.got[1:]
    assert second.error == RETRIED
    assert second.due_ns <= had_first <= second.sent_ns <= had_second
    assert second.scheduled_ns == (second.due_ns if "gap_s" in more else None)
    if "gap_s" in more:
        assert second.due_ns - first.due_ns == 300_000_000
    else:
        assert second.due_ns >= first.ended_ns


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("bytes_sent", [1, 20, len(HEAD), len(HEAD) + 5, len(HEAD + chunk(STREAM[0]))])
def test_nothing_is_sent_again_once_the_reply_has_begun(bytes_sent, reset):
    """One byte of it is enough: the server may have worked, and the row is a failure with the bytes that came."""
    with Scripted(WHOLE[:bytes_sent], reset=reset) as server:
        rows = rows_of(server)
    assert [row.outcome for row in rows] == ["ok", "reset" if reset else "truncated"]
    assert rows[1].response_bytes == bytes_sent
    assert [connection for connection, _ in server.got] == [1, 1]


@pytest.mark.parametrize("reset", [False, True])
def test_nothing_is_sent_again_after_a_new_connection(reset):
    """A server that closes a connection at its first request refuses it: one attempt, one failure a request."""
    with Scripted(first=b"", reset=reset) as server:
        rows = rows_of(server, 3)
    assert [row.outcome for row in rows] == ["reset" if reset else "truncated"] * 3
    assert [connection for connection, _ in server.got] == [1, 2, 3]
