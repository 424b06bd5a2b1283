"""Cost as Prometheus text, under the names that OpenCost gives to inference cost.

    llm_total_hourly_cost, llm_cost_per_million_tokens{cost_basis, phase, allocation_method, ..}, llm_cache_savings_fraction

`cost_basis` usage: the machine as if it were full (what compares with a hosted price); allocation: the whole paid machine at its
utilisation (build or buy). Every split names its `allocation_method`. OpenCost's own split by mean time per output token is not used:
it makes long outputs cheaper than inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.price.unit_cost import decimal_text
from harness.records import CostReport, RunSummary

_HELP = {
    "llm_total_hourly_cost": "USD per paid hour of the machine, estimate from a benchmark",
    "llm_cost_per_million_tokens": "USD per million tokens, estimate from a benchmark",
    "llm_cache_savings_fraction": "Share of prompt tokens found in the prefix cache",
}
_PHASES = (("", "total"), ("prompt", "input"), ("generation", "output"))

Sample = tuple[str, dict[str, str], Decimal]


def opencost_samples(summary: RunSummary, report: CostReport) -> list[Sample]:
    """Samples of one run; a figure that was not computed has no sample (absent is not 0)."""
    labels = {
        "model_name": summary.model, "model_version": str(summary.config.get("model_version", "")), "namespace": summary.experiment,
        "run_id": summary.run_id, "workload_type": summary.cell.workload,
    }  # fmt: skip
    samples: list[Sample] = []
    if report.hardware is not None:
        samples.append(("llm_total_hourly_cost", labels, Decimal(report.hardware.usd_per_hour)))
    utilisation = Decimal(repr(report.utilisation))
    usd = {line.name: line.usd for line in report.own}
    for phase, name in _PHASES:
        text = usd.get(f"self_usd_per_million_{name}_tokens")
        if text is None:
            continue
        method = "none" if not phase else "price-ratio"
        for basis, value in (("allocation", Decimal(text)), ("usage", Decimal(text) * utilisation)):
            more = {"phase": phase, "cost_basis": basis, "allocation_method": method}
            samples.append(("llm_cost_per_million_tokens", labels | more, value))
    prompt = sum(u[0] for u in summary.usage)
    if prompt:
        cached = Decimal(sum(u[1] for u in summary.usage)) / prompt
        samples.append(("llm_cache_savings_fraction", labels, cached))
    return samples


def opencost_text(runs: Sequence[tuple[RunSummary, CostReport]]) -> str:
    """Prometheus text of several runs, values of at most 12 digits. Raises ConfigError where there is nothing to say."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry, gauges = CollectorRegistry(), dict[str, Gauge]()
    for summary, report in runs:
        for name, labels, value in opencost_samples(summary, report):
            if name not in gauges:
                gauges[name] = Gauge(name, _HELP[name], list(labels), registry=registry)
            gauges[name].labels(**labels).set(float(decimal_text(value)))
    if not gauges:
        raise ConfigError("nothing to export", f"{len(runs)} runs", "a run needs a priced machine or usage")
    return generate_latest(registry).decode()
