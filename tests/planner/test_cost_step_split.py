"""The step regression and the split of a paid amount as whole records, from steps whose costs are exact or worked out by hand."""

from __future__ import annotations

from dataclasses import asdict, replace
from decimal import Decimal as D

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.planner.attribution.split import (
    CostSplit,
    Shares,
    StepFit,
    Traffic,
    cached_share_of_kv,
    fit_steps,
    split_paid,
    step_shares,
)
from harness.planner.attribution.step_log import PRINTED, WHOLE_SECONDS, Steps

T0, A, B, K = 0.006, 2e-5, 4e-5, 1e-8


def steps_of(rows, kv=True, timed_by=PRINTED, shapes=None, resolution_s=1e-5, seconds=None):
    """Rows of (steps, prefill tokens, decode sequences, KV tokens), timed exactly unless `seconds` says otherwise."""
    n, prefill, decode, read = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    took = n * T0 + A * prefill + B * decode + (K * read if kv else 0)
    return Steps(
        took if seconds is None else np.array(seconds), n, prefill, decode, read if kv else None, shapes or ("x",) * len(rows),
        timed_by, resolution_s, tuple(float(c.sum()) for c in (n, prefill, decode, read)),
    )  # fmt: skip


ROWS = [
    (1, 500, 0, 0), (1, 100, 1, 5000), (2, 30, 8, 9000), (1, 0, 4, 2000), (1, 0, 5, 7000), (1, 9, 16, 8000), (1, 0, 17, 9000),
    (1, 4, 64, 80_000), (1, 0, 65, 60_000), (1, 0, 200, 10_000),
]  # fmt: skip
BANDS = ["0", "1-4", "5-16", "17-64", "65+"]


def test_exact_steps_come_back_whole():
    """Every constant, no error at any load or from the other shape, nothing unexplained, no warning."""
    steps = steps_of(ROWS, shapes=("a", "b") * 5)
    found = asdict(fit_steps(steps))
    nothing = pytest.approx(0, abs=1e-9)
    assert found == {
        "t0_s": pytest.approx(T0), "prefill_s": pytest.approx(A), "decode_s": pytest.approx(B), "kv_s": pytest.approx(K),
        "rows": 10, "r2": pytest.approx(1), "unexplained": nothing, "residual_by_load": dict.fromkeys(BANDS, nothing),
        "left_out_error": {"a": nothing, "b": nothing}, "timed_by": PRINTED, "warnings": (),
    }  # fmt: skip
    assert list(found["residual_by_load"]) == BANDS


def test_a_cache_whose_use_is_not_known():
    """No coefficient of its own, and a warning."""
    fit = fit_steps(steps_of(ROWS, kv=False))
    assert (fit.t0_s, fit.prefill_s, fit.decode_s, fit.kv_s) == (
        pytest.approx(T0),
        pytest.approx(A),
        pytest.approx(B),
        0.0,
    )
    assert [w.partition(":")[0] for w in fit.warnings] == ["KV cache use is not in the log"]
    assert fit.left_out_error == {}


def test_whole_seconds_are_warned_of():
    """Also where they are one way of several."""
    for timed_by in (WHOLE_SECONDS, f"{PRINTED}; {WHOLE_SECONDS}"):
        fit = fit_steps(steps_of(ROWS, timed_by=timed_by))
        assert fit.timed_by == timed_by
        assert [w.partition(":")[0] for w in fit.warnings] == ["timed by whole seconds"]


def two_values(low, high, count=8):
    """Steps of one content in two times; one more, of a prompt alone, holds the other phase and is fitted exactly."""
    rows = [(1, 0, 1, 0)] * count + [(1, 10**6, 0, 0)]
    return rows, [low, high] * (count // 2) + [50.0]


def test_what_a_fit_says_of_itself():
    """Equal steps that took 1 and 2 s: fitted with 1.2 (weights are 1 / y^2), which is 20 % above one and 40 % below the other."""
    rows, seconds = two_values(1.0, 2.0)
    fit = fit_steps(steps_of(rows, kv=False, seconds=seconds, resolution_s=0.0))
    assert fit.t0_s + fit.decode_s == pytest.approx(1.2)
    assert fit.t0_s + fit.prefill_s * 10**6 == pytest.approx(50)
    mean = (4 * 3 + 50) / 9
    spread = 4 * ((1 - mean) ** 2 + (2 - mean) ** 2) + (50 - mean) ** 2
    assert fit.r2 == pytest.approx(1 - 4 * (0.2**2 + 0.8**2) / spread)
    assert fit.unexplained == pytest.approx(1 - (8 * 1.2 + 50) / 62)
    assert fit.residual_by_load == pytest.approx({"0": 0.0, "1-4": (0.2 - 0.4) / 2}, abs=1e-9)
    assert fit.rows == 9


@pytest.mark.parametrize(("high", "warned"), [(1.98, False), (2.02, True)])
def test_a_fit_that_misses_half_of_the_steps_by_a_fifth_says_so(high, warned):
    """1 s and 2 s are missed by 20 % at the median: a little less apart by less, a little more by more."""
    rows, seconds = two_values(1.0, high)
    fit = fit_steps(steps_of(rows, kv=False, seconds=seconds, resolution_s=0.0))
    assert any("half of the steps are missed by more than 20%" in w for w in fit.warnings) == warned


def test_the_clocks_resolution_evens_out_the_weights():
    """A clock of whole hours tells 1 s from 2 s as little as 2 from 1: the mean."""
    rows, seconds = two_values(1.0, 2.0)
    fit = fit_steps(steps_of(rows, kv=False, seconds=seconds, resolution_s=3600.0, shapes=("a", "b") * 4 + ("b",)))
    assert fit.t0_s + fit.decode_s == pytest.approx(1.5)
    # a: its 1 s from b, all of 2 s; b: its 2 s from a's 1 s, and nothing known of a prompt
    assert fit.left_out_error["a"] == pytest.approx(1.0)


def test_steps_that_are_missed_are_warned_of():
    """Half of them by more than a fifth, and more than a tenth of the time not reached."""
    rows, seconds = two_values(1.0, 3.0)  # fitted with 1.2: 20 % above, 60 % below
    fit = fit_steps(steps_of(rows, kv=False, seconds=seconds, resolution_s=0.0))
    assert [w for w in fit.warnings if w.startswith("half of the steps")] != []
    assert not any("not explained" in w for w in fit.warnings)  # 59.6 of 66 s
    rows, seconds = two_values(1.0, 3.0, count=40)  # 98 of 130 s
    fit = fit_steps(steps_of(rows, kv=False, seconds=seconds, resolution_s=0.0))
    assert "25% of the measured time is not explained by the steps' contents" in fit.warnings


def test_rows_that_all_took_the_same_have_no_r2():
    """There is no spread to explain."""
    rows = [(n, 100 - n, 3, 0) for n in range(1, 9)]
    assert fit_steps(steps_of(rows, kv=False, seconds=[1.0] * 8)).r2 is None
    for seconds in ([1.0] * 7 + [1.001], [1e-3] * 7 + [1.1e-3]):  # whatever their unit
        assert fit_steps(steps_of(rows, kv=False, seconds=seconds)).r2 is not None


def test_load_is_a_mean_over_the_steps_of_a_row():
    """40 sequences in 10 steps are 4 a step; 4.4 are rounded to it."""
    rows = [(10, 100, 40, 0), (10, 50, 44, 0), (10, 0, 46, 0), (1, 5, 0, 0)]
    assert list(fit_steps(steps_of(rows, kv=False)).residual_by_load) == ["0", "1-4", "5-16"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"seconds": np.array([1.0] * 9 + [0.0])}, "step times are not usable"),
        ({"seconds": np.array([1.0] * 9 + [-1.0])}, "step times are not usable"),
        ({"seconds": np.array([1.0] * 9 + [np.inf])}, "step times are not usable"),
        ({"kv_tokens": np.array([1.0] * 9 + [np.nan])}, "step times are not usable"),
        ({"prefill_tokens": np.zeros(10)}, "steps of one kind only"),
        ({"decode_seqs": np.zeros(10)}, "steps of one kind only"),
    ],
)
def test_steps_that_cannot_be_fitted(change, what):
    """Times that are none, and one phase alone."""
    with pytest.raises(ConfigError) as error:
        fit_steps(replace(steps_of(ROWS), **change))
    assert error.value.what == what


FIT = StepFit(0.5, 0.01, 0.02, 0.001, 1, 1.0, 0.0, {}, {}, PRINTED, ())
NAMES = (
    "direct: the shared step time follows direct costs", "incremental: output carries the shared step time",
    "incremental: input carries the shared step time",
)  # fmt: skip


def test_shares_of_every_step():
    """10 steps of 0.5 s, 300 prompt tokens: 3 s, 100 decoded: 2 s, 1,000 read: 1 s, a quarter of it out of the prefix cache."""
    steps = replace(steps_of(ROWS), every_step=(10.0, 300.0, 100.0, 1000.0))
    assert step_shares(FIT, steps) == (
        Shares(NAMES[0], 3 / 6, 0, 3 / 6),
        Shares(NAMES[1], 3 / 11, 0, 8 / 11),
        Shares(NAMES[2], 8 / 11, 0, 3 / 11),
    )
    assert step_shares(FIT, steps, 0.25) == (
        Shares(NAMES[0], 3 / 6, 0.25 / 6, 2.75 / 6),
        Shares(NAMES[1], 3 / 11, 0.25 / 11, 7.75 / 11),
        Shares(NAMES[2], 8 / 11, 0.25 / 11, 2.75 / 11),
    )
    assert step_shares(FIT, steps, 1)[0].cached_share == 1 / 6


@pytest.mark.parametrize("cached", [-0.01, 1.01])
def test_a_share_of_the_cache_is_a_share(cached):
    """Between 0 and 1."""
    with pytest.raises(ConfigError, match="share of cached KV out of range"):
        step_shares(FIT, steps_of(ROWS), cached)


def test_a_fit_without_direct_costs_shares_nothing_out():
    """All of the time in the empty step: there is nothing that it could follow."""
    with pytest.raises(ConfigError, match="the fit explains no time"):
        step_shares(replace(FIT, prefill_s=0.0, decode_s=0.0, kv_s=0.0), steps_of(ROWS))


def test_reads_out_of_the_prefix_cache():
    """(2 x 30 + 4 x 0) of 2 x (50 + 1) + 4 x (10 + 2); nothing read, nothing cached."""
    assert cached_share_of_kv([(50, 30, 2, 9), (10, 0, 4, 9)]) == 60 / 150
    assert cached_share_of_kv([(50, 30, 0, 0)]) == 0.0
    assert cached_share_of_kv([]) == 0.0


# ---------------------------------------------------------------- dollars


def test_a_paid_amount_shared_out():
    """$10.01 by 0.3, 0.25 and 0.45: cents rounded down, output takes the rest; unit prices are of unrounded amounts."""
    assert split_paid(D("10.01"), Shares("how", 0.3, 0.25, 0.45), Traffic(3000, 2000, 1000)) == CostSplit(
        method="how", paid_usd=D("10.01"), input_usd=D("3.00"), cached_usd=D("2.50"), output_usd=D("4.51"),
        input_usd_per_million=D(3003) / 3, cached_usd_per_million=D("2502.5") / 2, output_usd_per_million=D("4504.5"),
        price_ratio=D("4.5"),
    )  # fmt: skip


def test_an_amount_of_parts_of_a_cent_is_paid_in_cents():
    """$0.016 are two cents: nothing for input's 0.8, all for output."""
    split = split_paid(D("0.016"), Shares("how", 0.5, 0, 0.5), Traffic(1000, 0, 1000))
    assert (split.paid_usd, split.input_usd, split.cached_usd, split.output_usd) == (
        D("0.02"),
        D("0.00"),
        D("0.00"),
        D("0.02"),
    )
    assert (split.input_usd_per_million, split.price_ratio) == (8, 1)
    assert split_paid(D(0), Shares("how", 0.5, 0, 0.5), Traffic(1000, 0, 1000)).output_usd == 0


@pytest.mark.parametrize(
    ("shares", "traffic", "prices"),
    [
        (Shares("x", 0.5, 0, 0.5), Traffic(0, 0, 1000), (None, None, 5000, None)),
        (Shares("x", 0.5, 0, 0.5), Traffic(1000, 0, 0), (5000, None, None, None)),
        (Shares("x", 0.0, 0, 1.0), Traffic(1000, 0, 1000), (0, None, 10_000, None)),  # no ratio over nothing
        (Shares("x", 1.0, 0, 0.0), Traffic(1000, 1, 1000), (10_000, 0, 0, 0)),
    ],
)
def test_unit_prices_of_tokens_that_there_are(shares, traffic, prices):
    """None where there are no such tokens; the ratio where both prices are known."""
    found = split_paid(D(10), shares, traffic)
    assert prices == (
        found.input_usd_per_million, found.cached_usd_per_million, found.output_usd_per_million, found.price_ratio,
    )  # fmt: skip


@pytest.mark.parametrize("output", [0.5 + 9e-10, 0.5 - 9e-10])
def test_shares_are_whole_to_a_billionth(output):
    """As far as sums of floats may be off."""
    assert split_paid(D(10), Shares("x", 0.5, 0, output), Traffic(1, 0, 1)).paid_usd == 10


@pytest.mark.parametrize(
    ("paid", "shares", "what"),
    [
        (D("-0.01"), Shares("x", 1, 0, 0), "paid amount is not an amount"),
        (D("Infinity"), Shares("x", 1, 0, 0), "paid amount is not an amount"),
        (D(1), Shares("x", 0.5, 0, 0.5 + 2e-9), "shares do not add up to the whole"),
        (D(1), Shares("x", 0.5, 0, 0.5 - 2e-9), "shares do not add up to the whole"),
        (D(1), Shares("x", -0.5, 0.5, 1), "shares do not add up to the whole"),
        (D(1), Shares("x", 0.5, -0.5, 1), "shares do not add up to the whole"),
    ],
)
def test_splits_that_are_refused(paid, shares, what):
    """No amount, or not the whole of it."""
    with pytest.raises(ConfigError) as error:
        split_paid(paid, shares, Traffic(1, 0, 1))
    assert error.value.what == what
