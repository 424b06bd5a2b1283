"""Own and hosted beside each other as terminal text, Markdown, values for HTML and for --json: a table a load, a column a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import CostReport, Load
from harness.report import formats
from harness.report.run.answer import price_line
from harness.report.run.cells import Column, Spread, over_repetitions, spread_text, writer_of
from harness.report.run.sides import Arm, At, Offer, Sides, in_words, sentence

_LATENCIES = (
    ("ttft_s", "TTFT"),
    ("ttft_from_schedule_s", "TTFT from schedule"),
    ("tpot_s", "TPOT"),
    ("e2el_s", "E2EL"),
)
COLUMNS = (
    *(
        Column(f"{source.removesuffix('_s')}_{point}_s", f"{name} {point}", "s", "distribution", source, point)
        for source, name in _LATENCIES
        for point in ("p50", "p90", "p99")
    ),
    Column("output_tps", "output", "tok/s", "scalar", "output_tps"),
    Column("attainment", "SLO met", "%", "scalar", "attainment"),
    Column("usd_per_thousand_requests", "$ per 1,000 requests", "USD", "cost", "requests"),
    Column("usd_per_thousand_good_requests", "$ per 1,000 good requests", "USD", "cost", "good"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """A metric over the targets of a block: (median, range, why there is none) each."""

    label: str
    texts: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, slots=True)
class Block:
    """One load: the arms measured under it, own ones first, and their numbers. `absent`: metrics that none of them has, with why."""

    load: Load
    arms: tuple[Arm, ...]
    lines: tuple[Line, ...]
    absent: tuple[str, ...]
    values: tuple[Mapping[str, Spread | None], ...]  # one an arm: column key -> number


def blocks(found: Sides, costs: Sequence[CostReport], *, allow_invalid: bool = False) -> list[Block]:
    """The tables of one workload, in the order of their loads."""
    by_run = {cost.run_id: cost for cost in costs}
    by_load: dict[Load, list[Arm]] = {}
    for arm in found.arms:
        by_load.setdefault(arm.row.load, []).append(arm)
    return [_block(load, arms, by_run, allow_invalid) for load, arms in by_load.items()]


def _block(load: Load, arms: list[Arm], costs: Mapping[str, CostReport], allow_invalid: bool) -> Block:
    arms = sorted(arms, key=lambda arm: arm.side != "own")
    columns = [c for c in COLUMNS if not (load.is_closed and c.source == "ttft_from_schedule_s")]
    cells = {c: [over_repetitions(c, a.row.used, costs, allow_invalid=allow_invalid) for a in arms] for c in columns}
    lines, absent = [], []
    for column, numbers in cells.items():
        spreads = [spread for spread, _ in numbers]
        if not any(spreads):
            absent.append(f"{column.header}: {formats.clean(numbers[0][1] or 'not observed', 200)}")
            continue
        unit, write = writer_of(column, spreads)
        label = column.header if unit in ("", "USD") else f"{column.header} ({unit})"
        texts = ((*spread_text(spread, write), "" if spread else formats.clean(why or "")) for spread, why in numbers)
        lines.append(Line(label, tuple(texts)))
    values = tuple({c.key: numbers[index][0] for c, numbers in cells.items()} for index in range(len(arms)))
    return Block(load, tuple(arms), tuple(lines), tuple(absent), values)


def header(arm: Arm) -> str:
    """`own: smollm2`, with the verdict where it is not VALID. Plain text from outside: escape it."""
    verdict = "" if arm.row.verdict_words == "VALID" else f" {arm.row.verdict_words}"
    return f"{arm.side}: {formats.clean(arm.row.target, 40)}, n = {len(arm.row.used)}{verdict}"


def prices(found: Sides, costs: Sequence[CostReport]) -> list[str]:
    """What each target's dollars are made of, a line a target. Plain text from outside: escape it."""
    by_run = {cost.run_id: cost for cost in costs}
    lines: dict[str, str] = {}
    for arm in sorted(found.arms, key=lambda arm: arm.side != "own"):
        cost = next((by_run[run.run_id] for run in arm.row.used if run.run_id in by_run), None)
        if cost is not None:
            lines.setdefault(arm.row.target, f"{arm.side}, {formats.clean(arm.row.target, 40)}: {_price(arm, cost)}")
    return list(lines.values())


def _price(arm: Arm, cost: CostReport) -> str:
    if arm.side == "own":
        words = f"the paid time of {price_line(cost)}; declared utilisation {formats.percent(cost.utilisation)}"
        return formats.clean(
            f"{words}; NOT THE MACHINE PRICED: {cost.price_mismatch}" if cost.price_mismatch else words
        )
    inputs = cost.paid[0].inputs
    if "price" not in inputs:
        return formats.clean(arm.unpriced or cost.paid[0].formula)
    failed = next((line for line in cost.paid if line.name == "hosted_usd_run_unknown_up_to"), None)
    unknown = formats.money(failed.usd) if failed is not None else None
    more = (
        f"; failed requests are not in it, nobody knows whether they are billed: up to {formats.usd(unknown)} in this run"
        if unknown
        else ""
    )
    return formats.clean(
        f"the bill of its own requests, {inputs['price']} ({inputs.get('price source', '')}, {inputs.get('price as of', '')}){more}"
    )


# ---------------------------------------------------------------- terminal and Markdown


def render(
    console: Console, every: Sequence[Sides], costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> None:
    """Print the sentence and the tables of each workload; nothing where there are not both sides."""
    for found in every:
        console.print()
        for block in blocks(found, costs, allow_invalid=allow_invalid):
            title = f"own and hosted   workload {formats.clean(found.workload, 60)}   {formats.load_words(block.load)}"
            table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False, show_edge=False)
            table.add_column("", no_wrap=True)
            for arm in block.arms:
                table.add_column(Text(header(arm)), justify="right")
            for line in block.lines:
                cells = (f"{middle}   ({between})" if between else middle for middle, between, _ in line.texts)
                table.add_row(Text(line.label), *(Text(cell) for cell in cells))
            console.print(table)
            for why in block.absent:
                console.print(Text(f"- {why}"), soft_wrap=True)
        for price in prices(found, costs):
            console.print(Text(price), soft_wrap=True)
        console.print(Text(sentence(found), style="bold"), soft_wrap=True)


def markdown(found: Sides, costs: Sequence[CostReport], *, allow_invalid: bool = False) -> str:
    """Sentence, tables and prices in GitHub's Markdown."""
    head, ranges = in_words(found)
    parts = [f"**{formats.md_text(head)}:**", "\n".join(f"- {formats.md_text(one)}" for one in ranges)]
    for block in blocks(found, costs, allow_invalid=allow_invalid):
        heads = [formats.md_text(header(arm)) for arm in block.arms]
        lines = [f"| {formats.md_text(formats.load_words(block.load))} | {' | '.join(heads)} |"]
        lines.append("|---|" + "---:|" * len(heads))
        for line in block.lines:
            cells = (
                f"{formats.md_text(m)}<br><sub>{formats.md_text(b)}</sub>" if b else formats.md_text(m)
                for m, b, _ in line.texts
            )
            lines.append(f"| {formats.md_text(line.label)} | {' | '.join(cells)} |")
        parts += ["\n".join(lines), "\n".join(f"- {formats.md_text(why)}" for why in block.absent)]
    parts.append("\n".join(f"- {formats.md_text(price)}" for price in prices(found, costs)))
    return "\n\n".join(part for part in parts if part)


# ---------------------------------------------------------------- plain values for --json


def as_json(
    every: Sequence[Sides], costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> list[dict[str, Any]]:
    """One object a workload and promise: the sentence, a row a cell, and what is true at each limit; dollars are decimal text."""
    return [
        {
            "sentence": sentence(found),
            "workload": found.workload,
            "promise": {"metric": found.metric, "declared_s": found.declared_s, "rest": dict(found.rest), "attainment": found.share},
            "cells": [
                {"side": arm.side, **_cell(arm), "unpriced": arm.unpriced or None, **{key: _spread(spread) for key, spread in numbers.items()}}
                for block in blocks(found, costs, allow_invalid=allow_invalid)
                for arm, numbers in zip(block.arms, block.values, strict=True)
            ],
            "limits": [_at(at) for at in found.curve],
        }
        for found in every
    ]  # fmt: skip


def _cell(arm: Arm) -> dict[str, Any]:
    row = arm.row
    return {
        "target": row.target,
        "load": row.load.name,
        "verdict": row.verdict,
        "run_ids": [run.run_id for run in row.used],
    }


def _spread(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    plain = [str(value) if isinstance(value, Decimal) else value for value in (spread.median, *(spread.interval or ()))]
    return {"median": plain[0], "interval_95": plain[1:] or None, "n": spread.count}


def _at(at: At) -> dict[str, Any]:
    def offer(one: Offer | None) -> dict[str, Any] | None:
        if one is None:
            return None
        return {**_cell(one.arm), "attainment": _spread(one.attainment), "usd_per_1000_good_requests": _spread(one.usd)}

    return {"limit_s": at.limit_s, "state": at.state, "own": offer(at.own), "hosted": offer(at.hosted)}
