"""A capacity search in words and as a table: for terminals, Markdown and --json."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from harness.records import CapacityResult, Cell, ProbeResult
from harness.report import formats

HEADERS = (
    "#",
    "offered /s",
    "as drawn /s",
    "seconds",
    "requests",
    "attainment",
    "95 % interval",
    "worth",
    "verdict",
    "stopped because",
)


def cell_words(cell: Cell) -> str:
    """Which search it was."""
    return formats.clean(f"{cell.target}, {cell.workload}, repetition {cell.repetition}", 200)


def headline(result: CapacityResult) -> str:
    """One sentence: what the capacity is, or on which side of which rate it lies, and how sure that is."""
    target = f"{formats.percent(result.attainment)} of requests within the SLO"
    tokens = "" if result.output_tps is None else f", {formats.number(result.output_tps)} output tok/s"
    interval = f"95 % interval {formats.number(result.low_rps)} to {formats.number(result.high_rps)}"
    match result.state:
        case "found":
            say = f"Capacity {formats.number(result.capacity_rps)} requests/s ({interval}){tokens}, {target}"
        case "censored_above":
            say = f"Capacity at least {formats.number(result.low_rps)} requests/s{tokens}, {target}"
        case "censored_below":
            say = f"Capacity below {formats.number(result.high_rps)} requests/s, {target}"
        case _:
            say = f"Capacity undecided, {target}"
    probes = f"{len(result.probes)} probe{'' if len(result.probes) == 1 else 's'}"
    return f"{say}: {formats.clean(result.why)}. {probes}, {formats.duration(result.seconds)} of schedule."


def rows(result: CapacityResult) -> list[tuple[str, ...]]:
    """One row a probe; `worth`: so many independent requests would tell as much."""
    return [row(probe) for probe in result.probes]


def row(probe: ProbeResult) -> tuple[str, ...]:
    """One probe's texts, under HEADERS."""
    interval = (
        f"{formats.percent(probe.low)} to {formats.percent(probe.high)}" if probe.low is not None else formats.ABSENT
    )
    worth = probe.effective_requests
    return (
        str(probe.index),
        formats.number(probe.rate_rps),
        formats.number(probe.scheduled_rate_rps),
        formats.number(probe.seconds),
        formats.number(probe.offered),
        formats.percent(probe.attainment),
        interval,
        formats.number(None if worth is None else round(worth)),
        probe.verdict,
        formats.clean(probe.stopped, 120),
    )


def markdown(result: CapacityResult) -> str:
    """Headline and table."""
    lines = [formats.md_text(headline(result)), "", f"| {' | '.join(HEADERS)} |", f"|{'---|' * len(HEADERS)}"]
    lines += [f"| {' | '.join(formats.md_text(cell) for cell in texts)} |" for texts in rows(result)]
    return "\n".join(lines) + "\n"


def as_values(result: CapacityResult) -> dict[str, Any]:
    """The result as plain JSON values, probes included."""
    return asdict(result)
