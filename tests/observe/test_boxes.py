"""The boxes that a server runs on: which boards are its own, whether their energy is told, and what the verdict makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import closed_loop, gpu, run

pytestmark = pytest.mark.timing

# Runs the sampler of a target once, in a process that loads the fake NVML library, and prints what the manifest would hold.
SAMPLED = """
import mmap, socket, subprocess
from harness.config.experiment import ObserveSpec
from harness.config.target import TargetSpec
from harness.measure.observe import machine
from harness.measure.observe.boards import choice
from harness.measure.observe.sampler import Observers
from harness.records import TargetInfo

me, rows = os.getpid(), []
box = json.loads(os.environ["BOX"])
os.environ["FAKE_NVML_PROCESSES"] = box.get("processes", "").replace("ME", str(me))
machine.sees_all_processes = lambda: not box.get("pod")
if box.get("cuda"):  # looks like a process that has loaded the CUDA driver library
    path = Path(box["folder"]) / "libcuda.so.1"
    path.write_bytes(b"x" * 4096)
    with path.open("r+b") as file:
        keep = mmap.mmap(file.fileno(), 0)

def listener(name):
    # a process of that name which listens on a port
    link = Path(box["folder"]) / name
    link.symlink_to(os.path.realpath(sys.executable))
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); sys.stdin.read()"
    child = subprocess.Popen([str(link), "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return child, int(child.stdout.readline())

child, port = listener(box["listener"]) if box.get("listener") else (None, 1)
own = not box.get("listener") and box.get("kind", "vllm") != "adopt"
if box.get("kind") == "adopt" and child is None:
    server = socket.create_server(("127.0.0.1", 0)); port = server.getsockname()[1]
info = TargetInfo(name="t", kind=box.get("kind", "vllm"), base_url=f"http://127.0.0.1:{port}/v1", model="m", max_model_len=None,
                  server_version=None, flags=box.get("flags", {}), cache_config={}, pids=(me,) if own else (), startup=None,
                  metrics_url=None, checks={})
spec = TargetSpec(name="t", kind="adopt", model="m", url="http://127.0.0.1/v1", gpus=box.get("gpus", []))
with Observers(info, ObserveSpec(gpu_hz=1), lambda table, found: rows.extend(found if table == "gpu" else ()), spec,
               box.get("used_before")) as observers:
    observers.edge("start")
    observers.edge("end")
    static = observers.gpu_static
if child:
    child.stdin.close(); child.wait()
listed = [r for r in rows if r.process_count is not None] or rows  # a tick after the end asks for no list
print(json.dumps({"boards": sorted({r.gpu_index for r in rows}), "others": [r.other_process_count for r in listed][-len({r.gpu_uuid for r in rows}):],
                  "telemetry": dict(observers.telemetry), "static": static}))
"""


@pytest.fixture
def sampled(with_nvml, tmp_path):
    """What the manifest would hold of the telemetry of one box."""
    import json

    def sample(box, **settings):
        given = json.dumps({**box, "folder": str(tmp_path)})
        return with_nvml(SAMPLED, BOX=given, period_ms=10, **settings)

    return sample


def verdict(found, kind="vllm", **changes):
    """(codes with severities, all advice, energy) of a clean run with this telemetry."""
    rows = [replace(r, **changes) for r in gpu(14)] if found["boards"] else None
    made = run(closed_loop(4, 400), Load(concurrency=4), gpu_rows=rows, telemetry=found["telemetry"], kind=kind)
    summary = summarise(made)
    reasons = {r.code: r.severity for r in summary.verdict.reasons}
    return reasons, " ".join(r.advice for r in summary.verdict.reasons), summary.scalars["energy_j"]


H100 = {"name": "NVIDIA H100 80GB HBM3", "gpus": 1}


def test_one_h100(sampled):
    """A server of ours on the only board: it is the target's, alone, with energy and nothing to say."""
    found = sampled({"processes": "0:ME=70000"}, **H100)
    assert (found["boards"], found["others"]) == ([0], [0])
    assert found["telemetry"]["gpu_facts"]["no_energy"] is None
    reasons, _, energy_j = verdict(found)
    assert reasons == {}
    assert energy_j is not None


def test_eight_h100_of_which_four_are_the_targets(sampled):
    """A server on boards 2 to 5 beside a neighbour's on 0: four boards, nobody else on them, links and slot recorded."""
    found = sampled({"processes": "0:99,2:ME,3:ME,4:ME,5:ME"}, name="NVIDIA H100 80GB HBM3", gpus=8)
    assert (found["boards"], found["others"]) == ([2, 3, 4, 5], [0] * 4)
    board = found["static"][0]
    assert (board["nvlinks_active"], board["pcie_width"], board["pcie_generation"]) == (18, 16, 5)
    assert (board["power_limit_mw"], board["power_limit_default_mw"], board["sm_clock_limit_mhz"]) == (
        700_000,
        700_000,
        1980,
    )
    assert verdict(found)[0] == {}


def test_a_neighbour_on_the_targets_board(sampled):
    """Somebody else's process on one of the boards is counted."""
    found = sampled({"processes": "1:ME,1:99"}, gpus=2)
    assert (found["boards"], found["others"]) == ([1], [1])


def test_one_a10g(sampled):
    """A board without links to others: no number of them, and the rest as everywhere."""
    found = sampled({"processes": "0:ME"}, name="NVIDIA A10G", gpus=1)
    assert (found["static"][0]["name"], found["static"][0]["nvlinks_active"]) == ("NVIDIA A10G", None)
    assert verdict(found)[0] == {}


def test_a_mig_slice(sampled):
    """A server on one of two slices: other slices' processes are not beside it, and the board's energy is not its own."""
    found = sampled({"processes": "0.1:ME,0.0:99"}, mig=2, gpus=1)
    assert found["boards"] == [0]
    assert found["others"] == [None, 1, 0]  # the board, the neighbour's slice, the server's
    assert found["telemetry"]["gpu_facts"]["no_energy"].startswith("board, shared")
    assert found["static"][0]["mig_profiles"] == ["1g.10gb", "1g.10gb"]


def test_a_declared_mig_slice(sampled):
    """gpus: with the slice's UUID watches it and its board, no other slice: VALID, without energy, and the sharing is told."""
    box = {"processes": "0.1:ME,0.0:99", "gpus": ["MIG-00000000-0000-0000-0000-000000000001"]}
    found = sampled(box, mig=2, gpus=1)
    assert found["others"] == [None, 0]
    shared = [replace(r, gpu_uuid="MIG-1", gpu_index=0) if r.gpu_index else r for r in gpu(14)]
    made = run(closed_loop(4, 400), Load(concurrency=4), gpu_rows=shared, telemetry=found["telemetry"])
    summary = summarise(made)
    assert summary.scalars["energy_j"] is None
    assert {r.code: r.severity for r in summary.verdict.reasons} == {"gpu_board_shared": "warning"}
    assert any("board, shared" in note for note in summary.notes)


POD = {"pod": True, "cuda": True, "processes": "0:ME"}


def test_a_pod_whose_board_was_empty_before(sampled):
    """The driver lists no process; the board held nothing before the server was started: what is on it is the server's."""
    found = sampled(
        {**POD, "used_before": {"GPU-00000000-0000-0000-0000-000000000000": 3 << 20}}, flags="hidden", gpus=1
    )
    assert (found["boards"], found["others"]) == ([0], [0])
    reasons, _, energy_j = verdict(found)
    assert reasons == {}
    assert energy_j is not None


@pytest.mark.parametrize(
    "before", [None, {"GPU-00000000-0000-0000-0000-000000000000": 2 << 30}], ids=["not known", "held"]
)
def test_a_pod_where_others_cannot_be_known(sampled, before):
    """Nothing listed and memory that nobody's is known to be: 0 others is not said, the run is UNKNOWN, with what to change."""
    found = sampled({**POD, "used_before": before}, flags="hidden", gpus=1)
    assert (found["boards"], found["others"]) == ([0], [None])
    reasons, advice, _ = verdict(found, other_process_count=None)
    assert reasons == {"gpu_others_unknown": "unknown"}
    assert "hostPID" in advice


@pytest.mark.parametrize(("held_mib", "others"), [(71_600, 0), (60_000, None)], ids=["all of it", "not all of it"])
def test_a_pod_that_sees_its_own_processes(sampled, held_mib, others):
    """Memory of 71,680 MiB in use: nobody else is on the board where the server's own processes hold (about) all of it."""
    found = sampled({"pod": True, "processes": f"0:ME={held_mib}"}, gpus=1)
    assert found["others"] == [others]


def test_a_pod_of_eight_boards_takes_the_first_two_of_its_list(sampled):
    """Hidden processes: as many boards as the flags ask for, from the first of CUDA_VISIBLE_DEVICES on."""
    box = {**POD, "flags": {"tensor-parallel-size": 2}, "used_before": {}}
    found = sampled(box, flags="hidden", gpus=8, CUDA_VISIBLE_DEVICES="4,5,6")
    assert found["boards"] == [4, 5]
    assert found["telemetry"]["gpu_facts"]["certain"] is True


def test_a_published_port_of_a_container(sampled):
    """Who listens is docker-proxy, not the server: all boards are watched and none of their energy is told, until gpus: says which."""
    box = {"kind": "adopt", "listener": "docker-proxy", "processes": "3:4242"}
    found = sampled(box, gpus=4)
    assert found["boards"] == [0, 1, 2, 3]
    assert "docker-proxy" in found["telemetry"]["gpu_facts"]["no_energy"]
    reasons, advice, energy_j = verdict(found, "adopt", other_process_count=None)
    assert reasons == {"gpu_boards_unknown": "warning"}
    assert "gpus" in advice
    assert energy_j is None


def test_a_declared_board_of_a_container(sampled):
    """gpus: 3 is the board, whoever listens; its energy is told, and that others cannot be known is a warning."""
    found = sampled({"kind": "adopt", "listener": "docker-proxy", "processes": "3:4242", "gpus": [3]}, gpus=4)
    assert found["boards"] == [3]
    assert found["telemetry"]["gpu_facts"]["no_energy"] is None
    reasons, _, energy_j = verdict(found, "adopt", other_process_count=None)
    assert reasons == {"gpu_others_unknown": "warning"}
    assert energy_j is not None


def test_a_tunnel_is_not_here(sampled):
    """Who listens is ssh: the server may be anywhere, so no board of this machine is its own."""
    found = sampled({"kind": "adopt", "listener": "ssh", "processes": "0:4242"}, gpus=1)
    assert found["boards"] == []
    assert found["telemetry"]["gpu"].startswith("absent: the listener on the target's port is ssh (pid ")
    assert "a tunnel" in found["telemetry"]["gpu"]


def test_somebody_elses_server_whose_process_is_seen(sampled):
    """Who listens has a process on board 2: that board, certainly, with its energy."""
    found = sampled({"kind": "adopt", "processes": "2:ME"}, gpus=4)
    assert (found["boards"], found["others"]) == ([2], [0])
    assert verdict(found, "adopt")[0] == {}


@pytest.mark.parametrize(("visible", "certain"), [("1", True), ("1,2", False)], ids=["one board", "two boards"])
def test_somebody_elses_server_whose_process_is_hidden(sampled, visible, certain):
    """It has loaded CUDA and NVML does not list it: the one board that it may see is its own; of two nobody knows how many it uses."""
    found = sampled({"kind": "adopt", "cuda": True, "pod": True}, gpus=4, flags="hidden", CUDA_VISIBLE_DEVICES=visible)
    assert found["boards"] == [int(word) for word in visible.split(",")]
    facts = found["telemetry"]["gpu_facts"]
    assert (facts["certain"], facts["no_energy"] is None) == (certain, certain)


def test_calls_are_timed_and_lists_are_rare(with_nvml):
    """Slow lists of processes are asked for at edges only, however often the boards are sampled, and their time is told."""
    code = """
from harness.config.experiment import ObserveSpec
from harness.measure.observe.boards import source
from harness.measure.observe.sampler import Observers
from harness.records import TargetInfo
rows = []
info = TargetInfo(name="t", kind="vllm", base_url="http://127.0.0.1:1/v1", model="m", max_model_len=None, server_version=None, flags={},
                  cache_config={}, pids=(os.getpid(),), startup=None, metrics_url=None, checks={})
os.environ["FAKE_NVML_PROCESSES"] = f"0:{os.getpid()}"
source.LIST_PERIOD_NS = 10**15
with Observers(info, ObserveSpec(gpu_hz=50), lambda table, found: rows.extend(found if table == "gpu" else ())) as o:
    o.edge("start")
    until(lambda: len(rows) > 20)
    o.edge("end")
print(json.dumps([len(rows), sum(r.process_count is not None for r in rows), o.telemetry["gpu_facts"]["calls"]]))
"""
    rows, listed, calls = with_nvml(code, gpus=1, slow_ms=20, period_ms=10)
    assert listed == 3  # the first sample, and the two edges
    assert calls["processes"]["count"] == listed + 1  # and where the boards were chosen
    assert calls["processes"]["p50_us"] >= 19_300
    assert calls["processes"]["max_us"] >= calls["processes"]["p50_us"]
    assert calls["power"]["count"] >= rows - 1


def test_an_xid_is_told(sampled):
    """A critical error that the driver reports is in the facts, with its board, and makes the telemetry partial."""
    found = sampled({"processes": "1:ME"}, gpus=2, xid="1:79")
    assert found["telemetry"]["gpu_facts"]["xids"] == [[1, 79]]
    assert found["telemetry"]["gpu"].startswith("partial: Xid 79 on GPU 1")
    assert verdict(found)[0] == {"gpu_xid": "unknown"}
