"""`harness recover` and a spool that is damaged: what can be read is stored, what cannot is kept and said."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.base.errors import StoreError
from harness.cli.recover import recover_command
from harness.measure.drive import driver, spool
from harness.measure.left_drive import left_rows
from harness.records import Cell, Endpoint, Load, Plan, PlannedRequest, Prompt
from harness.store.parts import append_part, merge
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from tests import shards
from tests.store.store_values import manifest

REPLIES = 12
DATA = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody"


@pytest.fixture
def killed(tmp_path, monkeypatch) -> Path:
    """A run as kill -9 leaves it: twelve replies in three segments of its spool, none of them stored."""
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 800)
    load = Load(concurrency=1)
    run_dir = tmp_path / "run"
    writer = RunWriter.create(run_dir, manifest(cell=Cell("vllm", "chat", load, 1)))
    requests = tuple(PlannedRequest(i, None, 2, 2, None, i) for i in range(REPLIES))
    writer.write_plan(Plan(requests, (), load, "", 0, ""))
    writer._stop.set()
    writer._thread.join()
    text = json.loads((run_dir / "manifest.json").read_text())
    (run_dir / "manifest.json").write_text(json.dumps(text | {"owner_start_ticks": 1}))  # of a process that is gone
    place = run_dir / "scratch" / "drive-x"
    place.mkdir(parents=True)
    prompts = [Prompt(i, None, (1, 2)) for i in range(REPLIES)]
    endpoint = Endpoint("http://h/v1", "m", "completions")
    shards.write(requests, prompts, [0] * REPLIES, 1, endpoint, "run", place)
    words = {"phase": "measure", "run_id": "run", "workers": 1, "has_key": False}
    (place / driver.ABOUT).write_text(json.dumps(words))
    columns = (1).to_bytes(8, sys.byteorder) + bytes(8), len(DATA).to_bytes(4, sys.byteorder), DATA
    spooled = spool.Writer(place, 0)
    spooled.preface = ("anchor", 0, 0, 0)
    for i in range(REPLIES):
        spooled.put(("exchange", i, "", "", 1, 1, 1, 0, False, 1, 2, False, *columns))
    spooled.close()
    os.close(spooled._held)
    assert len(segments(run_dir)) == 3
    return run_dir


def segments(run_dir: Path) -> list[Path]:
    return sorted(run_dir.glob("scratch/drive-x/spool-0-*"))


def recovered(run_dir: Path, *words: str):
    """(seqs that are stored, the error or None)"""
    done = CliRunner().invoke(recover_command, [str(run_dir), *words])
    assert done.exception is None or isinstance(done.exception, StoreError), done.exception
    return sorted(read_run(run_dir).requests.seq), done.exception


def change(path: Path, at: int, to: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[at : at + len(to)] = to
    path.write_bytes(data)


def test_a_whole_spool_is_stored_and_goes(killed):
    """Every reply becomes a row, and only then the spool is removed."""
    assert recovered(killed) == (list(range(REPLIES)), None)
    assert not (killed / "scratch").exists()


def test_a_run_that_was_merged_before_gets_its_rows_too(killed):
    """An error that was not foreseen ends a run in order: its rows stand in one file, and those of the spool are found beside them."""
    plan = [PlannedRequest(i, None, 2, 2, None, i) for i in range(REPLIES)]
    received = left_rows(killed / "scratch" / "drive-x", plan, Load(concurrency=1), [])
    first = [row for rows in received for row in rows][:5]
    append_part(killed, "requests", first)
    merge(killed, "requests")
    assert (killed / "requests.parquet").exists()
    assert recovered(killed) == (list(range(REPLIES)), None)


def damages():
    """What may happen to the first segment, whose records begin with the preface; how many replies it costs at most."""
    flip = lambda at: lambda path: change(path, at, bytes([path.read_bytes()[at] ^ 1]))  # noqa: E731
    second = lambda data: data.index(spool.MAGIC, data.index(spool.MAGIC, 1) + 1)  # noqa: E731
    huge = lambda path: change(path, second(path.read_bytes()) + 8, struct.pack("<Q", 1 << 62))  # noqa: E731
    return {
        "a bit of the first magic": (flip(3), 0),
        "a bit of the first length": (flip(8), 0),
        "a bit in the middle": (lambda path: flip(path.stat().st_size // 2)(path), 1),
        "a length beyond all memory": (huge, 1),
        "a length that is too short": (lambda path: change(path, second(path.read_bytes()) + 8, b"\x05"), 1),
        "zeroes": (lambda path: path.write_bytes(bytes(path.stat().st_size)), 6),
        "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-10]), 1),
        "lost": (lambda path: path.with_name("spool-0-000001").unlink(), 6),
    }


@pytest.mark.parametrize("name", damages())
def test_a_damaged_spool_gives_what_can_be_read_and_is_kept(killed, name):
    """Records after the damage are stored, the exit code is a store's, the error names the place, nothing is deleted; the next time
    says the same and stores nothing twice."""
    damage, costs = damages()[name]
    damage(segments(killed)[0])
    left = {path: path.read_bytes() for path in segments(killed)}
    stored, error = recovered(killed)
    assert len(stored) >= REPLIES - costs
    assert (error.exit_code, str(killed) in str(error)) == (5, True)
    assert {path: path.read_bytes() for path in segments(killed)} == left
    again, error = recovered(killed)
    assert (again, error.exit_code) == (stored, 5)


def test_a_spool_whose_other_files_are_damaged_is_kept(killed):
    """What stands beside the spool and is needed to read it: no row, but the spool stays and the error names the damage."""
    (killed / "scratch" / "drive-x" / driver.ABOUT).write_bytes(b"\x00\x01\x02")
    stored, error = recovered(killed)
    assert (stored, error.exit_code, len(segments(killed))) == ([], 5, 3)


@pytest.mark.parametrize("name", ["index", "sent", "bodies-000000"])
def test_what_was_sent_is_not_needed_to_recover_what_came(killed, name):
    """A damaged file of the shard costs no row."""
    (killed / "scratch" / "drive-x" / f"shard-0.{name}").write_bytes(b"\x00\x01\x02")
    stored, error = recovered(killed)
    assert (len(stored), error) == (REPLIES, None)


def test_one_damaged_run_does_not_keep_the_others(killed):
    """A run whose manifest is damaged stands before a good one: the good one is stored, and the exit code is the other's."""
    damaged = killed.with_name("a-run")
    shutil.copytree(killed, damaged)
    (damaged / "manifest.json").write_text("{")
    done = CliRunner().invoke(recover_command, [str(killed.parent)])
    assert isinstance(done.exception, StoreError)
    assert len(read_run(killed).requests) == REPLIES
    assert len(segments(damaged)) == 3


def test_json_says_what_was_not_read(killed):
    """`unread` of a damaged run's entry is not empty."""
    segments(killed)[0].write_bytes(bytes(100))
    done = CliRunner().invoke(recover_command, [str(killed), "--json"])
    (said,) = json.loads(done.stdout)
    assert "spool-0-000000: 100 bytes at 0" in said["unread"][0]
    assert isinstance(done.exception, StoreError)
