"""RunWriter: what is on disk while a run goes, at its end, and when the disk fails."""

from __future__ import annotations

import json
import resource
import threading
from contextlib import contextmanager, nullcontext

import pyarrow.parquet as pq
import pytest
from store_values import T0, gpu_sample, manifest, noisy_requests, request, server_sample

from harness.base.errors import StoreError, TargetError
from harness.records import Load, Plan, PlannedRequest
from harness.store import parts
from harness.store.manifest import owner
from harness.store.reader import read_run
from harness.store.writer import PART_ROWS, RunWriter
from tests.waiting import until

pytestmark = pytest.mark.timing


@contextmanager
def file_size_limit(size: int):
    """The kernel refuses to let any file of this process grow beyond `size`: a real OSError from write()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_stand_in_parts_while_the_run_goes(tmp_path):
    """Rows are on disk and readable before finish, and the manifest says running with this process as its owner."""
    writer = RunWriter.create(tmp_path / "a" / "r", manifest(), flush_interval_s=0.01)
    writer.add("requests", [request(0), request(1)])
    until(lambda: parts.list_parts(writer.run_dir, "requests"))
    run = read_run(writer.run_dir)
    assert run.requests["seq"].tolist() == [0, 1]
    assert (run.manifest.state, run.manifest.error) == ("running", None)
    assert (run.manifest.owner_pid, run.manifest.owner_start_ticks) == owner()
    writer.finish("complete")


def test_finish_merges_parts_into_one_file(tmp_path):
    """After finish there is one file per table with every row in order, no parts, and the counts in the manifest."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=0.005)
    writer.write_plan(Plan((PlannedRequest(0, None, 1, 1, None, 7),), (), Load(concurrency=1), "fixed:1x1", 1, "x"))
    for seq in range(200):
        writer.add("requests", [request(seq)])
        if seq % 40 == 0:  # several parts
            until(lambda seq=seq: len(parts.list_parts(writer.run_dir, "requests")) > seq // 40)
    writer.add("server", [server_sample(T0)])
    writer.finish("complete")
    assert sorted(p.name for p in writer.run_dir.iterdir()) == [
        "manifest.json",
        "plan.parquet",
        "requests.parquet",
        "server.parquet",
    ]
    run = read_run(writer.run_dir)
    assert run.requests["seq"].tolist() == list(range(200))
    assert run.plan["prompt_seed"].tolist() == [7]
    assert dict(run.manifest.row_counts) == {"plan": 1, "requests": 200, "server": 1}
    assert (run.manifest.state, run.gpu) == ("complete", None)
    file = pq.ParquetFile(writer.run_dir / "requests.parquet")
    assert file.metadata.num_row_groups == 1
    assert file.schema_arrow.field("sent_ns").metadata[b"unit"] == b"ns"
    writer.finish("failed", "a second finish changes nothing")
    assert read_run(writer.run_dir).manifest.state == "complete"


def test_threads_may_add_at_once(tmp_path):
    """Rows added from eight threads are all there, once."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=0.001)

    def work(worker: int) -> None:
        for k in range(100):
            writer.add("requests", [request(worker * 100 + k)])

    threads = [threading.Thread(target=work, args=(w,)) for w in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.finish("complete")
    assert sorted(read_run(writer.run_dir).requests["seq"]) == list(range(800))


def test_big_adds_become_several_parts_and_row_groups_stay_bounded(tmp_path, monkeypatch):
    """One large add is cut into parts, and the merge regroups rows without exceeding its group size."""
    monkeypatch.setattr(parts, "GROUP_ROWS", PART_ROWS)
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=60)
    writer.add("server", [server_sample(T0 + k) for k in range(2 * PART_ROWS + 5)])
    writer._flush()
    assert [p.name for p in parts.list_parts(writer.run_dir, "server")] == [
        f"server-0000{k}.parquet" for k in (1, 2, 3)
    ]
    writer.finish("complete")
    metadata = pq.ParquetFile(writer.run_dir / "server.parquet").metadata
    assert [metadata.row_group(g).num_rows for g in range(metadata.num_row_groups)] == [PART_ROWS, PART_ROWS, 5]


def test_a_run_is_never_overwritten(tmp_path):
    """An existing directory that is not empty is refused, and left as it was; an empty one is taken."""
    (tmp_path / "r").mkdir()
    RunWriter.create(tmp_path / "r", manifest()).finish("complete")
    before = (tmp_path / "r" / "manifest.json").read_bytes()
    with pytest.raises(StoreError, match="not empty") as caught:
        RunWriter.create(tmp_path / "r", manifest())
    assert "--out" in caught.value.advice
    assert (tmp_path / "r" / "manifest.json").read_bytes() == before


def test_unwritable_place_is_a_store_error(tmp_path):
    """A path below a file cannot be made: three lines, not a traceback of the system's."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError) as caught:
        RunWriter.create(tmp_path / "file" / "r", manifest())
    assert len(str(caught.value).splitlines()) == 3


def test_update_replaces_manifest_fields_and_leaves_no_temporary(tmp_path):
    """update changes the named fields on disk and only those."""
    writer = RunWriter.create(tmp_path / "r", manifest())
    writer.update(telemetry={"gpu": "ok"}, drive={"measure": {"anchors": [(1, 2, 3)]}})
    data = json.loads((writer.run_dir / "manifest.json").read_text())
    assert data["telemetry"] == {"gpu": "ok"}
    assert data["drive"] == {"measure": {"anchors": [[1, 2, 3]]}}
    assert data["config"] == manifest().config
    assert [path.name for path in writer.run_dir.glob("*.tmp")] == ["reserve.tmp"]
    with pytest.raises(StoreError, match="manifest cannot be written"):
        writer.update(environment={"x": float("nan")})
    writer.finish("complete")


@pytest.mark.parametrize(
    ("raised", "state", "error"),
    [
        (KeyboardInterrupt(), "interrupted", "interrupted by the user"),
        (TargetError("died", "pid 7", "look"), "failed", "died; pid 7; look"),
        (ValueError("key sk-123 inside"), "failed", "ValueError"),
        (None, "failed", "left without an end"),
    ],
)
def test_leaving_the_block_sets_the_state(tmp_path, raised, state, error):
    """An exception goes on after the run was stored with its state; foreign texts, which may hold secrets, are not."""
    expected = pytest.raises(type(raised)) if raised else nullcontext()
    with expected as caught, RunWriter.create(tmp_path / "r", manifest()) as writer:
        writer.add("requests", [request(0)])
        if raised:
            raise raised
    assert caught is None or caught.value is raised
    run = read_run(tmp_path / "r")
    assert (run.manifest.state, run.manifest.error) == (state, error)
    assert run.requests["seq"].tolist() == [0]


def test_disk_full_in_the_flusher_reaches_the_next_add(tmp_path):
    """A part that the kernel refuses stops the run with a StoreError; rows written before stay and the run says failed."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=0.01)
    writer.add("requests", [request(0), request(1)])
    until(lambda: parts.list_parts(writer.run_dir, "requests"))
    with file_size_limit(40_000):
        writer.add("requests", noisy_requests(1000))

        def refused() -> bool:
            try:
                writer.add("gpu", [gpu_sample(T0)])
            except StoreError as error:
                return "File too large" in error.advice
            return False

        until(refused)
        with pytest.raises(StoreError, match="rows cannot be written"):
            writer.finish("complete")
    run = read_run(writer.run_dir)
    assert run.requests["seq"].tolist() == [0, 1]
    assert run.manifest.state == "failed"
    assert "File too large" in run.manifest.error


def test_rows_kept_back_by_a_failed_write_get_another_chance(tmp_path):
    """If there is room again at the end, the rows that could not be written are, though the run still says failed."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=60)
    writer.add("requests", noisy_requests(1000))
    with file_size_limit(40_000):
        writer._flush()
    with pytest.raises(StoreError):
        writer.add("requests", [request(9999)])
    with pytest.raises(StoreError):
        writer.finish("complete")
    run = read_run(writer.run_dir)
    assert run.requests["seq"].tolist() == list(range(1000))
    assert run.manifest.state == "failed"


def test_disk_full_in_the_merge_keeps_the_parts(tmp_path):
    """A merge that the kernel refuses leaves every row readable in the parts and no temporary behind."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=60)
    for start in range(0, 2000, 500):
        writer.add(
            "requests", [request(seq, chunks=20, request_id=f"{seq * 7919:x}") for seq in range(start, start + 500)]
        )
        writer._flush()
    largest = max(p.stat().st_size for p in parts.list_parts(writer.run_dir, "requests"))
    with file_size_limit(largest + 1), pytest.raises(StoreError, match="cannot be merged"):
        writer.finish("complete")
    run = read_run(writer.run_dir)
    assert run.requests["seq"].tolist() == list(range(2000))
    assert run.manifest.state == "failed"
    assert not list(writer.run_dir.glob("*.tmp"))


def test_a_bad_row_is_an_error_and_not_a_silent_loss(tmp_path):
    """A record that cannot be stored (a defect of ours) surfaces as a StoreError naming the column."""
    writer = RunWriter.create(tmp_path / "r", manifest(), flush_interval_s=60)
    writer.add("requests", [request(0, seq=None)])
    with pytest.raises(StoreError, match="row cannot be stored") as caught:
        writer.finish("complete")
    assert caught.value.value.startswith("seq = None")
    assert read_run(writer.run_dir).manifest.state == "failed"
