"""Splitting cost between input and output: engines and fleets whose truth is known."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.base.stats import nnls
from harness.planner.attribution.black_box import ShapeCost, at_capacity, fit_shapes
from harness.planner.attribution.split import (
    Shares,
    Traffic,
    cached_share_of_kv,
    fit_steps,
    split_paid,
    step_shares,
)
from harness.planner.attribution.step_log import parse, together
from harness.records import Cell, Load, SearchedCapacity, Window
from tests.planner.step_simulator import DECODE, KV, PREFILL, T0, simulate
from tests.price.cost_summaries import summary

SHAPES = {
    "chat": (1155, 211, 10),
    "chat at 2 rps": (1155, 211, 2),
    "code": (2048, 28, 8),
    "long output": (128, 1024, 4),
}
SILYBENCH = [  # Qwen3-8B FP8, H100 at $2.69/h; tgarg01/silybench-data, CC BY 4.0, September 2026; $ per 1,000 requests
    (128, 128, 0.00578), (128, 1024, 0.05066), (1024, 128, 0.02316), (2048, 2048, 0.4189), (8192, 512, 0.4862),
]  # fmt: skip


def test_the_known_constants_come_back():
    """Four shapes together: every constant of the engine within 2 %, R^2 above 0.99, each shape predicted from the others."""
    fit = fit_steps(together([parse(simulate(*shape).lines, name) for name, shape in SHAPES.items()]))
    assert (fit.t0_s, fit.prefill_s, fit.decode_s, fit.kv_s) == pytest.approx((T0, PREFILL, DECODE, KV), rel=0.02)
    assert fit.r2 > 0.99
    assert set(fit.left_out_error) == set(SHAPES)
    assert max(abs(e) for e in fit.left_out_error.values()) < 0.01
    assert max(abs(r) for r in fit.residual_by_load.values()) < 0.01
    assert fit.warnings == ()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("printed", ["step", "handed_over_ms"])
def test_shares_are_within_one_point_of_the_truth(shape, printed):
    """Direct and incremental share of input, from printed step times, and from stamps in ms under async scheduling."""
    engine = simulate(*SHAPES[shape], printed=printed)
    steps = parse(engine.lines, shape)
    direct, to_output, to_input = step_shares(fit_steps(steps), steps)
    assert direct.input_share == pytest.approx(engine.direct_input_share, abs=0.01)
    assert to_output.input_share == pytest.approx(engine.incremental_input_share, abs=0.01)
    assert to_output.input_share < direct.input_share < to_input.input_share
    for s in (direct, to_output, to_input):
        assert s.input_share + s.cached_share + s.output_share == pytest.approx(1)


def test_the_printed_time_of_async_scheduling_is_not_used():
    """0.03 ms printed a step would make the engine 200 times too fast; whole-second stamps give its order, with a warning."""
    engine = simulate(*SHAPES["chat"], printed="handed_over")
    fit = fit_steps(parse(engine.lines, "chat"))
    assert fit.t0_s == pytest.approx(T0, rel=0.05)
    assert fit.r2 is None
    assert any("whole seconds" in w for w in fit.warnings)


def test_what_not_to_do_residency_as_decode_time():
    """Mean time per output token, summed over requests, taken for decode time: output comes out cheaper than input where it is not."""
    engine = simulate(*SHAPES["long output"])
    wrong = engine.prefill_time_sum / (engine.prefill_time_sum + engine.decode_time_per_token_sum)
    assert wrong > 0.5  # so that a token of output is cheaper than one of input: 8 times as many of them
    steps = parse(engine.lines, "long output")
    assert step_shares(fit_steps(steps), steps)[0].input_share < 0.06


def test_no_fixed_price_ratio_fits_every_load():
    """The same requests at 2 and 10 rps: the incremental price ratio differs by more than 3 times."""
    ratios = []
    for name in ("chat", "chat at 2 rps"):
        engine = simulate(*SHAPES[name])
        steps = parse(engine.lines, name)
        i, o = (sum(c) for c in zip(*engine.requests, strict=True))
        ratios.append(split_paid(D(100), step_shares(fit_steps(steps), steps)[1], Traffic(i, 0, o)).price_ratio)
    assert ratios[1] > 3 * ratios[0]


def test_a_hit_in_the_prefix_cache_costs_its_reads_only():
    """Cached input is its own bucket: cheaper than computed input, not free, and taken out of the output's KV reads."""
    engine = simulate(*SHAPES["chat"])
    steps = parse(engine.lines, "chat")
    usage = [(2 * i, i, o, 0) for i, o in engine.requests]  # as many tokens again came from the cache
    share = cached_share_of_kv(usage)
    assert 0.4 < share < 0.5
    cold, warm = step_shares(fit_steps(steps), steps)[0], step_shares(fit_steps(steps), steps, share)[0]
    assert warm.input_share == pytest.approx(cold.input_share)
    i, c, o = sum(u[0] - u[1] for u in usage), sum(u[1] for u in usage), sum(u[2] for u in usage)
    split = split_paid(D(100), warm, Traffic(i, c, o))
    assert 0 < split.cached_usd_per_million < split.input_usd_per_million / 5
    assert split.input_usd + split.cached_usd + split.output_usd == D(100)


@given(st.decimals("0", "1000000", places=2), st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**9))
def test_input_and_output_are_what_was_paid_to_the_cent(paid, a, b, tokens):
    """The machine is never charged twice: input + cached + output = paid, whatever the shares and the tokens."""
    low, high = sorted((a, b))
    split = split_paid(paid, Shares("any", low, high - low, 1 - high), Traffic(tokens, tokens // 3, tokens // 7))
    assert split.input_usd + split.cached_usd + split.output_usd == split.paid_usd == paid
    assert min(split.input_usd, split.cached_usd, split.output_usd) >= 0


@pytest.mark.parametrize(
    "shares", [Shares("twice", 1, 0, 1), Shares("negative", 1.5, 0, -0.5), Shares("lost", 0.5, 0, 0.2)]
)
def test_shares_that_are_not_the_whole_are_refused(shares):
    """Charging the whole to input and to output, or losing a part, is an error."""
    with pytest.raises(ConfigError, match="do not add up"):
        split_paid(D(10), shares, Traffic(1, 0, 1))


def test_deepseek_day():
    """The published day: machine-hours from throughput agree within 0.1 %, and the role split gives 0.0603, 0.138, 0.300 $/M."""
    prefill_hours, decode_hours = D(608_000) / D("73.7") / 3600 * 1000, D(168_000) / D("14.8") / 3600 * 1000
    assert abs((prefill_hours + decode_hours) / (D("226.75") * 24) - 1) < D("0.001")
    day = D("226.75") * 24 * 8 * 2
    assert day == D(87072)
    share = prefill_hours / (prefill_hours + decode_hours)
    traffic = Traffic(608_000_000_000, 0, 168_000_000_000)
    roles = Shares("prefill machines to input, decode machines to output", float(share), 0, 1 - float(share))
    split = split_paid(day, roles, traffic)
    assert round(split.input_usd_per_million, 4) == D("0.0603")
    assert round(split.output_usd_per_million, 3) == D("0.300")
    assert round(split.price_ratio, 2) == D("4.98")
    uncached = split_paid(day, roles, Traffic(266_000_000_000, 0, 168_000_000_000))
    assert round(uncached.input_usd_per_million, 3) == D("0.138")
    assert split.input_usd + split.output_usd == day
    assert round(D(562_027) / day * 100 - 100, 1) == D("545.5")


def test_black_box_on_published_shapes():
    """silybench: alpha 1.18e-8, beta 2.00e-8, gamma 5.03e-11, delta 4.7e-12, errors -7 to +9 %; a linear fit misses by 71 %."""
    fit = fit_shapes([ShapeCost(i, o, usd / 1000) for i, o, usd in SILYBENCH])
    assert (fit.alpha, fit.beta, fit.gamma, fit.delta) == pytest.approx(
        (1.18e-8, 2.00e-8, 5.03e-11, 4.7e-12), rel=0.005
    )
    assert min(fit.error.values()) == pytest.approx(-0.074, abs=0.001)
    assert max(fit.error.values()) == pytest.approx(0.086, abs=0.001)
    assert any("5 shapes for 4 terms" in w for w in fit.warnings)
    usd = np.array([u for *_, u in SILYBENCH])
    x = np.array([(i, o) for i, o, _ in SILYBENCH]) / usd[:, None]
    assert min(x @ nnls(x, np.ones(5)) - 1) == pytest.approx(-0.71, abs=0.005)


def test_black_box_against_the_simulated_engine():
    """8 shapes whose cost is exactly of the form come back, each within 1 % from the other seven; input's share too."""
    shapes = [(128, 128), (128, 1024), (512, 512), (1024, 128), (2048, 256), (2048, 2048), (4096, 64), (8192, 512)]
    true = [2e-8 * i + 6e-8 * o + 3e-11 * o * (i + o / 2) + 2e-12 * i * i / 2 for i, o in shapes]
    fit = fit_shapes([ShapeCost(i, o, c) for (i, o), c in zip(shapes, true, strict=True)])
    assert max(abs(e) for e in fit.left_out_error.values()) < 0.01
    assert fit.input_share(1024, 128) == pytest.approx((2e-8 * 1024 + 1e-12 * 1024**2) / true[3], rel=1e-3)
    assert fit.warnings == ()


TRUE = (2e-8, 6e-8, 3e-11, 2e-12)  # alpha, beta, gamma, delta of the server of `offered`
GRID = [(128, 128), (128, 1024), (512, 512), (1024, 128), (2048, 256), (2048, 2048), (4096, 64), (8192, 512)]
SLO = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}


def capacity_rps(i, o):
    """What a $3.60 machine serves of a shape whose request costs what TRUE says."""
    alpha, beta, gamma, delta = TRUE
    return 3.6 / 3600 / (alpha * i + beta * o + gamma * o * (i + o / 2) + delta * i * i / 2)


def offered(i, o, rate, attainment, target="t", slo=SLO):
    """A run of 20,000 requests of one shape at a Poisson rate (None: 4 in flight)."""
    load = Load(concurrency=4) if rate is None else Load(rate_rps=rate)
    served = 0.7 * capacity_rps(i, o) if rate is None else rate
    good = {"attainment": attainment, "goodput_rps": served * attainment} if slo else {"goodput_rps": None}
    found = summary(request_rps=served, **good)
    return replace(
        found, run_id=f"{i}x{o}@{served:g}", cell=Cell(target, f"fixed:{i}x{o}", load, 0), config={"slo": slo} if slo else {},
        window=Window(0, 1, "", 20_000 / served, 0, 0), usage=((i, 0, o, 0),) * 3,
    )  # fmt: skip


def sweep(i, o, below, above, **words):
    """A shape at loads around its capacity: shares below keep the promise, shares above break it."""
    at = capacity_rps(i, o)
    return [offered(i, o, at * share, 0.995 if share <= 1 else 0.6, **words) for share in (*below, *above)]


@given(st.lists(st.floats(0.05, 0.95), max_size=3), st.lists(st.floats(1.05, 3), min_size=1, max_size=3))
def test_the_loads_that_were_offered_do_not_change_what_a_token_costs(below, above):
    """Whatever else was measured of a shape, its cost is a paid hour over its capacity, and the true constants come back."""
    runs = [run for shape in GRID for run in sweep(*shape, {*below, 1.0}, set(above))]
    known = at_capacity(runs, D("3.6"))
    assert known.left_out == {}
    for cost in known.shapes:
        assert cost.usd_per_request == pytest.approx(1e-3 / capacity_rps(cost.input_tokens, cost.output_tokens))
    fit = fit_shapes(known.shapes)
    assert (fit.alpha, fit.beta, fit.gamma, fit.delta) == pytest.approx(TRUE, rel=1e-6)


def test_the_mean_over_loads_would_be_wrong():
    """Three loads at 10, 40 and 100 % of capacity: their mean dollar per request is four and a half times the right one."""
    runs = sweep(1024, 128, (0.1, 0.4, 1.0), (1.2,))
    mean = np.mean([1e-3 / run.scalars["request_rps"] for run in runs[:3]])
    (cost,) = at_capacity(runs, D("3.6")).shapes
    assert mean / cost.usd_per_request == pytest.approx(4.5)


def test_a_searchs_capacity_counts_before_the_runs():
    """Where a shape was searched, its capacity is the search's own."""
    found = SearchedCapacity("t", "fixed:100x10", 0.99, "found", 3, 20.0, 19.0, 21.0, 0.9, ("s",), ("p",), "2026", "")
    probe = replace(offered(100, 10, 19.5, 0.995), run_id="p")
    (cost,) = at_capacity([probe], D("3.6"), [found]).shapes
    assert cost == ShapeCost(100, 10, 1e-3 / 20.0)


@pytest.mark.parametrize(
    ("runs", "reason"),
    [
        ([offered(100, 10, None, 0.995)], "closed loops show no capacity"),
        (sweep(100, 10, (0.2, 0.5), ()), "nothing that was offered broke the promise"),
        (sweep(100, 10, (), (1.5, 2)), "no offered rate kept the promise"),
        ([offered(100, 10, 5, 1.0, slo=None)], "no SLO was declared"),
        (sweep(100, 10, (1.0,), (1.5,)) + sweep(100, 20, (1.0,), (1.5,), target="u"), "several servers"),
    ],
)
def test_a_shape_whose_capacity_is_not_known_is_left_out_and_said(runs, reason):
    """No number is made of loads that show no capacity: the workload is named with its reason."""
    known = at_capacity(runs, D("3.6"))
    assert known.shapes == ()
    assert {run.cell.workload in name for run in runs for name in known.left_out} >= {True}
    assert all(reason in said for said in known.left_out.values())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: parse(["INFO nothing here"], "x"), "too few engine steps"),
        (lambda: fit_shapes([ShapeCost(1, 1, 1.0)] * 6), "too few shapes"),
        (lambda: fit_shapes([ShapeCost(i, 1, float("nan")) for i in range(6)]), "not an amount"),
        (lambda: split_paid(D("NaN"), Shares("x", 1, 0, 0), Traffic(1, 0, 0)), "not an amount"),
    ],
)
def test_bad_input_is_an_error_of_three_lines(make, says):
    """What cannot be split is refused with what to do about it."""
    with pytest.raises(ConfigError, match=says) as error:
        make()
    assert len(str(error.value).splitlines()) == 3


def test_tokens_that_do_not_exist_have_no_unit_price():
    """A split over no cached tokens has None for their unit price, not 0."""
    split = split_paid(D(10), Shares("x", 0.5, 0, 0.5), Traffic(100, 0, 100))
    assert split.cached_usd_per_million is None
