"""Against a real Ray cluster: nodes with addresses and clocks of their own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import pytest
from scipy import stats

from harness.store.reader import read_run
from tests.cluster import nodes
from tests.waiting import until

pytestmark = pytest.mark.timing
LONG = bool(os.environ.get("HARNESS_LONG"))
KEY = "golden-key-of-nobody-4711"

_CLOCKS = """
import json, sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=0)
def clock():
    return time.monotonic_ns()
seen = {}
for node in sys.argv[2:]:
    before = time.monotonic_ns()
    there = ray.get(clock.options(resources={f"node{node}": 0.1}).remote())
    seen[node] = [before, there, time.monotonic_ns()]
print(json.dumps(seen))
"""


def test_every_node_has_a_clock_of_its_own(cluster):
    """What a node says its clock is lies as far ahead of the head's as its time namespace was made with."""
    others = [str(node) for node in cluster.numbers if node > 1]
    words = [sys.executable, "-c", _CLOCKS, cluster.address, *others]
    with cluster.popen(1, words, stdout=subprocess.PIPE) as asking:
        said, _ = asking.communicate()
    clocks = json.loads(said.splitlines()[-1])
    assert sorted(clocks) == others
    for node, (before, there, after) in clocks.items():
        assert before <= there - cluster.ahead_ns(int(node)) <= after


def _offer(cluster, on_done=lambda _: None, **asked):
    """`tests.cluster.inside` in the head's namespace; `on_done` hears how many rows there are."""
    usual = {"on": cluster.address, "host": cluster.ip(1), "nodes": 3, "workers": 1, "ttft_s": 0.02, "itl_s": 0.02}
    words = [sys.executable, "-m", "tests.cluster.inside", json.dumps(usual | asked)]
    last = ""
    with cluster.popen(1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        for line in process.stdout:
            last = line
            if line.startswith("done "):
                on_done(int(line.split()[1]))
        said = process.stderr.read()
    assert last.startswith("{"), said
    return json.loads(last), said


def test_three_nodes_of_a_cluster_send_one_plan_and_their_stamps_are_the_servers(cluster):
    """20,000 tokens/s: every request once, and what is measured within a request as exact as on one machine; each node's clock is found
    within its bound though their origins lie days apart."""
    came, _ = _offer(cluster, streams=400, tokens=60)
    assert (came["rows"], came["seqs"], came["served"], came["whole"]) == (400, 400, 400, 400)
    assert came["stop_reason"] == "done"
    assert sorted(came["outcomes"]) == ["0 ok", "1 ok", "2 ok"]
    for node, (offset_ns, error_ns) in zip((2, 3, 4), came["clock_offsets"], strict=True):
        assert abs(offset_ns - cluster.ahead_ns(node)) <= error_ns
    assert [node["node"] for node in came["nodes"]] == [cluster.ip(node) for node in (2, 3, 4)]


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: agents without a cluster show the same")
def test_the_superposed_arrivals_are_the_plans(cluster):
    """As the server saw them: exponential gaps."""
    came, _ = _offer(cluster, requests=250, rate_rps=120, tokens=4)
    assert (came["seqs"], came["served"]) == (250, 250)
    arrived = came["arrived_s"]
    gaps = [b - a for a, b in zip(arrived, arrived[1:], strict=False)]
    assert stats.kstest(gaps, "expon", args=(0, 1 / 120)).pvalue > 0.001


def _is_left(cluster):
    """Load generators that still run in the nodes."""
    return [words for node in cluster.numbers for words in cluster.processes(node).values() if "drive.worker" in words or "ray::Agent" in words]  # fmt: skip


def _break_at(cluster, how, node, at):
    done = []

    def act(count):
        if count < at or done:
            return
        done.append(count)
        match how:
            case "worker":
                cluster.kill(node, of="drive.worker")
            case "raylet":
                cluster.kill(node, of="raylet/raylet ")
            case "link":
                cluster.cut(node)
            case "head":
                cluster.kill(1, of="gcs_server")
                cluster.kill(1, of="raylet/raylet ")

    return act


def _mended(cluster, how, node):
    if how == "link":
        cluster.mend(node)
    if how != "worker":
        cluster.restart(node)


MOMENTS = [(how, seed) for seed in range(10) for how in ("raylet", "link", "worker")][: None if LONG else 2]


@pytest.mark.parametrize(("how", "seed"), MOMENTS)
def test_whatever_breaks_on_a_node_costs_its_own_requests_alone(cluster, how, seed):
    """At a random moment: every request a row, none twice, the others' all ok, the run says so, nothing is left running."""
    drawn = random.Random(f"{how} {seed}")
    node, at = drawn.choice([2, 3, 4]), drawn.randrange(20, 200)
    try:
        came, _ = _offer(cluster, _break_at(cluster, how, node, at), requests=400, rate_rps=80, tokens=5)
    finally:
        _mended(cluster, how, node)
    assert (came["rows"], came["seqs"]) == (400, 400)
    assert came["stop_reason"] == ("worker_died" if how == "worker" else "node_lost")
    spared = {outcome for outcome in came["outcomes"] if not outcome.startswith(f"{node - 2} ")}
    assert spared == {f"{k} ok" for k in range(3) if k != node - 2}
    assert came["served"] <= 400
    until(lambda: not _is_left(cluster), "the load generators to end")


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: a cluster of its own")
def test_a_run_goes_on_when_the_head_dies_and_its_agents_end_themselves(cluster):
    """Calls go from process to process: every request is sent and stored; nobody ends the agents then but they."""
    with nodes.Cluster(3) as own:
        came, _ = _offer(own, _break_at(own, "head", 1, 60), nodes=2, requests=400, rate_rps=80, tokens=5)
        assert (came["seqs"], came["whole"], came["stop_reason"]) == (400, 400, "done")
        until(lambda: not _is_left(own), "the agents to end")


def test_the_command_sends_from_nodes_and_the_key_is_nowhere(cluster, tmp_path):
    """`harness run --on`: rows, nodes and clocks in the run; the API's key in no file of the cluster, of the run, or of the nodes' logs."""
    serve = [sys.executable, "-m", "tests.fakes.golden_server", "--host", cluster.ip(1), "--api-key", KEY]
    with cluster.popen(1, serve, stdout=subprocess.PIPE) as server:
        url = server.stdout.readline().strip()
        url = url if url.endswith("/v1") else f"{url}/v1"
        words = [sys.executable, "-m", "harness", "run", "--url", url, "--kind", "adopt", "--model", "golden", "--api-key-env", "GOLDEN_API_KEY"]  # fmt: skip
        words += ["--workload", "fixed:16x8", "--rate", "50", "--requests", "150", "--warmup", "2", "--allow-invalid"]
        words += ["--on", cluster.address, "--nodes", "2", "--out", str(tmp_path / "run")]
        with cluster.popen(
            1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={"GOLDEN_API_KEY": KEY}
        ) as run:
            out, err = run.communicate()
        server.terminate()
    assert run.returncode == 0, err
    data = read_run(tmp_path / "run")
    measured = data.requests[data.requests["phase"] == "measure"]
    assert sorted(measured["seq"]) == list(range(150))
    assert set(measured["outcome"]) == {"ok"}
    assert set(measured["worker"]) == {0, 1}
    report = data.manifest.drive["measure"]
    assert [node["requests"] for node in report["nodes"]] == [75, 75]
    assert all(error > 0 for _, error in report["clock_offsets"])
    assert (measured["sent_ns"] - measured["scheduled_ns"]).min() > -max(error for _, error in report["clock_offsets"])
    assert KEY not in out + err
    for folder in (tmp_path, cluster.folder):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_more_nodes_than_can_send_are_refused_before_the_first_request(cluster, tmp_path):
    serve = [sys.executable, "-m", "tests.fakes.golden_server", "--host", cluster.ip(1)]
    with cluster.popen(1, serve, stdout=subprocess.PIPE) as server:
        url = server.stdout.readline().strip()
        url = url if url.endswith("/v1") else f"{url}/v1"
        words = [sys.executable, "-m", "harness", "run", "--url", url, "--model", "golden", "--workload", "fixed:8x2"]
        words += [
            "--rate",
            "5",
            "--requests",
            "5",
            "--on",
            cluster.address,
            "--nodes",
            "9",
            "--out",
            str(tmp_path / "run"),
        ]
        with cluster.popen(1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
            _, err = run.communicate()
        server.terminate()
    assert run.returncode == 2, err
    assert "9 nodes are to send" in err
    assert not (tmp_path / "run" / "requests.parquet").exists()
