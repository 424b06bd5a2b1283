"""Own the base, burst the peak: against brute force over every plan."""

import itertools
import json
import random
from decimal import Decimal as D

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli.fleet import hybrid as command
from harness.cost.demand import curve, flat, shaped
from harness.cost.hybrid import (
    clock_policy,
    hybrid_usd_per_hour,
    plan_hybrid,
    plan_layers,
    spot_usd_per_hour,
)
from harness.errors import ConfigError

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
    """u* is 0.699 and the fractile 1 - u*; the last replica owned is used at least that much, the next one less."""
    day = shaped("m-large", 195.8)
    plan = plan_hybrid(day, MU, 3.49, 0.0614e-3)
    assert plan.needed_utilisation == pytest.approx(0.699, abs=1e-3)

    def used(j):
        return sum(min(MU, max(0, rate - (j - 1) * MU)) for rate in day.rps) / 24 / MU

    assert used(plan.replicas) >= plan.needed_utilisation > used(plan.replicas + 1)
    assert plan.usd_per_hour <= min(hybrid_usd_per_hour(day, k, MU, 3.49, 0.0614e-3) for k in range(14))
    assert plan.hosted_share == pytest.approx(
        sum(max(0, r - plan.replicas * MU) for r in day.rps) / sum(day.rps), rel=1e-9
    )


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


def test_command():
    """The plan in words, the plans it beats beside it, and the layers when there is a commitment."""
    words = [
        "--capacity-rps", "32.26", "--replica-usd-per-hour", "3.49", "--hosted-usd-per-request", "0.0000614",
        "--demand", "m-large", "--mean-rps", "195.8", "--reserved-usd-per-hour", "2.5",
    ]  # fmt: skip
    said = CliRunner().invoke(command, words, catch_exceptions=False).output
    assert said.startswith("Own 8 replicas at all times")
    assert "by the clock" in said
    shown = json.loads(CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False).output)
    plans = {name: float(usd) for name, usd in shown["plans_usd_per_hour"].items()}
    assert plans["all hosted"] > plans["hybrid, 8 replicas + hosted peak"] > plans["layers, elastic ones hour by hour"]
    assert shown["plan"]["replicas"] == 8
