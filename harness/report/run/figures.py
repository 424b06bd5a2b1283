"""The run report's plots: throughput over concurrency, latency over rate, one run over time, dollars over the promise."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from harness.records import RunSummary
from harness.records.metrics import METRICS
from harness.report import formats
from harness.report.figures import GRID, PAPER, SERIES, Figure, empty, log_ticks
from harness.report.run.sides import Arm, Sides

_MARKERS = ("o", "s", "^", "D", "v", "P")
_ROW_IN = 2.5
_SHOWN_FROM = 0.5  # attainment: with fewer good requests the dollars of one say nothing
_TIMELINE = {  # series of records.Timeline -> (title, unit)
    "output_tps": ("output throughput", "tok/s"),
    "in_flight": ("requests in flight", ""),
    "gpu_power_w": ("GPU power", "W"),
    "gpu_sm_util_pct": ("GPU busy (share of time with a kernel running)", "%"),
    "server_running": ("requests running, by the server", ""),
    "server_waiting": ("requests waiting, by the server", ""),
    "kv_cache_use": ("KV cache in use, 1 = all of it", ""),
    "server_preemptions": ("preemptions since the start, by the server", ""),
    "host_cpu_pct": ("host CPU, 100 = all cores", "%"),
}


@dataclass(frozen=True, slots=True)
class _Point:
    x: float
    y: float
    run: RunSummary


def throughput_against_concurrency(summaries: Sequence[RunSummary]) -> str:
    """Output tokens/s over concurrency: a point a run, a line through the medians, a bar from min to max."""
    points: dict[str, list[_Point]] = {}
    for run in summaries:
        tps = formats.finite(run.scalars.get("output_tps"))
        if run.cell.load.concurrency is not None and tps is not None:
            points.setdefault(_series_name(run, summaries), []).append(
                _Point(run.cell.load.concurrency, float(tps), run)
            )
    label = "Output throughput against concurrency"
    if not points:
        why = (
            "no run has a steady window"
            if any(r.cell.load.is_closed for r in summaries)
            else "no cell of this report is a closed loop (concurrency)"
        )
        return empty(label, f"Nothing to plot: {why}.")
    with Figure(label, 1, 3.6) as figure:
        ax = figure.axes[0]
        _draw_series(figure, ax, points, lambda value: f"{formats.number(value)} output tok/s")
        ax.set_xlabel("concurrency (requests in flight)")
        ax.set_ylabel("output tok/s")
        ax.set_ylim(bottom=0)
        _ticks_at(ax, {point.x for series in points.values() for point in series})
    return figure.svg


def latency_against_rate(summaries: Sequence[RunSummary]) -> str:
    """TTFT from schedule (p50, p99) and TPOT p50 over the scheduled rate of open-loop runs."""
    panels: list[tuple[str, dict[str, list[_Point]]]] = []
    for title, metric, point in (
        ("TTFT from schedule, p50", "ttft_from_schedule_s", "p50"),
        ("TTFT from schedule, p99", "ttft_from_schedule_s", "p99"),
        ("TPOT, p50", "tpot_s", "p50"),
    ):
        points: dict[str, list[_Point]] = {}
        for run in summaries:
            rate, seen = run.cell.load.rate_rps, run.distributions.get(metric)
            value = formats.finite(getattr(seen, point)) if seen is not None else None
            if rate is not None and value is not None:
                x = formats.finite(run.scalars.get("scheduled_rate_rps"))
                points.setdefault(_series_name(run, summaries), []).append(
                    _Point(float(rate if x is None else x), float(value) * 1000, run)
                )
        if points:
            panels.append((title, points))
    label = "Latency against request rate"
    if not panels:
        why = (
            "no request of an open-loop run has these times"
            if any(r.cell.load.rate_rps is not None for r in summaries)
            else "no cell of this report is an open loop (rate); a latency promise needs one"
        )
        return empty(label, f"Nothing to plot: {why}.")
    with Figure(label, len(panels), _ROW_IN) as figure:
        for ax, (title, points) in zip(figure.axes, panels, strict=True):
            _draw_series(figure, ax, points, lambda value: f"{formats.number(value)} ms")
            ax.set_title(title)
            ax.set_ylabel("ms")
            ax.set_ylim(bottom=0)
            ax.set_xlim(left=0)
        figure.axes[-1].set_xlabel("scheduled rate (requests/s)")
    return figure.svg


def timeline(run: RunSummary | None) -> str:
    """One run over time: output tokens/s, requests in flight, and the use of GPU or host; the window is shaded."""
    label = "Timeline of one run"
    if run is None or run.timeline is None or not run.timeline.t_s:
        return empty(
            label, "Nothing to plot: " + ("no run has a timeline." if run is None else "this run has no timeline.")
        )
    steps = run.timeline.t_s
    known = [name for name in _TIMELINE if name in run.timeline.series]
    names = [*known, *sorted(name for name in run.timeline.series if name not in _TIMELINE)]
    names = [name for name in names if any(formats.finite(value) is not None for value in run.timeline.series[name])][
        :6
    ]
    if not names:
        return empty(label, "Nothing to plot: the timeline holds no value.")
    with Figure(label, len(names), 1.45) as figure:
        for index, (ax, name) in enumerate(zip(figure.axes, names, strict=True)):
            title, unit = _TIMELINE.get(name, (formats.clean(name, 40), ""))
            pairs = zip(steps, run.timeline.series[name], strict=False)
            seen = [(t, float(v)) for t, v in pairs if v is not None and formats.finite(v) is not None]
            # a source sampled less often than the timeline's bins leaves gaps: its points are joined across them
            ax.plot(*zip(*seen, strict=True), color=SERIES[index % len(SERIES)], linewidth=1.4)
            ax.set_title(title)
            ax.set_ylabel(unit)
            ax.set_ylim(bottom=0)
            ax.margins(x=0)
            if run.window is not None:
                ax.axvspan(
                    run.window.ramp_s, run.window.ramp_s + run.window.seconds, color=GRID, alpha=0.35, linewidth=0
                )
        figure.axes[-1].set_xlabel("seconds since the measured phase began (shaded: the window that is counted)")
    return figure.svg


def dollars_against_promise(found: Sides) -> str:
    """$ per 1,000 good requests over the limit on the first token, a line a cell of either side."""
    label = f"Dollars per 1,000 good requests against the promise, {formats.clean(found.workload, 40)}"
    priced = [arm for arm in found.arms if arm.usd]
    if not priced or not found.curve:
        return empty(label, "Nothing to plot: no cell of either side has a price and a good request.")
    with Figure(label, 1, 3.6) as figure:
        ax = figure.axes[0]
        for index, arm in enumerate(priced):
            _draw_arm(ax, found, arm, index)
        ax.set_xscale("log")
        ax.set_yscale("log")
        if found.declared_s is not None:
            line = ax.axvline(found.declared_s * 1000, color=GRID, linewidth=1.6)
            figure.note(line, f"declared: {formats.duration(found.declared_s)}")
        log_ticks(ax)
        ax.set_xlabel(f"limit on {METRICS[found.metric].symbol} (ms)")
        ax.set_ylabel("$ per 1,000 good requests")
        ax.legend(loc="upper left", bbox_to_anchor=(0, -0.16), frameon=False, fontsize=9.5, handlelength=3.2)
    return figure.svg


def _draw_arm(ax: Any, found: Sides, arm: Arm, index: int) -> None:
    """Thin over all limits, thick with marks where the promise is kept; the interval behind it."""
    xs, ys, kept, lows, highs = [], [], [], [], []
    for at in found.curve:
        share, usd = arm.attainment(at.limit_s), arm.usd_per_thousand_good(at.limit_s)
        if share is None or usd is None or share.median < _SHOWN_FROM:
            continue
        low, high = usd.interval or (usd.median, usd.median)
        xs.append(at.limit_s * 1000)
        ys.append(float(usd.median))
        kept.append(float(usd.median) if share.median >= found.share else math.nan)
        lows.append(float(low))
        highs.append(float(high))
    name = f"{arm.side}: {formats.clean(arm.row.target, 24)}, {formats.load_words(arm.row.load)}"
    colour, dashes = SERIES[index % len(SERIES)], "-" if arm.side == "own" else "--"
    marker = _MARKERS[index % len(_MARKERS)]
    ax.plot(xs, ys, color=colour, linewidth=0.9, linestyle=dashes)
    ax.plot(xs, kept, color=colour, linewidth=2.4, linestyle=dashes, marker=marker, markersize=4, label=name)
    ax.fill_between(xs, lows, highs, color=colour, alpha=0.18, linewidth=0)


# ---------------------------------------------------------------- drawing


def _series_name(run: RunSummary, summaries: Sequence[RunSummary]) -> str:
    """Target and workload, each only where the runs differ in it."""
    parts = [run.cell.target] if len({s.cell.target for s in summaries}) > 1 else []
    if len({s.cell.workload for s in summaries}) > 1 or not parts:
        parts.append(run.cell.workload)
    if len({s.model for s in summaries}) > 1:
        parts.append(run.model)
    return formats.clean(" / ".join(parts), 48)


def _draw_series(figure: Figure, ax: Any, points: Mapping[str, list[_Point]], say: Callable[[float], str]) -> None:
    """Each series as line, min-max bars and one point a run, labelled at its last point; hollow means INVALID."""
    ends: list[tuple[float, float, str, str]] = []
    for index, (name, series) in enumerate(sorted(points.items())):
        colour, marker = SERIES[index % len(SERIES)], _MARKERS[index % len(_MARKERS)]
        cells: dict[str, list[_Point]] = {}
        for point in series:
            cells.setdefault(point.run.cell.load.name, []).append(point)
        middles = []
        for cell in cells.values():
            trusted = [p for p in cell if p.run.verdict.state != "INVALID"] or cell
            x, ys = median(p.x for p in trusted), [p.y for p in trusted]
            middles.append((x, median(ys)))
            ax.vlines(x, min(ys), max(ys), color=colour, linewidth=1.6, alpha=0.6)
        middles.sort()
        ax.plot(*zip(*middles, strict=True), color=colour, linewidth=1.8)
        for point in series:
            solid = point.run.verdict.state != "INVALID"
            (dot,) = ax.plot(
                [point.x],
                [point.y],
                marker,
                markersize=6,
                color=colour,
                markerfacecolor=colour if solid else PAPER,
                markeredgewidth=1.4,
            )
            figure.note(dot, f"{point.run.run_id}: {say(point.y)}, {point.run.verdict.state}")
        ends.append((*middles[-1], name, colour))
    _label_ends(ax, ends)


def _label_ends(ax: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Each series' name above its last point, pushed apart where two would overlap."""
    ax.margins(x=0.06, y=0.18)
    ax.autoscale_view()
    step = 0.085 * (ax.get_ylim()[1] - min(0.0, ax.get_ylim()[0]))
    taken: list[float] = []
    for x, y, name, colour in sorted(ends, key=lambda end: end[1]):
        at = y
        while any(abs(at - other) < step for other in taken):
            at += step
        taken.append(at)
        ax.annotate(
            name,
            (x, at),
            xytext=(-2, 8),
            textcoords="offset points",
            color=colour,
            ha="right",
            va="bottom",
            fontsize=9.5,
            fontweight="bold",
        )


def _ticks_at(ax: Any, places: set[float]) -> None:
    """Ticks at the measured loads, on a log2 axis where they span more than a factor of 8."""
    ordered = sorted(places)
    if ordered[-1] / ordered[0] > 8:
        ax.set_xscale("log", base=2)
    if len(ordered) <= 12:
        ax.set_xticks(ordered, [f"{place:g}" for place in ordered])
        ax.minorticks_off()
    if len(ordered) == 1:
        ax.set_xlim(ordered[0] * 0.5, ordered[0] * 1.5)
