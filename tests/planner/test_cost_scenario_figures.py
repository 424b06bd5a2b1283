"""Every figure of a scenario with its formula and inputs, its crossings, odds, claims, warnings and verdict."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest

from harness.planner.breakeven import BreakEven, Crossing
from harness.planner.measured import Measured
from harness.planner.scenario.claims import Claim
from harness.planner.scenario.inputs import MONTH_S, base_of
from harness.planner.scenario.options import against, hosted_sides
from harness.planner.scenario.run import Figure, _crossing_figures, case_of, run_scenario
from harness.planner.uncertainty import Assumption, Case, Interval, outlook
from harness.price.machine_match import RanOn
from tests.planner.scenario_values import hosted, scenario

MONTH_H = D("730.5")
CAPACITY = {"capacity source": "declared", "capacity as of": "2026-11-01"}
MACHINE = {"machine": "box", "price source": "quote", "price as of": "2026-11-01", "price age": "23 days old"}


def cents(figures):
    """Figures whose values are taken to nine digits."""
    return [replace(f, value=None if f.value is None else pytest.approx(f.value, rel=D("1e-9"))) for f in figures]


def test_every_figure_by_hand():
    """10 requests/s in hours of 5 and 15, 18 in the highest; 4 machines of 10 at half and a spare; half a person; $5,259.60 hosted."""
    spec = scenario(
        demand={"requests_per_month": 26_298_000, "shape": [1, 3], "peak_factor": 1.2, "source": "log"},
        fleet={"storage_usd_per_month": 50},
        labour={"full_time": 0.5, "usd_per_work_hour": 100, "one_off_usd": 1000, "source": "rota"},
        machine={"replicas": 2},
        capacity={"requests_per_s": 5},
    )
    machines, labour, requests = 5 * 4 * MONTH_H, D("0.5") * 40 / 168 * 100 * MONTH_H, D(26_298_000)
    month = machines + labour + 50
    demand = {"workload": "declared", "demand": "log", "shape": "of the scenario"}
    billed = {
        "price": "$0.2 input, $0.2 cached input, $0.2 output per million tokens", "price source": "list", "price as of": "2026-11-01",
        "cached input": "none: no cached_input_tokens declared",
    }  # fmt: skip
    both = {**MACHINE, **CAPACITY}
    assert list(run_scenario(spec).figures) == cents([
        Figure(*row)
        for row in (
            ("requests_per_month", "requests", requests, "per month", "declared", demand),
            ("tokens_per_request", "tokens of a request", D(1000), "tokens", "800 input + 200 output", demand),
            ("mean_rps", "mean demand", D(10), "requests/s", "requests / (730.5 h x 3600 s)", demand),
            ("peak_rps", "peak demand", D(18), "requests/s", "highest hour of the shape x 1.2 for peaks it averages out", demand),
            ("capacity_rps", "capacity of a machine at the SLO", D(10), "requests/s", "2 replica(s) a machine", CAPACITY),
            ("machine_usd_per_hour", "price of a machine", D(4), "USD per hour",
             "paid whether busy or idle; price of 2026-11-01, 23 days old", MACHINE),
            ("machines", "machines at the peak, spares in", D(5), "machines",
             "ceil(peak / (capacity x headroom 0.5)) + 1 spare(s), fixed", both),
            ("machines_needed_flat", "machines for the mean alone, full and without spare", D(1), "machines",
             "ceil(mean / capacity): the least that can be", CAPACITY),
            ("utilisation", "utilisation of what is paid", D("0.2"), "", "served / (paid machine-hours x capacity): a result", MACHINE),
            ("machines_usd_per_month", "machines", machines, "USD per month", "paid machine-hours x 4.0 $/h x 730.5 h", MACHINE),
            ("labour_usd_per_month", "labour", labour, "USD per month", "0.5 people x 40/168 x 100.0 $/h x 730.5 h", {"labour": "rota"}),
            ("self_usd_per_month", "self-hosted, all in", month, "USD per month", "machines + labour + storage", MACHINE),
            ("self_first_month_usd", "self-hosted, first month", month + 1000, "USD", "+ 1000 once", MACHINE),
            ("self_usd_per_request", "self-hosted, a request", month / requests, "USD", "month / requests", MACHINE),
            ("self_usd_per_million_tokens", "self-hosted, a million tokens (input + output)", month / requests * 1000, "USD",
             "month / tokens", MACHINE),
            ("hosted_0_usd_per_month", "hosted, host/m", D("5259.6"), "USD per month", "26,298,000 requests x 0.0002 $", billed),
            ("hosted_0_usd_per_request", "hosted, host/m, a request", D("0.0002"), "USD", "each request priced by itself", billed),
            ("first_crossing_0", "self-hosting first becomes cheaper than host/m", None, "requests per month",
             "never: hosted is cheaper at every volume", {**billed, "machine": "box", "price of the machine as of": "2026-11-01"}),
            ("permanent_crossing_0", "and stays cheaper than host/m", None, "requests per month",
             "never: hosted is cheaper at every volume", {**billed, "machine": "box", "price of the machine as of": "2026-11-01"}),
        )
    ])  # fmt: skip


NEVER = "never: hosted is cheaper at every volume"
CROSSES = "crossing of the two computed curves, whole machines, labour and spares in"


@pytest.mark.parametrize(
    ("found", "first", "permanent"),
    [
        (BreakEven((Crossing(2.5, "self"), Crossing(3.0, "hosted")), 4.0, 0.5), (2.5, CROSSES), (4.0, CROSSES)),
        (BreakEven((), None, None), (None, NEVER), (None, NEVER)),
        (
            BreakEven((Crossing(0.0, "self"), Crossing(3.0, "hosted")), None, 2.0),
            (0.0, "from the first request on: the hosted minimum commitment alone is more"),
            (None, "never for good: only where the hosted minimum commitment is more than the machines"),
        ),
        (
            BreakEven((Crossing(0.0, "self"),), 0.0, 2.0),
            *[(0.0, "from the first request on: the hosted minimum commitment alone is more")] * 2,
        ),
        (
            BreakEven((Crossing(2.5, "self"),), None, 2.0, 0, 1234.5678),
            (2.5, CROSSES),
            (None, "not found up to 1235 requests/s; nothing is said above"),
        ),
        (BreakEven((), None, 2.0, 0, 9.0), *[(None, "not found up to 9 requests/s; nothing is said above")] * 2),
    ],
)
def test_crossings_are_told_in_requests_a_month(found, first, permanent):
    """The first and the lasting one, each with what kind of crossing it is, or why there is none."""
    base = base_of(scenario(), None)
    (side,) = hosted_sides(base)
    a, b = _crossing_figures(base, [side], [replace(against(base, side), crossings=found)])
    for figure, (rps, formula) in ((a, first), (b, permanent)):
        assert figure.value == (None if rps is None else D(str(rps)) * MONTH_S)
        assert figure.formula == formula


# ---------------------------------------------------------------- the odds


def measured(interval, models=("m",), usage=((800, 0, 200, 0),), ran_on=None, warnings=()):
    return Measured(8.0, 9.0, interval, usage, ("r",), models, "20261120T000000Z", "repeated", warnings, ran_on=ran_on)


def test_the_case_of_the_odds_is_the_priced_fleet():
    """Rates and shares of the curve, the hosted bill with its minimum an hour, spares, people and storage an hour."""
    spec = scenario(
        demand={"requests_per_month": 26_298_000, "shape": [1, 3]}, hosted=[hosted(0.2, minimum_usd_per_month=1461)],
        fleet={"scaling": "autoscaled", "spares": 2, "min_replicas": 3, "cold_start_s": 360, "storage_usd_per_month": 73.05},
    )  # fmt: skip
    base = base_of(spec, None)
    case = case_of(base, hosted_sides(base)[0])
    assert case == Case(
        demand_rps=pytest.approx(10), capacity_rps=10, replica_usd_per_hour=4, hosted_usd_per_request=0.0002, headroom=0.5, tokenizer_ratio=1,
        fixed_usd_per_hour=pytest.approx(0.1), hosted_minimum_usd_per_hour=2, spares=2, min_replicas=3,
        shape=pytest.approx((0.5, 1.5)), shares=pytest.approx((1 - 3960 / 7200, 3960 / 7200)),
    )  # fmt: skip


def ranged(name, base, low, high):
    return Assumption(name, base * low, base, base * high, "ranges of the scenario")


def test_the_odds_are_over_the_ranges_of_the_scenario():
    """Each assumption around its base; headroom at most 1; what has no range, or is 0, is not drawn."""
    spec = scenario(
        fleet={"headroom": 0.9}, hosted=[hosted(0.5)],
        ranges={"demand_rps": [0.4, 3.0], "capacity_rps": [1, 1], "tokenizer_ratio": [0.9, 1.1]},
    )  # fmt: skip
    base = base_of(spec, None)
    case = case_of(base, hosted_sides(base)[0])
    assumed = [
        ranged("demand_rps", case.demand_rps, 0.4, 3.0), ranged("replica_usd_per_hour", 4.0, 0.8, 1.2),
        ranged("hosted_usd_per_request", 0.0005, 0.5, 1.3),
        Assumption("headroom", 0.9 * 0.8, 0.9, 1.0, "ranges of the scenario"), ranged("tokenizer_ratio", 1.0, 0.9, 1.1),
    ]  # fmt: skip
    assert run_scenario(spec).outlook == outlook(case, assumed)


@pytest.mark.parametrize(
    ("interval", "mode"), [((7.0, 9.0, 11.0), 8.0), ((8.5, 9.0, 11.0), 8.5), ((6.0, 7.0, 7.5), 7.5)]
)
def test_a_measured_capacity_is_drawn_from_its_interval(interval, mode):
    """Two replicas a machine: its ends and estimate twice; planned with what the plan says, inside the interval."""
    spec = scenario(
        machine={"replicas": 2}, capacity={"requests_per_s": None, "run": "x", "source": ""}, hosted=[hosted(0.5)]
    )
    seen = measured(Interval(*interval, 0.8, "bootstrap", 5))
    base = base_of(spec, seen)
    case = case_of(base, hosted_sides(base)[0])
    low, middle, high = (2 * v for v in interval)
    assumed = [
        ranged("demand_rps", case.demand_rps, 0.5, 2.0), ranged("replica_usd_per_hour", 4.0, 0.8, 1.2),
        ranged("hosted_usd_per_request", 0.0005, 0.5, 1.3), ranged("headroom", 0.5, 0.8, 1.2), ranged("tokenizer_ratio", 1.0, 0.95, 1.2),
        Assumption("capacity_rps", low, 2 * mode, high, "interval of the measurement", estimate=middle, level=0.8),
    ]  # fmt: skip
    assert case.capacity_rps == 16
    assert run_scenario(spec, seen).outlook == outlook(case, assumed)
    alone = run_scenario(spec, measured(None)).outlook  # one run has no interval: the scenario's range
    assert alone == outlook(case, [*assumed[:-1], ranged("capacity_rps", 16.0, 0.9, 1.1)])


# ---------------------------------------------------------------- words


RANGES = "ranges of the odds and the tornado are assumptions (ranges: in the scenario), not findings"


def test_what_a_measured_run_says_against_the_scenario():
    """Its own warnings, another machine, another model, requests more than 20 % longer or shorter: and no word where it fits."""
    spec = scenario(
        machine={"declared": {"name": "box", "usd_per_hour": 4, "source": "q", "as_of": "2026-11-01", "gpu_count": 2}, "replicas": 2},
        capacity={"requests_per_s": None, "run": "x", "source": ""},
    )  # fmt: skip
    assert run_scenario(spec, measured(None, ran_on=RanOn(1, "f", ()))).warnings == (RANGES,)
    fits = measured(None, usage=((800, 0, 150, 0), (1120, 0, 170, 0)))  # 960 and 160: 20 % off
    assert run_scenario(spec, fits).warnings == (RANGES,)
    odd = measured(
        None, models=("m", "n"), usage=((600, 0, 241, 0),), ran_on=RanOn(2, "flags", ()), warnings=("slow start",)
    )
    found = run_scenario(spec, odd)
    told = (
        "the price is for 2 GPUs and 2 replicas of it use 4 (flags): a token here carries 0.5 x the GPUs that made it"
    )
    assert found.warnings == (
        "slow start", told, "the run served m, n, the scenario is of m",
        "the run's requests have 600 input tokens on average, the scenario's 800: its capacity is of another workload",
        "the run's requests have 241 output tokens on average, the scenario's 200: its capacity is of another workload", RANGES,
    )  # fmt: skip
    assert found.verdict.endswith(f"; NOT THE MACHINE PRICED: {told}")


def test_the_result_says_what_it_is_of():
    """Name, description, day, model, SLO, reference and warnings; notes of our own and hosted options, each once."""
    spec = scenario(
        description="d",
        capacity={"as_of": None},
        fleet={"spares": 0},
        hosted=[hosted(same_model=False), hosted(same_model=False)],
    )
    found = run_scenario(spec)
    assert (found.name, found.description, found.at, found.model, found.slo) == (
        "test",
        "d",
        "2026-11-24",
        "m",
        "P99 TTFT <= 2 s",
    )
    assert (found.reference, found.spec) == ("host/m", spec)
    assert found.warnings == (
        "self-hosted, 1 machine, box: no spare: losing one machine loses its part of the load",
        "hosted, host/m: tokenizers are not declared: equal token counts are taken for granted",
        "hosted, host/m: a different product: not m; its quality is not compared here",
        "capacity is not measured here: declared", RANGES,
    )  # fmt: skip
    assert len(found.ladder) == 7
    assert found.ladder[0].usd_per_1000_requests == D(4) * 1000 / 36_000
    free = {"declared": {"name": "own", "usd_per_hour": 0, "source": "q", "as_of": "2026-11-01"}}
    assert run_scenario(scenario(machine=free)).ladder == ()
    assert base_of(spec, None).at == datetime(2026, 11, 24, 12, tzinfo=UTC)


def test_the_verdict_is_the_cheapest_of_each_kind():
    """The first with its name; a cheaper other product apart; the odds against the reference; without one no odds."""
    found = run_scenario(
        scenario(hosted=[hosted(0.2), hosted(0.3, model="dear"), hosted(0.1, model="other", same_model=False)])
    )
    assert found.verdict == (
        "cheapest: hosted $2,000 a month (host/m); hybrid $2,922 a month; self-hosted $5,844 a month; a different product, host/other, $1,000; "
        f"P(self-hosted is cheaper than host/m) = {found.outlook.p_self_cheaper:.2f}"
    )
    assert (
        run_scenario(scenario(hosted=[hosted(meets_slo=False)])).verdict
        == "cheapest: self-hosted $5,844 a month (2 machines, box)"
    )


def test_claims_may_name_figures_and_the_workload():
    """Ours may use any figure, the hours of a month and the tokens of a request; the published side numbers only."""
    claims = [{"row": 3, "says": "s", "stated": "5", "arithmetic": "2 + 3", "ours": "machines * hours_per_month + input_tokens - output_tokens",
               "unit": "x", "reason": "r"}]  # fmt: skip
    ours = claims[0]["ours"]
    assert run_scenario(scenario(claims=claims)).claims == (
        Claim(3, "s", "5", "2 + 3", D(5), ours, 2 * MONTH_H + 600, "x", "r"),
    )
