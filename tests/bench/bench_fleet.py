"""A campaign of 8 cells over 3 boxes, one of them killed in a cell: `python -m tests.bench.bench_fleet [--golden] [--keep DIR]`.

Each box is a node of a real Ray cluster in a network and a time namespace of its own (tests/cluster/nodes.py, root), and starts a real
vLLM server of the tiny model for every repetition it gets; `--golden` measures the golden server instead, which is started in every box
before. One box is killed, with all that runs in it, while a cell of its second visit, or its first, is measured. Prints every cell with
its box, verdict and what it began at; whether each is there once; what is left running on the killed box.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from harness.base import clock
from harness.judge.boxes import box_of
from harness.judge.runs import analyse
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs
from tests.cluster.nodes import ROOT, Cluster, why_not
from tests.waiting import until

_BOXES, _KILLED = 3, 3
_GOLDEN = """
import threading
from tests.fakes.golden_server import GoldenServer
with GoldenServer(ttft_s=0.02, itl_s=0.01, port=8123) as server:
    print("up", flush=True)
    threading.Event().wait()
"""


def experiment(cluster: Cluster, *, golden: bool) -> dict[str, Any]:
    """8 cells: one server, two loads, four repetitions."""
    target: dict[str, Any] = {"name": "tiny", "kind": "vllm", "model": "embedded:tiny"}
    target["flags"] = {"enforce-eager": True, "max-model-len": 1024, "max-num-seqs": 8}
    target["env"] = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if golden:
        target = {"name": "golden", "kind": "adopt", "url": "http://127.0.0.1:8123/v1", "model": "golden"}
    return {
        "experiment": "fleet", "targets": [{**target, "resources": {"CPU": 2}}], "workloads": ["fixed:64x16"],
        "loads": [{"concurrency": [1, 2], "requests": 24}], "repetitions": 4, "observe": {"gpu": "off"},
        "min_free_gib": 0, "fleet": {"on": cluster.address, "wait_s": 120},
    }  # fmt: skip


class Watched:
    """The campaign's lines, shown and kept; the box is killed when it measures."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self.killed, self.lines = cluster, "", list[str]()

    def line(self, text: str) -> None:
        print(text.rstrip(), flush=True)
        self.lines.append(text)
        box = self._cluster.ip(_KILLED)
        if not self.killed and text.startswith(f"{box}: [cell") and "measuring" in text:
            self.killed = text
            print(f"-- killed: {self._cluster.kill(_KILLED)} processes of {box}", flush=True)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--golden", action="store_true")
    words.add_argument("--keep", type=Path)
    given = words.parse_args()
    if (reason := why_not()) is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        measure(place, golden=given.golden)


def measure(place: Path, *, golden: bool) -> None:
    own = {}
    for node in range(1, _BOXES + 1):
        (tmp := place / f"box{node}").mkdir(exist_ok=True)
        own[node] = {"HARNESS_LOCK_DIR": str(tmp / "locks"), "TMPDIR": str(tmp)}
    with Cluster(_BOXES, environment=own) as cluster:
        if golden:
            for node in cluster.numbers:
                server = cluster.popen(node, [sys.executable, "-c", _GOLDEN], stdout=subprocess.PIPE)
                assert server.stdout is not None
                until(lambda server=server: server.stdout.readline().strip() == "up", "the golden server")
        (config := place / "fleet.yaml").write_text(yaml.safe_dump(experiment(cluster, golden=golden)))
        out, watched = place / "out", Watched(cluster)
        command = [sys.executable, "-m", "harness", "run", str(config), "--out", str(out)]
        begun_ns = clock.monotonic_ns()
        with cluster.popen(1, command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT) as campaign:
            assert campaign.stderr is not None
            for text in campaign.stderr:
                watched.line(text)
        took_s = (clock.monotonic_ns() - begun_ns) / clock.NS
        left = cluster.processes(_KILLED)
    show(out, watched, campaign.returncode, took_s, left)


def show(out: Path, watched: Watched, code: int, took_s: float, left: dict[int, str]) -> None:
    verdicts = {s.run_id: s.verdict.state for s in analyse(out).summaries}
    manifests = [read_manifest(path) for path in sorted(find_runs(out))]
    for manifest in sorted(manifests, key=lambda m: m.created_utc):
        print(f"{manifest.created_utc}  {box_of(manifest.environment) or '-':12}  {manifest.state:9}  "
              f"{verdicts.get(manifest.run_id, '-'):8}  {manifest.cell.name}")  # fmt: skip
    names = Counter(manifest.cell.name for manifest in manifests)
    print(json.dumps({
        "cells": len(names), "twice": [name for name, count in names.items() if count > 1],
        "states": Counter(str(m.state) for m in manifests), "verdicts": Counter(verdicts.values()),
        "boxes": Counter(str(box_of(m.environment)) for m in manifests), "killed_at": watched.killed.strip(),
        "exit_code": code, "took_s": round(took_s, 1), "left_on_the_killed_box": len(left),
        "left_on_the_way": [path.name for path in out.iterdir() if path.name.startswith(".")],
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
