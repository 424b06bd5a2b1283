"""Targets of several replicas: what each served, how even that was, what a router before them costs, the whole against its parts: for
terminal, Markdown, HTML and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.judge.replicas import imbalance, names_of
from harness.records import Load, ReplicaOfRun, RunSummary
from harness.report import formats
from harness.report.run.cells import Row

HEADERS = ("target", "way", "replica", "requests", "output tokens", "TTFT", "by")
_COMPARED = (("ttft_s.p50", "TTFT p50"), ("tpot_s.p50", "TPOT p50"), ("e2el_s.p50", "E2EL p50"))


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One replica of one run."""

    target: str
    way: str  # through URL's host | in turn
    run_id: str
    part: ReplicaOfRun


@dataclass(frozen=True, slots=True)
class ReplicaTable:
    """All of one workload and load. `words`: a sentence each on how even it was, on a router, on the parts."""

    workload: str
    load: Load
    rows: tuple[ReplicaRow, ...]
    words: tuple[str, ...]


def replica_tables(table: Sequence[Row]) -> list[ReplicaTable]:
    """One for each workload and load at which a target of several replicas was measured."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in table:
        groups.setdefault((row.experiment, row.campaign_id, row.workload, row.load), []).append(row)
    return [_table(rows, table) for rows in groups.values() if any(run.replicas for row in rows for run in row.used)]


def _table(rows: Sequence[Row], all_rows: Sequence[Row]) -> ReplicaTable:
    whole = [row for row in rows if row.used and row.used[0].replicas]
    shown = tuple(
        ReplicaRow(row.target, _way(row.used[0]), run.run_id, part)
        for row in whole
        for run in row.used
        for part in run.replicas
    )
    words = [_even(row) for row in whole]
    for row in whole:
        straight = next((other for other in whole if _is_straight(other) and _names(other) == _names(row)), None)
        if straight is not None and not _is_straight(row):
            words.append(_router(row, straight))
    words += [words_of for row in whole if (words_of := _parts(row, all_rows)) is not None]
    return ReplicaTable(rows[0].workload, rows[0].load, shown, tuple(words))


def _names(row: Row) -> frozenset[str]:
    return frozenset(names_of(row.used[0].target_config))


def _is_straight(row: Row) -> bool:
    return _host(row.used[0]) in _names(row)


def _host(run: RunSummary) -> str:
    return urlsplit(str(run.target_config.get("url") or "")).netloc


def _way(run: RunSummary) -> str:
    return "in turn" if _host(run) in names_of(run.target_config) else f"through {_host(run)}"


def _even(row: Row) -> str:
    """The most uneven of the runs."""
    found = []
    for of, words in (("requests", "requests"), ("output_tokens", "output tokens")):
        known = [value for run in row.used if (value := imbalance(run.replicas, of)) is not None]
        if known:
            found.append(f"{max(known):.2f} x the mean's {words}")
    firsts = [part.ttft_s for run in row.used for part in run.replicas if part.ttft_s]
    if len(firsts) > 1:
        found.append(f"TTFT {formats.duration(min(firsts))} to {formats.duration(max(firsts))}")
    return f"{row.target}: the most loaded replica had " + ("; ".join(found) or "what no replica tells")


def _router(row: Row, straight: Row) -> str:
    """What the way through a router adds to requests of the same plan, and takes from their throughput."""
    parts = []
    for key, name in _COMPARED:
        here, there = _point(row, key), _point(straight, key)
        if here is not None and there is not None:
            sign = "+" if here >= there else "-"
            parts.append(f"{name} {sign}{formats.duration(abs(here - there))} ({formats.duration(there)} straight)")
    here, there = _point(row, "output_tps"), _point(straight, "output_tps")
    if here is not None and there:
        parts.append(f"output {here / there - 1:+.1%} ({formats.number(there)} tok/s straight)")
    return f"the router of {row.target}, against {straight.target} with the same plan: {', '.join(parts) or 'not told'}"


def _parts(row: Row, rows: Sequence[Row]) -> str | None:
    """The whole's output rate against the sum of its replicas', each measured alone at its share of the load; None where not each was."""
    names = sorted(_names(row))
    rates = [_alone(row, name, len(names), rows) for name in names]
    mine = _point(row, "output_tps")
    if mine is None or not rates or any(rate is None for rate in rates):
        return None
    total = sum(rate for rate in rates if rate is not None)
    return f"{row.target}: {formats.number(mine)} tok/s, {mine / total:.1%} of the {formats.number(total)} of its replicas, each alone at its share of the load"


def _alone(whole: Row, name: str, replicas: int, rows: Sequence[Row]) -> float | None:
    """Output rate of the target that is this replica and nothing else, at the whole's load divided by its replicas."""
    for row in rows:
        if not row.used or row.used[0].replicas or _host(row.used[0]) != name:
            continue
        if (row.campaign_id, row.workload) != (whole.campaign_id, whole.workload):
            continue
        here, there = ((one.concurrency or one.rate_rps or 0) for one in (row.load, whole.load))
        if row.load.is_closed == whole.load.is_closed and abs(here * replicas - there) < 1e-9 * max(1, there):
            return _point(row, "output_tps")
    return None


def _point(row: Row, key: str) -> float | None:
    """The median over its runs."""
    metric, _, at = key.partition(".")
    values = []
    for run in row.used:
        found = run.distributions.get(metric)
        value = run.scalars.get(metric) if not at else getattr(found, at) if found is not None else None
        values += [float(value)] if value is not None else []
    return sorted(values)[len(values) // 2] if values else None


# ---------------------------------------------------------------- as text


def cell_words(table: ReplicaTable) -> str:
    return f"{formats.clean(table.workload, 200)}, {formats.load_words(table.load)}"


def texts(table: ReplicaTable) -> list[tuple[str, ...]]:
    """A row of text under each of HEADERS."""
    return [
        (
            formats.clean(row.target, 200),
            formats.clean(row.way, 200),
            formats.clean(row.part.name, 200),
            formats.ABSENT if row.part.requests is None else f"{row.part.requests:,}",
            formats.ABSENT if row.part.output_tokens is None else f"{row.part.output_tokens:,}",
            formats.ABSENT if row.part.ttft_s is None else formats.duration(row.part.ttft_s),
            f"its {row.part.source}",
        )
        for row in table.rows
    ]


def render(console: Console, tables: Sequence[ReplicaTable]) -> None:
    """The tables on a terminal."""
    for one in tables:
        title = Text(f"replicas: {cell_words(one)}")
        shown = Table(box=None, header_style="bold", pad_edge=False, title=title, title_justify="left")
        for header in HEADERS:
            shown.add_column(header, justify="right" if header in HEADERS[3:6] else "left")
        for row in texts(one):
            shown.add_row(*(Text(text) for text in row))
        console.print()
        console.print(shown)
        for words in one.words:
            console.print(words, highlight=False, markup=False)


def markdown(table: ReplicaTable) -> str:
    lines = ["| " + " | ".join(HEADERS) + " |", "|" + "---|" * len(HEADERS)]
    lines += ["| " + " | ".join(formats.md_text(text) for text in row) + " |" for row in texts(table)]
    return "\n".join([*lines, "", *(f"- {formats.md_text(words)}" for words in table.words)])


def as_values(table: ReplicaTable) -> dict[str, Any]:
    """For --json."""
    rows = [{"target": row.target, "way": row.way, "run_id": row.run_id, **asdict(row.part)} for row in table.rows]
    return {"workload": table.workload, "load": table.load.name, "replicas": rows, "words": list(table.words)}
