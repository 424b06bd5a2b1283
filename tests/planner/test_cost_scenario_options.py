"""Every option of a scenario as a whole value, what is noted of a hosted price, and what self-hosting is held against."""

from __future__ import annotations

from decimal import Decimal as D

import genai_prices
import pytest

from harness.planner.hosted_terms import MeanRequest
from harness.planner.measured import measured_capacity
from harness.planner.scenario.inputs import base_of
from harness.planner.scenario.options import (
    Option,
    against,
    hosted_sides,
    options_of,
    plural,
    reference_of,
    self_staircase,
)
from harness.planner.scenario.run import run_scenario
from tests.planner.scenario_values import hosted, scenario
from tests.price.cost_summaries import summary

MONTH_H = D("730.5")
LIST = {"price source": "list", "price as of": "2026-11-01"}


def sides_of(**changes):
    base = base_of(scenario(**changes), None)
    return base, hosted_sides(base)


def options(**changes):
    return options_of(*sides_of(**changes))


def priced(usd, cached="none: no cached_input_tokens declared"):
    text = f"${usd} input, ${usd} cached input, ${usd} output per million tokens"
    return {"price": text, **LIST, "cached input": cached}


def test_every_option_by_hand():
    """10 M requests: 2 machines of $4; $2,000 hosted of $3,000 committed; no machine pays for itself; 2 units of $1."""
    dedicated = {"usd_per_unit_hour": 1, "unit_requests_per_s": 4, "source": "contract"}
    part = hosted(minimum_usd_per_month=3000, dedicated=dedicated, same_model=False, meets_slo=True)
    found = options(
        hosted=[part], labour={"full_time": 1, "usd_per_work_hour": 4.2, "source": "rota"}
    )  # $1 of each hour
    other = "a different product: not m; its quality is not compared here"
    guess = "tokenizers are not declared: equal token counts are taken for granted"
    unused = "$3,000.00 a month is due by the minimum commitment, $1,000.00 of it unused: a fixed sum, in no price of a request"
    machine = {
        "machine": "box", "price": "4.0 USD per hour", "price source": "quote", "price as of": "2026-11-01", "price age": "23 days old",
        "capacity": "10 requests/s a machine", "capacity source": "declared", "capacity as of": "2026-11-01", "labour": "rota",
    }  # fmt: skip
    requests = D(10_000_000)
    assert found == (
        Option("self-hosted", "2 machines, box", 9 * MONTH_H, 9 * MONTH_H / requests, None, (), machine),
        Option(
            "hosted", "host/m", D(3000), D("0.0002"), None, (guess, other, unused),
            {**priced("0.2"), "tokenizer ratio": "1", "commitment unused": "1000.00 USD per month"},
        ),
        Option(
            "hybrid", "0 machines always on, the rest to host/m", D(3000), D(3000) / requests,
            "not a machine pays for itself: the same as hosted",
            ("100.0% of requests hosted; the hosted API is the spare", guess, other), {**priced("0.2"), "machine": "box"},
        ),
        Option(
            "dedicated", "2 units of host/m", 2 * MONTH_H, 2 * MONTH_H / requests, None, (other,),
            {"unit": "1.0 USD per hour, 4.0 requests/s", "price source": "contract"},
        ),
    )  # fmt: skip
    assert [o.is_another for o in found] == [False, False, True, False]
    assert [o.same_product for o in found] == [True, False, False, False]
    assert len(options(hosted=[hosted(), hosted()])) == 5


def test_a_hybrid_that_is_all_machines_is_self_hosting_unless_it_spares_a_spare():
    """At $0.5/M each of 23 machines pays. Without a spare in the fleet that is self-hosting, if hosted asks for no minimum."""
    much = {"demand": {"requests_per_month": 3e8}, "hosted": [hosted(0.5)]}
    same = options(**much, fleet={"spares": 0, "storage_usd_per_month": 73.05})
    assert same[2].infeasible == "the machines carry everything: the same as self-hosted"
    assert same[2].is_another
    assert same[2].usd_per_month == same[0].usd_per_month == (23 * 4 + D("0.1")) * MONTH_H
    assert same[0].notes == ("no spare: losing one machine loses its part of the load",)
    assert options(**much)[2].infeasible is None
    kept = options(**{**much, "hosted": [hosted(0.5, minimum_usd_per_month=1)]}, fleet={"spares": 0})
    assert kept[2].infeasible is None
    slow = options(**{**much, "hosted": [hosted(0.5, meets_slo=False)]}, fleet={"spares": 0})
    assert slow[2].infeasible == slow[1].infeasible == "does not meet the SLO, as declared: P99 TTFT <= 2 s"
    # at 110.1 requests/s the 23rd machine would carry 0.1: hosted, of which the name, the share and the money tell
    part = options(
        demand={"requests_per_month": 110.1 * 730.5 * 3600},
        hosted=[hosted(0.5)],
        fleet={"storage_usd_per_month": 73.05},
    )[2]
    assert part.name == "22 machines always on, the rest to host/m"
    assert part.notes[0] == "0.1% of requests hosted; the hosted API is the spare"
    assert float(part.usd_per_month) == pytest.approx(730.5 * (22 * 4 + 0.1 + 0.1 * 3.6 * 0.5))


def test_machines_that_come_and_go_are_told_with_their_span():
    """5 and 15 requests/s in turn: 2 to 4 machines, the spare in; one machine is in the singular."""
    turn = {"requests_per_month": 26_298_000, "shape": [1, 3]}
    assert options(demand=turn, fleet={"scaling": "autoscaled"})[0].name == "2-4 machines, box"
    assert options(fleet={"spares": 0})[0].name == "1 machine, box"
    old = {"declared": {"name": "old", "usd_per_hour": 4, "source": "q", "as_of": "2026-07-26"}}
    assert options(machine=old)[0].notes == (
        "stale price of old: dated 2026-07-26, 121 days before the run (limit 120): look it up again",
    )
    assert (plural(0), plural(1), plural(2)) == ("0 machines", "1 machine", "2 machines")


def test_a_hosted_side_by_hand():
    """1.25 hosted tokens for one of ours, 400 read from its cache, 10 % off, 2 % billed again: $0.00022032 a request."""
    part = hosted(
        tokenizer="b",
        tokenizer_ratio=1.25,
        discount=0.1,
        billed_retries=0.02,
        cached_input_usd_per_million=0.1,
        meets_slo=True,
    )
    base, (side,) = sides_of(
        tokenizer="a",
        hosted=[part],
        workload={"cached_input_tokens": 320, "max_tokens": 999},
        demand={"requests_per_month": 1000},
    )
    each = (D("0.2") * 600 + D("0.1") * 400 + D("0.2") * 250) / 1_000_000 * D("0.9") * D("1.02")
    assert (side.name, side.each_usd) == ("host/m", each)
    assert (side.minimum_usd_per_month, side.tokenizer_ratio, side.barred, side.infeasible) == (
        0,
        D("1.25"),
        None,
        None,
    )
    assert (side.bill.used_usd, side.bill.due_usd, side.bill.unused_usd) == (each * 1000, each * 1000, 0)
    assert (side.billed.input_tokens, side.billed.cached_tokens, side.billed.output_tokens) == (1000, 400, 250)
    assert side.shape == MeanRequest(
        input_tokens=1000, output_tokens=250, cached_input_tokens=400, max_tokens=999, usd_per_request=each
    )
    assert side.notes == (
        (
            "mixed tokenizers, b against a: 1.25 tokens for one of ours as declared (harness cost tokens measures it); "
            "compare $/request, not $/M tokens"
        ),
        "cached input: 400 of each prompt, declared",
    )
    assert side.price.inputs["cached input"] == "400 of each prompt, declared"
    inputs = {**side.price.inputs, "tokenizer ratio": "1.25"}
    assert options_of(base, [side])[1].inputs == inputs
    committed = options(hosted=[hosted(minimum_usd_per_month=2000.5)])[1].inputs
    assert committed["commitment unused"] == "0.50 USD per month"


@pytest.mark.parametrize(
    ("own", "part", "ratio", "said"),
    [
        (None, {}, 1, None),
        (None, {"same_model": False}, 1, "tokenizers are not declared: equal token counts"),
        ("a", {"same_model": False}, 1, "tokenizers are not declared: equal token counts"),
        (None, {"tokenizer": "b", "same_model": False}, 1, "tokenizers are not declared: equal token counts"),
        ("a", {"tokenizer": "a"}, 1, None),
        ("a", {"tokenizer": "a", "tokenizer_ratio": 1}, 1, None),
        (None, {"tokenizer_ratio": 1}, 1, "mixed tokenizers, not named against not named: 1 tokens"),
        (None, {"tokenizer": "b", "tokenizer_ratio": 1.5}, 1.5, "mixed tokenizers, b against not named: 1.5 tokens"),
        ("a", {"tokenizer_ratio": 1}, 1, "mixed tokenizers, not named against a: 1 tokens"),
        ("a", {"tokenizer": "b", "tokenizer_ratio": 1}, 1, "mixed tokenizers, b against a: 1 tokens"),
    ],
)
def test_the_exchange_rate_of_tokens_and_its_note(own, part, ratio, said):
    """1 without a note where it is the same tokenizer or nothing is named of the same weights; else the rate with both names."""
    _, (side,) = sides_of(tokenizer=own, hosted=[hosted(**part)])
    notes = [n for n in side.notes if "tokenizer" in n]
    assert side.tokenizer_ratio == D(str(ratio))
    assert len(notes) == (said is not None)
    assert said is None or notes[0].startswith(said)


def test_notes_of_a_price_in_order():
    """Tokenizers, cache, writes that are not billed, another product, its age, the SLO that nobody measured."""
    haiku = {"provider": "anthropic", "model": "claude-haiku-4-5", "same_model": False, "cached_input_tokens": 500}
    old = hosted(as_of="2026-07-26", model="n", provider="nobody")
    _, (book, own) = sides_of(hosted=[haiku, old], workload={"kind": "interactive"})
    starts = (
        "tokenizers are not declared", "cached input: 500 of each prompt, declared", "anthropic/claude-haiku-4-5 charges for cache writes",
        "a different product: not m", "whether it meets the SLO is not measured",
    )  # fmt: skip
    assert len(book.notes) == len(starts)
    assert all(note.startswith(start) for note, start in zip(book.notes, starts, strict=True))
    assert [n.partition(":")[0] for n in own.notes] == [
        "stale price of nobody/n",
        "whether it meets the SLO is not measured",
    ]
    _, (met,) = sides_of(hosted=[hosted(meets_slo=True)], workload={"kind": "interactive"})
    assert met.notes == ()
    _, (batch,) = sides_of(hosted=[hosted()])
    assert batch.notes == ()


def test_an_own_price_is_held_against_the_book_at_the_date():
    """gpt-5-mini at $0.25 and $2: 10 % away is no note, more is; a price of the book itself has none."""

    def notes(**part):
        data = {
            "provider": "openai",
            "model": "gpt-5-mini",
            "same_model": True,
            "meets_slo": True,
            "as_of": "2026-11-01",
            **part,
        }
        return sides_of(hosted=[data])[1][0].notes

    assert notes(input_usd_per_million=0.275, output_usd_per_million=2) == ()
    assert notes() == ()
    (apart,) = notes(input_usd_per_million=0.25, output_usd_per_million=3)
    assert apart == (
        "two sources of the price of openai/gpt-5-mini differ by more than 10 %: output 3.0 against 2 $/M (declared in the experiment "
        f"and genai-prices {genai_prices.__version__} (bundled data, read offline): openai/gpt-5-mini)"
    )


def test_the_service_of_a_price_is_the_variant_s():
    """The batch variant costs half and serves nobody who waits, at whatever SLO."""
    part = {"provider": "openai", "model": "gpt-5-mini", "same_model": True, "service": "batch", "meets_slo": True}
    _, (batch,) = sides_of(hosted=[part])
    assert (batch.name, batch.each_usd, batch.infeasible) == ("openai/gpt-5-mini (batch)", D("0.0003"), None)
    _, (waiting,) = sides_of(hosted=[part], workload={"kind": "interactive"})
    assert waiting.barred == waiting.infeasible == "a batch price is not for users who wait: compare batch with batch"


def test_measured_requests_are_billed_each_and_not_with_our_cache():
    """A run of 1,000 + 200 and 3,000 + 0 tokens: the mean of both bills; what our server cached is told and not taken off."""
    usage = ((1000, 600, 200, 0), (3000, 0, 0, 0))
    runs = [summary(usage=usage, goodput_rps=None, request_rps=8.0) for _ in range(3)]
    spec = scenario(
        capacity={"requests_per_s": None, "run": "x", "source": ""}, hosted=[hosted(tokenizer_ratio=2, tokenizer="b")]
    )
    base = base_of(spec, measured_capacity(runs))
    (side,) = hosted_sides(base)
    assert side.each_usd == D("0.2") * 2 * 2100 / 1_000_000
    assert side.price.inputs["cached input"].startswith(
        "none: no cached_input_tokens declared; the 1800 that the measured server"
    )
    assert any(note.startswith("cached input: none") for note in side.notes)


def test_limits_are_held_against_the_whole_demand():
    """3.80 requests/s are 228.2 a minute: 229 are enough and 228 are not; the side says which."""
    for cap, broken in ((229, False), (228, True)):
        _, (side,) = sides_of(hosted=[hosted(limits={"requests_per_minute": cap})])
        assert side.barred is None
        assert (side.infeasible is not None) is broken
    assert side.infeasible.startswith("infeasible: peak demand 3.803 requests/s, requests_per_minute allows 3.8")


def test_the_reference_is_the_cheapest_that_may_be_taken_of_the_same_model():
    """Another product only where nothing else is feasible; nothing where nothing is."""
    cheap, same, dear = hosted(0.1, model="x", same_model=False), hosted(0.2), hosted(0.3, model="d")
    barred = hosted(0.01, model="b", meets_slo=False)
    for parts, name in (
        ([barred, cheap, dear, same], "host/m"),
        ([barred, dear, cheap], "host/d"),
        ([cheap, barred], "host/x"),
    ):
        assert reference_of(sides_of(hosted=parts)[1]).name == name
    assert reference_of(sides_of(hosted=[barred])[1]) is None


def test_what_self_hosting_is_held_against():
    """$20,000 hosted against 2 machines and half a person at $100: equal prices, and 0.81 people would cost as much."""
    base, (side,) = sides_of(
        labour={"full_time": 0.5, "usd_per_work_hour": 100, "source": "rota"},
        hosted=[hosted(2.0, minimum_usd_per_month=5)],
    )
    found = against(base, side)
    person = D(100) * 40 / 168
    assert (found.hosted, found.each_usd, found.minimum_usd_per_month) == ("host/m", D("0.002"), D(5))
    usd_per_hour = 8 + person / 2
    assert float(found.hosted_usd_per_request) == pytest.approx(float(usd_per_hour * MONTH_H / 10_000_000))
    hosted_usd = D(20_000) / MONTH_H
    assert float(found.machine_usd_per_hour) == pytest.approx(float((hosted_usd - person / 2) / 2))
    assert float(found.full_time) == pytest.approx(float((hosted_usd - 8) / person))
    assert found.crossings.crossings[0].cheaper_above == "self"
    assert found.crossings.crossings[0].rps < base.demand.mean_rps < 5
    _, (floor,) = sides_of(hosted=[hosted(0, minimum_usd_per_month=20_000)])
    assert against(base, floor).crossings.crossings[0].rps == 0


def test_people_are_counted_only_where_they_could_tip_it():
    """$2,000 hosted are less than the machines: not even with none; people who cost nothing never tip it; at 0 people exactly: 0."""
    base, (side,) = sides_of()
    assert against(base, side).full_time is None
    base, (dear,) = sides_of(labour={"full_time": 1, "usd_per_work_hour": 0, "source": "x"}, hosted=[hosted(2.0)])
    assert against(base, dear).full_time is None
    base, (side,) = sides_of(hosted=[hosted(minimum_usd_per_month=5844)])
    assert against(base, side).full_time == 0


def test_the_staircase_is_of_the_scenario_s_fleet():
    """5 usable requests/s a machine, a spare in, $4 each: $8 to 5, $12 to 10."""
    base, _ = sides_of()
    assert self_staircase(base, 10.0)[:2] == [(0.0, 8.0), (5.0, 12.0)]


def test_a_commitment_is_a_month_s_sum_and_in_no_price_of_a_request():
    """$3,000 a month at 1 M and at 100 M requests of $0.0002: the price stays, the month is $3,000 and $20,000, the figure says why."""
    committed = [hosted(minimum_usd_per_month=3000)]
    for volume, month in ((1_000_000, 3000), (100_000_000, 20_000)):
        spec = scenario(demand={"requests_per_month": volume}, hosted=committed)
        result = run_scenario(spec)
        option = next(o for o in result.options if o.kind == "hosted")
        assert (option.usd_per_request, option.usd_per_month) == (D("0.0002"), month)
        assert result.figure("hosted_0_usd_per_request") == D("0.0002")
        formula = next(f.formula for f in result.figures if f.name == "hosted_0_usd_per_month")
        assert ("at least the commitment of 3,000.00 $" in formula) is (month == 3000)


def test_the_price_to_compare_with_is_the_one_of_the_least_month():
    """The lower price with the higher commitment is the dearer month: the other is what self-hosting is compared with."""
    cheap = hosted(0.1, provider="low", minimum_usd_per_month=5000)
    _, sides = sides_of(hosted=[cheap, hosted(0.2)])
    assert reference_of(sides).name == "host/m"


def test_a_commitment_beyond_the_spend_cap_bars_the_hosted_side():
    """$3,000 committed under a cap of $2,000 a month cannot be kept, however little is used; under $3,000 it can."""
    for cap, is_barred in ((2000, True), (3000, False)):
        limits = {"spend_usd_per_month": cap}
        _, (side,) = sides_of(
            hosted=[hosted(minimum_usd_per_month=3000, limits=limits)], demand={"requests_per_month": 10}
        )
        assert (side.barred is not None) is is_barred
        assert (side.infeasible is not None) is is_barred
