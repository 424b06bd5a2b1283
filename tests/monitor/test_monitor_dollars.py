"""Dollars of a fleet whose truth is known: sums agree in every grouping, unit costs are paid dollars over served units."""

from __future__ import annotations

import math
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.monitor.paid import paid_servers, server_of
from harness.monitor.served import PARTS
from harness.monitor.view import view
from harness.price.unit_cost import usd_per_served
from tests.monitor.known_fleet import (
    HARDWARE,
    HOSTED,
    HOUR_NS,
    START_NS,
    first_hour,
    hours,
    measured,
    spec,
    usage,
    whole,
)

DAY_NS = 24 * HOUR_NS
PRICED = {"b": 4.0, "c": 2.5}  # pools and $/h
ROWS = st.lists(
    st.tuples(
        st.sampled_from(("b", "c")), st.integers(0, 3), st.sampled_from(("m", "n")), st.sampled_from(("", "x", "y")),
        st.integers(0, 500), st.integers(1, 900), st.floats(0, 1), st.integers(1, 300),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


def _fleet(rows):
    """(spec, usages, paid) of two pools with four listed servers each, which did `rows`."""
    made = spec(
        *(
            {"name": name, "servers": [f"http://{name}{at}:8000/metrics" for at in range(4)], "hardware": HARDWARE | {"usd_per_hour": usd}, "hosted": [HOSTED]}
            for name, usd in PRICED.items()
        )
    )  # fmt: skip
    found = {}
    for pool, at, model, tenant, requests, prompt, share, output in rows:
        found[(pool, at, model, tenant)] = usage(
            f"{pool}{at}:8000", model, pool=pool, tenant=tenant, requests=requests, prompt=requests * prompt,
            cached=float(int(requests * prompt * share)), output=requests * output,
        )  # fmt: skip
    usages = list(found.values())
    return made, usages, paid_servers(made, usages, START_NS, START_NS + HOUR_NS)


def _of(seen, kind):
    return [group for group in seen.groups if group.kind == kind]


@given(ROWS)
@settings(max_examples=60, deadline=None)
def test_every_grouping_has_the_same_sums(rows):
    """Dollars, tokens, requests, hosted bill and idle dollars over pools, models, servers and tenants are those of all."""
    made, usages, paid = _fleet(rows)
    seen = view(
        made,
        usages,
        paid,
        from_ns=START_NS,
        to_ns=START_NS + HOUR_NS,
        measured=[measured(boards=("NVIDIA H100",), lengths=(450, 150))],
    )
    (every,) = _of(seen, "all")
    truth = sum(4 * usd for usd in PRICED.values())
    assert every.value("usd") == pytest.approx(truth, rel=1e-12)
    for kind in ("pool", "model", "server", *(["tenant"] if _of(seen, "tenant") else [])):
        for name in ("usd", "usd_per_hour", "output_tokens", "requests", "prompt_tokens", "hosted_usd"):
            parts = [group.value(name) for group in _of(seen, kind)]
            known = [part for part in parts if part is not None]
            assert sum(known) == pytest.approx(every.value(name) or 0.0, rel=1e-9, abs=1e-9), (kind, name)
    for group in seen.groups:
        served = group.value("output_tokens")
        if served:
            assert group.value("usd_per_million_output_tokens") == pytest.approx(
                group.value("usd") / served * 1e6, rel=1e-9
            )
            requests = group.value("requests")
            assert group.value("usd_per_1000_requests") == pytest.approx(group.value("usd") / requests * 1000, rel=1e-9)


@given(st.lists(st.floats(0, 60), min_size=1, max_size=48), st.integers(1, 6), st.integers(0, 3), st.floats(0.3, 1))
@settings(max_examples=60, deadline=None)
def test_the_parts_of_what_is_idle_sum_to_it(rates, replicas, spares, headroom):
    """Whatever the demand is: spares + headroom + shape + waste = paid less used, also where a fleet is too small."""
    servers = tuple(f"s{at}:8000" for at in range(replicas))
    made = spec({"servers": [f"http://{s}/metrics" for s in servers], "spares": spares, "headroom": headroom})
    steps = hours(rates, servers=servers)
    end = START_NS + len(rates) * HOUR_NS
    seen = view(
        made,
        whole(steps),
        paid_servers(made, steps, START_NS, end),
        from_ns=START_NS,
        to_ns=end,
        steps=steps,
        measured=[measured()],
    )
    for group in seen.groups:
        parts = [group.value(f"idle_{part}_usd") for part in PARTS]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(group.value("idle_usd"), rel=1e-9, abs=1e-9)
    (every,) = _of(seen, "all")
    busy = min(1.0, sum(rates) / (10 * replicas * len(rates)))
    assert every.value("idle_usd") == pytest.approx(4 * replicas * len(rates) * (1 - busy), rel=1e-9, abs=1e-6)


def test_idle_dollars_are_for_what_they_are_for():
    """Three replicas of 10/s at $4/h, headroom 0.5, one spare; an hour at 4/s and one at 2/s: 1 is needed, 1 is spare, 1 is waste."""
    servers = ("a:8000", "b:8000", "c:8000")
    made = spec({"servers": [f"http://{s}/metrics" for s in servers], "spares": 1, "headroom": 0.5})
    steps = hours([4, 2], servers=servers)
    end = START_NS + 2 * HOUR_NS
    seen = view(
        made,
        whole(steps),
        paid_servers(made, steps, START_NS, end),
        from_ns=START_NS,
        to_ns=end,
        steps=steps,
        measured=[measured()],
    )
    (every,) = _of(seen, "all")
    values = {part: every.value(f"idle_{part}_usd") for part in PARTS}
    assert values == pytest.approx({"headroom": 0.6 * 4, "shape": (0.2 + 0.6) * 4, "spares": 2 * 4, "waste": 2 * 4})
    assert every.value("utilisation") == pytest.approx(6 / 60)


def test_a_unit_cost_is_the_code_of_a_runs_cost():
    """Half of the paid time without a request: dollars per token double, exactly as utilisation 0.5 does in a run's report."""
    made = spec()
    seen = view(
        made,
        [usage(requests=100, prompt=1e5, output=2e4)],
        paid_servers(made, [], START_NS, START_NS + HOUR_NS),
        from_ns=START_NS,
        to_ns=START_NS + HOUR_NS,
    )
    (every,) = _of(seen, "all")
    loaded = Decimal(20_000) / 1800
    assert every.value("usd_per_million_output_tokens") == pytest.approx(
        float(usd_per_served(Decimal(4), loaded, Decimal("0.5"), Decimal(1_000_000)))
    )


def test_a_listed_server_is_paid_when_it_is_not_read():
    """Its dollars are in, what it served is not known, and that is said; its gap is as long as it is paid."""
    made = spec({"servers": ["http://a:8000/metrics", "http://b:8000/metrics"]})
    usages = [usage(requests=10, prompt=100, output=100)]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    assert every.value("usd") == 8
    assert every.value("gap_s") == 3600
    down = next(g for g in seen.groups if (g.kind, g.name) == ("server", "b:8000"))
    assert down.value("output_tokens") is None
    assert down.value("usd_per_million_output_tokens") is None
    assert any("b:8000" in line and "not read" in line for line in seen.warnings)


def test_a_discovered_server_is_paid_as_long_as_it_was_there():
    """Half an hour with its gap of 300 s; over three hours of which it was there in the first two: those two, at their time."""
    made = spec({"servers": [], "dns": "chat:8000"})
    usages = [usage("10.0.0.7:8000", covered_s=1500.0, gap_s=300.0)]
    (one,) = paid_servers(made, usages, START_NS, START_NS + HOUR_NS)
    assert (one.paid_s, one.usd) == (1800, Decimal(2))
    steps = [
        usage("10.0.0.7:8000", start=START_NS + at * HOUR_NS, end=START_NS + (at + 1) * HOUR_NS, covered_s=3600.0)
        for at in range(2)
    ]
    (both,) = paid_servers(made, whole(steps), START_NS, START_NS + 3 * HOUR_NS, steps)
    assert (both.paid_s, both.to_ns) == (7200, START_NS + 2 * HOUR_NS)


def test_servers_of_one_machine_share_its_price():
    """Three servers, two a machine: two machines are paid, whatever the third one is alone on."""
    made = spec({"servers": [f"http://{name}:8000/metrics" for name in "abc"], "servers_per_machine": 2})
    paid = paid_servers(made, [], START_NS, START_NS + HOUR_NS)
    assert [one.usd for one in paid] == [2, 2, 4]
    assert sum(one.paid_s / 3600 / one.on_machine for one in paid) == 2


def test_a_price_holds_from_its_day(tmp_path, monkeypatch):
    """An instance that became cheaper at midnight: two stretches, each at the price of its day."""
    from harness.monitor import paid as module
    from harness.records import Hardware

    monkeypatch.setattr(
        module,
        "_instance_on",
        lambda name, day: Hardware(name, "3" if day < "2026-11-02" else "2", "table", "2026-10-01"),
    )
    made = spec({"hardware": "aws/x"})
    first, second = paid_servers(made, [], START_NS, START_NS + 3 * DAY_NS)
    assert (first.paid_s, first.usd_per_hour, second.paid_s, second.usd_per_hour) == (86400, 3, 2 * 86400, 2)
    assert first.usd + second.usd == 24 * 3 + 48 * 2


def test_the_price_table_has_the_price_of_a_named_instance():
    made = spec({"hardware": "aws/g5.12xlarge"})
    (one,) = paid_servers(made, [], START_NS, START_NS + HOUR_NS)
    assert one.usd_per_hour == Decimal("5.672")
    assert "2026-07-20" in one.price


def test_without_a_price_there_are_no_dollars_and_a_reason():
    made = spec({"hardware": None})
    usages = [usage(requests=10, prompt=100, output=100)]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    lines = {line.name: line for line in every.lines}
    assert lines["usd"].value is None
    assert "no price of the machine is declared" in lines["usd"].formula
    assert "no price of the machine is declared" in lines["usd_per_1000_requests"].formula
    assert every.value("output_tokens") == 100


@pytest.mark.parametrize(
    ("pool", "says"),
    [
        ({"hardware": {k: v for k, v in HARDWARE.items() if k != "as_of"}}, "as_of"),
        ({"hosted": [{k: v for k, v in HOSTED.items() if k != "as_of"}]}, "has no date"),
        ({"hardware": HARDWARE | {"gpu_model": None, "gpu_count": None, "example": True}}, "nobody's quote"),
        ({"servers_per_machine": 0}, "not from 1"),
    ],
)
def test_a_price_without_a_date_is_refused(pool, says, tmp_path):
    """And so are an example's price and a machine that nobody shares."""
    import yaml

    from harness.config.monitor import load_monitor

    path = tmp_path / "monitor.yaml"
    path.write_text(
        yaml.safe_dump(
            {"name": "p", "pools": [{"name": "chat", "servers": ["http://a:1/metrics"], "hardware": HARDWARE} | pool]}
        )
    )
    with pytest.raises(ConfigError) as error:
        load_monitor(path)
    assert says in str(error.value)


def test_a_page_is_its_host_and_port():
    assert server_of("http://user:word@a.b:80/metrics?x=1") == "a.b:80"
    assert server_of("a.b:8000") == "a.b:8000"


def test_a_counter_that_one_server_lacks_makes_its_sum_unknown():
    made = spec({"servers": ["http://a:8000/metrics", "http://b:8000/metrics"]})
    usages = [
        usage(requests=10, prompt=100, output=100),
        usage("b:8000", requests=10, prompt=100, output=100, preemptions=None),
    ]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    lines = {line.name: line for line in every.lines}
    assert lines["preemptions"].value is None
    assert "b:8000" in lines["preemptions"].formula
    assert lines["output_tokens"].value == 200


def test_energy_of_a_server_is_counted_once():
    """Two tenants' rows of one server carry the same board's counter: its joules are split, not doubled."""
    made = spec(usd_per_kwh=0.25)
    usages = [usage(tenant=name, requests=10, prompt=1000, output=500, energy_j=3.6e6) for name in ("x", "y")]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    assert every.value("j_per_output_token") == pytest.approx(3600)
    assert every.value("energy_usd") == pytest.approx(0.25)
    assert sum(g.value("energy_usd") for g in _of(seen, "tenant")) == pytest.approx(0.25)


def test_boards_are_no_servers():
    """Two boards of a pool with two discovered servers: their energy is the pool's, and nobody pays for a board."""
    made = spec({"servers": [], "dns": "chat:8000"})
    usages = [usage(name, requests=10, prompt=1000, output=500) for name in ("a:8000", "b:8000")]
    usages += [usage(f"gpu:GPU-{at}", "", requests=0, energy_j=1.8e6) for at in range(2)]
    nothing = dict.fromkeys(("requests", "prompt_tokens", "cached_tokens", "output_tokens", "errors", "preemptions"))
    usages[2:] = [replace(one, counters={**one.counters, **nothing}) for one in usages[2:]]
    paid = paid_servers(made, usages, START_NS, START_NS + HOUR_NS)
    assert [one.server for one in paid] == ["a:8000", "b:8000"]
    seen = view(made, usages, paid, from_ns=START_NS, to_ns=START_NS + HOUR_NS)
    (every,) = _of(seen, "all")
    assert (every.value("usd"), every.value("j_per_output_token")) == (8, 3600)
    assert [g.name for g in _of(seen, "server")] == ["a:8000", "b:8000"]
    assert seen.warnings[-1].startswith("no capacity of m")


def test_what_the_prefix_cache_saved_is_the_price_of_a_computed_prompt_token():
    """$4 over 300 fresh tokens and 4 x 100 output tokens: 4/700 $ each; 700 more came from the cache."""
    made = spec()
    usages = [usage(requests=10, prompt=1000, cached=700.0, output=100)]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    assert every.value("prefix_saved_usd") == pytest.approx(4.0)
    assert every.value("prefix_hit_share") == pytest.approx(0.7)


def test_times_are_bands_and_the_last_has_no_end():
    made = spec({"slo": {"ttft_s": 0.5, "attainment": 0.9}})
    usages = [usage(requests=10, prompt=100, output=100, times=[0.2] * 9 + [9.0])]
    seen = first_hour(made, usages)
    (every,) = _of(seen, "all")
    assert (every.value("ttft_p50_low_s"), every.value("ttft_p50_high_s")) == (0.1, 0.25)
    assert every.value("ttft_p99_high_s") == math.inf
    assert every.value("attainment_low") == every.value("attainment_high") == pytest.approx(0.9)
    assert every.value("budget_burn_high") == pytest.approx(1.0)
    assert seen.slo == {"ttft_s": 0.5, "attainment": 0.9}
