"""The plots of a monitor's report. A step that was not read is a gap in its line, never 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from harness.records import MonitorGroup, MonitorStep, MonitorView
from harness.report import formats
from harness.report.figures import SERIES, Figure, empty, time_ticks

MOST_POOLS = 6
MOST_STEPS = 2000  # of a line: a plot has no more points across
_PARTS = (("used", "used"), ("headroom", "headroom"), ("shape", "shape"), ("spares", "spares"), ("waste", "waste"))
_LEAST_READ = 0.5


def pool_plot(pool: str, steps: Sequence[MonitorStep]) -> str:
    """Replicas paid, needed and busy, and requests/s, over the steps of the window."""
    label = f"Pool {formats.clean(pool, 80)} over time"
    if len(steps) < 2:
        return empty(label, "Nothing to plot: the window is one step.")
    steps = steps[:: math.ceil(len(steps) / MOST_STEPS)]
    times = [datetime.fromtimestamp((s.from_ns + s.to_ns) / 2e9, UTC) for s in steps]
    with Figure(label, 2, 1.9) as figure:
        above, below = figure.axes
        lines = (
            ("paid", [s.paid_replicas for s in steps], "-", 0),
            ("needed, headroom in", [_seen(s, s.needed_replicas) for s in steps], "--", 1),
            ("busy", [_seen(s, s.busy_replicas) for s in steps], "-", 2),
        )
        for name, values, style, colour in lines:
            if any(not math.isnan(value) for value in values):
                above.step(times, values, style, where="mid", color=SERIES[colour], linewidth=1.4, label=name)
        above.set_ylim(bottom=0)
        above.set_ylabel("replicas")
        above.legend(frameon=False, ncols=3, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5, borderaxespad=0.2)
        rates = [_seen(s, None if s.requests is None else s.requests * 1e9 / (s.to_ns - s.from_ns)) for s in steps]
        below.plot(times, rates, "-", color=SERIES[3], linewidth=1.4)
        below.set_ylim(bottom=0)
        below.set_ylabel("requests/s")
        time_ticks(below)
    return figure.svg


def _seen(step: MonitorStep, value: float | None) -> float:
    return math.nan if value is None or step.read_share < _LEAST_READ else value


def idle_plot(pools: Sequence[MonitorGroup]) -> str:
    """A bar a pool: dollars used, and idle for what."""
    label = "What the dollars of each pool were for"
    known = [pool for pool in pools if pool.value("idle_usd") is not None][:MOST_POOLS]
    if not known:
        return empty(label, "Nothing to plot: no pool has a price and a measured capacity.")
    with Figure(label, 1, 0.5 + 0.4 * len(known)) as figure:
        ax = figure.axes[0]
        for at, pool in enumerate(reversed(known)):
            left = 0.0
            for number, (part, word) in enumerate(_PARTS):
                usd = (pool.value("usd") or 0.0) - (pool.value("idle_usd") or 0.0) if part == "used" else pool.value(f"idle_{part}_usd") or 0.0  # fmt: skip
                (bar,) = ax.barh(
                    [at], [usd], left=left, color=SERIES[number], height=0.6, label=word if at == 0 else None
                )
                figure.note(bar, f"{pool.name}: {word} ${usd:,.2f}")
                left += usd
        ax.set_yticks(range(len(known)), [formats.clean(pool.name, 24) for pool in reversed(known)])
        ax.set_xlabel("USD in the window")
        ax.legend(frameon=False, ncols=5, loc="lower left", bbox_to_anchor=(0, 1), fontsize=8.5, borderaxespad=0.2)
    return figure.svg


def figures(view: MonitorView) -> list[tuple[str, str]]:
    """(title, SVG) of the page."""
    pools = sorted((g for g in view.groups if g.kind == "pool"), key=lambda g: -(g.value("usd") or 0.0))
    found = [("What the dollars were for", idle_plot(pools))]
    names = [pool.name for pool in pools[:MOST_POOLS]]
    found += [
        (f"{formats.clean(name, 80)} over time", pool_plot(name, [s for s in view.steps if s.pool == name]))
        for name in names
    ]
    return found
