"""A scenario as a spreadsheet whose formulas live: change an input, and fleet, bill and break-even follow.

Sheets: Inputs (values with source and date, the only typed-in numbers), Demand (an hour a row, machines by formula), Costs (by
formula), Claims (published arithmetic beside ours). Every formula carries the value computed here, for readers that do not calculate.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from harness.base.quantities import HOURS_PER_MONTH
from harness.planner.fleet import replicas_for
from harness.planner.measured import Measured
from harness.planner.scenario.inputs import Base, base_of
from harness.planner.scenario.run import ScenarioResult


@dataclass(frozen=True, slots=True)
class Cell:
    """A named cell: a number typed in, or a formula over names. `value`: the number, or what the formula gives."""

    name: str
    label: str
    value: float
    unit: str
    formula: str | None
    source: str = ""  # none: the formula is shown in its place


def _paid(base: Base) -> float:
    """Machines paid on average."""
    return float(base.fleet.paid_replica_hours / Decimal(repr(base.fleet.hours)))


def _inputs(result: ScenarioResult, base: Base) -> list[Cell]:
    spec, counts = result.spec, base.fleet.replicas
    fleet, w = spec.fleet, spec.workload
    extra = _paid(base) / (sum(counts) / len(counts)) - 1  # those of a fixed fleet are all the same
    capacity = "; ".join(base.capacity_inputs.values())
    price = f"{base.machine.source}, {base.machine.as_of}, {base.price_age}"
    rows: list[tuple[str, str, float | Decimal, str, str]] = [
        ("requests_per_month", "requests", spec.demand.requests_per_month, "per month", spec.demand.source),
        ("hours_per_month", "hours of a mean month", HOURS_PER_MONTH, "h", "8766 / 12"),
        ("input_tokens", "input tokens of a request", w.input_tokens, "tokens", w.source),
        ("output_tokens", "output tokens of a request", w.output_tokens, "tokens", w.source),
        ("peak_factor", "highest hour of all days over the shape's, for a fixed fleet", base.demand.peak_factor, "", base.demand.source),
        ("capacity_rps", "capacity of a machine at the SLO", base.capacity_rps, "requests/s", capacity),
        ("headroom", "planning headroom", fleet.headroom, "", "declared"),
        ("spares", "spare machines", fleet.spares, "machines", "declared"),
        ("min_machines", "machines at least", fleet.min_replicas, "machines", "declared"),
        ("autoscaled", "1: machines follow the hour; 0: fixed at the peak", fleet.scaling == "autoscaled", "", "declared"),
        ("extra_paid", "share paid on top: cold starts, billing units", extra, "", "computed for this demand"),
        ("machine_usd_per_hour", f"price of {base.machine.name}", base.price, "USD per hour", price),
        ("full_time", "people", spec.labour.full_time, "", spec.labour.source),
        ("usd_per_work_hour", "a work hour", spec.labour.usd_per_work_hour, "USD", spec.labour.source),
        ("storage_usd_per_month", "storage", fleet.storage_usd_per_month, "USD per month", "declared"),
    ]  # fmt: skip
    cells = [Cell(name, label, float(value), unit, None, source) for name, label, value, unit, source in rows]
    for n, option in enumerate(o for o in result.options if o.kind == "hosted"):
        source = f"{option.inputs['price source']}, {option.inputs['price as of']}"
        terms = result.against[n]
        cells += [
            Cell(f"hosted_{n}_usd_per_request", f"{option.name}, a request", float(terms.each_usd), "USD", None, source),
            Cell(f"hosted_{n}_minimum_usd", f"{option.name}, billed at least", float(terms.minimum_usd_per_month), "USD per month", None, "declared"),
        ]  # fmt: skip
    return cells


def _costs(result: ScenarioResult, base: Base) -> list[Cell]:
    def figure(name: str) -> float:
        return float(result.figure(name) or 0)

    month, price, capacity = figure("self_usd_per_month"), figure("machine_usd_per_hour"), figure("capacity_rps")
    requests, w = result.spec.demand.requests_per_month, result.spec.workload
    per_million = month / requests / (w.input_tokens + w.output_tokens) * 1e6
    cells = [
        Cell("mean_rps", "mean demand", figure("mean_rps"), "requests/s", "requests_per_month/(hours_per_month*3600)"),
        Cell("paid_machines", "machines paid on average", _paid(base), "machines", "IF(autoscaled=1,SUM(hourly_machines)/ROWS(hourly_machines),MAX(hourly_machines))*(1+extra_paid)"),
        Cell("machines_usd", "machines", figure("machines_usd_per_month"), "USD per month", "paid_machines*machine_usd_per_hour*hours_per_month"),
        Cell("labour_usd", "labour", figure("labour_usd_per_month"), "USD per month", "full_time*40/168*usd_per_work_hour*hours_per_month"),
        Cell("self_usd", "self-hosted, all in", month, "USD per month", "machines_usd+labour_usd+storage_usd_per_month"),
        Cell("self_usd_per_request", "self-hosted, a request", month / requests, "USD", "self_usd/requests_per_month"),
        Cell("self_usd_per_million", "self-hosted, a million tokens", per_million, "USD", "self_usd_per_request/(input_tokens+output_tokens)*1000000"),
        Cell("utilisation", "utilisation of what is paid", figure("utilisation"), "", "mean_rps/(paid_machines*capacity_rps)", "a result, not an input"),
    ]  # fmt: skip
    for n, option in enumerate(o for o in result.options if o.kind == "hosted"):
        hosted, due = float(result.against[n].each_usd), float(option.usd_per_month)
        cells += [
            Cell(f"hosted_{n}_usd", option.name, due, "USD per month", f"MAX(hosted_{n}_minimum_usd,requests_per_month*hosted_{n}_usd_per_request)"),
            Cell(f"difference_{n}_usd", f"self-hosted - {option.name}", month - due, "USD per month", f"self_usd-hosted_{n}_usd", "below 0: self-hosted is cheaper"),
            Cell(f"needed_use_{n}", f"how full a machine must be to match {option.name}", price / (hosted * 3600 * capacity), "", f"machine_usd_per_hour/(hosted_{n}_usd_per_request*3600*capacity_rps)", "above 1: never") if hosted else Cell(f"needed_use_{n}", "hosted is free", 0.0, "", None),
        ]  # fmt: skip
    return cells


def _sheet(book: Any, formats: dict[str, Any], title: str, cells: list[Cell]) -> None:
    sheet = book.add_worksheet(title)
    for column, width in enumerate((26, 54, 16, 34, 34)):
        sheet.set_column(column, column, width)
    sheet.write_row(0, 0, ["name", "what", "value", "unit", "source or formula"], formats["head"])
    for row, cell in enumerate(cells, 1):
        sheet.write_string(row, 0, cell.name)
        sheet.write_string(row, 1, cell.label)
        if cell.formula is None:
            sheet.write_number(row, 2, cell.value, formats["input"])
        else:
            sheet.write_formula(row, 2, f"={cell.formula}", formats["number"], cell.value)
        sheet.write_string(row, 3, cell.unit)
        sheet.write_string(row, 4, cell.source or cell.formula or "")
        book.define_name(cell.name, f"={title}!$C${row + 1}")


def _demand(book: Any, formats: dict[str, Any], base: Base) -> None:
    demand, fleet = base.demand, base.spec.fleet
    peak_factor = 1 if fleet.scaling == "autoscaled" else demand.peak_factor
    sheet = book.add_worksheet("Demand")
    sheet.write_row(0, 0, ["step", "of the mean", "requests/s", "machines"], formats["head"])
    for n, rate in enumerate(demand.rps):
        needed = replicas_for(rate * peak_factor, base.fleet_spec) + fleet.spares
        sheet.write_number(n + 1, 0, n)
        sheet.write_number(n + 1, 1, rate / demand.mean_rps, formats["input"])
        sheet.write_formula(n + 1, 2, f"=B{n + 2}*mean_rps", formats["number"], rate)
        formula = f"=MAX(min_machines,ROUNDUP(ROUND(C{n + 2}*IF(autoscaled=1,1,peak_factor)/(capacity_rps*headroom),9),0))+spares"
        sheet.write_formula(n + 1, 3, formula, formats["number"], needed)
    book.define_name("hourly_machines", f"=Demand!$D$2:$D${len(demand.rps) + 1}")
    sheet.write_string(len(demand.rps) + 2, 0, f"{demand.name}: {demand.source}; prices as of {base.spec.as_of}")


def _claims(book: Any, formats: dict[str, Any], result: ScenarioResult) -> None:
    sheet = book.add_worksheet("Claims")
    sheet.set_column(0, 6, 30)
    sheet.write_row(0, 0, ["row", "claim", "stated", "its arithmetic", "ours", "unit", "reason"], formats["head"])
    for n, claim in enumerate(result.claims, 1):
        sheet.write_string(n, 0, "" if claim.row is None else str(claim.row))
        sheet.write_string(n, 1, claim.says)
        sheet.write_string(n, 2, claim.stated)
        if claim.published is not None:
            formula = "=" + claim.arithmetic.replace("_", "")
            sheet.write_formula(n, 3, formula, formats["number"], float(claim.published))
        if claim.right is None:
            sheet.write_string(n, 4, "never" if "crossing" in claim.right_arithmetic else "")
        else:
            sheet.write_number(n, 4, float(claim.right), formats["number"])
        sheet.write_string(n, 5, claim.unit)
        sheet.write_string(n, 6, claim.reason)


def workbook(result: ScenarioResult, measured: Measured | None = None) -> bytes:
    """The .xlsx file. The same result gives the same bytes (no clock is read into it)."""
    import xlsxwriter

    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"in_memory": True})
    day = datetime.combine(result.spec.as_of, time())
    book.set_properties({"title": result.name, "comments": "estimate from a benchmark, no invoice", "created": day})
    formats = {
        "head": book.add_format({"bold": True, "bottom": 1}),
        "input": book.add_format({"bg_color": "#FFF8DC", "num_format": "#,##0.########"}),
        "number": book.add_format({"num_format": "#,##0.00####"}),
    }
    base = base_of(result.spec, measured)
    _sheet(book, formats, "Inputs", _inputs(result, base))
    _demand(book, formats, base)
    _sheet(book, formats, "Costs", _costs(result, base))
    if result.claims:
        _claims(book, formats, result)
    book.close()
    return out.getvalue()
