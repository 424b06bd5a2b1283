"""How many repetitions a comparison needs to see a change: in one sentence, as a table in the terminal, and as plain values for --json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import Detection
from harness.report import formats
from harness.report.compare import side_name


def conclusion(detection: Detection) -> str:
    """How many repetitions see the change in every cell and metric, and which of them asks for most."""
    change, power = formats.percent(detection.change), formats.percent(detection.power)
    worst = detection.rows[0]
    name = formats.clean(f"{worst.label} in {worst.target} {worst.workload} {worst.load.name}", 200)
    over = [row for row in detection.rows if row.needed is None]
    known = [row.needed for row in detection.rows if row.needed is not None]
    if over:
        rest = f"; the other {len(known)}: {max(known)}" if known else ""
        return (
            f"A change of {change} is not seen with {detection.limit} repetitions in {len(over)} of {len(detection.rows)} "
            f"comparisons (first: {name}){rest}."
        )
    return f"{max(known)} repetitions a side see a change of {change} in each comparison with a probability of {power} (most: {name})."


def render(console: Console, detection: Detection) -> None:
    """Print, for each cell and metric, the spread, what is seen now and the repetitions that the change needs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("cell", overflow="fold")
    table.add_column("metric")
    headers = ("n", "spread", "of it inside runs", "smallest seen now", f"n for {formats.percent(detection.change)}")
    for header in headers:
        table.add_column(header, justify="right")
    for row in detection.rows:
        table.add_row(
            Text(formats.clean(f"{row.target} {row.workload} {row.load.name}", 200)),
            Text(row.label),
            str(row.repetitions),
            formats.percent(float(f"{row.spread:.3g}")),
            formats.ABSENT if row.inside_share is None else f"{row.inside_share:.0%}",
            "over 10x"
            if row.smallest_now is None or row.smallest_now > 10
            else formats.percent(float(f"{row.smallest_now:.3g}")),
            f"> {detection.limit}" if row.needed is None else str(row.needed),
        )
    console.print(Text(side_name(detection.side)), soft_wrap=True)
    console.print(table)
    for text in detection.skipped:
        console.print(Text(f"not planned: {formats.clean(text, 300)}"))
    console.print(
        Text(
            f"a side's repetitions for {formats.percent(detection.power)} power, corrected for {detection.tests} comparisons at "
            f"{formats.percent(detection.alpha)}, changes up to {formats.percent(detection.min_effect)} not counting; fewer metrics need fewer",
            style="dim",
        )
    )
    console.print(Text(conclusion(detection), style="bold"))


def as_json(detection: Detection) -> dict[str, Any]:
    """The plan as plain values, with its conclusion."""
    plain = asdict(detection)
    plain["rows"] = [{**asdict(row), "load": row.load.name} for row in detection.rows]
    return {"conclusion": conclusion(detection), **plain}
