"""The monitor's screen: what it says, that it fits, that names from outside do nothing to a terminal, and the line of a log."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.records import PriceOfPool
from harness.report.monitor import terminal
from tests.monitor.states import AT, NS, advice, group, state, view


def shown(one, width: int = 120, height: int = 40, *, color: bool = False) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="truecolor" if color else None)
    console.print(terminal.screen(one, width, height))
    return out.getvalue()


def test_one_screen_says_dollars_rates_promise_and_advice():
    """Dollars now and so far with the budget, the windows, groups with bands, idle dollars, hosted, advice, who is silent."""
    text = shown(state())
    for words in (
        "chat  2026-11-26 15:40:00 UTC  1 of 2 servers read", "$6.00/h now", "$3,694.00 this month of $5,000.00, 73.88 %",
        "last minute       $0.100", "443,280,000", "pool chat      $6.00       $8.33      200.0   4.00      40 %",
        "0.25 to 0.5 s", "98.5 to 99.5 %", "0.5 to 1.5 x", "$21.60 headroom", "hosted: $12.50", "break-even at 6.50 req/s",
        "saves $312.50 a month ($200.00 to $420.00): one replica fewer from 22:00 to 06:00",
        "b:8000: silent for 43.0 s, connection refused",
    ):  # fmt: skip
        assert words in text


def test_the_line_of_a_log_says_the_same():
    """One line without markup, for what is no terminal."""
    assert terminal.line(state()) == (
        "2026-11-26 15:40:00, $6.00/h, $8.33 a million output tokens, 200.0 output tok/s, 4.00 req/s, utilisation 40 %, "
        "in the promise 98.5 to 99.5 %, 1 of 2 servers, 1 advice, not read: b:8000 (connection refused)"
    )
    full = replace(state(), warnings=("3 rows are not stored: no room",))
    assert terminal.line(full).endswith("; 3 rows are not stored: no room")


def test_what_is_not_known_is_a_dash():
    """No capacity, no price, no histogram: "-" and the reason, nowhere a 0."""
    nothing = {name: None for name, _ in [("usd", 0), ("usd_per_hour", 0), ("utilisation", 0), ("attainment_low", 0), ("attainment_high", 0), ("usd_per_million_output_tokens", 0)]}  # fmt: skip
    one = state(
        views={"1m": view(60, (group("all", "all", 60, **nothing),))}, usd_per_month_budget=None,
        prices=(PriceOfPool(pool="chat", price="", usd_per_hour=None, as_of=None, planned_share=0.7),),
    )  # fmt: skip
    text = shown(one)
    assert "-/h now" in text
    assert "chat: no price" in text
    assert "utilisation -, in the promise -" in terminal.line(one)


def test_nothing_read_yet_is_a_screen():
    """Before the first round, and with no server at all."""
    assert "0 of 0 servers read" in shown(state(views={}, servers=()))
    assert "never read" in shown(state(servers=(replace(state().servers[1], read_utc_ns=None),)))


@pytest.mark.parametrize(("width", "height"), [(120, 24), (100, 30), (80, 24), (200, 50)])
def test_it_fits_on_the_screen(width, height):
    """With 300 servers, 40 advices and 50 warnings: no line is wider, about no screen higher, and the rest is counted."""
    servers = tuple(group("server", f"10.0.{at // 250}.{at % 250}:8000", 3600) for at in range(300))
    many = tuple(advice(f"a{at}", str(100 + at)) for at in range(40))
    one = state(
        views={"1h": view(3600, (group("all", "all", 3600), *servers)), "24h": replace(view(86_400, (group("all", "all", 86_400),)), warnings=tuple(f"warning {at}" for at in range(50)))},
        advice=many,
    )  # fmt: skip
    lines = shown(one, width, height).splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= max(height, 24) + 3
    text = "\n".join(lines)
    assert " more" in text
    assert "saves $139.00" in text
    assert "more advice: --json" in text


def test_numbers_are_whole_on_a_narrow_screen():
    """Columns go before digits do."""
    assert "…" not in shown(state(), 80)


@given(st.text(max_size=30), st.text(max_size=30))
def test_names_from_outside_do_nothing_to_a_terminal(name, says):
    """A model's or server's name is text: no escape, no line break, no markup of rich."""
    shown_state = state()
    hostile = replace(shown_state.servers[1], server=f"\x1b[2J{name}[bold]", says=f"{says}\r\n\x07")
    views = {"1h": view(3600, (group("all", "all", 3600), group("model", f"[red]{name}\x1b]0;x\x07", 3600)))}
    text = shown(replace(shown_state, servers=(hostile,), views=views))
    assert not {"\x1b", "\x07", "\r"} & set(text)
    assert "[red]" in text
    assert "\x1b" not in terminal.line(replace(shown_state, servers=(hostile,), views=views))


def test_what_is_wrong_is_red():
    """Above the budget, at the capacity, burning: seen from afar."""
    bad = group("all", "all", 3600, utilisation=1.2, budget_burn_low=3.0, usd_per_million_output_tokens=20.0)
    text = shown(state(views={"1h": view(3600, (bad,))}), color=True)
    for words in ("$20.00", "120 %", "3 to 1.5 x"):
        assert f"\x1b[1;31m{words}" in text or f"\x1b[1;31m         {words}" in text or words in _red(text), words
    good = shown(state(servers=state().servers[:1]), color=True)
    assert _red(good) == []


def _red(text: str) -> list[str]:
    return [part.partition("\x1b[0m")[0].strip() for part in text.split("\x1b[1;31m")[1:]]


def test_an_open_bucket_is_said_as_one():
    """Beyond the last bound of a histogram there is no upper end."""
    one = group("all", "all", 3600, ttft_p99_low_s=10.0, ttft_p99_high_s=math.inf)
    assert "> 10 s" in shown(state(views={"1h": view(3600, (one,))}))


def test_rows_that_are_not_stored_are_said():
    """A full disk ends nothing, and is on the screen."""
    text = shown(state(unstored=120, warnings=("120 rows are not stored: No space left on device",)))
    assert "120 rows are not stored: No space left on device" in text


def test_a_long_silence_is_said_in_minutes():
    """43 s are seconds, 50 minutes are minutes."""
    one = replace(state().servers[1], read_utc_ns=AT - 3000 * NS)
    assert "silent for 50 min" in shown(state(servers=(one,)))


def test_a_budget_of_nothing_is_no_error():
    """Zero dollars a month is a budget too."""
    assert "of $0, -" in shown(state(usd_per_month_budget=Decimal(0)))
