"""A night over a fleet: 8 cells over 3 boxes, one of them killed in a cell, results in a bucket, read from there.

`python -m tests.bench.bench_fleet [--golden] [--seconds 20] [--keep DIR]`. Each box is a node of a real Ray cluster in a network and a time
namespace of its own (tests/cluster/nodes.py, root), and starts a real vLLM server of the tiny model for every repetition it gets. All are on this
machine, where a server that is not alone is UNKNOWN: they share one lock and take turns (`--wait-lock`). `--golden` measures the golden server
instead, which is started in every box before; those need no turns. One box is killed, with all that runs in it, while a cell of its second visit, or
its first, is measured. moto's S3 server stands on the head. Prints every cell with its box, verdict and reasons, and what it began at; whether
each is there once; what is left running on the killed box; and what another machine makes of the bucket: report, history, compare.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.base import clock
from harness.judge.boxes import box_of
from harness.judge.runs import analyse
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs
from tests.cluster.nodes import ROOT, Cluster, alone, why_not
from tests.elsewhere.s3_server import KEYS
from tests.waiting import until

_BOXES, _KILLED = 3, 3
_SHOWN = 14  # lines of a command
_PORT, _URL = 9123, "s3://fleet-bench/nightly"
_GOLDEN = """
import threading
from tests.fakes.golden_server import GoldenServer
with GoldenServer(ttft_s=0.02, itl_s=0.01, port=8123, cached_tokens=0) as server:
    print("up", flush=True)
    threading.Event().wait()
"""
_BUCKET = """
import time
import fsspec
fs = fsspec.filesystem("s3", use_listings_cache=False)
while True:
    try:
        fs.mkdir("fleet-bench")
        break
    except Exception as error:
        last = error
        time.sleep(0.2)
print("up", flush=True)
"""


def experiment(cluster: Cluster, *, golden: bool, seconds: float) -> dict[str, Any]:
    """8 cells: one server, two loads, four repetitions; so long that each has a steady part."""
    target: dict[str, Any] = {"name": "tiny", "kind": "vllm", "model": "embedded:tiny"}
    target["flags"] = {"enforce-eager": True, "max-model-len": 1024, "max-num-seqs": 8}
    target["env"] = {
        "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    if golden:
        target = {"name": "golden", "kind": "adopt", "url": "http://127.0.0.1:8123/v1", "model": "golden"}
    return {
        "experiment": "fleet", "targets": [{**target, "resources": {"CPU": 2}}], "workloads": ["fixed:64x16"],
        "loads": [{"concurrency": [1, 2], "duration_s": seconds}], "repetitions": 4, "observe": {"gpu": "off"},
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
    words.add_argument("--seconds", type=float, default=20.0, help="a cell's load")
    words.add_argument("--keep", type=Path)
    given = words.parse_args()
    if (reason := why_not()) is not None:
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        place = given.keep or Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        measure(place, golden=given.golden, seconds=given.seconds)


def measure(place: Path, *, golden: bool, seconds: float) -> None:
    own = {}
    for node in range(1, _BOXES + 1):
        (tmp := place / f"box{node}").mkdir(exist_ok=True)
        own[node] = {"HARNESS_LOCK_DIR": str((tmp if golden else place) / "locks"), "TMPDIR": str(tmp)}
    with alone(), Cluster(_BOXES, environment=own) as cluster:
        if golden:
            for node in cluster.numbers:
                _up(cluster, node, _GOLDEN, {})
        store = _bucket(cluster, place / "s3.log")
        env = store | {"XDG_CACHE_HOME": str(place / "cache")}
        (config := place / "fleet.yaml").write_text(yaml.safe_dump(experiment(cluster, golden=golden, seconds=seconds)))
        watched = Watched(cluster)
        command = [sys.executable, "-m", "harness", "run", str(config), "--results", _URL]
        command += [] if golden else ["--wait-lock"]
        begun_ns = clock.monotonic_ns()
        with cluster.popen(
            1, command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=ROOT, env=env
        ) as campaign:
            assert campaign.stderr is not None
            for text in campaign.stderr:
                watched.line(text)
        took_s = (clock.monotonic_ns() - begun_ns) / clock.NS
        left = cluster.processes(_KILLED)
        (campaign_file,) = (place / "cache").rglob("fleet/campaigns/*.json")
        show(campaign_file.parent.parent, watched, campaign.returncode, took_s, left)
        elsewhere(cluster, campaign_file.stem, store | {"XDG_CACHE_HOME": str(place / "other")})


def _up(cluster: Cluster, node: int, program: str, env: Mapping[str, str]) -> None:
    """A program in a node that says when it is up."""
    running = cluster.popen(node, [sys.executable, "-c", program], stdout=subprocess.PIPE, env=env)
    assert running.stdout is not None
    until(lambda: running.stdout.readline().strip() == "up", "what was started in a node")


def _bucket(cluster: Cluster, log: Path) -> dict[str, str]:
    """A bucket on an S3 server of the head; what a client needs."""
    env = {**KEYS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{_PORT}", "AWS_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}  # fmt: skip
    with log.open("w") as said:
        cluster.popen(1, [sys.executable, "-m", "moto.server", "-p", str(_PORT)], stdout=said, stderr=said, env=env)
    _up(cluster, 1, _BUCKET, env)
    return env


def elsewhere(cluster: Cluster, campaign_id: str, env: Mapping[str, str]) -> None:
    """What a machine that has fetched nothing makes of the bucket."""
    for words in (
        ["report", f"{_URL}/fleet"], ["history", _URL], ["history", "sql", "--results", _URL, "SELECT verdict, count(*) AS runs, round(avg(output_tps), 1) AS output_tps FROM runs GROUP BY verdict"],
        ["compare", f"{_URL}/fleet@{campaign_id}", f"{_URL}/fleet"],
    ):  # fmt: skip
        begun_ns = clock.monotonic_ns()
        with cluster.popen(1, [sys.executable, "-m", "harness", *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=ROOT, env=dict(env)) as command:  # fmt: skip
            said, _ = command.communicate()
        took_s = (clock.monotonic_ns() - begun_ns) / clock.NS
        shown = "\n".join(said.splitlines()[:_SHOWN])
        print(f"-- harness {' '.join(words)}: exit code {command.returncode}, {took_s:.1f} s\n{shown}", flush=True)


def show(out: Path, watched: Watched, code: int, took_s: float, left: dict[int, str]) -> None:
    summaries = analyse(out).summaries
    verdicts = {s.run_id: s.verdict.state for s in summaries}
    reasons = {s.run_id: ", ".join(r.code for r in s.verdict.reasons if r.severity != "warning") for s in summaries}
    manifests = [read_manifest(path) for path in sorted(find_runs(out))]
    for manifest in sorted(manifests, key=lambda m: m.created_utc):
        print(f"{manifest.created_utc}  {box_of(manifest.environment) or '-':12}  {manifest.state:9}  "
              f"{verdicts.get(manifest.run_id, '-'):8}  {manifest.cell.name}  {reasons.get(manifest.run_id, '')}")  # fmt: skip
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
