"""A capacity search in the history: one row with its capacity however it got there, its trend, and what retention takes of its probes."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import load_side
from harness.judge.runs import analyse, history_of, index_runs
from harness.judge.trends import trends_of
from harness.store import history
from harness.store.history import index_campaign, nights
from harness.store.history_prune import delete, find_old
from tests.judge.test_compare_command import gaps, store
from tests.judge.test_compare_searches import UNDECIDED, at_least, found, searched
from tests.planner.test_measured_properties import stored_search

CAPACITIES = "SELECT run_id, load, verdict, capacity_rps, output_tps IS NULL FROM runs ORDER BY run_id"


def files(folder):
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_a_search_is_one_row_however_it_got_there(tmp_path):
    """By the end of a campaign and by an index made later: the same rows, of the searches and none of their probes, beside a run's."""
    for repetition, capacity in enumerate((11.0, 12.0), 1):
        stored_search(tmp_path / "all" / "x", repetition, capacity)
    store(tmp_path / "all" / "x", "20261124T100000Z", gaps(0.010, 1, 1))
    index_campaign(str(tmp_path / "ended"), history_of(analyse(tmp_path / "all" / "x")))
    ended = history.sql(tmp_path / "ended", CAPACITIES).rows
    assert index_runs(tmp_path / "all").written == 3
    assert history.sql(tmp_path / "all", CAPACITIES).rows == ended
    assert [row[1:] for row in ended] == [
        ("c4", "VALID", None, False),
        ("capacity", "VALID", 11.0, True),
        ("capacity", "VALID", 12.0, True),
    ]
    again = index_runs(tmp_path / "all")
    assert (again.written, again.known, again.problems) == (0, 3, ())


def test_the_trend_of_a_capacity(tmp_path):
    """Twelve nights of three searches, lower by a tenth from the ninth on: that night is told. A night that knows bounds alone is a gap, one without
    a trusted probe too."""
    for night in range(12):
        level = 20.0 if night < 8 else 18.0
        results = [found(level * (1 + 0.002 * ((night * 3 + k) % 5 - 2))) for k in range(3)]
        if night == 3:
            results = [at_least(15.0), at_least(15.0), UNDECIDED]
        searched(tmp_path / "x", results, campaign=f"202611{night + 1:02d}T000000Z")
    assert index_runs(tmp_path).written == 36
    (trend,) = trends_of(nights(tmp_path, ["output_tps", "capacity_rps"]), ["output_tps", "capacity_rps"])
    assert (trend.load, trend.column, trend.unit, trend.higher_is_better) == ("capacity", "capacity_rps", "1/s", True)
    assert [night.value is None for night in trend.nights] == [n == 3 for n in range(12)]
    gap = trend.nights[3]
    assert (gap.valid, gap.invalid, gap.unknown) == (0, 1, 2)
    assert trend.first_bad_night.night.campaign_id == "20261109T000000Z"
    assert trend.nights[0].value == pytest.approx(sum(20.0 * (1 + 0.002 * (k - 2)) for k in range(3)) / 3)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_retention_takes_the_probes_and_leaves_what_was_found(tmp_path, elsewhere, monkeypatch):
    """Kept whole until the searches are in the history; then the raw files of their probes go, here and on object storage, and nothing of an attempt
    that was moved aside. Capacities are compared as before; analysis names the probes."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    results = tmp_path / "all"
    for repetition in (1, 2):
        path = stored_search(results / "x", repetition, 11.0 + repetition)
    aside = results / "x" / "interrupted" / f"{path.name}.1"
    aside.mkdir(parents=True)
    for name in ("manifest.json", "requests.parquet"):
        (aside / name).write_bytes(next(path.glob(f"*/{name}")).read_bytes())
    before, where = files(results), str(results)
    memory = fsspec.filesystem("memory")
    if elsewhere:
        where = f"memory://{tmp_path.name}"
        memory.put(str(results / "x"), f"/{tmp_path.name}/x", recursive=True)
    try:
        kept = find_old(where, 1).would
        assert (kept.files, len(kept.kept), "not in the history" in kept.kept[0][1]) == (0, 1, True)
        assert index_runs(results, where).written == 2
        done = delete(find_old(where, 1))
        assert (done.runs, done.kept) == (2, ())
        if elsewhere:
            left = {name.removeprefix(f"/{tmp_path.name}/") for name in memory.find(f"/{tmp_path.name}/x")}
        else:
            left = {name for name in files(results) if not name.startswith("history")}
        gone = before - left
        raw = ("requests.parquet", "server.parquet", "host.parquet")
        assert gone == {n for n in before if "_probe01/" in n and n.endswith(raw)}
        assert len(gone) == done.files
        assert {n for n in left - before if "month" not in n} == {
            f"{p}/pruned.json" for p in {n.rpartition("/")[0] for n in gone}
        }
    finally:
        if elsewhere:
            memory.rm(f"/{tmp_path.name}", recursive=True)
    if not elsewhere:
        analysis = analyse(results / "x")
        assert [search.result.capacity_rps for search in analysis.capacities] == [12.0, 13.0]
        assert len(analysis.problems) == 2
        assert all("pruned" in problem for problem in analysis.problems)
        side = load_side(str(results / "x"))
        (effect,) = compare(side, side).effects
        assert (effect.metric, effect.base) == ("capacity_rps", pytest.approx((12 * 13) ** 0.5))
        assert delete(find_old(where, 1)).files == 0
