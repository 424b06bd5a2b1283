"""What retention deletes of runs on disk and on object storage, and what it never does."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError, StoreError
from harness.cli import history as history_words
from harness.cli.history import history_group
from harness.judge.runs import index_runs
from harness.store import history
from harness.store.history_prune import Pruned, delete, find_old
from harness.store.manifest import owner
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from tests.store.store_values import manifest, request

REQUESTS = [request(n, chunks=20) for n in range(30)]


def value(where, text):
    return history.sql(where, text).rows[0][0]


def command(*words: str):
    return CliRunner().invoke(history_group, list(words), catch_exceptions=False)


def stored(results: Path, night: datetime, *, rep: int = 1, state: str | None = "complete", log: bool = False) -> Path:
    """A real run directory; `state` None leaves it running, owned by this process."""
    campaign = night.strftime("%Y%m%dT%H%M%SZ")
    base = manifest()
    values = replace(
        base, run_id=f"{campaign}_x_rep{rep}", campaign_id=campaign, created_utc=night.isoformat(), cell=replace(base.cell, repetition=rep)
    )  # fmt: skip
    path = results / "e" / values.run_id
    writer = RunWriter.create(path, values, flush_interval_s=60)
    writer.add("requests", REQUESTS)
    if log:
        logs = results / "e" / "server-logs"
        logs.mkdir(exist_ok=True)
        (logs / f"{campaign}_x.log").write_text("log\n" * 1000)
        os.link(logs / f"{campaign}_x.log", path / "server.log")
    if state is not None:
        writer.finish(state)
    return path


NOW = datetime.now(UTC).replace(microsecond=0)
OLD = NOW - timedelta(days=40)


def prune(results_dir: str | Path, raw_days: int) -> Pruned:
    return delete(find_old(results_dir, raw_days))


def sizes(path: Path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}


def test_the_index_is_made_from_raw_runs(tmp_path):
    """Every run that ended gets a row; a second time none is read again; --rebuild reads them all, one going on is left out."""
    for rep in (1, 2):
        stored(tmp_path, OLD, rep=rep)
    stored(tmp_path, NOW, state=None)
    (tmp_path / "e" / "broken").mkdir()
    (tmp_path / "e" / "broken" / "manifest.json").write_text("{")
    first = index_runs(tmp_path)
    assert (first.written, first.known, len(first.problems)) == (2, 0, 2)
    assert any("still running" in p for p in first.problems)
    assert index_runs(tmp_path).known == 2
    assert index_runs(tmp_path, rebuild=True).written == 2
    assert value(tmp_path, "SELECT count(*) FROM runs") == 2
    assert value(tmp_path, "SELECT count(*) FROM requests WHERE experiment = 'e' AND run_id LIKE '%_rep1'") == 30
    with pytest.raises(StoreError, match="not the directory of all results"):
        index_runs(tmp_path / "e")
    with pytest.raises(StoreError, match="no such results"):
        index_runs(tmp_path / "none")


def test_prune_deletes_raw_files_and_keeps_what_is_promised(tmp_path):
    """Old raw files go and are counted; manifest, row, and younger runs stay; analysing a pruned run says so."""
    old, young = stored(tmp_path, OLD, log=True), stored(tmp_path, NOW - timedelta(days=2))
    index_runs(tmp_path)
    before, untouched = sizes(tmp_path / "e"), sizes(young)
    dry = find_old(tmp_path, 30).would
    assert sizes(tmp_path / "e") == before
    done = prune(tmp_path, 30)
    assert done == dry
    after = sizes(tmp_path / "e")
    gone = {name: size for name, size in before.items() if name not in after}
    assert {Path(n).name for n in gone} == {"requests.parquet", "server.log", f"{OLD:%Y%m%dT%H%M%SZ}_x.log"}
    log = next(size for name, size in gone.items() if name.endswith("server.log"))
    assert (done.freed_bytes, done.files, done.runs) == (sum(gone.values()) - log, 3, 1)  # one file under two names
    assert sizes(young) == untouched
    assert value(tmp_path, "SELECT count(*) FROM runs") == 2
    with pytest.raises(StoreError, match="this run was pruned"):
        read_run(old)
    again = index_runs(tmp_path, rebuild=True)
    assert (again.written, again.pruned, again.problems) == (1, 1, ())
    assert value(tmp_path, "SELECT count(*) FROM runs") == 2
    assert prune(tmp_path, 30).campaigns == ()


def test_a_run_without_its_row_is_never_pruned(tmp_path):
    """A campaign of which one run is not in the history stays whole, and the reason is said."""
    stored(tmp_path, OLD)
    index_runs(tmp_path)
    stored(tmp_path, OLD, rep=2)
    before = sizes(tmp_path)
    done = prune(tmp_path, 30)
    assert (done.files, sizes(tmp_path)) == (0, before)
    assert "not in the history" in done.kept[0][1]


def test_running_and_todays_campaigns_are_never_pruned(tmp_path):
    """One that is still going on however old it is, and interrupted or complete ones of today, stay whole."""
    stored(tmp_path, OLD)
    stored(tmp_path, OLD, rep=2, state=None)
    stored(tmp_path, NOW, state="interrupted")
    stored(tmp_path, NOW - timedelta(hours=2))
    index_runs(tmp_path)
    before = sizes(tmp_path)
    done = prune(tmp_path, 1)
    assert (done.files, sizes(tmp_path)) == (0, before)
    assert ["still running" in why for _, why in done.kept] == [True]
    with pytest.raises(ConfigError):
        prune(tmp_path, 0)


def test_a_killed_run_of_an_old_day_is_pruned_with_its_parts(tmp_path):
    """It still says running, its process is gone: its part files go, and what a merge had begun; its row says interrupted."""
    path = stored(tmp_path, OLD, state="interrupted")
    text = json.loads((path / "manifest.json").read_text())
    pid, ticks = owner()
    (path / "manifest.json").write_text(
        json.dumps(text | {"state": "running", "owner_pid": pid, "owner_start_ticks": ticks + 1})
    )
    (path / "parts").mkdir()
    (path / "requests.parquet").rename(path / "parts" / "requests-00001.parquet")
    (path / "requests.parquet.4711.tmp").write_bytes(b"half")
    (path / "gpu.parquet.tmp").write_bytes(b"half")  # as an older harness named it
    index_runs(tmp_path)
    assert value(tmp_path, "SELECT state FROM runs") == "interrupted"
    assert prune(tmp_path, 30).files == 3
    assert {file.name for file in path.iterdir()} == {"manifest.json", "pruned.json"}


def test_a_prune_that_was_cut_short_is_ended_by_the_next(tmp_path):
    """The mark stands before the first file goes: the run reads as pruned at once, and the rest goes the next time."""
    path = stored(tmp_path, OLD, log=True)
    index_runs(tmp_path)
    (path / "pruned.json").write_text('{"pruned_utc": "2026-01-01T00:00:00+00:00"}')
    with pytest.raises(StoreError, match="2026-01-01"):
        read_run(path)
    assert prune(tmp_path, 30).files == 3


def test_prune_works_on_object_storage(tmp_path, monkeypatch):
    """Results copied to another filesystem are pruned there in the same way; of a campaign that was, no manifest is read again, but for a log
    that was left."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stored(tmp_path, OLD)
    memory = fsspec.filesystem("memory")
    url = f"memory://{tmp_path.name}"
    try:
        assert index_runs(tmp_path, url).written == 1
        memory.put(str(tmp_path / "e"), f"/{tmp_path.name}/e", recursive=True)
        assert value(url, "SELECT count(*) FROM requests") == 30
        done = prune(url, 30)
        assert (done.runs, done.files) == (1, 1)
        assert done.freed_bytes == next((tmp_path / "e").glob("*/requests.parquet")).stat().st_size
        assert value(url, "SELECT count(*) FROM runs") == 1
        read, cat_file = [], memory.cat_file
        monkeypatch.setattr(type(memory), "cat_file", lambda _, path, *more: read.append(path) or cat_file(path, *more))
        assert prune(url, 30).files == 0
        assert not [path for path in read if path.endswith("manifest.json")]
        (run_dir,) = (tmp_path / "e").glob("*_*")
        memory.pipe_file(f"/{tmp_path.name}/e/server-logs/{run_dir.name.partition('_')[0]}_own.log", b"left")
        assert prune(url, 30).files == 1
        assert [path for path in read if path.endswith("manifest.json")]
    finally:
        memory.rm(f"/{tmp_path.name}", recursive=True)


def test_the_command_indexes_and_prunes(tmp_path):
    """`index` and `prune --dry-run` print what they did and would do."""
    stored(tmp_path, OLD)
    assert "1 runs indexed" in command("index", str(tmp_path)).stdout
    assert json.loads(command("prune", str(tmp_path), "--raw-days", "30", "--dry-run", "--json").stdout)["runs"] == 1
    words = ("prune", str(tmp_path), "--raw-days", "30", "--yes")
    assert "MB freed: 1 files of 1 runs in 1 campaigns" in command(*words).stdout


def test_prune_deletes_nothing_unless_told(tmp_path, monkeypatch):
    """Without --yes: refused where nobody can be asked, kept on a no, deleted on a yes, and what would go is shown before."""
    stored(tmp_path, OLD)
    index_runs(tmp_path)
    before, words = sizes(tmp_path), ["prune", str(tmp_path), "--raw-days", "30"]
    done = CliRunner().invoke(history_group, words)
    assert isinstance(done.exception, ConfigError)
    monkeypatch.setattr(history_words, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))
    done = CliRunner().invoke(history_group, words, input="n\n")
    assert (done.exit_code, sizes(tmp_path)) == (1, before)
    assert (
        done.stderr.index("would prune: e/") < done.stderr.index("1 files of 1 runs") < done.stderr.index("for ever?")
    )
    assert CliRunner().invoke(history_group, words, input="y\n").exit_code == 0
    assert len(sizes(tmp_path)) == len(before)  # requests.parquet went, pruned.json came


@pytest.mark.parametrize(("asked", "other"), [("r[1]", "r1"), ("r*", "rx"), ("r?", "ry")])
def test_a_results_directory_is_a_name_and_no_pattern(tmp_path, asked, other):
    """Of two directories, of which the name of one matches the other's as a pattern, the named one is pruned, queried and no other."""
    for name in (asked, other):
        stored(tmp_path / name, OLD, log=True)
        index_runs(tmp_path / name)
    before = sizes(tmp_path / other)
    assert value(tmp_path / asked, "SELECT count(*) FROM requests") == len(REQUESTS)
    assert prune(tmp_path / asked, 30).files == 3
    assert sizes(tmp_path / other) == before
    assert value(tmp_path / asked, "SELECT count(*) FROM runs") == 1


def test_names_inside_are_no_patterns_either(tmp_path):
    """A run and a campaign whose names match others' as patterns: the others' files and logs stay."""
    old, young = stored(tmp_path, OLD, log=True), stored(tmp_path, NOW, log=True)
    old.rename(old.with_name("2*"))
    manifest_file = old.with_name("2*") / "manifest.json"
    said = json.loads(manifest_file.read_text()) | {"campaign_id": "*", "run_id": "2*"}
    manifest_file.write_text(json.dumps(said))
    index_runs(tmp_path)
    before = sizes(young) | sizes(tmp_path / "e" / "server-logs")
    assert prune(tmp_path, 30).files == 2  # requests.parquet and server.log of that run
    assert sizes(young) | sizes(tmp_path / "e" / "server-logs") == before


@pytest.mark.parametrize("linked", ["run", "parts"])
def test_what_is_only_linked_to_stays(tmp_path, linked):
    """A run, or its folder of part files, that stands outside the directory loses nothing."""
    outside = tmp_path / "outside"
    run = stored(tmp_path / "results", OLD)
    if linked == "run":
        run.rename(outside)
        run.symlink_to(outside)
    else:
        outside.mkdir()
        (outside / "requests-00001.parquet").write_bytes((run / "requests.parquet").read_bytes())
        (run / "parts").symlink_to(outside)
    index_runs(tmp_path / "results")
    before = sizes(outside)
    prune(tmp_path / "results", 30)
    assert sizes(outside) == before
