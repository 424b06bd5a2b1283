"""What a day is replayed with, out of the runs of an experiment: the own side's model, the hosted side's latencies and bill, the promise."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from harness.base.errors import ConfigError
from harness.config.experiment import SloSpec, of_run
from harness.config.price_ref import PriceRef
from harness.judge.runs import analyse, run_data
from harness.planner.modelled_sides import batching_of, latencies_of, lengths_of
from harness.planner.policies import DayTerms
from harness.price.hosted import find_price, usd_by_lengths
from harness.price.hosted_api import api_of_run
from harness.price.machine_price import machine_price
from harness.price.prices import day_of
from harness.records import OVERLOAD, Hardware, RunSummary


def day_terms(
    directory: Path,
    campaign: str | None,
    own: str,
    hosted: str,
    *,
    ref: PriceRef | None = None,
    hardware_of: Callable[[str], Hardware | None] = lambda _: None,
    slots: int | None = None,
) -> DayTerms:
    """The terms that the runs of targets `own` and `hosted` show. `ref`, `hardware_of(created_utc)`: other prices than the config's.

    Raises ConfigError: no run of a target, no promise, no price; StoreError: no readable run.
    """
    analysis = analyse(directory, campaign)
    summaries = analysis.summaries
    found = {name: [run for run in summaries if run.cell.target == name] for name in (own, hosted)}
    for name, runs in found.items():
        if not runs:
            known = ", ".join(sorted({run.cell.target for run in summaries}))
            raise ConfigError("no run of this target", name, f"targets with runs here: {known}")
    first = found[own][0]
    slo = of_run(SloSpec, first.config.get("slo") or {}, first.run_id)
    if not slo.limits:
        raise ConfigError("the runs promise nothing", first.run_id, "policies are compared at slo: {..} with a limit")
    hardware = hardware_of(first.created_utc)
    price = machine_price(first) if hardware is None else None
    known_hardware = hardware or (price.hardware if price else None)
    if known_hardware is None:
        raise ConfigError("no price of the own machine", own, price.why if price else "")
    steady = [run for run in found[hosted] if not OVERLOAD & {reason.code for reason in run.verdict.reasons}]
    if not steady:
        advice = "its latencies are its queue's there: measure it at a rate that it takes"
        raise ConfigError("every run of the hosted side is overloaded", hosted, advice)
    own_runs, hosted_runs = run_data(analysis, found[own]), run_data(analysis, steady)
    return DayTerms(
        own=batching_of(own_runs, slots),
        latencies=latencies_of(hosted_runs),
        lengths=lengths_of(own_runs),
        replica_usd_per_hour=float(known_hardware.usd_per_hour),
        hosted_usd=_hosted_usd(found[hosted][0], ref, day_of(first.created_utc)),
        promise=slo.limits,
        attainment=slo.attainment,
        names=(own, hosted),
    )


def _hosted_usd(run: RunSummary, ref: PriceRef | None, at: datetime) -> Callable[[int, int], float]:
    """Dollars of one request to the API of a run by (prompt, output tokens), at `ref` or the API's own price. Raises ConfigError."""
    api = api_of_run(run)
    ref = ref or (None if api is None else api.ref)
    if ref is None:
        raise ConfigError(
            "no price of the hosted side", run.cell.target, "give --hosted-price, or price: of the target"
        )
    return usd_by_lengths(find_price(ref, at) if api is None else api.price(ref, at))
