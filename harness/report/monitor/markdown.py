"""The cost report of a period in GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Advice, MonitorView
from harness.report import formats
from harness.report.formats import md_text
from harness.report.monitor import tables


def markdown(view: MonitorView) -> str:
    """Headline, advice, tables and what is not to be trusted. Words from outside are escaped."""
    parts = [f"# Cost of {md_text(view.name)}", md_text(tables.period(view)), md_text(tables.headline(view))]
    parts += ["## Advice", _advice(view.advice)]
    for table in tables.groups(view):
        parts += [f"## {table.name}", _table(table)]
    parts += [
        "## Idle dollars",
        _table(tables.idle(view)),
        "\n".join(f"- {md_text(word)}" for word in tables.idle_words()),
    ]
    parts += ["## Times and promise", _table(tables.times(view))]
    parts += ["## Hosted", _table(tables.hosted(view))]
    machines, words = tables.machines(view)
    parts += ["## Machines", _table(machines), md_text(words)]
    parts += ["## Capacity", _table(tables.capacities(view)) if view.capacities else "None was measured."]
    if view.warnings:
        parts += ["## Not to be trusted blindly", "\n".join(f"- {md_text(line)}" for line in view.warnings)]
    return "\n\n".join(parts) + "\n"


def _advice(advice: Sequence[Advice]) -> str:
    if not advice:
        return "None above its noise."
    return "\n".join(
        f"- **{md_text(formats.usd(one.usd_per_month))} a month** ({md_text(formats.usd(one.low_usd))} to {md_text(formats.usd(one.high_usd))}): "
        f"{md_text(one.says)}. {md_text(one.formula)}; {md_text(one.evidence)}. Wrong if: {md_text(one.unless)}."
        for one in advice
    )


def _table(table: tables.Table) -> str:
    marks = "".join("---|" if header in table.words else "---:|" for header in table.headers)
    lines = ["| " + " | ".join(table.headers) + " |", "|" + marks]
    lines += ["| " + " | ".join(map(md_text, row)) + " |" for row in table.rows]
    return "\n".join(lines) + (f"\n\n{table.left_out} more are in figures.csv." if table.left_out else "")
