"""Totals are those of the servers' own counters, to the token, whatever happens between a server and who reads it."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import clock
from harness.base.clock import NS
from harness.monitor import increase
from harness.monitor.adding import total
from harness.monitor.increase import usage
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, OTHER, ServerReading
from tests.monitor.simulated import Monitor, Server, made, read, truth

T0 = 1_764_000_000 * NS
T0 -= T0 % (3600 * NS)
HOUR_S = 3600.0


def summed(usages, server: str) -> tuple[int, int]:
    mine = [u for u in usages if u.server == server]
    return round(sum(u.counters["output_tokens"] or 0 for u in mine)), round(
        sum(u.counters["requests"] or 0 for u in mine)
    )


def scene(seed: int, *, monitors: int = 2, replicas: int = 10, restarts: int = 50, missed: int = 200, tells=None):
    """Ten replicas that come and go, restarts among them, monitors that miss pages, one of them away for a while."""
    rng = random.Random(seed)
    share = [restarts // replicas + (i < restarts % replicas) for i in range(replicas)]
    servers = []
    for i in range(replicas):
        begin = rng.uniform(0, 600) if i else 0.0
        end = HOUR_S if i < 3 else rng.uniform(3000, HOUR_S)
        knows = rng.random() < 0.5 if tells is None else tells
        tenants = ("", "a", "b") if rng.random() < 0.3 else ("",)
        servers.append(
            made(rng, f"s{i}:8000", begin_s=begin, end_s=end, restarts=share[i], tells_start=knows, tenants=tenants)
        )
    watchers = []
    for i in range(monitors):
        gone = {(rng.choice(servers).name, rng.randrange(int(HOUR_S / 15))) for _ in range(missed // monitors)}
        away = [(900.0 + 600 * i, 1000.0 + 600 * i)] if monitors > 1 else []
        watchers.append(Monitor(f"m{i}", rng.uniform(0, 15), rng.uniform(-4, 4), away, gone))
    rows = [row for watcher in watchers for row in read(servers, watcher, 0, HOUR_S, 15, T0)]
    return servers, watchers, rows, rng


def expected(server: Server, rows, watchers) -> tuple[int, int]:
    """With a start that is told and lies after the watch began, the first reading too is counted from 0."""
    first = min(r.read_utc_ns for r in rows)
    zero = server.tells_start and T0 + server.lives[0].begin_s * NS >= first
    return truth(server, rows, T0, {w.name: w.skew_s for w in watchers}, zero_based=zero)


@pytest.mark.parametrize("seed", range(4))
def test_totals_equal_the_counters_to_the_token(seed):
    """50 restarts, 200 missed pages, 10 replicas, two monitors whose clocks differ, rows that stand twice, in any order."""
    servers, watchers, rows, rng = scene(seed)
    rows += rng.sample(rows, len(rows) // 10)
    rng.shuffle(rows)
    usages = usage(rows, T0 - 60 * NS, T0 + 4000 * NS, 15)
    assert sum(u.restarts for u in {u.server: u for u in usages}.values()) >= 45
    for server in servers:
        assert summed(usages, server.name) == expected(server, rows, watchers), server.name


def test_windows_beside_each_other_add_up_to_the_token():
    """However a time is cut into windows, they have each token once."""
    _, _, rows, rng = scene(11)
    whole = usage(rows, T0, T0 + 3600 * NS, 15)
    cuts = sorted(T0 + rng.randrange(3600) * NS for _ in range(9))
    edges = [T0, *cuts, T0 + 3600 * NS]
    parts = [usage(rows, a, b, 15) for a, b in zip(edges, edges[1:], strict=False)]
    together = total([one for part in parts for one in part], T0, T0 + 3600 * NS)
    key = lambda one: (one.server, one.model, one.tenant)  # noqa: E731
    assert {key(u): u.counters for u in together} == {key(u): u.counters for u in whole}
    for one, other in zip(sorted(together, key=key), sorted(whole, key=key), strict=True):
        assert one.restarts == other.restarts
        assert one.covered_s == pytest.approx(other.covered_s)
        assert one.gap_s == pytest.approx(other.gap_s)


def row(at_s: float, tokens: float | None, **more):
    """One row of server a:1, `at_s` after T0, read by monitor m."""
    values = dict.fromkeys((*COUNTERS, *GAUGES)) | {
        f"{n}_{part}": () for n in HISTOGRAMS for part in ("le_s", "counts")
    }
    values |= {
        "model": "m",
        "tenant": "",
        "monitor": "m",
        "incarnation": 0,
        "started_utc_ns": None,
        "scrapes": 4,
        "missed": 0,
    }
    values |= {"output_tokens": tokens, "server": "a:1", "pool": "p", "engine": "vllm", **more}
    return ServerReading(read_utc_ns=T0 + round(at_s * NS), **values)


def tokens(rows, from_s: float = -60, to_s: float = 4000, interval_s: float = 15):
    """(model, tenant) -> output tokens of a window."""
    usages = usage(rows, T0 + round(from_s * NS), T0 + round(to_s * NS), interval_s)
    return {(u.model, u.tenant): u.counters["output_tokens"] for u in usages}


def test_a_gap_is_a_gap_and_not_zero():
    """While a server is not read its counters are unknown; what it served then is in the first page after it."""
    rows = [row(s, s) for s in range(0, 660, 60)] + [
        row(s, None, model="", scrapes=0, missed=4) for s in range(660, 1200, 60)
    ]
    rows += [row(s, s) for s in range(1200, 1800, 60)]
    (inside,) = usage(rows, T0 + 700 * NS, T0 + 1000 * NS, 15)
    assert (inside.covered_s, inside.gap_s, inside.counters["output_tokens"], inside.model) == (0.0, 300.0, None, "m")
    (after,) = usage(rows, T0 + 1000 * NS, T0 + 1500 * NS, 15)
    assert (after.covered_s, after.gap_s, after.counters["output_tokens"]) == (300.0, 200.0, 1440.0 - 600.0)
    (whole,) = usage(rows, T0, T0 + 1800 * NS, 15)
    assert (whole.covered_s, whole.gap_s, whole.counters["output_tokens"]) == (600.0 + 540.0, 600.0, 1740.0)


def test_a_server_that_was_never_read_is_there_with_nothing_known():
    """Its page never came: a usage without a model, its time a gap."""
    (one,) = usage([row(s, None, model="", scrapes=0, missed=4) for s in range(0, 600, 60)], T0, T0 + 600 * NS, 15)
    assert (one.server, one.model, one.gap_s) == ("a:1", "", 540.0)
    assert set(one.counters.values()) == {None}


def test_a_server_that_was_away_is_no_gap():
    """Others of its pool were read meanwhile, and it was not even asked: it was not there, so it is not paid."""
    rows = [row(s, s) for s in (*range(0, 300, 60), *range(3000, 3300, 60))]
    (alone,) = usage(rows, T0, T0 + 3600 * NS, 15)
    assert alone.gap_s == 2760.0  # nobody watched
    rows += [row(s, s, server="b:1") for s in range(0, 3600, 60)]
    away = usage(rows, T0, T0 + 3600 * NS, 15)[0]
    assert (away.server, away.covered_s, away.gap_s) == ("a:1", 480.0, 0.0)
    assert away.counters["output_tokens"] == 3240.0


def test_a_label_that_appears_began_at_zero_and_one_renamed_goes_on():
    """A tenant's first requests count; a model that has another name on the next page counts on from where it was."""
    rows = [row(0, 100), row(60, 110), row(60, 7, tenant="new"), row(120, 115), row(120, 9, tenant="new")]
    assert tokens(rows) == {("m", ""): 15.0, ("m", "new"): 9.0}
    renamed = [row(0, 100), row(60, 110), row(120, 130, model="m2"), row(180, 150, model="m2")]
    assert tokens(renamed) == {("m", ""): 10.0, ("m2", ""): 40.0}


def test_buckets_that_change_at_a_restart_are_summed_where_both_have_bounds():
    """Cumulative counts are exact at the bounds that both lives have; no request is in it twice, none is left out."""
    one = {"ttft_le_s": (0.1, 0.5, 1.0, inf)}
    two = {"ttft_le_s": (0.2, 0.5, 2.0, inf), "incarnation": 1}
    rows = [
        row(0, 1, ttft_counts=(1.0, 2.0, 3.0, 4.0), **one),
        row(60, 9, ttft_counts=(3.0, 6.0, 9.0, 12.0), **one),
        row(120, 5, ttft_counts=(1.0, 1.0, 4.0, 5.0), **two),
        row(180, 9, ttft_counts=(2.0, 3.0, 6.0, 8.0), **two),
    ]
    (found,) = usage(rows, T0, T0 + 600 * NS, 15)
    assert found.histograms["ttft"].le_s == (0.5, inf)
    assert found.histograms["ttft"].counts == (6.0 - 2.0 + 3.0, 12.0 - 4.0 + 8.0)


def test_a_monitor_that_forgot_its_count_sees_no_restart():
    """Its own restart, without its last rows, begins its count anew: that is none of the server's."""
    rows = [row(0, 10, incarnation=3), row(60, 30, incarnation=3), row(120, 45), row(180, 60)]
    assert tokens(rows) == {("m", ""): 50.0}
    with_drop = [*rows, row(240, 5, incarnation=1)]
    assert tokens(with_drop) == {("m", ""): 55.0}


def test_a_restart_that_only_the_next_monitor_can_see():
    """The first ended before it, the second began after it: the drop between them is a restart."""
    rows = [row(0, 10), row(60, 100), row(600, 40, monitor="n"), row(660, 50, monitor="n")]
    assert tokens(rows) == {("m", ""): 90.0 + 50.0}


def test_a_restart_hides_something_only_where_something_was_served():
    """Idle at the last page before it and read again soon: nothing is lost. Busy, or long unread: it is told."""
    idle = {"running": 0.0, "waiting": 0.0}
    quiet = [row(0, 10, **idle), row(60, 10, **idle), row(120, 1, incarnation=1, **idle)]
    (one,) = usage(quiet, T0, T0 + 600 * NS, 15)
    assert (one.restarts, one.lost) == (1, 0)
    busy = [row(0, 10), row(60, 10, running=1.0, waiting=0.0), row(120, 1, incarnation=1, **idle)]
    assert usage(busy, T0, T0 + 600 * NS, 15)[0].lost == 1
    late = [row(0, 10, **idle), row(60, 10, **idle), row(900, 1, incarnation=1, **idle)]
    assert usage(late, T0, T0 + 1600 * NS, 15)[0].lost == 1


def test_labels_beyond_the_bound_are_one_row_and_nothing_is_in_it_twice():
    """Two monitors name different tenants of ten; the whole page's row less all that any of them names is what is left."""
    rows = []
    for minute in range(10):
        page = {f"t{i}": float((i + 1) * minute * 10) for i in range(10)}
        whole = sum(page.values())
        for monitor, named, late in (("m", ("t0", "t1"), 0), ("n", ("t1", "t2"), 20)):
            at = minute * 60 + late
            rows += [row(at, page[name], tenant=name, monitor=monitor) for name in named]
            rows.append(row(at, whole, model=OTHER, tenant=OTHER, monitor=monitor))
    found = tokens(rows)
    assert sum(found.values()) == 55 * 90.0
    assert found["m", "t2"] == 270.0


@given(st.lists(st.tuples(st.integers(-7200, 7200), st.integers(0, 120)), min_size=1, max_size=30))
def test_stamps_never_go_back_whatever_the_clock_does(steps):
    """A wall clock that jumps both ways gives stamps that grow, at half the speed of time or faster."""
    start = 1_795_000_000 * NS
    steady, wall, now, last = clock.SteadyUtc(), start, 10**15, 0
    steady._at_ns = now
    for jump_s, passed_s in steps:
        wall, now = wall + (jump_s + passed_s) * NS, now + passed_s * NS
        stamp = steady.now_ns(wall, now)
        assert stamp > last
        assert stamp >= wall
        assert not last or stamp - last >= passed_s * NS // 2
        last = stamp


@pytest.mark.skipif(not os.environ.get("HARNESS_LONG"), reason="long: HARNESS_LONG=1")
@pytest.mark.parametrize("seed", range(100, 160))
def test_totals_of_many_scenes(seed):
    """The same as above, of sixty more scenes, a third of which tell no start at all."""
    servers, watchers, rows, _ = scene(seed, tells=None if seed % 3 else False)
    usages = usage(rows, T0 - 60 * NS, T0 + 4000 * NS, 15)
    for server in servers:
        assert summed(usages, server.name) == expected(server, rows, watchers), server.name


@pytest.mark.parametrize(("seed", "tells"), [(1, True), (2, False), (3, None)])
def test_what_is_counted_all_at_once_is_what_is_counted_one_by_one(seed, tells, monkeypatch):
    """Servers of one monitor that nothing happens to are not looked at singly: in any window their usages are the same."""
    rows = [row for row in scene(seed, monitors=1, restarts=4, missed=6, tells=tells)[2] if row.scrapes]
    windows = [(T0 - 60 * NS, T0 + 4000 * NS), (T0 + 600 * NS, T0 + 660 * NS), (T0 + 900 * NS, T0 + 2000 * NS)]
    together = [usage(rows, *window, 15) for window in windows]
    singly = []
    monkeypatch.setattr(increase, "usual", lambda columns, firsts, *_: singly.append(len(firsts)) or {})
    for window, found in zip(windows, together, strict=True):
        for one, other in zip(found, usage(rows, *window, 15), strict=True):
            assert (one.server, one.model, one.tenant, one.restarts, one.lost) == (other.server, other.model, other.tenant, other.restarts, other.lost)  # fmt: skip
            assert one.counters == other.counters
            assert one.histograms == other.histograms
            assert one.gauges == pytest.approx(other.gauges)
            assert (one.covered_s, one.gap_s) == pytest.approx((other.covered_s, other.gap_s))
    assert singly


def test_servers_that_nothing_happens_to_are_not_looked_at_singly(monkeypatch):
    """Five hundred of them would be a second of a core at every look."""
    rows = [replace(row(60 * i, 10.0 * i), server=f"s{n}:1") for i in range(5) for n in range(3)]
    monkeypatch.setattr(increase, "_Server", None)
    assert [u.counters["output_tokens"] for u in usage(rows, T0 + 100 * NS, T0 + 300 * NS, 15)] == [30.0] * 3
