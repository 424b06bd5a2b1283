"""Runs of one server as capacities are read from them, made by hand."""

from __future__ import annotations

from dataclasses import replace

from harness.price.machine_match import RanOn
from harness.records import Cell, Load, Reason, Verdict, Window
from tests.price.cost_summaries import summary

USAGE = ((10, 0, 5, 0),)
BOARD = {"gpus": [{"name": "H100"}], "host_sha256": "a1"}
ONE_GPU = RanOn(1, "one, by its flags", ("H100",))
UNKNOWN = Verdict("UNKNOWN", (Reason("few_requests", "unknown", "few", ""),))
GREW = Verdict("UNKNOWN", (Reason("queue_growing", "unknown", "grew", ""),))
FAILED = Verdict("INVALID", (Reason("too_many_failures", "invalid", "failed", ""),))
LATE = Verdict("INVALID", (*FAILED.reasons, Reason("send_lag", "invalid", "late", "")))


def run(name, load, *, attainment=0.999, goodput=None, slo=True, requests=10_000, **words):
    """A run of 10,000 requests at a load; with an SLO of 99 % unless told."""
    rate = load.rate_rps or 10.0
    scalars = {
        "attainment": attainment,
        "goodput_rps": goodput or (attainment or 0) * rate,
        "scheduled_rate_rps": None,
        "request_rps": rate,
    }
    made = summary(**scalars, created_utc="2026-11-01", usage=USAGE)
    return replace(
        made, run_id=name, cell=Cell("t", "w", load, 0), environment=BOARD, config={"slo": {"ttft_s": 1, "attainment": 0.99}} if slo else {},
        window=Window(0, 1, "", requests / rate, 0, 0), **words,
    )  # fmt: skip


def at(rate, name=None, arrivals="poisson", **words):
    return run(name or f"r{rate:g}", Load(rate_rps=float(rate), arrivals=arrivals), **words)
