"""The decision page's three plots: both sides' dollars per hour over volume, the tornado, and the odds over volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.planner.breakeven import BreakEven
from harness.planner.uncertainty import Outlook
from harness.report import formats
from harness.report.figures import GRID, INK, MUTED, PAPER, SERIES, Figure, empty

_SELF, _HOSTED = SERIES[0], SERIES[1]
_MAX_DOTS = 60  # crossings drawn; they lie closer than dots can show beyond that


def plot_limits_rps(crossings: BreakEven, demand_rps: float, usable_rps: float) -> tuple[float, ...]:
    """Where plots over volume end: past the last crossing, the demand and three machines; and nearer, where crossings crowd."""
    last = crossings.permanent_rps or (crossings.crossings[-1].rps if crossings.crossings else 0.0)
    far = float(max(1.25 * last, 1.6 * demand_rps, 3 * usable_rps))
    return (far, 1.4 * last) if 0 < last < far / 4 else (far,)


def break_even_plot(
    label: str,
    stairs: Sequence[tuple[float, float]],
    hosted_usd_per_request: float,
    hosted: str,
    crossings: BreakEven,
    demand_rps: float,
    minimum_usd_per_hour: float = 0.0,
) -> str:
    """Self-hosted stairs and the hosted line, its minimum below it, in $/h over mean requests/s; a dot at each crossing, a line
    at the demand."""
    end, usd_per_rps = stairs[-1][0], 3600 * hosted_usd_per_request

    def bill(rps: float) -> float:
        return max(minimum_usd_per_hour, rps * usd_per_rps)

    bend = minimum_usd_per_hour / usd_per_rps if usd_per_rps else end
    with Figure(label, 1, 3.5) as figure:
        ax = figure.axes[0]
        ax.step(*zip(*stairs, strict=True), where="post", color=_SELF, linewidth=1.8)
        line = sorted({0.0, min(bend, end), end})
        ax.plot(line, [bill(rps) for rps in line], color=_HOSTED, linewidth=1.8)
        shown = [c for c in crossings.crossings if c.rps <= end][:_MAX_DOTS]
        for crossing in shown:
            (dot,) = ax.plot(
                [crossing.rps], [bill(crossing.rps)], "o", markersize=6, color=INK,
                markerfacecolor=_SELF if crossing.cheaper_above == "self" else PAPER, markeredgewidth=1.2,
            )  # fmt: skip
            side = "self-hosting" if crossing.cheaper_above == "self" else "hosted"
            figure.note(dot, f"above {formats.number(crossing.rps)} requests/s {side} is cheaper")
        top = max(stairs[-1][1], bill(end)) * 1.12
        ax.set_xlim(0, end)
        ax.set_ylim(0, top)
        if demand_rps <= end:
            right = demand_rps < end / 2
            ax.axvline(demand_rps, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
            ax.annotate(
                "this demand", (demand_rps, top), xytext=(5 if right else -5, -2), textcoords="offset points",
                ha="left" if right else "right", va="top", color=MUTED, fontsize=9.5,
            )  # fmt: skip
        _name_lines(ax, stairs, bill, formats.clean(hosted, 46))
        ax.set_xlabel("mean demand (requests/s)")
        ax.set_ylabel("$ per hour")
    return figure.svg


def _name_lines(ax: Any, stairs: Sequence[tuple[float, float]], bill: Callable[[float], float], hosted: str) -> None:
    """Both lines rise, so a name fits above and left of its line: the higher one's at its end, the lower one's further back."""
    end, self_end = stairs[-1]
    self_is_higher = self_end > bill(end)
    for name, colour, is_self in (("self-hosted", _SELF, True), (hosted, _HOSTED, False)):
        x = end if is_self == self_is_higher else 0.62 * end
        y = max(usd for rps, usd in stairs if rps <= x) if is_self else bill(x)
        ax.annotate(
            name, (x, y), xytext=(-4, 5), textcoords="offset points", ha="right", va="bottom", color=colour, fontsize=9.5,
            fontweight="bold",
        )  # fmt: skip


def tornado_plot(outlook: Outlook, names: dict[str, str]) -> str:
    """Self-hosted - hosted in $/h as each assumption goes from low to high; left of 0 self-hosting is cheaper."""
    bars = [bar for bar in outlook.tornado if bar.swing > 0]
    label = "What the answer depends on"
    if not bars:
        return empty(label, "Nothing to plot: no assumption has a range that changes the difference.")
    with Figure(label, 1, 0.42 * len(bars) + 0.7) as figure:
        ax = figure.axes[0]
        for place, bar in enumerate(reversed(bars)):
            for value, at, colour in ((bar.low, bar.at_low, SERIES[3]), (bar.high, bar.at_high, SERIES[4])):
                patch = ax.barh(place, at - outlook.base_usd_per_hour, 0.62, outlook.base_usd_per_hour, color=colour)[0]
                figure.note(
                    patch,
                    f"{names.get(bar.name, bar.name)} at {formats.number(value)}: self-hosted - hosted = ${at:,.2f}/h",
                )
                towards = at >= outlook.base_usd_per_hour
                ax.annotate(
                    formats.number(value), (at, place), xytext=(4 if towards else -4, 0), textcoords="offset points",
                    ha="left" if towards else "right", va="center", fontsize=8.5, color=MUTED,
                )  # fmt: skip
        ax.set_yticks(range(len(bars)), [formats.clean(names.get(bar.name, bar.name), 40) for bar in reversed(bars)])
        ax.axvline(outlook.base_usd_per_hour, color=INK, linewidth=1)
        ax.axvline(0, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.margins(x=0.14)
        ax.grid(visible=True, axis="x", color=GRID)
        ax.grid(visible=False, axis="y")
        ax.set_xlabel("self-hosted - hosted, $ per hour")
    return figure.svg


def odds_plot(outlook: Outlook, demand_rps: float) -> str:
    """P(self-hosting is cheaper) over mean demand, on a log axis; a line at the demand."""
    with Figure("Odds over volume", 1, 2.7) as figure:
        ax = figure.axes[0]
        ax.set_xscale("log")
        ax.plot(*zip(*outlook.curve, strict=True), "-", color=_SELF, linewidth=1.8)
        for rps, odds in outlook.curve:
            (dot,) = ax.plot([rps], [odds], "o", markersize=4, color=_SELF)
            figure.note(dot, f"{formats.number(rps)} requests/s: {odds:.2f}")
        ax.axvline(demand_rps, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
        ax.annotate("this demand", (demand_rps, 1.03), xytext=(5, 0), textcoords="offset points", va="top", color=MUTED, fontsize=9.5)  # fmt: skip
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.minorticks_off()
        ax.set_ylim(-0.03, 1.05)
        ax.set_xlabel("mean demand (requests/s)")
        ax.set_ylabel("P(self-hosting is cheaper)")
    return figure.svg
