"""The results and cost tables: for terminals (rich) and as plain values for --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import CostLine, CostReport, RunSummary
from harness.report import formats
from harness.report.run import hosted, sides_page
from harness.report.run.answer import find_answer, price_line
from harness.report.run.cells import (
    COLUMNS,
    Column,
    Row,
    absent_reasons,
    cost_line,
    price_words,
    rows,
    shown_columns,
    spread_text,
    unit_and_writer,
)
from harness.report.run.sides import sides

_STYLES = {"VALID": "green", "INVALID": "bold red", "UNKNOWN": "yellow"}
_HARDWARE = ("name", "usd_per_hour", "source", "as_of", "basis")  # of it in --json
_PADDING = 2  # of a rich SIMPLE_HEAD column


# ---------------------------------------------------------------- terminal


def render(
    console: Console, summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> None:
    """Print the results table fitted to the console's width, then why each "-" is one, and the run ids.

    What all cells share (target, workload, model) moves into the title; then the columns of least `keep` go until the
    rest fits, and their names are listed below.
    """
    table = rows(summaries, costs, allow_invalid=allow_invalid)
    if not table:
        console.print(Text("no runs, so no results table"))
        return
    words, title = _word_columns(table, console.width)
    columns, dropped, short = _fit(table, words, console.width)
    out = Table(
        box=box.SIMPLE_HEAD,
        title=Text(title),
        title_justify="left",
        pad_edge=False,
        show_edge=False,
        collapse_padding=True,
    )
    for header, _ in words:
        out.add_column(Text(header), no_wrap=True)
    writers = [unit_and_writer(column, table) for column in columns]
    for column, (unit, _) in zip(columns, writers, strict=True):
        out.add_column(Text(_header(column, unit)), justify="right", no_wrap=True)
    out.add_column(Text("verdict"), no_wrap=True)
    for index, row in enumerate(table):
        numbers = [
            Text("\n".join(filter(None, spread_text(row.values.get(column.key), write, short=short))))
            for column, (_, write) in zip(columns, writers, strict=True)
        ]
        verdict = Text(row.verdict_words, style=_STYLES.get(row.verdict, ""))
        out.add_row(*(Text(texts[index]) for _, texts in words), *numbers, verdict)
    console.print(out)
    _print_footnotes(console, table, columns, dropped, short=short)
    for header, text in price_words(table, costs):
        console.print(Text(f"{header}: {text}"))
    for index, row in enumerate(table, 1):
        left_out = [run.run_id for run in row.runs if run not in row.used]
        ids = f"# {index} = {formats.run_ids([run.run_id for run in row.used])}"
        ids += f"  INVALID, not used: {formats.run_ids(left_out)}" if left_out else ""
        console.print(Text(ids), soft_wrap=True)


def _header(column: Column, unit: str) -> str:
    return column.header.replace(" from schedule ", "\nfrom schedule\n") + (f"\n{unit}" if column.unit != "USD" else "")


def _word_columns(table: Sequence[Row], width: int) -> tuple[list[tuple[str, list[str]]], str]:
    """The leading columns as (header, one text a row), and the title that says what all rows share."""
    limit = max(4, min(24, width // 6))
    several = len({row.campaign_id for row in table}) > 1
    candidates = [
        ("model", [formats.clean(row.model, limit) for row in table]),
        ("campaign", [formats.clean(row.campaign_id, limit) for row in table] if several else [""] * len(table)),
        ("target", [formats.clean(row.target, limit) for row in table]),
        ("workload", [formats.clean(row.workload, limit) for row in table]),
    ]
    shared = [f"{header} {texts[0]}" for header, texts in candidates if len(set(texts)) == 1 and texts[0]]
    words = [("#", [str(index) for index in range(1, len(table) + 1)])]
    words += [(header, texts) for header, texts in candidates if len(set(texts)) > 1]
    words.append(("load", [row.load.name for row in table]))
    if any(len(row.runs) > 1 for row in table):
        words.append(("n", [str(len(row.used)) for row in table]))
    return words, "   ".join(shared)


def _fit(
    table: Sequence[Row], words: Sequence[tuple[str, list[str]]], width: int
) -> tuple[list[Column], list[Column], bool]:
    """(columns kept, columns dropped, ranges in short form) so that the table is at most `width` wide.

    Ranges become short before a column of `keep` 6 or more is lost; one column always stays.
    """
    fixed = sum(max(map(len, [header, *texts])) + _PADDING for header, texts in words)
    fixed += max(len("verdict"), *(len(row.verdict_words) for row in table))
    for short in (False, True):
        sizes: dict[str, int] = {}
        for column in shown_columns(table):
            unit, write = unit_and_writer(column, table)
            texts = [text for row in table for text in spread_text(row.values.get(column.key), write, short=short)]
            sizes[column.key] = max(len(part) for part in [*_header(column, unit).split("\n"), *texts]) + _PADDING
        kept = shown_columns(table)
        dropped: list[Column] = []
        while len(kept) > 1 and fixed + sum(sizes[column.key] for column in kept) > width:
            least = min(reversed(kept), key=lambda column: column.keep)
            kept.remove(least)
            dropped.append(least)
        if all(column.keep < 6 for column in dropped):
            break
    return kept, dropped, short


def _print_footnotes(
    console: Console, table: Sequence[Row], columns: Sequence[Column], dropped: Sequence[Column], *, short: bool
) -> None:
    numbers = {id(row): str(index) for index, row in enumerate(table, 1)}
    if any(spread is not None and spread.count > 1 for row in table for spread in row.values.values()):
        between = "± half its width over the median" if short else "from-to"
        console.print(
            Text(f"median over n repetitions; below it the 95 % interval of their mean (n = 2: min-max), {between}")
        )
    for headers, why, where in absent_reasons(table, columns):
        at = "all" if len(where) == len(table) else "# " + ", ".join(numbers[id(row)] for row in where)
        console.print(Text(f"- {headers} ({at}): {why}"))
    if dropped:
        names = ", ".join(column.header for column in dropped)
        console.print(Text(f"left out to fit {console.width} columns (they are in the report and --json): {names}"))


def render_reasons(console: Console, summaries: Sequence[RunSummary]) -> None:
    """Print every finding about the runs once, with its advice and the runs it is about."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for run in summaries:
        for reason in run.verdict.reasons:
            key = (reason.severity, formats.clean(reason.message), formats.clean(reason.advice))
            reasons.setdefault(key, []).append(run.run_id)
    styles = {"invalid": "bold red", "unknown": "yellow", "warning": "dim"}
    for (severity, message, advice), run_ids in sorted(reasons.items()):
        line = f"{severity}: {message} ({formats.run_ids(run_ids)}); {advice}"
        console.print(Text(line, style=styles.get(severity, "")), soft_wrap=True)


def render_hosted(console: Console, summaries: Sequence[RunSummary]) -> None:
    """Print the way to a target at a URL and what its account sustains; nothing for servers of ours."""
    for title, headers, table in (
        (hosted.NETWORK_TITLE, hosted.NETWORK_HEADERS, hosted.network_rows(summaries)),
        (hosted.ACCOUNT_TITLE, hosted.ACCOUNT_HEADERS, hosted.account_rows(summaries)),
    ):
        if table:
            out = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False)
            for header in headers:
                out.add_column(Text(header))
            for texts in table:
                out.add_row(*map(Text, texts))
            console.print(out)
    for sentence in hosted.account_sentences(summaries):
        console.print(Text(sentence), soft_wrap=True)


def render_costs(console: Console, costs: Sequence[CostReport]) -> None:
    """Print what the own machine costs and the hosted bills, each line with its formula and inputs.

    Of several runs, the one of the lowest own price per output token in full; the others stand in the report.
    """
    if not costs:
        console.print(Text("no costs: nothing was priced"))
        return
    cost = min(costs, key=lambda one: (one.unpriced is not None, _own_price(one)))
    console.print(Text(formats.clean(f"costs of {cost.run_id} ({cost.verdict})")), soft_wrap=True)
    console.print(
        Text(formats.clean(f"{price_line(cost)}; declared utilisation {formats.percent(cost.utilisation)}")),
        soft_wrap=True,
    )
    for name, lines in (("own machine", cost.own), *cost.hosted.items()):
        basis = f" ({cost.basis[name]})" if name in cost.basis else ""
        console.print(Text(f"  {formats.clean(name, 80)}{basis}"))
        shown: dict[str, str] = {}
        for line in lines:
            console.print(_line_text(line))
            fresh = {key: value for key, value in line.inputs.items() if shown.get(key) != value}
            shown.update(line.inputs)
            inputs = ", ".join(f"{key} = {value}" for key, value in fresh.items())
            console.print(
                Text(
                    "               = " + formats.clean(line.formula + (f"; {inputs}" if inputs else "")), style="dim"
                ),
                soft_wrap=True,
            )
    for warning in cost.warnings:
        console.print(Text(f"  warning: {formats.clean(warning)}", style="yellow"), soft_wrap=True)
    for one in costs:
        if one.unpriced is not None and one is not cost:
            console.print(
                Text(formats.clean(f"  not priced: {one.run_id}: {one.unpriced}"), style="yellow"), soft_wrap=True
            )
    if len(costs) > 1:
        console.print(Text(f"the costs of {len(costs) - 1} more runs are in the report and --json"))


def _line_text(line: CostLine) -> Text:
    return Text(f"{formats.usd(line.usd):>14} {formats.clean(line.unit, 40)}: {formats.clean(line.label)}")


def _own_price(cost: CostReport) -> Decimal:
    line = cost_line(cost.own, "output")
    amount = formats.money(line.usd) if line else None
    return amount if amount is not None else Decimal("Infinity")


# ---------------------------------------------------------------- plain values for --json


def as_json(
    summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> dict[str, Any]:
    """The results and costs as plain JSON values with full numbers; dollars are decimal text, absent is null.

    Keys: `answer`, `units` (column -> unit), `rows` (one per cell; each number as {median, min, max, n}), `own_and_hosted` (one a
    workload that both sides were measured with), `runs`, `costs`.
    """
    table = rows(summaries, costs, allow_invalid=allow_invalid)
    invalid = {run.run_id for run in summaries if run.verdict.state == "INVALID"}
    return {
        "answer": find_answer(summaries, costs, allow_invalid=allow_invalid).as_json(),
        "units": {c.key: {"USD": "USD, decimal text", "%": "share 0..1"}.get(c.unit, c.unit) for c in COLUMNS},
        "rows": [_row_json(row) for row in table],
        "own_and_hosted": sides_page.as_json(
            sides(summaries, costs, allow_invalid=allow_invalid), costs, allow_invalid=allow_invalid
        ),
        "runs": [_run_json(run) for run in summaries],
        "costs": [_cost_json(cost) for cost in costs if allow_invalid or cost.run_id not in invalid],
    }


def _plain(value: float | Decimal) -> float | str:
    return str(value) if isinstance(value, Decimal) else value


def _row_json(row: Row) -> dict[str, Any]:
    numbers = {
        key: None
        if spread is None
        else {
            "median": _plain(spread.median),
            "min": _plain(spread.minimum),
            "max": _plain(spread.maximum),
            "interval_95": None if spread.interval is None else [_plain(end) for end in spread.interval],
            "n": spread.count,
        }
        for key, spread in row.values.items()
    }
    return {
        "experiment": row.experiment,
        "target": row.target,
        "target_kind": row.target_kind,
        "model": row.model,
        "workload": row.workload,
        "load": row.load.name,
        "concurrency": row.load.concurrency,
        "rate_rps": row.load.rate_rps,
        "repetitions": len(row.runs),
        "verdict": row.verdict,
        "run_ids": [run.run_id for run in row.runs],
        "used_run_ids": [run.run_id for run in row.used],
        "absent": dict(row.absent),
        **numbers,
    }


def _run_json(run: RunSummary) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "cell": run.cell.name,
        "state": str(run.state),
        "verdict": run.verdict.state,
        "reasons": [asdict(reason) for reason in run.verdict.reasons],
        "notes": list(run.notes),
        "outcomes": dict(run.outcomes),
        "scalars": {name: formats.finite(value) for name, value in run.scalars.items()},
        "tokens": [asdict(check) for check in run.tokens],
        **hosted.as_values(run),
    }


def _cost_json(cost: CostReport) -> dict[str, Any]:
    hardware = cost.hardware
    return {
        "run_id": cost.run_id,
        "verdict": cost.verdict,
        "utilisation": cost.utilisation,
        "hardware": None if hardware is None else {name: getattr(hardware, name) for name in _HARDWARE},
        "own": [asdict(line) for line in cost.own],
        "hosted": {name: [asdict(line) for line in lines] for name, lines in cost.hosted.items()},
        "hosted_basis": dict(cost.basis),
        "price_mismatch": cost.price_mismatch,
        "unpriced": cost.unpriced,
        "no_price": cost.no_price,
        "warnings": list(cost.warnings),
    }
