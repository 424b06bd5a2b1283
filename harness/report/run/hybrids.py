"""Policies of a hybrid side by side, beside each side alone and the planner's optimum for the same load: for terminal, Markdown, HTML, JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.errors import ConfigError
from harness.planner.demand import flat
from harness.planner.hybrid import HybridPlan, plan_hybrid
from harness.price.hybrid_cost import hosted_half
from harness.records import MEASURED, CostReport, Load
from harness.report import formats
from harness.report.run.cells import DEFAULT_ATTAINMENT, Row, Spread, spread_text

HEADERS = ("target", "policy", "$/1k requests", "SLO met", "keeps it", "hosted", "$/1k in SLO")
_MILLE = Decimal(1000)


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A hybrid, or a side alone. `hosted_share`: of the requests of all used runs. `holds`: the median attainment is at the target."""

    target: str
    policy: str
    usd: Spread | None
    attainment: Spread | None
    holds: bool | None
    hosted_share: float | None
    usd_good: Spread | None


@dataclass(frozen=True, slots=True)
class PolicyTable:
    """All of one workload and load. `optimum`: None, and `optimum_words` say why; else they say what it is made of."""

    experiment: str
    workload: str
    load: Load
    rows: tuple[PolicyRow, ...]
    optimum: HybridPlan | None
    optimum_words: str


def policy_tables(table: Sequence[Row], costs: Sequence[CostReport]) -> list[PolicyTable]:
    """One for each workload and load that a hybrid was measured at."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        groups.setdefault((row.experiment, row.campaign_id, row.workload, row.load), []).append(row)
    return [_table(rows, costs) for rows in groups.values() if any(run.sides for row in rows for run in row.used)]


def _table(rows: Sequence[Row], costs: Sequence[CostReport]) -> PolicyTable:
    hybrids = [row for row in rows if row.used and row.used[0].sides]
    names = {side.name for row in hybrids for side in row.used[0].sides}
    alone = [row for row in rows if row not in hybrids and row.runs[0].cell.target in names]
    first = hybrids[0]
    optimum, words = _optimum(hybrids, costs)
    ordered = [*alone, *hybrids]
    return PolicyTable(
        first.experiment, first.workload, first.load, tuple(_policy_row(row, costs) for row in ordered), optimum, words
    )


def _policy_row(row: Row, costs: Sequence[CostReport]) -> PolicyRow:
    run = row.used[0]
    promised = (run.config.get("slo") or {}).get("attainment", DEFAULT_ATTAINMENT)
    kept = row.middle("attainment")
    offered = [sum(side.offered for side in one.sides) for one in row.used]
    hosted = [one.sides[1].offered for one in row.used if one.sides]
    return PolicyRow(
        row.target,
        _policy_words(run.target_config.get("policy")),
        row.values.get("usd_per_thousand_requests") or _billed(row, costs),
        row.values.get("attainment"),
        None if kept is None else float(kept) >= float(promised),
        sum(hosted) / sum(offered) if sum(offered) else None,
        row.values.get("usd_per_thousand_good_requests"),
    )


def _billed(row: Row, costs: Sequence[CostReport]) -> Spread | None:
    """What a hosted side alone was billed a 1,000 requests."""
    ids = {run.run_id for run in row.used}
    found = [
        amount
        for cost in costs
        if cost.run_id in ids
        for name, lines in cost.hosted.items()
        if cost.basis.get(name) == MEASURED
        for line in lines
        if line.name == "hosted_usd_per_1000_requests" and (amount := formats.money(line.usd)) is not None
    ]
    return Spread(median(found), min(found), max(found), len(found)) if found else None


def _policy_words(policy: Mapping[str, Any] | None) -> str:
    if not policy:
        return "alone"
    rule = policy.get("rule")
    key = {"concurrency": "own_in_flight", "share": "hosted_share", "clock": "hosted_hours"}.get(str(rule), "margin")
    return f"{rule}, {key} {policy.get(key)}"


def _optimum(hybrids: Sequence[Row], costs: Sequence[CostReport]) -> tuple[HybridPlan | None, str]:
    """The planner's, at what the own side served within the promise in the best of these runs: it had the others to leave to."""
    runs = [run for row in hybrids for run in row.used if run.window is not None and run.sides]
    served = [
        (good / run.window.offered_s, run) for run in runs if run.window and (good := run.sides[0].good) is not None
    ]
    if not served:
        return None, "no optimum: nothing is promised, so the own side has no capacity"
    capacity_rps, best = max(served, key=lambda pair: pair[0])
    hardware = next((cost.hardware for cost in costs if cost.run_id == best.run_id), None)
    bills = [made.bill for run in runs if (made := hosted_half(run, runs).made) is not None and made.bill.requests]
    if hardware is None or not bills or capacity_rps <= 0:
        return None, "no optimum: it needs the own machine's price, the hosted side's, and requests on both sides"
    price_usd = sum((bill.total_usd for bill in bills), Decimal(0)) / sum(bill.requests for bill in bills)
    rate_rps = sum(side.offered for side in best.sides) / (best.window.offered_s if best.window else 1)
    try:
        plan = plan_hybrid(flat(rate_rps), capacity_rps, Decimal(hardware.usd_per_hour), price_usd)
    except ConfigError as error:
        return None, f"no optimum: {error.what}"
    own, hosted = (side.name for side in best.sides)
    words = (
        f"planner's optimum at {formats.number(rate_rps)} requests/s: {plan.replicas} of {own}, each serving {formats.number(capacity_rps)} requests/s "
        f"within the promise (as in {best.cell.target}) at {formats.usd(hardware.usd_per_hour)} an hour, and {formats.percent(plan.hosted_share)} to {hosted} "
        f"at {formats.usd(price_usd * _MILLE)} per 1,000: {formats.usd(plan.usd_per_request * _MILLE)} per 1,000 requests"
    )
    return plan, words


# ---------------------------------------------------------------- as text


def cell_words(table: PolicyTable) -> str:
    return f"{formats.clean(table.workload, 200)}, {formats.load_words(table.load)}"


def texts(table: PolicyTable) -> list[tuple[str, ...]]:
    """A row of text under each of HEADERS."""
    return [
        (
            formats.clean(row.target, 200),
            formats.clean(row.policy, 200),
            _with_range(row.usd, formats.usd),
            _with_range(row.attainment, formats.percent),
            formats.ABSENT if row.holds is None else "yes" if row.holds else "NO",
            formats.ABSENT if row.hosted_share is None else formats.percent(row.hosted_share),
            _with_range(row.usd_good, formats.usd),
        )
        for row in table.rows
    ]


def _with_range(spread: Spread | None, write: Any) -> str:
    middle, between = spread_text(spread, write)
    return f"{middle} ({between})" if between else middle


def render(console: Console, tables: Sequence[PolicyTable]) -> None:
    """The tables on a terminal."""
    for one in tables:
        shown = Table(
            box=None,
            header_style="bold",
            pad_edge=False,
            title=Text(f"policies: {cell_words(one)}"),
            title_justify="left",
        )
        for header in HEADERS:
            shown.add_column(header, justify="left" if header in HEADERS[:2] else "right")
        for row in texts(one):
            shown.add_row(*(Text(text) for text in row))
        console.print()
        console.print(shown)
        console.print(one.optimum_words, highlight=False, markup=False)


def markdown(table: PolicyTable) -> str:
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    lines += ["| " + " | ".join(formats.md_text(text) for text in row) + " |" for row in texts(table)]
    return "\n".join([*lines, "", formats.md_text(table.optimum_words)])


def as_values(table: PolicyTable) -> dict[str, Any]:
    """For --json."""
    return {
        "experiment": table.experiment,
        "workload": table.workload,
        "load": table.load.name,
        "policies": [
            {
                "target": row.target,
                "policy": row.policy,
                "usd_per_1000_requests": _values(row.usd),
                "attainment": _values(row.attainment),
                "holds": row.holds,
                "hosted_share": row.hosted_share,
                "usd_per_1000_good_requests": _values(row.usd_good),
            }
            for row in table.rows
        ],
        "optimum": None
        if table.optimum is None
        else {
            "replicas": table.optimum.replicas,
            "hosted_share": table.optimum.hosted_share,
            "usd_per_1000_requests": format(table.optimum.usd_per_request * _MILLE, "f"),
        },
        "optimum_words": table.optimum_words,
    }


def _values(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    low, high = spread.interval or (None, None)
    return {
        "median": spread.median,
        "minimum": spread.minimum,
        "maximum": spread.maximum,
        "low_95": low,
        "high_95": high,
    }
