"""A campaign over boxes of a real Ray cluster: found, called, and their runs fetched."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import pytest
import yaml

from harness.judge.boxes import box_of
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs, read_run
from tests.cluster import nodes
from tests.waiting import until

pytestmark = pytest.mark.timing
LONG = bool(os.environ.get("HARNESS_LONG"))
_CELLS = 16  # boxes go on with theirs until Ray gives the head up
_GOLDEN = """
import threading
from tests.fakes.golden_server import GoldenServer
with GoldenServer(ttft_s=0.02, itl_s=0.01, port=8123) as server:
    print("up", flush=True)
    threading.Event().wait()
"""


def test_boxes_run_their_repetitions_and_their_runs_come_back(cluster, tmp_path):
    """Two boxes of four, two repetitions of a server that is on neither: the dry run names the box of each cell; each box's part ran
    there, and its failed run came back with the box in it, exit code 3."""
    target = {"name": "absent", "kind": "adopt", "url": "http://127.0.0.1:9/v1", "model": "m"}
    config = {
        "experiment": "fleet", "targets": [target], "workloads": ["fixed:8x2"], "loads": [{"concurrency": [1], "requests": 2}],
        "repetitions": 2, "observe": {"gpu": "off"}, "min_free_gib": 0, "fleet": {"on": cluster.address, "boxes": 2},
    }  # fmt: skip
    (path := tmp_path / "fleet.yaml").write_text(yaml.safe_dump(config))
    own = {"HARNESS_LOCK_DIR": str(tmp_path / "locks")}

    def harness(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "harness", "run", str(path), "--out", str(tmp_path / "out"), *words]
        with cluster.popen(1, command, stdout=subprocess.PIPE, env=own) as process:
            said, _ = process.communicate()
        return process.returncode, said

    code, said = harness("--dry-run", "--json")
    assert code == 0
    foreseen = {cell["box"] for cell in json.loads(said)["cells"]}
    assert len(foreseen) == 2
    assert foreseen <= {cluster.ip(node) for node in cluster.numbers}
    code, _ = harness("--wait-lock")  # the boxes share this machine, and with it its locks
    assert code == 3
    manifests = [read_manifest(run_dir) for run_dir in find_runs(tmp_path / "out")]
    assert [manifest.state for manifest in manifests] == ["failed"] * 2
    assert {box_of(manifest.environment) for manifest in manifests} == foreseen
    assert all("127.0.0.1:9" in manifest.error for manifest in manifests)
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


@contextlib.contextmanager
def _boxes(tmp_path, name):
    """A cluster of three, a golden server and locks of its own in each node."""
    own = {}
    for node in (1, 2, 3):
        (folder := tmp_path / f"{name}{node}").mkdir()
        own[node] = {"HARNESS_LOCK_DIR": str(folder / "locks"), "TMPDIR": str(folder)}
    with nodes.Cluster(3, environment=own) as cluster:
        for node in cluster.numbers:
            server = cluster.popen(node, [sys.executable, "-c", _GOLDEN], stdout=subprocess.PIPE)
            assert server.stdout.readline().strip() == "up"
        yield cluster


def _parts(cluster):
    """What a box's part runs, on any node."""
    return [words for node in cluster.numbers for words in cluster.processes(node).values() if "harness box" in words]


@pytest.mark.skipif(
    not LONG, reason="HARNESS_LONG=1: two clusters of its own; without one test_fleet_kill.py shows the same"
)
def test_a_campaign_whose_head_dies_goes_on_with_another_cluster(tmp_path):
    """The head and the campaign's own raylet are killed while a cell is measured: the command ends with an error, no box's part stays, what was
    stored can be read; with --resume on another cluster every cell is there once, complete."""
    target = {"name": "golden", "kind": "adopt", "url": "http://127.0.0.1:8123/v1", "model": "golden"}
    config = {
        "experiment": "fleet", "targets": [target], "workloads": ["fixed:16x8"], "loads": [{"concurrency": [1], "requests": 24}],
        "repetitions": _CELLS, "observe": {"gpu": "off"}, "min_free_gib": 0,
    }  # fmt: skip
    path, out = tmp_path / "fleet.yaml", tmp_path / "out"

    def command(cluster, *more):
        path.write_text(yaml.safe_dump(config | {"fleet": {"on": cluster.address, "wait_s": 120}}))
        words = [sys.executable, "-m", "harness", "run", str(path), "--out", str(out), *more]
        return cluster.popen(1, words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)

    with _boxes(tmp_path, "first") as cluster:
        with command(cluster) as campaign:
            stored = False
            for line in campaign.stderr:
                stored = stored or "cells done" in line
                if stored and "measuring" in line:
                    cluster.kill(1, of="gcs_server")
                    cluster.kill(1, of="raylet/raylet ")
                    break
            campaign.stderr.read()
        assert campaign.returncode != 0
        until(lambda: not _parts(cluster), "the boxes' parts to end")
    before = {run_dir.name: read_run(run_dir).manifest.created_utc for run_dir in find_runs(out)}
    assert 1 <= len(before) < _CELLS
    with _boxes(tmp_path, "second") as cluster, command(cluster, "--resume") as campaign:
        said = campaign.stderr.read()
    assert campaign.returncode in (0, 7), said
    manifests = {run_dir.name: read_run(run_dir).manifest for run_dir in find_runs(out)}
    assert [manifest.state for manifest in manifests.values()] == ["complete"] * _CELLS
    assert len({manifest.cell.name for manifest in manifests.values()}) == _CELLS
    assert {name: manifests[name].created_utc for name in before} == before
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
