"""Own the base, burst the peak: against brute force over every plan."""

import itertools
import json
import random
from dataclasses import replace
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.cli.fleet import hybrid as command
from harness.planner.demand import curve, days_of, flat, shaped
from harness.planner.fleet import FleetSpec, fleet_cost
from harness.planner.hybrid import clock_policy, hybrid_usd_per_hour, plan_hybrid, plan_layers, spot_usd_per_hour

MU = 0.7 * 32.26


def by_hand(rates, k, mu, c, p, v=0.0):
    """E[cost](k), hour by hour: what k replicas cannot take is billed."""
    return c * k + sum(3600 * (v * min(rate, k * mu) + p * max(0.0, rate - k * mu)) for rate in rates) / len(rates)


def test_plan_is_the_brute_force_on_1000_random_cases():
    """The marginal rule's k costs what the cheapest of all k costs, and that cost is the sum over the hours."""
    draw, inner = random.Random(7), 0
    for _ in range(1000):
        rates = [
            round(draw.choice([draw.uniform(0, 100), draw.expovariate(0.05)]), 2) for _ in range(draw.randint(1, 24))
        ]
        rates[0] = max(rates[0], 0.1)
        mu, c = round(draw.uniform(1, 30), 2), round(draw.uniform(0.2, 12), 2)
        p = round(c / (3600 * mu * draw.uniform(0.05, 1.2)), 8)
        v = round(p * draw.choice([0, 0, 0.1, 0.5]), 9)
        demand = curve("random", rates)
        plan = plan_hybrid(demand, mu, c, p, own_usd_per_request=v)
        costs = [by_hand(rates, k, mu, c, p, v) for k in range(int(max(rates) / mu) + 3)]
        assert float(plan.usd_per_hour) == pytest.approx(min(costs), rel=1e-9)
        assert costs[plan.replicas] == pytest.approx(min(costs), rel=1e-9)
        assert all(cost > min(costs) * (1 - 1e-9) for cost in costs[: plan.replicas])
        inner += 0 < plan.replicas < len(costs) - 2
    assert inner > 300


def test_worked_prices_that_need_no_curve():
    """ServeGen m-large at 195.8 rps: all hosted is $43.28/h (43.29 published), fixed at the peak + 1 is $62.82/h."""
    peaked = curve("peak", [364.7, *[(195.8 * 24 - 364.7) / 23] * 23])
    assert float(hybrid_usd_per_hour(peaked, 0, MU, 3.49, 0.0614e-3)) == pytest.approx(43.29, abs=0.015)
    assert float(hybrid_usd_per_hour(peaked, 18, MU, 3.49, 0.0614e-3)) == pytest.approx(62.82, abs=0.001)


def test_newsvendor_needs_u_star_of_the_next_replica():
    """u* is 0.699; over the days the last of the 7 replicas (7 published) is used at least that much, the next one less."""
    day, weeks = shaped("m-large", 195.8), days_of(shaped("m-large", 195.8)).rps
    plan = plan_hybrid(day, MU, 3.49, 0.0614e-3)
    assert plan.replicas == 7
    assert plan.needed_utilisation == pytest.approx(0.699, abs=1e-3)

    def used(j):
        return sum(min(MU, max(0, rate - (j - 1) * MU)) for rate in weeks) / len(weeks) / MU

    assert used(plan.replicas) >= plan.needed_utilisation > used(plan.replicas + 1)
    assert plan.usd_per_hour <= min(hybrid_usd_per_hour(day, k, MU, 3.49, 0.0614e-3) for k in range(18))
    assert float(plan.usd_per_hour) == pytest.approx(by_hand(weeks, 7, MU, 3.49, 0.0614e-3))
    assert float(plan.usd_per_hour) == pytest.approx(35.40, rel=0.03)  # published, of the two weeks themselves
    assert plan.hosted_share == pytest.approx(0.253, abs=0.03)
    assert plan.hosted_peak_rps == pytest.approx(1.86 * 195.8 - 7 * MU)


def test_an_averaged_day_hides_what_is_hosted():
    """Without the days behind it the same shape owns 8 replicas and looks 7 % cheaper than it can be."""
    day = shaped("m-large", 195.8)
    flattered = plan_hybrid(replace(day, peak_hour_to_mean=None), MU, 3.49, 0.0614e-3)
    assert flattered.replicas == 8
    assert flattered.usd_per_hour < D("0.94") * plan_hybrid(day, MU, 3.49, 0.0614e-3).usd_per_hour


# ---------------------------------------------------------------- a minimum commitment


def test_plan_with_a_minimum_is_the_brute_force_on_600_random_cases():
    """max(minimum, usage) for what is hosted: no other number of replicas is cheaper, and never all that the minimum pays for."""
    draw, moved = random.Random(17), 0
    for _ in range(600):
        rates = [round(draw.expovariate(0.05), 2) + 0.1 for _ in range(draw.randint(1, 12))]
        mu, c = round(draw.uniform(1, 30), 2), round(draw.uniform(0.2, 12), 2)
        p = round(c / (3600 * mu * draw.uniform(0.05, 1.2)), 8)
        v = round(p * draw.choice([0, 0, 0.1]), 9)
        minimum = round(draw.choice([0.2, 0.9, 1.5]) * 3600 * p * sum(rates) / len(rates) * 730.5, 2)
        floor = minimum / 730.5
        demand, costs = curve("random", rates), []
        for k in range(int(max(rates) / mu) + 3):
            over = sum(max(0.0, rate - k * mu) for rate in rates) / len(rates)
            own = c * k + 3600 * v * (sum(rates) / len(rates) - over)
            costs.append(own + max(floor, 3600 * p * over))
            at = hybrid_usd_per_hour(demand, k, mu, c, p, own_usd_per_request=v, minimum_usd_per_month=minimum)
            assert float(at) == pytest.approx(costs[-1], rel=1e-9)
        plan = plan_hybrid(demand, mu, c, p, own_usd_per_request=v, minimum_usd_per_month=minimum)
        assert float(plan.usd_per_hour) == pytest.approx(min(costs), rel=1e-9)
        assert costs[plan.replicas] == pytest.approx(min(costs), rel=1e-9)
        moved += plan.replicas != plan_hybrid(demand, mu, c, p, own_usd_per_request=v).replicas
    assert moved > 100


def test_hosted_that_is_too_cheap_or_free_owns_nothing():
    """At u* >= 1, or with an own marginal cost above the hosted price, no replica pays."""
    day = shaped("m-large", 195.8)
    for p in (0.030e-3, 0):
        assert plan_hybrid(day, MU, 3.49, p).replicas == 0
    plan = plan_hybrid(day, MU, 0, 0.001, own_usd_per_request=0.002)
    assert (plan.replicas, plan.needed_utilisation) == (0, None)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=12).filter(any), st.integers(1, 40), st.integers(1, 500))
def test_money_laws(rates, mu, x):
    """All prices x times: the same plan at x times the cost. A dearer replica never makes anybody own more."""
    demand = curve("any", rates)
    plan = plan_hybrid(demand, mu, D("3.5"), D("0.0002"))
    scaled = plan_hybrid(demand, mu, D("3.5") * x, D("0.0002") * x)
    assert scaled.replicas == plan.replicas
    assert scaled.usd_per_hour == pytest.approx(plan.usd_per_hour * x, rel=D("1e-20"))
    assert plan_hybrid(demand, mu, D("4.5"), D("0.0002")).replicas <= plan.replicas


def layers_by_brute_force(rates, mu, p, reserved, elastic):
    """Try every number of reserved replicas, and in each hour every number of each elastic one."""
    best = None
    most = int(max(rates) / mu) + 1
    for r in range(most + 1) if reserved is not None else (0,):
        total = (reserved or 0) * r
        for rate in rates:
            options = []
            for counts in itertools.product(range(most + 1), repeat=len(elastic)):
                left = max(0.0, rate - (r + sum(counts)) * mu)
                options.append(sum(n * c for n, c in zip(counts, elastic, strict=True)) + 3600 * p * left)
            total += min(options) / len(rates)
        best = total if best is None else min(best, total)
    return best


def test_layers_are_the_brute_force():
    """Reserved, on-demand, spot and hosted: the stack costs what the best of all combinations costs, in 150 random cases."""
    draw, mixed = random.Random(8), 0
    for _ in range(150):
        rates = [round(draw.uniform(0, 40), 1) for _ in range(draw.randint(1, 5))]
        rates[0] = max(rates[0], 0.1)
        mu, c = round(draw.uniform(8, 25), 1), round(draw.uniform(1, 8), 2)
        p = round(c / (3600 * mu * draw.uniform(0.2, 1.1)), 8)
        reserved = round(c * draw.uniform(0.3, 0.9), 2) if draw.random() < 0.8 else None
        spot = round(c * draw.uniform(0.3, 1.1), 2) if draw.random() < 0.5 else None
        plan = plan_layers(
            curve("random", rates), mu, p, reserved_usd_per_hour=reserved, on_demand_usd_per_hour=c,
            spot_usd_per_useful_hour=spot,
        )  # fmt: skip
        elastic = [c] if spot is None else [c, spot]
        expected = layers_by_brute_force(rates, mu, p, reserved, elastic)
        assert float(plan.usd_per_hour) == pytest.approx(expected, rel=1e-9)
        assert sum(layer.request_share for layer in plan.layers) == pytest.approx(1)
        assert sum(layer.usd_per_hour for layer in plan.layers) == pytest.approx(plan.usd_per_hour)
        mixed += len(plan.layers) >= 3
    assert mixed > 15


def test_layers_nest_and_spot_stays_off_the_base():
    """The commitment stands at the bottom, and never_spot keeps spot above it."""
    day = shaped("m-small", 100)
    given_ = {"on_demand_usd_per_hour": 3.49, "spot_usd_per_useful_hour": 1.0}
    all_spot = plan_layers(day, MU, 0.178e-3, **given_)
    based = plan_layers(day, MU, 0.178e-3, **given_, never_spot=3)
    assert {layer.kind for layer in all_spot.layers} <= {"spot", "hosted"}
    assert next(layer for layer in based.layers if layer.kind == "on-demand").replicas == 3
    assert based.usd_per_hour > all_spot.usd_per_hour
    kinds = [
        layer.kind
        for layer in plan_layers(day, MU, 0.0614e-3, reserved_usd_per_hour=2, on_demand_usd_per_hour=3.49).layers
    ]
    assert kinds == ["reserved", "on-demand", "hosted"]


def test_spot_pays_for_its_interruptions():
    """c / (1 - f): an interruption every 20 h that costs half an hour makes $1 into $1.0256; no spot at all is on demand."""
    kwargs = {"interruptions_per_hour": 0.05, "lost_hours": 0.5}
    assert spot_usd_per_hour(1, 3, **kwargs) == pytest.approx(D(1) / D("0.975"))
    assert spot_usd_per_hour(1, 3, **kwargs, unavailable=1) == 3
    assert spot_usd_per_hour(1, 3, **kwargs, unavailable=0.5) == pytest.approx(D("1.5") + D("0.5") / D("0.975"))
    with pytest.raises(ConfigError, match="faster than it starts"):
        spot_usd_per_hour(1, 3, interruptions_per_hour=2, lost_hours=0.5)


def test_the_clock_policy_wastes_1361_dollars():
    """Two g5.12xlarge with hours 0-3 sent to a hosted API: a sixth of the 720-hour month's $8,168 buys nothing."""
    waste = clock_policy(None, 2, D("5.672"), 0, hours_per_month=720)
    assert round(waste.replicas_usd, 2) == D("8167.68")
    assert round(waste.idle_usd) == 1361
    assert round(clock_policy(None, 2, D("5.672"), 0).idle_usd) == 1381  # of a mean month


def test_hours_of_the_day_are_hours_whatever_the_step():
    """Hours 0-3 at 1, 2, 3, 4 rps and nothing after them cost the same in steps of 10 min, 1 h, 90 min and in two days of 2 h."""
    hourly = [1.0, 2, 3, 4, *[0.0] * 20]
    want = (1 + 2 + 3 + 4) * 3600 * 30 * 0.0001
    fine = [rate for rate in hourly for _ in range(6)]
    assert float(clock_policy(curve("h", hourly), 2, 5, 0.0001, hours_per_month=720).hosted_usd) == pytest.approx(want)
    assert float(clock_policy(curve("f", fine, step_s=600), 2, 5, 0.0001, hours_per_month=720).hosted_usd) == pytest.approx(want)  # fmt: skip
    halves = [
        1.0,
        7 / 3,
        11 / 3,
        *[0.0] * 13,
    ]  # 0-1.5, 1.5-3 and 3-4.5 h, of which the last holds half an hour of nothing
    ninety = clock_policy(curve("n", halves, step_s=5400), 2, 5, 0.0001, hours_per_month=720)
    assert float(ninety.hosted_usd) == pytest.approx((1.5 * 1 + 1.5 * 7 / 3 + 1 * 11 / 3) * 3600 * 30 * 0.0001)
    two_days = curve("d", [1.5, 3.5, *[0.0] * 10] * 2, step_s=7200)
    assert float(clock_policy(two_days, 2, 5, 0.0001, hours_per_month=720).hosted_usd) == pytest.approx(want)
    late = clock_policy(curve("f", fine, step_s=600), 2, 5, 0.0001, hours=(4, 5, 23))
    assert late.hosted_usd == 0
    with pytest.raises(ConfigError, match="whole days"):
        clock_policy(curve("short", [1, 2, 3]), 2, 5, 0.0001)


def test_the_clock_policy_is_billed_on_top():
    """With a curve, the requests of those hours are billed, and that bill is what not doing it saves."""
    day = shaped("m-large", 10)
    policy = clock_policy(day, 2, 5, 0.0001, capacity_rps=10, hours_per_month=720)
    requests = sum(day.rps[:4]) * 3600 * 30
    assert float(policy.hosted_usd) == pytest.approx(requests * 0.0001)
    assert policy.total_usd == policy.replicas_usd + policy.hosted_usd
    assert policy.saved_without_usd == policy.hosted_usd
    with pytest.raises(ConfigError, match="cannot serve"):
        clock_policy(flat(100), 2, 5, 0.0001, capacity_rps=10)
    with pytest.raises(ConfigError):
        clock_policy(None, 2, 5, 0, hours=(24,))


@pytest.mark.parametrize("bad", [(0, 1, 1), (float("nan"), 1, 1), (1, -1, 1), (1, 1, float("inf")), (1, None, 1)])
def test_bad_numbers_are_refused(bad):
    """Zero capacity, NaN, negative, infinite or missing prices are errors."""
    with pytest.raises(ConfigError):
        plan_hybrid(flat(10), *bad)


def test_too_many_replicas_are_refused():
    """A unit mistake is an error, not a loop of minutes."""
    with pytest.raises(ConfigError, match="check the units"):
        plan_hybrid(flat(10), 1e-7, 1, 1)


WORDS = [
    "--capacity-rps", "32.26", "--replica-usd-per-hour", "3.49", "--hosted-usd-per-request", "0.0000614",
    "--demand", "m-large", "--mean-rps", "195.8",
]  # fmt: skip


def shown(*more):
    return json.loads(CliRunner().invoke(command, [*WORDS, *more, "--json"], catch_exceptions=False).output)


def test_command():
    """The plan in words, the plans it beats beside it, and the layers when there is a commitment."""
    words = [*WORDS, "--reserved-usd-per-hour", "2.5"]
    said = CliRunner().invoke(command, words, catch_exceptions=False).output
    assert said.startswith("Own 7 replicas at all times")
    assert "by the clock" in said
    found = shown("--reserved-usd-per-hour", "2.5")
    plans = {name: float(usd) for name, usd in found["plans_usd_per_hour"].items()}
    assert plans["all hosted"] > plans["hybrid, 7 replicas + hosted peak"] > plans["layers, elastic ones hour by hour"]
    assert found["plan"]["replicas"] == 7


def test_the_plans_beside_are_the_fleets():
    """$62.82/h fixed at the peak of the trace, $35.68 autoscaled, $43.28 hosted: what `fleet_cost` and the bill say."""
    plans = {name: D(usd) for name, usd in shown()["plans_usd_per_hour"].items()}
    assert round(plans["own, fixed at peak + 1 spare"], 2) == D("62.82")
    assert round(plans["own, autoscaled + 1 spare"], 2) == D("35.68")
    assert round(plans["all hosted"], 2) == D("43.28")
    spec = FleetSpec(capacity_rps=32.26, replica_usd_per_hour=3.49, cold_start_s=300, billing_s=60)
    assert plans["own, autoscaled + 1 spare"] == fleet_cost(shaped("m-large", 195.8), spec).usd_per_hour


def test_the_command_bills_the_minimum():
    """$40,000 a month committed is $54.76/h for whatever is hosted; layers do not know a minimum and are refused."""
    found = shown("--hosted-minimum-usd-per-month", "40000")
    assert round(D(found["plans_usd_per_hour"]["all hosted"]), 2) == D("54.76")
    assert found["plan"]["replicas"] == 0
    with pytest.raises(ConfigError, match="layers"):
        shown("--hosted-minimum-usd-per-month", "1", "--reserved-usd-per-hour", "2")


def test_a_curve_of_half_an_hour_has_no_clock(tmp_path):
    """Hours of the day are not to be had from it: the plan is given without them."""
    (tmp_path / "d.yaml").write_text("{rps: [60, 5, 60], step_s: 600}")
    words = [*WORDS[:-4], "--demand", str(tmp_path / "d.yaml"), "--json"]
    found = json.loads(CliRunner().invoke(command, words, catch_exceptions=False).output)
    assert found["plan"]["replicas"] > 0
    assert found["clock_policy_usd_per_month"] is None
