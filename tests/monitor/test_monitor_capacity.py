"""Capacity out of the history: of this model on this machine under work like this, with run ids; else shown and not used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.clock import utc_of
from harness.judge.runs import index_runs
from harness.monitor.capacity import MeasuredModel, capacities, measured_apart, measured_models
from harness.monitor.paid import paid_servers
from harness.monitor.view import view
from harness.planner.measured import measured as of_directory
from tests.judge.test_compare_command import store
from tests.monitor.known_fleet import HARDWARE, HOUR_NS, START_NS, measured, spec, usage

ROOT = Path(__file__).resolve().parents[2]
AT = utc_of(START_NS)
SERVED = [usage(requests=100, prompt=1e4, output=2e3)]


def test_the_run_on_the_same_gpu_is_used():
    (one,) = capacities(spec(), SERVED, [measured()], AT)
    assert (one.used, one.rps, one.run_ids, one.pool, one.why) == (True, 10.0, ("run1",), "chat", "")
    assert (one.low_rps, one.high_rps, one.output_tps) == (9.0, 11.0, 200.0)


@pytest.mark.parametrize(
    ("boards", "hardware", "says"),
    [
        (("NVIDIA A100-SXM4-80GB",), HARDWARE, "H100"),
        ((), HARDWARE, "the run saw no GPU"),
        (("NVIDIA H100 80GB HBM3",) * 2, HARDWARE, "2"),
        (("NVIDIA H100 80GB HBM3",), {k: v for k, v in HARDWARE.items() if not k.startswith("gpu")}, "names no GPU"),
        (("NVIDIA H100 80GB HBM3",), None, "not declared"),
    ],
)
def test_another_machine_is_shown_and_not_used(boards, hardware, says):
    made = spec({"hardware": hardware})
    known = [measured(boards=boards)]
    (one,) = capacities(made, SERVED, known, AT)
    assert not one.used
    assert says in one.why
    seen = view(
        made,
        SERVED,
        paid_servers(made, SERVED, START_NS, START_NS + HOUR_NS),
        from_ns=START_NS,
        to_ns=START_NS + HOUR_NS,
        measured=known,
    )
    (every,) = (g for g in seen.groups if g.kind == "all")
    assert every.value("utilisation") is None
    assert every.value("idle_usd") is None
    assert any("run1" in line and "not used" in line for line in seen.warnings)


def test_a_machine_without_a_gpu_has_its_own():
    made = spec({"hardware": {k: v for k, v in HARDWARE.items() if not k.startswith("gpu")}})
    (one,) = capacities(made, SERVED, [measured(boards=())], AT)
    assert one.used


def test_requests_of_other_lengths_are_other_work():
    (one,) = capacities(spec(), SERVED, [measured(lengths=(1000, 20))], AT)
    assert not one.used
    assert "1000 + 20 tokens a request, here 100 + 20" in one.why


def test_the_nearest_in_length_is_used():
    far, near = measured(lengths=(140, 20), name="far").found, measured(lengths=(101, 20), name="near").found
    found = capacities(spec(), SERVED, [MeasuredModel("m", (*far, *near))], AT)
    assert {one.run_ids[0]: one.used for one in found} == {"far": False, "near": True}


def test_none_says_so():
    made = spec()
    seen = view(
        made,
        SERVED,
        paid_servers(made, SERVED, START_NS, START_NS + HOUR_NS),
        from_ns=START_NS,
        to_ns=START_NS + HOUR_NS,
    )
    (every,) = (g for g in seen.groups if g.kind == "all")
    line = next(line for line in every.lines if line.name == "utilisation")
    assert line.value is None
    assert "no capacity of m" in line.formula
    assert any("no run or search of it is in the results" in text for text in seen.warnings)


def test_the_history_names_the_runs(tmp_path):
    """A campaign that was indexed: its capacity is read from its raw files, through the planner, of the newest campaign alone."""
    store(tmp_path / "x", "20261101T000000Z", [0.010, 0.011])
    store(tmp_path / "x", "20261102T000000Z", [0.010, 0.011])
    assert index_runs(tmp_path).written == 4
    (model,) = measured_models(tmp_path, ["m"])
    (found,) = model.found
    assert sorted(found.run_ids) == sorted(p.name for p in (tmp_path / "x").iterdir() if p.name.startswith("20261102"))
    assert found.rps == of_directory(tmp_path / "x", "20261102T000000Z").rps
    assert measured_models(tmp_path, ["other"])[0].found == ()
    assert "no results directory" in measured_models(tmp_path / "gone", ["m"])[0].problems[0]
    assert measured_models(tmp_path, []) == ()


def test_a_process_of_its_own_finds_the_same_and_a_damaged_history_ends_no_watch(tmp_path):
    """A monitor asks it once an hour; what it cannot read is a problem of the model, not the end of the watching."""
    store(tmp_path / "x", "20261101T000000Z", [0.010, 0.011])
    assert index_runs(tmp_path).written == 2
    assert measured_apart(tmp_path, ["m"]) == measured_models(tmp_path, ["m"])
    for path in (tmp_path / "history").rglob("*.parquet"):
        path.write_bytes(b"PAR1 no more")
    (model,) = measured_apart(tmp_path, ["m"])
    assert model.found == ()
    assert "history cannot be read" in model.problems[0]


def test_a_monitor_has_none_of_what_reads_runs_in_its_memory():
    """Frames, DuckDB and SciPy are a hundred MiB."""
    code = (
        "import sys; from harness.store.columns import without_pandas; without_pandas(); import harness.cli.monitor, harness.monitor.live, "
        "harness.monitor.exporter, harness.report.monitor.terminal; from harness.store.monitor_rows import empty; empty('readings'); "
        "print(sorted({'pandas', 'duckdb', 'scipy', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"
