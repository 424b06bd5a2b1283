"""The live figures over hours of simulated time: totals are the servers' own at every look, over hour and month ends, restarts and new starts."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from harness.config.monitor import MonitorSpec
from harness.monitor import live
from harness.monitor.exporter import HEADLINES, TOTALS
from harness.monitor.live import Figures
from harness.monitor.recent import Recent
from harness.monitor.window import roll_up
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, MonitorView, ServerReading, ServerWatch
from harness.store import readings
from harness.store.monitor_rows import readings_of
from harness.store.root import open_root

NS, MINUTE_NS, HOUR_NS = 10**9, 60 * 10**9, 3600 * 10**9
SERVERS = ("a:8000", "b:8000")


def utc_ns(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp()) * NS


def spec(store, **more) -> MonitorSpec:
    hardware = {"name": "box", "usd_per_hour": 3.0, "source": "a quote", "as_of": "2026-10-01"}
    pool = {"name": "chat", "servers": [f"http://{server}/metrics" for server in SERVERS], "hardware": hardware}
    return MonitorSpec.model_validate({"name": "sim", "store": str(store), "results": "none", "pools": [pool], **more})


def reading(server: str, at_ns: int, requests: float, incarnation: int = 0) -> ServerReading:
    values = dict.fromkeys((*COUNTERS, *GAUGES)) | {
        "requests": requests, "prompt_tokens": 100 * requests, "cached_tokens": 30 * requests, "output_tokens": 50 * requests,
        "errors": 0.0, "preemptions": 0.0,
    }  # fmt: skip
    for name in HISTOGRAMS:
        values |= {f"{name}_le_s": (1.0, math.inf), f"{name}_counts": (requests, requests)}
    return ServerReading(
        read_utc_ns=at_ns, server=server, model="m", tenant="", pool="chat", monitor="x", engine="vllm", incarnation=incarnation,
        started_utc_ns=None, scrapes=4, missed=0, **values,
    )  # fmt: skip


class Fleet:
    """Two servers, each so many requests a minute more; rows go to the store ten minutes at a time, hours are rolled up."""

    def __init__(self, store, begin_ns: int) -> None:
        self.spec, self.now_ns = spec(store), begin_ns
        self.root = open_root(str(store))
        self.counts, self.incarnation = {"a:8000": 1000.0, "b:8000": 7.0}, dict.fromkeys(SERVERS, 0)
        self.served, self._pending, self.first = 0.0, [], True
        self.start()

    def start(self) -> None:
        """The monitor, anew."""
        self.recent, self.figures = Recent(self.root, self.now_ns, 15), Figures(self.spec, self.root)

    def restart(self, server: str) -> None:
        self.counts[server], self.incarnation[server] = 0.0, self.incarnation[server] + 1

    def minute(self, *, missed: tuple[str, ...] = ()) -> None:
        self.now_ns += MINUTE_NS
        for server, more in zip(SERVERS, (5, 3), strict=True):
            if not self.first:
                self.counts[server] += more
                self.served += more
        self.first = False
        rows = [reading(s, self.now_ns - (1 + i) * NS, self.counts[s], self.incarnation[s]) for i, s in enumerate(SERVERS) if s not in missed]  # fmt: skip
        self._pending += rows
        self.recent.add([readings_of(rows)] if rows else [], [], self.now_ns, 120)
        if self.now_ns // MINUTE_NS % 10 == 0:
            self.store()

    def store(self) -> None:
        readings.write(self.root, self._pending)
        self._pending = []
        roll_up(self.root, self.now_ns, 15)

    def look(self) -> dict[str, MonitorView]:
        watched = [ServerWatch(server=s, pool="chat", engine="vllm", up=True, scrapes=1, missed=0, read_utc_ns=self.now_ns) for s in SERVERS]  # fmt: skip
        self.views = dict(self.figures.state(self.now_ns, self.recent, watched).views)
        return self.views

    def figure(self, name: str, window: str = "month") -> float | None:
        """A figure of everything, as of the last look."""
        return next(group.value(name) for group in self.views[window].groups if group.kind == "all")


@pytest.fixture
def fresh(monkeypatch):
    """Every view is made at every look."""
    monkeypatch.setattr(live, "_REST", dict.fromkeys(live._REST, 0))
    monkeypatch.setattr(live, "_STANDS_NS", dict.fromkeys(live._STANDS_NS, 0))


def test_totals_are_the_servers_own_at_every_look(fresh, tmp_path):
    """Three hours from half past: again and again the month and the day have every request once, over hours that are rolled up, a restart,
    two silent servers and two new starts of the monitor; the shorter windows have their own part."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 30))
    for minute in range(200):
        if minute == 61:
            fleet.restart("a:8000")
        quiet = {95: SERVERS, 96: SERVERS, 140: ("b:8000",)}.get(minute, ())
        fleet.minute(missed=quiet)
        if minute in (45, 118):
            fleet.store()
            fleet.start()
        if minute % 11 == 4 and not quiet:
            fleet.look()
            assert fleet.figure("requests") == fleet.figure("requests", "24h") == fleet.served, minute
            assert fleet.figure("output_tokens") == 50 * fleet.served
            if minute >= 91:
                assert 464 <= fleet.figure("requests", "1h") <= 8 * 66, (
                    minute
                )  # an hour, and what its first block began before it
    fleet.look()
    assert fleet.figure("restarts") == 1
    assert fleet.figure("usd") == pytest.approx(2 * 3.0 * 199 / 60, rel=0.001)


def test_a_month_begins_at_its_first(fresh, tmp_path):
    """At midnight of the first the month's figures are those of the new one; the last 24 hours go on."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 30, 22, 50))
    for minute in range(130):
        fleet.minute()
        if minute == 69:
            before = fleet.served  # what was read by midnight is November's
        if minute in (60, 68):
            fleet.look()
            assert fleet.figure("requests") == fleet.served
    fleet.look()
    assert fleet.figure("requests", "24h") == fleet.served
    assert fleet.figure("requests") == pytest.approx(fleet.served - before, abs=8)


def test_a_fresh_monitor_does_not_pay_for_the_time_before_it(fresh, tmp_path):
    """Five minutes in, the month's dollars are those of five minutes, and so a million tokens cost what they do."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 30))
    for _ in range(6):
        fleet.minute()
    fleet.look()
    assert fleet.figure("usd") == pytest.approx(2 * 3.0 * 5 / 60, rel=0.02)
    assert fleet.figure("usd_per_million_output_tokens") == pytest.approx(fleet.figure("usd") / (50 * 40) * 1e6)


def test_a_store_that_cannot_be_read_is_a_warning(tmp_path, fresh, monkeypatch):
    """This hour is still shown, from memory, and says what is not in it."""
    from harness.base.errors import StoreError

    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 30))
    for _ in range(105):
        fleet.minute()

    def gone(*_: object, **__: object) -> None:
        raise StoreError("the store cannot be reached", "s3://gone", "see that it is there")

    monkeypatch.setattr(live.window, "window", gone)
    shown = fleet.look()["month"]
    assert any("the store cannot be read" in warning for warning in shown.warnings)
    assert fleet.figure("requests") == pytest.approx(8 * 15, abs=8)


def test_a_long_view_stands_and_a_short_one_does_not(tmp_path):
    """What covers a day is not made again after a minute of which it hardly knows; the last minute always is."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 30))
    for _ in range(45):
        fleet.minute()
    fleet.look()
    month, minute = fleet.figure("requests"), fleet.figure("requests", "1m")
    assert month == fleet.served
    fleet.now_ns += 20 * NS
    fleet.recent.add([], [reading("a:8000", fleet.now_ns - NS, fleet.counts["a:8000"] + 50)], fleet.now_ns, 120)
    fleet.look()
    assert fleet.figure("requests") == month
    assert fleet.figure("requests", "1m") > minute


def test_the_last_minutes_of_a_prometheus_end_with_its_rows(fresh, tmp_path):
    """A row a minute that comes 70 s late is a rate all the same: the window ends where the rows do."""
    pool = {"name": "chat", "prometheus": {"url": "http://127.0.0.1:9"}}
    begin_ns = utc_ns(2026, 11, 20, 9, 30)
    figures = Figures(
        MonitorSpec.model_validate({"name": "p", "store": str(tmp_path), "pools": [pool]}), open_root(str(tmp_path))
    )
    recent = Recent(open_root(str(tmp_path)), begin_ns, 15, late=True)
    closed = [
        reading(server, begin_ns + minute * MINUTE_NS, 1000 + 6 * minute) for minute in range(10) for server in SERVERS
    ]
    now_ns = begin_ns + 9 * MINUTE_NS + 70 * NS
    recent.add([readings_of(closed)], [], now_ns, 120)
    views = figures.state(now_ns, recent, ()).views
    (everything,) = [group for group in views["1m"].groups if group.kind == "all"]
    assert everything.value("request_rps") == pytest.approx(2 * 6 / 60)


def test_a_monitor_began_with_its_first_reading_whatever_its_files_are_called(fresh, tmp_path):
    """Days are merged by the quarter of an hour, and the file's name begins with it: nothing is paid for before the first reading."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 37))
    for _ in range(70):
        fleet.minute()
    fleet.store()
    readings.compact(fleet.root, utc_ns(2026, 11, 20))
    fleet.start()
    fleet.minute()
    month = fleet.look()["month"]
    assert month.from_ns == pytest.approx(utc_ns(2026, 11, 20, 9, 38), abs=3 * NS)
    assert fleet.figure("usd") == pytest.approx(2 * 3.0 * 70 / 60, rel=0.002)


def test_history_that_comes_late_is_in_the_last_hour_too(tmp_path):
    """Rows of blocks that are over are taken from the store, where the watch has put them meanwhile."""
    now_ns, root = utc_ns(2026, 11, 20, 9, 50), open_root(str(tmp_path))
    recent = Recent(root, now_ns, 15, late=True)
    rows = [reading("a:8000", now_ns - minute * MINUTE_NS, 1000 + 6 * (40 - minute)) for minute in range(40, 0, -1)]
    recent.add([readings_of(rows)], [], now_ns, 120)
    readings.write(root, rows)
    recent.add([], [], now_ns + MINUTE_NS, 120)
    (usage,) = recent.usages(now_ns - HOUR_NS, now_ns + MINUTE_NS)
    assert usage.counters["requests"] == 6 * 39


def test_one_of_very_many_has_the_headlines_that_it_would_have_alone(fresh, tmp_path):
    """With more servers than are shown whole, what is left of their lines is the same."""
    fleet = Fleet(tmp_path, utc_ns(2026, 11, 20, 9, 30))
    for _ in range(8):
        fleet.minute()
    whole = {g.name: g for g in fleet.look()["1h"].groups if g.kind == "server"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "MANY_GROUPS", 1)
        brief = {g.name: g for g in fleet.look()["1h"].groups if g.kind == "server"}
    assert whole.keys() == brief.keys() == set(SERVERS)
    for name, group in brief.items():
        assert set(group.lines) < set(whole[name].lines)
        assert {line.name for line in group.lines} >= HEADLINES | {line for line, _, _ in TOTALS}
