"""TTFT with and without the path: numbers of a run whose round trips are known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load, NetworkSample
from tests.judge.run_builder import closed_loop, frame, ns, run

C4 = Load(concurrency=4)
CLOSED = closed_loop(4, 400)  # TTFT 50 ms


def trip(at_s, round_trip_s, edge=None, **steps):
    names = dict.fromkeys(("dns_s", "tcp_s", "tunnel_s", "tls_s")) | steps
    return NetworkSample(ns(at_s), edge, **names, round_trip_s=round_trip_s, http_status=200, error=None)


def judged(samples, **target):
    data = run(CLOSED, C4)
    name = data.manifest.cell.target
    config = dict(data.manifest.config) | {"targets": [{"name": name, **target}]}
    telemetry = dict(data.manifest.telemetry) | {"network_facts": {"proxy": "p:1", "places": {"cf-ray: FRA": 3}}}
    manifest = replace(data.manifest, config=config, telemetry=telemetry, created_utc="2026-11-26T13:05:00+00:00")
    return summarise(replace(data, manifest=manifest, network=frame(samples, NetworkSample)))


def test_ttft_less_path():
    """TTFT 50 ms, round trips of 10, 12 and 20 ms: 38 ms, between 30 and 40; TTFT itself stays."""
    found = judged(
        [
            trip(-1, 0.010, "start", dns_s=0.001, tcp_s=0.009, tls_s=0.02),
            trip(5, 0.012),
            trip(13, 0.02, "end", tcp_s=0.01),
        ]
    )
    path = found.network
    assert (path.round_trips, path.failed) == (3, 0)
    assert (path.round_trip_low_s, path.round_trip_p50_s, path.round_trip_high_s) == pytest.approx((0.010, 0.012, 0.02))
    assert path.ttft_p50_s == pytest.approx(0.05)
    assert (path.ttft_less_path_low_s, path.ttft_less_path_s, path.ttft_less_path_high_s) == pytest.approx(
        (0.03, 0.038, 0.04)
    )
    assert found.distributions["ttft_s"].p50 == pytest.approx(0.05)
    assert found.distributions["ttft_less_path_s"].p50 == pytest.approx(0.038)
    assert found.scalars["round_trip_s"] == pytest.approx(0.012)
    assert (path.before, path.after) == ({"dns_s": 0.001, "tcp_s": 0.009, "tls_s": 0.02}, {"tcp_s": 0.01})


def test_where_when_and_through_what():
    """The declared region, what the heads said, the proxy, kept or fresh, and the hour in UTC."""
    path = judged([trip(1, 0.01)], region="eu-west", connections="fresh").network
    assert (path.region, path.places, path.proxy) == ("eu-west", {"cf-ray: FRA": 3}, "p:1")
    assert (path.connections, path.utc_hour) == ("fresh", 13)


def test_round_trips_outside_the_window_count_only_where_there_are_no_others():
    """A warm-up's round trip is left out beside one of the window."""
    assert judged([trip(-30, 0.5), trip(5, 0.01)]).scalars["round_trip_s"] == pytest.approx(0.01)
    assert judged([trip(-30, 0.5)]).scalars["round_trip_s"] == pytest.approx(0.5)


def test_failed_round_trips_are_counted():
    """An error is no round trip; without any there is no estimate, and nothing else is lost."""
    lost = replace(trip(5, None), error="Connection refused", http_status=None)
    found = judged([lost])
    assert (found.network.failed, found.network.round_trips) == (1, 0)
    assert found.network.ttft_less_path_s is None
    assert found.distributions["ttft_less_path_s"].count == 0
    assert found.verdict.state == "VALID"


def test_a_server_of_ours_has_no_path():
    """Without round trips there is no path, and no column for it."""
    found = summarise(run(CLOSED, C4))
    assert found.network is None
    assert found.scalars["round_trip_s"] is None
