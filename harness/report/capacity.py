"""A capacity search in words, as a table and as a plot of its probes: for terminals, Markdown, the page and --json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from harness.judge.capacity.orders import CapacityMean, over_repetitions
from harness.records import CapacityResult, Cell, ProbeResult
from harness.report import formats
from harness.report.figures import GRID, INK, MUTED, PAPER, SERIES, Figure, empty

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
_COLOURS = {"pass": SERIES[2], "fail": SERIES[1], "undecided": SERIES[0], "invalid": MUTED}
_MARKERS = {"pass": "o", "fail": "X", "undecided": "s", "invalid": "D"}
_LABEL = "Probes of the capacity search"


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


def over_repetitions_words(mean: CapacityMean) -> str:
    """What several searches of one cell say together."""
    if mean.state == "undecided":
        return f"Over {mean.repetitions} repetitions: undecided, since not every search found a capacity."
    if mean.state == "censored_above":
        return f"Over {mean.repetitions} repetitions: at least {formats.number(mean.low_rps)} requests/s."
    tokens = "" if mean.output_tps is None else f", {formats.number(mean.output_tps)} output tok/s"
    between = f"95 % interval {formats.number(mean.low_rps)} to {formats.number(mean.high_rps)}"
    return f"Over {mean.repetitions} repetitions: {formats.number(mean.mean_rps)} requests/s ({between}){tokens}."


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


# ---------------------------------------------------------------- the plot


def probes_plot(result: CapacityResult) -> str:
    """SVG of attainment over offered rate, both axes so that the neighbourhood of the target is wide.

    The ordinate is 1 - attainment on an inverted log axis, labelled as attainment: 90 %, 99 % and 99.9 % are equally far apart.
    """
    judged = [p for p in result.probes if p.attainment is not None]
    if not judged:
        return empty(_LABEL, f"Nothing to plot: {result.why}.")
    floor = _floor(judged, result.attainment)
    with Figure(_LABEL, 1, 3.9) as figure:
        ax = figure.axes[0]
        if result.low_rps is not None and result.high_rps is not None:
            ax.axvspan(result.low_rps, result.high_rps, color=GRID, alpha=0.6, linewidth=0)
        for probe in judged:
            _draw(figure, ax, probe, floor)
        ax.axhline(max(1 - result.attainment, floor), color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        _axes(ax, judged, floor)
        ax.annotate(
            f"target {formats.percent(result.attainment)}", (0.005, max(1 - result.attainment, floor)),
            xycoords=("axes fraction", "data"), xytext=(0, 3), textcoords="offset points", color=MUTED, fontsize=9.5,
        )  # fmt: skip
        _mark(ax, result)
        ax.set_xlabel(
            "offered rate (requests/s)   \u25cf passed   \u2716 failed   \u25a0 neither clearly   \u25c6 invalid"
        )
        ax.set_ylabel("attainment")
    return figure.svg


def _floor(probes: list[ProbeResult], target: float) -> float:
    """Share of misses that is drawn for none at all: below every other and below the target."""
    least = min((1 - p.attainment for p in probes if p.attainment is not None and p.attainment < 1), default=1.0)
    return max(1e-6, min(least, max(1 - target, 1e-5)) / 3)


def _draw(figure: Figure, ax: Any, probe: ProbeResult, floor: float) -> None:
    """A marker with its 95 % interval and its number."""
    if probe.attainment is None:
        return
    colour = _COLOURS.get(probe.verdict, MUTED)
    at = max(1 - probe.attainment, floor)
    if probe.low is not None and probe.high is not None:
        ax.vlines(
            probe.rate_rps,
            max(1 - probe.high, floor),
            max(1 - probe.low, floor),
            color=colour,
            linewidth=1.4,
            alpha=0.6,
        )
    (dot,) = ax.plot(
        [probe.rate_rps], [at], _MARKERS.get(probe.verdict, "D"), markersize=7, color=colour,
        markerfacecolor=PAPER if probe.verdict == "invalid" else colour, markeredgewidth=1.2,
    )  # fmt: skip
    figure.note(
        dot,
        f"probe {probe.index}: {formats.number(probe.rate_rps)}/s, {formats.percent(probe.attainment)} of "
        f"{formats.number(probe.offered)} requests, {probe.verdict}: {probe.stopped}",
    )
    ax.annotate(
        str(probe.index), (probe.rate_rps, at), xytext=(5, 4), textcoords="offset points", fontsize=8.5, color=INK
    )


def _axes(ax: Any, probes: list[ProbeResult], floor: float) -> None:
    ax.set_yscale("log")
    ax.set_ylim(1.3, floor / 1.4)
    decades = [1.0, 0.5, 0.1, 0.05, 0.01, 0.001, 0.0001, 0.00001]
    ticks = [share for share in decades if share > floor * 1.2]
    ax.set_yticks([*ticks, floor], [*(formats.percent(1 - share) for share in ticks), "100 %"])
    ax.minorticks_off()
    rates = [p.rate_rps for p in probes]
    ax.set_xscale("log")
    ax.set_xlim(min(rates) / 1.15, max(rates) * 1.15)
    span = max(rates) / min(rates)
    places = [min(rates) * span ** (k / 5) for k in range(6)] if span > 1.0001 else [rates[0]]
    ax.set_xticks(places, [formats.number(place) for place in places])
    ax.minorticks_off()


def _mark(ax: Any, result: CapacityResult) -> None:
    """The capacity as a line with its number; censored: the rate it lies beyond."""
    match result.state:
        case "found":
            at, words = result.capacity_rps, f"capacity {formats.number(result.capacity_rps)}/s"
        case "censored_above":
            at, words = result.low_rps, f"capacity at least {formats.number(result.low_rps)}/s"
        case "censored_below":
            at, words = result.high_rps, f"capacity below {formats.number(result.high_rps)}/s"
        case _:
            return
    if at is None:
        return
    ax.axvline(at, color=INK, linewidth=1.2)
    ax.annotate(
        words, (at, 0.02), xycoords=("data", "axes fraction"), xytext=(-5, 0), textcoords="offset points", ha="right",
        va="bottom", fontsize=9.5, fontweight="bold", color=INK,
    )  # fmt: skip
