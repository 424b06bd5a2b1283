"""Whole campaigns against servers on loopback: order, failures that are recorded, resumption, time limits."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from campaign_values import Quiet, run, small, spec, states
from click.testing import CliRunner

from harness import pipeline
from harness.base.errors import ConfigError, StoreError, TargetError
from harness.cli import cli
from harness.judge.runs import analyse
from harness.measure.campaign import file, server, stock
from harness.measure.campaign.campaign import foresee
from harness.measure.campaign.course import Course
from harness.measure.campaign.intent import Intent
from harness.measure.cell import run_cell
from harness.measure.run import Stop
from harness.measure.targets import open_target
from harness.store.manifest import read_manifest
from harness.store.reader import read_run
from tests.fakes.golden_server import GoldenServer
from tests.targets.target_spawning import make_package, write_command

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]


def test_a_campaign_runs_every_cell_in_the_recorded_order(golden, tmp_path):
    """Four cells: run in the file's order, each a complete run of that campaign; the file ends finished with a summary."""
    display = Quiet()
    ran = run(small(golden.url), tmp_path, display=display)
    found = file.read(file.path_of(tmp_path, ran.campaign_id))
    assert tuple(display.cells) == found.order
    assert len(found.order) == 4
    assert set(states(tmp_path).values()) == {"complete"}
    created = {name: read_manifest(stock.run_dir(tmp_path, ran.campaign_id, name)).created_utc for name in found.order}
    assert list(created.values()) == sorted(created.values())
    assert found.state == "finished"
    assert found.summary["exit_code"] == 0
    assert any("0 of 4 cells done" in text for text in display.said)
    assert not (tmp_path / "interrupted").exists()
    assert not file.lock_path(tmp_path, ran.campaign_id).exists()


def _program(tmp_path: Path, text: str) -> dict:
    """A vllm target whose server program is `text`, after PORT and NAME were read from its flags."""
    model = make_package(tmp_path)
    head = f"""
import argparse, os, sys, threading
sys.path.insert(0, {str(ROOT)!r})
from tests.fakes.golden_server import GoldenServer
words = argparse.ArgumentParser()
words.add_argument("--port", type=int)
words.add_argument("--served-model-name")
known, _ = words.parse_known_args()
"""
    write_command(tmp_path / "fake_site", head + text)
    return {"name": "own", "kind": "vllm", "model": str(model), "env": {"PYTHONPATH": f"{tmp_path}/fake_site:{ROOT}"}}


def test_a_server_that_refuses_to_start_is_recorded_and_the_others_go_on(golden, tmp_path, monkeypatch):
    """Out of memory at the start: each of its cells is a failed run with the log's reason and the log; the other target's
    cells are complete; the worst error is the target's, exit code 3."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = _program(
        tmp_path,
        "print('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 7 GiB', flush=True)\nsys.exit(1)",
    )
    good = {"name": "good", "kind": "adopt", "url": golden.url, "model": "golden"}
    out = tmp_path / "out"
    ran = run(spec(targets=[own, good], workloads=["fixed:16x4"], repetitions=1), out)
    assert states(out) == {
        "own_fixed-16x4_c1_rep1": "failed", "own_fixed-16x4_c2_rep1": "failed",
        "good_fixed-16x4_c1_rep1": "complete", "good_fixed-16x4_c2_rep1": "complete",
    }  # fmt: skip
    failed = stock.run_dir(out, ran.campaign_id, "own_fixed-16x4_c1_rep1")
    manifest = read_manifest(failed)
    assert "CUDA out of memory" in manifest.error
    assert "lower max_model_len" in manifest.error
    assert "CUDA out of memory" in (failed / "server.log").read_text()
    assert len(read_run(failed).plan) == 4
    worst = ran.worst()
    assert worst.exit_code == 3
    assert worst.what.startswith("2 of 4 cells failed")
    assert len(list((out / "server-logs").glob("*_own_rep1*.log"))) == 1  # one try for both cells
    assert analyse(out, ran.campaign_id).problems == ()


_DIES_IN_FIRST = """
marker = {marker!r}
first = not os.path.exists(marker)
open(marker, "a").write("start\\n")
with GoldenServer(ttft_s=0.02, itl_s=0.01, port=known.port, model=known.served_model_name) as server:
    while not (first or {always}):
        threading.Event().wait()
    server.hold = lambda _: server.finished >= 4
    while server.finished < 4 or not server.in_flight:
        threading.Event().wait(0.01)
    print("RuntimeError: lost the device", flush=True)
    os._exit(1)
"""


@pytest.mark.parametrize(("always", "starts", "ends"), [(False, 2, 1), (True, 2, 3)])
def test_a_server_that_dies_in_a_cell_is_started_once_more(tmp_path, monkeypatch, always, starts, ends):
    """It dies in the first cell: that run is failed with its last words, the others complete on a second start. If it dies
    again, there is no third start in that block: the last cell is failed without one."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    own = _program(tmp_path, _DIES_IN_FIRST.format(marker=str(tmp_path / "starts"), always=always))
    out = tmp_path / "out"
    loads = [{"concurrency": [1, 2, 3], "requests": 12}]
    ran = run(spec(targets=[own], workloads=["fixed:16x4"], loads=loads, repetitions=1), out)
    assert (tmp_path / "starts").read_text().count("start") == starts
    assert sorted(states(out).values()) == sorted(["failed"] * ends + ["complete"] * (3 - ends))
    first = read_manifest(ran.run_dirs[0])
    assert first.state == "failed"
    assert "lost the device" in first.error
    assert len(ran.failures) == ends


@pytest.mark.parametrize(("kind", "asked", "ends"), [("adopt", 2, "complete"), ("vllm", 1, "failed")])
def test_a_lost_connection_does_not_cost_an_adopted_servers_cells(golden, tmp_path, monkeypatch, kind, asked, ends):
    """The first answer is lost: an adopted server is asked once more and measured; a start of our own is not repeated."""
    monkeypatch.setattr(server, "_ASK_AGAIN_S", 0)
    calls = []

    def lossy(target, log_path, say):
        calls.append(target.kind)
        if len(calls) == 1:
            raise TargetError("the server stopped answering", "ReadError", "")
        return open_target(made.targets[0].model_copy(update={"kind": "adopt", "url": golden.url}), log_path, say)

    monkeypatch.setattr(server, "open_target", lossy)
    url = {"url": golden.url} if kind == "adopt" else {}
    made = small(golden.url, targets=[{"name": "own", "kind": kind, "model": "golden", **url}], repetitions=1)
    run(made, tmp_path)
    assert len(calls) == asked
    assert set(states(tmp_path).values()) == {ends}


def test_a_cell_that_does_not_fit_is_one_failure(tmp_path):
    """A prompt longer than the server's context fails its cell with exit code 2; the other workload is measured; a resumption that
    finds nothing left to run still says so, and clears away what a killed write of the campaign's file left."""
    with GoldenServer(ttft_s=0.002, itl_s=0.001, max_model_len=64) as short:
        loads = [{"concurrency": [1], "requests": 3}]
        made = small(short.url, workloads=["fixed:100x4", "fixed:16x4"], loads=loads, repetitions=1)
        ran = run(made, tmp_path)
    assert states(tmp_path) == {"own_fixed-16x4_c1_rep1": "complete", "own_fixed-100x4_c1_rep1": "failed"}
    assert isinstance(ran.worst(), ConfigError)
    path = file.path_of(tmp_path, ran.campaign_id)
    file.write(tmp_path, replace(file.read(path), state=file.OPEN))  # as after a kill before the last line
    path.with_name(f"{path.name}.4711.tmp").write_text("{")
    again = run(made, tmp_path, resume="newest")
    assert list(path.parent.glob("*.tmp")) == []
    assert [name for name, _ in again.failures] == ["own_fixed-100x4_c1_rep1"]
    assert "does not fit" in again.worst().value


class _CtrlCBefore(Quiet):
    """Asks the campaign to stop when the given cell is about to begin."""

    def __init__(self, stop: Stop, count: int) -> None:
        super().__init__()
        self.stop, self.count = stop, count

    def phase(self, name: str) -> None:
        if name == "measuring" and len(self.cells) == self.count:
            self.stop.request()


def test_an_interrupted_campaign_goes_on_where_it_stopped(golden, tmp_path):
    """Ctrl-C in the third cell: the file stays open. Resumed: the broken attempt stands aside, the two finished cells are
    untouched, the other two run; another config is refused and so is a campaign that is finished."""
    made = small(golden.url)
    stop = Stop()
    ran = run(made, tmp_path, stop=stop, display=_CtrlCBefore(stop, 3))
    assert ran.stopped
    assert sorted(states(tmp_path).values()) == ["complete", "complete", "interrupted"]
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("*Z_*/requests.parquet")}
    with pytest.raises(ConfigError, match="seed was 1, is 9"):
        run(small(golden.url, seed=9), tmp_path, resume="newest")
    display = Quiet()
    again = run(made, tmp_path, resume="newest", display=display)
    assert again.campaign_id == ran.campaign_id
    assert len(display.cells) == 2
    assert len(again.run_dirs) == 4
    assert set(states(tmp_path).values()) == {"complete"}
    assert sum(p.exists() and p.stat().st_mtime_ns == t for p, t in before.items()) == 2
    assert [p.name.rpartition(".")[2] for p in (tmp_path / "interrupted").iterdir()] == ["1"]
    assert len(file.read(file.path_of(tmp_path, ran.campaign_id)).attempts) == 2
    with pytest.raises(ConfigError, match="no unfinished"):
        run(made, tmp_path, resume="newest")


def test_failed_cells_of_a_finished_campaign_are_run_again(tmp_path):
    """One of two cells did not fit the server's context. --resume --failed, with a server that takes it, runs that cell alone,
    keeps its first attempt aside and finishes the campaign again; a third time there is nothing to do, as for a plain --resume."""
    loads = [{"concurrency": [1], "requests": 3}]
    with GoldenServer(ttft_s=0.002, itl_s=0.001, max_model_len=64) as server:
        made = small(server.url, workloads=["fixed:100x4", "fixed:16x4"], loads=loads, repetitions=1)
        ran = run(made, tmp_path)
        assert sorted(states(tmp_path).values()) == ["complete", "failed"]
        with pytest.raises(ConfigError, match="no unfinished"):
            run(made, tmp_path, resume="newest")
        with pytest.raises(ConfigError, match="--resume --failed"):
            run(made, tmp_path, resume=ran.campaign_id)
        assert [cell.name for cell in foresee(made, tmp_path, Intent((), "newest", failed=True)).cells] == [
            "own_fixed-100x4_c1_rep1"
        ]
        server.max_model_len = 4096
        display = Quiet()
        again = run(made, tmp_path, resume="newest", failed=True, display=display)
    assert display.cells == ["own_fixed-100x4_c1_rep1"]
    assert again.failures == []
    assert set(states(tmp_path).values()) == {"complete"}
    assert [p.name.rpartition(".")[0] for p in (tmp_path / "interrupted").iterdir()] == [
        f"{ran.campaign_id}_own_fixed-100x4_c1_rep1"
    ]
    closed = file.read(file.path_of(tmp_path, ran.campaign_id))
    assert (closed.state, closed.summary["failed"], len(closed.attempts)) == ("finished", 0, 2)
    with pytest.raises(ConfigError, match="no failed cell"):
        run(made, tmp_path, resume="newest", failed=True)


def test_failed_goes_with_resume(tmp_path):
    """--failed alone would start a new campaign: it is refused with the way out."""
    config = tmp_path / "x.yaml"
    config.write_text("experiment: x\n")
    done = CliRunner().invoke(cli, ["run", str(config), "--failed"])
    assert done.exception is not None
    assert "add --resume" in str(done.exception)


def test_a_full_disk_stops_the_campaign_and_the_cell_is_run_again(golden, tmp_path, monkeypatch):
    """StoreError in a cell: the campaign ends at once, the attempt is aside, and a resumption runs every cell."""
    made = small(golden.url, repetitions=1)

    def full(*args):
        run_cell(*args)
        raise StoreError("no room", "x", "y")

    monkeypatch.setattr(pipeline, "run_cell", full)
    with pytest.raises(StoreError):
        run(made, tmp_path)
    assert states(tmp_path) == {}
    monkeypatch.undo()
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    run(made, tmp_path, resume="newest")
    assert sorted(states(tmp_path).values()) == ["complete", "complete"]


def test_max_hours_drops_whole_repetitions(golden, tmp_path, monkeypatch):
    """Time for two of three repetitions: the third is left out whole, recorded, and never begun."""
    made = small(golden.url, repetitions=3, max_hours=2.5)
    hours = iter([1.0, 2.0, 3.0])  # when each block would be done

    def fits(campaign, block, until_s, real=Course.fits_time):
        return real(campaign, block, next(hours) * 3600)

    monkeypatch.setattr(Course, "fits_time", fits)
    ran = run(made, tmp_path)
    assert ran.dropped == (3,)
    assert sorted(name[-4:] for name in states(tmp_path)) == ["rep1", "rep1", "rep2", "rep2"]
    assert file.read(file.path_of(tmp_path, ran.campaign_id)).dropped_repetitions == (3,)


def test_less_than_one_repetition_is_refused(tmp_path):
    """Two cells of 20 s and half a minute: ConfigError, and nothing is written that a resumption could find."""
    made = spec(loads=[{"concurrency": [1, 2], "duration_s": 20}], max_hours=30 / 3600)
    with pytest.raises(ConfigError, match="not even one repetition"):
        run(made, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_second_campaign_on_this_machine_is_refused(golden, tmp_path, monkeypatch):
    """While one runs, another gets TargetError with its pid and campaign, and writes nothing."""
    made = small(golden.url, repetitions=1)
    caught = []

    def meanwhile(*args):
        with pytest.raises(TargetError) as error:
            run(made, tmp_path / "other")
        caught.append(error.value)
        return run_cell(*args)

    monkeypatch.setattr(pipeline, "run_cell", meanwhile)
    ran = run(made, tmp_path / "first")
    assert ran.campaign_id in caught[0].value
    assert not (tmp_path / "other").exists()


def harness(*words: str):
    """The command line in this process."""
    return CliRunner().invoke(cli, words, standalone_mode=False)


def test_the_command_line_from_dry_run_to_last_line(golden, tmp_path, monkeypatch):
    """--dry-run --json lists the cells and writes nothing; --only with a notify command runs one cell, prints the summary as
    the last line, and tells the command; --resume after that has nothing to do (exit 2)."""
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "e.yaml"
    made = small(golden.url, notify={"command": ["sh", "-c", f"cat > {tmp_path}/told"]})
    config.write_text(json.dumps(made.model_dump(mode="json")))
    foreseen = harness("run", str(config), "--dry-run", "--json", "--repetitions", "1")
    assert len(json.loads(foreseen.stdout)["cells"]) == 2
    assert "about" in harness("run", str(config), "--dry-run").stdout
    assert not (tmp_path / "results").exists()
    done = harness("run", str(config), "--only", "*_c2_rep1")
    assert done.return_value in (0, 7), done.exception
    assert list(states(tmp_path / "results" / "t")) == ["own_fixed-16x4_c2_rep1"]
    assert done.stdout.strip().splitlines()[-1].startswith("campaign 20")
    assert json.loads((tmp_path / "told").read_text())["cells"] == 1
    again = harness("run", "--resume", str(config))
    assert isinstance(again.exception, ConfigError)
    assert "no unfinished campaign" in str(again.exception)
