"""What a worker holds in memory, and what stays on disk when something of ours fails while it is read."""

from __future__ import annotations

import os
import socket

import pytest

from harness.base import clock
from harness.measure.drive import driver, loop, reader, shard, wire
from harness.measure.drive.collect import Collector
from harness.measure.drive.request_head import request_head
from harness.measure.drive.spool import Writer
from harness.measure.job import Job
from harness.measure.left_drive import left_folders, left_rows
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, Timeouts
from tests import shards
from tests.drive.offering import Watching
from tests.drive.test_drive_sessions import sessions, words
from tests.fakes.fault_server import FaultServer
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
REPLIES = 3
LONG = 1_000_000  # tokens: no limit of a single reply comes near


class _Worker:
    number = 0
    ready = False


@pytest.mark.parametrize("compiled", [True, False])
def test_all_replies_together_hold_no_more_than_they_may(tmp_path, monkeypatch, compiled):
    """Three endless replies, none too long for its plan: the longest is ended again and again while all hold more than the limit, and
    in the end nothing is held."""
    library = reader.library() if compiled else None
    if compiled and library is None:
        pytest.skip("no compiler here")
    monkeypatch.setattr(loop, "MAX_HELD_BYTES", 1 << 20)
    plan = [PlannedRequest(i, None, 1, LONG, None, i) for i in range(REPLIES)]
    with FaultServer() as server:
        endpoint = Endpoint(server.url("endless_comments"), "m", "completions")
        prompts = [Prompt(i, "a", None) for i in range(REPLIES)]
        shards.write(plan, prompts, [0] * REPLIES, 1, endpoint, "run", tmp_path)
        spool, (control, parent) = Writer(tmp_path, 0), os.pipe()
        os.set_blocking(control, False)
        os.write(parent, b"go %d\n" % clock.monotonic_ns())
        head = request_head(endpoint)
        config = loop.LoopConfig(endpoint.base_url, None, head, REPLIES, Timeouts(60, 60, 60, 120), None, True, library)
        worker = loop.Loop(config, shard.Shard(tmp_path, 0), spool, control)
        worker.prepare()
        worker.run()
        spool.close()
        os.close(control)
        os.close(parent)
    assert worker.reader.held_bytes == 0
    job = Job(plan, (), Load(concurrency=REPLIES), Phase.MEASURE, "run", tmp_path)
    collector = Collector(job, [0] * REPLIES, 1, tmp_path)
    rows = collector.collect([_Worker()], 10**10)
    assert [row.outcome for row in rows] == ["protocol_error"] * REPLIES
    assert [row.error.split(" replies")[0] for row in rows] == [f"the longest of {n}" for n in (3, 2, 1)]
    assert all("more than 1048576 bytes together" in row.error for row in rows)


@pytest.mark.parametrize("fails", ["rows", "ended"])
def test_what_nobody_stored_stays_in_the_spool(tmp_path, fails):
    """An error of ours while rows are taken, or when the last ones are written: the workers' files stay, and every reply that was
    received is in them; the prompts, which nobody will send, do not."""
    rows: list = []

    def fail(*_: object) -> None:
        raise RuntimeError("ours")

    def drive(url: str, **hooks) -> None:
        driver.drive(
            Job(plan, [Prompt(r.seq, words(r), None) for r in plan], load, Phase.MEASURE, "run", tmp_path),
            Watching(**hooks),
            Endpoint(url, "golden", "completions"),
            driver="wire",
            workers=1,
            timeouts=Timeouts(60, 60, 60, 120),
        )

    plan, load = sessions(7, think_ns=0), Load(concurrency=2)
    with GoldenServer(ttft_s=0.001, itl_s=0.001) as server:
        drive(server.url, rows=rows.extend)
        assert list(tmp_path.iterdir()) == []
        with pytest.raises(RuntimeError, match="ours"):
            drive(server.url, **{"rows": rows.extend, fails: fail})
    (left,) = left_folders(tmp_path)
    stands = {path.name for path in left.iterdir()}
    assert not {name for name in stands if name == "planned" or ".bodies-" in name}, stands
    kept = [row for found in left_rows(left, plan, load, []) for row in found]
    assert {row.outcome for row in kept} == {"ok"}
    assert len({row.seq for row in kept}) == (21 if fails == "ended" else len(kept))
    assert kept


@pytest.mark.parametrize("compiled", [True, False])
def test_what_is_held_counts_the_stamps(compiled):
    """A reply in reads of one byte holds 21 bytes for each, and nothing when it is forgotten."""
    library = reader.library() if compiled else None
    if compiled and library is None:
        pytest.skip("no compiler here")
    ours, theirs = socket.socketpair()
    reading = reader.make(library, tls=False)
    conn = wire.Conn(ours, wire._plain_recv(ours), 0)
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    with ours, theirs:
        ours.setblocking(False)
        reading.poll.register(ours, 1)
        reading.adopt(conn)
        for piece in (head, *(b"f" for _ in range(200))):
            theirs.send(piece)
            assert all(what == reader.MAY_END for _, what in reading.wait(1.0, 0, 0))
        assert reading.held_bytes == len(head) + 20 + 200 * 21
        assert reading.held(conn) == pytest.approx(reading.held_bytes, abs=128 * 21)
        reading.release(conn)
        reading.forget(conn.packed, conn.buf)
    assert reading.held_bytes == 0
