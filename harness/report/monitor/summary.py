"""The cost report of a period on a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import MonitorView
from harness.report import formats
from harness.report.monitor import tables

_WIDE = ("in", "cached", "errors", "$/M total", "not read")  # left out where the terminal is narrower than this table


def render(console: Console, view: MonitorView) -> None:
    """Headline, pools, idle dollars, advice, warnings."""
    console.print(Text(f"{formats.clean(view.name, 100)}: {tables.period(view)}", style="bold"))
    console.print(Text(tables.headline(view)))
    pools = tables.groups(view)[0]
    left_out = _WIDE if console.width < 160 else ()
    console.print(_table(pools, left_out))
    console.print(_table(tables.idle(view), ()))
    console.print(Text(tables.machines(view)[1]))
    for one in view.advice:
        usd = f"{formats.usd(one.usd_per_month)} a month ({formats.usd(one.low_usd)} to {formats.usd(one.high_usd)})"
        console.print(Text(f"saves {usd}: {formats.clean(one.says, 400)}"), soft_wrap=True)
    if not view.advice:
        console.print(Text("no advice above its noise", style="dim"))
    for line in view.warnings:
        console.print(Text(f"not to be trusted blindly: {formats.clean(line, 600)}", style="yellow"), soft_wrap=True)


def _table(table: tables.Table, left_out: tuple[str, ...]) -> Table:
    shown = Table(box=box.SIMPLE_HEAD, title=table.name, title_justify="left", pad_edge=False, show_edge=False)
    chosen = [at for at, header in enumerate(table.headers) if header not in left_out]
    for at in chosen:
        words = table.headers[at] in table.words
        shown.add_column(table.headers[at], justify="left" if words else "right", overflow="fold", no_wrap=not words)
    for row in table.rows:
        shown.add_row(*(Text(row[at]) for at in chosen))
    return shown
