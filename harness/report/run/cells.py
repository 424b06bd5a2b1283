"""The cells of the results table: one row per target x workload x load, its repetitions gathered as median and min-max."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any

import numpy as np

from harness.base.stats import mean_interval
from harness.records import CostLine, CostReport, Load, RunSummary
from harness.records.metrics import METRICS
from harness.report import formats

DEFAULT_ATTAINMENT = 0.99
_MIN_FOR_INTERVAL = 3  # with two, t is 12.7 and the interval says nothing
_STATES = ("VALID", "UNKNOWN", "INVALID")
Writer = Callable[[float | Decimal], str]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of numbers. `kind`: scalar | distribution | cost, and `source` (with `point`) says where it is read.

    `keep`: the higher, the longer it stays when a terminal is narrow. `optional`: left out where no cell has it.
    """

    key: str
    header: str
    unit: str  # s is shown as ms where the column is small
    kind: str
    source: str
    point: str = ""
    keep: int = 5
    optional: bool = False


COLUMNS: tuple[Column, ...] = (
    Column("output_tps", "output", "tok/s", "scalar", "output_tps", keep=10),
    Column("total_tps", "total", "tok/s", "scalar", "total_tps", keep=2),
    Column("request_rps", "requests", "req/s", "scalar", "request_rps", keep=3),
    Column("ttft_p50_s", "TTFT p50", "s", "distribution", "ttft_s", "p50", keep=9),
    Column("ttft_p99_s", "TTFT p99", "s", "distribution", "ttft_s", "p99", keep=7),
    Column(
        "ttft_less_path_p50_s",
        "TTFT less path p50",
        "s",
        "distribution",
        "ttft_less_path_s",
        "p50",
        keep=2,
        optional=True,
    ),
    Column(
        "ttft_from_schedule_p50_s",
        "TTFT from schedule p50",
        "s",
        "distribution",
        "ttft_from_schedule_s",
        "p50",
        keep=0,
        optional=True,
    ),
    Column(
        "ttft_from_schedule_p99_s",
        "TTFT from schedule p99",
        "s",
        "distribution",
        "ttft_from_schedule_s",
        "p99",
        keep=1,
        optional=True,
    ),
    Column("tpot_p50_s", "TPOT p50", "s", "distribution", "tpot_s", "p50", keep=9),
    Column("e2el_p50_s", "E2EL p50", "s", "distribution", "e2el_s", "p50", keep=4),
    Column("goodput_rps", "goodput", "req/s", "scalar", "goodput_rps", keep=5, optional=True),
    Column("attainment", "SLO met", "%", "scalar", "attainment", keep=7, optional=True),
    Column("preemptions", "preempted", "", "scalar", "preemptions", keep=1, optional=True),
    Column("kv_cache_use_max", "KV cache max", "%", "scalar", "kv_cache_use_max", keep=1, optional=True),
    Column("prefix_hit_share", "prefix hits", "%", "scalar", "prefix_hit_share", keep=1, optional=True),
    Column("draft_acceptance", "drafts accepted", "%", "scalar", "draft_acceptance", keep=1, optional=True),
    Column("usd_per_million_output_tokens", "$/M output", "USD", "cost", "output", keep=10),
    Column("usd_per_million_total_tokens", "$/M total", "USD", "cost", "total", keep=9),
    Column("usd_per_thousand_requests", "$/1k requests", "USD", "cost", "requests", keep=6),
    Column("usd_per_thousand_good_requests", "$/1k in SLO", "USD", "cost", "good", keep=5, optional=True),
)
_COST_NAMES = {  # the end of a cost line's name, after self_ or hosted_
    "output": "usd_per_million_output_tokens",
    "total": "usd_per_million_total_tokens",
    "requests": "usd_per_1000_requests",
    "good": "usd_per_1000_good_requests",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over repetitions; dollars are Decimal. `interval`: 95 % for the mean over repetitions, from three on."""

    median: float | Decimal
    minimum: float | Decimal
    maximum: float | Decimal
    count: int
    interval: tuple[float | Decimal, float | Decimal] | None = None

    @property
    def between(self) -> tuple[float | Decimal, float | Decimal]:
        """What stands below the median: the interval, or least and greatest where there is none."""
        return self.interval or (self.minimum, self.maximum)


@dataclass(frozen=True, slots=True)
class Row:
    """One cell. `used`: the runs behind its numbers: those not INVALID, or all where every one is.

    `values`: column key -> Spread, None where absent, and then `absent` says why. `verdict`: the worst of `used`.
    """

    experiment: str
    campaign_id: str
    model: str
    target: str
    target_kind: str
    workload: str
    load: Load
    runs: tuple[RunSummary, ...]
    used: tuple[RunSummary, ...]
    verdict: str
    values: Mapping[str, Spread | None]
    absent: Mapping[str, str]
    priced: bool  # a cost was computed for one of `used`

    @property
    def verdict_words(self) -> str:
        """`VALID`, or `VALID 2/3` where some repetitions are INVALID and left out."""
        return self.verdict if len(self.used) == len(self.runs) else f"{self.verdict} {len(self.used)}/{len(self.runs)}"

    def middle(self, key: str) -> float | Decimal | None:
        spread = self.values.get(key)
        return spread.median if spread is not None else None


def rows(summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False) -> list[Row]:
    """One Row per target x workload x load (and driver), sorted by target, workload and load.

    Repetitions of several campaigns are pooled only while no repetition number occurs twice. Dollars of an INVALID
    run are absent unless `allow_invalid`.
    """
    cells: dict[tuple[Any, ...], list[RunSummary]] = {}
    for run in summaries:
        cell = run.cell
        cells.setdefault(
            (cell.target, cell.workload, cell.load, run.experiment, run.model, run.target_kind, _mark(run)), []
        ).append(run)
    groups: list[list[RunSummary]] = []
    for group in cells.values():
        if len({run.cell.repetition for run in group}) == len(group):
            groups.append(group)
            continue
        campaigns = sorted({run.campaign_id for run in group})
        groups.extend([run for run in group if run.campaign_id == campaign] for campaign in campaigns)
    by_run = {cost.run_id: cost for cost in costs}
    return sorted((_row(group, by_run, allow_invalid) for group in groups), key=_order)


def _order(row: Row) -> tuple[Any, ...]:
    load = row.load
    return (
        row.experiment,
        row.target,
        row.workload,
        not load.is_closed,
        load.concurrency or 0,
        load.rate_rps or 0,
        row.campaign_id,
    )


def _mark(run: RunSummary) -> str:
    """What marks a run that the wire driver did not make, whose stamps mean something else, and one with plain requests."""
    driver = run.config.get("driver") or "wire"
    marks = [driver] if driver != "wire" else []
    if (run.environment.get("server") or {}).get("body") == "plain":
        marks.append("plain body")
    return f" ({', '.join(marks)})" if marks else ""


def worst(states: Sequence[str]) -> str:
    """INVALID beats UNKNOWN beats VALID; a state that is none of these, or none at all, is UNKNOWN."""
    known = [state if state in _STATES else "UNKNOWN" for state in states]
    return max(known, key=_STATES.index, default="UNKNOWN")


def _row(group: list[RunSummary], costs: Mapping[str, CostReport], allow_invalid: bool) -> Row:
    runs = sorted(group, key=lambda run: (run.cell.repetition, run.run_id))
    used = [run for run in runs if run.verdict.state != "INVALID"] or runs
    values: dict[str, Spread | None] = {}
    absent: dict[str, str] = {}
    for column in COLUMNS:
        values[column.key], why = over_repetitions(column, used, costs, allow_invalid=allow_invalid)
        if why is not None:
            absent[column.key] = why
    first = runs[0]
    return Row(
        experiment=first.experiment,
        campaign_id=first.campaign_id,
        model=first.model,
        target=first.cell.target + _mark(first),
        target_kind=first.target_kind,
        workload=first.cell.workload,
        load=first.cell.load,
        runs=tuple(runs),
        used=tuple(used),
        verdict=worst([run.verdict.state for run in used]),
        values=values,
        absent=absent,
        priced=any(run.run_id in costs for run in used),
    )


def over_repetitions(
    column: Column, used: Sequence[RunSummary], costs: Mapping[str, CostReport], *, allow_invalid: bool = False
) -> tuple[Spread | None, str | None]:
    """A column's number of a cell, None where no run has it, and why some run has not."""
    numbers = [_value(column, run, costs.get(run.run_id), allow_invalid) for run in used]
    known = [value for value, _ in numbers if value is not None]
    why = next((why for value, why in numbers if value is None), None)
    if column.source == "good" and why is not None:
        known = []  # a repetition without a good request is beyond any price: those of the others alone would be luck
    return spread_of(known, share=column.unit == "%") if known else None, why


def spread_of(values: Sequence[Any], *, share: bool = False) -> Spread:
    """`share`: of a whole, so that no end lies beyond 0 or 1. Student's t over the logarithms of the repetitions (what is not positive: over the numbers themselves), which covers
    at few repetitions where a bootstrap does not."""
    interval = None
    if len(values) >= _MIN_FOR_INTERVAL:
        numbers = np.array([float(value) for value in values])
        ends = mean_interval(numbers, 0.95, log=bool((numbers > 0).all()))
        if ends is not None and share:
            ends = max(0.0, ends[0]), min(1.0, ends[1])
        if ends is not None and ends[1] > ends[0]:
            interval = (Decimal(str(ends[0])), Decimal(str(ends[1]))) if type(values[0]) is Decimal else ends
    return Spread(median(values), min(values), max(values), len(values), interval)


def _value(column: Column, run: RunSummary, cost: CostReport | None, allow_invalid: bool) -> tuple[Any, str]:
    """The run's number, or None and why it is absent."""
    undefined = METRICS[column.source].undefined if column.source in METRICS else "not recorded"
    match column.kind:
        case "scalar":
            return formats.finite(run.scalars.get(column.source)), undefined
        case "distribution":
            spread = run.distributions.get(column.source)
            if spread is None or spread.count == 0:
                return None, "no window" if run.window is None else undefined
            why = f"too few requests for a {column.point}"
            return formats.finite(getattr(spread, column.point)), why
        case _:
            if run.verdict.state == "INVALID" and not allow_invalid:
                return None, "no dollar for an INVALID run unless it is asked for by name"
            if cost is None:
                return None, "no cost was computed for this run"
            line = cost_line(cost.paid, column.source)
            if line is None:
                return None, "no hardware price declared" if cost.hardware is None else "not among the computed costs"
            return formats.money(line.usd), formats.clean(line.formula, 200) or "could not be computed"


def cost_line(lines: Sequence[CostLine], quantity: str) -> CostLine | None:
    """The line of `quantity` (output | total | requests | good) of an own or hosted group, None where there is none."""
    return next((line for line in lines if line.name.partition("_")[2] == _COST_NAMES[quantity]), None)


def price_words(table: Sequence[Row], costs: Sequence[CostReport]) -> list[tuple[str, str]]:
    """(column header, the cost stage's words for it) where a price needs a convention: output alone is a split."""
    labels = dict.fromkeys(line.label for cost in costs if (line := cost_line(cost.paid, "output")))
    shown = [column.header for column in shown_columns(table) if column.source == "output"]
    return [(header, formats.clean("; ".join(labels), 240)) for header in shown if labels]


def slo_target(run: RunSummary) -> float | None:
    """The attainment that the run's config promises; None where no SLO is declared."""
    slo = run.config.get("slo")
    if isinstance(slo, Mapping):
        share = slo.get("attainment")
        return float(share) if isinstance(share, int | float) else DEFAULT_ATTAINMENT
    return DEFAULT_ATTAINMENT if run.scalars.get("attainment") is not None else None


def shown_columns(table: Sequence[Row]) -> list[Column]:
    """The columns of a table: optional ones only where some cell has the number, dollars only where something was priced."""
    priced = any(row.priced for row in table)

    def shown(column: Column) -> bool:
        return any(row.values.get(column.key) is not None for row in table) or (
            not column.optional and (priced or column.kind != "cost")
        )

    return [column for column in COLUMNS if shown(column)]


def absent_reasons(table: Sequence[Row], columns: Sequence[Column]) -> list[tuple[str, str, list[Row]]]:
    """(column header, why, rows) of every "-" of a table, equal reasons gathered."""
    reasons: dict[tuple[str, str], list[Row]] = {}
    for column in columns:
        for row in table:
            if row.values.get(column.key) is None and column.key in row.absent:
                reasons.setdefault((column.header, row.absent[column.key]), []).append(row)
    merged: dict[tuple[str, tuple[int, ...]], tuple[list[str], list[Row]]] = {}
    for (header, why), where in reasons.items():
        merged.setdefault((why, tuple(id(row) for row in where)), ([], where))[0].append(header)
    return [(", ".join(headers), why, where) for (why, _), (headers, where) in merged.items()]


# ---------------------------------------------------------------- cells as text


def unit_and_writer(column: Column, table: Sequence[Row]) -> tuple[str, Writer]:
    """The unit of a whole column and how its numbers are written."""
    return writer_of(column, [row.values.get(column.key) for row in table])


def writer_of(column: Column, spreads: Sequence[Spread | None]) -> tuple[str, Writer]:
    """The unit of such numbers and how they are written: ms where every median is below ten seconds."""
    if column.unit == "s":
        if all(abs(float(spread.median)) < 10 for spread in spreads if spread is not None):
            return "ms", lambda value: formats.number(float(value) * 1000)
        return "s", formats.number
    if column.unit == "%":
        return "%", lambda share: formats.percent(share).removesuffix(" %")
    if column.unit == "USD":
        return "USD", lambda value: formats.usd(value if isinstance(value, Decimal) else Decimal(str(value)))
    return column.unit, formats.number


def spread_text(spread: Spread | None, write: Writer, *, short: bool = False) -> tuple[str, str]:
    """(median, range) as text: the interval, with two repetitions min-max; empty where there is one value or all are
    written alike. `short`: half of the range's width over the median, in percent."""
    if spread is None:
        return formats.ABSENT, ""
    lowest, highest = spread.between
    low, high = write(lowest), write(highest)
    if spread.count < 2 or low == high:
        return write(spread.median), ""
    if short and spread.median > 0:
        half = (highest - lowest) / 2 / spread.median  # type: ignore[operator]
        return write(spread.median), f"±{float(half) * 100:.1f}%"
    return write(spread.median), f"{low}-{high}"
