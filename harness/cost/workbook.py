"""A scenario as a spreadsheet whose formulas live: change an input, and fleet, bill and break-even follow.

Sheets: Inputs (values with source and date, the only typed-in numbers), Demand (an hour a row, machines by formula), Costs (by
formula), Claims (published arithmetic beside ours). Every formula carries the value computed here, for readers that do not calculate.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness.cost.demand import Demand
from harness.cost.measured import Measured
from harness.cost.scenario import ScenarioResult
from harness.cost.scenario_inputs import base_of


@dataclass(frozen=True, slots=True)
class Cell:
    """A named cell: a number typed in, or a formula over names. `value`: the number, or what the formula gives."""

    name: str
    label: str
    value: float
    unit: str
    formula: str | None
    source: str


def _inputs(result: ScenarioResult, measured: Measured | None) -> tuple[list[Cell], Demand]:
    spec = result.spec
    base = base_of(spec, measured)
    fleet, w = spec.fleet, spec.workload
    fixed_paid = Decimal(max(base.fleet.replicas)) if fleet.scaling == "fixed" else Decimal(sum(base.fleet.replicas)) / len(base.fleet.replicas)  # fmt: skip
    extra = base.fleet.paid_replica_hours / Decimal(repr(base.fleet.hours)) / fixed_paid - 1
    capacity = "; ".join(base.capacity_inputs.values())
    price = f"{base.machine.source}, {base.machine.as_of}, {base.price_age}"
    rows: list[tuple[str, str, float, str, str]] = [
        ("requests_per_month", "requests", spec.demand.requests_per_month, "per month", spec.demand.source),
        ("hours_per_month", "hours of a mean month", 730.5, "h", "8766 / 12"),
        ("input_tokens", "input tokens of a request", w.input_tokens, "tokens", w.source),
        ("output_tokens", "output tokens of a request", w.output_tokens, "tokens", w.source),
        ("peak_factor", "highest hour of all days over the shape's, for a fixed fleet", base.demand.peak_factor, "", base.demand.source),
        ("capacity_rps", "capacity of a machine at the SLO", base.capacity_rps, "requests/s", capacity),
        ("headroom", "planning headroom", fleet.headroom, "", "declared"),
        ("spares", "spare machines", fleet.spares, "machines", "declared"),
        ("min_machines", "machines at least", fleet.min_replicas, "machines", "declared"),
        ("autoscaled", "1: machines follow the hour; 0: fixed at the peak", float(fleet.scaling == "autoscaled"), "", "declared"),
        ("extra_paid", "share paid on top: cold starts, billing units", float(extra), "", "computed for this demand"),
        ("machine_usd_per_hour", f"price of {base.machine.name}", float(base.price), "USD per hour", price),
        ("full_time", "people", spec.labour.full_time, "", spec.labour.source),
        ("usd_per_work_hour", "a work hour", spec.labour.usd_per_work_hour, "USD", spec.labour.source),
        ("storage_usd_per_month", "storage", fleet.storage_usd_per_month, "USD per month", "declared"),
    ]  # fmt: skip
    cells = [Cell(name, label, float(value), unit, None, source) for name, label, value, unit, source in rows]
    for n, option in enumerate(o for o in result.options if o.kind == "hosted"):
        source = f"{option.inputs.get('price source', '')}, {option.inputs.get('price as of', '')}"
        terms = result.against[n]
        cells += [
            Cell(f"hosted_{n}_usd_per_request", f"{option.name}, a request", float(terms.each_usd), "USD", None, source),
            Cell(f"hosted_{n}_minimum_usd", f"{option.name}, billed at least", float(terms.minimum_usd_per_month), "USD per month", None, "declared"),
        ]  # fmt: skip
    return cells, base.demand


def _costs(result: ScenarioResult) -> list[Cell]:
    mean = float(result.figure("mean_rps") or 0)
    month = float(result.figure("self_usd_per_month") or 0)
    machines = float(result.figure("machines_usd_per_month") or 0)
    labour = float(result.figure("labour_usd_per_month") or 0)
    requests, price = result.spec.demand.requests_per_month, float(result.figure("machine_usd_per_hour") or 0)
    paid = machines / price / 730.5 if price else 0.0
    tokens = result.spec.workload.input_tokens + result.spec.workload.output_tokens
    cells = [
        Cell("mean_rps", "mean demand", mean, "requests/s", "requests_per_month/(hours_per_month*3600)", ""),
        Cell("paid_machines", "machines paid on average", paid, "machines", "IF(autoscaled=1,SUM(hourly_machines)/ROWS(hourly_machines),MAX(hourly_machines))*(1+extra_paid)", ""),
        Cell("machines_usd", "machines", machines, "USD per month", "paid_machines*machine_usd_per_hour*hours_per_month", ""),
        Cell("labour_usd", "labour", labour, "USD per month", "full_time*40/168*usd_per_work_hour*hours_per_month", ""),
        Cell("self_usd", "self-hosted, all in", month, "USD per month", "machines_usd+labour_usd+storage_usd_per_month", ""),
        Cell("self_usd_per_request", "self-hosted, a request", month / requests, "USD", "self_usd/requests_per_month", ""),
        Cell("self_usd_per_million", "self-hosted, a million tokens", month / requests / tokens * 1e6, "USD", "self_usd_per_request/(input_tokens+output_tokens)*1000000", ""),
        Cell("utilisation", "utilisation of what is paid", float(result.figure("utilisation") or 0), "", "mean_rps/(paid_machines*capacity_rps)", "a result, not an input"),
    ]  # fmt: skip
    for n, option in enumerate(o for o in result.options if o.kind == "hosted"):
        hosted, due = float(result.against[n].each_usd), float(option.usd_per_month)
        capacity = float(result.figure("capacity_rps") or 0)
        cells += [
            Cell(f"hosted_{n}_usd", option.name, due, "USD per month", f"MAX(hosted_{n}_minimum_usd,requests_per_month*hosted_{n}_usd_per_request)", ""),
            Cell(f"difference_{n}_usd", f"self-hosted - {option.name}", month - due, "USD per month", f"self_usd-hosted_{n}_usd", "below 0: self-hosted is cheaper"),
            Cell(f"needed_use_{n}", f"how full a machine must be to match {option.name}", price / (hosted * 3600 * capacity), "", f"machine_usd_per_hour/(hosted_{n}_usd_per_request*3600*capacity_rps)", "above 1: never") if hosted else Cell(f"needed_use_{n}", "hosted is free", 0.0, "", None, ""),
        ]  # fmt: skip
    return cells


def _sheet(book: Any, formats: dict[str, Any], title: str, cells: list[Cell]) -> None:
    sheet = book.add_worksheet(title)
    sheet.set_column(0, 0, 26)
    sheet.set_column(1, 1, 54)
    sheet.set_column(2, 2, 16)
    sheet.set_column(3, 4, 34)
    sheet.write_row(0, 0, ["name", "what", "value", "unit", "source or formula"], formats["head"])
    for row, cell in enumerate(cells, 1):
        sheet.write_string(row, 0, cell.name)
        sheet.write_string(row, 1, cell.label)
        if cell.formula is None:
            sheet.write_number(row, 2, cell.value, formats["input"])
        else:
            sheet.write_formula(row, 2, f"={cell.formula}", formats["number"], cell.value)
        sheet.write_string(row, 3, cell.unit)
        sheet.write_string(row, 4, cell.source or (cell.formula or ""))
        book.define_name(cell.name, f"={title}!$C${row + 1}")


def _demand(book: Any, formats: dict[str, Any], demand: Demand, result: ScenarioResult, inputs: list[Cell]) -> None:
    import math

    given = {c.name: c.value for c in inputs}
    sheet = book.add_worksheet("Demand")
    sheet.write_row(0, 0, ["step", "of the mean", "requests/s", "machines"], formats["head"])
    for n, rate in enumerate(demand.rps):
        share = rate / demand.mean_rps
        usable = given["capacity_rps"] * given["headroom"] / (1 if given["autoscaled"] else given["peak_factor"])
        needed = max(given["min_machines"], math.ceil(round(rate / usable, 9))) + given["spares"]
        sheet.write_number(n + 1, 0, n)
        sheet.write_number(n + 1, 1, share, formats["input"])
        sheet.write_formula(n + 1, 2, f"=B{n + 2}*mean_rps", formats["number"], rate)
        formula = f"=MAX(min_machines,ROUNDUP(ROUND(C{n + 2}*IF(autoscaled=1,1,peak_factor)/(capacity_rps*headroom),9),0))+spares"
        sheet.write_formula(n + 1, 3, formula, formats["number"], needed)
    book.define_name("hourly_machines", f"=Demand!$D$2:$D${len(demand.rps) + 1}")
    sheet.write_string(len(demand.rps) + 2, 0, f"{demand.name}: {demand.source}; prices as of {result.at}")


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
    from datetime import UTC, datetime

    import xlsxwriter

    out = io.BytesIO()
    book = xlsxwriter.Workbook(out, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False})
    day = datetime.combine(result.spec.as_of, datetime.min.time(), UTC)
    book.set_properties(
        {"title": result.name, "comments": "estimate from a benchmark, no invoice", "created": day.replace(tzinfo=None)}
    )
    formats = {
        "head": book.add_format({"bold": True, "bottom": 1}),
        "input": book.add_format({"bg_color": "#FFF8DC", "num_format": "#,##0.########"}),
        "number": book.add_format({"num_format": "#,##0.00####"}),
    }
    inputs, demand = _inputs(result, measured)
    _sheet(book, formats, "Inputs", inputs)
    _demand(book, formats, demand, result, inputs)
    _sheet(book, formats, "Costs", _costs(result))
    if result.claims:
        _claims(book, formats, result)
    book.close()
    return out.getvalue()
