"""From judged runs to dollars: each at the price of its machine, where that is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.base.errors import InvalidRunError
from harness.config.experiment import CostSpec, of_run
from harness.config.target import HardwareSpec
from harness.price.example_price import is_example, why_not
from harness.price.prices import day_of, declared, instance_price
from harness.price.proposal import MachinePrice, propose
from harness.price.run_cost import cost_run
from harness.records import CostReport, Hardware, RunSummary


def price_runs(
    summaries: Sequence[RunSummary],
    overrides: CostSpec | None = None,
    hardware: Hardware | None = None,
    *,
    allow_invalid: bool = False,
) -> list[CostReport]:
    """Price every run that may be priced: what its config declares, unless `overrides` or `hardware` say otherwise.

    An INVALID run is left out unless asked for by `allow_invalid`; if all are INVALID, InvalidRunError.
    """
    reports: list[CostReport] = []
    refused: list[InvalidRunError] = []
    for summary in summaries:
        spec = overrides or of_run(CostSpec, summary.config.get("cost", {}), summary.run_id)
        try:
            price = machine_price(summary) if hardware is None else MachinePrice(hardware)
            reports.append(cost_run(summary, price.hardware, spec, allow_invalid=allow_invalid, no_price=price.why))
        except InvalidRunError as error:
            refused.append(error)
    if refused and not reports:
        raise refused[0]
    return reports


def declared_hardware(summary: RunSummary) -> Hardware | None:
    """The price that the run's config declares for its target's machine, None if it declares none, or an example that does not hold.

    It is either written out, or the name of an instance in configs/prices/instances.csv, at its price of the run's date.
    """
    return _declared(summary).hardware


def machine_price(summary: RunSummary) -> MachinePrice:
    """The price of the run's machine: what its config declares, else what is proposed for the boards it ran on, else why none."""
    found = _declared(summary)
    if found.hardware is not None:
        return found
    proposed = propose(summary, day_of(summary.created_utc))
    return replace(proposed, why="; ".join(filter(None, (found.why, proposed.why))))


def _declared(summary: RunSummary) -> MachinePrice:
    target: Mapping[str, Any] = next(
        (t for t in summary.config.get("targets", []) if t.get("name") == summary.cell.target), {}
    )
    found = target.get("hardware")
    if not found:
        return MachinePrice(None)
    if isinstance(found, str):
        return MachinePrice(instance_price(found, day_of(summary.created_utc)))
    spec = of_run(HardwareSpec, found, summary.run_id)
    if not is_example(found):
        return MachinePrice(declared(spec))
    boards = [str(name) for name in summary.environment.get("machine_boards") or ()]
    boards += [str(gpu.get("name")) for gpu in summary.environment.get("gpus") or ()]
    if (why := why_not(summary.experiment, target, boards)) is not None:
        return MachinePrice(None, f"the example price is left out: {why}")
    return MachinePrice(replace(declared(spec), basis="example"))
