"""Advice where it is true, with the dollars that are true; silence where it is noise, and where nothing is wrong."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

from harness.monitor.paid import paid_servers
from harness.monitor.view import view
from tests.monitor.known_fleet import HARDWARE, HOSTED, HOUR_NS, START_NS, hours, measured, spec, usage, whole

MONTH_DAYS = 730.5 / 24
OWN = {k: v for k, v in HARDWARE.items() if not k.startswith("gpu")} | {
    "usd_per_hour": 2.0
}  # no other machine to compare it with
CHEAP = HOSTED | {"input_usd_per_million": 0.01, "output_usd_per_million": 0.04}


def _advice(pool, steps, known=None, **more):
    made = spec(pool, **more)
    end = max(one.to_ns for one in steps)
    usages = whole(steps)
    paid = paid_servers(made, usages, START_NS, end)
    seen = view(
        made,
        usages,
        paid,
        from_ns=START_NS,
        to_ns=end,
        steps=steps,
        measured=[measured(boards=())] if known is None else known,
    )
    return {one.name: one for one in seen.advice}


def _servers(count):
    return tuple(f"s{at}:8000" for at in range(count))


def _pool(count, **more):
    return {
        "servers": [f"http://{s}/metrics" for s in _servers(count)],
        "hardware": OWN,
        "spares": 1,
        "headroom": 0.7,
    } | more


def _days(day, count, noise=0.0, seed=1):
    rng = np.random.default_rng(seed)
    return [max(0.0, rate * (1 + noise * rng.standard_normal())) for _ in range(count) for rate in day]


NIGHTLY = [2.0] * 8 + [20.0] * 16  # busy replicas 0.2 at night, 2 by day, at a capacity of 10/s


def test_replicas_that_no_night_needs_are_told_with_their_hours():
    """Four replicas at $2: by day 3 + 1 spare are needed, at night 1 + 1: two too many for 8 hours a day."""
    found = _advice(_pool(4), hours(_days(NIGHTLY, 7), servers=_servers(4)))["fewer_replicas"]
    assert float(found.usd_per_month) == pytest.approx(2 * 8 * 2 * MONTH_DAYS)
    assert "2 fewer replicas at 00:00-08:00 UTC" in found.says
    assert found.low_usd <= found.usd_per_month <= found.high_usd
    assert "7 days read of 2026-11-01 to 2026-11-07" in found.evidence


def test_a_fleet_that_fits_is_left_alone():
    assert "fewer_replicas" not in _advice(_pool(4), hours(_days([20.0] * 24, 7), servers=_servers(4)))


def test_nights_that_differ_too_much_are_noise():
    """On the mean a replica too many, but any night may need it: nothing is said."""
    rng = np.random.default_rng(3)
    rates = [rate for _ in range(7) for rate in [float(rng.choice([1.0, 13.0]))] * 24]
    assert "fewer_replicas" not in _advice(_pool(3), hours(rates, servers=_servers(3)))


def test_two_days_are_no_evidence():
    steps = hours(_days(NIGHTLY, 2), servers=_servers(4))
    assert _advice(_pool(4, hosted=[CHEAP]), steps) == {}


def test_without_a_capacity_no_replica_is_too_many():
    assert "fewer_replicas" not in _advice(_pool(4), hours(_days(NIGHTLY, 7), servers=_servers(4)), known=[])


def test_an_hour_that_was_not_read_keeps_its_replicas():
    """The nights were not read: what they needed is not known."""
    steps = hours(_days(NIGHTLY, 7), servers=_servers(4))
    blind = [one for one in steps if (one.from_ns // HOUR_NS) % 24 >= 3]
    found = _advice(_pool(4), blind)["fewer_replicas"]
    assert "03:00-08:00 UTC" in found.says


def test_a_cheaper_machine_with_the_same_gpus_is_named(monkeypatch):
    found = _advice(_pool(2, hardware=HARDWARE), hours([5.0] * 96, servers=_servers(2)), known=[])["cheaper_instance"]
    assert "1 x H100" in found.says
    assert 0 < found.usd_per_month < Decimal(repr(2 * 4 * 24 * MONTH_DAYS))
    cheap = HARDWARE | {"usd_per_hour": 0.5}
    assert "cheaper_instance" not in _advice(_pool(2, hardware=cheap), hours([5.0] * 96, servers=_servers(2)), known=[])


def test_prompts_that_repeat_beside_a_server_without_a_cache():
    """Half of the prompts' tokens are found beside it: half of its prompt work would be saved."""
    steps = []
    for one in hours([4.0] * 96, servers=_servers(2)):
        cached = 0.0 if one.server == "s0:8000" else one.counters["prompt_tokens"] / 2
        steps.append(
            usage(
                one.server,
                start=one.from_ns,
                end=one.to_ns,
                requests=one.counters["requests"],
                prompt=one.counters["prompt_tokens"],
                cached=cached,
                output=one.counters["output_tokens"],
            )
        )
    found = _advice(_pool(2), steps)["prefix_caching_off"]
    prompt_part = 100 / (100 + 4 * 20)
    assert float(found.usd_per_month) == pytest.approx(2 * 24 * MONTH_DAYS * prompt_part / 2, rel=1e-6)
    assert "s0:8000" in found.says
    assert "prefix_caching_off" not in _advice(_pool(2), hours([4.0] * 96, servers=_servers(2)))


def test_preemptions_that_eat_tokens():
    """One request in five is put back: its 100 + 10 tokens are computed again. One in a thousand is noise."""

    def steps(share):
        return [
            usage(
                one.server,
                start=one.from_ns,
                end=one.to_ns,
                requests=one.counters["requests"],
                prompt=one.counters["prompt_tokens"],
                output=one.counters["output_tokens"],
                preemptions=share * one.counters["requests"],
            )
            for one in hours([4.0] * 96)
        ]

    found = _advice(_pool(1, servers=["http://a:8000/metrics"]), steps(0.2))["preemptions"]
    assert float(found.usd_per_month) == pytest.approx(2 * 24 * MONTH_DAYS * 0.2 * 110 / 180, rel=1e-6)
    assert float(found.low_usd) == pytest.approx(2 * 24 * MONTH_DAYS * 0.2 * 100 / 180, rel=1e-6)
    assert "15.5%" in found.says
    assert "preemptions" not in _advice(_pool(1, servers=["http://a:8000/metrics"]), steps(0.001))


def test_a_hosted_model_that_is_cheaper_at_night_alone():
    """By day the machines are full and cheap, at night they stand idle and are paid."""
    day = [0.05] * 8 + [20.0] * 16
    ref = HOSTED | {"input_usd_per_million": 1.5, "output_usd_per_million": 1.5}
    found = _advice(_pool(4, hosted=[ref]), hours(_days(day, 5), servers=_servers(4)))["hosted_cheaper"]
    each = 120 * 1.5 / 1e6
    assert "them/m is cheaper at 00:00-08:00 UTC" in found.says
    assert float(found.usd_per_month) == pytest.approx(8 * (8 - each * 0.05 * 3600) * MONTH_DAYS, rel=1e-6)
    dear = ref | {"input_usd_per_million": 600.0, "output_usd_per_million": 600.0}
    assert "hosted_cheaper" not in _advice(_pool(4, hosted=[dear]), hours(_days(day, 5), servers=_servers(4)))


def test_a_hosted_model_that_is_cheaper_at_all_hours():
    found = _advice(
        _pool(1, servers=["http://a:8000/metrics"], hosted=[CHEAP]), hours(_days([4.0] * 24, 5, noise=0.2))
    )["hosted_cheaper"]
    assert "at all hours" in found.says
    assert found.low_usd < found.usd_per_month < found.high_usd


def test_a_hosted_model_that_is_dearer_on_some_days_is_noise():
    """The mean day says hosted by a little, the days swing far around it."""
    rng = np.random.default_rng(5)
    rates = [float(rng.choice([1.0, 29.0])) for _ in range(6) for _ in range(1) for _ in range(1)]
    steps = hours([rate for rate in rates for _ in range(24)])
    each = 2 / 3600 / (sum(rates) / len(rates)) * 0.98
    ref = HOSTED | {"input_usd_per_million": each * 1e6 / 120, "output_usd_per_million": each * 1e6 / 120}
    found = _advice(_pool(1, servers=["http://a:8000/metrics"], hosted=[ref]), steps)
    assert "hosted_cheaper" not in found


def test_hours_that_look_cheaper_by_chance_are_noise():
    """Own and hosted cost the same on average at every hour, and vary: of 40 such weeks at most two are advised about."""
    each = 2 / 3600 / 4.0
    ref = HOSTED | {"input_usd_per_million": each * 1e6 / 120, "output_usd_per_million": each * 1e6 / 120}
    pool = _pool(1, servers=["http://a:8000/metrics"], hosted=[ref])
    advised = [seed for seed in range(40) if _advice(pool, hours(_days([4.0] * 24, 7, noise=0.4, seed=seed)), known=[])]
    assert len(advised) <= 2, advised


def test_a_price_that_its_vendor_changed(monkeypatch):
    """Declared in July at $2, in the table since at $1.5: a quarter of what is paid."""
    from harness.monitor import advice
    from harness.price.prices import Instance

    row = Instance(
        "aws", "x1", "any", "CPU", 0, None, None, None, Decimal("1.5"), "", "", "table", "2026-10-15", "high", ""
    )
    monkeypatch.setattr(advice, "instances", lambda at: (row,))
    own = OWN | {"name": "aws/x1", "as_of": "2026-07-01"}
    found = _advice(_pool(1, servers=["http://a:8000/metrics"], hardware=own), hours([4.0] * 96))["price_change"]
    assert float(found.usd_per_month) == pytest.approx(2 * 24 * MONTH_DAYS / 4)
    newer = own | {"as_of": "2026-10-20"}
    assert "price_change" not in _advice(_pool(1, servers=["http://a:8000/metrics"], hardware=newer), hours([4.0] * 96))


def test_a_hosted_price_that_fell_and_turned_the_scale(monkeypatch):
    from harness.monitor import advice_hosted, hosted

    real = hosted.find_price

    def find(ref, at):
        return real(
            ref.model_copy(update={"input_usd_per_million": 9.0, "output_usd_per_million": 9.0}) if at.day < 3 else ref,
            at,
        )

    monkeypatch.setattr(hosted, "find_price", find)
    monkeypatch.setattr(advice_hosted, "find_price", find)
    found = _advice(_pool(1, servers=["http://a:8000/metrics"], hosted=[CHEAP]), hours([4.0] * 96))
    assert "since its price changed" in found["price_change"].says
    assert "hosted_cheaper" not in found


def test_every_advice_says_what_it_is_made_of():
    steps = hours(_days(NIGHTLY, 5), servers=_servers(4))
    for one in _advice(_pool(4, hosted=[CHEAP], hardware=HARDWARE), steps, known=[measured()]).values():
        assert one.formula
        assert one.evidence
        assert one.unless
        assert 0 < one.low_usd <= one.usd_per_month <= one.high_usd


def test_unpriced_pools_get_no_advice():
    assert _advice(_pool(4, hardware=None), hours(_days(NIGHTLY, 5), servers=_servers(4))) == {}
