"""Scenarios: every side of the ledger by hand, the published ones beside the right ones, and bad files."""

from __future__ import annotations

from decimal import Decimal as D
from pathlib import Path

import pytest

from harness.base.errors import ConfigError, HarnessError
from harness.base.files import data_dir
from harness.planner.measured import measured_capacity
from harness.planner.scenario.claims import evaluate
from harness.planner.scenario.decide import decide
from harness.planner.scenario.inputs import base_of
from harness.planner.scenario.options import hosted_sides, hybrid_plan
from harness.planner.scenario.run import run_scenario
from harness.planner.scenario.spec import find_scenario, load_scenario, parse_scenario
from tests.planner.scenario_values import hosted, scenario
from tests.price.cost_summaries import summary

NAMES = sorted(p.stem for p in (data_dir("configs") / "scenarios").glob("*.yaml"))


def result_of(name):
    return run_scenario(load_scenario(find_scenario(Path(name))))


def option(result, kind):
    return next(o for o in result.options if o.kind == kind)


def claim(result, row, n=0):
    return [c for c in result.claims if c.row == row][n]


def test_a_month_by_hand():
    """3.80 requests/s over 5 usable: 1 machine + 1 spare x 730.5 h x $4 = $5,844; hosted 10 B tokens at 0.2 = $2,000."""
    result = run_scenario(scenario())
    assert option(result, "self-hosted").usd_per_month == D(5844)
    assert option(result, "hosted").usd_per_month == D(2000)
    assert result.figure("machines") == 2
    assert float(result.figure("utilisation")) == pytest.approx(3.8026 / 20, rel=1e-4)
    assert result.verdict.startswith("cheapest: hosted $2,000")


@pytest.mark.parametrize("name", NAMES)
def test_cost_per_request_times_requests_is_the_month(name):
    """Of every option of every scenario, to the cent."""
    result = result_of(name)
    for o in result.options:
        assert round(o.usd_per_request * result.figure("requests_per_month"), 2) == round(o.usd_per_month, 2)


@pytest.mark.parametrize("name", NAMES)
def test_every_figure_names_its_inputs(name):
    """A figure has a formula and inputs; money of a machine or a hosted API names the price's source and date."""
    result = result_of(name)
    for f in result.figures:
        assert f.formula
        assert f.inputs
        if f.unit.startswith("USD") and f.name != "labour_usd_per_month":
            assert any("as of" in key for key in f.inputs), f.name


def test_the_odds_are_about_the_same_fleet():
    """The Monte Carlo's base case is the priced fleet: self - hosted per hour agrees for fixed and autoscaled."""
    for scaling in ("fixed", "autoscaled"):
        shape = {"requests_per_month": 3e8, "shape": "m-mid"}
        result = run_scenario(scenario(demand=shape, fleet={"scaling": scaling, "cold_start_s": 0}))
        by_hand = (option(result, "self-hosted").usd_per_month - option(result, "hosted").usd_per_month) / D("730.5")
        assert result.outlook.base_usd_per_hour == pytest.approx(float(by_hand), rel=1e-3)


def test_volume_moves_the_answer():
    """At $0.5/M, 1M requests a month are cheaper hosted, 300M on the same machines; the odds follow."""
    small, large = (run_scenario(scenario(demand={"requests_per_month": n}, hosted=[hosted(0.5)])) for n in (1e6, 3e8))
    assert small.outlook.p_self_cheaper < 0.5 < large.outlook.p_self_cheaper
    assert small.verdict.startswith("cheapest: hosted")
    assert large.verdict.startswith("cheapest: hybrid")
    assert option(large, "hybrid").usd_per_month <= option(large, "self-hosted").usd_per_month
    volumes, odds = zip(*large.outlook.curve, strict=True)
    assert list(volumes) == sorted(volumes)
    assert odds[0] < 0.3 < 0.9 < odds[-1]


def test_seed_chat_side_by_side():
    """The published arithmetic gives its own numbers again; beside it ours: rows 7, 8, 9, 10, 12, 14."""
    result = result_of("seed-chat")
    pairs = {
        (7, 0): ("8167.68", "8286.79"), (8, 0): ("7500", "8500"), (8, 1): ("7500", "4500"), (8, 2): ("7500", "310"),
        (10, 0): ("10890240", "11049056"), (12, 0): ("2", "16"),
    }  # fmt: skip
    for (row, n), (published, ours) in pairs.items():
        found = claim(result, row, n)
        assert found.published == D(published)
        assert round(found.right, 2) == D(ours)
        assert found.reason
    assert claim(result, 9).published == D("-667.68")
    assert claim(result, 10, 1).right is None  # never
    assert claim(result, 14).right > 10 * claim(result, 14).published
    assert result.outlook.p_never == 1


def test_seed_codegen_side_by_side():
    """Rows 15-18: 4,143.40 and not 1,200; 1.76 times dearer and not 20 % cheaper; 1,658; 1,500 is right; 0.776 and not 15."""
    result = result_of("seed-codegen")
    assert (claim(result, 15).published, round(claim(result, 15).right, 2)) == (D(1200), D("4143.40"))
    assert (claim(result, 15, 1).published, round(claim(result, 15, 1).right, 2)) == (D("0.2"), D("-1.76"))
    assert round(claim(result, 16).right) == 1658
    assert claim(result, 17).published == claim(result, 17).right == D(1500)
    assert round(claim(result, 18).right, 3) == D("0.776")


def test_scaling_every_price_scales_every_cost():
    """Three times the machine's and the hosted price: three times each month (labour is 0 here)."""
    once = run_scenario(scenario())
    dear = {"declared": {"name": "box", "usd_per_hour": 12, "source": "quote", "as_of": "2026-11-01"}}
    thrice = run_scenario(scenario(machine=dear, hosted=[hosted(0.6)]))
    for a, b in zip(once.options, thrice.options, strict=True):
        assert b.usd_per_month == 3 * a.usd_per_month


def test_more_spares_are_never_cheaper():
    """One spare more costs a machine's month more."""
    months = [option(run_scenario(scenario(fleet={"spares": n})), "self-hosted").usd_per_month for n in range(4)]
    assert [b - a for a, b in zip(months, months[1:], strict=False)] == [D(2922)] * 3


def test_a_rate_limit_makes_hosted_infeasible_and_hybrid_may_still_fit():
    """60 requests/s of peak, 3,000 a minute allowed: infeasible and never the reference."""
    limited = hosted(limits={"requests_per_minute": 3000})
    result = run_scenario(scenario(demand={"requests_per_month": 1.5e8}, hosted=[limited]))
    assert "infeasible" in option(result, "hosted").infeasible
    assert result.reference is None
    assert result.outlook is None


def test_a_daily_cap_is_held_against_the_requests_of_a_day():
    """10 M requests a month are 328,542 a day: 330,000 a day are enough whatever the peak, 328,000 are not."""
    shape = {"shape": "m-small"}  # peaks at 2.06 x its mean
    for cap, feasible in ((330_000, True), (328_000, False)):
        result = run_scenario(scenario(demand=shape, hosted=[hosted(limits={"requests_per_day": cap})]))
        assert (option(result, "hosted").infeasible is None) is feasible
    for cap, feasible in ((330_000 * 1000, True), (328_000 * 1000, False)):
        result = run_scenario(scenario(demand=shape, hosted=[hosted(limits={"tokens_per_day": cap})]))
        assert (option(result, "hosted").infeasible is None) is feasible


def test_a_spend_cap_is_held_against_the_bill_of_the_month():
    """$2,000 a month: a cap of $2,001 holds and one of $1,999 does not, at any peak; a discount brings the bill below it."""
    for cap, discount, feasible in ((2001, 0, True), (1999, 0, False), (1999, 0.01, True)):
        one = hosted(discount=discount, limits={"spend_usd_per_month": cap})
        result = run_scenario(scenario(demand={"shape": "m-small"}, hosted=[one]))
        assert (option(result, "hosted").infeasible is None) is feasible


def test_the_burst_of_a_hybrid_is_held_against_the_limits():
    """A hybrid may burst what the whole demand may not, up to the trace's highest hour; and not where the API misses the SLO."""
    much = {"requests_per_month": 3e8, "shape": "m-mid"}
    free = run_scenario(scenario(demand=much, hosted=[hosted(0.5)]))
    base = base_of(scenario(demand=much, hosted=[hosted(0.5)]), None)
    plan = hybrid_plan(base, hosted_sides(base)[0])
    assert plan.hosted_peak_rps == pytest.approx(base.demand.highest_rps - plan.replicas * 5)
    assert option(free, "hybrid").infeasible is None
    for factor, feasible in ((1.001, True), (0.999, False)):
        cap = {"requests_per_minute": plan.hosted_peak_rps * 60 * factor}
        result = run_scenario(scenario(demand=much, hosted=[hosted(0.5, limits=cap)]))
        assert "infeasible" in option(result, "hosted").infeasible
        assert (option(result, "hybrid").infeasible is None) is feasible
    slow = run_scenario(scenario(demand=much, hosted=[hosted(0.5, limits=cap, meets_slo=False)]))
    assert "SLO" in option(slow, "hybrid").infeasible


def test_a_commitment_is_a_floor_everywhere():
    """$20,000 committed against $5,844: self-hosting is cheaper from the first request on, and the hybrid pays the $20,000 too."""
    result = run_scenario(scenario(hosted=[hosted(minimum_usd_per_month=20_000)]))
    assert option(result, "hosted").usd_per_month == D(20_000)
    assert option(result, "self-hosted").usd_per_month == D(5844)
    assert option(result, "hybrid").usd_per_month == D(20_000)
    assert "not a machine" in option(result, "hybrid").infeasible
    assert result.figure("first_crossing_0") == 0
    assert "from the first request on" in decide(result).flips[2]
    assert "at every price" in decide(result).flips[0]
    assert result.outlook.base_usd_per_hour == pytest.approx((5844 - 20_000) / 730.5)
    assert result.outlook.p_self_cheaper > 0.95
    assert result.outlook.p_never == 0


def test_a_commitment_below_the_use_changes_nothing():
    """$1,900 committed where $2,000 are used: every figure but the odds at lower volumes is as without it."""
    plain, committed = (run_scenario(scenario(hosted=[hosted(minimum_usd_per_month=m)])) for m in (0, 1_900))
    assert [o.usd_per_month for o in plain.options] == [o.usd_per_month for o in committed.options]
    assert plain.against[0].hosted_usd_per_request == committed.against[0].hosted_usd_per_request


def test_autoscaled_machines_follow_the_hour_and_fixed_ones_the_trace():
    """m-large at 195.8 rps: $35.6/h autoscaled and $62.82/h fixed, hosted $43.28; autoscaled self-hosting is the cheaper one."""
    month = 195.8 * 730.5 * 3600
    box = {"declared": {"name": "h100", "usd_per_hour": 3.49, "source": "quote", "as_of": "2026-11-01"}}
    price = 0.0614  # $/M of 1,000 tokens a request
    usd = {}
    for scaling in ("fixed", "autoscaled"):
        result = run_scenario(
            scenario(
                demand={"requests_per_month": month, "shape": "m-large"}, capacity={"requests_per_s": 32.26}, machine=box,
                fleet={"scaling": scaling, "headroom": 0.7}, hosted=[hosted(price)],
            )
        )  # fmt: skip
        usd[scaling] = float(option(result, "self-hosted").usd_per_month) / 730.5
        assert float(option(result, "hosted").usd_per_month) / 730.5 == pytest.approx(43.28, abs=0.01)
        assert float(option(result, "hybrid").usd_per_month) / 730.5 == pytest.approx(34.42, abs=0.01)
        assert result.figure("peak_rps") == pytest.approx(D("364.188"))
    assert usd["fixed"] == pytest.approx(62.82, abs=0.005)
    assert 35.40 <= usd["autoscaled"] <= 35.68
    assert result.outlook.base_usd_per_hour == pytest.approx(usd["autoscaled"] - 43.28, abs=0.01)


def test_a_shape_of_numbers_has_its_own_step():
    """Steps of half an hour start a machine cold twice as often as hourly ones; a named shape is hourly."""
    shape = {"requests_per_month": 3e7, "shape": [1, 9] * 24}
    fleet = {"scaling": "autoscaled", "spares": 0, "cold_start_s": 300}
    base = {step: base_of(scenario(demand={**shape, "step_s": step}, fleet=fleet), None) for step in (1800, 3600)}
    assert base[1800].fleet.hours == 24
    extra = {step: b.fleet.paid_replica_hours / D(b.fleet.hours) for step, b in base.items()}
    assert extra[1800] > extra[3600]
    with pytest.raises(ConfigError, match="step_s"):
        scenario(demand={"shape": "m-mid", "step_s": 600})


def test_batch_price_is_not_for_users_who_wait():
    """gpt-5-mini batch is priced for batch work and refused for interactive work."""
    batch = {"provider": "openai", "model": "gpt-5-mini", "service": "batch", "same_model": False, "tokenizer_ratio": 1}
    assert option(run_scenario(scenario(hosted=[batch])), "hosted").infeasible is None
    waiting = run_scenario(scenario(hosted=[batch], workload={"kind": "interactive"}))
    assert "batch" in option(waiting, "hosted").infeasible


def test_the_tokenizer_ratio_scales_the_hosted_bill():
    """1.25 hosted tokens for one of ours: 1.25 times the bill; equal names need no ratio; two names without one are an error."""
    assert option(run_scenario(scenario(hosted=[hosted(tokenizer_ratio=1.25)])), "hosted").usd_per_month == D(2500)
    with pytest.raises(ConfigError, match="mixed tokenizers"):
        run_scenario(scenario(tokenizer="qwen3", hosted=[hosted(tokenizer="o200k")]))


def test_stale_prices_and_other_products_are_warned_of():
    """A price of 2023 and a model that is not ours: both on the page."""
    old = hosted(as_of="2023-06-13", same_model=False, tokenizer_ratio=1)
    text = "\n".join(run_scenario(scenario(hosted=[old])).warnings)
    assert "stale price of host/m" in text
    assert "a different product" in text


def test_whole_machines_hold_their_replicas():
    """8 replicas of 10 requests/s a machine: one machine at 3.8 requests/s is paid in full."""
    result = run_scenario(scenario(machine={"replicas": 8}))
    assert result.figure("capacity_rps") == 80
    assert result.figure("machines") == 2


# ---------------------------------------------------------------- measured capacity


def test_a_measured_capacity_is_planned_with_its_low_end_and_says_how():
    """Five repetitions at 8 requests/s +-5 %: the interval's low end, its runs and how it was found stand beside the figure."""
    found = measured_capacity([summary(goodput_rps=None, request_rps=g) for g in (7.8, 8.0, 8.2, 7.9, 8.1)])
    result = run_scenario(scenario(capacity={"requests_per_s": None, "run": "x", "source": ""}), found)
    assert float(result.figure("capacity_rps")) == pytest.approx(found.interval.low)
    used = next(f for f in result.figures if f.name == "capacity_rps").inputs["capacity source"]
    assert found.how in used
    assert all(run_id in used for run_id in found.run_ids)
    assert any("of another workload" in w for w in result.warnings)  # 1,000 tokens in, the scenario has 800
    with pytest.raises(ConfigError, match="was not handed over"):
        run_scenario(scenario(capacity={"requests_per_s": None, "run": "x"}))


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"capacity": {"requests_per_s": float("nan")}}, "capacity"),
        ({"capacity": {"tokens_per_s": 5}}, "exactly one of"),
        ({"capacity": {"requests_per_s": 1, "source": ""}}, "needs its source"),
        ({"fleet": {"headroom": 0}}, "headroom"),
        ({"fleet": {"cold_start_s": -1}}, "cold_start_s"),
        ({"fleet": {"headroom": 1.1}}, "headroom"),
        ({"hosted": []}, "hosted"),
        ({"hosted": [hosted(currency="EUR")]}, "USD"),
        ({"hosted": [hosted(discount=1)]}, "discount"),
        ({"hosted": [hosted(billed_retries=-0.1)]}, "billed_retries"),
        ({"demand": {"requests_per_month": 0}}, "requests_per_month"),
        ({"demand": {"requests_per_mnth": 5}}, "did you mean requests_per_month"),
        ({"workload": {"cached_input_tokens": 900}}, "part of input_tokens"),
        ({"machine": {"instance": "aws/g5.12xlarge"}}, "either instance"),
        ({"as_of": "yesterday"}, "as_of"),
        ({"ranges": {"headroom": [1.1, 1.2]}}, "low <= 1"),
    ],
)
def test_a_bad_scenario_names_its_key(changes, says):
    """Three lines, with the key or the value."""
    with pytest.raises(ConfigError) as error:
        scenario(**changes)
    assert says in str(error.value)
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"hosted": [{"provider": "openai", "model": "gpt-5.5x9", "same_model": True}]},
        {"hosted": [{"provider": "nobody", "model": "m", "same_model": True}]},
        {"machine": {"declared": None, "instance": "aws/g5.13xlarge"}},
        {"demand": {"shape": "m-larg"}},
        {"demand": {"shape": [0.0] * 24}},
    ],
)
def test_unknown_models_machines_and_shapes_name_the_nearest(changes):
    """Nothing is priced at 0 because it was not found."""
    with pytest.raises(ConfigError) as error:
        run_scenario(scenario(**changes))
    assert len(str(error.value).splitlines()) == 3


def test_changes_on_the_command_line(tmp_path):
    """KEY=VALUE reaches nested keys and list items; a wrong place is an error."""
    path = find_scenario(Path("seed-chat"))
    changed = load_scenario(path, ("demand.requests_per_month=3e6", "hosted.0.discount=0.1"))
    assert changed.demand.requests_per_month == 3e6
    assert changed.hosted[0].discount == 0.1
    for bad in ("demand", "hosted.99.discount=1", "model.x=1"):
        with pytest.raises(ConfigError):
            load_scenario(path, (bad,))


@pytest.mark.parametrize("text", ["1/0", "x + 1", "__import__('os')", "2 ** 8", "'a'", "1 +", "ceil()", "(1, 2)"])
def test_arithmetic_is_arithmetic_only(text):
    """Numbers, names, + - * / ceil max min; anything else is an error."""
    with pytest.raises(ConfigError, match="not arithmetic"):
        evaluate(text, {})


def test_arithmetic_is_exact_and_never_is_never():
    """Decimals, not floats; a figure that does not exist makes the whole thing None."""
    assert evaluate("5.672 * 24 * 30 * 2", {}) == D("8167.68")
    assert evaluate("-ceil(max(1.2, a)) / 2", {"a": D("2.5")}) == D("-1.5")
    assert evaluate("a * 2", {"a": None}) is None


def test_a_scenario_that_is_no_mapping_is_an_error():
    """A list is not a scenario."""
    with pytest.raises(HarnessError, match="not a scenario"):
        parse_scenario([], "x")


def test_mixed_tokenizers_are_flagged_in_the_scenario():
    """A declared exchange rate between two tokenizers is said in the option's notes and the warnings; the same tokenizer is not."""
    mixed = run_scenario(scenario(tokenizer="a", hosted=[hosted(tokenizer="b", tokenizer_ratio=1.2)]))
    assert any("mixed tokenizers, b against a: 1.2 tokens" in w for w in mixed.warnings)
    assert not any("mixed" in w for w in run_scenario(scenario(tokenizer="a", hosted=[hosted(tokenizer="a")])).warnings)


def test_an_own_price_far_from_the_price_book_is_flagged():
    """gpt-5-mini declared at twice the book's prices: a warning with both; at the book's own prices none."""
    book = {
        "provider": "openai",
        "model": "gpt-5-mini",
        "tokenizer_ratio": 1,
        "as_of": "2026-11-01",
        "same_model": False,
    }
    for factor, flagged in ((1, False), (2, True)):
        part = {**book, "input_usd_per_million": 0.25 * factor, "output_usd_per_million": 2.0 * factor}
        found = run_scenario(scenario(hosted=[hosted(), part])).warnings
        assert any("differ by more than 10 %" in w for w in found) is flagged, found
