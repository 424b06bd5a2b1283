"""The probes of a capacity search: share of misses over rate, numbered in their order, with the capacity and its interval."""

from __future__ import annotations

from typing import Any

from harness.records import CapacityResult, ProbeResult
from harness.report import formats
from harness.report.figures import GRID, INK, MUTED, PAPER, SERIES, Figure, empty

_COLOURS = {"pass": SERIES[2], "fail": SERIES[1], "undecided": SERIES[0], "invalid": MUTED}
_MARKERS = {"pass": "o", "fail": "X", "undecided": "s", "invalid": "D"}
_LABEL = "Probes of the capacity search"


def probes_plot(result: CapacityResult) -> str:
    """SVG of attainment over offered rate, both axes so that the neighbourhood of the target is wide.

    The ordinate is 1 - attainment on an inverted log axis, labelled as attainment: 90 %, 99 % and 99.9 % are equally far apart.
    """
    seen = [p for p in result.probes if p.attainment is not None]
    if not seen:
        return empty(_LABEL, f"Nothing to plot: {result.why}.")
    floor = _floor(seen, result.attainment)
    with Figure(_LABEL, 1, 3.9) as figure:
        ax = figure.axes[0]
        if result.low_rps is not None and result.high_rps is not None:
            ax.axvspan(result.low_rps, result.high_rps, color=GRID, alpha=0.6, linewidth=0)
        for probe in seen:
            _draw(figure, ax, probe, floor)
        ax.axhline(max(1 - result.attainment, floor), color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        _axes(ax, seen, floor)
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
