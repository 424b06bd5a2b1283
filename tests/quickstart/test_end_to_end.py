"""`make bench URL=` on a machine with boards, from the command to the report: no example price, no dollars, and both once declared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.documents import dump_yaml, load_yaml
from harness.base.files import data_dir
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 240  # of one command: against hanging only


@pytest.fixture(scope="module")
def harness(fake_nvml_dir, tmp_path_factory):
    """Run the command on a machine with two H100s; returns its JSON and what it said."""
    fake = {"FAKE_NVML_GPUS": "2", "FAKE_NVML_NAME": "NVIDIA H100 80GB HBM3", "LD_LIBRARY_PATH": str(fake_nvml_dir)}
    env = os.environ | fake | {"HARNESS_LOCK_DIR": str(tmp_path_factory.mktemp("locks"))}

    def run(*words):
        done = subprocess.run(
            [sys.executable, "-m", "harness", *map(str, words), "--json"],
            env=env, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        assert done.returncode in (0, 7), done.stderr
        return json.loads(done.stdout), done.stderr

    return run


@pytest.fixture(scope="module")
def measured(harness, tmp_path_factory):
    """The quickstart's own file with one short load, against a server at a URL."""
    folder = tmp_path_factory.mktemp("bench")
    data = load_yaml(data_dir("configs") / "experiments" / "quickstart.yaml")
    data |= {
        "loads": [{"concurrency": [4], "requests": 80}],
        "workloads": ["fixed:16x8"],
        "cool_down": {"timeout_s": 0},
    }
    (folder / "quickstart.yaml").write_text(dump_yaml(data))
    with GoldenServer(ttft_s=0.03, itl_s=0.01) as server:
        words = ("--url", server.url, "--model", "golden", "--out", folder / "out")
        document, said = harness("run", folder / "quickstart.yaml", *words)
    return folder / "out", document, said


def test_a_server_by_url_is_measured_and_not_priced(measured):
    """Throughput is there, the example's $0.10/h is not, and the reason is said before the run and in its cost."""
    out, document, said = measured
    assert "note: target smollm2: the example price is left out: it is not the price of a server at a URL" in said
    [cost] = document["costs"]
    assert cost["hardware"] is None
    assert cost["no_price"].startswith("the machine behind the URL is not seen from here")
    assert {line["usd"] for line in cost["own"]} == {None}
    assert document["rows"][0]["output_tps"]["median"] > 0
    assert not re.search(
        r"\$0\.10\b|\b0\.10 (\$|USD)", (out / "derived" / "report.md").read_text()
    )  # 0.106 ms is no price
    assert "--instance PROVIDER/NAME" in (out / "derived" / "report.html").read_text()


def test_every_board_of_the_machine_is_recorded(measured):
    """Both, whoever uses them: what a price by the machine's boards is looked up with."""
    out, _, _ = measured
    [run] = find_runs(out)
    assert read_manifest(run).environment["machine_boards"] == ["NVIDIA H100 80GB HBM3"] * 2


@pytest.mark.parametrize("command", ["cost", "report"])
@pytest.mark.parametrize(
    ("words", "usd"),
    [(["--instance", "lambda/gpu_2x_h100_sxm"], "8.38"), (["--usd-per-hour", "3"], "3.0")],
    ids=["instance", "usd"],
)
def test_a_price_can_be_declared_afterwards(measured, harness, command, words, usd):
    """By the price table's name or in dollars, without measuring again."""
    out, _, _ = measured
    document, _ = harness(command, out, *words)
    [cost] = document["costs"]
    assert (cost["hardware"]["usd_per_hour"], cost["hardware"]["basis"], cost["no_price"]) == (usd, "declared", None)
    total = next(line for line in cost["own"] if line["name"] == "self_usd_per_million_total_tokens")
    assert float(total["usd"]) > 0


@pytest.mark.parametrize("command", ["cost", "report", "run"])
def test_two_prices_of_one_machine_are_refused(measured, harness, command):
    """Three lines, and nothing is measured."""
    out, _, _ = measured
    words = ["--instance", "aws/p5.4xlarge", "--usd-per-hour", "3"]
    target = ["quickstart", "--dry-run"] if command == "run" else [out]
    with pytest.raises(AssertionError, match="two prices of one machine"):
        harness(command, *target, *words)
