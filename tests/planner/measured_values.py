"""Runs at a load with an attainment, and searches, as the capacity of a plan is taken from them."""

from __future__ import annotations

from dataclasses import replace

from harness.judge.capacity.orders import over_repetitions
from harness.judge.repeats import LEVEL
from harness.records import (
    CapacityResult,
    Cell,
    Load,
    SearchedCapacity,
    Window,
)
from tests.price.cost_summaries import summary

SLO = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}
HERE = {
    "gpus": [{"name": "H100"}],
    "cpu_model": "x",
    "cores": {"usable": 8},
    "host_sha256": "a1",
    "server": {"server_version": "0.11.0", "flags": {"max_num_seqs": 64}},
}


def offered(rate, attainment, requests=10_000, repetition=0, **words):
    """An open-loop run at a Poisson rate, `attainment` of its requests good."""
    cell = Cell("t", "w", Load(rate_rps=rate), repetition)
    found = summary(attainment=attainment, goodput_rps=rate * attainment, request_rps=rate)
    return replace(
        found, run_id=f"r{rate:g}-{repetition}", cell=cell, config={"slo": SLO}, environment=HERE,
        window=Window(0, 1, "", requests / rate, 0, 0), usage=((10, 0, 5, 0),) * 3,
        **{"target_kind": "vllm", **words},
    )  # fmt: skip


def closed(concurrency, goodput, **words):
    cell = Cell("t", "w", Load(concurrency=concurrency), 0)
    found = summary(attainment=1.0, goodput_rps=goodput, request_rps=goodput)
    return replace(found, run_id=f"c{concurrency}", cell=cell, config={"slo": SLO}, environment=HERE, **words)


def searches(*results, target="t", workload="w", probes=("probe",)):
    """What judge.runs.searched makes of these results."""
    mean = over_repetitions(results)
    return [
        SearchedCapacity(
            target, workload, 0.99, mean.state, mean.repetitions, mean.mean_rps, mean.low_rps, mean.high_rps, LEVEL, ("s1",), probes,
            "2026", "; ".join(r.why for r in results),
        )
    ]  # fmt: skip


def result(state="found", capacity=10.0, low=9.8, high=10.2, probes=(), why="because"):
    return CapacityResult(state, capacity, low, high, 320.0, 0.99, 0.03, 600.0, probes, why)


PROBE = replace(offered(9.7, 0.995), run_id="probe")
