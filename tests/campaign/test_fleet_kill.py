"""kill -9 of the process that runs a campaign over boxes: what was stored stands, boxes end by themselves, the rest is resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from campaign_values import Quiet, small, states
from fleet_values import LocalBoxes

from harness import pipeline
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop
from harness.store.reader import find_runs, read_run
from tests.waiting import until

pytestmark = pytest.mark.timing
REQUESTS = 120


def test_a_campaign_whose_process_dies_leaves_no_box_behind_and_is_resumed(golden, tmp_path, monkeypatch):
    """Killed while the second of two cells is measured: the first can be read, every process of the box ends and takes its folder along;
    resumed, there are two complete runs, the stored one untouched."""
    loads, out = [{"concurrency": [1, 2], "requests": REQUESTS}], tmp_path / "out"
    made, here = small(golden.url, repetitions=1, loads=loads, fleet={"wait_s": 0}), Path(__file__).parent
    measured: list[str] = []

    def is_second(served) -> bool:
        run_id, _, number = served.request_id.rpartition("-")
        if number.startswith("m") and run_id not in measured:
            measured.append(run_id)
        return run_id in measured[1:]

    monkeypatch.setattr(golden, "hold", is_second)  # it does not end before it is killed
    words = [sys.executable, str(here / "fleet_child.py"), made.model_dump_json(), str(out), str(tmp_path / "boxes")]
    path = os.pathsep.join([str(here.parents[1]), str(here)])
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        measuring = 0
        for line in process.stdout:
            measuring += "measuring" in line
            if measuring == 2:
                break
        parts = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
    golden.hold = None
    assert measuring == 2
    (stored,) = find_runs(out)
    kept = (stored / "manifest.json").read_bytes()
    assert len(read_run(stored).requests) == REQUESTS
    assert parts
    until(lambda: not any(part.is_running() and part.status() != psutil.STATUS_ZOMBIE for part in parts), "the box to end")  # fmt: skip
    assert not list(tmp_path.glob("boxes/*/harness-box-*"))
    again = LocalBoxes(tmp_path / "again", {"x": {}})
    ran = pipeline.measure_fleet(made, out, Quiet(), Stop(), Intent(resume="newest"), None, again)
    assert list(states(out).values()) == ["complete"] * 2
    assert len(ran.run_dirs) == len(set(ran.run_dirs)) == 2
    assert (stored / "manifest.json").read_bytes() == kept
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]
