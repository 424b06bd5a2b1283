"""A fleet whose truth is known: what it served, hour by hour, as the monitor's usages, and every request's time."""

from __future__ import annotations

import math

import numpy as np

from harness.config.monitor import MonitorSpec
from harness.monitor.capacity import MeasuredModel
from harness.monitor.paid import paid_servers
from harness.monitor.view import view
from harness.planner.measured import Measured
from harness.planner.uncertainty import Interval
from harness.price.machine_match import RanOn
from harness.records.monitor import COUNTERS, GAUGES, Histogram, MonitorView, ServerUsage

NS = 1_000_000_000
HOUR_NS = 3600 * NS
START_NS = 1_793_491_200 * NS  # 2026-11-01T00:00:00Z
LE_S = (0.1, 0.25, 0.5, 1.0, 2.5, math.inf)
HARDWARE = {"name": "box", "usd_per_hour": 4.0, "source": "quote", "as_of": "2026-10-01", "gpu_model": "H100", "gpu_count": 1}  # fmt: skip
HOSTED = {
    "provider": "them", "model": "m", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0, "cached_input_usd_per_million": 0.1,
    "source": "their page", "as_of": "2026-10-20",
}  # fmt: skip


def spec(*pools: dict, **more) -> MonitorSpec:
    """A config; a pool is one listed server at $4/h unless told otherwise."""
    made = [
        {"name": "chat", "servers": ["http://a:8000/metrics"], "hardware": HARDWARE} | pool for pool in pools or ({},)
    ]
    return MonitorSpec.model_validate({"name": "prod", "pools": made, **more})


def usage(
    server="a:8000", model="m", *, start=START_NS, end=START_NS + HOUR_NS, tenant="", pool="chat", times=None, covered_s=None, gap_s=0.0,
    restarts=0, lost=0, requests=0.0, prompt=0.0, cached=0.0, output=0.0, **counters,
) -> ServerUsage:  # fmt: skip
    """What one row did; `times`: every request's TTFT."""
    told = dict.fromkeys(COUNTERS) | {
        "requests": float(requests), "prompt_tokens": float(prompt), "cached_tokens": cached, "output_tokens": float(output),
        "errors": 0.0, "preemptions": 0.0, **counters,
    }  # fmt: skip
    return ServerUsage(
        server=server, model=model, tenant=tenant, pool=pool, engine="vllm", from_ns=start, to_ns=end,
        covered_s=(end - start) / NS - gap_s if covered_s is None else covered_s, gap_s=gap_s, restarts=restarts, lost=lost,
        counters=told, gauges=dict.fromkeys(GAUGES), histograms={} if times is None else {"ttft": histogram(times)},
    )  # fmt: skip


def histogram(times, le_s=LE_S) -> Histogram:
    """As Prometheus has it: how many took at most each bound."""
    values = np.sort(np.asarray(times, float))
    return Histogram(tuple(le_s), tuple(float(np.searchsorted(values, le, side="right")) for le in le_s))


def measured(
    rps=10.0, low=9.0, high=11.0, boards=("NVIDIA H100 80GB HBM3",), lengths=(100, 20), name="run1"
) -> MeasuredModel:
    """Model m measured once."""
    interval = None if low is None else Interval(low, rps, high, 0.9, "search", 3)
    one = Measured(
        low or rps, rps, interval, ((lengths[0], 0, lengths[1], 0),), (name,), ("m",), "2026-10-30", "capacity search", (),
        ran_on=RanOn(len(boards) or None, "NVML", boards),
    )  # fmt: skip
    return MeasuredModel("m", (one,))


def hours(rates, *, servers=("a:8000",), pool="chat", tokens=(100, 20), **more) -> list[ServerUsage]:
    """Hourly usages of servers that share these requests/s equally: `rates` from START_NS on."""
    found = []
    for at, rate in enumerate(rates):
        each = rate * 3600 / len(servers)
        for server in servers:
            found.append(
                usage(
                    server, pool=pool, start=START_NS + at * HOUR_NS, end=START_NS + (at + 1) * HOUR_NS, requests=each, prompt=each * tokens[0],
                    output=each * tokens[1], **more,
                )
            )  # fmt: skip
    return found


def whole(steps) -> list[ServerUsage]:
    """The window of these steps as one usage a row."""
    keys = {}
    for one in steps:
        keys.setdefault((one.server, one.model, one.tenant, one.pool), []).append(one)
    found = []
    for (server, model, tenant, pool), mine in keys.items():
        sums = {
            n: None if any(u.counters[n] is None for u in mine) else math.fsum(u.counters[n] for u in mine)
            for n in COUNTERS
        }
        found.append(
            ServerUsage(
                server=server, model=model, tenant=tenant, pool=pool, engine="vllm", from_ns=min(u.from_ns for u in mine),
                to_ns=max(u.to_ns for u in mine), covered_s=math.fsum(u.covered_s for u in mine), gap_s=math.fsum(u.gap_s for u in mine),
                restarts=0, lost=0, counters=sums, gauges=dict.fromkeys(GAUGES), histograms={},
            )
        )  # fmt: skip
    return found


def first_hour(made: MonitorSpec, usages: list[ServerUsage], **more) -> MonitorView:
    """The view of the hour from START_NS, its servers paid."""
    end_ns = START_NS + HOUR_NS
    paid = paid_servers(made, usages, START_NS, end_ns)
    return view(made, usages, paid, from_ns=START_NS, to_ns=end_ns, **more)
