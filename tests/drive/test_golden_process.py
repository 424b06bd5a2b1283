"""The golden server in C does not come down, or write beyond its memory, for what a client asks."""

from __future__ import annotations

import socket

import psutil
import pytest

from harness.measure.drive import cc
from harness.measure.drive.golden.server import GoldenProcess, build
from tests.waiting import until

pytestmark = pytest.mark.timing
# the kernel's call under another name, and before the first a signal: after the server has looked, before it waits
_ENDS_BEFORE_A_WAIT = """
#include <signal.h>
#include <stddef.h>
#include <sys/epoll.h>
int epoll_wait(int fd, struct epoll_event *got, int most, int ms) {
    static int waits;
    if (!waits++) raise(SIGTERM);
    return epoll_pwait(fd, got, most, ms, NULL);
}
"""


def asked(server: GoldenProcess, head: str, body: str, streams: int = 1) -> bytes:
    """Everything that comes back until the server closes, or that many streams are whole."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as line:
        line.sendall(f"POST /v1/completions HTTP/1.1\r\nx-request-id: r\r\n{head}\r\n\r\n{body}".encode())
        found = b""
        while found.count(b"\r\n0\r\n\r\n") < streams and (got := line.recv(1 << 16)):
            found += got
        return found


@pytest.mark.parametrize("tokens", [0, -5, 10**15, 10**30])
def test_a_number_of_tokens_that_is_none_is_refused(tmp_path, tokens):
    """400 for fewer than one token or more than memory holds; the next request is answered and logged."""
    with GoldenProcess(build(tmp_path), 0.001, 0.001, tmp_path) as server:
        body = f'{{"max_tokens":{tokens}}}'
        assert asked(server, f"content-length: {len(body)}", body).startswith(b"HTTP/1.1 400")
        assert asked(server, "content-length: 16", '{"max_tokens":3}').count(b" tok") == 3
        assert [len(one.sent_ns) for one in server.stop().values()] == [3]


def test_a_body_larger_than_the_server_takes_is_refused(tmp_path):
    """413 for a length that would wrap around; the next request is answered."""
    with GoldenProcess(build(tmp_path), 0.001, 0.001, tmp_path) as server:
        assert asked(server, f"content-length: {2**64 - 10}", "{}").startswith(b"HTTP/1.1 413")
        assert asked(server, "content-length: 16", '{"max_tokens":2}').count(b" tok") == 2


def test_requests_that_come_together_are_all_answered(tmp_path):
    """Two that want no tokens and one that does, in one piece: three replies, in order."""
    with GoldenProcess(build(tmp_path), 0.001, 0.001, tmp_path) as server:
        found = asked(
            server,
            "content-length: 0\r\n\r\nGET /health HTTP/1.1\r\n\r\nGET /v1/models HTTP/1.1\r\n\r\nPOST /v1/completions HTTP/1.1\r\ncontent-length: 16",
            '{"max_tokens":2}',
            streams=2,
        )
        assert found.count(b"HTTP/1.1 200 OK") == 4
        assert found.count(b" tok") == 18


def test_the_log_holds_no_token_that_was_not_sent(tmp_path):
    """A reply whose client left, and one that SIGTERM cut short: each with the send times of what it came to."""
    with GoldenProcess(build(tmp_path), 0.001, 3600, tmp_path) as server:
        request = 'POST /v1/completions HTTP/1.1\r\nx-request-id: %s\r\ncontent-length: 16\r\n\r\n{"max_tokens":5}'
        with socket.create_connection(("127.0.0.1", server.port)) as stays:
            with socket.create_connection(("127.0.0.1", server.port)) as leaves:
                leaves.sendall((request % "leaves").encode())
            stays.sendall((request % "stays").encode())
            found = b""
            while b" tok" not in found:
                found += stays.recv(1 << 16)
            served = server.stop()
        assert len(served["stays"].sent_ns) == 1
        assert all(one.sent_ns.all() for one in served.values())


def test_an_end_asked_for_just_before_the_server_waits_is_heard(tmp_path):
    """SIGTERM between its look at what there is to do and its wait for more: it ends, as it does at any other time."""
    source, library = tmp_path / "ends.c", tmp_path / "ends.so"
    source.write_text(_ENDS_BEFORE_A_WAIT)
    cc.compile_c(source, library, library=True)
    with GoldenProcess(build(tmp_path), 0.001, 0.001, tmp_path, through=("env", f"LD_PRELOAD={library}")) as server:
        until(lambda: psutil.Process(server.pid).status() == psutil.STATUS_ZOMBIE, "the server's end")
    assert (tmp_path / "golden.log").exists()
