"""What a machine does to a load generator: no ports, a stopped process, a stepped clock, ten thousand open streams."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import psutil
import pytest

from harness.measure.drive import driver as driver_module
from harness.measure.drive.collect import Collector
from harness.measure.drive.golden import server as golden
from harness.measure.drive.spool import Writer
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, Timeouts
from tests import shards
from tests.drive.offering import offer
from tests.fakes.golden_server import GoldenServer

ROOT = Path(__file__).parents[2]
HOUR_NS = 3_600_000_000_000
pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def golden_binary(tmp_path_factory):
    return golden.build(tmp_path_factory.mktemp("golden"))


class _Worker:
    number = 0
    ready = False


def test_a_stepped_clock_moves_no_stamp(tmp_path):
    """The wall clock jumps an hour between two tokens: with the anchors around it both stamps are right, and the report has the step."""
    plan = [PlannedRequest(0, None, 2, 2, None, 0)]
    endpoint = Endpoint("http://h/v1", "m", "completions", vllm_extensions=True)
    shards.write(plan, [Prompt(0, None, (1, 2))], [0], 1, endpoint, "run", tmp_path)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    events = [json.dumps({"choices": [{"text": "a"}], "usage": {"completion_tokens": n}}).encode() for n in (1, 2)]
    chunks = [b"data: %b\n\n" % event for event in events]
    reads = [head, *(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks), b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"]
    before, after = 10**18, 10**18 + HOUR_NS  # CLOCK_REALTIME - CLOCK_MONOTONIC
    monotonic = [5_000_000_000, 5_020_000_000, 6_040_000_000, 6_050_000_000]
    real = [monotonic[0] + before, monotonic[1] + before, monotonic[2] + after, monotonic[3] + after]
    columns = (
        b"".join(t.to_bytes(8, sys.byteorder) for ns in real for t in divmod(ns, 10**9)),
        b"".join(len(read).to_bytes(4, sys.byteorder) for read in reads),
        b"".join(reads),
    )
    spool = Writer(tmp_path, 0)
    spool.put(("anchor", 5_000_000_000, before, 100))
    spool.put(("anchor", 6_000_000_000, after, 100))
    spool.put(("exchange", 0, "", "", 1, 1, 1, 0, False, 4_990_000_000, monotonic[-1], False, *columns))
    facts = {"cpu_s": 1, "loop_lag_max_s": 0, "late_sends": 0, "user_reads": 0, "careful": 0, "cut": False}
    spool.put(
        (
            "report",
            json.dumps(
                facts
                | {
                    "stopped_max_s": 0,
                    "priority": "none",
                    "reader": "reader in Python",
                    "core_wait_s": None,
                    "gave_up_s": None,
                    "ended_ns": 7,
                }
            ),
        )
    )
    spool.close()
    collector = Collector(Job(plan, (), Load(concurrency=1), Phase.MEASURE, "run", tmp_path), [0], 1, tmp_path)
    (row,) = collector.collect([_Worker()], 10**9)
    assert row.outcome == "ok"
    assert row.chunk_ns == (5_020_000_000, 6_040_000_000)
    report = collector.report("wire", "done")
    assert report.largest_clock_step_ns == HOUR_NS
    assert report.stamp_source == "kernel"


def test_a_stopped_worker_is_late_right_and_noted(real_workers):
    """SIGSTOP of the worker for longer than its idle limit, while the server sends most of each reply: every token is there, stamps
    are the kernel's (those of a merged read are its last one's), and the report says that it stood still."""
    stopped: list[int] = []

    def stop_and_go() -> None:
        told = [len(served.written_ns) for served in server.log.values()]
        if not stopped and len(told) == 4 and min(told) >= 5:
            stopped.extend(
                c.pid for c in psutil.Process().children() if "harness.measure.drive.worker" in " ".join(c.cmdline())
            )
            os.kill(stopped[0], signal.SIGSTOP)
        elif len(stopped) == 1 and min(told) >= 75:
            os.kill(stopped[0], signal.SIGCONT)
            stopped.append(0)

    with GoldenServer(0.1, 0.05) as server:
        more = {"timeouts": Timeouts(30, 60, 2, 120), "should_stop": stop_and_go}
        rows, report = offer(server.url, 4, concurrency=4, tokens=90, **more)
        strays = [off for row in rows for off in server.strays_ns(row.request_id, row.chunk_ns)]
    assert len(stopped) == 2
    assert [(row.outcome, len(row.chunk_ns)) for row in rows] == [("ok", 90)] * 4
    assert any("stood still for" in note for note in report.notes)
    for row in rows:
        shared = Counter(row.chunk_ns)
        assert max(shared.values()) > 10  # what waited came in one read or a few
        assert row.merged_reads == sum(tokens > 1 for tokens in shared.values())
        late = zip(row.chunk_ns, server.log[row.request_id].send_ns, strict=True)
        assert min(got - sent for got, sent in late) > -50_000  # never before it was sent
    assert max(strays) < 50_000  # a stamp of its own is right, however late the read was


_NO_PORTS = """
import fcntl, socket, struct
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(s, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: lo up
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("50000 50019")
from tests.drive.offering import offer
from tests.fakes.golden_server import GoldenServer
early = []
with GoldenServer(0.01, 0.01, port=8000) as server:
    server.hold = lambda _: len(server.log) + len(early) < 40
    rows, _ = offer(server.url, 40, gap_s=0.002, tokens=2, on_rows=early.extend)
for row in rows:
    print(row.outcome, row.sent_ns is None, row.error)
"""


def test_port_exhaustion_is_dropped_rows():
    """With 20 local ports for 40 requests at once, those without a port are dropped in their rows; none waits for one."""
    space = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*space, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no network namespace may be made here")
    run = subprocess.run(
        [*space, sys.executable, "-c", _NO_PORTS], capture_output=True, text=True, check=False, cwd=ROOT
    )
    lines = run.stdout.splitlines()
    assert len(lines) == 40, run.stderr
    assert sum(line.startswith("ok False") for line in lines) == 20
    assert sum(line.startswith("dropped True") and "address" in line for line in lines) == 20


_MANY = """
import sys
import psutil
from harness.records import Timeouts
from tests.drive.offering import offer
from tests.waiting import unread_bytes
url, port, wanted = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
held, went = [], []
def enough(folder):
    sent = next(folder.glob("*/shard-0.sent")).read_bytes()
    went.append(sum(any(sent[i : i + 8]) for i in range(0, len(sent), 8)))
    # half a second after the last was sent its first token is here
    if went[-3:] == [wanted] * 3 and unread_bytes(port) == 0 and not held:
        me = psutil.Process()
        held.append(sum(p.memory_info().rss for p in (me, *me.children())))
rows, _ = offer(
    url, wanted, gap_s=0.0001, tokens=3, look=enough, should_stop=lambda: "abort" if held else None,
    timeouts=Timeouts(60, 120, None, None),
)
print(len(rows), *{(row.outcome, len(row.chunk_ns)) for row in rows}, held[0], sep="\\n")
"""


def test_ten_thousand_open_streams(golden_binary, tmp_path):
    """10,000 streams with 64 s between tokens are held at once, below 1 GiB for driver and worker together, and end when told."""
    wanted = 10_000
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < wanted + 100:
        pytest.skip(f"needs a hard limit of {wanted + 100} open files (ulimit -Hn)")
    with golden.GoldenProcess(golden_binary, 0.05, 64, tmp_path) as server:
        # a process of its own: what earlier tests left in this one is not the driver's
        run = subprocess.run(
            [sys.executable, "-c", _MANY, server.url, str(server.port), str(wanted)],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip
        log = server.stop()
    assert run.returncode == 0, run.stderr
    *what, held_bytes = run.stdout.split("\n")[:-1]
    assert what == [str(wanted), "('cancelled', 1)"]
    assert len(log) == wanted
    assert int(held_bytes) < 1 << 30


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_the_workers_clocks_are_measured(driver, monkeypatch):
    """Each worker's clock is asked before the start; on one machine the offset lies within its own error."""
    monkeypatch.setattr(driver_module, "CLOCK_WAIT_NS", 60_000_000_000)  # an answer comes, however busy the machine is
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        _, report = offer(server.url, 4, concurrency=2, tokens=2, workers=2, driver=driver)
    assert len(report.clock_offsets) == 2
    for offset_ns, error_ns in report.clock_offsets:
        assert error_ns > 0
        assert abs(offset_ns) <= error_ns
