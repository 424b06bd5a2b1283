"""Machines to choose from and fleets of them, as whole values: a table of three, and rates by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from decimal import Decimal as D
from fractions import Fraction as F

import pytest

from harness.base.errors import ConfigError
from harness.config.model.shape import load_model
from harness.planner.hybrid import spot_usd_per_hour
from harness.planner.instances import (
    Candidate,
    Choice,
    Rejected,
    Spot,
    candidates,
    cheapest_mix,
    serves,
    single_type,
)
from harness.planner.roofline import Shape, best_estimate
from harness.price.prices import Instance, spot_price, stale_after_days

AT = datetime(2026, 11, 24, tzinfo=UTC)


def row(full_name, gpu, count, memory_gb, bandwidth, usd, spot, as_of):
    provider, _, name = full_name.partition("/")
    return Instance(
        provider=provider, name=name, region="r", gpu_model=gpu, gpu_count=count, gpu_mem_gb_each=D(memory_gb), gpu_mem_gb_total=None,
        gpu_mem_bw_gb_per_s_each=D(bandwidth), usd_per_hour=usd, spot_text=spot, commitment_text="", source="page", as_of=as_of,
        confidence="high", notes="",
    )  # fmt: skip


SMALL = row("a/small", "L4", 1, 24, 300, D(2), "0.8", "2026-10-01")
LARGE = row("a/large", "H100-SXM", 4, 80, 3350, D(9), "", "2026-10-02")
HIDDEN = row("b/large", "H100-SXM", 2, 80, 3350, None, "3", "2026-10-03")
TABLE = (SMALL, LARGE, HIDDEN)
RATES = {"small": 4, "a/large": "20", "b/large": 9}


def one(name, usd, rps, purchase="on-demand"):
    return Candidate(name, purchase, "1 x X", D(str(usd)), rps, "measured", "", "2026-11-01")


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(
    ("text", "on_demand", "usd"),
    [
        ("1.5-2.25", 3, "2.25"),
        (" 1.5 ", 3, "1.5"),
        ("15", None, "15"),
        ("1.5.2", 3, None),
        ("12.25.1", 30, None),
        ("n/a 3", 9, None),
        ("3", 3, None),
        ("2.99", 3, "2.99"),
        ("0", 3, None),
        ("0.5", 3, "0.5"),
        ("1 CPU part", 3, None),
    ],
)
def test_what_is_a_spot_price(text, on_demand, usd):
    """A number or the dear end of a range, above 0 and below on demand; versions, words and parts are none."""
    assert spot_price(text, on_demand and D(on_demand)) == (usd and D(usd))


# ---------------------------------------------------------------- candidates


def test_spot_unless_told_otherwise():
    """An interruption every 20 h that costs a quarter of one; always to be had."""
    assert asdict(Spot()) == {"interruptions_per_hour": 0.05, "lost_hours": 0.25, "unavailable": 0}


def test_every_way_to_buy_what_was_measured():
    """On demand, by a commitment and on spot, in this order; without a price on demand only the offer, and that is said."""
    spot = Spot(interruptions_per_hour="0.1", lost_hours=2, unavailable="0.5")
    found, left_out = candidates(table=TABLE, measured=RATES, commitments={"small": "1.5", "b/large": 5}, spot=spot)
    useful = spot_usd_per_hour("0.8", 2, interruptions_per_hour="0.1", lost_hours=2, unavailable="0.5")
    assert useful == D("1.5")  # 0.5 x 0.8 / 0.8 + 0.5 x 2
    assert found == (
        Candidate("a/small", "on-demand", "1 x L4", D(2), 4.0, "measured", "", "2026-10-01"),
        Candidate("a/small", "commitment", "1 x L4", D("1.5"), 4.0, "measured", "", "given"),
        Candidate("a/small", "spot", "1 x L4", D("1.5"), 4.0, "measured", "", "2026-10-01"),
        Candidate("a/large", "on-demand", "4 x H100-SXM", D(9), 20.0, "measured", "", "2026-10-02"),
        Candidate("b/large", "commitment", "2 x H100-SXM", D(5), 9.0, "measured", "", "given"),
    )
    assert left_out == (Rejected("b/large, on demand", "no on-demand price is published"),)


def test_what_is_not_measured_is_estimated():
    """Rate and words of the roofline, marked; what does not fit is left out with its reason."""
    model, shape = load_model("qwen3-8b"), Shape(prompt_tokens=1024, output_tokens=128, tpot_s=0.05)
    found, left_out = candidates(table=(LARGE, replace(SMALL, gpu_mem_gb_each=D(4))), model=model, shape=shape)
    rps, detail = best_estimate(model, shape, "H100-SXM", 4, memory_gb_each=80, bandwidth_gb_per_s_each=3350)
    assert found == (Candidate("a/large", "on-demand", "4 x H100-SXM", D(9), rps, "estimate", detail, "2026-10-02"),)
    why = best_estimate(model, shape, "L4", 1, memory_gb_each=4, bandwidth_gb_per_s_each=300)
    assert left_out == (Rejected("a/small", why),)


def test_one_provider_alone():
    """Its machines; an unknown one is refused with the nearest, or with all of them."""
    found, left_out = candidates(table=TABLE, measured=RATES, provider="b")
    assert (found, len(left_out)) == ((), 1)
    assert [c.name for c in candidates(table=TABLE, measured=RATES, provider="a")[0]] == ["a/small", "a/large"]
    with pytest.raises(ConfigError, match="no such provider") as error:
        candidates(table=TABLE, provider="zz")
    assert error.value.advice == "a, b"


@pytest.mark.parametrize("what", ["measured", "commitments"])
def test_names_that_are_not_one_machine(what):
    """Two providers have a large one: which is asked; a misspelt name gets its neighbours, another the place to look."""
    named = {"measured": "measured", "commitments": "commitment"}[what]
    with pytest.raises(ConfigError, match=f"^{named}: instance name is not unique") as error:
        candidates(table=TABLE, **{what: {"large": 1}})
    assert error.value.advice == "say which: a/large, b/large"
    with pytest.raises(ConfigError, match=f"^{named}: no such instance") as error:
        candidates(table=TABLE, **{what: {"smal": 1}})
    assert error.value.advice.startswith("did you mean small")
    with pytest.raises(ConfigError) as error:
        candidates(table=TABLE, **{what: {"zzz": 1}})
    assert error.value.advice == "see `harness prices show`"


def test_bad_rates_and_offers_name_their_machine():
    """A rate of 0 and a negative offer."""
    with pytest.raises(ConfigError, match="measured rate of a/small"):
        candidates(table=TABLE, measured={"small": 0})
    with pytest.raises(ConfigError, match="commitment of a/small"):
        candidates(table=TABLE, measured={"small": 1}, commitments={"small": -1})


def test_how_old_a_price_may_be():
    """As the price table says for that machine and way to buy."""
    for purchase in ("on-demand", "spot", "commitment"):
        assert one("aws/g5.12xlarge", 1, 1, purchase).stale_after_days == stale_after_days("aws/g5.12xlarge", purchase)
    ages = {stale_after_days("aws/g5.12xlarge", purchase) for purchase in ("on-demand", "spot")}
    assert len(ages) == 2


# ---------------------------------------------------------------- one type


def test_a_fleet_of_one_type():
    """21 rps at 70 % of 10 are 3 machines and a spare of $3: per hour, month and 1,000 requests, and how full it is."""
    (found,) = single_type([one("p/a", 3, 10.0)], "21")
    assert found == Choice(
        machines=((one("p/a", 3, 10.0), 4),), usd_per_hour=D(12), usd_per_month=12 * D("730.5"),
        usd_per_1000_requests=D(12) * 1000 / 3600 / 21, usable_rps=28.0, utilisation=0.525,
    )  # fmt: skip


def test_single_types_in_order_of_price_and_within_what_there_is():
    """The cheapest first, spot never, and only where there are as many as it takes."""
    options = [one("p/a", 3, 10.0), one("p/b", 1, 2.0), one("p/c", 4, 30.0), one("p/c", "0.1", 30.0, "spot")]
    names = [choice.machines[0][0].name for choice in single_type(options, 21, headroom=1, spares=0)]
    assert names == ["p/c", "p/a", "p/b"]
    limited = single_type(options, 21, headroom=1, spares=0, at_most={"p/a": 3, "b": 10})
    assert [(c.name, n) for choice in limited for c, n in choice.machines] == [("p/c", 1), ("p/a", 3)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ({"rps": 0}, "rate"),
        ({"headroom": 1.01}, "headroom"),
        ({"headroom": 0}, "headroom"),
        ({"spares": -1}, "spares"),
        ({"at_most": {"a": -1}}, "at most of a"),
        ({"at_most": {"a": 0.5}}, "at most of a"),
        ({"at_most": {"c": 1}}, "not one of the candidates"),
        ({"at_most": {"x": 1}}, "not one of the candidates"),
    ],
)
def test_fleets_that_cannot_be_asked_for(words, named):
    """No rate, no share, no count; a machine that is not there, or is two; of one type and of a mix."""
    options = [one("p/a", 3, 10.0), one("p/x", 3, 10.0), one("q/x", 3, 10.0)]
    rest = {"rps": 5, **words}
    for function in (single_type, cheapest_mix):
        with pytest.raises(ConfigError, match=named):
            function(options, **rest)


# ---------------------------------------------------------------- mixes


TWO = [(one("p/a", 3, 10.0), 2), (one("p/s", 1, 5.0, "spot"), 4), (one("p/z", 1, 99.0), 0)]


@pytest.mark.parametrize(
    ("rps", "headroom", "spares", "steady", "ok"),
    [
        (40, 1, 0, "0.5", True),
        ("40.001", 1, 0, 0, False),
        (30, 1, 1, 0, True),
        ("30.001", 1, 1, 0, False),
        (20, 1, 2, 0, True),
        (20, "0.5", 0, 0, True),
        ("20.001", "0.5", 0, 0, False),
        (20, "0.5", 0, "0.5", True),
        (20, "0.5", 0, "0.501", False),
        (20, 1, 0, 1, True),
        (21, 1, 0, 1, False),
    ],
)
def test_what_a_fleet_serves(rps, headroom, spares, steady, ok):
    """20 rps that stay and 20 of spot: with spares of the largest gone, inside the headroom, and a share without spot."""
    assert serves(TWO, rps, headroom=headroom, spares=spares, steady=steady) is ok


def test_nothing_serves_nothing():
    """No machine in use is no fleet."""
    assert serves([(TWO[0][0], 0)], 1, headroom=1, spares=0, steady=0) is False


def test_a_mix_unless_told_otherwise():
    """70 % planned, a spare, half of it without spot: 2 that stay and 2 of spot for 20 rps, $22 an hour."""
    options = [one("p/a", 10, 10.0), one("p/s", 1, 10.0, "spot")]
    assert cheapest_mix(options, 20) == Choice(
        machines=((options[0], 2), (options[1], 2)), usd_per_hour=D(22), usd_per_month=22 * D("730.5"),
        usd_per_1000_requests=D(22) * 1000 / 3600 / 20, usable_rps=28.0, utilisation=0.5,
    )  # fmt: skip
    assert cheapest_mix(options, 20, steady=0).machines == ((options[1], 4),)
    assert cheapest_mix(options, 20, steady=1, spares=0).machines == ((options[0], 3),)
    assert cheapest_mix(options, 20, headroom=1, spares=0, steady=F(1, 2)).machines == (
        (options[0], 1),
        (options[1], 1),
    )


def test_a_machine_of_which_there_are_none_is_no_choice():
    """At most 0 leaves it out; of all machines, nothing is left."""
    options = [one("p/a", 10, 10.0), one("p/b", 1, 10.0)]
    assert cheapest_mix(options, 5, at_most={"b": 0}).machines == ((options[0], 2),)
    assert cheapest_mix(options, 5, at_most={"b": 1, "a": 1}).machines == ((options[0], 1), (options[1], 1))
    with pytest.raises(ConfigError, match="no machine to choose") as error:
        cheapest_mix(options, 5, at_most={"a": 0, "b": 0})
    assert error.value.value == "2 candidates"


@pytest.mark.parametrize(("rps", "scale"), [("0.0021", "0.0001"), (210_000, 10_000)])
def test_mixes_in_any_unit(rps, scale):
    """Rates of ten thousandths and of ten thousands: the same two of the large and one of the small machine."""
    options = [one("p/a", 3, 10 * float(scale)), one("p/b", "0.5", float(scale))]
    assert cheapest_mix(options, rps, headroom=1, spares=0).machines == ((options[0], 2), (options[1], 1))


def test_a_share_that_must_stay_is_a_share():
    """More than all of it is refused by name."""
    for steady in (1.01, -0.1):
        with pytest.raises(ConfigError, match="steady share"):
            cheapest_mix([one("p/a", 3, 10.0)], 5, steady=steady)
