"""The black-box fit as whole records, and which workloads it is of."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.attribution.black_box import AtCapacity, ShapeCost, ShapeFit, at_capacity, fit_shapes
from harness.records import Cell, Load, SearchedCapacity, Window
from tests.price.cost_summaries import summary

TRUE = (2e-8, 6e-8, 3e-11, 2e-12)
GRID = [(128, 128), (128, 1024), (512, 512), (1024, 128), (2048, 2048), (8192, 512), (4096, 64)]


def usd(i, o):
    alpha, beta, gamma, delta = TRUE
    return alpha * i + beta * o + gamma * o * (i + o / 2) + delta * i * i / 2


def test_a_cost_of_one_term_is_fitted_with_it_alone():
    """Every shape costs what its output does: no other coefficient, no error, none from the others either."""
    fit = fit_shapes([ShapeCost(i, o, 1e-6 * o) for i, o in GRID])
    names = [f"{i}x{o}" for i, o in GRID]
    none = pytest.approx(dict.fromkeys(names, 0.0), abs=1e-9)
    assert (fit.alpha, fit.beta, fit.gamma, fit.delta) == pytest.approx((0, 1e-6, 0, 0), abs=1e-15)
    assert fit.error == none
    assert fit.left_out_error == none
    assert list(fit.left_out_error) == sorted(names)
    assert fit.warnings == ()


def test_an_error_is_fitted_over_measured():
    """One shape of a form that fits all the others costs twice as much: predicted from them it is half of what was measured."""
    shapes = [ShapeCost(i, o, usd(i, o) * (2 if (i, o) == (512, 512) else 1)) for i, o in GRID]
    fit = fit_shapes(shapes)
    assert fit.left_out_error["512x512"] == pytest.approx(-0.5)
    assert {name: fit.usd_per_request(*map(int, name.split("x"))) for name in fit.error} == pytest.approx(
        {s.name: s.usd_per_request * (1 + fit.error[s.name]) for s in shapes}
    )


def test_what_a_fit_says_of_a_shape():
    """3 x 10 + 5 x 4 + 7 x 4 x (10 + 2) + 11 x 10^2 / 2; without output 3 x 10 + 11 x 10^2 / 2."""
    fit = ShapeFit(3.0, 5.0, 7.0, 11.0, {}, {}, ())
    assert fit.usd_per_request(10, 4) == 30 + 20 + 336 + 550
    assert fit.input_share(10, 4) == 580 / 936


@pytest.mark.parametrize(("count", "warned"), [(5, 1), (6, 0), (7, 0)])
def test_how_many_shapes_it_takes(count, warned):
    """5 to be fitted, 6 not to be warned of."""
    assert len(fit_shapes([ShapeCost(i, o, usd(i, o)) for i, o in GRID[:count]]).warnings) == warned


@pytest.mark.parametrize(
    ("shapes", "what", "value"),
    [
        ([ShapeCost(i, o, 1.0) for i, o in GRID[:4]], "too few shapes for the black-box fit", "4 different of 4"),
        ([ShapeCost(i, o, 1.0) for i, o in [*GRID, GRID[0]]], "too few shapes for the black-box fit", "7 different of 8"),
        ([ShapeCost(i, o, 0.0) for i, o in GRID[:5]], "cost of a shape is not an amount", "[0.0, 0.0, 0.0, 0.0, 0.0]"),
        ([ShapeCost(n, 1, float("inf") if n == 3 else 1.0) for n in range(1, 6)], "cost of a shape is not an amount",
         "[1.0, 1.0, inf, 1.0, 1.0]"),
        ([ShapeCost(n, 1, -1.0 if n == 3 else 1.0) for n in range(1, 6)], "cost of a shape is not an amount",
         "[1.0, 1.0, -1.0, 1.0, 1.0]"),
    ],
)  # fmt: skip
def test_shapes_that_cannot_be_fitted(shapes, what, value):
    """Too few, one twice, and costs that are none."""
    with pytest.raises(ConfigError) as error:
        fit_shapes(shapes)
    assert (error.value.what, error.value.value) == (what, value)


SLO = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}


def offered(workload, rate, attainment, usage, target="t", slo=SLO):
    """A run of 20,000 requests at a Poisson rate (None: 4 in flight)."""
    load = Load(concurrency=4) if rate is None else Load(rate_rps=rate)
    good = {"attainment": attainment, "goodput_rps": (rate or 5) * attainment} if slo else {"goodput_rps": None}
    return replace(
        summary(request_rps=rate or 5, **good), run_id=f"{target}-{workload}@{rate}", cell=Cell(target, workload, load, 0),
        config={"slo": slo} if slo else {}, window=Window(0, 1, "", 20_000 / (rate or 5), 0, 0), usage=usage,
    )  # fmt: skip


def searched(workload, rps, target="t"):
    return SearchedCapacity(target, workload, 0.99, "found", 3, rps, rps, rps, 0.9, ("s",), ("p",), "2026", "")


def test_a_workload_costs_a_paid_hour_over_its_capacity():
    """Its shape is the mean of its requests, cached tokens in; workloads of one shape count by their mean; shapes are in order."""
    runs = [
        offered("b", 10, 0.995, ((100, 90, 10, 5), (101, 0, 12, 0), (102, 0, 11, 0))), offered("b", 20, 0.5, ((101, 0, 11, 0),)),
        offered("a", 40, 0.995, ((101, 0, 11, 0),)), offered("a", 50, 0.5, ((101, 0, 11, 0),)),
        offered("small", 4, 0.995, ((9, 0, 99, 0),)), offered("small", 5, 0.5, ((9, 0, 99, 0),)),
    ]  # fmt: skip
    assert at_capacity(runs, D("3.6")) == AtCapacity(
        (ShapeCost(9, 99, 0.001 / 4), ShapeCost(101, 11, pytest.approx((0.001 / 10 + 0.001 / 40) / 2))), {}
    )


def test_what_is_left_out_and_why():
    """Every workload whose capacity the runs do not show, in the words of the rule that found it."""
    runs = [
        offered("closed", None, 1.0, ((5, 0, 5, 0),)),
        offered("kept", 7, 0.995, ((5, 0, 5, 0),)),
        offered("no promise", 7, None, ((5, 0, 5, 0),), slo=None),
    ]
    known = at_capacity(runs, D("3.6"))
    assert known.shapes == ()
    assert list(known.left_out) == ["closed", "kept", "no promise"]
    assert known.left_out["closed"].startswith("closed loops show no capacity")
    assert ": " in known.left_out["closed"]
    assert (
        known.left_out["kept"] == "nothing that was offered broke the promise: the capacity is at least 7/s, not known"
    )
    assert known.left_out["no promise"] == "no SLO was declared, so there is no capacity under one"


def test_runs_and_searches_of_several_servers():
    """None of them is fitted with another's: each is named with its server."""
    runs = [offered("w", 10, 0.995, ((5, 0, 5, 0),)), offered("w", 20, 0.5, ((5, 0, 5, 0),))]
    why = "the runs are of several servers: give the directory of one"
    assert at_capacity(runs, D(1), [searched("v", 3, "u")]) == AtCapacity((), {"t w": why, "u v": why})
