"""Against a real Ray cluster: nodes with addresses and clocks of their own."""

from __future__ import annotations

import glob
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow.parquet import read_table
from scipy import stats

from harness import __version__
from harness.store.parts import list_parts
from harness.store.reader import read_run
from tests.cluster import nodes
from tests.commands import harness as command
from tests.waiting import until

pytestmark = pytest.mark.timing
LONG = bool(os.environ.get("HARNESS_LONG"))
HARNESS = [sys.executable, "-m", "harness"]
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
    """(what `_offer` calls, the instants at which something was broken): once so many rows are there."""
    done = []

    def act(count):
        if count < at or done:
            return
        cluster.broken |= set() if how in ("worker", "head") else {node}
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
        done.append(time.monotonic_ns())

    return act, done


MOMENTS = [(how, seed) for seed in range(10) for how in ("raylet", "link", "worker")]


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: one is broken through the command, others without a cluster")
@pytest.mark.parametrize(("how", "seed"), MOMENTS)
def test_whatever_breaks_on_a_node_costs_its_own_requests_alone(cluster, how, seed):
    """At a random moment: every request a row, none twice, the others' all ok, no row lost that the node had for 2 s, the run says so, nothing
    is left running."""
    drawn = random.Random(f"{how} {seed}")
    node, at = drawn.choice([2, 3, 4]), drawn.randrange(20, 200)
    print(f"{how} of node {node} after {at} rows (seed {seed})")
    act, done = _break_at(cluster, how, node, at)
    came, _ = _offer(cluster, act, requests=400, rate_rps=80, tokens=5)
    assert (came["rows"], came["seqs"]) == (400, 400)
    assert came["stop_reason"] == ("worker_died" if how == "worker" else "node_lost")
    spared = {outcome for outcome in came["outcomes"] if not outcome.startswith(f"{node - 2} ")}
    assert spared == {f"{k} ok" for k in range(3) if k != node - 2}
    assert came["served"] <= 400
    assert [at_ns for at_ns in came["lost_after_ns"] if at_ns < done[0] - 2_000_000_000] == []
    until(lambda: not _is_left(cluster), "the load generators to end")


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: a cluster of its own")
def test_a_run_goes_on_when_the_head_dies_and_its_agents_end_themselves(cluster):  # one at a time
    """Calls go from process to process: every request is sent and stored; nobody ends the agents then but they."""
    with nodes.Cluster(3) as own:
        act, _ = _break_at(own, "head", 1, 60)
        came, _ = _offer(own, act, nodes=2, requests=400, rate_rps=80, tokens=5)
        assert (came["seqs"], came["whole"], came["stop_reason"]) == (400, 400, "done")
        until(lambda: not _is_left(own), "the agents to end")


@contextmanager
def _serving(cluster, *words, on=None):
    """A server in the head's namespace; the words of `harness run` against it, from nodes of the cluster (`on`: another word for it)."""
    serve = [sys.executable, "-m", "tests.fakes.golden_server", "--host", cluster.ip(1), *words]
    with cluster.popen(1, serve, stdout=subprocess.PIPE) as server:
        try:
            url = f"{server.stdout.readline().strip().removesuffix('/v1')}/v1"
            yield [*HARNESS, "run", "--url", url, "--kind", "adopt", "--model", "golden", "--on", on or cluster.address]
        finally:
            server.terminate()


def _command(cluster, words, **more):
    """(exit code, stdout, stderr) of a command in the head's namespace."""
    with cluster.popen(1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more) as sending:
        out, err = sending.communicate()
    return sending.returncode, out, err


def test_the_command_sends_from_nodes_and_the_key_is_nowhere(cluster, tmp_path):
    """`harness run --on ray://`: rows, nodes and clocks in the run; the API's key in no file of the cluster, of the run, or of the nodes' logs; the
    rows that the nodes kept are gone."""
    with _serving(cluster, "--api-key", KEY, on=cluster.client_address) as words:
        words += ["--api-key-env", "GOLDEN_API_KEY", "--workload", "fixed:16x8", "--rate", "50", "--requests", "150"]
        words += ["--warmup", "2", "--nodes", "2", "--out", str(tmp_path / "run")]
        code, out, err = _command(cluster, words, env={"GOLDEN_API_KEY": KEY})
    assert code in (0, 7), err  # on a machine with other work sends are late: INVALID, and stored all the same
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
    for folder in (tmp_path, cluster.folder, cluster.state):
        files = [path for path in folder.rglob("*") if path.is_file()]
        assert [path for path in files if KEY.encode() in path.read_bytes()] == []
    assert not list(cluster.state.rglob("*.arrow"))


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: a head that is played is asked again in tests/nodes")
def test_a_head_whose_process_for_this_client_dies_is_asked_again(cluster, tmp_path):
    """The first that it starts is killed before it answers: the run is sent by the second."""
    servers = lambda: {pid for pid, words in cluster.processes(1).items() if "--mode=specific-server" in words}  # noqa: E731
    of_others = servers()  # each stays a while
    with _serving(cluster, on=cluster.client_address) as words:
        words += ["--workload", "fixed:16x8", "--rate", "50", "--requests", "50", "--nodes", "2", "--out", str(tmp_path / "run")]  # fmt: skip
        with cluster.popen(1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sending:
            os.kill(until(lambda: servers() - of_others, "a process for the client").pop(), signal.SIGKILL)
            _, err = sending.communicate()
    assert sending.returncode in (0, 7), err
    assert "attempt 1 of 3" in err
    assert len(read_run(tmp_path / "run").requests) >= 50


def _has_come(run, worker):
    """Has the parent written a measured row of this worker?"""
    came = [read_table(part, columns=["phase", "worker"]) for part in list_parts(run, "requests")]
    return any({"phase": "measure", "worker": worker} in table.to_pylist() for table in came)


def test_a_run_that_loses_a_node_is_invalid_with_its_share_to_the_end_of_the_command(cluster, tmp_path):
    """A raylet killed in mid-run: exit code 7 with the rule's words, the run stored whole, the same from `harness report --json`; what the
    node had on its disk goes into the run by `harness recover --from`, once."""
    run, name = tmp_path / "run", cluster.ip(2)
    with _serving(cluster) as words:
        words += ["--workload", "fixed:16x8", "--rate", "60", "--requests", "600", "--warmup", "2"]
        words += ["--nodes", "2", "--json", "--out", str(run)]
        with cluster.popen(1, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as sending:
            until(lambda: sending.poll() is not None or _has_come(run, worker=0), "rows of the node that will be lost")
            cluster.broken.add(2)
            assert cluster.kill(2, of="raylet/raylet ")
            out, err = sending.communicate()
    assert sending.returncode == 7, err
    rows = read_run(run).requests
    rows = rows[rows["phase"] == "measure"]
    assert sorted(rows["seq"]) == list(range(600))
    assert set(rows[rows["worker"] == 1]["outcome"]) == {"ok"}
    gone = rows["outcome"].isin(["lost", "dropped"]).sum()
    assert 0 < (rows["outcome"] == "lost").sum() <= gone < 300

    def lost(said):
        (judged,) = json.loads(said)["runs"]
        assert judged["verdict"] == "INVALID"
        return next(reason for reason in judged["reasons"] if reason["code"] == "node_lost")

    assert lost(out)["message"].startswith(f"{name} lost: {gone} of 600 requests ({gone / 600:.1%})")
    again = command("report", str(run), "--json")
    assert (again.returncode, lost(again.stdout)) == (7, lost(out))
    (kept,) = [path.parent for path in cluster.state.rglob("node.json")]
    assert str(kept) in lost(out)["advice"]
    came = json.loads(command("recover", str(run), "--from", str(kept), "--json").stdout)
    after = read_run(run).requests
    after = after[after["phase"] == "measure"]
    assert sorted(after["seq"]) == list(range(600))
    assert (after["outcome"] == "ok").sum() == (rows["outcome"] == "ok").sum() + came["replaced"]


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: agents without a cluster show the same")
def test_a_parent_that_is_killed_gets_the_rest_from_nodes_whose_clocks_lie_days_apart(cluster, tmp_path):
    """kill -9 in mid-run: what the run has then is what the nodes received, each once, and every row began when the plan says, on one clock."""
    run = tmp_path / "run"
    with _serving(cluster) as words:
        words += ["--workload", "fixed:16x8", "--rate", "60", "--requests", "3000", "--warmup", "0", "--nodes", "2"]
        with cluster.popen(
            1, [*words, "--out", str(run)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as sending:
            until(lambda: len(list(run.glob("parts/requests-*"))) > 2, "rows")
            sending.kill()
        until(lambda: not _is_left(cluster), "the agents to end")
    before = read_run(run).requests
    came = json.loads(command("recover", str(run), "--from", str(cluster.state), "--json").stdout)
    after = read_run(run)
    rows = after.requests
    assert came["recovered"] == len(rows) - len(before) > 0
    assert len(rows) == rows["seq"].nunique()
    due_ns = after.plan.set_index("seq")["scheduled_ns"].loc[rows["seq"]].to_numpy()
    began_ns = rows["scheduled_ns"].to_numpy() - due_ns
    unsure_us = max(one["clock_error_us"] for one in after.manifest.drive["recovered"])
    assert began_ns.max() - began_ns.min() <= 2 * 1000 * unsure_us + 1_000_000
    assert unsure_us < 100_000


def test_more_nodes_than_can_send_are_refused_before_the_first_request(cluster, tmp_path):
    with _serving(cluster) as words:
        more = f"--workload fixed:8x2 --rate 5 --requests 5 --nodes 9 --out {tmp_path / 'run'}".split()
        code, _, err = _command(cluster, words + more)
    assert code == 2, err
    assert "9 nodes are to send" in err
    assert not (tmp_path / "run" / "requests.parquet").exists()


WAIT = """
import sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
while sum(node["Alive"] for node in ray.nodes()) != int(sys.argv[2]):
    time.sleep(0.2)
"""
OTHER = """
import sys
from ray._raylet import GcsClient
kv = GcsClient(address=sys.argv[1])
import json
said = json.loads(kv.internal_kv_get(b"CLUSTER_METADATA", b"cluster"))
kv.internal_kv_put(b"CLUSTER_METADATA", json.dumps(said | {"ray_version": "2.9.0"}).encode(), True, b"cluster")
"""


@pytest.mark.skipif(not LONG, reason="HARNESS_LONG=1: a cluster of its own")
def test_nodes_that_are_not_the_same_are_refused_before_the_first_request(cluster, tmp_path):  # one at a time
    """A node without the harness, one with another version of it, a head that starts no
    process for a client, a cluster that says it is of another Ray: three lines and exit code 2, by the
    command, nothing sent."""
    other = tmp_path / "other" / "harness"
    shutil.copytree(nodes.ROOT / "harness", other, ignore=shutil.ignore_patterns("__pycache__"))
    text = (other / "__init__.py").read_text()
    (other / "__init__.py").write_text(text.replace(f'"{__version__}"', '"9.9.9"'))
    installed = [Path(path) for path in glob.glob(f"{sysconfig.get_path('purelib')}/*vllm_cost_harness*.pth")]
    crowded = {"RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "0"}  # a head that starts no process in time
    environment = {1: crowded, 2: {"PYTHONPATH": ""}, 3: {"PYTHONPATH": str(other.parent)}}
    with nodes.Cluster(3, environment=environment, hidden={2: installed, 3: installed}) as own:

        def refused(run, on=None):
            with _serving(own, on=on) as words:
                more = f"--workload fixed:8x2 --rate 5 --requests 5 --nodes 1 --out {run}".split()
                code, _, err = _command(own, words + more, cwd=tmp_path)
            assert code == 2, err
            assert not (run / "requests.parquet").exists()
            return err.strip().splitlines()[-3:]

        first = refused(tmp_path / "without")
        assert first[0].endswith(f"node {own.ip(2)} has no harness")
        assert "install the same version" in first[2]
        own.kill(2)
        assert _command(own, [sys.executable, "-c", WAIT, own.address, "2"])[0] == 0
        second = refused(tmp_path / "another")
        assert second[0].endswith(f"node {own.ip(3)} differs")
        assert second[1] == f"harness 9.9.9, here {__version__}"
        third = refused(tmp_path / "crowded", own.client_address)
        assert "started no process for this client" in third[0]
        assert "--on HEAD:6379" in third[2]
        assert _command(own, [sys.executable, "-c", OTHER, own.address])[0] == 0
        fourth = refused(tmp_path / "ray")
        assert "has another version" in fourth[0]
        assert "2.9.0" in fourth[1]
