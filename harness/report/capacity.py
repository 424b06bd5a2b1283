"""A capacity search in words and as a table: for terminals, Markdown and --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.judge.capacity import CapacityMean, over_repetitions
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


def over_repetitions_words(found: CapacityMean) -> str:
    """What several searches of one cell say together."""
    if found.state == "undecided":
        return f"Over {found.repetitions} repetitions: undecided, since not every search found a capacity."
    if found.state == "censored_above":
        return f"Over {found.repetitions} repetitions: at least {formats.number(found.low_rps)} requests/s."
    tokens = "" if found.output_tps is None else f", {formats.number(found.output_tps)} output tok/s"
    between = f"95 % interval {formats.number(found.low_rps)} to {formats.number(found.high_rps)}"
    return f"Over {found.repetitions} repetitions: {formats.number(found.mean_rps)} requests/s ({between}){tokens}."


def together(capacities: Sequence[tuple[Cell, CapacityResult]]) -> list[tuple[str, str]]:
    """(cell, sentence) for every cell that was searched more than once."""
    cells: dict[tuple[str, str], list[CapacityResult]] = {}
    for cell, result in capacities:
        cells.setdefault((cell.target, cell.workload), []).append(result)
    return [
        (formats.clean(f"{target}, {workload}", 200), over_repetitions_words(over_repetitions(results)))
        for (target, workload), results in cells.items()
        if len(results) > 1
    ]


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
