"""Questions to a node's clock and its answers, over UDP: a socket of their own, so that no row of results is before them in a queue.

A question is a word, a nonce and their HMAC under the run's secret; an answer the nonce, the node's CLOCK_MONOTONIC and their HMAC. Without the
secret nothing is answered, no answer is longer than its question, and the secret itself is never sent. A datagram that is lost is a trip less.
"""

from __future__ import annotations

import hmac
import secrets
import selectors
import socket
import struct
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Self

from harness.base import clock
from harness.base.errors import ConfigError
from harness.measure.nodes.time_line import RoundTrip, TimeLine

WORD = b"clock?01"
NONCE_BYTES, MAC_BYTES = 16, 32
STAMP = struct.Struct("!q")
QUESTION_BYTES = ANSWER_BYTES = len(WORD) + NONCE_BYTES + MAC_BYTES
FORGET_NS = 5_000_000_000  # an answer that is later bounds nothing
PAUSE_NS = 4_000_000  # between the questions of a burst: one that waited for a core is not all of them
OPENING_BURSTS, OPENING_NS = 3, 250_000_000
POLL_S = 0.1


def new_secret() -> bytes:
    """The secret of one run's clock questions."""
    return secrets.token_bytes(32)


def _mac(secret: bytes, part: bytes) -> bytes:
    return hmac.digest(secret, part, "sha256")


def _bound(address: str, port: int) -> socket.socket:
    """A UDP socket at a numeric address or a name. Raises ConfigError where this machine does not have it."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.bind(where)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise ConfigError(
            "clock questions cannot be answered at this address",
            f"{address}:{port} ({error})",
            "use one of this node's",
        ) from error
    return bound


class Echo:
    """On a node: a thread that answers questions to this machine's clock at `address`, of whoever has the secret, and nothing else.

    `port` is where it answers. It waits in the kernel; a question costs some 20 µs.
    """

    def __init__(self, address: str, secret: bytes, port: int = 0) -> None:
        self._secret = secret
        self._socket = _bound(address, port)
        self._over, self._close = socket.socketpair()
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, name="clock-echo", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as ready:
            ready.register(self._socket, selectors.EVENT_READ)
            ready.register(self._over, selectors.EVENT_READ)
            while True:
                if any(key.fileobj is self._over for key, _ in ready.select()):
                    return
                with suppress(OSError):  # the asker's host is gone: the next question tells
                    self._answer(*self._socket.recvfrom(QUESTION_BYTES + 1))

    def _answer(self, question: bytes, asker: Any) -> None:
        asked, mac = question[:-MAC_BYTES], question[-MAC_BYTES:]
        if len(question) != QUESTION_BYTES or not asked.startswith(WORD):
            return
        if not hmac.compare_digest(mac, _mac(self._secret, asked)):
            return
        nonce = asked[len(WORD) :]
        answer = nonce + STAMP.pack(clock.monotonic_ns())
        self._socket.sendto(answer + _mac(self._secret, answer), asker)

    def close(self) -> None:
        self._close.send(b"x")
        self._thread.join()
        for each in (self._socket, self._over, self._close):
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Asker:
    """In the parent: asks every node's clock a burst of questions every `every_s`, and keeps a `TimeLine` for each (`lines`).

    `open()` starts the thread, which asks enough to know the offsets (three quarters of a second), then goes on; `opened()` waits for that, `after()`
    asks once more and ends it; both return the nodes (positions in `echoes`) that did not answer. `echoes`: (address, port) of each node's Echo. The nodes' bursts are spread over the second: an answer that waits for another
    would look longer than it was.
    """

    def __init__(
        self, echoes: Sequence[tuple[str, int]], secret: bytes, every_s: float = 1.0, questions: int = 5
    ) -> None:
        self.lines = [TimeLine() for _ in echoes]
        self._secret, self._questions = secret, questions
        self._every_ns = round(every_s * 1e9)
        self._sockets: dict[int, socket.socket] = {}
        self._where = [self._resolved(*echo) for echo in echoes]
        self._open: dict[bytes, tuple[int, int]] = {}  # nonce -> (node, asked)
        self._over, self._is_open, self._silent = threading.Event(), threading.Event(), list(range(len(echoes)))
        self._thread = threading.Thread(target=self._ask_on, name="clock-asker", daemon=True)
        self._ready = selectors.DefaultSelector()
        for each in self._sockets.values():
            each.setblocking(False)
            self._ready.register(each, selectors.EVENT_READ)

    def _resolved(self, address: str, port: int) -> tuple[socket.socket, Any]:
        try:
            family, kind, protocol, _, where = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        except OSError as error:
            raise ConfigError(
                "a node's address cannot be resolved", f"{address} ({error})", "give the node's IP address"
            ) from error
        if family not in self._sockets:
            self._sockets[family] = socket.socket(family, kind, protocol)
        return self._sockets[family], where

    def open(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def opened(self) -> list[int]:
        """Wait until the lines are open. Returns who has not answered."""
        self._is_open.wait()
        return self._silent

    def after(self) -> list[int]:
        """End the thread, ask once more, close. Returns who did not answer now."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        silent = self._bursts(2)
        self.close()
        return silent

    def close(self) -> None:
        """End without another question; twice is once."""
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._ready.close()
        for each in self._sockets.values():
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _bursts(self, count: int) -> list[int]:
        """So many bursts of every node, and who answered none of them. Waits for answers no longer than a quarter of a second more."""
        had = [len(line) for line in self.lines]
        begun_ns = clock.monotonic_ns()
        for burst in range(count):
            self._burst(begun_ns + burst * OPENING_NS, OPENING_NS)
        end_ns = begun_ns + (count + 3) * OPENING_NS
        while self._open and clock.monotonic_ns() < end_ns:
            self._take(min(POLL_S, (end_ns - clock.monotonic_ns()) / 1e9))
        return [node for node, line in enumerate(self.lines) if len(line) == had[node]]

    def _ask_on(self) -> None:
        self._silent = self._bursts(OPENING_BURSTS)
        self._is_open.set()
        due_ns = clock.monotonic_ns()
        while not self._over.is_set():
            self._burst(due_ns, self._every_ns)
            due_ns = max(due_ns + self._every_ns, clock.monotonic_ns())

    def _burst(self, due_ns: int, within_ns: int) -> None:
        """A burst of every node, the nodes' spread over `within_ns` from `due_ns` on; answers are taken all the while."""
        count = len(self._where)
        asking = sorted(
            (due_ns + node * within_ns // (2 * count) + question * PAUSE_NS, node)
            for node in range(count)
            for question in range(self._questions)
        )
        for at_ns, node in asking:
            self._take_until(at_ns)
            if self._over.is_set() and threading.current_thread() is self._thread:
                return
            self._ask(node)
        self._take_until(due_ns + within_ns)

    def _take_until(self, at_ns: int) -> None:
        while (left_ns := at_ns - clock.monotonic_ns()) > 0:
            if self._over.is_set() and threading.current_thread() is self._thread:
                return
            self._take(min(left_ns / 1e9, POLL_S))

    def _ask(self, node: int) -> None:
        through, where = self._where[node]
        asked = WORD + secrets.token_bytes(NONCE_BYTES)
        question = asked + _mac(self._secret, asked)
        nonce = asked[len(WORD) :]
        for old, (_, at_ns) in list(self._open.items()):  # in the order of asking
            if clock.monotonic_ns() - at_ns < FORGET_NS:
                break
            del self._open[old]
        asked_ns = clock.monotonic_ns()
        with suppress(OSError):  # no way there: a question that nobody heard
            through.sendto(question, where)
            self._open[nonce] = node, asked_ns

    def _take(self, wait_s: float) -> None:
        """Wait for answers that long, and take what is there."""
        for key, _ in self._ready.select(wait_s):
            with suppress(OSError):
                while True:
                    answer = key.fileobj.recv(ANSWER_BYTES + 1)  # type: ignore[union-attr]
                    self._answered(answer, clock.monotonic_ns())

    def _answered(self, answer: bytes, back_ns: int) -> None:
        said, mac = answer[:-MAC_BYTES], answer[-MAC_BYTES:]
        nonce = said[:NONCE_BYTES]
        if len(answer) != ANSWER_BYTES or nonce not in self._open:
            return
        if not hmac.compare_digest(mac, _mac(self._secret, said)):
            return
        node, asked_ns = self._open.pop(nonce)
        self.lines[node].add(RoundTrip(asked_ns, STAMP.unpack(said[NONCE_BYTES:])[0], back_ns))
