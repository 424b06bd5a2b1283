"""The monitor's metrics: names that promtool accepts, values of the view, counters that never fall, nothing where nothing is known."""

from __future__ import annotations

import math
import urllib.request
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as open_metrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families

from harness.base.errors import ConfigError
from harness.monitor import exporter as of_monitor
from harness.monitor.exporter import PREFIX, TOTALS, Exporter, metric_name, serving
from tests.monitor.promtool import promtool
from tests.monitor.states import AT, LINES, NS, advice, group, state, view


def page(*states) -> str:
    """The text of /metrics after `states` were shown, one after the other."""
    registry, exporter = CollectorRegistry(), Exporter()
    registry.register(exporter)
    for one in states:
        exporter.show(one)
    return generate_latest(registry).decode()


def samples(text: str) -> dict[tuple[str, ...], float]:
    """(name, label values in the order of their names) -> value; a series that is there twice is an error."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, *(sample.labels[name] for name in sorted(sample.labels)))
            assert key not in found, key
            found[key] = sample.value
    return found


def test_promtool_has_nothing_to_say_of_the_page():
    """Every name ends in its base unit, counters in _total, every family has help."""
    text = page(state())
    assert len({line.split()[2] for line in text.splitlines() if line.startswith("# HELP")}) >= 80
    assert promtool("check", "metrics", text=text) == (0, "")


def test_promtool_would_see_a_bad_name():
    """The check is one that can fail: a line that keeps its short unit is refused."""
    code, text = promtool("check", "metrics", text=page(state()).replace("gap_seconds", "gap_s"))
    assert code != 0
    assert "abbreviated units" in text


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("output_tps", "output_tokens_per_second"), ("request_rps", "requests_per_second"),
        ("capacity_rps", "capacity_requests_per_second"), ("ttft_p99_high_s", "ttft_p99_high_seconds"),
        ("prefix_hit_share", "prefix_hit_ratio"), ("draft_acceptance", "draft_acceptance_ratio"),
        ("attainment_low", "attainment_low_ratio"), ("budget_burn_high", "budget_burn_high_ratio"),
        ("j_per_output_token", "joules_per_output_token"), ("utilisation", "utilisation_ratio"),
        ("usd_per_1000_requests", "usd_per_1000_requests"), ("prefix_saved_usd", "prefix_saved_usd"),
    ],
)  # fmt: skip
def test_a_lines_name_in_prometheus_words(line, name):
    """Base units written out; dollars stay dollars."""
    assert metric_name(line) == name


def test_names_of_lines_stay_apart():
    """No two lines share a metric, and no counter has a gauge's name."""
    names = [metric_name(name) for name, _ in LINES]
    assert len(set(names)) == len(LINES)
    assert not {counter for _, counter, _ in TOTALS} & set(names)


def test_every_line_of_every_group_and_window_is_on_the_page():
    """The value under its labels, exactly; also in the OpenMetrics format, which Prometheus asks for."""
    shown = state()
    found = samples(page(shown))
    for window, one in shown.views.items():
        for of in one.groups:
            for line in of.lines:
                key = (PREFIX + metric_name(line.name), of.kind, "chat", of.name, window)
                assert found[key] == line.value, key
    registry, exporter = CollectorRegistry(), Exporter()
    registry.register(exporter)
    exporter.show(shown)
    families = list(read_open_metrics(open_metrics(registry).decode()))
    assert sum(len(family.samples) for family in families) == len(found)


def test_what_is_not_known_is_no_sample():
    """None, which is not 0, leaves the series out of the page; an open end of a band is +Inf."""
    shown = view(60, (group("all", "all", 60, energy_usd=None, ttft_p99_high_s=math.inf),))
    found = samples(page(state(views={"1m": shown})))
    assert not [key for key in found if key[0] == "harness_monitor_energy_usd"]
    assert found["harness_monitor_ttft_p99_high_seconds", "all", "chat", "all", "1m"] == math.inf


def test_a_page_before_the_first_state_is_a_page():
    """Prometheus may come before the first round is read."""
    assert [key[0] for key in samples(page())] == ["harness_monitor_info"]


@given(st.lists(st.tuples(st.sampled_from([0, 1]), st.floats(0, 1e12)), min_size=1, max_size=30))
def test_counters_never_fall_within_a_month(steps):
    """Whatever the month's figures do, a counter rises or stays; a new month begins with its own value."""
    exporter, registry, before, month_before = Exporter(), CollectorRegistry(), 0.0, None
    registry.register(exporter)
    for month, value in steps:
        one = replace(view(60, (group("pool", "chat", 60, output_tokens=value),)), to_ns=AT + month * 30 * 86_400 * NS)
        exporter.show(state(views={"month": one}))
        now = registry.get_sample_value(
            "harness_monitor_served_tokens_total",
            {"monitor": "chat", "kind": "pool", "name": "chat", "token": "output"},
        )
        assert now == (max(before, value) if month == month_before else value)
        before, month_before = now, month


def test_groups_beyond_the_bound_are_counted_not_shown(monkeypatch):
    """A thousand tenants too many do not make a page that nobody can read; the totals of everything stay."""
    monkeypatch.setattr(of_monitor, "MOST_GROUPS", 5)
    tenants = tuple(group("tenant", f"t{at}", 60) for at in range(12))
    found = samples(page(state(views={"1m": view(60, (group("all", "all", 60), *tenants))})))
    assert len([key for key in found if key[0] == "harness_monitor_usd" and key[1] == "tenant"]) == 5
    assert found["harness_monitor_groups_left_out", "tenant", "chat", "1m"] == 7
    assert found["harness_monitor_groups_left_out", "all", "chat", "1m"] == 0
    assert found["harness_monitor_window_end_timestamp_seconds", "chat", "1m"] == view(60, ()).to_ns / NS


def test_many_servers_have_their_headlines():
    """60 servers: dollars, rates and promise in the short windows; the rest is there of pools and models, and in the store."""
    servers = tuple(group("server", f"s{at}", 60) for at in range(60))
    one = view(60, (group("all", "all", 60), *servers))
    found = samples(page(state(views={"1m": one, "month": one})))
    of_servers = [key for key in found if len(key) == 5 and key[1] == "server" and not key[0].endswith("_total")]
    assert {key[0].removeprefix(PREFIX) for key in of_servers} == {metric_name(name) for name in of_monitor.HEADLINES}
    assert {key[-1] for key in of_servers} == {"1m"}
    assert len([key for key in found if key[0] == "harness_monitor_usd" and key[1] == "server"]) == 60
    assert found["harness_monitor_prompt_tokens", "all", "chat", "all", "month"] == one.groups[0].value("prompt_tokens")


def test_servers_prices_budget_and_advice_are_on_the_page():
    """What alerts are held against: who is read, how old a price is, what may be spent, what could be saved."""
    found = samples(page(state(advice=(advice(), advice(usd="100")))))
    assert found["harness_monitor_server_up", "vllm", "chat", "chat", "b:8000"] == 0
    assert found["harness_monitor_missed_scrapes_total", "vllm", "chat", "chat", "b:8000"] == 3
    assert found["harness_monitor_reading_age_seconds", "vllm", "chat", "chat", "b:8000"] == 43
    assert found["harness_monitor_price_age_seconds", "chat", "chat"] == 25 * 86_400 + 56_400
    assert found["harness_monitor_budget_usd_per_month", "chat"] == 5000
    assert found["harness_monitor_advice_usd_per_month", "fewer_replicas", "chat"] == 412.5


def test_it_is_served_on_loopback():
    """A scrape over HTTP sees the same page, and the process' own figures beside it."""
    exporter = Exporter()
    exporter.show(state())
    with serving(exporter, "127.0.0.1", 0) as url, urllib.request.urlopen(url, timeout=60) as reply:
        text = reply.read().decode()
    assert url.startswith("http://127.0.0.1:")
    assert samples(text).items() >= samples(page(state())).items()
    assert "process_resident_memory_bytes" in text


def test_a_port_that_is_taken_is_said():
    """What, where, and what to try."""
    with serving(Exporter(), "127.0.0.1", 0) as url:
        port = int(url.split(":")[2].partition("/")[0])
        with pytest.raises(ConfigError) as error, serving(Exporter(), "127.0.0.1", port):
            pass
    assert f"127.0.0.1:{port}" in str(error.value)
    assert "--listen" in str(error.value)
