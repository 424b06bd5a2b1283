"""The campaign's file and what its run directories say."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from campaign_values import Quiet, spec

from harness.base.errors import ConfigError, StoreError
from harness.measure.campaign import file, stock
from harness.measure.campaign.order import ordered
from harness.records import Cell, Load, Plan
from harness.store.manifest import start_ticks, write_manifest


def created(out: Path, **changes) -> file.Campaign:
    made = spec(**changes)
    return file.create(out, made, (), tuple(s.name for s in ordered(made)))


def test_a_file_comes_back_as_it_was_written(tmp_path):
    """create, read: equal; the order and the resolved config stand in it; nothing temporary is left."""
    made = created(tmp_path)
    back = file.read(file.path_of(tmp_path, made.campaign_id))
    assert back == made
    assert len(back.order) == 16
    assert back.config["targets"][0]["name"] == "a"
    assert [p.name for p in (tmp_path / "campaigns").iterdir()] == [f"{made.campaign_id}.json"]


def test_campaigns_of_one_second_have_different_ids_in_order(tmp_path):
    """Five at once: five ids; the newest unfinished one is the last."""
    ids = [created(tmp_path).campaign_id for _ in range(5)]
    assert len(set(ids)) == 5
    assert file.find(tmp_path, None).campaign_id == ids[-1]


def test_resume_takes_the_newest_that_is_not_finished(tmp_path):
    """A finished campaign is passed over, refused by name, and with none left there is a clear error."""
    old, new = created(tmp_path), created(tmp_path)
    file.write(tmp_path, replace(new, state=file.FINISHED))
    assert file.find(tmp_path, None).campaign_id == old.campaign_id
    with pytest.raises(ConfigError, match="finished"):
        file.find(tmp_path, new.campaign_id)
    file.write(tmp_path, replace(old, state=file.FINISHED))
    with pytest.raises(ConfigError, match="no unfinished"):
        file.find(tmp_path, None)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"seed": 2}, "seed was 1, is 2"),
        ({"repetitions": 3}, "repetitions was 2, is 3"),
        ({"workloads": ["fixed:16x4", "fixed:24x3"]}, "workloads[1]"),
        ({"loads": [{"concurrency": [1, 2], "requests": 5}]}, "loads[0].requests was 4, is 5"),
        ({"slo": {"ttft_s": 1}}, "slo was None"),
    ],
)
def test_another_config_is_refused_by_the_key_that_differs(tmp_path, changes, key):
    """Resuming with a changed config: ConfigError with the key, what it was and what it is."""
    made = created(tmp_path)
    with pytest.raises(ConfigError) as caught:
        file.refuse_other(made, spec(**changes), ())
    assert key in caught.value.value


def test_words_about_the_evening_may_change(tmp_path):
    """max_hours, notify, min_free_gib and the description do not change what a cell is; --only does."""
    made = created(tmp_path)
    file.refuse_other(made, spec(max_hours=3, min_free_gib=2, description="x", notify={"command": ["true"]}), ())
    with pytest.raises(ConfigError, match="--only"):
        file.refuse_other(made, spec(), ("*_c1_*",))


@pytest.mark.parametrize("text", ["", "{", '{"schema_version": 1}', '{"schema_version": 99}', "[]", "null"])
def test_a_damaged_file_is_named(tmp_path, text):
    """Not JSON, not a campaign, a newer schema: StoreError with the path, no traceback."""
    path = file.path_of(tmp_path, "x")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(StoreError) as caught:
        file.read(path)
    assert str(path) in str(caught.value)


# ---------------------------------------------------------------- run directories


def run_of(out: Path, name: str, campaign: str, state: str, *, pid: int = 1, ticks: int = -1) -> Path:
    """A run directory with that manifest."""
    from harness.base.errors import TargetError
    from harness.measure.cell_plan import Drawn
    from harness.measure.provenance import facts_of_none, manifest_of
    from harness.measure.run import Run, Stop

    path = stock.run_dir(out, campaign, name)
    path.mkdir(parents=True)
    cell = Cell("a", "fixed:16x4", Load(concurrency=1), 1)
    made = spec()
    drawn = Drawn(Plan((), (), cell.load, cell.workload, 1, "0" * 64), ())
    run = Run(made, cell, made.loads[0], path, campaign, Quiet(), Stop())
    manifest = manifest_of(run, cell, facts_of_none(made.targets[0], TargetError("x")), drawn, {})
    write_manifest(path, replace(manifest, state=state, owner_pid=pid, owner_start_ticks=ticks))
    return path


def test_done_runs_are_told_from_broken_ones(tmp_path):
    """Complete and failed are done; interrupted, running without its process, without or with half a manifest are moved."""
    for name, state in (
        ("complete", "complete"),
        ("failed", "failed"),
        ("broken", "interrupted"),
        ("killed", "running"),
    ):
        run_of(tmp_path, name, "C", state)
    (tmp_path / "C_empty" / "parts").mkdir(parents=True)
    (tmp_path / "C_half").mkdir()
    (tmp_path / "C_half" / "manifest.json").write_text('{"schema_version": 1, "run_id"')
    names = ["complete", "failed", "broken", "killed", "empty", "half", "never"]
    assert stock.finished(tmp_path, "C", names) == {"complete", "failed"}
    found = stock.take_stock(tmp_path, "C", names)
    assert found.done == {"complete", "failed"}
    assert sorted(p.name for p in found.moved) == ["C_broken.1", "C_empty.1", "C_half.1", "C_killed.1"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["C_complete", "C_failed", "interrupted"]


def test_attempts_kept_aside_are_numbered(tmp_path):
    """The same cell broken off twice: both attempts are there."""
    for _ in range(2):
        run_of(tmp_path, "x", "C", "running")
        stock.take_stock(tmp_path, "C", ["x"])
    assert sorted(p.name for p in (tmp_path / "interrupted").iterdir()) == ["C_x.1", "C_x.2"]


def test_a_run_that_goes_on_is_not_taken(tmp_path):
    """Its process lives: StoreError with the pid, and the directory stays."""
    me = os.getpid()
    path = run_of(tmp_path, "x", "C", "running", pid=me, ticks=start_ticks(me) or 0)
    with pytest.raises(StoreError, match=str(me)):
        stock.take_stock(tmp_path, "C", ["x"])
    assert path.is_dir()


def test_another_campaigns_run_is_not_mixed_in(tmp_path):
    """A directory under our name whose manifest says another campaign is refused."""
    path = run_of(tmp_path, "x", "C", "complete")
    data = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(data | {"campaign_id": "D"}))
    with pytest.raises(StoreError, match="another campaign"):
        stock.take_stock(tmp_path, "C", ["x"])
