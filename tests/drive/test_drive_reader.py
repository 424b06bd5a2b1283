"""The two readers, over real sockets: the same bytes, stamps and events from the one in Python and the compiled one."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time
from array import array
from pathlib import Path

import pytest

from harness.base import clock
from harness.measure.drive import reader, wire
from tests.waiting import until

pytestmark = pytest.mark.timing
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVENT = b"c\r\ndata: {a}\n\n\r\n"
END = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"
KINDS = ("python", "compiled")
LATER_NS = 2_000_000_000
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset


@pytest.fixture(params=KINDS)
def kind(request):
    if request.param == "compiled" and reader.library() is None:
        pytest.skip("no compiler here")
    return request.param


@pytest.fixture
def reading(kind):
    made = reader.make(reader.library() if kind == "compiled" else None, tls=False)
    assert kind in made.name.lower()
    return made


@pytest.fixture(scope="module", autouse=True)
def _stamping():
    """The kernel switches its stamps on a moment after it was asked to."""
    with wire.hold_kernel_stamping():
        until(_is_stamped, "a read with the kernel's stamp")
        yield


def _is_stamped() -> bool:
    with contextlib.ExitStack() as stack:
        made = reader.make(None, tls=False)
        _, far = _link(made, stack, kernel=True)
        far.sendall(HEAD)
        made.wait(0.05, clock.monotonic_ns() + LATER_NS, 200_000)
        return made.user_reads == 0


@pytest.fixture
def link(reading):
    """An adopted connection and the server's end of it."""
    with contextlib.ExitStack() as stack:
        yield _link(reading, stack, kernel=True)


def _link(reading, stack, *, kernel):
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    to = wire.destination(f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
    conn = wire.connect(to, wire.resolve(to), 0, None, kernel_stamps=kernel)
    stack.callback(conn.sock.close)
    far = stack.enter_context(listener.accept()[0])
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    reading.poll.register(conn.fd, 1)
    reading.adopt(conn)
    return conn, far


def asked(reading, timeout_s=0.2):
    return reading.wait(timeout_s, clock.monotonic_ns() + LATER_NS, 200_000)


def send_apart(reading, far, *pieces):
    """Each piece read by itself; the events that they caused."""
    found = []
    for piece in pieces:
        far.sendall(piece)
        found += asked(reading, 0.02)
    return found


def columns(reading, conn):
    reading.release(conn)
    pieces = [*conn.packed, reader.pack(conn.buf)] if conn.buf else conn.packed
    stamps, lengths, data = (b"".join(column) for column in zip(*pieces, strict=True))
    return struct.unpack(f"={len(stamps) // 8}q", stamps), array("I", lengths).tolist(), data


def test_every_read_is_appended_with_the_kernels_stamp(reading, link):
    """Head, events and end as they were read, stamps between the two looks at the clock; one event: it may have ended."""
    conn, far = link
    before = time.time_ns()
    found = send_apart(reading, far, HEAD, EVENT, EVENT)
    assert found == []
    assert reading.last_stamp(conn) is not None
    far.sendall(END)
    assert asked(reading) == [(conn.fd, reader.MAY_END)]
    assert reading.tail(conn, 8) == END[-8:]
    assert reading.begin(conn).startswith(HEAD)
    stamps, lengths, data = columns(reading, conn)
    assert data == HEAD + EVENT + EVENT + END
    assert lengths == [len(HEAD), len(EVENT), len(EVENT), len(END)]
    at = [seconds * clock.NS + nanos for seconds, nanos in zip(stamps[::2], stamps[1::2], strict=True)]
    assert before <= at[0] <= at[1] <= at[2] <= at[3] <= time.time_ns()
    assert reading.user_reads == 0
    assert reading.busy_max_ns > 0


@pytest.mark.parametrize("cut", range(1, 9))
def test_an_end_that_comes_in_two_reads_is_seen(reading, link, cut):
    """The last bytes split anywhere: nothing until they are whole, except that the reader may look at short reads."""
    conn, far = link
    send_apart(reading, far, HEAD, EVENT, END[:-cut])
    far.sendall(END[-cut:])
    assert (conn.fd, reader.MAY_END) in asked(reading)
    assert columns(reading, conn)[2] == HEAD + EVENT + END


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD,
        HEAD[:20],
        b"H",
        b"\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n" + b"x" * 100,
    ],
)
def test_an_unusual_beginning_is_the_callers(reading, link, first):
    """Other statuses, lengths, heads in parts, other protocols: said once, and what came is kept."""
    conn, far = link
    far.sendall(first)
    assert asked(reading) == [(conn.fd, reader.UNUSUAL)]
    assert columns(reading, conn)[2] == first


def test_what_was_read_before_it_was_given_back_counts(reading, link):
    """A stream that goes on carefully: when its last byte came is still known, or its time limits would be the wrong ones."""
    conn, far = link
    far.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\nabc")
    assert asked(reading) == [(conn.fd, reader.UNUSUAL)]
    before = reading.last_stamp(conn)
    reading.release(conn)
    assert before is not None
    assert reading.last_stamp(conn) == before


def test_a_head_with_its_end_in_one_read(reading, link):
    """A whole reply in one read may have ended; a head alone, which ends alike, has not."""
    conn, far = link
    far.sendall(HEAD + EVENT + END)
    assert asked(reading) == [(conn.fd, reader.MAY_END)]


def test_a_close_and_a_reset(reading, kind):
    """The two ends a connection can come to, each its event; the reset with its error."""
    with contextlib.ExitStack() as stack:
        conn, far = _link(reading, stack, kernel=True)
        send_apart(reading, far, HEAD, EVENT)
        far.close()
        assert asked(reading) == [(conn.fd, reader.CLOSED)]
        assert columns(reading, conn)[2] == HEAD + EVENT
        reading.poll.unregister(conn.fd)
        conn, far = _link(reading, stack, kernel=True)
        send_apart(reading, far, HEAD)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        far.close()
        [(fd, event)] = asked(reading)
        assert fd == conn.fd
        assert event & reader.LOST
        assert isinstance(reading.error(fd, event), ConnectionResetError)


def test_without_kernel_stamps_our_own_are_taken_and_counted(reading):
    """A socket that was not asked for stamps: CLOCK_MONOTONIC of the read, marked as such."""
    with contextlib.ExitStack() as stack:
        conn, far = _link(reading, stack, kernel=False)
        before = clock.monotonic_ns()
        send_apart(reading, far, HEAD, EVENT)
        stamps, _, _ = columns(reading, conn)
    assert stamps[::2] == (wire.USER_STAMP_SECONDS,) * 2
    assert before <= stamps[1] <= stamps[3] <= clock.monotonic_ns()
    assert reading.user_reads == 2


def test_a_descriptor_that_is_not_adopted_comes_back_as_the_poll_gave_it(reading, link):
    """Idle connections, the control pipe and the timer are the caller's."""
    conn, far = link
    reading.release(conn)
    far.sendall(b"x")
    assert asked(reading) == [(conn.fd, 1)]


def test_an_end_that_waits_is_dropped_when_its_stream_is_given_up(reading):
    """More streams end at once than one turn hands over; one of those that wait is released, and another adopted."""
    with contextlib.ExitStack() as stack:
        links = [_link(reading, stack, kernel=True) for _ in range(40)]
        for _, far in links:
            far.sendall(HEAD + END)
        until(lambda: len(select.select([conn.sock for conn, _ in links], [], [], 0)[0]) == len(links))
        first = asked(reading)
        seen = {fd for fd, _ in first}
        rest = [conn for conn, _ in links if conn.fd not in seen]
        if rest:  # the compiled one hands over a few at a time
            reading.release(rest[0])
            seen.add(rest[0].fd)
            reading.adopt(rest[0])
        while more := asked(reading, 0.05):
            assert not {fd for fd, _ in more} & seen
            assert {event for _, event in more} == {reader.MAY_END}
            seen |= {fd for fd, _ in more}
        assert seen == {conn.fd for conn, _ in links}


def test_memory_comes_back(reading, link):
    """A released stream's columns are its own until they are forgotten; the next stream begins empty."""
    conn, far = link
    send_apart(reading, far, HEAD, EVENT * 5000)
    assert reading.held(conn) >= 0
    stamps, lengths, data = columns(reading, conn)
    assert (len(stamps), data) == (2 * len(lengths), HEAD + EVENT * 5000)
    reading.forget(conn.packed, conn.buf)
    conn.clear()
    reading.adopt(conn)
    assert reading.last_stamp(conn) is None
    far.sendall(HEAD)
    asked(reading, 0.05)
    assert columns(reading, conn)[2] == HEAD


def test_what_is_held_is_packed_and_nothing_lost(reading, link):
    """A long reply, looked at as the deadlines do: all bytes and one length a read."""
    conn, far = link
    for _ in range(300):
        far.sendall(EVENT if conn.buf or reading.last_stamp(conn) else HEAD)
        until(lambda: select.select([conn.sock], [], [], 0)[0])
        asked(reading, 0.001)
        reading.held(conn)
    _, lengths, data = columns(reading, conn)
    assert (sum(lengths), len(lengths)) == (len(data), 300)
    assert data == HEAD + EVENT * 299


def test_no_library_means_python(monkeypatch, tmp_path):
    """Without a compiler, with one that fails, or with a library of another machine, the reader in Python does it."""
    monkeypatch.setenv("HARNESS_READER", "python")
    assert reader.library() is None
    monkeypatch.delenv("HARNESS_READER")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert reader.library() is None
    other = Path(tmp_path / "other.so")
    other.write_bytes(b"not a library")
    assert type(reader.make(str(other), tls=False)) is reader.Reader


def test_an_end_and_a_close_of_one_stream_never_come_together(reading):
    """40 replies end at once and their connections are closed: at the end Python may give the stream up, and then the close
    is not of an exchange any more."""
    with contextlib.ExitStack() as stack:
        links = [_link(reading, stack, kernel=True) for _ in range(40)]
        for _, far in links:
            far.sendall(HEAD + END)
        until(lambda: len(select.select([conn.sock for conn, _ in links], [], [], 0)[0]) == len(links))
        ended, by_fd = [], {conn.fd: conn for conn, _ in links}
        while turn := asked(reading, 0.05):
            assert len(dict(turn)) == len(turn)
            for fd, event in turn:
                assert event == reader.MAY_END
                reading.release(by_fd[fd])
                reading.poll.unregister(fd)
            ended += turn
            for _, far in links:
                far.close()
        assert len(ended) == len(links)
