"""The history's rows, its queries, SQL that only reads, and `harness history` as a command."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import fsspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from harness.base import clock
from harness.base.errors import ConfigError, StoreError
from harness.cli.history import history_group
from harness.records import Load
from harness.store import history
from harness.store.history_columns import history_section, metric_columns, row_of, runs_schema
from harness.store.root import open_root
from tests.bench.history_nights import INVALID, UNKNOWN, many, night_id, summary


@pytest.fixture(params=["local", "memory"])
def where(request, tmp_path, monkeypatch):
    """A results directory of each kind of filesystem."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if request.param == "local":
        yield str(tmp_path)
        return
    yield f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").rm(f"/{tmp_path.name}", recursive=True)


def value(where, text):
    return history.sql(where, text).rows[0][0]


def test_a_row_has_a_value_for_every_column():
    """Identity, provenance and metrics come from the summary; what was not observed is None."""
    row = row_of(summary(0, tps=101.5, load=Load(rate_rps=2.5)), datetime(2026, 1, 2, tzinfo=UTC))
    assert list(row) == runs_schema().names
    told = {
        k: row[k]
        for k in ("output_tps", "energy_j", "ttft_s_p50", "ttft_s_p99", "load", "rate_rps", "concurrency", "driver")
    }
    assert told == {
        "output_tps": 101.5, "energy_j": None, "ttft_s_p50": 0.1, "ttft_s_p99": None, "load": "r2.5", "rate_rps": 2.5,
        "concurrency": None, "driver": "580.1",
    }  # fmt: skip
    assert (row["ok_requests"], row["failed_requests"]) == (100, 2)
    assert row["created_utc"] == datetime(2026, 1, 1, 2)  # noqa: DTZ001 (the column is UTC without a zone)


def test_flags_and_environment_are_one_digest_and_show_no_secret():
    """Equal flags in another order give one digest, another flag or variable another, and a token's value is in no row."""
    now = clock.utc_now()
    plain = row_of(summary(0, tps=1, flags={"a": 1, "b": 2}), now)
    assert plain["flags_sha256"] == row_of(summary(0, tps=1, flags={"b": 2, "a": 1}), now)["flags_sha256"]
    assert plain["flags_sha256"] != row_of(summary(0, tps=1, flags={"a": 1, "b": 3}), now)["flags_sha256"]
    assert (
        plain["flags_sha256"] != row_of(summary(0, tps=1, flags={"a": 1, "b": 2}, env={"X": "1"}), now)["flags_sha256"]
    )
    secret = row_of(summary(0, tps=1, flags={"hf_token": "hf_abc"}, env={"OPENAI_API_KEY": "sk-abc"}), now)
    assert "hf_abc" not in str(secret)
    assert "sk-abc" not in str(secret)


def test_every_column_has_its_meaning_in_the_page():
    """Each column of `runs` but the percentiles is a row of results/README.md's table, with a sentence."""
    page = history_section()
    for column in runs_schema():
        assert column.metadata[b"doc"]
        if column.name not in {c.name for c in metric_columns() if c.statistic not in {None, "count"}}:
            assert f"| `{column.name}` |" in page


def test_indexing_again_replaces(where):
    """The same campaign twice is one row a run, and its later numbers count."""
    night = [summary(0, tps=100.0, repetition=r) for r in (1, 2)]
    history.index_campaign(where, night)
    history.index_campaign(where, [replace(night[0], scalars={"output_tps": 50.0})])
    assert history.sql(where, "SELECT output_tps FROM runs ORDER BY repetition").rows == ((50.0,), (100.0,))
    assert history.index_campaign(where, []) is None


def test_files_are_merged_and_nothing_is_lost(where, monkeypatch):
    """More files than MERGE_AT become one with the same rows, the replaced ones left out."""
    monkeypatch.setattr(history, "MERGE_AT", 3)
    for night in (0, 1, 2, 0):
        history.index_campaign(where, [summary(night, tps=100.0 + night)])
    root = open_root(where)
    assert len(root.urls("history/month=2026-01/*")) == 1
    assert history.sql(where, "SELECT count(*), sum(output_tps) FROM runs").rows == ((3, 303.0),)
    history.merge(root)
    assert value(where, "SELECT count(*) FROM runs") == 3


def layout(where) -> dict[str, int]:
    """Files of each folder of the history."""
    folders = [
        url.split("/")[-2]
        for url in (*open_root(where).urls("history/*/*.parquet"), *open_root(where).urls("history/*.parquet"))
    ]
    return {folder: folders.count(folder) for folder in sorted(set(folders))}


def test_a_row_stands_in_its_month(where):
    """A campaign over the turn of a month is two files; months before the newest are one file each, also when a late night comes."""
    for night in (29, 30, 33, 34):
        history.index_campaign(where, [summary(night, tps=1.0), summary(night + 1, tps=2.0, repetition=2)])
    assert layout(where) == {"month=2026-01": 1, "month=2026-02": 3}
    history.index_campaign(where, [replace(summary(3, tps=3.0), created_utc="")])
    history.index_campaign(where, [summary(2, tps=4.0)])
    assert layout(where) == {"month=2026-01": 1, "month=2026-02": 3, "month=unknown": 1}
    assert history.sql(where, "SELECT count(*), sum(output_tps) FROM runs").rows == ((10, 19.0),)
    assert len(history.nights(where, ["output_tps"], since=datetime(2026, 2, 1))) == 4  # noqa: DTZ001


def test_files_of_an_older_layout_are_read_and_go_into_their_months(where):
    """Right in history/, of several months in one file; as they are, and merged."""
    root = open_root(where)
    for night in (0, 40, 41):
        history.index_campaign(where, [summary(night, tps=1.0)])
    for url in root.urls("history/*/*.parquet"):
        path = url.removeprefix(root.prefix)
        root.put(f"{root.path}/history/{path.rpartition('/')[2]}", root.fs.cat_file(path))
        root.fs.rm_file(path)
    assert (layout(where), value(where, "SELECT count(*) FROM runs")) == ({"history": 3}, 3)
    assert len(history.nights(where, ["output_tps"], since=datetime(2026, 2, 1))) == 2  # noqa: DTZ001
    history.merge(root)
    assert (layout(where), value(where, "SELECT count(*) FROM runs")) == ({"month=2026-01": 1, "month=2026-02": 1}, 3)


def test_what_differs_within_a_night_is_told(where):
    """Three versions in one campaign: the least and the greatest; what is equal is told once, what is not known not at all."""
    history.index_campaign(where, [summary(0, tps=1.0, repetition=r, version=v) for r, v in enumerate("bca", 1)])
    (night,) = history.nights(where, ["output_tps"])
    assert (night.provenance["server_version"], night.provenance["driver"]) == ("a + c", "580.1")
    assert "config_sha256" not in night.provenance


def test_a_kill_between_merge_and_removal_doubles_nothing(tmp_path):
    """The merged file beside the ones it was made of counts every run once."""
    for night in range(3):
        history.index_campaign(tmp_path, [summary(night, tps=1.0)])
    kept = {path: path.read_bytes() for path in (tmp_path / "history").rglob("*.parquet")}
    history.merge(open_root(tmp_path))
    for path, content in kept.items():
        path.write_bytes(content)
    (tmp_path / "history" / "x.parquet.tmp").write_bytes(b"half")
    assert value(tmp_path, "SELECT count(*) FROM runs") == 3


def test_rows_of_an_older_harness_are_read_with_nulls(tmp_path):
    """A file without a column that we know, and with one that we do not, is read and merged; the unknown column stays."""
    history.index_campaign(tmp_path, [summary(0, tps=1.0), summary(1, tps=2.0)])
    (path,) = (tmp_path / "history").rglob("*.parquet")
    table = pq.read_table(path).drop_columns(["driver"])
    pq.write_table(table.append_column("later", table["run_id"]), path)
    history.index_campaign(tmp_path, [summary(2, tps=3.0)])
    history.merge(open_root(tmp_path))
    assert history.sql(tmp_path, "SELECT count(*), count(driver), count(later) FROM runs").rows == ((3, 1, 2),)


def test_a_night_is_the_mean_over_its_valid_repetitions(where):
    """INVALID and UNKNOWN runs are counted and not averaged; a night without a VALID one is None."""
    history.index_campaign(where, [summary(0, tps=t, repetition=r) for r, t in ((1, 90.0), (2, 110.0))])
    history.index_campaign(where, [summary(1, tps=1.0, verdict=INVALID), summary(1, tps=80.0, repetition=2)])
    history.index_campaign(
        where, [summary(2, tps=1.0, verdict=INVALID), summary(2, tps=2.0, repetition=2, verdict=UNKNOWN)]
    )
    found = history.nights(where, ["output_tps", "energy_j"])
    assert [(n.valid, n.invalid, n.unknown, n.values[0]) for n in found] == [
        (2, 0, 0, 100.0),
        (1, 1, 0, 80.0),
        (0, 1, 1, None),
    ]
    assert {n.values[1] for n in found} == {None}
    assert found[0].provenance["driver"] == "580.1"
    assert [n.campaign_id for n in history.nights(where, ["output_tps"], since=datetime(2026, 1, 3))] == [night_id(2)]  # noqa: DTZ001
    assert history.nights(where, ["output_tps"], experiment="other") == []


def test_an_empty_history_is_no_error(tmp_path):
    """No folder yet: no nights, a count of 0."""
    assert history.nights(tmp_path / "none", ["output_tps"]) == []
    assert value(tmp_path, "SELECT count(*) FROM runs") == 0


@pytest.mark.parametrize(
    "text",
    ["COPY runs TO 'x.csv'", "SELECT 1; SELECT 2", "CREATE TABLE t (a INT)", "INSTALL httpfs", "ATTACH 'x.db'", "SET threads = 1",
     "EXPLAIN ANALYZE COPY runs TO 'x.csv'", "DELETE FROM runs", "", "SELEC", "SELECT nope FROM runs"],
)  # fmt: skip
def test_sql_only_reads(tmp_path, monkeypatch, text):
    """Whatever writes, attaches, installs, or is no SQL is a ConfigError of three lines, and leaves no file."""
    monkeypatch.chdir(tmp_path)
    history.index_campaign(tmp_path, [summary(0, tps=1.0)])
    with pytest.raises(ConfigError) as caught:
        history.sql(tmp_path, text)
    assert caught.value.advice
    assert [p.name for p in tmp_path.iterdir()] == ["history"]


def test_a_damaged_file_is_named(tmp_path):
    """A file that is not Parquet gives a StoreError with its name."""
    history.index_campaign(tmp_path, [summary(0, tps=1.0)])
    (tmp_path / "history" / "bad.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(StoreError, match=r"bad\.parquet"):
        history.nights(tmp_path, ["output_tps"])


def test_storage_that_is_not_installed_is_said():
    """A URL of an unknown filesystem is a ConfigError that says what to install."""
    with pytest.raises(ConfigError, match="install"):
        open_root("nosuchfs://bucket/results")


def test_no_room_leaves_no_half_file(tmp_path, monkeypatch):
    """A write that fails is a StoreError, and nothing stays of it."""

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(StoreError, match="No space left"):
        history.index_campaign(tmp_path, [summary(0, tps=1.0)])
    assert [path for path in (tmp_path / "history").rglob("*") if path.is_file()] == []


# ---------------------------------------------------------------- the command


def command(*words: str):
    return CliRunner().invoke(history_group, list(words), catch_exceptions=False)


def test_the_command_shows_trends_sql_and_csv(tmp_path):
    """`history DIR`, its options, `sql` in three formats: each prints what the store says."""
    for night in many(60, cells=2, repetitions=1, noise=0.002):
        history.index_campaign(tmp_path, night)
    (down, level) = json.loads(command(str(tmp_path), "--json", "--metric", "output_tps").stdout)
    assert (down["cell"], down["first_bad_night"]["date"]) == ("a_fixed:128x32_c1", "2026-01-16")
    assert level["first_bad_night"] is None
    assert "first bad night 2026-01-16" in command(str(tmp_path), "--cell", "*_c1").stdout
    page = command(str(tmp_path), "--since", "2026-01-10", "--metric", "ttft_s", "--html", str(tmp_path / "t.html"))
    assert (page.exit_code, (tmp_path / "t.html").read_text()[:15]) == (0, "<!doctype html>")
    query = ("SELECT load, count(*) AS n FROM runs GROUP BY 1 ORDER BY 1", "--results", str(tmp_path))
    assert command("sql", *query, "--csv").stdout == "load,n\nc1,30\nc2,30\n"
    assert json.loads(command("sql", *query, "--json").stdout)[0] == {"load": "c1", "n": 30}
    assert "2 rows" in command("sql", *query).stdout


def test_the_command_names_a_near_metric(tmp_path):
    """A misspelt metric is a ConfigError with the nearest names."""
    with pytest.raises(ConfigError, match="output_tps"):
        command(str(tmp_path), "--metric", "output_tp")
