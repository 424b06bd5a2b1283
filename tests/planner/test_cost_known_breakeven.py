"""Break-even sets, hybrid optima and fleets against a script that shares no code with the harness: it walks and evaluates.

Only the commands are called. The script knows the rules in words: whole replicas for each hour, spares, dollars an hour, a bill
that is at least its minimum; it tries every rate of a fine grid and halves where the cheaper side changes, and every number of
replicas. Shapes are read from the published file.
"""

from __future__ import annotations

import json
import math
from fractions import Fraction as F
from pathlib import Path
from statistics import NormalDist

import pytest
from click.testing import CliRunner

from harness.cli.breakeven import breakeven
from harness.cli.fleet import fleet, hybrid

MONTH_H = F("730.5")
SHAPES = json.loads((Path(__file__).parents[2] / "configs/prices/demand_shapes.json").read_text())["shapes"]


def said(command, **words):
    """What a command says as JSON; True is a flag without a value."""
    args = [part for key, value in words.items() for part in ([f"--{key.replace('_', '-')}"] if value is True else [f"--{key.replace('_', '-')}", str(value)])]  # fmt: skip
    done = CliRunner().invoke(command, [*args, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def replicas(rate, mu):
    """The fewest whole replicas whose rates add up to this one, by counting."""
    count = math.floor(rate / mu)
    while count * mu < rate:
        count += 1
    return count


def own_usd(rate, mu, c, *, shape=(1,), spares=0, fixed=0, peak=None):
    """Dollars an hour at this mean rate: in each hour of the shape, or of its peak at all hours."""
    total = sum(map(F, shape))
    hours = [F(x) * len(shape) / total for x in shape] if peak is None else [F(peak)]
    return c * (F(sum(replicas(rate * hour, mu) for hour in hours), len(hours)) + spares) + fixed


def crossings(mu, c, p, up_to, *, minimum=0, steps=6000, **fleet_words):
    """Every change of the cheaper side up to a rate: a grid of `steps` rates, halved where it changes. Hosted is it at rate 0-."""
    mu, c, p, minimum = F(str(mu)), F(str(c)), F(str(p)), F(str(minimum))

    def own_is_cheaper(rate):
        return own_usd(rate, mu, c, **fleet_words) < max(minimum / MONTH_H, 3600 * p * rate)

    low, side, found = F(0), False, []
    for n in range(1, steps + 1):
        high = F(up_to) * n / steps
        if n == 1 and own_is_cheaper(high / 1000):
            found.append((0.0, "self"))
            side = True
        if own_is_cheaper(high) != side:
            a, b = low, high
            for _ in range(60):
                middle = F(float((a + b) / 2))
                a, b = (middle, b) if own_is_cheaper(middle) == side else (a, middle)
            side = not side
            found.append((float(b), "self" if side else "hosted"))
        low = high
    return found


QWEN = {"mu": "22.582", "c": "3.49"}  # Qwen3-8B FP8 at 0.7 of 32.26 rps, one H100
OWN_DAY = [1, 1, 2, 7, 3, 2]
BREAK_EVENS = {
    "published, no spare": (QWEN | {"p": "0.0000614"}, 120, {}),
    "published, one spare": (QWEN | {"p": "0.0000614", "spares": 1}, 200, {}),
    "published, one spare and $25/h of labour": (QWEN | {"p": "0.0000614", "spares": 1, "fixed": 25}, 700, {}),
    "dearer host": (QWEN | {"p": "0.000178"}, 100, {}),
    "$20,000 committed against two small machines": ({"mu": 5, "c": 4, "p": "0.0002", "spares": 1, "minimum": 20_000}, 60, {}),
    "a commitment that hosted outgrows": (QWEN | {"p": "0.0000614", "spares": 1, "minimum": 12_000}, 300, {}),
    "a day of one's own, autoscaled": ({"mu": 4, "c": 2, "p": "0.0002", "spares": 1}, 60, {"shape": OWN_DAY}),
    "a day of one's own in steps of 10 minutes, committed": ({"mu": 4, "c": 2, "p": "0.0002", "spares": 1, "minimum": 4000}, 60, {"shape": OWN_DAY}),
    "m-small, a fixed fleet at 2.06 x its mean": ({"mu": 10, "c": 3, "p": "0.0003", "spares": 1}, 60, {"peak": "2.06"}),
    "m-small, a fixed fleet under a commitment": ({"mu": 10, "c": 3, "p": "0.0001", "fixed": 2, "minimum": 9000}, 60, {"peak": "2.06"}),
}  # fmt: skip


@pytest.mark.parametrize("name", BREAK_EVENS)
def test_break_even_sets(name, tmp_path):
    """Every crossing up to a rate, its side, and whether self-hosting stays: as the walk along the rates finds them."""
    numbers, up_to, curve = BREAK_EVENS[name]
    words = {"capacity_rps": numbers["mu"], "replica_usd_per_hour": numbers["c"], "hosted_usd_per_request": numbers["p"],
             "spares": numbers.get("spares", 0), "fixed_usd_per_hour": numbers.get("fixed", 0),
             "hosted_minimum_usd_per_month": numbers.get("minimum", 0)}  # fmt: skip
    if "shape" in curve:
        step_s = 600 if "10 minutes" in name else 3600
        (tmp_path / "day.yaml").write_text(json.dumps({"rps": curve["shape"], "step_s": step_s}))
        words["demand"] = tmp_path / "day.yaml"
    elif "peak" in curve:
        assert SHAPES["m-small"]["peak_hour_to_mean"] == float(curve["peak"])
        words |= {"demand": "m-small", "fixed_fleet": True}
    found = said(breakeven, **words)
    walked = crossings(up_to=up_to, **numbers, **curve)
    listed = [(x["rps"], x["cheaper_above"]) for x in found["crossings"] if x["rps"] < up_to]
    assert [side for _, side in listed] == [side for _, side in walked]
    assert [rps for rps, _ in listed] == pytest.approx([rps for rps, _ in walked], rel=1e-6)
    assert (found["permanent_rps"] is not None) == (walked[-1][1] == "self")
    assert len(walked) >= (2 if "committ" in name else 1)


def days(shape, peak, mean):
    """Two weeks of an averaged day: 14 lognormal days at the middles of equal probability, the highest hour as published."""
    relative = [x * len(shape) / sum(shape) for x in shape]
    best = None
    for n in range(1, 20_001):  # of the spread of days, by trying
        each = [math.exp(n / 20_000 * NormalDist().inv_cdf((d + 0.5) / 14)) for d in range(14)]
        each = [x * 14 / sum(each) for x in each]
        off = abs(max(each) * max(relative) - peak)
        best = min(best or (off, each), (off, each))
    return [mean * day * hour for day in best[1] for hour in relative]


def best_hybrid(rates, mu, c, p, minimum=0.0):
    """(dollars an hour, replicas) of the cheapest number that is always on, by trying them all."""
    found = []
    for k in range(math.ceil(max(rates) / mu) + 2):
        over = sum(max(0.0, rate - k * mu) for rate in rates) / len(rates)
        found.append((c * k + max(minimum / 730.5, 3600 * p * over), k))
    return min(found)


@pytest.mark.parametrize(
    ("shape", "mean", "p", "minimum", "published"),
    [
        ("m-large", 195.8, 0.0614e-3, 0, 7),
        ("m-large", 195.8, 0.178e-3, 0, None),
        ("m-small", 60, 0.0614e-3, 5_000, None),
        ("m-mid", 100, 0.1e-3, 8_000, None),
    ],
)
def test_hybrid_optima(shape, mean, p, minimum, published):
    """Replicas, dollars, what is hosted and its peak of the best hybrid: as trying every number over the days says."""
    known = SHAPES[shape]
    rates = days(known["hourly"], known["peak_hour_to_mean"], mean)
    usd, k = best_hybrid(rates, 0.7 * 32.26, 3.49, p, minimum)
    found = said(
        hybrid, capacity_rps=32.26, replica_usd_per_hour=3.49, hosted_usd_per_request=f"{p:.7f}", demand=shape, mean_rps=mean,
        hosted_minimum_usd_per_month=minimum,
    )["plan"]  # fmt: skip
    assert found["replicas"] == k
    assert float(found["usd_per_hour"]) == pytest.approx(usd, rel=1e-4)
    over = sum(max(0.0, rate - k * 0.7 * 32.26) for rate in rates) / sum(rates)
    assert found["hosted_share"] == pytest.approx(over, abs=2e-4)
    assert found["hosted_peak_rps"] == pytest.approx(known["peak_hour_to_mean"] * mean - k * 0.7 * 32.26, rel=1e-6)
    assert published in (None, k)


def up_and_down(counts, step_s, cold_s, unit_s):
    """Seconds paid: each replica by itself, its stretches one after the other; never kept through a pause."""
    paid = 0
    for n in range(1, max(counts) + 1):
        run = 0
        for up in [count >= n for count in counts]:
            if up:
                run += step_s
            elif run:
                paid, run = paid + math.ceil((run + cold_s) / unit_s) * unit_s, 0
        if run == len(counts) * step_s:
            paid += run
        elif run:
            paid += math.ceil((run + cold_s) / unit_s) * unit_s
    return paid


@pytest.mark.parametrize(
    ("step_s", "cold_s", "unit_s"), [(3600, 0, 1), (3600, 300, 60), (1800, 300, 1), (7200, 900, 3600)]
)
def test_autoscaled_fleets(step_s, cold_s, unit_s, tmp_path):
    """A day that rises once and falls once: each replica's hours, cold start and billed units, and a request's price."""
    rates = [3, 3, 8, 15, 31, 22, 9, 3]
    (tmp_path / "day.yaml").write_text(json.dumps({"rps": rates, "step_s": step_s}))
    cost = said(
        fleet, capacity_rps=5, replica_usd_per_hour=2, headroom=0.8, spares=1, demand=tmp_path / "day.yaml",
        cold_start_s=cold_s, billing_s=unit_s, labour_usd_per_hour=3, storage_usd_per_month=146.1,
    )["cost"]  # fmt: skip
    counts = [replicas(F(rate), F(4)) + 1 for rate in rates]
    assert cost["replicas"] == counts
    seconds = up_and_down(counts, step_s, cold_s, unit_s)
    assert float(cost["paid_replica_hours"]) == pytest.approx(seconds / 3600, rel=1e-12)
    hours = len(rates) * step_s / 3600
    usd = seconds / 3600 * 2 + (3 + 0.2) * hours
    assert float(cost["total_usd"]) == pytest.approx(usd, rel=1e-12)
    assert float(cost["usd_per_request"]) == pytest.approx(usd / (sum(rates) * step_s), rel=1e-12)
    assert cost["utilisation"] == pytest.approx(sum(rates) * step_s / (seconds * 5), rel=1e-12)


@pytest.mark.parametrize(("shape", "mean", "usd"), [("m-large", 195.8, 62.82), ("m-mid", 195.8, 59.33), ("m-small", 20, 10.47), ("mm-image", 20, 10.47)])  # fmt: skip
def test_fixed_fleets(shape, mean, usd):
    """Replicas for the published highest hour and a spare, at all hours: $62.82/h for m-large at 195.8 rps."""
    known = SHAPES[shape]
    peak = known["peak_hour_to_mean"] or max(known["hourly"]) * 24 / sum(known["hourly"])
    cost = said(
        fleet, capacity_rps=32.26, replica_usd_per_hour=3.49, demand=shape, mean_rps=mean, fixed_fleet=True
    )["cost"]  # fmt: skip
    count = replicas(F(str(mean)) * F(peak), F("22.582")) + 1
    assert set(cost["replicas"]) == {count}
    assert float(cost["usd_per_hour"]) == pytest.approx(count * 3.49)
    assert float(cost["usd_per_hour"]) == pytest.approx(usd, abs=0.005)
