"""Realistic RunSummary and CostReport values for the report's tests, made by arithmetic from a few numbers."""

from __future__ import annotations

import math
from typing import Any

from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.price.run_cost import cost_run
from harness.records import (
    Cell,
    CostReport,
    Distribution,
    Hardware,
    Load,
    Reason,
    RunSummary,
    Timeline,
    TokenCheck,
    Verdict,
    Window,
)

HOSTILE = "<script>alert(1)</script> | $x_1$ \x1b[31m[/red] `a` **b** \u202e @everyone\n# h"
VALID = Verdict("VALID", ())
INVALID = Verdict(
    "INVALID",
    (
        Reason(
            "failed_requests",
            "invalid",
            "12 of 400 requests failed (reset)",
            "read server.log at the time of the first reset",
        ),
        Reason("short_window", "warning", "the window is 9.1 s long", "send more requests"),
    ),
)
UNKNOWN = Verdict(
    "UNKNOWN",
    (
        Reason(
            "no_server_counters",
            "unknown",
            "the server has no /metrics",
            "counts cannot be compared; use a server that exposes them",
        ),
    ),
)
HARDWARE = Hardware("2-core VM", "0.10", "declared in the experiment file", "2026-11-24")
MODEL = "SmolLM2-135M"


def distribution(metric: str, middle: float, count: int, *, p99: bool = True) -> Distribution:
    """A right-skewed distribution around `middle`."""
    return Distribution(
        metric, "s", count, middle * 1.1, middle, middle * 1.6, middle * 1.9, middle * 2.6 if p99 else None, middle * 3
    )


def timeline(tps: float, in_flight: int, *, gpu: bool) -> Timeline:
    steps = range(60)
    wave = [0.0 if i < 2 or i > 57 else tps * (1 + 0.08 * math.sin(i / 3)) for i in steps]
    series: dict[str, tuple[float | None, ...]] = {
        "output_tps": tuple(wave),
        "in_flight": tuple(float(in_flight) if 1 < i < 56 else float(max(0, 59 - i)) for i in steps),
        "host_cpu_pct": tuple(None if i == 20 else 92 + 4 * math.sin(i) for i in steps),
    }
    if gpu:
        series["gpu_power_w"] = tuple(120 + 200 * (v > 0) + 10 * math.sin(i) for i, v in enumerate(wave))
    return Timeline(tuple(i * 0.5 for i in steps), series)


def scalars_of(load: Load, tps: float, attainment: float | None, *, gpu: bool) -> dict[str, float | None]:
    """Rates that follow from output tokens/s at 32 of them, and 128 of prompt, a request; `attainment` None: no promise."""
    rate_rps = load.rate_rps
    return {
        "offered_rate_rps": rate_rps,
        "scheduled_rate_rps": rate_rps * 0.985 if rate_rps else None,
        "achieved_rate_rps": tps / 32,
        "request_rps": tps / 32,
        "output_tps": tps,
        "total_tps": tps * 5,
        "input_tps": tps * 4,
        "output_tps_whole": tps * 0.96,
        "goodput_rps": None if attainment is None else tps / 32 * attainment,
        "goodput_tps": None if attainment is None else tps * attainment,
        "attainment": attainment,
        "energy_j": 8123.4 if gpu else None,
        "energy_per_output_token_j": 1.83 if gpu else None,
        "harness_cpu_share": 0.021,
    }


def distributions_of(load: Load, in_flight: int, tps: float, requests: int) -> dict[str, Distribution]:
    """Times that follow from requests in flight and output tokens/s."""
    tpot, ttft = in_flight / tps, 0.04 * (1 + in_flight / 4)
    made = [
        distribution("ttft_s", ttft, requests, p99=in_flight > 1),
        distribution("tpot_s", tpot, requests),
        distribution("e2el_s", ttft + 31 * tpot, requests),
        distribution("icl_s", tpot, requests * 31),
    ]
    if load.rate_rps is not None:
        made.append(distribution("ttft_from_schedule_s", ttft * 1.4, requests))
        made.append(distribution("send_lag_s", 0.0002, requests))
    return {one.metric: one for one in made}


def config_of(experiment: str, target: str, kind: str, model: str, *, slo: bool) -> dict[str, Any]:
    """The resolved config, with a secret in it."""
    own = {
        "name": target,
        "kind": kind,
        "model": model,
        "flags": {"max-model-len": 2048, "dtype": "bfloat16"},
        "env": {"HF_TOKEN": "hf_abcdef", "OMP_NUM_THREADS": "2"},
    }
    promise = {"ttft_from_schedule_s": 0.5, "tpot_s": 0.1, "attainment": 0.99}
    return {"experiment": experiment, "seed": 1, "targets": [own], "slo": promise if slo else None}


def run(
    load: Load,
    repetition: int = 1,
    *,
    target: str = "smollm2-cpu",
    kind: str = "vllm",
    model: str = MODEL,
    workload: str = "fixed:128x32",
    verdict: Verdict = VALID,
    tps: float = 163.0,
    slo: bool = False,
    attainment: float = 0.995,
    campaign: str = "20261124T113000Z",
    gpu: bool = False,
    experiment: str = "quickstart",
) -> RunSummary:
    """One run of `load`; its numbers follow from `tps` and the repetition (2 % apart)."""
    tps *= 1 + 0.02 * (repetition - 2)
    cell = Cell(target, workload, load, repetition)
    requests = 120
    in_flight = load.concurrency or 6
    return RunSummary(
        run_id=f"{campaign}_{cell.name}",
        experiment=experiment,
        campaign_id=campaign,
        created_utc="2026-11-24T11:31:07+00:00",
        cell=cell,
        state="complete",
        model=model,
        target_kind=kind,
        window=Window(1_000_000_000, 26_400_000_000, "first to last instant with full concurrency", 25.4, 1.0, 1.9),
        verdict=verdict,
        outcomes={"ok": requests, **({"reset": 12} if verdict.state == "INVALID" else {})},
        scalars=scalars_of(load, tps, attainment if slo else None, gpu=gpu),
        distributions=distributions_of(load, in_flight, tps, requests),
        tokens=(TokenCheck("prompt", 15360, None, 15360, 15360), TokenCheck("output", 3840, 3840, 3840, 3840)),
        timeline=timeline(tps, in_flight, gpu=gpu),
        notes=("no NVML on this machine: GPU columns are absent",) if not gpu else (),
        usage=((128, 0, 32, 0),) * requests,
        startup={"process_s": 3.1, "weights_s": 1.42, "ready_s": 38.4, "first_token_s": 39.9} if kind == "vllm" else {},
        environment={
            "python": "3.11.9",
            "vllm": "0.32.0",
            "cpu": {"model": "AMD EPYC 7B13", "cores": 2, "governor": None},
            "git": {"commit": "09f4012", "dirty": False},
            "plan_sha256": "9f2c" * 16,
        },
        config=config_of(experiment, target, kind, model, slo=slo),
    )


def cost(
    summary: RunSummary, *, hardware: Hardware | None = HARDWARE, utilisation: float = 1.0, hosted: bool = True
) -> CostReport:
    """The costs of a run, by the cost stage itself, at two hosted prices given by hand."""
    prices = [
        PriceRef(
            provider="openai",
            model="gpt-4o-mini",
            input_usd_per_million=0.15,
            output_usd_per_million=0.60,
            source="price list",
            as_of="2026-11-10",
        ),
        PriceRef(
            provider="groq",
            model="llama-3.1-8b-instant",
            input_usd_per_million=0.05,
            output_usd_per_million=0.08,
            source="price list",
            as_of="2026-11-10",
        ),
    ]
    spec = CostSpec(utilisation=utilisation, hosted=prices if hosted else [])
    return cost_run(summary, hardware, spec, allow_invalid=True)


def bare(run_id: str = "bare", verdict: Verdict = UNKNOWN) -> RunSummary:
    """A run of which nothing was observed: None and empty everywhere."""
    return RunSummary(
        run_id=run_id,
        experiment="bare",
        campaign_id="c",
        created_utc="",
        cell=Cell("t", "w", Load(concurrency=1), 1),
        state="interrupted",
        model="m",
        target_kind="hosted",
        window=None,
        verdict=verdict,
        outcomes={},
        scalars={},
        distributions={"ttft_s": Distribution("ttft_s", "s", 0, None, None, None, None, None, None)},
        tokens=(TokenCheck("output", 0, None, None, None),),
        timeline=None,
        notes=(),
    )


def hostile() -> RunSummary:
    """A run whose every word from outside tries to break out of its place."""
    evil = Verdict("INVALID", (Reason("evil", "invalid", HOSTILE, HOSTILE),))
    summary = run(Load(concurrency=4), target=HOSTILE, model=HOSTILE, workload=HOSTILE, verdict=evil)
    values = {name: getattr(summary, name) for name in summary.__slots__}
    return RunSummary(
        **{
            **values,
            "notes": (HOSTILE,),
            "environment": {HOSTILE: HOSTILE},
            "outcomes": {HOSTILE: 1},
            "run_id": HOSTILE,
        }
    )


def closed_loop() -> list[RunSummary]:
    """Concurrency 1..32, three repetitions; repetition 3 of the last cell is INVALID."""
    return [
        run(Load(concurrency=c), rep, tps=190 * c / (c + 3), verdict=INVALID if (c, rep) == (32, 3) else VALID)
        for c in (1, 4, 16, 32)
        for rep in (1, 2, 3)
    ]


def open_loop() -> list[RunSummary]:
    """Four rates with an SLO, two repetitions; the highest rate is INVALID."""
    return [
        run(
            Load(rate_rps=r),
            rep,
            target="smollm2-rate",
            tps=32 * min(r, 5.2),
            slo=True,
            attainment=0.999 if r < 5 else 0.62,
            verdict=INVALID if r == 6 else VALID,
        )
        for r in (1.0, 2.0, 4.0, 6.0)
        for rep in (1, 2)
    ]


def everything() -> tuple[list[RunSummary], list[CostReport]]:
    """Both loops, with the cost of every run that is not INVALID."""
    summaries = [*closed_loop(), *open_loop()]
    return summaries, [cost(s) for s in summaries if s.verdict.state != "INVALID"]
