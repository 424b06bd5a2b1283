"""The cheapest machines: one type, and a mix against brute force."""

import itertools
import json
import random
from dataclasses import replace
from decimal import Decimal as D
from fractions import Fraction as F

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.machines import instances_command as command
from harness.config.model.shape import load_model
from harness.planner.instances import (
    Candidate,
    Spot,
    candidates,
    cheapest_mix,
    serves,
    single_type,
)
from harness.planner.roofline import Shape, best_estimate, estimate
from harness.price.prices import day_of, instances, spot_price

TABLE = instances(day_of("20261124T113000Z"))


def candidate(name, usd, rps, purchase="on-demand"):
    return Candidate(name, purchase, "1 x X", D(str(usd)), rps, "measured", "", "2026-11-01")


def mix_by_brute_force(options, rps, headroom, spares, steady):
    """The lowest cost over all counts, with the requirement written out anew."""
    best, needed = None, F(str(rps)) / F(str(headroom))
    ranges = [range(int(needed / F(str(c.rps))) + spares + 2) for c in options]
    for counts in itertools.product(*ranges):
        used = [(c, n) for c, n in zip(options, counts, strict=True) if n]
        if not used:
            continue
        largest = max(F(str(c.rps)) for c, _ in used)
        if sum(F(str(c.rps)) * n for c, n in used) - spares * largest < needed:
            continue
        if sum(F(str(c.rps)) * n for c, n in used if c.purchase != "spot") < F(str(steady)) * needed:
            continue
        cost = sum(c.usd_per_hour * n for c, n in used)
        best = cost if best is None else min(best, cost)
    return best


def test_mix_is_the_brute_force():
    """In 120 random cases of two or three machines the integer programme finds the cheapest fleet, to the cent."""
    draw, mixed = random.Random(9), 0
    for _ in range(120):
        options = [
            candidate(
                f"p/{n}", round(draw.uniform(0.5, 20), 2), round(draw.uniform(1, 20), 1),
                draw.choice(["on-demand", "on-demand", "spot"]) if n else "on-demand",
            )
            for n in range(draw.randint(2, 3))
        ]  # fmt: skip
        rps, spares = round(draw.uniform(1, 40), 1), draw.randint(0, 2)
        headroom, steady = draw.choice([0.7, 1]), draw.choice([0, 0.5, 1])
        mix = cheapest_mix(options, rps, headroom=headroom, spares=spares, steady=steady)
        assert mix.usd_per_hour == mix_by_brute_force(options, rps, headroom, spares, steady), (options, rps, spares)
        assert serves(mix.machines, rps, headroom=headroom, spares=spares, steady=steady)
        mixed += len(mix.machines) > 1
    assert mixed > 10


def test_one_type_is_exact_at_its_edge():
    """0.7 x 10 rps at 21 rps are 3 machines and a spare, cheapest type first, spot never alone."""
    options = [candidate("p/a", 3, 10), candidate("p/b", 1, 2), candidate("p/s", "0.1", 10, "spot")]
    found = single_type(options, 21, headroom=0.7, spares=1)
    assert [(c.name, n) for choice in found for c, n in choice.machines] == [("p/a", 4), ("p/b", 16)]
    assert found[0].usd_per_hour == 12
    assert found[0].utilisation == 21 / 40
    assert found[0].usd_per_1000_requests == D(12) * 1000 / 3600 / 21
    assert found[0].usd_per_month == 12 * D("730.5")
    assert [c.name for choice in single_type(options, 21, at_most={"a": 3}) for c, _ in choice.machines] == ["p/b"]


def test_more_spares_are_never_cheaper():
    """Mixes and single types both."""
    draw = random.Random(3)
    options = [candidate(f"p/{n}", round(draw.uniform(1, 9), 2), round(draw.uniform(1, 9), 1)) for n in range(6)]
    mixes = [cheapest_mix(options, 50, spares=spares).usd_per_hour for spares in range(4)]
    assert mixes == sorted(mixes)
    singles = [single_type(options, 50, spares=spares)[0].usd_per_hour for spares in range(4)]
    assert singles == sorted(singles)
    assert all(mix <= single for mix, single in zip(mixes, singles, strict=True))


def test_limits_hold_over_both_ways_to_buy():
    """At most two of a machine are two in all, on demand and spot together; where that cannot serve, it is an error."""
    options = [candidate("p/a", 3, 10), candidate("p/a", 1, 10, "spot"), candidate("p/b", 9, 10)]
    mix = cheapest_mix(options, 28, headroom=1, spares=0, steady=0, at_most={"p/a": 2})
    assert sum(n for c, n in mix.machines if c.name == "p/a") == 2
    assert mix.usd_per_hour == 1 + 1 + 9
    with pytest.raises(ConfigError, match="no fleet can serve"):
        cheapest_mix(options[:2], 28, headroom=1, spares=0, steady=0, at_most={"p/a": 2})
    with pytest.raises(ConfigError, match="not one of the candidates"):
        cheapest_mix(options, 28, at_most={"p/c": 1})


@pytest.mark.parametrize(
    ("text", "on_demand", "usd"),
    [
        ("0.2132-0.2160", "0.526", "0.2160"),
        ("1.7461 (one AZ)", "8.28", "1.7461"),
        ("47.87 (us-central1: 42.7096+5.15632)", "87.83", "47.87"),
        ("40.972 GPU part", None, None),
        ("", "1", None),
        ("3", "3", None),
        ("5", "3", None),
    ],
)
def test_spot_column(text, on_demand, usd):
    """The dear end of a range; a part of a machine, a blank, or a price not below on demand is no price."""
    assert spot_price(text, on_demand and D(on_demand)) == (usd and D(usd))


def test_the_price_table_is_read_whole():
    """Every row with its memory and bandwidth; spot below on demand everywhere; g5.12xlarge has 96 GB."""
    table = TABLE
    assert len(table) == 77
    assert all(m.gpu_mem_gb_each and m.gpu_mem_bw_gb_per_s_each for m in table)
    assert all(m.spot_usd < m.usd_per_hour for m in table if m.spot_usd and m.usd_per_hour)
    g5 = next(m for m in table if m.full_name == "aws/g5.12xlarge")
    assert (g5.gpu_count * g5.gpu_mem_gb_each, g5.usd_per_hour, g5.spot_usd) == (96, D("5.672"), D("2.7858"))


def test_measured_capacities_beat_estimates():
    """A measured rate is used and says so; the rest is estimated and says so; a missing price is left out with its reason."""
    found, left_out = candidates(
        table=TABLE,
        measured={"runpod/secure_h100_sxm": 32.26},
        model=load_model("qwen3-8b"),
        shape=Shape(prompt_tokens=1024, output_tokens=128, tpot_s=0.05, weight_dtype="fp8"),
    )
    basis = {c.name: (c.basis, c.rps) for c in found}
    assert basis["runpod/secure_h100_sxm"] == ("measured", 32.26)
    assert basis["runpod/community_h100_sxm"][0] == "estimate"
    assert any("p5e.48xlarge" in r.name and "no on-demand price" in r.why for r in left_out)
    assert not any(c.name == "aws/p5e.48xlarge" for c in found)
    assert all(c.usd_per_hour > 0 for c in found)


@pytest.mark.parametrize("lacking", ["gpu_mem_gb_each", "gpu_mem_bw_gb_per_s_each", "model", "shape"])
def test_what_cannot_be_estimated_is_left_out_with_its_reason(lacking):
    """Without the machine's memory or bandwidth, the model or the shape there is no estimate; a measured rate needs none of them."""
    g5 = next(m for m in TABLE if m.full_name == "aws/g5.12xlarge")
    known = {"model": load_model("llama-3.1-8b"), "shape": Shape(prompt_tokens=512, output_tokens=128)}
    table = (replace(g5, **{lacking: None}),) if lacking not in known else (g5,)
    known = {name: value for name, value in known.items() if name != lacking}
    found, left_out = candidates(table=table, **known)
    assert found == ()
    assert [r.why for r in left_out] == [
        "not measured, and no model and shape to estimate from"
        if lacking in ("model", "shape")
        else "no memory or bandwidth in the price table"
    ]
    (measured, *_), _ = candidates(table=table, measured={"g5.12xlarge": 9}, **known)
    assert (measured.rps, measured.basis, measured.detail) == (9, "measured", "")


def test_only_measured_without_a_model():
    """No model, no estimates: unmeasured machines are left out, not guessed."""
    found, left_out = candidates(table=TABLE, measured={"g5.12xlarge": 9}, commitments={"g5.12xlarge": "3.1"})
    assert [(c.name, c.purchase) for c in found] == [
        ("aws/g5.12xlarge", "on-demand"),
        ("aws/g5.12xlarge", "commitment"),
    ]
    assert len(left_out) == 76
    spot, _ = candidates(
        table=TABLE, measured={"g5.12xlarge": 9}, spot=Spot(interruptions_per_hour=0.1, lost_hours=0.5, unavailable=0.1)
    )
    price = next(c.usd_per_hour for c in spot if c.purchase == "spot")
    assert price == pytest.approx(D("0.9") * D("2.7858") / D("0.95") + D("0.1") * D("5.672"))


def test_roofline_near_a_measurement():
    """Qwen3-8B FP8, 1,024 in and 128 out under 50 ms: 32.26 rps was measured on an H100, the estimate is within a third."""
    shape = Shape(prompt_tokens=1024, output_tokens=128, tpot_s=0.05, weight_dtype="fp8")
    guess = best_estimate(load_model("qwen3-8b"), shape, "H100-SXM", 1, memory_gb_each=80, bandwidth_gb_per_s_each=3350)
    assert 32.26 / 1.34 < guess[0] < 32.26 * 1.34


def test_roofline_ceilings():
    """One stream of a BF16 70B is bound by reading its weights: 4 x A10G cannot do 125 tokens/s, and it does not fit them."""
    model = load_model("llama-3.3-70b")
    ideal = {"compute_efficiency": 1, "bandwidth_efficiency": 1}
    shape = Shape(prompt_tokens=1, output_tokens=500, tpot_s=0.1, **ideal)
    h100 = estimate(model, shape, flops=989e12, bandwidth_bytes_per_s=3.35e12, memory_bytes=80e9, gpus=4)
    single = 1 / (2 * model.parameters / 4 / 3.35e12)
    assert 1 / h100.tpot_s < single < 125
    why = best_estimate(model, shape, "A10G", 4, memory_gb_each=24, bandwidth_gb_per_s_each=600)
    assert why == "weights of 141 GB do not fit in 86 GB"


def test_roofline_keeps_the_promise_and_falls_with_length():
    """Inside the asked time per token; a stricter one, or a longer prompt, never serves more."""
    model = load_model("llama-3.1-8b")
    rates = []
    for tpot in (0.2, 0.05, 0.02):
        shape = Shape(prompt_tokens=512, output_tokens=128, tpot_s=tpot)
        one = estimate(model, shape, flops=989e12, bandwidth_bytes_per_s=3.35e12, memory_bytes=80e9, gpus=1)
        assert one.tpot_s <= tpot
        rates.append(one.rps)
    assert rates == sorted(rates, reverse=True)
    none = Shape(prompt_tokens=512, output_tokens=128, tpot_s=1e-6)
    assert estimate(model, none, flops=989e12, bandwidth_bytes_per_s=3.35e12, memory_bytes=80e9, gpus=1) is None
    with pytest.raises(ConfigError, match="longer than"):
        estimate(load_model("llama-2-70b"), Shape(prompt_tokens=4000, output_tokens=128), flops=1, bandwidth_bytes_per_s=1,
                 memory_bytes=1, gpus=1)  # fmt: skip


@pytest.mark.parametrize(
    ("kwargs", "what"),
    [
        ({"measured": {"g5.12xlage": 1}}, "g5.12xlarge"),
        ({"measured": {"g5.12xlarge": 0}}, "is 0"),
        ({"measured": {"g5.12xlarge": "nan"}}, "not a number"),
        ({"measured": {"g5.12xlarge": 1}, "commitments": {"g5.12xlarge": -1}}, "negative"),
        ({"provider": "amazon"}, "no such provider"),
    ],
)
def test_bad_input_is_refused(kwargs, what):
    """Unknown names give the nearest; zero, NaN and negative numbers are errors."""
    with pytest.raises(ConfigError, match=what) as error:
        candidates(table=TABLE, **kwargs)
    assert str(error.value).count("\n") == 2


def test_bad_rates_are_refused():
    """No rate, too much headroom, nothing to choose from."""
    options = [candidate("p/a", 3, 10)]
    for rps, headroom in ((0, 0.7), (float("nan"), 0.7), (1, 1.1), (1, 0)):
        with pytest.raises(ConfigError):
            cheapest_mix(options, rps, headroom=headroom)
    with pytest.raises(ConfigError, match="no machine"):
        cheapest_mix([], 1)


def test_command():
    """The cheapest fleet in the first line; an estimate says so there; --json has the reasons of what was left out."""
    words = [
        "--at",
        "2026-11-24",
        "--rps",
        "30",
        "--measured",
        "runpod/secure_h100_sxm=32.26",
        "--measured",
        "g5.12xlarge=9",
    ]
    said = CliRunner().invoke(command, words, catch_exceptions=False).output
    assert said.startswith("Cheapest for 30 requests/s: 3 x runpod/secure_h100_sxm (on-demand), $11.97/h")
    assert "ESTIMATE" not in said
    guess = [
        "--rps",
        "30",
        "--model",
        "qwen3-8b",
        "--prompt-tokens",
        "1024",
        "--output-tokens",
        "128",
        "--provider",
        "aws",
    ]
    assert "ESTIMATE" in CliRunner().invoke(command, guess, catch_exceptions=False).output
    shown = json.loads(CliRunner().invoke(command, [*guess, "--json"], catch_exceptions=False).output)
    assert all(c["basis"] == "estimate" for c, _ in shown["mix"]["machines"])
    assert D(shown["mix"]["usd_per_hour"]) <= D(shown["single_type"][0]["usd_per_hour"])
    assert isinstance(CliRunner().invoke(command, ["--rps", "30", "--measured", "x"]).exception, ConfigError)
    assert isinstance(CliRunner().invoke(command, ["--rps", "30", "--model", "qwen3-8b"]).exception, ConfigError)
    assert isinstance(CliRunner().invoke(command, ["--rps", "30"]).exception, ConfigError)
