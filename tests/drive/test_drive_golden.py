"""The driver against a server that knows the truth."""

from __future__ import annotations

import os
import re
import signal
import socket
import statistics
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from harness.measure.drive import driver as driver_module
from harness.records import Timeouts
from tests.drive.offering import PROMPT_TOKENS, offer
from tests.fakes.certificates import certificate as make_certificate
from tests.fakes.certificates import server_context
from tests.fakes.golden_server import GoldenServer
from tests.waiting import Machine, unread_bytes, until

pytestmark = pytest.mark.timing
KEY = "topsecret-key-1"
CONVERSION_NS = 50_000  # between two anchors the wall clock, which the kernel stamps with, may be slewed so far


def strays_ns(rows, server) -> list[int]:
    return [off for row in rows for off in server.strays_ns(row.request_id, row.chunk_ns)]


def test_stamps_are_the_servers_send_times():
    """Closed loop: every token recorded, and stamped while the server wrote it."""
    with GoldenServer(0.02, 0.004) as server:
        rows, report = offer(server.url, 24, concurrency=4, tokens=20)
        assert max(strays_ns(rows, server)) < CONVERSION_NS
    assert report.stamp_source == "kernel"
    assert report.largest_read_bytes > 100
    assert not any("fast path" in note for note in report.notes)
    assert any(re.search(r"^worker 0: priority (real-time|nice -10|none), .*waited \d", note) for note in report.notes)
    assert len(rows) == 24
    for row in rows:
        assert row.outcome == "ok"
        assert len(row.chunk_ns) == 20
        assert row.sent_ns <= server.log[row.request_id].recv_ns
        assert row.counted_output_tokens == row.output_tokens == 20
        assert row.prompt_tokens == PROMPT_TOKENS


def test_concurrency_is_held_exactly_and_connections_are_kept():
    """Closed loop over two workers: never more in flight than asked, the slot's next send at once, one connection a slot."""
    with GoldenServer(0.01, 0.001) as server:
        server.hold = lambda _: server.max_in_flight < 5
        rows, report = offer(server.url, 60, concurrency=5, workers=2)
    assert server.max_in_flight == 5
    assert server.connections == 5
    assert sum(not row.connection_reused for row in rows) == 5
    assert report.workers == 2
    assert {row.worker for row in rows} == {0, 1}
    assert sorted(row.seq for row in rows) == list(range(60))
    for row in rows:
        assert row.scheduled_ns is None
        assert (row.connect_ns is None) == bool(row.connection_reused)


def test_open_loop_keeps_the_schedule_and_never_waits():
    """Open loop: sends follow the plan though no reply begins before the last request is there."""
    with GoldenServer(0.01, 0.001) as server, Machine() as machine:
        server.hold = lambda _: server.max_in_flight < 60
        rows, report = offer(server.url, 60, gap_s=0.005, tokens=5)
    rows.sort(key=lambda row: row.seq)
    for row in rows:
        assert row.outcome == "ok"
        assert row.scheduled_ns == row.due_ns == report.started_ns + row.seq * 5_000_000
    lags = [row.sent_ns - row.scheduled_ns for row in rows]
    assert min(lags) >= 0
    assert statistics.median(lags) < 5_000_000 + machine.worst_ns


def test_chat_and_sdk_agree_with_the_wire():
    """Both drivers send the same plan and report the same tokens; the SDK says that its stamps are its own."""
    with GoldenServer(0.01, 0.002, cached_tokens=3) as server:
        wire, _ = offer(server.url, 6, concurrency=2, api="chat")
        sent = {name: served.body for name, served in server.log.items()}
        server.log.clear()
        sdk, report = offer(server.url, 6, concurrency=2, api="chat", driver="sdk")
        assert {name: served.body for name, served in server.log.items()} == sent
    assert report.stamp_source == "user"
    assert any("worker 0: the garbage collector stopped it" in note for note in report.notes)
    key = lambda row: row.seq  # noqa: E731
    for a, b in zip(sorted(wire, key=key), sorted(sdk, key=key), strict=True):
        same = (
            "request_id",
            "outcome",
            "prompt_tokens",
            "cached_prompt_tokens",
            "output_tokens",
            "chunk_tokens",
            "finish_reason",
        )
        assert [getattr(a, name) for name in same] == [getattr(b, name) for name in same]
        assert len(a.chunk_ns) == len(b.chunk_ns) == 10


def test_sdk_holds_loops_and_stops():
    """The SDK driver holds concurrency and the schedule, and ends at the duration."""
    with GoldenServer(0.01, 0.002) as server:
        server.hold = lambda _: server.max_in_flight < 3
        rows, _ = offer(server.url, 8, concurrency=3, driver="sdk")
        assert (len(rows), server.max_in_flight) == (8, 3)
        server.log.clear()
        rows, report = offer(server.url, 1000, gap_s=0.02, driver="sdk", duration_s=0.5)
    assert report.stop_reason == "duration"
    assert 1 <= len(rows) == len(server.log) <= 25
    assert {row.outcome for row in rows} == {"ok"}


def test_duration_ends_sending_and_lets_replies_end():
    """After the duration nothing is sent; what was in flight ends well; what was not sent makes no row."""
    with GoldenServer(0.05, 0.005) as server:
        rows, report = offer(server.url, 10_000, concurrency=3, duration_s=0.5)
    assert report.stop_reason == "duration"
    assert {row.outcome for row in rows} == {"ok"}
    assert 3 <= len(rows) == len(server.log) < 100
    assert max(row.due_ns for row in rows) <= report.started_ns + 500_000_000


def test_drain_and_abort():
    """ "drain" lets replies end; "abort" cancels them, closes their connections and keeps the stamps seen so far."""
    with GoldenServer(0.02, 0.05) as server:
        rows, report = offer(
            server.url, 100, concurrency=3, should_stop=lambda: "drain" if server.in_flight == 3 else None
        )
        assert report.stop_reason == "interrupted"
        assert {row.outcome for row in rows} == {"ok"}
        server.log.clear()

        def all_have_tokens() -> bool:
            streams = list(server.log.values())
            return len(streams) == 3 and all(s.written_ns for s in streams) and unread_bytes(server.port) == 0

        rows, report = offer(
            server.url, 100, concurrency=3, tokens=500, should_stop=lambda: "abort" if all_have_tokens() else None
        )
        assert report.stop_reason == "interrupted"
        assert [row.outcome for row in rows] == ["cancelled"] * 3
        assert all(row.chunk_ns and row.finish_reason is None for row in rows)
        until(lambda: server.in_flight == 0)
        assert all(server.log[row.request_id].cancelled for row in rows)


def test_other_stop_words_become_the_reason():
    """Any other word aborts and is reported as it stands."""
    with GoldenServer(5, 1) as server:
        rows, report = offer(server.url, 2, concurrency=2, should_stop=lambda: "target_died")
    assert report.stop_reason == "target_died"
    assert len(rows) <= 2


def workers_of(parent: int) -> list[int]:
    out = subprocess.run(
        ["ps", "-o", "pid=,args=", "--ppid", str(parent)], capture_output=True, text=True, check=False
    ).stdout
    return [int(line.split()[0]) for line in out.splitlines() if "harness.measure.drive.worker" in line]


class Once:
    """A `should_stop` that never stops, and acts on the workers once when the server has so many requests in flight."""

    def __init__(self, server: GoldenServer, in_flight: int, act) -> None:
        self.server, self.in_flight, self.act = server, in_flight, act
        self.pids: list[int] = []

    def __call__(self) -> None:
        if not self.pids and self.server.in_flight == self.in_flight:
            self.pids = workers_of(os.getpid())
            self.act(self.pids)


def test_a_killed_worker_is_noticed(real_workers):
    """kill -9 of a worker: the run stops with worker_died, and each of that worker's requests is a row."""
    with GoldenServer(0.05, 0.05) as server:
        kill = Once(server, 4, lambda pids: os.kill(pids[0], signal.SIGKILL))
        rows, report = offer(server.url, 30, concurrency=4, tokens=100, workers=2, should_stop=kill)
    assert report.stop_reason == "worker_died"
    dead = [row for row in rows if row.error and "SIGKILL" in row.error]
    assert len({row.worker for row in dead}) == 1
    assert sum(row.worker == dead[0].worker for row in rows) == 15
    assert {row.outcome for row in dead} == {"cancelled", "dropped"}
    assert all((row.sent_ns is None) == (row.outcome == "dropped") for row in dead)
    assert workers_of(os.getpid()) == []


def test_sigint_is_ignored_by_workers(real_workers):
    """Ctrl-C reaches the parent only: a worker that gets SIGINT goes on."""
    with GoldenServer(0.05, 0.02) as server:
        interrupt = Once(server, 2, lambda pids: [os.kill(pid, signal.SIGINT) for pid in pids])
        server.hold = lambda _: not interrupt.pids
        rows, report = offer(server.url, 12, concurrency=2, should_stop=interrupt)
    assert len(interrupt.pids) == 1
    assert report.stop_reason == "done"
    assert {row.outcome for row in rows} == {"ok"}


def test_closed_keep_alive_connection_is_tried_again_and_said():
    """A server that closes idle connections costs no request: sent again on a new one, and the row says so if it raced."""
    with GoldenServer(0.002, 0.0005, close_after=2) as server:
        rows, _ = offer(server.url, 40, concurrency=4, tokens=3)
    assert {row.outcome for row in rows} == {"ok"}
    assert server.connections >= 20


def test_key_is_sent_and_never_written_down():
    """The key opens the server and is in no file of the scratch folder while the run goes on."""
    seen = []

    def look(folder) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                seen.append(path.name)
                assert KEY.encode() not in path.read_bytes()

    with GoldenServer(0.02, 0.02, api_keys=(KEY,)) as server:
        rows, report = offer(server.url, 10, concurrency=2, api_key=KEY, look=look)
        assert {row.outcome for row in rows} == {"ok"}
        assert any("bodies" in name for name in seen)
        assert KEY not in repr(report) + repr(rows)
        rows, _ = offer(server.url, 2, concurrency=2, api_key="another")
    assert [row.http_status for row in rows] == [401, 401]


def test_rows_come_while_the_run_goes_on():
    """Rows are handed out while others are in flight: the server keeps its eleventh reply until a row has come."""
    batches = []
    with GoldenServer(0.02, 0.01) as server:
        server.hold = lambda served: served.number > 10 and not batches
        offer(server.url, 20, concurrency=2, on_rows=batches.append)
    assert sum(map(len, batches)) == 20


def test_rejected_requests_are_rows():
    """429 above the server's limit is an http_error row each; the rest are ok."""
    with GoldenServer(0.01, 0.001, reject_above=3) as server:
        server.hold = lambda _: server.rejected < 9
        rows, _ = offer(server.url, 12, gap_s=0.005)
    statuses = [row.http_status for row in rows]
    assert statuses.count(429) == server.rejected == 9
    assert sum(row.outcome == "ok" for row in rows) == 3


def test_no_file_descriptor_is_a_dropped_row(monkeypatch):
    """A request for which no socket could be opened is dropped in its row, not delayed: no reply begins before all are sent or
    dropped."""
    import resource

    real = subprocess.Popen

    def limited(*args, **kwargs):
        return real(*args, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)), **kwargs)

    monkeypatch.setattr("harness.measure.drive.processes.subprocess.Popen", limited)
    early: list = []
    with GoldenServer(0.01, 0.01) as server:
        server.hold = lambda _: len(server.log) + len(early) < 40
        rows, _ = offer(server.url, 40, gap_s=0.002, tokens=2, on_rows=early.extend)
    outcomes = [row.outcome for row in rows]
    assert set(outcomes) == {"ok", "dropped"}
    assert outcomes.count("dropped") > 10
    assert all(row.sent_ns is None and row.error for row in rows if row.outcome == "dropped")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    return make_certificate(folder)


def test_tls_is_checked_and_stamped_by_the_kernel(certificate):
    """TLS with the right CA works with kernel stamps and its own set-up stamp; without that CA it is connect_error."""
    cert, key = certificate
    context = server_context(cert, key)
    with GoldenServer(0.02, 0.005, tls=context) as server:
        rows, report = offer(server.url, 6, concurrency=2, ca_file=str(cert))
        assert {row.outcome for row in rows} == {"ok"}
        assert report.stamp_source == "kernel"
        assert max(strays_ns(rows, server)) < CONVERSION_NS
        first = next(row for row in rows if not row.connection_reused)
        assert first.connect_started_ns < first.connect_ns < first.tls_ns
        rows, _ = offer(server.url, 2, concurrency=1)
    assert [row.outcome for row in rows] == ["connect_error"] * 2
    assert "certificate" in rows[0].error


def late_ns(rows, server) -> list[int]:
    return [g - s for r in rows for g, s in zip(r.chunk_ns, server.log[r.request_id].send_ns, strict=True)]


def test_user_stamps_are_said(monkeypatch):
    """Without kernel stamps the rows are whole and the report says that user space took them."""
    monkeypatch.setattr(driver_module, "KERNEL_STAMPS", False)
    with GoldenServer(0.01, 0.003) as server, Machine() as machine:
        rows, report = offer(server.url, 6, concurrency=2)
    assert report.stamp_source == "user"
    assert min(late_ns(rows, server)) > 0
    assert statistics.median(late_ns(rows, server)) < 2_000_000 + machine.worst_ns


def test_timeouts_do_not_touch_healthy_requests():
    """Limits that no pause reaches change nothing, over more than one look at the deadlines and for longer than they are."""
    with GoldenServer(0.02, 0.02) as server:
        for _ in range(10):  # a server that was kept from its core for so long is no healthy one: the next try
            rows, _ = offer(server.url, 2, concurrency=2, tokens=120, timeouts=Timeouts(2, 2, 2, 60))
            logs = [server.log[row.request_id] for row in rows]
            if all(b - a < 500_000_000 for s in logs for a, b in pairwise([s.recv_ns, *s.written_ns])):
                break
    assert [row.outcome for row in rows] == ["ok"] * 2
    assert [len(row.chunk_ns) for row in rows] == [120, 120]


def no_ipv6_loopback() -> str:
    """Why nothing can listen on ::1 here; empty where something can."""
    try:
        with socket.socket(socket.AF_INET6) as one:
            one.bind(("::1", 0))
    except OSError as error:
        return f"no IPv6 loopback here: {error.strerror}"
    return ""


@pytest.mark.skipif(bool(no_ipv6_loopback()), reason=no_ipv6_loopback())
def test_ipv6():
    """A literal IPv6 address is an address like any other."""
    with GoldenServer(0.01, 0.001, host="::1") as server:
        rows, _ = offer(f"http://[::1]:{server.port}/v1", 3, concurrency=1)
    assert {row.outcome for row in rows} == {"ok"}


def test_unix_socket(tmp_path):
    """A Unix socket is an address like any other, whoever stamps its reads."""
    with GoldenServer(0.01, 0.002, unix=str(tmp_path / "socket")) as server, Machine() as machine:
        rows, _ = offer(server.url, 4, concurrency=2)
    assert {row.outcome for row in rows} == {"ok"}
    assert 0 <= statistics.median(late_ns(rows, server)) < 2_000_000 + machine.worst_ns


def test_workers_end_with_their_parent(tmp_path):
    """kill -9 of the parent ends its workers: they notice the closed pipe."""
    with GoldenServer(0.05, 0.05) as server:
        code = f"from tests.drive.offering import offer; offer({server.url!r}, 50, concurrency=2, tokens=200)"
        parent = subprocess.Popen(
            [sys.executable, "-c", code], cwd=Path(__file__).parents[2], env=os.environ | {"TMPDIR": str(tmp_path)}
        )
        until(lambda: server.in_flight == 2)
        workers = workers_of(parent.pid)
        parent.kill()
        parent.wait()
        assert len(workers) == 1
        until(lambda: not Path(f"/proc/{workers[0]}").exists())
        until(lambda: server.in_flight == 0)


def test_empty_plan():
    """An empty plan is a report with nothing in it."""
    rows, report = offer("http://127.0.0.1:1/v1", 0, concurrency=1)
    assert rows == []
    assert report.stop_reason == "done"
