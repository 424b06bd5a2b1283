"""The tables of a monitor's report as texts, the same for HTML and Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.base.clock import utc_of
from harness.records import MonitorGroup, MonitorLine, MonitorView
from harness.report import formats

KINDS = {"pool": "Pools", "model": "Models", "server": "Servers", "tenant": "Tenants"}
MOST_ROWS = 60  # of a table: a page of more is read by nobody; the CSV and --json have all
_IDLE = ("headroom", "shape", "spares", "waste")
_IDLE_WORDS = {
    "headroom": "headroom: what a planned replica leaves free",
    "shape": "shape: whole replicas, for the busiest step",
    "spares": "spares: those that the pool keeps",
    "waste": "waste: needed at no time of the window",
}
_TIMES = {"ttft": "TTFT", "tpot": "TPOT", "queue": "queue", "e2el": "E2EL"}


@dataclass(frozen=True, slots=True)
class Table:
    """Headers and rows of texts. `words`: headers of the columns that are no numbers. `left_out`: rows beyond MOST_ROWS."""

    name: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    words: frozenset[str]
    left_out: int = 0


def line_text(line: MonitorLine | None) -> str:
    """A figure as people read it."""
    if line is None or line.value is None:
        return formats.ABSENT
    value = line.value
    if math.isinf(value):
        return "no upper end"
    if line.name in ("watched_s", "gap_s"):
        return f"{formats.number(value / 3600)} h"
    if line.unit.startswith("USD"):
        return formats.usd(Decimal(repr(value)))
    if line.unit == "share":
        return formats.percent(value)
    if line.name.endswith("_s"):
        return formats.duration(value)
    if line.unit in ("tokens", "requests") and value >= 1e6:
        return f"{formats.number(value / 1e6)} M"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else formats.number(value)


def lines_of(group: MonitorGroup) -> dict[str, MonitorLine]:
    return {line.name: line for line in group.lines}


def text(group: MonitorGroup, name: str) -> str:
    return line_text(lines_of(group).get(name))


def band_text(group: MonitorGroup, name: str, suffix: str = "_s") -> str:
    """`100 ms to 250 ms`, `> 10 s`, `99.1 % to 99.4 %`; one value where both ends are the same."""
    low, high = group.value(f"{name}_low{suffix}"), group.value(f"{name}_high{suffix}")
    if low is None or high is None:
        return formats.ABSENT
    say = formats.duration if suffix else formats.percent
    if math.isinf(high):
        return f"> {say(low)}"
    return say(low) if low == high else f"{say(low)} to {say(high)}"


def all_of(view: MonitorView) -> MonitorGroup:
    """The group of everything."""
    return next(group for group in view.groups if group.kind == "all")


def day_text(ns: int) -> str:
    """`2026-11-26 14:00` UTC."""
    return utc_of(ns).strftime("%Y-%m-%d %H:%M")


def period(view: MonitorView) -> str:
    seconds = (view.to_ns - view.from_ns) / 1e9
    days, hours, minutes = seconds / 86400, seconds / 3600, seconds / 60
    long = f"{days:.4g} days" if days >= 2 else f"{hours:.4g} h" if hours >= 2 else f"{minutes:.4g} min"
    return f"{day_text(view.from_ns)} to {day_text(view.to_ns)} UTC, {long}"


def headline(view: MonitorView) -> str:
    """What the window cost, in one or two sentences."""
    every = all_of(view)
    lines = lines_of(every)
    if every.value("usd") is None:
        return f"Dollars are not known: {lines['usd'].formula.removeprefix('not known: ')}."
    words = f"{text(every, 'usd')} were paid for machines"
    per = every.value("usd_per_million_output_tokens")
    words += f": {text(every, 'usd_per_million_output_tokens')} a million output tokens, {text(every, 'usd_per_1000_requests')} a thousand requests." if per is not None else "; nothing is known to have been served."  # fmt: skip
    used = every.value("utilisation")
    if used is not None:
        words += f" {formats.percent(used)} of the measured capacity was used, {text(every, 'idle_usd')} stood idle."
    if view.advice:
        best = view.advice[0]
        words += f" The largest saving: {formats.usd(best.usd_per_month)} a month, {best.says}."
    return words


def kpis(view: MonitorView) -> list[tuple[str, str]]:
    """(value, words) of the head's boxes."""
    every = all_of(view)
    names = (
        ("usd", "paid for machines"), ("usd_per_hour", "an hour"), ("usd_per_million_output_tokens", "per million output tokens"),
        ("usd_per_million_total_tokens", "per million tokens"), ("usd_per_1000_requests", "per 1,000 requests"),
        ("output_tokens", "output tokens"), ("utilisation", "of the measured capacity"), ("idle_usd", "idle"),
        ("hosted_usd", "the same tokens hosted"),
    )  # fmt: skip
    return [(text(every, name), words) for name, words in names if every.value(name) is not None]


def _table(name: str, headers: Sequence[str], rows: Sequence[tuple[str, ...]], *words: str) -> Table:
    found = frozenset((headers[0], *words))
    return Table(name, tuple(headers), tuple(rows[:MOST_ROWS]), found, max(0, len(rows) - MOST_ROWS))


def _by_dollars(groups: Sequence[MonitorGroup]) -> list[MonitorGroup]:
    return sorted(groups, key=lambda group: (-(group.value("usd") or 0.0), group.name))


def groups(view: MonitorView) -> list[Table]:
    """Money and use of each pool, model, server and tenant, the dearest first."""
    figures = {
        "usd": "paid", "usd_per_hour": "$/h", "usd_per_million_output_tokens": "$/M output", "usd_per_million_total_tokens": "$/M total",
        "usd_per_1000_requests": "$/1,000 req", "prompt_tokens": "in", "prefix_hit_share": "cached",
        "output_tokens": "out", "requests": "requests", "errors": "errors", "utilisation": "used", "idle_usd": "idle",
        "hosted_usd": "hosted", "gap_s": "not read",
    }  # fmt: skip
    found = []
    for kind, title in KINDS.items():
        mine = _by_dollars([group for group in view.groups if group.kind == kind])
        if mine:
            rows = [(formats.clean(g.name, 80), *(text(g, name) for name in figures)) for g in mine]
            found.append(_table(title, (kind, *figures.values()), rows))
    return found


def idle(view: MonitorView) -> Table:
    """What is paid and not used, and for what, of each pool."""
    rows = [
        (formats.clean(g.name, 80), text(g, "usd"), text(g, "utilisation"), text(g, "idle_usd"), *(text(g, f"idle_{part}_usd") for part in _IDLE))
        for g in _by_dollars([g for g in view.groups if g.kind == "pool"])
    ]  # fmt: skip
    return _table("Idle dollars", ("pool", "paid", "used", "idle", *_IDLE), rows)


def idle_words() -> list[str]:
    return list(_IDLE_WORDS.values())


def times(view: MonitorView) -> Table:
    """Percentiles as bands, attainment and budget of each pool."""
    rows = []
    for g in _by_dollars([g for g in view.groups if g.kind == "pool"]):
        bands = [band_text(g, f"{name}_p{q}") for name in _TIMES for q in (50, 99)]
        low, high = g.value("budget_burn_low"), g.value("budget_burn_high")
        burn = (
            formats.ABSENT
            if low is None or high is None
            else " to ".join(dict.fromkeys(f"{end:.3g}x" for end in (low, high)))
        )
        rows.append((formats.clean(g.name, 80), *bands, band_text(g, "attainment", ""), burn))
    headers = [f"{words} p{q}" for words in _TIMES.values() for q in (50, 99)]
    return _table("Times and promise", ("pool", *headers, "in the promise", "budget burn"), rows)


def hosted(view: MonitorView) -> Table:
    """Own and hosted dollars of each pool with what flips them."""
    rows = []
    for g in _by_dollars([g for g in view.groups if g.kind == "pool"]):
        lines = lines_of(g)
        rows.append(
            (
                formats.clean(g.name, 80), text(g, "usd"), text(g, "hosted_usd"), text(g, "request_rps"), text(g, "break_even_rps"),
                formats.clean(lines["hosted_usd"].formula, 600), formats.clean(lines["break_even_rps"].formula, 600),
            )
        )  # fmt: skip
    words = ("price", "distance and what flips it")
    return _table("Hosted", ("pool", "own", "hosted", "requests/s", "break-even", *words), rows, *words)


def machines(view: MonitorView) -> tuple[Table, str]:
    """Paid hours by pool and price, and their sum in words."""
    sums: dict[tuple[str, str, str], list[Decimal]] = {}
    for one in view.paid:
        key = (one.pool, one.price or f"no price: {one.why}", "" if one.usd_per_hour is None else "priced")
        entry = sums.setdefault(key, [Decimal(0), Decimal(0), Decimal(0)])
        hours = Decimal(repr(one.paid_s)) / 3600
        entry[0] += hours
        entry[1] += hours / one.on_machine
        entry[2] += one.usd or Decimal(0)
    rows = [
        (formats.clean(pool, 80), f"{entry[0]:,.2f}", f"{entry[1]:,.2f}", formats.usd(entry[2]) if priced else formats.ABSENT, formats.clean(price, 400))
        for (pool, price, priced), entry in sums.items()
    ]  # fmt: skip
    total = sum((entry[2] for entry in sums.values()), Decimal(0))
    hours = sum((entry[1] for entry in sums.values()), Decimal(0))
    words = f"{hours:,.2f} machine-hours, {formats.usd(total)}: hold these against the invoice's instance hours."
    return _table("Machines", ("pool", "server-hours", "machine-hours", "paid", "price"), rows, "price"), words


def capacities(view: MonitorView) -> Table:
    """Measured capacities, used and not."""
    rows = [
        (
            formats.clean(one.pool, 80), formats.clean(one.model, 80), formats.number(one.rps),
            formats.ABSENT if one.low_rps is None or one.high_rps is None else f"{formats.number(one.low_rps)} to {formats.number(one.high_rps)}",
            "used" if one.used else f"not used: {formats.clean(one.why, 300)}", formats.clean(one.how, 300), formats.run_ids(one.run_ids),
        )
        for one in sorted(view.capacities, key=lambda one: not one.used)
    ]  # fmt: skip
    return _table(
        "Capacity",
        ("pool", "model", "requests/s", "interval", "used", "how", "runs"),
        rows,
        "model",
        "used",
        "how",
        "runs",
    )
