"""Invoices that a vendor's own book makes, against our rows of the same requests: faithful ones agree, each injected difference has its name."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.price.reconcile import (
    ANOTHER_DAY,
    FAILED,
    MISSING_HERE,
    MISSING_THERE,
    PRICE,
    ROUNDING,
    ROWS_OR_TOKENS,
    TOKENS,
    UNTOLD,
    Wanted,
    reconcile,
)
from harness.records import SideOfRun
from tests.price.vendor_ledger import FIRST, PRICES, Booked, booked, invoice, run_of, runs_of, sent_of

MINI, HAIKU = PRICES
WHOLE = {"dollars": True, "tokens": True, "requests": True}
USAGE = {"dollars": False, "tokens": True, "requests": True}
DOLLARS = {"dollars": True, "tokens": False, "requests": False}
UNCOUNTED = {"dollars": True, "tokens": True, "requests": False}


def names(found):
    return {cause.name for line in found.lines for cause in line.causes}


def wrong(found):
    return [(line.day, line.model) for line in found.lines if not line.agrees]


@pytest.mark.parametrize("kind", [WHOLE, USAGE, DOLLARS, UNCOUNTED], ids=["whole", "usage", "dollars", "uncounted"])
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_a_faithful_invoice_agrees(kind, seed, count):
    """Any requests over two models and three days, whatever the file tells: no cause, no difference, each day and model once."""
    rows = booked(seed, count)
    found = reconcile(invoice(rows, **kind), runs_of(rows))
    assert found.agrees
    assert names(found) == set()
    assert {(line.day, line.model) for line in found.lines} == {(r.day, r.model) for r in rows}
    assert all(line.difference_usd == 0 for line in found.lines)
    assert sum(line.ours_usd for line in found.lines) == sum((r.usd for r in rows), D(0))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_amounts_that_were_rounded_to_the_cent_agree(seed, count):
    """Each line rounded by itself: what is left is called rounding, and is never more than half a cent a line."""
    rows = booked(seed, count)
    found = reconcile(invoice(rows, cents=True), runs_of(rows))
    assert found.agrees
    assert names(found) <= {ROUNDING}
    assert all(abs(line.difference_usd) <= D("0.005") for line in found.lines)


def inject(what, rows):
    """(their rows, ours, failed ones of ours) with one difference, in the first day's first model."""
    first = rows[0]
    others = [replace(r, key="key_other") for r in rows if (r.day, r.model) == (first.day, first.model)][:20]
    return {
        "price": lambda: (rows, rows, []),
        "tokens": lambda: ([replace(first, output=first.output + 5000), *rows[1:]], rows, []),
        "cached": lambda: ([replace(first, fresh=first.fresh + first.cached, cached=0), *rows[1:]], rows, []),
        "somebody else": lambda: ([*rows, *others], rows, []),
        "not in the file": lambda: (rows[1:], rows, []),
        "failed": lambda: ([*rows, replace(first, output=first.output // 2)], rows, [first]),
    }[what]()


@pytest.mark.parametrize(
    ("what", "kind", "name"),
    [
        ("price", WHOLE, PRICE), ("price", DOLLARS, UNTOLD), ("price", UNCOUNTED, PRICE),
        ("tokens", WHOLE, TOKENS), ("tokens", USAGE, TOKENS), ("tokens", UNCOUNTED, ROWS_OR_TOKENS),
        ("cached", WHOLE, TOKENS), ("cached", UNCOUNTED, TOKENS),
        ("somebody else", WHOLE, MISSING_HERE), ("somebody else", USAGE, MISSING_HERE), ("somebody else", UNCOUNTED, ROWS_OR_TOKENS),
        ("not in the file", WHOLE, MISSING_THERE), ("not in the file", USAGE, MISSING_THERE), ("not in the file", UNCOUNTED, ROWS_OR_TOKENS),
        ("failed", WHOLE, FAILED), ("failed", USAGE, FAILED), ("failed", UNCOUNTED, FAILED), ("failed", DOLLARS, FAILED),
    ],
    ids=lambda value: value.replace(" ", "_") if isinstance(value, str) else "".join("ny"[v] for v in value.values()),
)  # fmt: skip
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_each_injected_difference_is_recognised(what, kind, name, seed):
    """By what the file tells: its name alone, its dollars to the digit where they can be told, and no other day or model."""
    rows = [replace(r, cached=r.cached + 50_000) for r in booked(seed, 120)]
    rows[0] = replace(rows[0], fresh=10**6)  # worth more than a cent
    theirs, ours, lost = inject(what, rows)
    times = D("0.9") if what == "price" else D(1)
    found = reconcile(invoice(theirs, times=times, **kind), runs_of(ours, lost))
    assert names(found) == {name}
    at = {(r.day, r.model) for r in rows} if what == "price" else {(rows[0].day, rows[0].model)}
    assert set(wrong(found)) == at
    if kind in (WHOLE, UNCOUNTED):
        extra = sum((r.usd for r in theirs), D(0)) * times - sum((r.usd for r in ours), D(0))
        assert sum(line.difference_usd for line in found.lines) == pytest.approx(extra, abs=D("1e-12"))
        told = sum((cause.usd for line in found.lines for cause in line.causes), D(0))
        assert told == pytest.approx(extra, abs=D("1e-12"))


def test_price_and_tokens_that_both_differ_are_told_apart():
    """Another answer's length and 10 % off: two causes, whose dollars are the difference; the price's says by how much."""
    rows = booked(5, 30, models=(MINI,), days=1)
    theirs = [replace(rows[0], output=rows[0].output + 1_000_000), *rows[1:]]
    (line,) = reconcile(invoice(theirs, times=D("0.9")), runs_of(rows)).lines
    tokens, price = line.causes
    assert (tokens.name, price.name) == (TOKENS, PRICE)
    assert tokens.usd == 2
    assert tokens.usd + price.usd == line.difference_usd
    assert "0.9 times ours" in price.words


def test_a_failed_request_explains_no_more_than_its_worst_case():
    """One of ours was cut: a billed one of its size is it; three, or a prompt larger than it, are not."""
    rows = booked(7, 20, models=(MINI,), days=1)
    lost = Booked(FIRST, MINI, 1000, 0, 0, 0, 500)
    small = replace(lost, fresh=10, output=10)
    cases = (
        ([lost], FAILED),
        ([lost] * 3, MISSING_HERE),
        ([small] * 3, MISSING_HERE),
        ([replace(lost, fresh=10**6)], MISSING_HERE),
    )
    for billed, name in cases:
        assert names(reconcile(invoice([*rows, *billed]), runs_of(rows, [lost]))) == {name}
    (line,) = reconcile(invoice(rows), runs_of(rows, [lost])).lines
    assert line.agrees  # not billed: nothing to explain
    assert line.ours.unknown_usd == (1000 * D("0.25") + 500 * 2) / 1_000_000


def test_other_models_and_days_of_the_file_are_missing_here():
    """Somebody's use on a day of ours of another model, and on another day: named with its key, and left out by --model, --key, --until."""
    rows = booked(9, 20, models=(MINI,), days=1)
    other = [
        Booked(FIRST, HAIKU, 10**6, 0, 0, 0, 10**5, "key_other"),
        Booked(FIRST + timedelta(days=9), MINI, 10**6, 0, 0, 0, 9, "key_other"),
    ]
    file, ours = invoice([*rows, *other]), runs_of(rows)
    found = reconcile(file, ours)
    assert (names(found), len(wrong(found))) == ({MISSING_HERE}, 2)
    assert all("key_other" in line.causes[0].words for line in found.lines if line.causes)
    assert reconcile(file, ours, Wanted(key="key_ours")).agrees
    assert reconcile(file, ours, Wanted(model="gpt-5-mini-2025-08-07", until=FIRST)).agrees
    assert not reconcile(file, ours, Wanted(until=FIRST)).agrees


def test_days_that_the_file_does_not_have_are_not_held_against_it():
    """Runs of three days, an export of the second: one line, and a note of the others; asked for by day they are missing there."""
    rows = booked(11, 30, models=(MINI,))
    second = invoice([r for r in rows if r.day == FIRST + timedelta(days=1)])
    found = reconcile(second, runs_of(rows))
    assert (found.agrees, len(found.lines)) == (True, 1)
    assert "2 days of ours" in found.notes[0]
    assert names(reconcile(second, runs_of(rows), Wanted(since=FIRST))) == {MISSING_THERE}


def test_requests_over_midnight_that_are_of_the_day_before_there_are_named_and_agree():
    """Two began at 23:59:59 and ended at 00:00:01: a vendor that books by the beginning has them a day earlier."""
    rows = booked(13, 40, models=(MINI,), days=2)
    midnight = datetime(2026, 11, 4, tzinfo=UTC).timestamp()
    over = [replace(sent_of(r), sent_utc_s=midnight - 1, ended_utc_s=midnight + 1) for r in rows[:2]]
    early = [replace(r, day=FIRST) for r in rows]
    late = [replace(r, day=FIRST + timedelta(days=1)) for r in early[2:]]
    ours = [
        run_of(MINI, [*over, *(sent_of(r) for r in late[:30]), *(sent_of(replace(r, day=FIRST)) for r in late[30:])])
    ]
    theirs = [*early[:2], *late[:30], *(replace(r, day=FIRST) for r in late[30:])]
    found = reconcile(invoice(theirs), ours)
    assert (found.agrees, names(found)) == (True, {ANOTHER_DAY})
    stranger = reconcile(invoice([*theirs, replace(late[0], fresh=10**7)]), ours)
    assert not stranger.agrees
    by_day = [replace(r, day=FIRST) if r in late[:10] else r for r in theirs]
    assert ANOTHER_DAY not in names(
        reconcile(invoice(by_day), ours)
    )  # 12 requests, of which only 2 were on their way at midnight


def test_a_day_s_dollars_without_a_model_are_held_against_all_models():
    """A costs export by day: ours of both models add up to it, and a cent more is a difference."""
    rows = booked(15, 60, days=1)
    day = replace(invoice(rows, **DOLLARS)[0], model=None, usd=sum((r.usd for r in rows), D(0)))
    found = reconcile([day], runs_of(rows))
    assert [(line.model, line.agrees) for line in found.lines] == [("all models", True)]
    assert not reconcile([replace(day, usd=day.usd + D("0.0101"))], runs_of(rows)).agrees


def test_a_day_s_dollars_beside_the_models_tokens_are_of_all_models():
    """A usage export by model and a costs export by day: one line a day, of both files."""
    rows = booked(23, 60, days=1)
    day = replace(invoice(rows, **DOLLARS)[0], model=None, usd=sum((r.usd for r in rows), D(0)))
    found = reconcile([*invoice(rows, **USAGE), day], runs_of(rows))
    assert [(line.model, line.agrees, line.theirs.requests) for line in found.lines] == [("all models", True, 60)]


def test_a_charge_that_is_of_no_model_is_no_model_s():
    """A web search of $3 beside the models' dollars: its own line, missing here, and the models agree."""
    rows = booked(17, 20, models=(HAIKU,), days=1)
    search = replace(invoice(rows, **DOLLARS)[0], model=None, usd=D(3))
    found = reconcile([*invoice(rows, **DOLLARS), search], runs_of(rows))
    assert [(line.model, line.agrees) for line in found.lines] == [(HAIKU, True), ("of no model", False)]
    assert names(found) == {MISSING_HERE}


def test_usage_and_costs_together_are_one_line():
    """The tokens of one export and the dollars of the other: a difference of the price is told from one of tokens."""
    rows = booked(19, 30, days=1)
    both = [*invoice(rows, **USAGE), *invoice(rows, **DOLLARS, times=D("1.5"))]
    found = reconcile(both, runs_of(rows))
    assert len(found.lines) == 2
    assert names(found) == {PRICE}


def test_a_hybrid_s_hosted_side_is_in_the_invoice_and_its_own_is_not():
    """The requests that its hosted side served agree with the vendor's book; those of the own side bill nobody."""
    rows = booked(21, 20, models=(MINI,), days=1)
    run = run_of(MINI, [])
    targets = [{"name": "h", "kind": "hybrid"}, {**run.config["targets"][0], "name": "api"}]
    sides = (
        SideOfRun("own", 20, None, sent=tuple(sent_of(r) for r in booked(22, 20))),
        SideOfRun("api", 20, None, sent=tuple(sent_of(r) for r in rows)),
    )
    hybrid = replace(
        run, target_kind="hybrid", cell=replace(run.cell, target="h"), config={"targets": targets}, sides=sides
    )
    found = reconcile(invoice(rows), [hybrid])
    assert (found.agrees, len(found.lines)) == (True, 1)
    assert names(reconcile(invoice(rows[1:]), [hybrid])) == {MISSING_THERE}


def test_a_run_without_a_price_is_left_out_and_said():
    """A gateway whose price nobody declared: not compared, not silently nothing."""
    run = run_of(MINI, [sent_of(booked(1, 1, models=(MINI,))[0])])
    bare = replace(run, config={"targets": [{"name": "t", "kind": "hosted", "url": "https://llm.example.net/v1"}]})
    found = reconcile([], [bare])
    assert (found.lines, found.agrees) == ((), False)
    assert "no price of its API" in found.left_out[0]
    nowhere = replace(run, config={"targets": [{"name": "t", "price": {"provider": "openai", "model": "gpt-55"}}]})
    assert "no price of this model" in reconcile([], [nowhere]).left_out[0]
