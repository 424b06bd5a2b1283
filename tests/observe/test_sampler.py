"""harness.measure.observe.sampler: threads, edges, telemetry text and what it costs."""

import os
import re
from collections import defaultdict

import pytest

from harness.base import clock
from harness.config.experiment import ObserveSpec
from harness.measure.observe.sampler import Observers, _Ticker
from harness.records import TargetInfo
from tests.waiting import Machine, until

pytestmark = pytest.mark.timing
QUIET = ObserveSpec(gpu="off", server_hz=10, host_hz=10)

RUN = """
from harness.config.experiment import ObserveSpec
from harness.base.errors import TelemetryError
from harness.measure.observe.sampler import Observers
from harness.records import TargetInfo
def info(**kw):
    base = dict(name="t", kind="vllm", base_url="http://127.0.0.1:1/v1", model="m", max_model_len=None, server_version=None,
                flags={}, cache_config={}, pids=(os.getpid(),), startup=None, metrics_url=None, checks={})
    return TargetInfo(**{**base, **kw})
tables = {}
def sink(table, rows):
    tables.setdefault(table, []).extend(rows)
def load_cuda(folder):
    # make this process look like one that has loaded the CUDA driver library
    import mmap
    path = folder + "/libcuda.so.1"
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
    with open(path, "r+b") as file:
        return mmap.mmap(file.fileno(), 0)
"""


def info(**changes):
    """A target of our own without anything behind it."""
    fields = {
        "name": "t",
        "kind": "vllm",
        "base_url": "http://127.0.0.1:1/v1",
        "model": "m",
        "max_model_len": None,
        "server_version": None,
        "flags": {},
        "cache_config": {},
        "pids": (),
        "startup": None,
        "metrics_url": None,
        "checks": {},
    }
    return TargetInfo(**{**fields, **changes})


class Tables(defaultdict):
    """A sink that keeps rows by table."""

    def __init__(self):
        super().__init__(list)

    def __call__(self, table, rows):
        self[table].extend(rows)


def test_eight_boards_and_a_real_page_beside_a_run(with_nvml, metrics_server, metrics_page):
    """All three sources are stored through a run, edges enclose it, every deadline was kept or counted as missed, and the energy is
    power x time."""
    metrics_server.answer = lambda: (200, metrics_page)
    code = f"""{RUN}
from tests.waiting import Machine
with Machine() as machine, Observers(info(metrics_url={metrics_server.url!r}), ObserveSpec(gpu="required"), sink) as o:
    o.edge("start"); began = clock.monotonic_ns()
    until(lambda: len(tables.get("gpu", ())) >= 8 * 15 and len(tables.get("host", ())) >= 4)
    ended = clock.monotonic_ns(); o.settle(); o.edge("end")
    static = o.gpu_static
print(json.dumps({{"tables": {{k: [asdict(r) for r in v] for k, v in tables.items()}}, "began": began, "ended": ended,
                   "late_ns": machine.worst_ns, "telemetry": dict(o.telemetry), "static": static}}))"""
    processes = ",".join(f"{i}:{os.getpid()}" for i in range(8))
    answer = with_nvml(code.replace("os.getpid(),", f"{os.getpid()},"), processes=processes)
    gpu, server = answer["tables"]["gpu"], answer["tables"]["server"]
    late_s = answer["late_ns"] / 1e9
    for board in range(8):
        rows = [r for r in gpu if r["gpu_index"] == board]
        assert len(rows) >= 15
        assert rows[0]["stamp_ns"] < answer["began"]
        assert rows[-1]["stamp_ns"] > answer["ended"]
        rise_mj = rows[-1]["energy_mj"] - rows[0]["energy_mj"]
        span_s = (rows[-1]["stamp_ns"] - rows[0]["stamp_ns"]) / 1e9
        assert abs(rise_mj / (300_000 + 10_000 * board) - span_s) <= 0.101 + 2 * late_s
        assert {r["other_process_count"] for r in rows} == {0, None}  # None between the lists of processes
        listed = [r for r in rows if r["stamp_ns"] > answer["ended"] and r["other_process_count"] is not None]
        assert listed  # at the edge, whether or not a tick came after it
    assert {r["edge"] for r in server} == {"start", "end", None}
    assert any(r["metric"].endswith("_bucket") for r in server if r["edge"] == "end")
    ticks = sum(map(int, re.search(r"(\d+) samples at 10 Hz, (\d+) missed", answer["telemetry"]["gpu"]).groups()))
    span_s = (gpu[-1]["stamp_ns"] - gpu[0]["stamp_ns"]) / 1e9
    assert abs(ticks - span_s * 10) <= 4 + 2 * 10 * late_s  # the edges' samples are between the ticks
    assert len(answer["static"]) == 8
    states = {k: v.split(":")[0] for k, v in answer["telemetry"].items() if isinstance(v, str)}
    assert states == {"gpu": "ok", "server": "ok", "host": "ok"}
    moves_ms = int(re.search(r"moves every (\d+) ms", answer["telemetry"]["gpu"]).group(1))
    assert abs(moves_ms - 100) <= 10 + 2000 * late_s


def test_a_lost_board_is_told_and_the_run_goes_on(with_nvml, tmp_path):
    """A board lost in mid-run makes the telemetry partial, with its name, and the other boards' rows go on."""
    code = f"""{RUN}
keep = load_cuda({str(tmp_path)!r})
with Observers(info(flags={{"tp": 2}}), ObserveSpec(gpu="required", gpu_hz=50), sink) as o:
    until(lambda: tables.get("gpu"))
    Path({str(tmp_path / "fails")!r}).touch()
    until(lambda: sum(r.error is not None for r in tables["gpu"]) > 5)
rows = tables["gpu"]
print(json.dumps([o.telemetry["gpu"], sum(r.error is not None for r in rows), rows[-1].error, rows[0].error]))"""
    text, failed, healthy, before = with_nvml(
        code, gpus=2, lost=f"0:{tmp_path / 'fails'}", CUDA_VISIBLE_DEVICES="0,1", period_ms=10
    )
    assert text.startswith("partial: ")
    assert "GPU-00000000" in text
    assert "GPU is lost" in text
    assert failed > 5
    assert healthy is None
    assert before is None


def test_required_gpu_telemetry(with_nvml):
    """observe.gpu: required without NVML, or for a target elsewhere, is a TelemetryError with advice and exit code 4."""
    code = f"""{RUN}
def why(i, gpu="required"):
    try:
        with Observers(i, ObserveSpec(gpu=gpu), sink) as o:
            return o.telemetry["gpu"]
    except TelemetryError as error:
        return [error.exit_code, str(error)]
hosted = info(kind="hosted", base_url="https://api.example.com/v1", pids=())
print(json.dumps([why(info()), why(hosted), why(info(), "auto"), why(info(), "off")]))"""
    missing, elsewhere, auto, off = with_nvml(code, init=18)
    assert missing[0] == elsewhere[0] == 4
    assert "differ in version" in missing[1]
    assert "harness doctor" in missing[1]
    assert "another machine" in elsewhere[1]
    assert auto.startswith("absent: no NVML")
    assert off.startswith("absent: switched off")


def test_boards_of_a_target_that_shows_no_process(with_nvml, tmp_path):
    """Where NVML shows no process of a server of ours that uses CUDA, CUDA_VISIBLE_DEVICES and the number that its flags ask for
    decide; where CUDA may order the boards in another way than NVML, the doubt is told."""
    code = f"""{RUN}
keep = load_cuda({str(tmp_path)!r})
with Observers(info(flags={{"tensor-parallel-size": 2}}), ObserveSpec(gpu="required"), sink) as o:
    o.edge("start")
print(json.dumps([sorted({{r.gpu_index for r in tables["gpu"]}}), o.telemetry["gpu"], o.telemetry["gpu_facts"]["no_energy"]]))"""
    boards, text, no_energy = with_nvml(code, CUDA_VISIBLE_DEVICES="2,GPU-00000005,7", period_ms=10)
    assert boards == [2, 5]
    assert text.startswith("ok: 2 boards (devices 2,GPU-00000005: the first 2 of CUDA_VISIBLE_DEVICES=")
    assert no_energy is None
    boards, text, no_energy = with_nvml(code, period_ms=10)
    assert boards == [0, 1]
    assert "the first 2 of 8, by the server's flags" in text
    assert no_energy is None
    boards, text, no_energy = with_nvml(code, period_ms=10, other_name="Fake L4")
    assert text.startswith("partial: no process of the target")
    assert "name them with the target's key gpus" in no_energy
    assert with_nvml(code, period_ms=10, other_name="Fake L4", CUDA_DEVICE_ORDER="PCI_BUS_ID")[2] is None


def test_a_cpu_server_on_a_gpu_machine_is_charged_no_energy(with_nvml):
    """A target of ours without CUDA in its processes has no boards, whatever the machine has."""
    code = f"""{RUN}
with Observers(info(), ObserveSpec(), sink) as o:
    o.edge("start")
print(json.dumps(["gpu" in tables, o.telemetry["gpu"]]))"""
    assert with_nvml(code) == [False, "absent: no process of the target has loaded CUDA, so it uses no GPU"]


def test_adopted_servers_and_mig(with_nvml):
    """An adopted server's boards are found by who listens on its port; MIG slices and what they do not give are told."""
    code = f"""{RUN}
import socket
listener = socket.create_server(("127.0.0.1", 0))
url = "http://127.0.0.1:%d/v1" % listener.getsockname()[1]
answer = []
for board in ("3:%d", "0.1:%d"):
    os.environ["FAKE_NVML_PROCESSES"] = board % os.getpid()
    tables.clear()
    with Observers(info(kind="adopt", base_url=url, pids=()), ObserveSpec(gpu="required"), sink) as o:
        o.edge("end")
    answer.append([len({{r.gpu_uuid for r in tables["gpu"]}}), tables["gpu"][0].gpu_index, o.telemetry["gpu"]])
print(json.dumps(answer))"""
    plain, mig = with_nvml(code, mig=2, period_ms=10)
    assert plain[:2] == [1, 3]
    assert plain[2].startswith("ok: 1 boards (where the target's processes run)")
    assert mig[:2] == [3, 0]
    assert "2 MIG slices: memory only; their board's power and energy include all its slices" in mig[2]
    assert "not given: utilisation" in mig[2]


def test_a_server_that_fails_in_mid_run(metrics_server, metrics_page):
    """Failed scrapes are counted and told with their reason; those before are kept and the run goes on."""
    answers = iter([(200, metrics_page)] * 5)
    seen = []
    metrics_server.answer = lambda: (seen.append(1), next(answers, (503, "")))[1]
    sink = Tables()
    with Observers(info(metrics_url=metrics_server.url), QUIET, sink) as observers:
        observers.edge("start")
        until(lambda: len(sink["host"]) >= 8 and next(answers, None) is None)
        asked = len(seen)
        until(lambda: len(seen) > asked)
        observers.edge("end")
    text = observers.telemetry["server"]
    assert text.startswith("partial: no scrape at an edge (end: HTTP status 503)")
    assert "reads failed, the last with: HTTP status 503" in text
    assert {r.edge for r in sink["server"]} >= {"start"}
    assert len(sink["host"]) >= 8


def test_a_server_without_metrics():
    """No metrics page, and one that never answers, are absent with their reasons."""
    with Observers(info(), QUIET, Tables()) as observers:
        pass
    assert observers.telemetry["server"] == "absent: the target has no metrics page"
    assert observers.telemetry["gpu"].startswith("absent: switched off")
    with Observers(info(metrics_url="http://127.0.0.1:9/metrics"), QUIET, Tables()) as observers:
        observers.edge("start")
    assert observers.telemetry["server"].startswith("absent: all")
    assert "ConnectError" in observers.telemetry["server"]


def test_settle_waits_for_the_server(metrics_server):
    """Settling ends when nothing runs or waits any more, and gives up in time on a server that stays busy."""
    left = iter([3, 2, 1])
    page = 'vllm:num_requests_running{{engine="0"}} {}\nvllm:num_requests_waiting{{engine="0"}} 0\n'
    metrics_server.answer = lambda: (200, page.format(next(left, 0)))
    spec = ObserveSpec(gpu="off", server_hz=0.01, host_hz=0.01)
    with Observers(info(metrics_url=metrics_server.url), spec, Tables()) as observers:
        assert observers.settle()
        assert next(left, None) is None
        metrics_server.answer = lambda: (200, page.format(1))
        assert not observers.settle(limit_s=0.2)


def test_rows_that_cannot_be_stored_are_an_error():
    """A sink that fails is raised at the next edge or at the end, not swallowed."""

    tried = []

    def full(table, rows):
        tried.append(table)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Observers(info(), QUIET, full):
        until(lambda: tried)
    passed = []

    def run():
        with Observers(info(), QUIET, full) as observers:
            observers.edge("start")
            passed.append("start")

    with pytest.raises(OSError, match="disk full"):
        run()
    assert passed == []


def test_an_edge_has_one_of_two_names():
    """A misspelt edge is refused."""
    with Observers(info(), QUIET, Tables()) as observers, pytest.raises(ValueError, match="start or end"):
        observers.edge("middle")


class Slow:
    """A source whose every third read takes longer than a period."""

    def __init__(self):
        self.stamps = []

    def read(self, edge):
        self.stamps.append(clock.monotonic_ns())
        if len(self.stamps) % 3 == 0:
            clock.sleep(0.07)
        return []

    def about(self):
        return "slow"

    def complaint(self):
        return None

    def facts(self):
        return {}

    def close(self):
        pass


def test_deadlines_are_absolute():
    """Ticks stay on the grid start + n/hz whatever reads take, and deadlines that passed meanwhile are counted as missed."""
    source = Slow()
    ticker = _Ticker("host", source, 20, Tables())
    with Machine() as machine:
        ticker.start()
        until(lambda: len(source.stamps) >= 16)
        ticker.stop()
    grid = [(stamp - source.stamps[0]) / 50e6 for stamp in source.stamps]
    late = sorted(abs(ticks - round(ticks)) * 50 for ticks in grid)
    assert late[len(late) // 2] < 5 + machine.worst_ns / 1e6  # the median: one late wake-up of the machine is not drift
    assert (
        abs(ticker.reads + ticker.missed - (round(grid[-1]) + 1)) <= 2
    )  # the last read may have passed a deadline or two
    assert ticker.missed >= len(source.stamps) // 3
    assert f"{ticker.missed} missed" in ticker.state()
