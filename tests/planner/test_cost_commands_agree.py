"""Every command of `harness cost` that prices a fleet, a hosted bill or both, over the same random scenarios: equal dollars.

The oracle is none of them: replicas hour by hour from the rule in words, in plain floats, where a fleet has no cold starts.
"""

from __future__ import annotations

import json
import math
import os
import random
from dataclasses import dataclass
from decimal import Decimal as D
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.breakeven import breakeven
from harness.cli.decisions import decide_command, scenario_command
from harness.cli.fleet import fleet as fleet_command
from harness.cli.fleet import hybrid as hybrid_command
from harness.planner.breakeven import break_even_over_demand, staircase
from harness.planner.demand import Demand, curve, flat, scaled, shaped, shapes
from harness.planner.fleet import FleetSpec, cost_ladder, fleet_cost, labour_usd_per_hour
from harness.planner.hybrid import hybrid_usd_per_hour, plan_hybrid
from harness.planner.scenario.decide import decide
from harness.planner.scenario.inputs import MONTH_S, base_of
from harness.planner.scenario.options import against, hosted_sides, hybrid_plan, options_of
from harness.planner.scenario.run import case_of, run_scenario
from harness.planner.uncertainty import hosted_usd_per_hour, self_usd_per_hour
from tests.planner.scenario_values import hosted, scenario

CASES, BY_COMMAND = 1000 if "HARNESS_LONG" in os.environ else 400, 20
MONTH_H = D("730.5")


@dataclass(frozen=True)
class Drawn:
    """One random scenario: the file, and the same things as the other commands take them."""

    data: dict[str, Any]
    demand: Demand
    spec: FleetSpec
    each_usd: D
    minimum_usd: float
    requests: float

    @property
    def simple(self) -> bool:
        """No cold start and billing by the second: a replica is paid while it is up."""
        return self.spec.scaling == "fixed" or (self.spec.cold_start_s == 0 and self.spec.billing_s == 1)


def _shape(draw: random.Random) -> tuple[dict[str, Any], Demand]:
    """The demand part of a scenario without its size, and the curve with any size."""
    kind = draw.choice(["flat", "named", "own", "own"])
    if kind == "flat":
        part, found = {"shape": "flat", "step_s": 3600}, flat(1)
    elif kind == "named":
        name = draw.choice(sorted(shapes()))
        part, found = {"shape": name, "step_s": 3600}, shaped(name, 1)
    else:
        step_s = draw.choice([600, 900, 3600, 5400, 7200])
        rates = [draw.choice([0, 1, 1, 2, 3, 5, round(draw.uniform(0, 9), 2)]) for _ in range(draw.randint(1, 24))] + [
            1
        ]
        part, found = {"shape": rates, "step_s": step_s}, curve("own", rates, step_s=step_s)
    if draw.random() < 0.3:
        factor = round(draw.uniform(1, 3), 3)
        part["peak_factor"] = factor
        found = curve(found.name, found.rps, step_s=found.step_s, peak_hour_to_mean=factor * found.peak_to_mean)
    return part, found


def drawn(seed: int) -> Drawn:
    """Shapes, sizes, steps, capacities, headrooms, spares, scaling, cold starts, billing, labour, storage, prices, contracts."""
    draw = random.Random(seed)
    part, found = _shape(draw)
    mean_rps = draw.choice([draw.uniform(0.01, 1), draw.uniform(1, 60)])
    requests = round(mean_rps * float(MONTH_S))
    capacity, c = round(draw.uniform(0.5, 30), 2), round(draw.uniform(0.5, 12), 2)
    headroom, spares = round(draw.uniform(0.3, 1), 2), draw.randint(0, 3)
    scaling = draw.choice(["fixed", "autoscaled"])
    least = draw.randint(0, 1) if scaling == "fixed" else draw.randint(0, 3)
    cold, billing = draw.choice([(0, 1), (300, 1), (300, 60), (900, 3600)])
    labour, storage = draw.choice([0, 0, 0.1, 0.7]), draw.choice([0, 0, 100])
    usd_per_million = round(c / capacity / 3.6 / draw.uniform(0.1, 1.3), 4)  # of 1,000 tokens a request
    usage = requests * usd_per_million / 1000
    minimum = round(draw.choice([0, 0, 0.5, 1.5, 10]) * usage, 2)
    discount, retries = draw.choice([0, 0, 0.1]), draw.choice([0, 0, 0.02])
    data = {
        "demand": {"requests_per_month": requests, "source": "drawn", **part},
        "capacity": {"requests_per_s": capacity},
        "machine": {"declared": {"name": "box", "usd_per_hour": c, "source": "quote", "as_of": "2026-11-01"}},
        "fleet": {
            "spares": spares, "headroom": headroom, "scaling": scaling, "min_replicas": least, "cold_start_s": cold,
            "billing_s": billing, "storage_usd_per_month": storage,
        },
        "labour": {"full_time": labour, "source": "drawn"},
        "hosted": [
            hosted(usd_per_million, minimum_usd_per_month=minimum, discount=discount, billed_retries=retries),
        ],
    }  # fmt: skip
    spec = FleetSpec(
        capacity_rps=capacity, replica_usd_per_hour=c, headroom=headroom, spares=spares, min_replicas=least, scaling=scaling,
        cold_start_s=cold, billing_s=billing, storage_usd_per_month=storage, labour_usd_per_hour=labour_usd_per_hour(labour, 150),
    )  # fmt: skip
    each = D(str(usd_per_million)) / 1000 * (1 - D(str(discount))) * (1 + D(str(retries)))
    mean = D(requests) / MONTH_S
    return Drawn(data, scaled(found, mean), spec, each, minimum, requests)


def by_hand_usd_per_hour(case: Drawn) -> float:
    """The fleet of the rule in words: in each step (fixed: of the highest hour) whole replicas, at least so many, and spares."""
    d, s = case.demand, case.spec
    peak = max([*d.rps, (d.peak_hour_to_mean or 0) * sum(d.rps) / len(d.rps)])
    rates = d.rps if s.scaling == "autoscaled" else [peak]
    counts = [max(s.min_replicas, math.ceil(rate / (s.capacity_rps * s.headroom) - 1e-9)) for rate in rates]
    machines = (sum(counts) / len(counts) + s.spares) * s.replica_usd_per_hour
    return machines + float(s.labour_usd_per_hour) + s.storage_usd_per_month / 730.5


def hosted_month(case: Drawn, requests: float) -> float:
    return max(case.minimum_usd, float(case.each_usd) * requests)


def self_is_cheaper(case: Drawn, rps: float) -> bool | None:
    """The fleet's and the contract's dollars at another mean rate; None where they are the same."""
    own = float(fleet_cost(scaled(case.demand, rps), case.spec).usd_per_month)
    bought = hosted_month(case, rps * float(MONTH_S))
    return None if own == pytest.approx(bought, rel=1e-9) else own < bought


def check_crossings(case: Drawn) -> None:
    """Just below and just above each crossing, and half way to the next one, the cheaper side is the one that is said."""
    found = break_even_over_demand(case.demand, case.spec, case.each_usd, minimum_usd_per_month=case.minimum_usd)
    listed = [(0.0, "hosted"), *((x.rps, x.cheaper_above) for x in found.crossings)]
    for n in [*range(min(len(listed), 4)), len(listed) - 1]:
        at, side = listed[n]
        above = listed[n + 1][0] if n + 1 < len(listed) else at + max(at, case.spec.capacity_rps)
        if n == len(listed) - 1 and found.scanned_to_rps is not None:
            continue
        for rps in (at * (1 + 1e-6) if at else above * 1e-6, (at + above) / 2, above * (1 - 1e-6)):
            if at < rps < above:
                assert self_is_cheaper(case, rps) in (None, side == "self"), (rps, side, found)
    if found.permanent_rps is not None:
        assert found.crossings_omitted or listed[-1] == (found.permanent_rps, "self")
        far = 50 * max(found.permanent_rps, case.spec.capacity_rps)
        assert self_is_cheaper(case, far) in (None, True)
    elif found.scanned_to_rps is None and not case.minimum_usd:
        assert self_is_cheaper(case, 20 * case.spec.capacity_rps) in (None, False)


def check(case: Drawn) -> None:
    spec = scenario(**case.data)
    base = base_of(spec, None)
    (side,) = hosted_sides(base)
    fleet = fleet_cost(case.demand, case.spec)
    own, bought = float(fleet.usd_per_hour), hosted_month(case, case.requests) / 730.5
    same = lambda usd, to: float(usd) == pytest.approx(to, rel=1e-9)  # noqa: E731

    # cost fleet
    if case.simple:
        assert same(own, by_hand_usd_per_hour(case))
    assert own <= by_hand_usd_per_hour(Drawn(case.data, case.demand, FleetSpec(**{**_fields(case.spec), "scaling": "fixed"}), case.each_usd, 0, 0)) * (1 + 1e-9)  # fmt: skip
    assert same(cost_ladder(case.demand, case.spec)[-1].usd_per_1000_requests, float(fleet.usd_per_request) * 1000)
    # cost scenario
    options = {o.kind: o for o in options_of(base, (side,))}
    assert same(base.fleet.usd_per_hour, own)
    assert same(options["self-hosted"].usd_per_month / MONTH_H, own)
    assert same(options["hosted"].usd_per_month / MONTH_H, bought)
    # its odds
    odds = case_of(base, side)
    assert same(self_usd_per_hour(odds), own)
    assert same(hosted_usd_per_hour(odds), bought)
    # cost hybrid
    usable = D(str(case.spec.capacity_rps)) * D(str(case.spec.headroom))
    terms = (usable, case.spec.replica_usd_per_hour, case.each_usd)
    plan = plan_hybrid(case.demand, *terms, minimum_usd_per_month=case.minimum_usd)
    assert same(hybrid_usd_per_hour(case.demand, 0, *terms, minimum_usd_per_month=case.minimum_usd), bought)
    assert float(plan.usd_per_hour) <= bought * (1 + 1e-9)
    assert hybrid_plan(base, side).replicas == plan.replicas
    assert same(hybrid_plan(base, side).usd_per_hour, float(plan.usd_per_hour))
    labour = base.fixed_usd_per_hour if plan.replicas else 0
    assert same(options["hybrid"].usd_per_month / MONTH_H, float(plan.usd_per_hour + labour))
    # cost breakeven over demand, and the stairs of the page
    found = against(base, side)
    mean = case.demand.mean_rps
    stairs = staircase(case.demand, case.spec, mean * 1.01)
    assert same(max(usd for rps, usd in stairs if rps <= mean * (1 - 1e-12)), own) or any(
        abs(rps / mean - 1) < 1e-8 for rps, _ in stairs
    )
    assert same(found.hosted_usd_per_request, own * 730.5 / case.requests) or own < case.minimum_usd / 730.5
    side_now = "hosted"
    for crossing in found.crossings.crossings:
        side_now = crossing.cheaper_above if crossing.rps < mean else side_now
    if abs(own / bought - 1) > 1e-9 and not found.crossings.crossings_omitted and mean < (found.crossings.scanned_to_rps or math.inf):  # fmt: skip
        assert (side_now == "self") is (own < bought)
    check_crossings(case)


def _fields(spec: FleetSpec) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in FleetSpec.__dataclass_fields__}


@pytest.mark.parametrize("part", range(10))
def test_all_commands_price_the_same_fleet_and_the_same_bill(part):
    """A tenth of 400 random scenarios (of 1,000 with HARNESS_LONG=1): fleet, ladder, scenario, odds, hybrid, break-even prices, stairs, each crossing."""
    for seed in range(part * CASES // 10, (part + 1) * CASES // 10):
        case = drawn(seed)
        try:
            check(case)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {case}") from error


def _json(command: Any, *words: str) -> Any:
    done = CliRunner().invoke(command, [*words, "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", range(5000, 5000 + BY_COMMAND))
def test_all_commands_say_the_same_dollars(seed, tmp_path):
    """The same scenario typed into fleet, hybrid, breakeven, scenario and decide: one price of the fleet, the bill, the hybrid."""
    case, s = drawn(seed), drawn(seed).spec
    spec = scenario(**case.data)
    file, wave = tmp_path / "s.yaml", tmp_path / "d.yaml"
    file.write_text(yaml.safe_dump(json.loads(spec.model_dump_json(exclude_none=True))))
    d = case.demand
    wave.write_text(yaml.safe_dump({"rps": list(d.rps), "step_s": d.step_s, **({} if d.peak_hour_to_mean is None else {"peak_hour_to_mean": d.peak_hour_to_mean})}))  # fmt: skip
    shared = ["--capacity-rps", str(s.capacity_rps), "--replica-usd-per-hour", str(s.replica_usd_per_hour), "--demand", str(wave),
              "--headroom", str(s.headroom), "--spares", str(s.spares), "--min-replicas", str(s.min_replicas),
              "--cold-start-s", str(s.cold_start_s), "--billing-s", str(s.billing_s)]  # fmt: skip
    contract = [
        "--hosted-usd-per-request",
        f"{case.each_usd:f}",
        "--hosted-minimum-usd-per-month",
        str(case.minimum_usd),
    ]
    fixed = ["--fixed-fleet"] * (s.scaling == "fixed")
    labour, extra = str(s.labour_usd_per_hour), s.labour_usd_per_hour + D(str(s.storage_usd_per_month)) / MONTH_H

    fleet = _json(fleet_command, *shared, *fixed, "--labour-usd-per-hour", labour, "--storage-usd-per-month", str(s.storage_usd_per_month))  # fmt: skip
    hybrid = _json(hybrid_command, *shared, *contract)
    crossings = _json(
        breakeven, *shared, *fixed, *contract, "--fixed-usd-per-hour", str(extra), "--at-rps", repr(d.mean_rps)
    )
    result, found = _json(scenario_command, str(file)), _json(decide_command, str(file))

    own, bought = float(fleet["cost"]["usd_per_month"]), hosted_month(case, case.requests)
    options = {o["kind"]: o for o in result["options"]}
    plans = hybrid["plans_usd_per_hour"]
    word = "fixed at peak" if s.scaling == "fixed" else "autoscaled"
    (same_fleet,) = [float(usd) for name, usd in plans.items() if name.startswith(f"own, {word}")]
    approx = lambda usd: pytest.approx(usd, rel=1e-9)  # noqa: E731
    assert float(options["self-hosted"]["usd_per_month"]) == approx(own)
    assert (same_fleet + float(extra)) * 730.5 == approx(own)
    assert float(options["hosted"]["usd_per_month"]) == approx(bought)
    assert float(plans["all hosted"]) * 730.5 == approx(bought)
    owned = float(extra) if hybrid["plan"]["replicas"] else 0.0
    assert float(options["hybrid"]["usd_per_month"]) == approx((float(hybrid["plan"]["usd_per_hour"]) + owned) * 730.5)
    assert result["outlook"]["base_usd_per_hour"] == pytest.approx((own - bought) / 730.5, rel=1e-9, abs=1e-9 * own)
    assert [x["rps"] for x in crossings["crossings"]] == approx(
        [x["rps"] for x in result["against"][0]["crossings"]["crossings"]]
    )
    if own > case.minimum_usd:
        assert float(crossings["break_even_hosted_usd_per_request"]) * case.requests == approx(own)
    assert float(found["option"]["usd_per_month"]) == approx(float(options[found["choice"]]["usd_per_month"]))
    assert decide(run_scenario(spec)).choice == found["choice"]


def test_a_fleet_that_cannot_be_had_is_refused_by_every_command():
    """A headroom above 1 or no capacity: an error of the fleet function, wherever it is called from."""
    bad = FleetSpec(capacity_rps=1, replica_usd_per_hour=1, headroom=1.5)
    for call in (lambda: fleet_cost(flat(1), bad), lambda: break_even_over_demand(flat(1), bad, 1), lambda: staircase(flat(1), bad, 2)):  # fmt: skip
        with pytest.raises(ConfigError, match="headroom"):
            call()
