"""What a comparison reads: the campaigns of a directory, of one target where one is chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.base.errors import ConfigError, InvalidRunError, StoreError
from harness.judge.compare.sides import load_side, require_valid, side, split_campaign
from harness.records import ComparedSide, Load, Reason, Verdict
from tests.judge.compare_campaigns import run
from tests.judge.test_compare_command import store

C4, C8 = Load(concurrency=4), Load(concurrency=8)
KEY = "tpot_s.p50"
VALUES = {C4: {KEY: [0.02, 0.021, 0.0205]}}


# ---------------------------------------------------------------- read from a directory


@pytest.fixture(scope="module")
def stored(tmp_path_factory) -> Path:
    """Two campaigns of target a, the newer one also of b; four directories whose manifest is none."""
    root = tmp_path_factory.mktemp("sides") / "e"
    store(root, "20261101T000000Z", [0.010, 0.011])
    store(root, "20261102T000000Z", [0.010])
    store(root, "20261102T000000Z", [0.010], target="b")
    for n in range(4):
        (root / f"zz{n}").mkdir()
        (root / f"zz{n}" / "manifest.json").write_text("{")
    return root


def test_a_side_is_the_newest_campaign_of_a_directory(stored):
    """Or the one that is named, or only one target of it; requests only where they are wanted; what cannot be read is told."""
    found = load_side(str(stored))
    assert found.record == ComparedSide(str(stored), "20261102T000000Z", None, 2, 0, 0)
    assert [r.summary.cell.target for r in found.runs] == ["a", "b"]
    assert {r.data for r in found.runs} == {None}
    assert [problem.partition(":")[0] for problem in found.problems] == ["zz0", "zz1", "zz2", "zz3"]
    older = load_side(f"{stored}@20261101T000000Z", with_requests=True)
    assert (older.record.campaign_id, older.record.runs) == ("20261101T000000Z", 2)
    assert all(len(r.data.requests) == 200 for r in older.runs)
    assert [r.manifest.run_id for r in older.runs] == [r.summary.run_id for r in older.runs]
    one = load_side(str(stored), "b")
    assert (one.record.target, one.record.runs, one.runs[0].manifest.cell.target) == ("b", 1, "b")


def test_a_side_that_is_not_there(stored, tmp_path):
    """No such campaign: the newest are named. No such target: its targets are. Nothing readable: the first two problems and how many more."""
    with pytest.raises(StoreError) as error:
        load_side(f"{stored}@2020")
    assert (error.value.value, error.value.advice) == ("2020", "the newest here: 20261101T000000Z, 20261102T000000Z")
    with pytest.raises(ConfigError) as error:
        load_side(str(stored), "c")
    assert (error.value.value, error.value.advice) == ("c", "its targets: a, b")
    for n in range(4):
        (tmp_path / f"r{n}").mkdir()
        (tmp_path / f"r{n}" / "manifest.json").write_text("{")
    with pytest.raises(StoreError) as error:
        load_side(str(tmp_path))
    assert error.value.value == str(tmp_path)
    advice = error.value.advice
    assert advice.startswith("r0: ")
    assert "; r1: " in advice
    assert "r2" not in advice
    assert advice.endswith("(and 2 more)")
    (tmp_path / "r2" / "manifest.json").unlink()
    (tmp_path / "r3" / "manifest.json").unlink()
    with pytest.raises(StoreError) as error:
        load_side(str(tmp_path))
    assert "more)" not in error.value.advice


def test_a_run_whose_rows_cannot_be_read_is_a_problem(tmp_path):
    """The other is compared; where there is no other, there is no side."""
    store(tmp_path / "e", "20261101T000000Z", [0.010, 0.011])
    first, second = sorted((tmp_path / "e").iterdir())
    (first / "requests.parquet").write_bytes(b"none")
    found = load_side(str(tmp_path / "e"))
    assert [r.manifest.run_id for r in found.runs] == [second.name]
    assert [problem.startswith(f"{first.name}: ") for problem in found.problems] == [True]
    (second / "requests.parquet").write_bytes(b"none")
    with pytest.raises(StoreError) as error:
        load_side(str(tmp_path / "e"))
    assert error.value.advice.startswith(f"{first.name}: ")


def test_words_of_a_side(tmp_path):
    """The last @ parts directory and campaign, unless the whole is a directory."""
    assert split_campaign("a/b@c@20261101") == (Path("a/b@c"), "20261101")
    assert split_campaign("a/b") == (Path("a/b"), None)
    (tmp_path / "x@y").mkdir()
    assert split_campaign(str(tmp_path / "x@y")) == (tmp_path / "x@y", None)


def test_a_side_of_runs_in_memory():
    """How many are INVALID and UNKNOWN, and the cells with their own runs."""
    states = ("VALID", "INVALID", "UNKNOWN", "UNKNOWN")
    runs = [
        run({KEY: 0.02}, k, load=C8 if k == 4 else C4, verdict=Verdict(state, ())) for k, state in enumerate(states, 1)
    ]
    found = side("d", runs, "a", ["p"])
    assert found.record == ComparedSide("d", "20261124T100000Z", "a", 4, 1, 2)
    assert (found.runs, found.problems) == (tuple(runs), ("p",))
    assert found.cells() == {("a", "fixed:128x32", C4): runs[:3], ("a", "fixed:128x32", C8): runs[3:]}


def test_a_side_of_invalid_runs_only_is_refused_with_three_reasons():
    """Each once, invalid ones only."""
    reasons = [
        Reason("x", severity, text, "y")
        for severity, text in (
            ("invalid", "one"),
            ("warning", "no"),
            *(("invalid", t) for t in ("one", "two", "three", "four")),
        )
    ]
    found = side("d", [run({KEY: 0.02}, k, verdict=Verdict("INVALID", tuple(reasons))) for k in (1, 2)])
    with pytest.raises(InvalidRunError) as error:
        require_valid("NEW", found)
    assert error.value.value == "d: one; two; three"
    assert "NEW" in error.value.what
    assert "all 2 are" in error.value.what
    require_valid("NEW", side("d", [*found.runs, run({KEY: 0.02}, 3)]))
