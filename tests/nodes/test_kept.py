"""What nodes keep on their disks: of a node that was cut off, and of all where the parent was killed; into the run once, and never twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict

import psutil
import pytest
from click.testing import CliRunner

from harness.base.errors import StoreError
from harness.base.files import cache_dir
from harness.cli.recover import recover_command
from harness.measure.drive.golden.server import GoldenProcess, build
from harness.measure.nodes import drive_nodes
from harness.measure.nodes.kept import STORED_LATER, About, Kept
from harness.records import Cell, Load
from harness.store.reader import read_run
from harness.store.writer import RunWriter
from tests.nodes.crews import Storing, offer, poisson
from tests.nodes.local_crew import LocalCrew
from tests.store.store_values import manifest
from tests.waiting import until

pytestmark = pytest.mark.timing


@pytest.fixture
def server(tmp_path):
    with GoldenProcess(build(cache_dir("golden")), 0.01, 0.004, tmp_path) as up:
        yield up


def recovered(*words):
    done = CliRunner().invoke(recover_command, [*map(str, words), "--json"])
    assert done.exception is None or isinstance(done.exception, StoreError), done.exception
    return json.loads(done.stdout) if done.exception is None else done.exception


def test_what_a_node_did_after_it_was_cut_off_takes_the_place_of_what_was_lost(server, tmp_path, monkeypatch):
    """The node goes on unheard; its rows are on its disk, and in the run after `recover --from`: all requests, each once, on the run's clock."""
    monkeypatch.setattr(drive_nodes, "LOST_S", 2.0)
    plan, load = poisson(200, 100, 5, late_s=60), Load(rate_rps=100)
    writer = RunWriter.create(tmp_path / "run", manifest(cell=Cell("golden", "fixed", load, 1)))
    with writer, LocalCrew(2, lingers=True, state=tmp_path / "state") as crew:
        seen = Storing(on_progress=lambda progress: progress.done >= 40 and crew.deaf.add(0), writer=writer)
        report = offer(crew, server.url, plan, load, seen, run_id="run", on_nodes=seen.told)
        writer.update(drive={**writer.manifest.drive, "measure": asdict(report)})
        writer.finish("complete")
    before = read_run(tmp_path / "run").requests
    assert report.stop_reason == "node_lost"
    assert {"lost", "dropped"} <= set(before.outcome)
    (kept,) = (tmp_path / "state").rglob("node.json")
    assert kept.parent.name == report.nodes[0]["kept_as"]
    assert kept.parents[1] == type(kept)(report.nodes[0]["kept_at"])
    came = recovered(tmp_path / "run", "--from", kept.parents[1])
    after = read_run(tmp_path / "run")
    assert sorted(after.requests.seq) == list(range(201))
    assert isinstance(came, dict), came
    assert came["recovered"] == 0
    unheard = after.requests[
        after.requests.seq.isin(before[before.outcome != "ok"].seq) & (after.requests.outcome == "ok")
    ]
    assert 0 < len(unheard) <= came["replaced"]
    bound_ns = 1000 * after.manifest.drive["recovered"][0]["clock_error_us"] + 1
    due_ns = [report.started_ns + plan[seq].scheduled_ns for seq in unheard.seq]
    assert abs(unheard.scheduled_ns - due_ns).max() <= bound_ns
    assert set(unheard.worker) == {0}
    assert recovered(tmp_path / "run", "--from", kept.parent)["replaced"] == 0
    assert sorted(read_run(tmp_path / "run").requests.seq) == list(range(201))


def test_a_parent_that_is_killed_has_what_it_stored_and_from_the_nodes_all_the_rest(server, tmp_path):
    """kill -9 in mid-run: what came to its disk can be read; what the nodes had received is in their folders, to the last half second."""
    run, state = tmp_path / "run", tmp_path / "state"
    words = [sys.executable, "-m", "tests.nodes.parent", server.url, str(run), str(state)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as parent:
        agents = [int(pid) for pid in parent.stdout.readline().split()]
        next(line for line in parent.stdout if int(line.split()[1]) >= 250)
        parent.kill()
        killed_ns = time.monotonic_ns()
    until(lambda: not any(psutil.pid_exists(pid) for pid in agents), "the agents to end")
    stored = read_run(run)
    assert stored.manifest.state == "interrupted"
    assert set(stored.requests.outcome) == {"ok"}
    assert len(recovered(run)) == 0  # no spool: nodes sent it
    came = recovered(run, "--from", state)
    rows = read_run(run).requests
    assert came["recovered"] == len(rows) - len(stored.requests) > 0
    assert len(rows) == rows.seq.nunique()
    ended = {name for name, one in server.stop().items() if len(one.sent_ns) == 5 and one.sent_ns[-1] < killed_ns}
    assert ended <= set(rows[rows.outcome == "ok"].request_id)
    assert recovered(run, "--from", state)["recovered"] == 0


def test_rows_of_another_run_are_not_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Kept("run", About("another mark", "n", 0))
    run = RunWriter.create(tmp_path / "run", manifest(state="complete"))
    run.finish("complete")
    assert "was not sent from nodes" in str(recovered(tmp_path / "run", "--from", tmp_path))
    mine = RunWriter.create(tmp_path / "mine", manifest(drive={"sent_from": {"mark": "mine"}}))
    mine.finish("complete")
    assert "no rows of this run are there" in str(recovered(tmp_path / "mine", "--from", tmp_path))


def test_a_disk_that_takes_nothing_ends_no_load(tmp_path, monkeypatch):
    """It is said in the node's notes."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kept = Kept("run", About("mark", "n", 0))
    kept.add(1, b"rows")
    assert kept.trouble is None
    shutil.rmtree(tmp_path / "vllm-cost-harness")
    kept.add(2, b"rows")
    assert "not kept on its disk" in kept.trouble
    kept.add(3, b"rows")


def test_what_the_parent_has_surely_stored_goes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    kept = Kept("run", About("mark", "n", 0))
    for number in range(1, 2 * STORED_LATER + 1):
        kept.add(number, b"rows")
        kept.forget(number)
    assert len(list(tmp_path.rglob("*.arrow"))) == STORED_LATER
    kept.clear()
    assert not list(tmp_path.rglob("node.json"))
