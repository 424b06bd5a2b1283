"""read_run and find_runs: finished, going on, killed, damaged, too new."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_values import T0, manifest, request, server_sample

from harness.base.errors import StoreError
from harness.records import SCHEMA_VERSION, PlannedRequest
from harness.store import parts
from harness.store.columns import to_table
from harness.store.manifest import from_json, is_alive, owner, start_ticks, to_json, write_manifest
from harness.store.reader import find_runs, is_run, read_run
from harness.store.writer import RunWriter


def _finished(path, rows=5):
    writer = RunWriter.create(path, manifest())
    writer.add("requests", [request(seq) for seq in range(rows)])
    writer.add("server", [server_sample(T0)])
    writer.finish("complete")
    return path


def _killed(path, part_rows=((0, 1), (2,)), owned_by=(2**22 + 1, 7)):
    """A run directory as a dead process leaves it."""
    (path / "parts").mkdir(parents=True)
    write_manifest(path, manifest(owner_pid=owned_by[0], owner_start_ticks=owned_by[1]))
    for number, seqs in enumerate(part_rows, 1):
        rows = [request(seq) for seq in seqs]
        parts.write_file(parts.part_path(path, "requests", number), "requests", to_table("requests", rows))
    return path


def test_a_killed_run_reads_as_interrupted(tmp_path):
    """Parts are read as one in the order written, the state is interrupted with the reason, absent tables are None."""
    run = read_run(_killed(tmp_path / "r"))
    assert run.requests["seq"].tolist() == [0, 1, 2]
    assert run.manifest.state == "interrupted"
    assert run.manifest.error == "its process ended without finishing the run"
    assert dict(run.manifest.row_counts) == {"requests": 3}
    assert (run.gpu, run.server, run.host, len(run.plan)) == (None, None, None, 0)


def test_parts_are_ordered_by_number_not_by_name(tmp_path):
    """Part 100000 comes after part 99999."""
    path = _killed(tmp_path / "r", ())
    for number in (100000, 99999):
        parts.write_file(parts.part_path(path, "requests", number), "requests", to_table("requests", [request(number)]))
    assert read_run(path).requests["seq"].tolist() == [99999, 100000]


def test_killed_before_the_first_row(tmp_path):
    """A run with nothing but its manifest gives empty frames with the right columns and dtypes."""
    run = read_run(_killed(tmp_path / "r", ()))
    assert len(run.requests) == 0
    assert str(run.requests["sent_ns"].dtype) == "Int64"


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_damaged_part_is_skipped_with_a_note(tmp_path, damage):
    """A half-written part costs its own rows only, and the manifest's error names it."""
    path = _killed(tmp_path / "r", ((0,), (1,), (2,)))
    part = parts.part_path(path, "requests", 2)
    data = part.read_bytes()
    part.write_bytes(
        {"truncated": data[: len(data) // 2], "empty": b"", "garbage": b"PAR1" + os.urandom(500) + b"PAR1"}[damage]
    )
    run = read_run(path)
    assert run.requests["seq"].tolist() == [0, 2]
    assert "skipped requests-00002.parquet" in run.manifest.error


def test_kill_during_the_merge_never_doubles(tmp_path):
    """With a finished table and its parts side by side, or an unfinished one, every row is read once."""
    path = _killed(tmp_path / "r", ((0, 1), (2,)))
    (path / "requests.parquet.tmp").write_bytes(b"PAR1 half")
    (path / "parts" / "requests-00003.parquet.tmp").write_bytes(b"PAR1 half")
    assert read_run(path).requests["seq"].tolist() == [0, 1, 2]
    saved = shutil.copytree(path / "parts", tmp_path / "saved")
    parts.merge(path, "requests")
    assert parts.list_parts(path, "requests") == []
    shutil.copy(saved / "requests-00002.parquet", path / "parts")
    assert read_run(path).requests["seq"].tolist() == [0, 1, 2]


def test_parts_that_vanish_while_reading_are_read_from_the_merged_file(tmp_path, monkeypatch):
    """A run that is merged between our listing and our reading gives every row once."""
    path = _killed(tmp_path / "r")
    listed = parts.list_parts(path, "requests")
    parts.merge(path, "requests")
    final = parts.final_path(path, "requests")
    hidden = final.rename(path / "hidden")

    def stale(run_dir, table):
        if hidden.exists():
            hidden.rename(final)
        return listed if table == "requests" else []

    monkeypatch.setattr("harness.store.reader.list_parts", stale)
    assert read_run(path).requests["seq"].tolist() == [0, 1, 2]


def test_owner_is_told_from_a_reused_pid_and_from_a_zombie(tmp_path):
    """Alive means same pid and same start; another start, a zombie and no process are gone."""
    pid, ticks = owner()
    assert is_alive(pid, ticks)
    assert not is_alive(pid, ticks + 1)
    assert read_run(_killed(tmp_path / "alive", owned_by=(pid, ticks))).manifest.state == "running"
    assert read_run(_killed(tmp_path / "reused", owned_by=(pid, ticks - 1))).manifest.state == "interrupted"
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it is a zombie until waited for
    assert start_ticks(child.pid) is None
    child.wait()


def test_manifest_round_trip_and_unknown_keys():
    """A manifest survives JSON, big integers included; keys of a later release with the same schema are passed over."""
    full = manifest(drive={"measure": {"anchors": [[1, 2, 3]]}}, error="x", row_counts={"requests": 2**60 + 1})
    assert from_json(to_json(full), "m") == full
    data = json.loads(to_json(full))
    data["later"] = data["cell"]["later"] = data["cell"]["load"]["later"] = 1
    assert from_json(json.dumps(data), "m") == full


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"schema_version": SCHEMA_VERSION + 1}, "newer"),
        ({"schema_version": None}, "no schema version"),
        ({"cell": None}, "not a"),
        ({"cell": {"target": "t", "load": {}}}, "missing"),
    ],
)
def test_manifests_that_cannot_be_used(tmp_path, change, word):
    """A newer schema and a damaged manifest are StoreErrors that name the file."""
    path = _finished(tmp_path / "r")
    data = json.loads((path / "manifest.json").read_text()) | change
    (path / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(StoreError, match=word) as caught:
        read_run(path)
    assert "manifest.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_manifest_that_is_no_json_object(tmp_path, text):
    """Half a manifest is a StoreError, not a traceback."""
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(StoreError):
        read_run(tmp_path)


def test_table_of_a_newer_schema_is_refused_even_as_a_part(tmp_path):
    """A Parquet file with a higher schema_version is never read as if it were ours, nor skipped as damaged."""
    path = _killed(tmp_path / "r", ((0,),))
    part = parts.part_path(path, "requests", 1)
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({"schema_version": "99"}), part)
    with pytest.raises(StoreError, match="newer"):
        read_run(path)


def test_older_file_without_a_nullable_column_reads_as_null(tmp_path):
    """A column added later is null in older files; one that may not be null is an error naming it."""
    path = _finished(tmp_path / "r")
    table = pq.read_table(path / "requests.parquet")
    pq.write_table(table.drop_columns(["tls_ns"]).append_column("extra", pa.array([1] * 5)), path / "requests.parquet")
    frame = read_run(path).requests
    assert frame["tls_ns"].isna().all()
    assert list(frame.columns) == table.column_names
    pq.write_table(table.drop_columns(["seq"]), path / "requests.parquet")
    with pytest.raises(StoreError, match="column missing") as caught:
        read_run(path)
    assert "seq" in caught.value.value


def test_damaged_or_missing_final_file_is_an_error(tmp_path):
    """A complete run whose table is damaged or gone is refused, naming it, and not read as fewer rows."""
    path = _finished(tmp_path / "r")
    data = (path / "requests.parquet").read_bytes()
    (path / "requests.parquet").write_bytes(data[:-20])
    with pytest.raises(StoreError, match="cannot be read") as caught:
        read_run(path)
    assert "requests.parquet" in caught.value.value
    (path / "requests.parquet").unlink()
    with pytest.raises(StoreError, match="rows are missing"):
        read_run(path)


def test_find_runs(tmp_path):
    """A run gives itself, an experiment its runs sorted by name, a place without runs nothing, a missing one an error."""
    for name in ("b", "a"):
        _finished(tmp_path / "exp" / name)
    (tmp_path / "exp" / "derived").mkdir()
    assert find_runs(tmp_path / "exp") == [tmp_path / "exp" / "a", tmp_path / "exp" / "b"]
    assert find_runs(tmp_path / "exp" / "a") == [tmp_path / "exp" / "a"]
    assert is_run(tmp_path / "exp" / "a")
    assert not is_run(tmp_path / "exp")
    assert find_runs(tmp_path / "exp" / "derived") == []
    with pytest.raises(StoreError, match="no such"):
        find_runs(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="not a run directory"):
        read_run(tmp_path / "exp")


def test_pandas_and_duckdb_read_the_file_without_us(tmp_path):
    """Plain pandas gives exact nullable integers, DuckDB the same sums and the unnested chunks."""
    path = _finished(tmp_path / "r") / "requests.parquet"
    frame = pd.read_parquet(path)
    assert frame["sent_ns"].tolist() == [T0 + seq * 1_000_000 + 1 for seq in range(5)]
    assert frame["session_id"].isna().all()
    assert str(frame["session_id"].dtype) == "Int64"
    count, total, nulls = duckdb.sql(
        f"SELECT count(*), sum(sent_ns)::HUGEINT, count(session_id) FROM '{path}'"
    ).fetchall()[0]
    assert (count, total, nulls) == (5, sum(frame["sent_ns"].tolist()), 0)
    chunks = duckdb.sql(f"SELECT unnest(chunk_ns) AS t, seq FROM '{path}' ORDER BY seq, t").fetchall()
    assert [t for t, _ in chunks] == [t for stamps in frame["chunk_ns"] for t in stamps]


def test_a_column_with_a_default_may_be_missing(tmp_path):
    """A plan written before `prefix` was a column is read, with the record's default: no prefix."""
    run_dir = _finished(tmp_path / "run")
    planned = PlannedRequest(0, None, 8, 4, None, 7, (3, 4))
    table = to_table("plan", [planned, planned])
    pq.write_table(table.drop_columns(["prefix"]), run_dir / "plan.parquet")
    assert [list(prefix) for prefix in read_run(run_dir).plan.prefix] == [[], []]
    pq.write_table(table, run_dir / "plan.parquet")
    assert [list(prefix) for prefix in read_run(run_dir).plan.prefix] == [[3, 4]] * 2
