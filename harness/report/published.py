"""A published table beside the measured one: in the terminal and as Markdown. Single stream and aggregate never share a column."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records.published import ComparedFigure, ComparedRow, ComparedTable, Difference
from harness.report import formats
from harness.report.formats import clean, md_code, md_text

_SYMBOLS = {
    "stream_tps": "1/TPOT",
    "output_tps": "output",
    "total_tps": "in + out",
    "request_rps": "requests",
    "icl_s": "ICL",
}
_HEADERS = ("published", "here", "ratio")
_STATES = {
    "measured": "measured",
    "unknown": "measured, UNKNOWN",
    "invalid": "INVALID, no number used",
    "failed": "failed",
    "skipped": "skipped",
    "not_run": "not run",
    "would_run": "would run",
}


def _metric_words(figure: ComparedFigure) -> str:
    name = _SYMBOLS.get(figure.metric, figure.metric.removesuffix("_s").upper())
    unit = figure.unit.replace("tokens", "tok").replace("requests", "req")
    return f"{name} {figure.statistic or ''}".strip() + f" ({unit})"


def _short(load: str) -> str:
    """The load as run directories name it: `c16`, `2 req/s`."""
    return load.replace("concurrency ", "c").removesuffix(" poisson")


def _numbers(figure: ComparedFigure, state: str) -> tuple[str, str, str]:
    """Published, measured with its range over repetitions, and the ratio, as texts; a doubtful measurement is marked."""
    published = formats.number(figure.published) + ("" if figure.column_stated or figure.published is None else " ?")
    here = formats.number(figure.measured)
    if figure.lowest is not None and figure.highest is not None and figure.lowest != figure.highest:
        here += f" ({formats.number(figure.lowest)} to {formats.number(figure.highest)})"
    if state == "unknown" and figure.measured is not None:
        here += " !"
    return published, here, formats.number(figure.ratio)


def _six(figure: ComparedFigure, state: str) -> list[str]:
    """The texts of the six number columns: three of a single stream, three of the aggregate."""
    empty = ["", "", ""]
    numbers = list(_numbers(figure, state))
    return numbers + empty if figure.column == "single_stream" else empty + numbers


def _lines(rows: Sequence[ComparedRow]) -> list[tuple[ComparedRow, ComparedFigure, bool]]:
    """One line a figure; True on the first of a row."""
    return [(row, figure, i == 0) for row in rows for i, figure in enumerate(row.figures)]


def grouped_differences(rows: Sequence[ComparedRow]) -> list[tuple[Difference, str]]:
    """Each difference once, with the rows that it holds for: `all rows`, or their names."""
    measured = [row for row in rows if row.differences]
    holds: dict[Difference, list[str]] = {}
    for row in measured:
        for difference in row.differences:
            holds.setdefault(difference, []).append(row.name)
    fields = list(dict.fromkeys(one.field for one in holds))
    ordered = sorted(holds.items(), key=lambda item: fields.index(item[0].field))
    return [(one, "all rows" if len(names) == len(measured) else ", ".join(names)) for one, names in ordered]


def _difference_words(pair: Difference) -> str:
    published = "not stated" if pair.published is None else clean(pair.published)
    return f"{pair.field}: published {published}; here {clean(pair.here)}"


def grouped_reasons(rows: Sequence[ComparedRow]) -> list[tuple[str, str, tuple[str, ...]]]:
    """(state in words, row names, reasons) of rows that have something to say, equal ones together."""
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for row in rows:
        if row.reasons:
            together.setdefault((row.state, row.reasons), []).append(row.name)
    return [(_STATES[state], ", ".join(names), reasons) for (state, reasons), names in together.items()]


def _absent(rows: Sequence[ComparedRow]) -> list[str]:
    return [
        f"{row.name}, {_metric_words(figure)}: {figure.absent}"
        for row in rows
        for figure in row.figures
        if figure.absent
    ]


def _footnotes(table: ComparedTable) -> list[str]:
    notes = []
    figures = [figure for row in table.rows for figure in row.figures]
    if any(not figure.column_stated for figure in figures):
        notes.append(
            "?: the source does not say whether it means one stream or the whole server; it is compared with both"
        )
    if any(figure.published is None for figure in figures):
        notes.append('"-" under published: the source gives the settings, and no number that could be read')
    if any(row.state == "unknown" for row in table.rows):
        notes.append("!: the run is UNKNOWN, for the reasons below: its ratio says nothing about the server")
    counts = [len(row.run_ids) for row in table.rows if row.run_ids]
    if counts and min(counts) == 1:
        notes.append("one run a cell has no interval: a ratio near 1 is then no proof of equality")
    return notes


def render(console: Console, table: ComparedTable) -> None:
    """Print the table, what was skipped and why, and why the numbers may differ."""
    console.print(Text(clean(table.title)), style="bold")
    date = f", {clean(table.date)}" if table.date else ", no date given"
    console.print(Text(f"source: {clean(table.source)}{date}, {clean(table.url)}"), soft_wrap=True)
    if table.source_note:
        console.print(Text(clean(table.source_note)))
    console.print(Text(f"this machine: {clean(table.machine)}"))
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for header in ("row", "model", "load", "metric"):
        out.add_column(Text(header), no_wrap=header != "model")
    for column in ("1 stream", "server"):
        for header in _HEADERS:
            out.add_column(Text(f"{column}\n{header}"), justify="right")
    for row, figure, first in _lines(table.rows):
        words = [row.name, row.label, _short(row.load)] if first else ["", "", ""]
        out.add_row(*(Text(clean(word, 60)) for word in [*words, _metric_words(figure), *_six(figure, row.state)]))
    console.print(out)
    for note in [*_footnotes(table), *_absent(table.rows)]:
        console.print(Text(note))
    for state, names, reasons in grouped_reasons(table.rows):
        console.print(Text(f"{state}: {names}"), style="yellow")
        for reason in reasons:
            console.print(Text(f"  {clean(reason)}"))
    if notes := [(row.name, row.note) for row in table.rows if row.note]:
        console.print(Text("notes"), style="bold")
        for name, note in notes:
            console.print(Text(f"  {name}: {clean(note)}"))
    if apart := grouped_differences(table.rows):
        console.print(Text("why they may differ"), style="bold")
        for one, names in apart:
            console.print(Text(f"  {_difference_words(one)} ({names})"))
    if ids := [run for row in table.rows for run in row.run_ids]:
        console.print(Text(f"runs: {formats.run_ids(ids)}"), soft_wrap=True)
    if table.dry_run:
        able = sum(row.state == "would_run" for row in table.rows)
        took = "" if table.seconds is None or not able else f": {table.seconds:.0f} s of measuring, and the starts"
        console.print(Text(f"{able} of {len(table.rows)} rows would run{took}"))


def markdown(table: ComparedTable) -> str:
    """The same as Markdown, for a pull request. Words from outside are escaped."""
    date = table.date or "no date given"
    parts = [
        f"# {md_text(table.title)}",
        f"Source: {md_text(table.source)}, {md_text(date)}, {md_code(table.url)}. {md_text(table.source_note)}".rstrip(),
        f"This machine: {md_text(table.machine)}.",
    ]
    heads = ["row", "model", "load", "metric"]
    heads += [f"{column}: {header}" for column in ("one stream", "server") for header in _HEADERS]
    lines = ["| " + " | ".join([*heads, "state"]) + " |", "|---|---|---|---|" + "---:|" * 6 + "---|"]
    for row, figure, first in _lines(table.rows):
        words = [md_code(row.name, cell=True), md_text(row.label), md_text(row.load)] if first else ["", "", ""]
        numbers = [md_text(text) for text in _six(figure, row.state)]
        lines.append("| " + " | ".join([*words, md_text(_metric_words(figure)), *numbers, _STATES[row.state]]) + " |")
    parts.append("\n".join(lines))
    notes = [*_footnotes(table), *_absent(table.rows)]
    notes += [f"{row.name}: {row.note}" for row in table.rows if row.note]
    parts.append("\n".join(f"- {md_text(note)}" for note in notes))
    if reasons := grouped_reasons(table.rows):
        lines = [f"- **{state}** {md_text(names)}: {md_text('; '.join(why))}" for state, names, why in reasons]
        parts.append("## Not measured, or with doubt\n\n" + "\n".join(lines))
    if apart := grouped_differences(table.rows):
        lines = [f"- {md_text(_difference_words(one))} ({md_text(names)})" for one, names in apart]
        parts.append("## Why they may differ\n\n" + "\n".join(lines))
    if ids := [run for row in table.rows for run in row.run_ids]:
        parts.append(f"Runs: {md_code(formats.run_ids(ids))}")
    return "\n\n".join(part for part in parts if part) + "\n"
