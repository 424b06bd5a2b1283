"""Runs of simulated servers held against the steady state of the same server: is any VALID number off by more than 3 %?

The truth is one very long run of the same engine, plan and load, its beginning and end cut off. What a short run could know of it at
best is a stretch of as many requests taken from its middle: the spread of those stretches is the run's own sampling error, and for
what is biased in short stretches (a p99 where bursts are rare) their mean stands for the truth. Nothing here uses the window's code.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np

from harness.config.experiment import CostSpec
from harness.judge.summary import summarise
from harness.price.run_cost import cost_run
from harness.records import Hardware, Load, RunSummary
from tests.judge import run_builder, serving
from tests.judge.serving import Engine, Offered

SLO = {"ttft_from_schedule_s": 0.5, "tpot_s": 0.03}
MAX_OFF = 0.03
_SAMPLING = 0.5  # standard deviations of the sampling error that the mean over runs may be off, where that is more
_CHANCE = 3.5  # standard errors: what means of a few runs differ by chance, over thousands of comparisons
_STRETCHES = 120
_HARDWARE = Hardware("box", "3.6", "a round figure", "2026-01-01")
_MOVING = (
    "ramp", "ramp:1-3", "ramp:3-1", "step:1,4", "step:7,1,1,1", "step:1,1,1,7", "step:1,7,1,1", "step:1,2,3", "onoff:2:6",
    "onoff:5:15:0.2", "diurnal:reason/deepseek-r1:60", "diurnal:language/m-small:120",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """`load`: the offered rate over the engine's capacity; None in a closed loop and where there is no limit."""

    engine: Engine
    offered: Offered
    load: float | None

    def __str__(self) -> str:
        o = self.offered
        size = f"{o.requests} requests" if o.requests else f"{o.duration_s:g} s"
        at = "" if self.load is None else f" ({self.load:.0%} of capacity)"
        return f"{o.workload} {o.load.name}{at}, {size}, {self.engine}"


@dataclass(frozen=True)
class Off:
    """A number whose mean over the VALID runs differs from the truth: `by` and `allowed` as shares of it."""

    case: Case
    number: str
    by: float
    allowed: float
    runs: int


def random_case(rng: random.Random) -> Case:
    """Engines with and without a limit and a queue; loads up to overload; fixed, even and heavy-tailed lengths; runs from too short to long."""
    prompt, output = rng.choice([64, 512]), rng.choice([8, 50, 200])
    workload, mean = rng.choice([
        (f"fixed:{prompt}x{output}", 1), (f"uniform:{prompt // 2}-{prompt * 2}x{output // 2}-{output * 2}", 1.25),
        (f"lognormal:{prompt}x{output}:1", 1), (f"lognormal:{prompt}x{output}:2", 1),
    ])  # fmt: skip
    engine = Engine(
        step_s=rng.choice([0.005, 0.02]), per_sequence_s=rng.choice([0, 0.0002, 0.001]),
        prefill_s_per_token=rng.choice([0, 0.0001, 0.0005]), slots=rng.choice([None, 8, 32]),
    )  # fmt: skip
    if rng.random() < 1 / 3:
        c = rng.choice([1, 4, 16, 64])
        requests = int(c * rng.choice([2, 2.5, 2.9, 3.3, 4, 5, 6.5, 8, 12, 20, 40])) + rng.choice([0, 0, 1, c // 3])
        return Case(engine, Offered(workload, Load(concurrency=c), requests=min(3000, max(requests, 20))), None)
    capacity = engine.capacity_rps(prompt * mean, output * mean)
    load = (
        None
        if math.isinf(capacity)
        else rng.choice([0.3, 0.6, 0.8, 0.9, 1.5, 2.0] if engine.slots else [0.3, 0.6, 1.5])
    )
    rate = min(rng.choice([5, 20, 50]) if load is None else capacity * load, 200)
    arrivals = rng.choice(["poisson", "constant", "gamma:0.5"])
    duration_s = min(rng.choice([8, 12, 24, 60, 120]), 4000 / rate)
    return Case(
        engine, Offered(workload, Load(rate_rps=float(f"{rate:.4g}"), arrivals=arrivals), duration_s=duration_s),
        None if load is None else rate / capacity,
    )  # fmt: skip


def moving_case(rng: random.Random) -> Case:
    """Replies of 50 tokens; arrivals whose rate changes, by their words or by chance; engines with and without a queue, at up to 60 %."""
    step_s, per_sequence_s, prefill_s = rng.choice([0.005, 0.02]), rng.choice([0.0005, 0.001]), rng.choice([0, 0.0005])
    engine = Engine(step_s, per_sequence_s, prefill_s, slots=rng.choice([None, 32]))
    load = rng.choice([0.1, 0.3, 0.6])
    rate = float(f"{min(load * engine.capacity_rps(64, 50), 60):.4g}")
    arrivals, duration_s = rng.choice(_MOVING), rng.choice([30, 60, 240])
    return Case(engine, Offered("fixed:64x50", Load(rate_rps=rate, arrivals=arrivals), duration_s=duration_s), load)


def off_the_plan(case: Case, seed: int) -> float | None:
    """By how much the requests and tokens a second of a run differ from those of all that was sent, the larger share; None: it is not VALID."""
    summary = summary_of(case, seed)
    if summary.verdict.state != "VALID":
        return None
    served = serving.serve(case.engine, case.offered, seed)
    seconds = served["due"][-1] - served["due"][0]
    whole = {"request_rps": (len(served["due"]) - 1) / seconds, "output_tps": served["output"][1:].sum() / seconds}
    return max((float(summary.scalars[name] or 0) / exact - 1 for name, exact in whole.items()), key=abs)


def summary_of(case: Case, seed: int) -> RunSummary:
    """One short run through the real analysis; a hosted target, since the simulated server has no counters."""
    load = case.offered.load
    rows = serving.frame(serving.serve(case.engine, case.offered, seed), load)
    data = run_builder.run([], load, slo=SLO, server=None, host_rows=None, kind="hosted")
    return summarise(replace(data, requests=rows, plan=rows[["seq"]]))


def numbers(summary: RunSummary) -> dict[str, float | None]:
    """What reaches people and money."""
    names = ("request_rps", "output_tps", "total_tps", "goodput_rps", "goodput_tps", "attainment")
    found = {name: summary.scalars[name] for name in names}
    found |= {f"{m}.{p}": getattr(summary.distributions[m], p) for m, p in _PERCENTILES}
    cost = cost_run(replace(summary, target_kind="vllm"), _HARDWARE, CostSpec())
    lines = {line.name: line.usd for line in cost.own}
    for name in ("self_usd_per_million_total_tokens", "self_usd_per_1000_good_requests"):
        usd = lines[name]
        found[name] = None if usd is None else float(Decimal(usd))
    return found


_PERCENTILES = tuple((m, p) for m in ("ttft_s", "tpot_s", "e2el_s") for p in ("p50", "p90", "p99"))


class Truth:
    """A very long run of a case's engine and load."""

    def __init__(self, case: Case, requests: int) -> None:
        o = case.offered
        self.served = serving.serve(case.engine, Offered(o.workload, o.load, requests=requests), seed=99)
        s = self.served
        self.wait, self.e2el = s["first"] - s["due"], s["last"] - s["due"]
        with np.errstate(all="ignore"):
            self.tpot = np.where(s["output"] > 1, (s["last"] - s["first"]) / (s["output"] - 1), np.nan)
            self.good = (self.wait <= SLO["ttft_from_schedule_s"]) & (self.tpot <= SLO["tpot_s"])
        self.begin, self.end = int(requests * 0.2), int(requests * 0.9)

    def over(self, begin: int, end: int) -> dict[str, float]:
        """The numbers of the requests begin..end of the long run."""
        s, of = self.served, slice(begin, end)
        seconds = float(s["due"][end] - s["due"][begin])
        tokens, good = s["output"][of], self.good[of]
        total = float((tokens + s["prompt"][of]).sum())
        found = {
            "request_rps": (end - begin) / seconds, "output_tps": tokens.sum() / seconds, "total_tps": total / seconds,
            "goodput_rps": good.sum() / seconds, "goodput_tps": tokens[good].sum() / seconds, "attainment": good.mean(),
            "self_usd_per_million_total_tokens": 3.6 * seconds / 3600 / total * 1e6,
            "self_usd_per_1000_good_requests": 3.6 * seconds / 3600 / good.sum() * 1e3 if good.any() else np.nan,
        }  # fmt: skip
        for name, values in (("ttft_s", self.wait), ("tpot_s", self.tpot), ("e2el_s", self.e2el)):
            seen = values[of][~np.isnan(values[of])]
            at = np.quantile(seen, (0.5, 0.9, 0.99)) if len(seen) else (np.nan,) * 3
            found |= {f"{name}.{p}": value for p, value in zip(("p50", "p90", "p99"), at, strict=True)}
        return found

    def stretches(self, length: int) -> dict[str, np.ndarray]:
        step = max(length, (self.end - self.begin - length) // _STRETCHES)
        rows = [self.over(at, at + length) for at in range(self.begin, self.end - length, step)]
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def judged(case: Case, seeds: range) -> tuple[int, list[Off]]:
    """How many runs of the case are VALID, and every number of theirs with how far it is off. Raises if goodput exceeds throughput."""
    valid, counted = [], []
    for seed in seeds:
        summary = summary_of(case, seed)
        for good, whole in (("goodput_rps", "request_rps"), ("goodput_tps", "output_tps")):
            assert (summary.scalars[good] or 0) <= (summary.scalars[whole] or 0), f"{good} above {whole}: {case}"
        if summary.verdict.state == "VALID":
            valid.append(numbers(summary))
            counted.append(summary.distributions["e2el_s"].count)
    if len(valid) < 3:
        return len(valid), []
    length = round(float(np.mean(counted)))
    truth = Truth(case, max(8000 if case.offered.load.concurrency else 20000, min(100_000, 60 * length)))
    whole, parts = truth.over(truth.begin, truth.end), truth.stretches(length)
    found = []
    for name, exact in whole.items():
        seen = np.array([run[name] for run in valid if run[name] is not None], float)
        known = parts[name][~np.isnan(parts[name])]
        if len(seen) < 3 or len(known) < 3 or not exact or math.isnan(exact):
            continue
        spread = float(known.std(ddof=1)) / abs(exact)
        chance = math.hypot(float(seen.std(ddof=1)) / abs(exact) / len(seen) ** 0.5, spread / len(known) ** 0.5)
        by = float(seen.mean() - known.mean()) / abs(exact)
        found.append(Off(case, name, by, max(MAX_OFF, _SAMPLING * spread) + _CHANCE * chance, len(valid)))
    return len(valid), found
