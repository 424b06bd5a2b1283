"""The monitor on a terminal: one screen of dollars now, tokens a second, utilisation, promise and advice; one line where it is no terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness.base import clock
from harness.records import MonitorGroup, MonitorState, MonitorView
from harness.report import formats

WINDOW_WORDS = {"1m": "last minute", "1h": "last hour", "24h": "last 24 h", "month": "month to date"}
_WHOLE_S = {"1m": 60, "1h": 3600, "24h": 86_400}
_KINDS = ("all", "pool", "model", "tenant", "server")
_FRAME_ROWS = 7  # header, headings and blank lines between the tables


def screen(state: MonitorState, width: int = 120, height: int = 40) -> RenderableType:
    """The whole state in about `height` rows of `width`; groups that do not fit are counted, columns that do not fit are left out, the
    least important first. Dollars and shares of a group are of the last hour, tokens and requests a second of the last minute."""
    windows = _windows(state, width)
    ends = [*_idle(state), *_advice(state, height // 10), *_trouble(state, height // 8)]
    room = height - _FRAME_ROWS - windows.row_count - sum(1 + text.cell_len // width for text in ends)
    return Group(_head(state), Text(), windows, Text(), _groups(state, width, max(3, room)), *ends)


_MOST_LINE = 600  # characters; the screen has all


def line(state: MonitorState) -> str:
    """The same in one line, for a log."""
    now, hour = (_all(state.views.get(window)) for window in ("1m", "1h"))
    up = sum(one.up for one in state.servers)
    words = [
        _clock(state.at_utc_ns),
        f"{_usd(now, 'usd_per_hour')}/h",
        f"{_usd(hour, 'usd_per_million_output_tokens')} a million output tokens",
        f"{_number(now, 'output_tps')} output tok/s",
        f"{_number(now, 'request_rps')} req/s",
        f"utilisation {formats.percent(_value(hour, 'utilisation'))}",
        f"in the promise {_band(hour, 'attainment', '%')}",
        f"{up} of {len(state.servers)} servers",
        f"{len(state.advice)} advice",
    ]
    silent = [one for one in state.servers if not one.up]
    if silent:
        more = f" and {len(silent) - 1} more" if len(silent) > 1 else ""
        words.append(f"not read: {silent[0].server}{more} ({silent[0].says})")
    return formats.clean("; ".join([", ".join(words), *state.warnings]), _MOST_LINE)


# ---------------------------------------------------------------- the parts of the screen


def _head(state: MonitorState) -> Text:
    up = sum(one.up for one in state.servers)
    now, day, month = (_all(state.views.get(window)) for window in ("1m", "24h", "month"))
    text = Text(f"{formats.clean(state.name, 40)}  {_clock(state.at_utc_ns)} UTC  ", style="bold")
    text.append(f"{up} of {len(state.servers)} servers read", style="" if up == len(state.servers) else "bold red")
    text.append(f"\n{_usd(now, 'usd_per_hour')}/h now", style="bold green")
    text.append(f"   {_usd(day, 'usd')} in 24 h   {_usd(month, 'usd')} this month")
    spent = _value(month, "usd")
    if state.usd_per_month_budget is not None and spent is not None:
        share = spent / float(state.usd_per_month_budget) if state.usd_per_month_budget else math.inf
        words = f" of {formats.usd(state.usd_per_month_budget)}, {formats.percent(share)}"
        text.append(words, style="bold red" if share > 1 else "")
    return text


def _windows(state: MonitorState, width: int) -> Table:
    """Everything together, a row a window."""
    rows: list[list[Text]] = []
    for window, view in state.views.items():
        group = _all(view)
        dear = state.usd_per_million_budget
        per_million = _value(group, "usd_per_million_output_tokens")
        over = dear is not None and per_million is not None and per_million > float(dear)
        rows.append([
            Text(_window(window, view)), Text(_usd(group, "usd")),
            Text(_usd(group, "usd_per_million_output_tokens"), style="bold red" if over else ""),
            Text(_usd(group, "usd_per_million_total_tokens")), Text(_whole(group, "output_tokens")),
            Text(_whole(group, "requests")), Text(_whole(group, "errors")), Text(formats.duration(_value(group, "gap_s"))),
        ])  # fmt: skip
    headings = ("everything", "dollars", "$/M output", "$/M total", "output tokens", "requests", "errors", "not read")
    return _table(headings, rows, width, ("not read", "errors", "$/M total", "requests"))


def _groups(state: MonitorState, width: int, most: int) -> Table:
    """Pools, models, tenants, servers: the last hour, with the rates of the last minute."""
    hour = state.views.get("1h") or (next(iter(state.views.values())) if state.views else None)
    now = {(g.kind, g.name): g for g in (state.views["1m"].groups if "1m" in state.views else ())}
    order = {kind: at for at, kind in enumerate(_KINDS)}
    groups = sorted(hour.groups if hour else (), key=lambda group: order.get(group.kind, len(order)))
    rows: list[list[Text]] = []
    for group in groups[:most]:
        rates = now.get((group.kind, group.name))
        name = "all" if group.kind == "all" else f"{group.kind} {formats.clean(group.name, 30)}"
        full = (_value(group, "utilisation") or 0) >= 1
        burns = (_value(group, "budget_burn_low") or 0) > 1
        rows.append([
            Text(name), Text(_usd(group, "usd_per_hour")), Text(_usd(group, "usd_per_million_output_tokens")),
            Text(_number(rates, "output_tps")), Text(_number(rates, "request_rps")),
            Text(formats.percent(_value(group, "utilisation")), style="bold red" if full else ""),
            Text(_band(group, "ttft_p99", "s")), Text(_band(group, "tpot_p99", "s")), Text(_band(group, "attainment", "%")),
            Text(_band(group, "budget_burn", "x"), style="bold red" if burns else ""),
        ])  # fmt: skip
    if len(groups) > most:
        rows.append([Text(f"and {len(groups) - most} more"), *[Text()] * 9])
    headings = (
        "last hour",
        "$/h",
        "$/M output",
        "out tok/s",
        "req/s",
        "utilised",
        "TTFT p99",
        "TPOT p99",
        "in promise",
        "burn",
    )
    return _table(headings, rows, width, ("TPOT p99", "TTFT p99", "req/s", "burn", "$/h"))


def _idle(state: MonitorState) -> list[Text]:
    """What was paid and not used, what the same would cost hosted."""
    group = _all(_latest(state)) if state.views else None
    if group is None:
        return []
    parts = [(word, _usd(group, f"idle_{word}_usd")) for word in ("spares", "headroom", "shape", "waste")]
    said = ", ".join(f"{usd} {word}" for word, usd in parts if usd != formats.ABSENT)
    idle = f"idle in 24 h: {_usd(group, 'idle_usd')}{f' ({said})' if said else ''}"
    hosted = f"the same tokens hosted: {_usd(group, 'hosted_usd')}"
    even = _value(group, "break_even_rps")
    return [
        Text(),
        Text(idle),
        Text(f"{hosted}{f', break-even at {formats.number(even)} req/s' if even is not None else ''}"),
    ]


def _advice(state: MonitorState, most: int) -> list[Text]:
    advice = state.advice
    if not advice:
        return [Text("no advice above its noise", style="dim")]
    rows = []
    for one in sorted(advice, key=lambda one: one.usd_per_month, reverse=True)[:most]:
        text = Text(f"saves {formats.usd(one.usd_per_month)} a month", style="bold")
        text.append(
            f" ({formats.usd(one.low_usd)} to {formats.usd(one.high_usd)}): {formats.clean(one.says, 160)}", style=""
        )
        rows.append(text)
    if len(advice) > most:
        rows.append(Text(f"and {len(advice) - most} more advice: --json", style="dim"))
    return rows


def _trouble(state: MonitorState, most: int) -> list[Text]:
    """What is not to be trusted, and why: silent servers, missing series, rows that are not stored, the view's own warnings."""
    says = [formats.clean(warning, 180) for warning in state.warnings]
    for one in state.servers:
        if not one.up:
            since = "never read" if one.read_utc_ns is None else f"silent for {_ago(state.at_utc_ns - one.read_utc_ns)}"
            says.append(
                f"{formats.clean(one.server, 60)}: {since}{f', {formats.clean(one.says, 120)}' if one.says else ''}"
            )
        elif one.says:
            says.append(f"{formats.clean(one.server, 60)}: {formats.clean(one.says, 120)}")
    says += [f"{formats.clean(one.pool, 40)}: no price" for one in state.prices if one.usd_per_hour is None]
    says += [formats.clean(warning, 180) for warning in (_latest(state).warnings if state.views else ())]
    shown = [Text(one, style="yellow") for one in says[:most]]
    return shown + ([Text(f"and {len(says) - len(shown)} more", style="dim")] if len(says) > len(shown) else [])


# ---------------------------------------------------------------- values as words


def _table(headings: Sequence[str], rows: Sequence[Sequence[Text]], width: int, least: Sequence[str]) -> Table:
    """A table whose numbers are whole: where it is wider than `width`, columns of `least` go, in their order."""
    wide = [max([len(heading), *(row[at].cell_len for row in rows)]) for at, heading in enumerate(headings)]
    shown = list(range(len(headings)))
    for heading in least:
        if sum(wide[at] + 2 for at in shown) - 2 > width:
            shown.remove(headings.index(heading))
    table = Table(box=None, header_style="bold", pad_edge=False)
    for at in shown:
        table.add_column(headings[at], justify="right" if at else "left", no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(row[at] for at in shown))
    return table


def _window(window: str, view: MonitorView) -> str:
    """The window's words, and how much of it was watched where that is not all."""
    whole_s, seen_s = _WHOLE_S.get(window, 0), (view.to_ns - view.from_ns) / clock.NS
    words = WINDOW_WORDS.get(window, window)
    return words if seen_s >= 0.95 * whole_s else f"{words}: {_ago(view.to_ns - view.from_ns)} of it"


def _latest(state: MonitorState) -> MonitorView:
    """The view that idle dollars and warnings are read from: a day, else the longest there is."""
    return state.views.get("24h") or list(state.views.values())[-1]


def _all(view: MonitorView | None) -> MonitorGroup | None:
    return next((group for group in view.groups if group.kind == "all"), None) if view else None


def _value(group: MonitorGroup | None, name: str) -> float | None:
    return group.value(name) if group else None


def _usd(group: MonitorGroup | None, name: str) -> str:
    value = _value(group, name)
    return formats.usd(None if value is None or not math.isfinite(value) else Decimal(repr(value)))


def _number(group: MonitorGroup | None, name: str) -> str:
    return formats.number(_value(group, name))


def _whole(group: MonitorGroup | None, name: str) -> str:
    value = _value(group, name)
    return formats.ABSENT if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _band(group: MonitorGroup | None, name: str, unit: str) -> str:
    """`0.25 to 0.5 s`: what the buckets leave possible; `> 10 s` where the last one has no upper end."""
    ending, factor = ("_s", 1) if unit == "s" else ("", 100 if unit == "%" else 1)
    low, high = (_value(group, f"{name}_{end}{ending}") for end in ("low", "high"))
    if low is None and high is None:
        return formats.ABSENT
    if low is not None and high is not None and math.isinf(high):
        return f"> {low * factor:.3g} {unit}".rstrip()
    ends = dict.fromkeys(
        f"{end * factor:.4g}" if unit == "%" else f"{end * factor:.2g}" for end in (low, high) if end is not None
    )
    return f"{' to '.join(ends)} {unit}".rstrip()


def _clock(utc_ns: int) -> str:
    return f"{datetime.fromtimestamp(utc_ns // clock.NS, UTC):%Y-%m-%d %H:%M:%S}"


def _ago(ns: int) -> str:
    seconds = max(0, ns) / clock.NS
    return formats.duration(seconds) if seconds < 120 else f"{seconds / 60:,.0f} min"
