"""A campaign over boxes of a real Ray cluster: found, called, and their runs fetched."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import yaml

from harness.judge.boxes import box_of
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs

pytestmark = pytest.mark.timing


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
