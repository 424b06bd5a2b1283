"""What workers leave on disk: segments that can be read without those before them, deleted late; what a kill leaves of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from types import SimpleNamespace

import pytest

from harness.base import clock
from harness.base.errors import StoreError
from harness.measure import recover
from harness.measure.drive import collect, driver, spool
from harness.measure.drive.collect import Collector
from harness.measure.drive.loop import FEW, PACK_SHARE, SENDS_PER_POLL, Loop
from harness.records import Endpoint, Load, PlannedRequest, Prompt
from tests import shards
from tests.drive.offering import offer
from tests.fakes.golden_server import GoldenServer
from tests.waiting import until

pytestmark = pytest.mark.timing


@pytest.fixture
def small_segments(monkeypatch):
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 120)


def _segments(folder):
    return sorted(path.name for path in folder.glob("spool-0-*"))


def test_every_segment_begins_with_the_preface(small_segments, tmp_path):
    writer = spool.Writer(tmp_path, 0)
    for n in range(6):
        writer.preface = ("anchor", n)
        writer.put(("exchange", n, b"x" * 60))
    first, second, *_ = _segments(tmp_path)
    (tmp_path / first).unlink()
    found = list(spool.Tail(tmp_path, 0).messages())
    assert found[0][0] == "anchor"
    assert [values[1] for values in found if values[0] == "exchange"] == [1, 2, 3, 4, 5]
    assert second == "spool-0-000001"


def test_segments_are_deleted_when_told_and_not_before(small_segments, tmp_path):
    writer, tail = spool.Writer(tmp_path, 0), spool.Tail(tmp_path, 0)
    for n in range(6):
        writer.put(("exchange", n, b"x" * 60))
    assert tail.is_behind(240)
    assert not tail.is_behind(360)
    assert len(list(tail.messages())) == 6
    assert not tail.is_behind(120)
    assert len(_segments(tmp_path)) == 3
    tail.forget(0)
    assert len(_segments(tmp_path)) == 3
    tail.forget(clock.monotonic_ns())
    assert _segments(tmp_path) == ["spool-0-000002"]


def test_a_spool_is_written_until_its_process_ends(tmp_path):
    words = "import sys; from pathlib import Path; from harness.measure.drive.spool import Writer; w = Writer(Path(sys.argv[1]), 0); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", words, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert spool.is_written(tmp_path, 0)
        child.kill()
    assert not spool.is_written(tmp_path, 0)


def _left(folder, *, has_key: bool, workers: int = 1):
    """A folder as a killed drive leaves it: one reply with an error that quotes a key, one cut off in its message."""
    place = folder / "drive-x"
    place.mkdir()
    plan = [PlannedRequest(i, None, 2, 2, None, i) for i in range(2)]
    endpoint = Endpoint("http://h/v1", "m", "completions")
    shards.write(plan, [Prompt(i, None, (1, 2)) for i in range(2)], [0, 0], 1, endpoint, "run", place)
    words = {"phase": "measure", "run_id": "run", "workers": workers, "has_key": has_key}
    (place / driver.ABOUT).write_text(json.dumps(words))
    body = b'{"error": {"message": "bad key: my-own-key"}}'
    data = b"HTTP/1.1 401 Unauthorized\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    stamp = (1).to_bytes(8, sys.byteorder) + bytes(8)
    columns = stamp, len(data).to_bytes(4, sys.byteorder), data
    writer = spool.Writer(place, 0)
    writer.put(("anchor", 0, 0, 0))
    writer.put(("exchange", 0, "", "", 1, 1, 1, 0, False, 1, 2, False, *columns))
    writer.put(("exchange", 1, "", "", 1, 1, 1, 0, False, 1, 2, False, *columns))
    writer.close()
    os.close(writer._held)
    segment = place / "spool-0-000000"
    segment.write_bytes(segment.read_bytes()[:-10])
    return place, plan


@pytest.mark.parametrize("has_key", [True, False])
def test_a_key_that_the_run_had_is_in_no_row_after_it(tmp_path, has_key):
    """The key is in memory only, so that it cannot be looked for in what an ended run left: errors lose their text."""
    place, plan = _left(tmp_path, has_key=has_key)
    assert recover.left_folders(tmp_path) == [place]
    (row,) = [row for rows in recover.left_rows(place, plan, Load(concurrency=1), []) for row in rows]
    assert row.outcome == "http_error"
    assert row.http_status == 401
    assert ("my-own-key" in row.error) is not has_key


def test_a_living_worker_keeps_its_spool(tmp_path):
    place, plan = _left(tmp_path, has_key=False, workers=2)
    writer = spool.Writer(place, 1)
    with pytest.raises(StoreError, match="still lives"):
        list(recover.left_rows(place, plan, Load(concurrency=1), []))
    os.close(writer._held)


def test_one_recovery_at_a_time(tmp_path):
    with recover.alone(tmp_path), pytest.raises(StoreError, match="being recovered"), recover.alone(tmp_path):
        pass


def test_a_worker_gives_up_its_priority_when_the_disk_fills(monkeypatch):
    """Where more waits to be parsed than may, workers are told once; the run goes on and its report says so."""
    monkeypatch.setattr(Collector, "is_behind", lambda self, size: True)
    with GoldenServer(ttft_s=0.02, itl_s=0.01) as server:
        rows, report = offer(server.url, 12, concurrency=2, tokens=10)
    assert [row.outcome for row in rows] == ["ok"] * 12
    (note,) = [note for note in report.notes if note.startswith("worker 0")]
    assert "given up after " in note


def test_replies_that_waited_to_be_parsed_are_spoken_of(monkeypatch):
    """The parent is busy with something else until a reply has waited longer than the limit: rows and stamps are right, and the
    report says how long it waited."""
    monkeypatch.setattr(collect, "LAGGED_S", 0.5)
    waited = []

    def wait(_rows) -> None:
        if not waited:
            waited.append(clock.monotonic_ns() + 500_000_000)
            until(lambda: any((s.ended_ns or 0) > waited[0] for s in list(server.log.values())))
            later = clock.monotonic_ns() + 500_000_000
            until(lambda: clock.monotonic_ns() > later)

    with GoldenServer(ttft_s=0.02, itl_s=0.01) as server:
        rows, report = offer(server.url, 30, concurrency=2, tokens=10, on_rows=wait)
    assert {row.outcome for row in rows} == {"ok"}
    assert any(note.startswith("replies waited up to ") for note in report.notes)


def test_ended_replies_do_not_pile_up_while_bytes_wait():
    """A closed loop that never finds a quiet moment ends as many exchanges a turn as it sends: few of them wait at a time."""
    loop = Loop.__new__(Loop)
    loop.exchanges, loop.reader = SimpleNamespace(outbox=deque()), SimpleNamespace(found=10 * FEW)
    loop._pack_one = loop.exchanges.outbox.popleft
    longest = 0
    for _ in range(20_000):
        loop.exchanges.outbox.extend(range(SENDS_PER_POLL))
        loop._pack_some()
        longest = max(longest, len(loop.exchanges.outbox))
    assert longest <= (SENDS_PER_POLL + 1) * PACK_SHARE


def test_what_is_parsed_after_the_last_reply_shows_progress(monkeypatch):
    """The worker has ended and its backlog is parsed slice by slice: rows count up, and a stop could still be asked for."""
    monkeypatch.setattr(driver, "SLICE_NS", 0)
    monkeypatch.setattr(driver, "PROGRESS_NS", 0)
    waited, done = [], []
    monkeypatch.setattr(Collector, "progress", lambda self, now: done.append(self.done))
    with GoldenServer(ttft_s=0.01, itl_s=0.001) as server:
        rows, _ = offer(
            server.url,
            30,
            concurrency=10,
            tokens=2,
            on_rows=lambda _: waited or waited.append(until(lambda: server.finished == 30)),
        )
    assert len(rows) == 30
    assert len(set(done)) > 20


def test_a_record_that_is_damaged_while_the_run_goes_on_is_said(monkeypatch):
    """One reply of twelve cannot be read back: the others are rows, that one is a row that says why, and the run does not count."""
    read = spool._message

    def damage(payload, crc):
        message = read(payload, crc)
        return None if message and message[:2] == ("exchange", 0) else message

    monkeypatch.setattr(spool, "_message", damage)
    with GoldenServer(ttft_s=0.02, itl_s=0.01) as server:
        rows, report = offer(server.url, 12, concurrency=2, tokens=10)
    (lost,) = [row for row in rows if row.outcome != "ok"]
    assert (len(rows), lost.seq, report.stop_reason) == (12, 0, "worker_died")
    assert "the spool of worker 0 is damaged: spool-0-000000" in lost.error
    assert lost.error in report.notes
