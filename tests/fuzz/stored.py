"""A small experiment as it stands on disk: two targets' runs of two loads, a capacity search, the campaign's file, the history."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from harness.cli import cli
from harness.config.experiment import parse_experiment
from harness.measure.campaign import file
from harness.records import (
    CapacityResult,
    Cell,
    DriveReport,
    GpuSample,
    HostSample,
    Load,
    Manifest,
    PlannedRequest,
    ProbeResult,
    RequestRecord,
    ServerSample,
    Startup,
    TargetInfo,
)
from harness.store.columns import to_table
from harness.store.manifest import write_capacity, write_manifest
from harness.store.parts import final_path, part_path, write_file
from tests.judge import run_builder as built

CAMPAIGN = "20261124T113000Z"
EXPERIMENT = {
    "experiment": "small",
    "seed": 1,
    "targets": [
        {
            "name": "a", "kind": "adopt", "model": "m", "url": "http://127.0.0.1:9/v1", "flags": {"max-num-seqs": 8},
            "hardware": {"name": "box", "usd_per_hour": 1.5, "source": "list", "as_of": "2026-11-01"},
        },
    ],
    "workloads": ["fixed:128x8"],
    "loads": [{"concurrency": [2], "requests": 60}, {"rate": [4.0], "requests": 60}, {"capacity": {"start_rps": 4}}],
    "slo": {"ttft_from_schedule_s": 1.0, "tpot_s": 0.5},
    "cost": {"utilisation": 0.6, "hosted": [{"provider": "groq", "model": "llama-3.1-8b-instant"}]},
}  # fmt: skip


TELEMETRY = {
    "gpu": "ok", "server": "ok", "host": "ok",
    "gpu_facts": {"source": "NVML", "chosen": "NVML lists the target's process", "certain": True, "no_energy": None, "others_unknown": None,
                  "sees_all_processes": True, "energy_counter_period_ns": 20_000_000, "xids": [[0, 63]], "calls": {"power": {"count": 9, "p50_us": 3.5, "max_us": 80.0}}},
}  # fmt: skip


def _drive() -> dict[str, object]:
    report = DriveReport(
        "wire", 1, built.BASE_NS, built.ns(60), "kernel", "done", 900, 0, 0.5, 0.1, 0.001, 0, 7,
        ((built.BASE_NS, 1_700_000_000_000_000_000, 100), (built.ns(60), 1_700_000_000_000_000_000, 100)), ((0, 10),), 4096, ("a note",),
    )  # fmt: skip
    line = {
        "kind": "kernel JIT",
        "seen_ns": report.started_ns,
        "logged_at": "11-26 04:40:01",
        "text": "Triton kernel JIT compilation",
    }
    compiling = {"rounds": [[8, 4]], "round_lines": [1], "lines": [line], "count": 1}
    return {"warmup": asdict(report), "measure": asdict(report), "compiling": compiling}


def manifest_of(cell: Cell, run_id: str) -> Manifest:
    target = TargetInfo(
        cell.target, "adopt", "http://127.0.0.1:9/v1", "m", 2048, "0.32.0", {"max_num_seqs": 8}, {"block_size": "16"}, (),
        Startup(1.0, 2.0, 30.0, 31.0), "http://127.0.0.1:9/metrics", {"model": "listed"},
    )  # fmt: skip
    environment = {
        "cpu_model": "x", "cores": {"usable": 2}, "host_sha256": "0", "machine": "Amazon EC2 p5.4xlarge", "container": None,
        "machine_boards": ["NVIDIA H100 80GB HBM3"], "gpus": [{
            "index": 0, "uuid": "GPU-0", "name": "NVIDIA H100 80GB HBM3", "driver_version": "580.95.05", "power_limit_mw": 700_000,
            "sm_clock_limit_mhz": 1980, "memory_total_bytes": 85_000_000_000, "ecc_enabled": True, "mig_enabled": False, "mig_profiles": [],
            "ecc_uncorrected_errors": 0, "nvlinks_active": 18, "pcie_width": 16, "pcie_width_limit": 16, "pcie_generation": 5, "numa_node": 0,
        }],
        "memory_bytes": 10**11, "git": {"commit": "c", "dirty": False}, "packages": {"numpy": "2"}, "variables": {}, "plan_notes": ["n"],
        "calibration": None, "cool_down": None,
    }  # fmt: skip
    config = parse_experiment(EXPERIMENT, "x").model_dump(mode="json")
    return Manifest(
        1, run_id, "small", CAMPAIGN, cell, "complete", "2026-11-24T11:30:00+00:00", 1, 1, "0.1.0", config, "c" * 64, "p" * 64, 7,
        environment, asdict(target), _drive(), TELEMETRY, {}, None,
    )  # fmt: skip


def _run(folder: Path, cell: Cell, records: list[RequestRecord], *, parts: bool = False) -> None:
    folder.mkdir(parents=True)
    measured = [r for r in records if r.phase == "measure"]
    rows = {
        "requests": (RequestRecord, records),
        "plan": (PlannedRequest, [PlannedRequest(r.seq, r.scheduled_ns, 128, 8, None, 1 + r.seq) for r in measured]),
        "gpu": (GpuSample, built.gpu(6, hz=2)),
        "server": (ServerSample, built.edges(records)),
        "host": (HostSample, built.host(records)),
    }
    for table, (_, found) in rows.items():
        path = part_path(folder, table, 1) if parts and table != "plan" else final_path(folder, table)
        path.parent.mkdir(exist_ok=True)
        write_file(path, table, to_table(table, found))
    counts = {table: len(found) for table, (_, found) in rows.items()}
    done = replace(manifest_of(cell, folder.name), row_counts=counts)
    write_manifest(folder, replace(done, state="interrupted") if parts else done)


def _capacity(folder: Path, cell: Cell) -> None:
    probe_dir = "probe-1"
    _run(folder / probe_dir, Cell(cell.target, cell.workload, Load(rate_rps=4.0), 1), built.open_loop(4, 24))
    write_manifest(folder, manifest_of(cell, folder.name))
    probe = ProbeResult(
        1,
        4.0,
        4.0,
        60.0,
        60,
        60,
        ((30, 30), (30, 30)),
        1.0,
        0.95,
        1.0,
        50.0,
        480,
        4.0,
        "pass",
        "clearly above",
        probe_dir,
        0.1,
    )
    high = replace(
        probe,
        index=2,
        rate_rps=8.0,
        good=10,
        attainment=0.2,
        low=0.1,
        high=0.3,
        verdict="fail",
        stopped="clearly below",
        run_id=None,
    )
    write_capacity(folder, CapacityResult("found", 6.0, 5.5, 6.5, 48.0, 0.99, 0.03, 120.0, (probe, high), "bracketed"))


def build(results: Path) -> Path:
    """Writes the experiment under `results` and puts it into the history; returns its directory."""
    out = results / "small"
    spec = parse_experiment(EXPERIMENT, "x")
    for load, records in (
        (Load(concurrency=2), built.closed_loop(2, 24)),
        (Load(rate_rps=4.0), built.open_loop(4, 24)),
    ):
        for repetition in (1, 2) if load.rate_rps else (1,):
            cell = Cell("a", "fixed:128x8", load, repetition)
            _run(out / f"{CAMPAIGN}_{cell.name}", cell, records, parts=load.rate_rps is not None and repetition == 2)
    cell = Cell("a", "fixed:128x8", Load(arrivals="capacity"), 1)
    _capacity(out / f"{CAMPAIGN}_{cell.name}", cell)
    order = ("a_fixed-128x8_c2_rep1", "a_fixed-128x8_r4_rep1", "a_fixed-128x8_capacity_rep1")
    made = file.create(out, spec, (), order)
    (out / "small.yaml").write_text(json.dumps(EXPERIMENT))
    file.path_of(out, made.campaign_id).rename(file.path_of(out, CAMPAIGN))
    path = file.path_of(out, CAMPAIGN)
    path.write_text(path.read_text().replace(made.campaign_id, CAMPAIGN))
    cli.main(["history", "index", str(results)], prog_name="harness", standalone_mode=False)
    return out
