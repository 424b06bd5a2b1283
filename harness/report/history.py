"""Trends: table, sparkline and changes in words for terminals, plain values for --json, and one HTML page that loads nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.judge.changepoints import MIN_NIGHTS
from harness.judge.trends import Night, Shift, Trend
from harness.report import formats, pages
from harness.report.figures import INK, MUTED, PAPER, SERIES, Figure, empty

_BARS = "▁▂▃▄▅▆▇█"
GAP_INVALID, GAP_UNKNOWN = "x", "?"
MAX_PLOTS = 60  # a page of more is too heavy to open; those with a change for the worse come first
_LEAST_RANGE = 0.02  # of the middle: a spread below it is drawn as small as it is


def value_text(trend: Trend, value: float | None) -> str:
    """A value of the trend's column with its unit where it is a time."""
    return formats.duration(value) if trend.unit == "s" else formats.number(value)


def percent_change(size: float | None) -> str:
    """`-3.0 %`, `+12 %`; "-" where there is none."""
    if size is None:
        return formats.ABSENT
    return f"{size * 100:+.1f} %" if abs(size) < 0.1 else f"{size * 100:+.0f} %"


def sparkline(nights: Sequence[Night], width: int) -> str:
    """The last `width` nights as bars from the lowest to the highest of them; x a night with INVALID runs and no VALID one, ? one all UNKNOWN."""
    shown = nights[-width:] if width > 0 else []
    values = [n.value for n in shown if n.value is not None]
    if not values:
        return "".join(_gap(n) for n in shown)
    low, high = min(values), max(values)
    least = _LEAST_RANGE * abs(low + high) / 2
    if high - low < least:
        low, high = (low + high - least) / 2, (low + high + least) / 2
    span = high - low or 1.0
    return "".join(
        _gap(n) if n.value is None else _BARS[min(7, max(0, round((n.value - low) / span * 7)))] for n in shown
    )


def _gap(night: Night) -> str:
    return GAP_INVALID if night.invalid else GAP_UNKNOWN


def gaps_text(trend: Trend) -> str:
    """`12`, or `12 +2x +1?`: nights with a value, and with the sparkline's marks those without one."""
    gaps = [n for n in trend.nights if n.value is None]
    invalid = sum(bool(n.invalid) for n in gaps)
    counts = ((invalid, GAP_INVALID), (len(gaps) - invalid, GAP_UNKNOWN))
    return " ".join([str(len(trend.seen)), *(f"+{n}{mark}" for n, mark in counts if n)])


def shift_words(trend: Trend, shift: Shift) -> str:
    """One change in a sentence."""
    kind = {True: "worse from", False: "better from", None: "changed from"}[shift.bad]
    if shift is trend.first_bad_night:
        kind = "first bad night"
    text = (
        f"{formats.clean(trend.cell, 120)} {trend.column}: {kind} {shift.night.date} ({formats.clean(shift.night.campaign_id, 60)}): "
        f"{value_text(trend, shift.before)} to {value_text(trend, shift.after)}, {percent_change(shift.size)}"
    )
    return f"{text}; {differs_words(shift)}"


def differs_words(shift: Shift) -> str:
    """What was recorded otherwise on the night before."""
    if not shift.differs:
        return "nothing recorded differs from the night before"
    short = {k: tuple(formats.ABSENT if v is None else _short(k, v) for v in pair) for k, pair in shift.differs.items()}
    return "recorded otherwise since the night before: " + ", ".join(
        f"{name} {then} to {now}" for name, (then, now) in short.items()
    )


def _short(name: str, value: str) -> str:
    return formats.clean(value, 60)[: 8 if name.endswith(("_sha256", "_commit")) else None]


def _dated(trend: Trend, night: Night | None) -> str:
    return formats.ABSENT if night is None else f"{value_text(trend, night.value)}\n{night.date}"


def render(console: Console, trends: Sequence[Trend]) -> None:
    """Print a table of trends for each experiment and column, then every change in words."""
    if not trends:
        console.print(Text("no runs in the history match; `harness history index` reads those that are not in it yet"))
        return
    for experiment, column in dict.fromkeys((t.experiment, t.column) for t in trends):
        chosen = [t for t in trends if (t.experiment, t.column) == (experiment, column)]
        console.print(_table(experiment, column, chosen, console.width))
    shifts = [(t, s) for t in trends for s in t.shifts]
    for trend, shift in shifts:
        style = {True: "bold red", False: "green", None: ""}[shift.bad]
        console.print(Text(shift_words(trend, shift), style=style), soft_wrap=True)
    judged = sum(not t.too_few for t in trends)
    if not shifts and judged:
        console.print(Text("no change of level"))
    if judged < len(trends):
        few = len(trends) - judged
        console.print(
            Text(f"{few} of {len(trends)} series have fewer than {MIN_NIGHTS} nights: no change is looked for")
        )
    console.print(
        Text(
            "A night is a campaign: the mean over its VALID repetitions; x: none VALID and some INVALID, ?: all UNKNOWN.",
            style="dim",
        )
    )


def _table(experiment: str, column: str, trends: Sequence[Trend], width: int) -> Table:
    unit = trends[0].unit
    title = f"{formats.clean(experiment, 100)}: {column}" + (f" ({unit})" if unit and unit != "s" else "")
    table = Table(box=box.SIMPLE_HEAD, title=Text(title), title_justify="left", pad_edge=False, show_edge=False)
    cell_width = min(max(len(formats.clean(t.cell, 120)) for t in trends), max(24, width // 4))
    nights_width = max(6, *(len(gaps_text(t)) for t in trends))
    bars = max(8, min(60, width - cell_width - nights_width - 5 * 10 - 7 * 3))  # 5 columns of dates, 7 gaps
    table.add_column("cell", overflow="fold", width=cell_width)
    table.add_column("nights", no_wrap=True, width=nights_width)
    table.add_column(f"last {bars} nights", no_wrap=True, width=max(bars, 14))
    for name in ("first", "last", "best", "worst", "change"):
        table.add_column(name, justify="right", no_wrap=True)
    for trend in trends:
        first, last = (trend.seen[0], trend.seen[-1]) if trend.seen else (None, None)
        bad = trend.first_bad_night
        newest = bad or (trend.shifts[-1] if trend.shifts else None)
        change = (
            formats.ABSENT
            if newest is None
            else Text(f"{percent_change(newest.size)}\n{newest.night.date}", style="bold red" if newest is bad else "")
        )
        table.add_row(
            Text(formats.clean(trend.cell, 120)),
            gaps_text(trend),
            Text(sparkline(trend.nights, bars)),
            *(_dated(trend, night) for night in (first, last, trend.best, trend.worst)),
            change,
        )
    return table


# ---------------------------------------------------------------- plain values


def _night(night: Night | None) -> dict[str, Any] | None:
    if night is None:
        return None
    return {name: getattr(night, name) for name in ("campaign_id", "date", "value", "valid", "invalid", "unknown")}


def _shift(shift: Shift | None) -> dict[str, Any] | None:
    if shift is None:
        return None
    return {
        "campaign_id": shift.night.campaign_id,
        "date": shift.night.date,
        "before": shift.before,
        "after": shift.after,
        "size": shift.size,
        "bad": shift.bad,
        "differs": {name: list(pair) for name, pair in shift.differs.items()},
    }


def as_json(trends: Sequence[Trend]) -> list[dict[str, Any]]:
    """Every trend with all its nights; sizes as shares (-0.03 = 3 % lower)."""
    return [
        {
            "experiment": t.experiment,
            "cell": t.cell,
            "target": t.target,
            "workload": t.workload,
            "load": t.load,
            "metric": t.column,
            "unit": t.unit,
            "higher_is_better": t.higher_is_better,
            "first": _night(t.seen[0] if t.seen else None),
            "last": _night(t.seen[-1] if t.seen else None),
            "best": _night(t.best),
            "worst": _night(t.worst),
            "first_bad_night": _shift(t.first_bad_night),
            "changes": [_shift(s) for s in t.shifts],
            "too_few_nights": t.too_few,
            "nights": [_night(n) for n in t.nights],
        }
        for t in trends
    ]


# ---------------------------------------------------------------- the page


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
            figure.note(dot, f"{night.date} {night.campaign_id}: {value_text(trend, night.value)}, {night.valid} VALID")
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
            words = f"{shift.night.date}\n{percent_change(shift.size)}"
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
            "nights": gaps_text(t),
            "first": value_text(t, t.seen[0].value if t.seen else None),
            "last": value_text(t, t.seen[-1].value if t.seen else None),
            "best": _best_words(t, t.best),
            "worst": _best_words(t, t.worst),
            "bad": "" if t.first_bad_night is None else t.first_bad_night.night.date,
            "size": "" if t.first_bad_night is None else percent_change(t.first_bad_night.size),
        }
        for t in ordered
    ]
    figures = [
        (f"{t.experiment}: {t.cell} {t.column}", pages.svg(_own_ids(trend_plot(t), i)), [shift_words(t, s) for s in t.shifts])
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


def _best_words(trend: Trend, night: Night | None) -> str:
    return formats.ABSENT if night is None else f"{value_text(trend, night.value)} ({night.date})"


def write(path: Path, trends: Sequence[Trend], title: str) -> None:
    """Write the page, whole or not at all. Raises StoreError."""
    pages.write_whole(path, html(trends, title))
