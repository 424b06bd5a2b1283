"""A DCGM exporter's page as a telemetry source."""

from __future__ import annotations

import pytest

from harness.base.errors import TelemetryError
from harness.config.experiment import ObserveSpec
from harness.config.target import TargetSpec
from harness.measure.observe.boards.dcgm import ExporterError, ExporterSource, parse
from harness.measure.observe.sampler import Observers
from harness.records import TargetInfo

pytestmark = pytest.mark.timing

GIB = 1 << 30
FIELDS = {
    "DCGM_FI_DEV_SM_CLOCK": 1755, "DCGM_FI_DEV_MEM_CLOCK": 2619, "DCGM_FI_DEV_GPU_TEMP": 61, "DCGM_FI_DEV_POWER_USAGE": 312.345,
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": 1e9, "DCGM_FI_DEV_GPU_UTIL": 97, "DCGM_FI_DEV_MEM_COPY_UTIL": 40,
    "DCGM_FI_DEV_FB_USED": 71680, "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": 4, "DCGM_FI_DEV_XID_ERRORS": 0,
}  # fmt: skip


def labels(index, more=""):
    return (
        f'{{gpu="{index}",UUID="GPU-{index}aa",pci_bus_id="00000000:31:00.0",device="nvidia{index}",modelName="NVIDIA H100 80GB HBM3",'
        f'Hostname="node",DCGM_FI_DRIVER_VERSION="580.105.08"{more}}}'
    )


def page(boards=2, **changes):
    lines = [
        "# HELP DCGM_FI_DEV_SM_CLOCK SM clock frequency (in MHz).",
        "# TYPE DCGM_FI_DEV_SM_CLOCK gauge",
        "go_info 1",
    ]
    for name, value in {**FIELDS, **changes}.items():
        lines += [f"{name}{labels(index)} {value}" for index in range(boards)]
    return "\n".join([*lines, ""])


INFO = TargetInfo(
    name="t", kind="adopt", base_url="http://gpu-box:8000/v1", model="m", max_model_len=None, server_version=None, flags={},
    cache_config={}, pids=(), startup=None, metrics_url=None, checks={},
)  # fmt: skip


def target(url, **more):
    return TargetSpec(name="t", kind="adopt", model="m", url="http://gpu-box:8000/v1", telemetry_url=url, **more)


def test_fields_become_columns_in_their_units():
    """W to mW, MiB to bytes, mJ as it is; reasons under either of DCGM's names; what a page lacks is None."""
    board = parse(page())["GPU-1aa"]
    assert board.values == {
        "power_mw": 312_345, "energy_mj": 10**9, "sm_util_pct": 97, "mem_util_pct": 40, "mem_used_bytes": 70 * GIB,
        "sm_clock_mhz": 1755, "mem_clock_mhz": 2619, "temperature_c": 61, "throttle_reasons": 4,
    }  # fmt: skip
    assert parse(page(DCGM_FI_DEV_CLOCKS_EVENT_REASONS=32))["GPU-0aa"].values["throttle_reasons"] in (4, 32)
    few = parse(f"DCGM_FI_DEV_GPU_TEMP{labels(0)} 50\n")["GPU-0aa"].values
    assert {name for name, value in few.items() if value is not None} == {"temperature_c"}


@pytest.mark.parametrize(
    "text", ["", "vllm:x 1\n", 'DCGM_FI_DEV_GPU_TEMP{gpu="0"} 1\n', 'DCGM_FI_DEV_GPU_TEMP{gpu="0" 1\n']
)
def test_a_page_without_boards_is_none(text):
    """Nothing, another server's page, series without a UUID, and no Prometheus text."""
    with pytest.raises(ExporterError):
        parse(text)


def test_energy_stands_only_where_it_is_new(metrics_server):
    """A page that repeats itself between two collections: the counter is in the first row and in that with a new value."""
    answers = iter([page(1)] * 3 + [page(1, DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION=1e9 + 5000)] * 2)
    metrics_server.answer = lambda: (200, next(answers))
    source = ExporterSource(metrics_server.url, ["0"])
    rows = [source.read(None)[0] for _ in range(4)]
    assert [row.energy_mj for row in rows] == [10**9, None, 10**9 + 5000, None]
    assert [row.power_mw for row in rows] == [312_345] * 4
    source.close()


def test_which_boards_of_the_exporter_are_the_targets(metrics_server):
    """gpus: by index or UUID: those, with their energy; without it all, and none of their energy; one that is not there is told."""
    metrics_server.answer = lambda: (200, page(4))
    some = ExporterSource(metrics_server.url, ["2", "GPU-0aa"])
    assert [row.gpu_index for row in some.read(None)] == [2, 0]
    assert (some.facts()["certain"], some.facts()["no_energy"], some.complaint()) == (True, None, None)
    assert some.static[0] == {
        "index": 2,
        "uuid": "GPU-2aa",
        "name": "NVIDIA H100 80GB HBM3",
        "driver_version": "580.105.08",
    }
    all_ = ExporterSource(metrics_server.url, [])
    assert len(all_.read(None)) == 4
    assert "key gpus" in all_.facts()["no_energy"]
    with pytest.raises(ExporterError, match="no board '7'"):
        ExporterSource(metrics_server.url, ["7"])
    for source in (some, all_):
        source.close()


def test_a_slice_shares_its_board(metrics_server):
    """Series of a MIG slice beside the board's: no energy of the target's own."""
    mig = labels(0, ',GPU_I_PROFILE="1g.10gb",GPU_I_ID="7"')
    metrics_server.answer = lambda: (200, page(1) + f"DCGM_FI_DEV_FB_USED{mig} 9000\n")
    source = ExporterSource(metrics_server.url, ["0"])
    assert source.facts()["no_energy"].startswith("board, shared")
    assert source.read(None)[0].mem_used_bytes == 70 * GIB
    source.close()


def test_an_xid_that_is_new_is_told(metrics_server):
    """The last Xid of before the run is none of it; another one is."""
    answers = iter([page(1, DCGM_FI_DEV_XID_ERRORS=31)] * 2 + [page(1, DCGM_FI_DEV_XID_ERRORS=79)] * 2)
    metrics_server.answer = lambda: (200, next(answers))
    source = ExporterSource(metrics_server.url, ["0"])
    found = []
    for _ in range(3):
        source.read(None)
        found.append(source.facts()["xids"])
    assert found == [[], [[0, 79]], [[0, 79]]]
    source.close()


def test_somebody_elses_server_by_url_with_its_exporter(metrics_server):
    """A target on another machine has rows, facts and provenance of its boards; without an exporter it has none, and a required one that
    does not answer is an error."""
    metrics_server.answer = lambda: (200, page(4))
    rows = []
    spec = ObserveSpec(gpu="required", server_hz=1, host_hz=1)
    with Observers(
        INFO, spec, lambda t, found: rows.extend(found if t == "gpu" else ()), target(metrics_server.url, gpus=[1])
    ) as o:
        o.edge("start")
        o.edge("end")
    assert {row.gpu_index for row in rows} == {1}
    assert o.telemetry["gpu"].startswith("ok: 1 boards of a DCGM exporter (devices 1)")
    assert o.telemetry["gpu_facts"]["source"] == "DCGM exporter"
    assert o.gpu_static[0]["name"] == "NVIDIA H100 80GB HBM3"
    with Observers(INFO, ObserveSpec(), lambda *_: None) as without:
        pass
    assert without.telemetry["gpu"] == "absent: the target at gpu-box runs on another machine"
    metrics_server.answer = lambda: (503, "")
    with pytest.raises(TelemetryError, match="telemetry_url: HTTP status 503"):
        Observers(INFO, spec, lambda *_: None, target(metrics_server.url)).__enter__()


def test_pages_of_several_replicas_are_one_scrape(metrics_server):
    """Two pages: the rows of both with one stamp and their replica as a label; one that fails is a failed scrape, not half a sum."""
    from harness.measure.observe.vllm_metrics import ScrapeError, ServerSource

    metrics_server.answer = lambda: (200, 'vllm:num_preemptions_total{engine="0"} 3\n')
    other = metrics_server.url.replace("127.0.0.1", "localhost")
    source = ServerSource(metrics_server.url, other)
    rows = source.read("start")
    port = metrics_server.server_port
    assert [row.labels for row in rows] == [
        f'{{"engine": "0", "replica": "{h}:{port}"}}' for h in ("127.0.0.1", "localhost")
    ]
    assert len({row.stamp_ns for row in rows}) == 1
    assert source.facts()["pages"] == [metrics_server.url, other]
    source.close()
    half = ServerSource(metrics_server.url, "http://127.0.0.1:9/metrics")
    with pytest.raises(ScrapeError, match=r"127\.0\.0\.1:9: ConnectError"):
        half.read("end")
    half.close()


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("telemetry_url", "gpu-box:9400", "whole address"),
        ("telemetry_url", "http://u:p@gpu-box/metrics", "carries"),
        ("metrics_urls", ["http://a/metrics", "http://a/metrics"], "twice"),
        ("gpus", ["seven"], "'seven' is no board"),
        ("gpus", [True], "True is no board"),
    ],
    ids=["no scheme", "a password", "twice", "no board", "no number"],
)
def test_keys_that_cannot_be_used_are_refused(key, value, why):
    """With what is wrong; a URL with credentials is not repeated."""
    with pytest.raises(ValueError, match=why):
        TargetSpec(name="t", kind="adopt", model="m", url="http://h/v1", **{key: value})
