"""The watch over real sockets: servers that are slow, gone, restarted, found and lost; a full disk; an end by signal; a Prometheus."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from harness.base.clock import NS
from harness.base.errors import StoreError
from harness.config.monitor import KubernetesSpec, MonitorSpec, PoolSpec, PrometheusSpec
from harness.monitor import watch as watch_module
from harness.monitor.discover import pods_of, servers_of
from harness.monitor.increase import usage
from harness.monitor.page import PageError, PageReader
from harness.monitor.prometheus import PrometheusServers, by_server
from harness.monitor.scrape import open_client
from harness.monitor.watch import Watch
from harness.monitor.watched import MINUTE_NS, Watched, WatchedBoard
from harness.monitor.window import window
from harness.records import OTHER
from harness.store import readings
from harness.store.monitor_rows import readings_of
from harness.store.root import open_root
from tests.fakes.certificates import certificate, server_context
from tests.monitor.prometheus_server import prometheus
from tests.monitor.watching import Pages, vllm_page, watching
from tests.waiting import until

pytestmark = pytest.mark.timing
T0 = 1_795_000_000 * NS
T0 -= T0 % MINUTE_NS


@pytest.fixture
def pages():
    made = Pages()
    yield made
    made.close()


def spec(folder, **pool) -> MonitorSpec:
    return MonitorSpec.model_validate(
        {"name": "t", "interval_s": 1, "store": str(folder / "m"), "pools": [{"name": "p", **pool}]}
    )


def named(watch: Watch) -> dict:
    return {server.server: server for server in watch.servers()}


def test_a_server_that_is_slow_or_gone_delays_no_other(pages, tmp_path):
    """One answers, one never does, one is not there, one answers in HTML: the first is read on and on, of the others is told why."""
    never = threading.Event()
    pages.of = {
        "/good": lambda: vllm_page(5),
        "/slow": lambda: 503 if never.wait(600) else 504,
        "/html": lambda: "<html>hello</html>",
    }
    urls = [pages.url("/good"), "http://127.0.0.1:1/metrics"]
    other = Pages()
    other.of = pages.of
    third = Pages()
    third.of = pages.of
    watch = Watch(spec(tmp_path, servers=[*urls, other.url("/slow"), third.url("/html")]), monitor="m")
    with watching(watch):
        until(
            lambda: (s := named(watch).get(f"127.0.0.1:{pages.port}")) and s.scrapes - s.missed >= 4,
            "four pages of the good one",  # a machine with other work may be a second late with one
        )
        until(lambda: named(watch)[f"127.0.0.1:{other.port}"].missed >= 1, "the slow one to be given up")
        found = named(watch)
    never.set()
    assert "no page within 1 s" in found[f"127.0.0.1:{other.port}"].says
    assert "nothing listens there" in found["127.0.0.1:1"].says
    assert "HTML instead of metrics" in found[f"127.0.0.1:{third.port}"].says
    usages = {u.server: u for u in window(watch.root, 0, time.time_ns() + MINUTE_NS, 1).usages}
    assert usages[f"127.0.0.1:{pages.port}"].counters["output_tokens"] == 0.0
    assert usages["127.0.0.1:1"].counters["output_tokens"] is None
    for one in (other, third):
        one.close()


def test_what_is_read_when_the_watch_is_told_to_end_is_stored(pages, tmp_path):
    """SIGTERM to a process that watches: it ends by itself with 0, and the minute that was going on is in the store."""
    pages.of = {"/metrics": lambda: vllm_page(pages.asked["/metrics"])}
    config = spec(tmp_path, servers=[pages.url("/metrics")]).model_dump_json()
    program = "import sys; from harness.monitor.watch import Watch; from harness.config.monitor import MonitorSpec; Watch(MonitorSpec.model_validate_json(sys.argv[1]), monitor='m').run()"
    process = subprocess.Popen([sys.executable, "-c", program, config])
    until(lambda: pages.asked.get("/metrics", 0) >= 3, "three pages")
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    last = max(readings.read(open_root(tmp_path / "m"), 0, 2**62), key=lambda one: one.read_utc_ns)
    assert last.output_tokens >= pages.asked["/metrics"] - 1


def test_a_watch_goes_on_in_its_own_count(pages, tmp_path):
    """Ended, the server restarted meanwhile, begun again: the new counters are seen to be another start's, and count from 0."""
    tokens = [100.0]
    pages.of = {"/metrics": lambda: vllm_page(tokens[0])}
    server = f"127.0.0.1:{pages.port}"
    for now in (100.0, 30.0):
        tokens[0] = now
        watch = Watch(spec(tmp_path, servers=[pages.url("/metrics")]), monitor="m")
        with watching(watch):
            until(lambda: named(watch).get(server) and named(watch)[server].up, "a page")  # noqa: B023
    rows = sorted(readings.read(watch.root, 0, 2**62), key=lambda one: one.read_utc_ns)
    assert [number for number, _ in itertools.groupby(one.incarnation for one in rows)] == [0, 1]
    assert window(watch.root, 0, time.time_ns() + MINUTE_NS, 1).usages[0].counters["output_tokens"] == 30.0


def test_two_monitors_at_once_count_nothing_twice(pages, tmp_path):
    """Both read one server into one store: from the first page that either had to the last, each token once."""
    pages.of = {"/metrics": lambda: vllm_page(pages.asked["/metrics"] * 7)}
    server = f"127.0.0.1:{pages.port}"
    both = [Watch(spec(tmp_path, servers=[pages.url("/metrics")]), monitor=name) for name in ("m", "n")]
    with watching(both[0]), watching(both[1]):
        until(
            lambda: all(named(watch).get(server) and named(watch)[server].scrapes >= 3 for watch in both),
            "three pages each",
        )
    rows = list(readings.read(both[0].root, 0, 2**62))
    assert {row.monitor for row in rows} == {"m", "n"}
    read = [row.output_tokens for row in rows]
    (found,) = window(both[0].root, 0, time.time_ns() + MINUTE_NS, 1).usages
    assert found.counters["output_tokens"] == max(read) - min(read) > 0


def test_hours_wait_for_a_history_that_is_still_read(tmp_path, monkeypatch):
    """What a Prometheus has is read later than it happened: no hour is summed before its rows are there."""
    now = T0 - T0 % readings.HOUR_NS + 10 * readings.HOUR_NS + 600 * NS
    asked = []
    monkeypatch.setattr(watch_module.window, "roll_up", lambda root, now_ns, *_, **__: asked.append(now_ns))
    pool = {"name": "p", "prometheus": {"url": "http://127.0.0.1:1"}}
    watch = Watch(MonitorSpec.model_validate({"name": "t", "store": str(tmp_path / "m"), "pools": [pool]}), monitor="m")
    watch._keep(now)
    assert asked == [], "nothing is read yet"
    reader = PageReader("vllm")
    made = lambda name: Watched(name, "p", "vllm", "m", 100)  # noqa: E731
    since = now - 3 * readings.HOUR_NS
    watch._pools[0]._prometheus = PrometheusServers(PrometheusSpec(url="http://h"), "vllm", reader, made, since)
    watch._keep(now)
    assert [at // readings.HOUR_NS for at in asked] == [now // readings.HOUR_NS - 3]


def test_a_full_disk_ends_no_watch_and_loses_no_row(pages, tmp_path, monkeypatch):
    """While nothing can be written the rows wait and it is said; once there is room they are stored."""
    pages.of = {"/metrics": lambda: vllm_page(7)}
    write, full = readings.write, [True]

    def may_fail(root, rows):
        if full[0]:
            raise StoreError("no room", str(root.path), "free some")
        return write(root, rows)

    monkeypatch.setattr(watch_module.readings, "write", may_fail)
    watch = Watch(spec(tmp_path, servers=[pages.url("/metrics")]), monitor="m")
    with watching(watch):
        until(lambda: watch.servers() and watch.servers()[0].up, "a page")
        rows = [row for pool in watch._pools for row in pool.drain(None)]
        watch._pending.append(readings_of(rows))
        watch._write()
        assert watch.unstored >= len(rows) == 1
        assert "no room" in watch.store_says
        assert any("not stored" in said for said in watch.warnings)
        full[0] = False
    assert watch.unstored == 0
    assert rows[0] in list(readings.read(watch.root, 0, 2**62))


def test_a_restart_within_a_minute_has_rows_of_both_starts():
    """By the start that the page tells, or by a counter that fell: the last page of the one before is kept; the very first page too."""
    for starts in ((1000.0, 1100.0), (None, None)):
        watched, reader = Watched("a:1", "p", "vllm", "m", 100), PageReader("vllm")
        for second, tokens, start in (
            (5, 100, starts[0]),
            (20, 130, starts[0]),
            (35, 10, starts[1]),
            (50, 200, starts[1]),
        ):
            watched.take(reader.read(vllm_page(tokens, start)), T0 + second * NS)
        rows = watched.drain()
        assert [(one.incarnation, one.output_tokens, one.scrapes) for one in rows] == [
            (0, 100.0, 1),
            (0, 130.0, 1),
            (1, 200.0, 2),
        ]
        (found,) = usage(rows, T0, T0 + MINUTE_NS, 15)
        assert (found.counters["output_tokens"], found.restarts) == (30.0 + 200.0, 1)


def test_labels_beyond_the_bound_are_one_row_and_it_is_said():
    """Fifty tenants where four rows are allowed: three of their own, the whole page beside them, and a warning."""
    more = "".join(f'vllm:generation_tokens_total{{engine="0",model_name="m",user="u{i}"}} {i}\n' for i in range(50))
    watched, reader = Watched("a:1", "p", "vllm", "m", 4), PageReader("vllm", "user")
    for second in (0, 60):
        watched.take(reader.read(more), T0 + second * NS)
    rows = watched.drain()
    assert len(rows) == 8
    assert [one.output_tokens for one in rows if one.model == OTHER] == [sum(range(50))] * 2
    assert "47 of its labels are one row" in watched.state().says


def test_a_board_has_rows_of_its_own():
    """The last energy of a minute, means of power and use; a counter that fell is a driver that was loaded anew."""
    board = WatchedBoard("GPU-1", "p", "dcgm", "m")
    for second, joules in ((0, 10.0), (30, 40.0), (60, 70.0), (90, 5.0)):
        board.take(joules, 100.0 + second, 50.0, T0 + second * NS)
    rows = board.drain()
    assert [(one.server, one.energy_j, one.power_w, one.incarnation) for one in rows] == [
        ("gpu:GPU-1", 40.0, 115.0, 0), ("gpu:GPU-1", 70.0, 160.0, 0), ("gpu:GPU-1", 5.0, 190.0, 1),
    ]  # fmt: skip
    (found,) = usage(rows, T0, T0 + 200 * NS, 15)
    assert (found.counters["energy_j"], found.engine) == (30.0 + 5.0, "dcgm")


def test_a_pools_boards_come_from_its_exporter(pages, tmp_path):
    """A DCGM exporter's page beside the servers' own."""
    dcgm = 'DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{gpu="0",UUID="GPU-9"} 5000\nDCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-9"} 250\n'
    pages.of = {"/metrics": lambda: vllm_page(1), "/dcgm": lambda: dcgm}
    watch = Watch(spec(tmp_path, servers=[pages.url("/metrics")], telemetry_url=pages.url("/dcgm")), monitor="m")
    with watching(watch):
        until(lambda: pages.asked.get("/dcgm", 0) >= 2, "the exporter's page")
    rows = [one for one in readings.read(watch.root, 0, 2**62) if one.engine == "dcgm"]
    assert {(one.server, one.energy_j, one.power_w) for one in rows} == {("gpu:GPU-9", 5.0, 250.0)}


def test_a_name_is_its_addresses():
    """Every address of a DNS name is a server; a name that there is not says so."""
    found = asyncio.run(servers_of(PoolSpec(name="p", dns="localhost:8123")))
    assert found["127.0.0.1:8123"] == "http://127.0.0.1:8123/metrics"
    with pytest.raises(PageError, match=r"dns: nowhere\.invalid"):
        asyncio.run(servers_of(PoolSpec(name="p", dns="nowhere.invalid:80")))


POD = {"metadata": {"name": "vllm-0"}, "status": {"phase": "Running", "podIP": "10.1.2.3"}}
KUBERNETES = KubernetesSpec(namespace="chat", selector="app=vllm", port=8000)


def test_pods_by_label_are_asked_of_the_api_server_with_the_pods_own_token(tmp_path, monkeypatch):
    """Over TLS by its CA, with its token, one list request; pods that run are servers; 403 says what its role must allow."""
    cert, key = certificate(tmp_path)
    (tmp_path / "ca.crt").write_bytes(cert.read_bytes())
    (tmp_path / "token").write_text("the-token\n")
    api = Pages(server_context(cert, key))
    path = "/api/v1/namespaces/chat/pods"
    pending = {"metadata": {"name": "vllm-1"}, "status": {"phase": "Pending"}}
    api.of = {path: lambda: json.dumps({"items": [POD, pending]})}
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    pool = PoolSpec(name="p", kubernetes=KUBERNETES)
    assert asyncio.run(servers_of(pool, tmp_path)) == {"vllm-0:8000": "http://10.1.2.3:8000/metrics"}
    assert api.heads[path]["authorization"] == "Bearer the-token"
    assert api.heads[path][":path"] == f"{path}?labelSelector=app%3Dvllm"
    api.of = {path: lambda: 403}
    with pytest.raises(PageError, match="its role must allow: list pods"):
        asyncio.run(servers_of(pool, tmp_path))
    api.close()


def test_an_answer_that_is_no_list_of_pods_says_so():
    """Of a proxy, or of another API."""
    for text in ("<html>", "{}", '{"items": [{}]}', "[]"):
        with pytest.raises(PageError, match="no list of pods"):
            pods_of(text, KUBERNETES)


def test_readings_out_of_a_real_prometheus(pages, tmp_path):
    """What it scraped, by instance and step: the counters as it has them, a server that is down as missed, history from before us."""
    pages.of = {"/metrics": lambda: vllm_page(pages.asked["/metrics"] * 10, 1_700_000_000.0)}
    jobs = {"vllm": f"127.0.0.1:{pages.port}", "gone": "127.0.0.1:1"}
    with prometheus(tmp_path / "prometheus", jobs) as server:
        until(
            lambda: (server.value('vllm:generation_tokens_total{job="vllm"}') or 0) >= 150, "Prometheus to have scraped"
        )
        reader = PageReader("vllm")
        made = lambda name: Watched(name, "p", "vllm", "m", 100)  # noqa: E731
        since = time.time_ns() - 600 * NS
        source = PrometheusServers(PrometheusSpec(url=server.url), "vllm", reader, made, since, step_ns=NS)

        async def read() -> None:
            async with open_client(server.url) as client:
                while await source.read(client, time.time_ns() + 5 * NS):
                    pass

        until(lambda: asyncio.run(read()) or f"127.0.0.1:{pages.port}" in source.watched, "a step that is over")
        rows = source.watched[f"127.0.0.1:{pages.port}"].drain()
        truth = server.get(
            "query", query=f'vllm:generation_tokens_total{{job="vllm"}} @ {rows[-1].read_utc_ns / NS:.3f}'
        )
        assert rows[-1].output_tokens == float(truth["result"][0]["value"][1])
        assert rows[-1].prompt_tokens == 2 * rows[-1].output_tokens
        assert rows[-1].started_utc_ns == 1_700_000_000 * NS
        down = source.watched["127.0.0.1:1"].state()
        assert (down.up, down.scrapes) == (False, down.missed)


def test_an_answer_that_is_none_of_prometheus_says_so():
    """HTML, an error in its own words."""
    with pytest.raises(PageError, match="not an answer of its HTTP API"):
        list(by_server("<html>"))
    with pytest.raises(PageError, match="parse error"):
        list(by_server('{"status": "error", "error": "parse error at char 3"}'))


def test_a_reading_repeated_by_another_monitor_changes_nothing():
    """The rows of a watch, and again under another name: the same totals."""
    watched, reader = Watched("a:1", "p", "vllm", "m", 100), PageReader("vllm")
    for minute, tokens in enumerate((10, 30, 45, 80)):
        watched.take(reader.read(vllm_page(tokens)), T0 + minute * MINUTE_NS)
    rows = watched.drain()
    twice = [*rows, *(replace(one, monitor="n", read_utc_ns=one.read_utc_ns + 2 * NS) for one in rows)]
    (one,), (two,) = (usage(some, T0, T0 + 600 * NS, 15) for some in (rows, twice))
    assert one.counters == two.counters
