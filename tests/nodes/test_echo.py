"""Questions to a node's clock: who gets an answer, and offsets against clocks whose distance the kernel knows (time namespaces)."""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import selectors
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.nodes import echo as echo_module
from harness.measure.nodes.echo import ANSWER_BYTES, NONCE_BYTES, QUESTION_BYTES, WORD, Asker, Echo, _mac, new_secret
from tests.waiting import until

pytestmark = pytest.mark.timing
SECRET = new_secret()
AHEAD_S = 50_000  # how far the other clock is ahead
QUIET_NS = 200_000
ECHO = """
import sys
from harness.measure.nodes.echo import Echo
with Echo(sys.argv[1], bytes.fromhex(sys.stdin.readline())) as echo:
    print(echo.port, flush=True)
    sys.stdin.read()
"""
ASKER = """
import json, sys
from harness.base import clock
from harness.measure.nodes.echo import Asker
with Asker([(sys.argv[1], int(sys.argv[2]))], bytes.fromhex(sys.stdin.readline()), every_s=0.3) as asker:
    asker.open()
    silent = asker.opened()
    line, given = asker.lines[0], []
    by_ns = clock.monotonic_ns() + 60_000_000_000
    while clock.monotonic_ns() < by_ns and (len(line) < 60 or line.offset(line.last_ns)[1] > int(sys.argv[3])):
        clock.sleep(0.3)
        given.append(line.offset(line.last_ns))
    silent += asker.after()
    print(json.dumps({"silent": silent, "given": [*given, line.offset(line.last_ns)], "facts": line.facts()}))
"""


def question(secret: bytes, word: bytes = WORD) -> bytes:
    asked = word + os.urandom(NONCE_BYTES)
    return asked + _mac(secret, asked)


def test_only_whole_questions_with_the_secret_are_answered():
    """Another secret, another word, one byte less or more, nothing, 60 kB: no answer; the next true question has one, no longer than itself."""
    with Echo("127.0.0.1", SECRET) as echo, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.connect(("127.0.0.1", echo.port))
        true = question(SECRET)
        for bad in (
            question(new_secret()),
            question(SECRET, b"clock?02"),
            true[:-1],
            true + b"x",
            b"",
            os.urandom(60_000),
            true[:-1] + bytes([true[-1] ^ 1]),
        ):
            asker.send(bad)
        asker.send(true)
        asker.settimeout(60)
        answer = asker.recv(2_000)
        assert answer[:NONCE_BYTES] == true[len(WORD) :][:NONCE_BYTES]
        assert len(answer) == ANSWER_BYTES <= QUESTION_BYTES
        asker.setblocking(False)
        with pytest.raises(BlockingIOError):
            asker.recv(2_000)


def test_an_answer_that_nobody_can_have_given_is_none():
    """Forged by who saw the question but has no secret, or to a question never asked: no round trip is made of it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as liar:
        liar.bind(("127.0.0.1", 0))
        liar.settimeout(0.05)
        over, heard = threading.Event(), []

        def lie() -> None:
            while not over.is_set():
                try:
                    asked, asker = liar.recvfrom(500)
                except TimeoutError:
                    continue
                heard.append(asked)
                stamp = bytes(8)
                seen = asked[len(WORD) :][:NONCE_BYTES]
                liar.sendto(seen + stamp + hashlib.sha256(seen + stamp).digest(), asker)
                other = os.urandom(NONCE_BYTES) + stamp
                liar.sendto(other + _mac(SECRET, other), asker)

        thread = threading.Thread(target=lie)
        thread.start()
        with Asker([liar.getsockname()], SECRET) as asker:
            asker.open()
            assert asker.opened() == [0]
            assert asker.lines[0].facts() == {"round_trips": 0}
        over.set()
        thread.join()
        assert len(heard) >= echo_module.OPENING_BURSTS
        assert not any(SECRET in asked for asked in heard)  # the secret itself never travels


def test_nodes_are_asked_side_by_side_and_the_silent_one_is_named():
    """Three that answer, one where nobody listens; the thread goes on between, and after() has fresh answers."""
    with ExitStack() as stack:
        echoes = [stack.enter_context(Echo("127.0.0.1", SECRET)) for _ in range(3)]
        with Asker([*(("127.0.0.1", echo.port) for echo in echoes), ("127.0.0.1", 9)], SECRET, every_s=0.1) as asker:
            asker.open()
            assert asker.opened() == [3]
            had = [len(line) for line in asker.lines]
            until(lambda: all(len(line) > n + 10 for line, n in zip(asker.lines[:3], had, strict=False)), "more trips")
            assert asker.after() == [3]
        for line in asker.lines[:3]:
            offset, error = line.offset(line.last_ns)
            assert abs(offset) <= error  # one machine, one clock
            assert line.breaks == []


def test_ipv6_and_addresses_that_this_machine_has_not():
    """An Echo binds one address; what cannot be bound or resolved is said with what to try."""
    with pytest.raises(ConfigError, match="cannot be answered at this address"):
        Echo("203.0.113.7", SECRET)
    with pytest.raises(ConfigError, match="cannot be resolved"):
        Asker([("no such host.invalid", 1)], SECRET)
    if not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"):
        pytest.skip("no IPv6 here")
    with Echo("::1", SECRET) as echo, Asker([("::1", echo.port)], SECRET) as asker:
        asker.open()
        assert asker.opened() == []


def test_an_echo_waits_in_the_kernel():
    """Nobody asks: its thread uses no CPU, however long."""
    with Echo("127.0.0.1", SECRET) as echo:
        task = Path(f"/proc/self/task/{echo._thread.native_id}/stat")
        until(lambda: ") S " in task.read_text(), "asleep")
        before = task.read_text().split()[13:15]
        end = time.monotonic() + 0.3
        until(lambda: time.monotonic() > end)
        assert task.read_text().split()[13:15] == before


# ---------------------------------------------------------------- clocks that are hours apart


def namespaced(*words: str) -> None:
    """Skips where this is not permitted."""
    if shutil.which(words[0]) is None or subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip(f"not permitted here: {' '.join(words[:3])}")


@contextmanager
def far_echo(*inside: str, address: str = "127.0.0.1"):
    """An Echo in a process whose CLOCK_MONOTONIC is AHEAD_S ahead; its port."""
    namespaced("unshare", "-T", "--monotonic", "1", "true")
    words = [*inside, "unshare", "-T", "--monotonic", str(AHEAD_S), sys.executable, "-c", ECHO, address]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        process.stdin.write(SECRET.hex() + "\n")
        process.stdin.flush()
        try:
            yield int(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait()


@contextmanager
def relay(port: int, there_s: tuple[float, float], back_s: tuple[float, float]):
    """A UDP relay on loopback that holds every datagram for a time drawn from the range of its way; its port."""
    rng, ready, waiting = np.random.default_rng(4), selectors.DefaultSelector(), []
    front, rear = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
    stop, over = socket.socketpair()
    front.bind(("127.0.0.1", 0))
    rear.connect(("127.0.0.1", port))
    for each in (front, rear, over):
        ready.register(each, selectors.EVENT_READ)

    def carry() -> None:
        asker, count = None, 0
        while True:
            wait_s = max(0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in ready.select(wait_s):
                if key.fileobj is over:
                    return
                data, source = key.fileobj.recvfrom(500)
                asker = source if key.fileobj is front else asker
                held_s = rng.uniform(*(there_s if key.fileobj is front else back_s))
                count += 1
                heapq.heappush(waiting, (time.monotonic() + held_s, count, key.fileobj is front, data))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, forward, data = heapq.heappop(waiting)
                rear.send(data) if forward else front.sendto(data, asker)

    thread = threading.Thread(target=carry)
    thread.start()
    try:
        yield front.getsockname()[1]
    finally:
        stop.send(b"x")
        thread.join()
        for each in (ready, front, rear, stop, over):
            each.close()


def test_another_machines_clock_through_20_ms_of_uneven_delay():
    """The kernel's own 50,000 s lie within the uncertainty of every offset that is given while a relay holds questions 15 to 35 ms and answers
    0 to 20 ms."""
    with (
        far_echo() as port,
        relay(port, (0.015, 0.035), (0.0, 0.02)) as between,
        Asker([("127.0.0.1", between)], SECRET, every_s=0.2) as asker,
    ):
        asker.open()
        assert asker.opened() == []
        line = asker.lines[0]
        for trips in (30, 45, 60):
            until(lambda n=trips: len(line) >= n, "round trips")
            offset, error = line.offset(line.last_ns)
            assert abs(offset + AHEAD_S * 10**9) <= error
        assert error > 7_000_000  # no bound can be tighter than half of the quickest way there and the quickest back
        assert asker.after() == []
        offsets, errors = line.offsets(np.linspace(line.last_ns - 3 * 10**9, line.last_ns, 200).astype(np.int64))
        assert (np.abs(offsets + AHEAD_S * 10**9) <= errors).all()


def test_a_veth_between_two_machines_gives_200_us():
    """Two network namespaces, one in a time namespace: asked until it is sure to 0.2 ms, and it is right."""
    first, second, pid = f"hl{os.getpid()}a", f"hl{os.getpid()}b", os.getpid()
    namespaced("ip", "netns", "add", first)
    with ExitStack() as stack:
        run = lambda *words: subprocess.run(words, check=True, capture_output=True)  # noqa: E731
        stack.callback(run, "ip", "netns", "del", first)
        run("ip", "netns", "add", second)
        stack.callback(run, "ip", "netns", "del", second)
        run("ip", "link", "add", f"l{pid}", "netns", first, "type", "veth", "peer", "name", f"r{pid}", "netns", second)
        for name, link, address in ((first, f"l{pid}", "10.239.1.1/30"), (second, f"r{pid}", "10.239.1.2/30")):
            run("ip", "-n", name, "addr", "add", address, "dev", link)
            run("ip", "-n", name, "link", "set", link, "up")
            run("ip", "-n", name, "link", "set", "lo", "up")
        port = stack.enter_context(far_echo("ip", "netns", "exec", second, address="10.239.1.2"))
        words = ("ip", "netns", "exec", first, sys.executable, "-c", ASKER, "10.239.1.2", str(port), str(QUIET_NS))
        done = subprocess.run(words, input=SECRET.hex() + "\n", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert said["silent"] == []
        for offset, error in said["given"]:
            assert abs(offset + AHEAD_S * 10**9) <= error
        offset, error = said["given"][-1]
        assert error <= QUIET_NS, said["facts"]
        assert abs(offset + AHEAD_S * 10**9) <= QUIET_NS
