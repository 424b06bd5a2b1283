"""Own and hosted beside each other: dollars per good request worked out by hand, and what is said where they meet."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from harness.config.experiment import CostSpec
from harness.price.run_cost import cost_run, price_runs
from harness.records import FirstTokens, Load
from harness.report.run import sides_page, tables
from harness.report.run.document import html
from harness.report.run.markdown import markdown
from harness.report.run.sides import in_words, sentence, sides
from tests.report.report_values import HARDWARE, HOSTILE, INVALID, run

LOAD = Load(concurrency=4)
PRICE = {"provider": "api", "model": "m", "input_usd_per_million": 1.0, "output_usd_per_million": 4.0}
OFFERED = 120
REQUEST_USD = Decimal(128 * 1 + 32 * 4) / 1_000_000


def own(times_s, rep=1, *, seconds=25.4, load=LOAD, target="mine"):
    """A run of 120 requests at $0.10 an hour whose first tokens came after these seconds."""
    made = run(load, rep, target=target, slo=True)
    window = replace(made.window, offered_s=seconds)
    seen = FirstTokens("ttft_from_schedule_s", {"tpot_s": 0.1}, OFFERED, sorted(times_s))
    good = seen.good(0.5)
    scalars = {**made.scalars, "goodput_rps": good / seconds, "attainment": good / OFFERED}
    return replace(made, window=window, first_tokens=seen, scalars=scalars)


def hosted(times_s, rep=1, *, requests=OFFERED, price=PRICE, load=LOAD, **more):
    """The same against an API at $1 and $4 a million: 128 and 32 tokens a request."""
    made = own(times_s, rep, load=load, target="api", **more)
    targets = [{"name": "api", "kind": "hosted", "url": "https://api.example/v1", "price": price}]
    config = {**made.config, "targets": targets}
    return replace(made, target_kind="hosted", config=config, usage=((128, 0, 32, 0),) * requests, model="m")


def priced(summaries, utilisation=1.0):
    spec = CostSpec(utilisation=utilisation)
    return [cost_run(s, None if s.target_kind == "hosted" else HARDWARE, spec, allow_invalid=True) for s in summaries]


def one(summaries, **words):
    (found,) = sides(summaries, priced(summaries, **words))
    return found


def at(found, limit_s):
    return next(point for point in found.curve if point.limit_s == limit_s)


def test_the_dollars_of_a_good_request_are_those_worked_out_by_hand():
    """Own: $0.10 x 25.4 s / 3600 s / 60 % over 119 good ones; hosted: its bill of 120 requests over the 119 that are good."""
    runs = [own([0.1] * 119), hosted([0.2] * 119)]
    declared = at(one(runs, utilisation=0.6), 0.5)
    mine = Decimal("0.10") * Decimal("25.4") / 3600 / Decimal("0.6") / 119 * 1000
    assert float(declared.own.usd.median) == pytest.approx(float(mine), rel=1e-9)
    assert float(declared.hosted.usd.median) == pytest.approx(float(REQUEST_USD * 120 / 119 * 1000), rel=1e-9)


def test_the_declared_promise_costs_what_the_results_table_says():
    """At the declared limit both sides' dollars are those of the table's column for good requests."""
    runs = [own([0.1] * 100 + [0.4] * 19 + [0.7]), hosted([0.2] * 110 + [0.45] * 9 + [0.9])]
    costs = priced(runs, utilisation=0.6)
    (found,) = sides(runs, costs)
    (block,) = sides_page.blocks(found, costs)
    for side, values in zip(("own", "hosted"), block.values, strict=True):
        offer = at(found, 0.5).offer(side)
        assert float(offer.usd.median) == pytest.approx(
            float(values["usd_per_thousand_good_requests"].median), rel=1e-9
        )


@pytest.mark.parametrize(
    ("mine_s", "theirs_s", "state"),
    [
        (0.1, 0.1, "own"),  # $0.0059 against $0.256 per 1,000
        (0.1, 0.8, "only own"),
        (0.8, 0.1, "only hosted"),
        (0.8, 0.8, "neither"),
    ],
    ids=["both", "own_alone", "hosted_alone", "none"],
)
def test_who_holds_the_promise_is_said(mine_s, theirs_s, state):
    """99 % within the limit, or a side has no offer there, whatever its dollars."""
    runs = [f([s] * 119 + [9.0], rep) for rep in (1, 2, 3) for f, s in ((own, mine_s), (hosted, theirs_s))]
    assert at(one(runs), 0.5).state == state


def spread_out(factor, reps=(1, 2, 3)):
    """Hosted at $0.256 per 1,000 requests; own at `factor` of that, give or take 10 %."""
    second_usd = 0.10 / 3600
    runs = [hosted([0.1] * OFFERED, rep) for rep in reps]
    for rep in reps:
        seconds = float(REQUEST_USD) * OFFERED * factor * (0.9, 1.0, 1.1)[rep - 1] / second_usd
        runs.append(own([0.1] * OFFERED, rep, seconds=seconds))
    return runs


@pytest.mark.parametrize(
    ("factor", "state"), [(0.5, "own"), (0.95, "overlap"), (1.05, "overlap"), (2.0, "hosted")], ids=str
)
def test_intervals_that_overlap_make_neither_side_cheaper(factor, state):
    """Three repetitions 10 % apart: their 95 % interval is 28 % to either side."""
    found = one(spread_out(factor))
    assert at(found, 0.5).state == state
    assert ("not distinguishable" in sentence(found)) == (state == "overlap")


def test_two_repetitions_call_no_side_cheaper():
    """Without an interval the numbers are given and nothing is claimed."""
    found = one(spread_out(0.5, reps=(1, 2)))
    assert at(found, 0.5).state == "no interval"
    assert "is cheaper" not in sentence(found)


@given(
    times=st.lists(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=OFFERED), min_size=2, max_size=6),
    share=st.sampled_from((0.5, 0.9, 0.99)),
)
def test_a_looser_promise_is_kept_by_as_many_and_costs_no_more(times, share):
    """Attainment never falls and a cell's dollars never rise along the limits; whoever offers holds the share."""
    runs = [(own, hosted)[n % 2](one_s, 1 + n // 2) for n, one_s in enumerate(times)]
    runs = [replace(r, config={**r.config, "slo": {**r.config["slo"], "attainment": share}}) for r in runs]
    found = one(runs)
    limits = [point.limit_s for point in found.curve]
    assert limits == sorted(limits)
    assert 0.5 in limits
    assert max(limits) >= max(max(one_s) for one_s in times)
    for arm in found.arms:
        kept = [arm.attainment(limit).median for limit in limits]
        usd = [one_usd.median for limit in limits if (one_usd := arm.usd_per_thousand_good(limit)) is not None]
        assert kept == sorted(kept)
        assert usd == sorted(usd, reverse=True)
    for point in found.curve:
        offers = [point.offer(side) for side in ("own", "hosted")]
        assert all(offer.attainment.median >= share for offer in offers if offer is not None)


def test_the_cheapest_load_that_holds_the_promise_is_offered():
    """At a tight limit the quiet cell, at a loose one the busy cell, which is cheaper."""
    quiet = [own([0.05] * OFFERED, rep, seconds=60.0) for rep in (1, 2, 3)]
    busy = [own([0.4] * OFFERED, rep, seconds=10.0, load=Load(concurrency=64)) for rep in (1, 2, 3)]
    theirs = [hosted([0.05] * OFFERED, rep) for rep in (1, 2, 3)]
    found = one([*quiet, *busy, *theirs])
    assert at(found, 0.05).own.arm.row.load == LOAD
    assert at(found, 0.5).own.arm.row.load.concurrency == 64


def test_a_hosted_target_without_a_price_says_so():
    """Latencies stand beside each other, nobody is called cheaper, and the sentence says what is missing."""
    runs = [own([0.1] * OFFERED), hosted([0.1] * OFFERED, price=None)]
    found = one(runs)
    assert {point.state for point in found.curve} <= {"neither", "unpriced"}
    assert "hosted has no price" in sentence(found)


def test_invalid_runs_are_not_compared():
    """An INVALID side is no side: there is no comparison unless it is asked for by name."""
    runs = [own([0.1] * OFFERED), replace(hosted([0.1] * OFFERED), verdict=INVALID)]
    assert sides(runs, priced(runs)) == ()
    assert len(sides(runs, priced(runs), allow_invalid=True)) == 1


def test_one_side_alone_is_no_comparison():
    """Two own targets, or two hosted ones, make no section."""
    alone = [own([0.1] * OFFERED), own([0.1] * OFFERED, target="other")]
    assert sides(alone, priced(alone)) == ()
    assert "Own and hosted" not in html("t", alone, priced(alone)) + markdown("t", alone, priced(alone))


def test_the_sentence_stands_in_every_output():
    """Terminal, Markdown, HTML and --json say the same; a column a target, dollars beside latencies."""
    runs = spread_out(0.5)
    costs = price_runs([replace(r, config={**r.config, "cost": {}}) for r in runs], hardware=HARDWARE)
    every = sides(runs, costs)
    words = sentence(every[0])
    head, ranges = in_words(every[0])
    console = Console(width=120, file=io.StringIO(), color_system=None)
    sides_page.render(console, every, costs)
    assert words in console.file.getvalue()
    page = html("t", runs, costs)
    assert all(part in page for part in (head, *ranges))
    assert "Dollars per 1,000 good requests against the promise" in page
    assert "own is cheaper" in markdown("t", runs, costs)
    (document,) = json.loads(json.dumps(tables.as_json(runs, costs)))["own_and_hosted"]
    assert document["sentence"] == words
    assert [cell["side"] for cell in document["cells"]] == ["own", "hosted"]
    assert all(
        cell["usd_per_thousand_good_requests"]["interval_95"] is not None or cell["side"] == "hosted"
        for cell in document["cells"]
    )
    for text in (console.file.getvalue(), page, markdown("t", runs, costs)):
        assert "TTFT p50" in text
        assert "$ per 1,000 good requests" in text.replace("\\$", "$")


def test_a_repetition_without_a_good_request_has_no_price():
    """One repetition of three keeps nothing: the cell's dollars per good request are "-", not those of the two lucky ones."""
    runs = [own([0.1] * OFFERED), *(hosted([s] * OFFERED, rep) for rep, s in ((1, 0.1), (2, 0.1), (3, 9.0)))]
    costs = priced(runs)
    (found,) = sides(runs, costs)
    (block,) = sides_page.blocks(found, costs)
    assert block.values[1]["usd_per_thousand_good_requests"] is None
    assert block.values[1]["usd_per_thousand_requests"] is not None


def test_an_interval_of_a_share_ends_at_all_of_them():
    """Of attainment 100, 100 and 90 % no interval goes beyond 0 and 1."""
    runs = [
        f([0.1] * n + [9.0] * (OFFERED - n), rep) for f in (own, hosted) for rep, n in ((1, 120), (2, 120), (3, 108))
    ]
    (document,) = tables.as_json(runs, priced(runs))["own_and_hosted"]
    for cell in document["cells"]:
        low, high = cell["attainment"]["interval_95"]
        assert 0 <= low < high == 1


def test_hostile_words_stay_words():
    """A workload's name that is markup is text on the page and in the Markdown."""
    runs = [replace(r, cell=replace(r.cell, workload=HOSTILE)) for r in spread_out(0.5)]
    costs = priced(runs)
    (found,) = sides(runs, costs)
    assert "<script>" not in html("t", runs, costs) + sides_page.markdown(found, costs)
