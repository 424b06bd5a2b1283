"""What an indexing did, in every number, and what it says on the way."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.base.errors import StoreError
from harness.judge import runs
from harness.judge.runs import Indexed, index_runs
from harness.store import history
from harness.store.manifest import owner
from tests.judge.test_compare_command import store


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    root = tmp_path_factory.mktemp("indexed")
    store(root / "e", "20261101T000000Z", [0.010, 0.011])
    store(root / "f", "20261102T000000Z", [0.010, 0.011])
    return root


@pytest.fixture
def results(once, tmp_path):
    """Four runs of two experiments, of which one is pruned; another whose manifest is none; a file."""
    root = tmp_path / "results"
    shutil.copytree(once, root)
    (min((root / "e").iterdir()) / "pruned.json").write_text('{"pruned_utc": "2026-01-01T00:00:00+00:00"}')
    (root / "f" / "zz").mkdir()
    (root / "f" / "zz" / "manifest.json").write_text("{")
    (root / "readme").write_text("x")
    return root


def test_runs_are_written_once(results, tmp_path):
    """Three written; then known; again with rebuild; elsewhere from the beginning; the pruned one never, the broken one told."""
    assert index_runs(results) == Indexed(3, 0, 1, index_runs(results).problems)
    again = index_runs(results)
    assert (again.written, again.known, again.pruned, len(again.problems)) == (0, 3, 1, 1)
    assert again.problems[0].startswith("zz: ")
    assert again.problems[0].endswith(f": {results / 'f' / 'zz' / 'manifest.json'}")
    assert index_runs(results, rebuild=True).written == 3
    assert index_runs(results, str(tmp_path / "other")).written == 3
    assert len(history.indexed(str(tmp_path / "other"))) == len(history.indexed(str(results))) == 3


def test_a_run_that_is_still_going_on_is_left_for_later(results):
    """And the one after it is not."""
    path = min((results / "f").iterdir())
    manifest = json.loads((path / "manifest.json").read_text())
    pid, ticks = owner()
    (path / "manifest.json").write_text(
        json.dumps(manifest | {"state": "running", "owner_pid": pid, "owner_start_ticks": ticks})
    )
    found = index_runs(results)
    assert (found.written, found.problems[0], len(found.problems)) == (2, f"{path.name}: still running", 2)


def test_batches_are_written_as_they_fill(results, monkeypatch):
    """After every run here, and it is said how many there are; the rest at the end."""
    assert runs._BATCH == 200
    monkeypatch.setattr(runs, "_BATCH", 1)
    batches, said = [], []
    real = history.index_campaign
    monkeypatch.setattr(history, "index_campaign", lambda where, runs: (batches.append(len(runs)), real(where, runs)))
    assert index_runs(results, say=said.append).written == 3
    assert (batches, said) == ([1, 1, 1, 0], [f"{n} runs indexed" for n in (1, 2, 3)])
    assert index_runs(results, rebuild=True).written == 3  # nobody listens


def test_what_is_not_the_directory_of_all_results(results):
    """An experiment's names its parent, a run's the parent of that; a directory that is not there says why."""
    run = min((results / "f").iterdir())
    for words in (results / "f", run):
        with pytest.raises(StoreError) as error:
            index_runs(words)
        assert error.value.value == str(words)
        assert error.value.advice == f"give the directory of all experiments, {results}"
    with pytest.raises(StoreError) as error:
        index_runs(results / "none")
    assert error.value.value == str(results / "none")
    assert "No such file" in error.value.advice
