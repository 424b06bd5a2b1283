"""A vLLM server's Prometheus page, read over HTTP into rows of server.parquet, and as a telemetry source.

Lines are chosen before they are parsed: nine tenths of a page are histogram buckets and their comments, and leaving
them out makes a scrape four times cheaper.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness.base import clock
from harness.base.loopback import is_loopback
from harness.judge.server_state import on_page
from harness.measure.control_request import request
from harness.records import ServerSample

TICK_TIMEOUT_S = 2.0
EDGE_TIMEOUT_S = 10.0


class ScrapeError(Exception):
    """A scrape that gave no series, with the reason in a few words; never leaves this package."""


def open_client(url: str) -> httpx.Client:
    """A client for one metrics page; proxies of the environment are not asked for a loopback server."""
    # one connection would make an edge wait behind a slow tick
    limits = httpx.Limits(max_connections=4, max_keepalive_connections=2)
    return httpx.Client(trust_env=not is_loopback(url), timeout=TICK_TIMEOUT_S, limits=limits)


def parse(page: str, stamp_ns: int, edge: str | None = None) -> list[ServerSample]:
    """Series of a page in the Prometheus text format.

    At an edge every `vllm:` and `process_` series, buckets included; else the `vllm:` series that are not buckets. Raises
    ScrapeError if the page does not parse or has no `vllm:` series.
    """
    wanted = ("vllm:", "process_") if edge is not None else ("vllm:",)
    lines = [
        line for line in page.split("\n") if line.startswith(wanted) and (edge is not None or not _is_bucket(line))
    ]
    try:
        families = list(text_string_to_metric_families("\n".join([*lines, ""])))
    except (ValueError, KeyError, IndexError) as error:
        raise ScrapeError(f"the page is not Prometheus text: {error}") from None
    rows = [
        ServerSample(stamp_ns, edge, sample.name, json.dumps(sample.labels, sort_keys=True), float(sample.value))
        for family in families
        for sample in family.samples
    ]
    if not any(row.metric.startswith("vllm:") for row in rows):
        raise ScrapeError("the page has no vllm: series")
    return rows


def _is_bucket(line: str) -> bool:
    return line.partition("{")[0].endswith("_bucket")


def page(client: httpx.Client, url: str, limit_s: float) -> str:
    """Text of a metrics page. Raises ScrapeError."""
    try:
        headers = {"accept": "text/plain;version=0.0.4"}
        response = request(client, "GET", url, headers=headers, timeout=limit_s, total_s=limit_s)
    except httpx.HTTPError as error:
        raise ScrapeError(f"{type(error).__name__}: {error}".rstrip(": ")) from None
    if response.status_code != httpx.codes.OK:
        raise ScrapeError(f"HTTP status {response.status_code}")
    return response.text


def scrape(client: httpx.Client, url: str, edge: str | None = None) -> list[ServerSample]:
    """One scrape; every row carries the stamp at which the response had arrived. Raises ScrapeError."""
    text = page(client, url, TICK_TIMEOUT_S if edge is None else EDGE_TIMEOUT_S)
    return parse(text, clock.monotonic_ns(), edge)


def scrape_all(clients: Mapping[str, httpx.Client], edge: str | None = None) -> list[ServerSample]:
    """One scrape of every page (URL -> client), as one: the rows of several have one stamp, that of the last, and the label `replica`
    (host:port), so that sums over labels are over all. Raises ScrapeError where one page fails: a sum without it would fall."""
    rows: list[ServerSample] = []
    for url, client in clients.items():
        try:
            page_rows = scrape(client, url, edge)
        except ScrapeError as error:
            raise ScrapeError(f"{urlsplit(url).netloc}: {error}" if len(clients) > 1 else str(error)) from None
        rows += [_labelled(row, urlsplit(url).netloc) for row in page_rows] if len(clients) > 1 else page_rows
    return [replace(row, stamp_ns=rows[-1].stamp_ns) for row in rows] if len(clients) > 1 else rows


def _labelled(row: ServerSample, replica: str) -> ServerSample:
    return replace(row, labels=json.dumps({**json.loads(row.labels), "replica": replica}, sort_keys=True))


def told(samples: Sequence[ServerSample], meaning: str, over: Callable[[list[float]], float] = sum) -> float | None:
    """What one scrape says of a meaning of configs/server_series, under whatever name it has there: over its labels (engines, API
    servers, replicas) their sum; None if the page does not have it."""
    known = on_page(meaning, {sample.metric for sample in samples})
    values = [sample.value for sample in samples if known is not None and sample.metric == known.name]
    return over(values) if values else None


def unfinished(samples: Sequence[ServerSample]) -> float | None:
    """Requests running or waiting in the server; None if the page does not say."""
    counts = [count for meaning in ("running", "waiting") if (count := told(samples, meaning)) is not None]
    return sum(counts) if counts else None


class ServerSource:
    """A vLLM server's /metrics, or those of every rank or replica of it."""

    def __init__(self, *urls: str) -> None:
        self._clients = {url: open_client(url) for url in urls}
        self._edges_failed: list[str] = []

    def read(self, edge: str | None) -> list[ServerSample]:
        try:
            return scrape_all(self._clients, edge)
        except ScrapeError as error:
            if edge is not None:
                self._edges_failed.append(f"{edge}: {error}")
            raise

    def settle(self, limit_s: float) -> bool:
        """Wait until the server has no request running or waiting; False if it still had one after `limit_s`.

        Its counters are complete then: a reply can reach us a moment before the server has counted it.
        """
        end_ns = clock.monotonic_ns() + int(limit_s * clock.NS)
        while True:
            try:
                left = unfinished(scrape_all(self._clients))
            except ScrapeError:
                return False
            if not left:
                return left == 0
            if clock.monotonic_ns() >= end_ns:
                return False
            clock.sleep(0.05)

    def about(self) -> str:
        return "Prometheus page" if len(self._clients) == 1 else f"{len(self._clients)} Prometheus pages, summed"

    def complaint(self) -> str | None:
        return f"no scrape at an edge ({'; '.join(self._edges_failed)})" if self._edges_failed else None

    def facts(self) -> Mapping[str, Any]:
        return {"pages": list(self._clients)}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
