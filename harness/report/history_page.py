"""Trends as one HTML page that loads nothing: a plot and the changes of each series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from harness.judge.trends import Trend
from harness.report import formats, history, pages
from harness.report.figures import INK, MUTED, PAPER, SERIES, Figure, empty

MAX_PLOTS = 60  # a page of more is too heavy to open; those with a change for the worse come first


def trend_plot(trend: Trend) -> str:
    """Nightly means over the campaigns, a level line for each segment, a dashed line at each change, hollow marks for gaps."""
    label = f"{formats.clean(trend.cell, 80)} {trend.column}"
    if not trend.seen:
        return empty(label, "Nothing to plot: no night has a VALID run.")
    place = {night.campaign_id: i for i, night in enumerate(trend.nights)}
    with Figure(label, 1, 2.4) as figure:
        ax = figure.axes[0]
        points = [(place[n.campaign_id], n) for n in trend.seen]
        line = [math.nan if n.value is None else n.value for n in trend.nights]  # broken where a night is a gap
        ax.plot(range(len(line)), line, "-", color=SERIES[0], linewidth=1, alpha=0.5)
        for x, night in points:
            (dot,) = ax.plot([x], [night.value], "o", markersize=4, color=SERIES[0])
            figure.note(
                dot, f"{night.date} {night.campaign_id}: {history.value_text(trend, night.value)}, {night.valid} VALID"
            )
        low, high = ax.get_ylim()
        for x, night in enumerate(trend.nights):
            if night.value is None:
                (mark,) = ax.plot(
                    [x], [low], "x" if night.invalid else "o", markersize=5, color=MUTED, markerfacecolor=PAPER
                )
                figure.note(
                    mark, f"{night.date} {night.campaign_id}: {'INVALID' if night.invalid else 'UNKNOWN'}, no value"
                )
        edges = [0, *(place[s.night.campaign_id] for s in trend.shifts), len(trend.nights)]
        levels = [*(s.before for s in trend.shifts[:1]), *(s.after for s in trend.shifts)]
        for (a, b), level in zip(zip(edges, edges[1:], strict=False), levels, strict=False):
            ax.plot([a - 0.4, b - 0.6], [level, level], color=INK, linewidth=1.4)
        for shift in trend.shifts:
            at = place[shift.night.campaign_id] - 0.5
            colour = SERIES[1] if shift.bad else MUTED
            ax.axvline(at, color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
            words = f"{shift.night.date}\n{history.percent_change(shift.size)}"
            right = at < 0.8 * len(trend.nights)
            ax.annotate(
                words, (at, high), xytext=(4 if right else -4, -2), textcoords="offset points",
                ha="left" if right else "right", va="top", color=colour, fontsize=8.5,
            )  # fmt: skip
        step = max(1, math.ceil(len(trend.nights) / 6))
        ticks = range(0, len(trend.nights), step)
        ax.set_xticks(list(ticks), [trend.nights[i].date[2:] for i in ticks])
        ax.set_ylabel(f"{trend.column.removesuffix('_s')}" + (f" ({trend.unit})" if trend.unit else ""))
    return figure.svg


def html(trends: Sequence[Trend], title: str) -> str:
    """The page as text; equal inputs give equal bytes, every word from outside is escaped."""
    ordered = sorted(trends, key=lambda t: (t.first_bad_night is None, not t.shifts))
    rows = [
        {
            "experiment": t.experiment,
            "cell": t.cell,
            "column": t.column,
            "nights": history.gaps_text(t),
            "first": history.value_text(t, t.seen[0].value if t.seen else None),
            "last": history.value_text(t, t.seen[-1].value if t.seen else None),
            "best": _dated(t, best=True),
            "worst": _dated(t, best=False),
            "bad": "" if t.first_bad_night is None else t.first_bad_night.night.date,
            "size": "" if t.first_bad_night is None else history.percent_change(t.first_bad_night.size),
        }
        for t in ordered
    ]
    figures = [
        (f"{t.experiment}: {t.cell} {t.column}", pages.svg(_own_ids(trend_plot(t), i)), [history.shift_words(t, s) for s in t.shifts])
        for i, t in enumerate(ordered[:MAX_PLOTS])
    ]  # fmt: skip
    template = pages.environment().get_template("history.html.j2")
    return template.render(title=title, rows=rows, figures=figures, left_out=max(0, len(ordered) - MAX_PLOTS))


def _own_ids(svg: str, number: int) -> str:
    """Ids of a figure come from its label, in which digits do not count: two cells of one page may share them."""
    return (
        svg.replace('id="', f'id="t{number}-')
        .replace('href="#', f'href="#t{number}-')
        .replace("url(#", f"url(#t{number}-")
    )


def _dated(trend: Trend, *, best: bool) -> str:
    night = trend.best if best else trend.worst
    return formats.ABSENT if night is None else f"{history.value_text(trend, night.value)} ({night.date})"


def write(path: Path, trends: Sequence[Trend], title: str) -> None:
    """Write the page, whole or not at all. Raises StoreError."""
    pages.write_whole(path, html(trends, title))
