"""Writes the report: report.html (one file, nothing loaded from elsewhere), report.md and results.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.base.documents import csv_cell
from harness.records import Analysis, CapacityResult, Cell, CostReport, RunSummary
from harness.records.metrics import METRICS
from harness.report import capacity, formats, pages
from harness.report.run import cells, figures, hosted, hybrids, replicas, sections, sides_page
from harness.report.run.answer import Answer, find_answer, price_line
from harness.report.run.markdown import markdown
from harness.report.run.sides import in_words, sides

_KPIS = (
    ("usd_per_million_output_tokens", "per million output tokens"),
    ("usd_per_million_total_tokens", "per million input + output tokens"),
    ("usd_per_thousand_requests", "per 1,000 requests"),
    ("output_tps", "output throughput"),
    ("ttft_p50_s", "TTFT, median"),
    ("tpot_p50_s", "TPOT, median"),
)
_MAX_COSTS = 12  # runs whose formulas are printed in full; every run's prices are in the results table
_PARTS = ("", "_min", "_max", "_low_95", "_high_95")


def write_report(
    directory: Path, analysis: Analysis, costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> dict[str, Path]:
    """Write report.html, report.md and results.csv into `directory`/derived (made if missing); returns them by kind.

    Equal inputs give equal bytes: all of it can be made again from the raw files. Dollars of INVALID runs are left out unless
    `allow_invalid`, and then flagged. Raises StoreError where a file cannot be written.
    """
    summaries = analysis.summaries
    title = summaries[0].experiment if summaries else directory.name
    capacities = [(search.cell, search.result) for search in analysis.capacities]
    texts = {
        "html": ("report.html", html(title, summaries, costs, allow_invalid=allow_invalid, capacities=capacities)),
        "markdown": (
            "report.md",
            markdown(title, summaries, costs, allow_invalid=allow_invalid, capacities=capacities),
        ),
        "csv": ("results.csv", results_csv(cells.rows(summaries, costs, allow_invalid=allow_invalid))),
    }
    paths = {}
    for kind, (name, text) in texts.items():
        paths[kind] = directory / "derived" / name
        pages.write_whole(paths[kind], text)
    return paths


def html(
    title: str,
    summaries: Sequence[RunSummary],
    costs: Sequence[CostReport],
    *,
    allow_invalid: bool = False,
    capacities: Sequence[tuple[Cell, CapacityResult]] = (),
) -> str:
    """The whole report as one HTML text. Every word from outside is escaped by the template."""
    table = cells.rows(summaries, costs, allow_invalid=allow_invalid)
    best = find_answer(summaries, costs, allow_invalid=allow_invalid)
    # dollars first: they are what most readers came for, and stay in sight on a phone
    columns = sorted(cells.shown_columns(table), key=lambda column: column.kind != "cost")
    writers = [(column, *cells.unit_and_writer(column, table)) for column in columns]
    over_time = sections.timeline_run(best, table, summaries)
    anchors = sections.anchors(summaries)
    priced = sections.costs_shown(best, costs, summaries, allow_invalid=allow_invalid)
    return pages.environment().get_template("run.html.j2").render(
        title=formats.clean(title, 200) or "report",
        answer=best,
        allow_invalid=allow_invalid,
        kpis=_kpis(best),
        summaries=summaries,
        invalid=[run for run in summaries if run.verdict.state == "INVALID"],
        headers=[(column, unit) for column, unit, _ in writers],
        rows=[_html_row(row, writers, best) for row in table],
        absent=[(names, why, [table.index(row) + 1 for row in where] if len(where) < len(table) else []) for names, why, where in cells.absent_reasons(table, columns)],
        figures=[
            ("Throughput against concurrency", pages.svg(figures.throughput_against_concurrency(summaries)), False),
            ("Timeline", pages.svg(figures.timeline(over_time)), True),
            ("Latency against rate", pages.svg(figures.latency_against_rate(summaries)), False),
        ],
        policies=[(hybrids.cell_words(one), hybrids.texts(one), one.optimum_words) for one in hybrids.policy_tables(table, costs)],
        policy_headers=hybrids.HEADERS,
        replicas=[(replicas.cell_words(one), replicas.texts(one), one.words) for one in replicas.replica_tables(table)],
        replica_headers=replicas.HEADERS,
        both=[
            (found, in_words(found), pages.svg(figures.dollars_against_promise(found)), sides_page.blocks(found, costs, allow_invalid=allow_invalid), sides_page.prices(found, costs))
            for found in sides(summaries, costs, allow_invalid=allow_invalid)
        ],
        arm_header=sides_page.header,
        capacities=[
            (capacity.cell_words(cell), capacity.headline(result), pages.svg(capacity.probes_plot(result)), capacity.rows(result))
            for cell, result in capacities
        ],
        capacities_together=capacity.together(capacities),
        capacity_headers=capacity.HEADERS,
        hosted=_hosted(summaries),
        price_words=cells.price_words(table, costs),
        price_line=price_line,
        timeline_run=over_time,
        anchors=anchors,
        costs=priced[:_MAX_COSTS],
        costs_left_out=len(priced[_MAX_COSTS:]),
        cells_of={run.run_id: run for run in summaries},
        findings=sections.findings(summaries),
        tokens=(token_lines := sections.token_lines(summaries)),
        token_verdict=sections.token_verdict(token_lines),
        startups=sections.startups(summaries),
        environment=sections.facts([run.environment for run in summaries]),
        config=sections.facts([run.config for run in summaries]),
        outcome_words=sections.outcome_words,
        metrics=list(METRICS.values()),
    )  # fmt: skip


def _hosted(summaries: Sequence[RunSummary]) -> dict[str, Any]:
    """What the sections of targets at a URL say."""
    return {
        "network": (hosted.NETWORK_TITLE, hosted.NETWORK_HEADERS, hosted.network_rows(summaries), hosted.NETWORK_NOTE),
        "account": (hosted.ACCOUNT_TITLE, hosted.ACCOUNT_HEADERS, hosted.account_rows(summaries)),
        "sentences": hosted.account_sentences(summaries),
    }


def _html_row(
    row: cells.Row, writers: Sequence[tuple[cells.Column, str, cells.Writer]], best: Answer
) -> dict[str, Any]:
    texts = []
    for column, _, write in writers:
        spread = row.values.get(column.key)
        texts.append((*cells.spread_text(spread, write), row.absent.get(column.key, "") if spread is None else ""))
    return {
        "row": row,
        "load": formats.load_words(row.load),
        "best": best.row is not None and row.used == best.row.used,
        "cells": texts,
        "ids": formats.run_ids([run.run_id for run in row.used]),
    }


def _kpis(best: Answer) -> list[tuple[str, str, str]]:
    """(value, words, range) of the chosen cell's main numbers, absent ones left out."""
    if best.row is None:
        return []
    kpis = []
    for key, words in _KPIS:
        column = next(column for column in cells.COLUMNS if column.key == key)
        spread = best.row.values.get(key)
        if spread is None:
            continue
        unit, write = cells.unit_and_writer(column, [best.row])
        middle, between = cells.spread_text(spread, write)
        kpis.append((f"{middle}{'' if unit == 'USD' else ' ' + unit}", words, between))
    return kpis


def results_csv(table: Sequence[cells.Row]) -> str:
    """The results table with full numbers: a row a cell, each number as median, min, max and 95 % interval; empty where absent.

    Text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    words = [
        "experiment",
        "target",
        "target_kind",
        "model",
        "workload",
        "load",
        "concurrency",
        "rate_rps",
        "repetitions",
        "repetitions_used",
        "verdict",
        "run_ids",
    ]
    writer.writerow([*words, *(f"{column.key}{part}" for column in cells.COLUMNS for part in _PARTS)])
    for row in table:
        numbers: list[float | Decimal | str] = []
        for column in cells.COLUMNS:
            spread = row.values.get(column.key)
            ends = ("", "") if spread is None or spread.interval is None else spread.interval
            numbers += [""] * 5 if spread is None else [spread.median, spread.minimum, spread.maximum, *ends]
        load = row.load
        writer.writerow(
            [
                *(
                    _plain_cell(text)
                    for text in (row.experiment, row.target, row.target_kind, row.model, row.workload, load.name)
                ),
                "" if load.concurrency is None else load.concurrency,
                "" if load.rate_rps is None else load.rate_rps,
                len(row.runs),
                len(row.used),
                row.verdict,
                _plain_cell(" ".join(run.run_id for run in row.runs)),
                *numbers,
            ]
        )
    return out.getvalue()


def _plain_cell(text: str) -> str:
    return str(csv_cell(formats.clean(text)))
