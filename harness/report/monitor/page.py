"""The cost report of a period as one HTML page that loads nothing."""

from __future__ import annotations

from pathlib import Path

from harness.records import MonitorView
from harness.report import pages
from harness.report.monitor import csv, figures, focus, markdown, tables


def html(view: MonitorView) -> str:
    """The page as text; equal views give equal bytes, every word from outside is escaped."""
    machines, sum_words = tables.machines(view)
    plots = [
        (name, pages.svg(svg.replace('id="', f'id="f{at}-').replace('href="#', f'href="#f{at}-').replace("url(#", f"url(#f{at}-")))
        for at, (name, svg) in enumerate(figures.figures(view))
    ]  # fmt: skip
    return pages.environment().get_template("monitor.html.j2").render(
        view=view, period=tables.period(view), headline=tables.headline(view), kpis=tables.kpis(view), groups=tables.groups(view),
        idle=tables.idle(view), idle_words=tables.idle_words(), times=tables.times(view), hosted=tables.hosted(view),
        machines=machines, sum_words=sum_words, capacities=tables.capacities(view), figures=plots,
        formulas=[group for group in view.groups if group.kind in ("all", "pool")], line_text=tables.line_text,
    )  # fmt: skip


def write(view: MonitorView, out: Path) -> dict[str, Path]:
    """report.html, report.md, figures.csv and, where something has a price, focus.csv. Raises StoreError."""
    from harness.planner.focus import focus_csv

    paths = {
        name: out / file
        for name, file in {"html": "report.html", "markdown": "report.md", "csv": "figures.csv"}.items()
    }
    pages.write_whole(paths["html"], html(view))
    pages.write_whole(paths["markdown"], markdown.markdown(view))
    pages.write_whole(paths["csv"], csv.text(view))
    if focus.charges(view):
        paths["focus"] = out / "focus.csv"
        pages.write_whole(paths["focus"], focus_csv(focus.rows(view)))
    return paths
