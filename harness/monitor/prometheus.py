"""Readings out of a Prometheus server that scrapes the servers already: the same rows, of what it has kept and then of what is new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import httpx

from harness.base.clock import MINUTE_NS, NS
from harness.config.monitor import PrometheusSpec
from harness.monitor.engines import engine_series
from harness.monitor.page import PageError, PageReader
from harness.monitor.scrape import fetch
from harness.monitor.watched import Watched

LIMIT_S = 60.0
STEP_NS = MINUTE_NS  # a row a minute
MOST_STEPS = 360  # asked for at once
FEW_BYTES, MANY_BYTES = 1 << 20, 8 << 20  # an answer to ask for more time at once after, or for less
LATE_NS = 5 * NS  # what was scraped just now may not be in it yet
_UP = "up"
_STARTS = ("process_start_time_seconds",)

Samples = list[tuple[str, Mapping[str, str], float]]


class PrometheusServers:
    """The servers that one Prometheus server has series of, by its label `instance`."""

    def __init__(
        self,
        spec: PrometheusSpec,
        engine: str,
        reader: PageReader,
        made: Callable[[str], Watched],
        since_ns: int,
        step_ns: int = STEP_NS,
    ) -> None:
        """`step_ns`: from one reading of a server to the next."""
        self._spec, self._reader, self._made, self._step_ns = spec, reader, made, step_ns
        created = [
            name.removesuffix("_total") + "_created" for name in engine_series(engine).names if name.endswith("_total")
        ]
        self._names = sorted([*engine_series(engine).names, *created, *_STARTS, _UP])
        self._next_ns = since_ns - since_ns % self._step_ns + self._step_ns
        self._ask_ns = 10 * self._step_ns
        self.watched: dict[str, Watched] = {}

    @property
    def read_until_ns(self) -> int:
        """All before it has been read."""
        return self._next_ns

    async def read(self, client: httpx.AsyncClient, now_ns: int) -> bool:
        """Take the next stretch of time; False where there is none that is over yet. Raises PageError."""
        end_ns = min(
            self._next_ns + self._ask_ns - self._step_ns, (now_ns - LATE_NS) - (now_ns - LATE_NS) % self._step_ns
        )
        if end_ns < self._next_ns:
            return False
        try:
            text = await fetch(client, self._url(self._next_ns, end_ns), LIMIT_S, {"accept": "application/json"})
        except PageError as error:
            if "longer than" in str(error) and self._ask_ns > self._step_ns:
                self._ask_ns = max(self._ask_ns // 4 // self._step_ns * self._step_ns, self._step_ns)
                return True
            raise
        for server, at_ns, samples in by_server(text):
            self._take(server, at_ns, samples)
        self._next_ns = end_ns + self._step_ns
        if len(text) < FEW_BYTES:
            self._ask_ns = min(2 * self._ask_ns, MOST_STEPS * self._step_ns)
        elif len(text) > MANY_BYTES:
            self._ask_ns = max(self._ask_ns // 2 // self._step_ns * self._step_ns, self._step_ns)
        return True

    def _url(self, from_ns: int, to_ns: int) -> str:
        matchers = f'__name__=~"{"|".join(self._names)}"' + (f",{self._spec.selector}" if self._spec.selector else "")
        words = {"query": f"{{{matchers}}}", "start": from_ns // NS, "end": to_ns // NS, "step": self._step_ns // NS}
        return f"{self._spec.url.rstrip('/')}/api/v1/query_range?{urlencode(words)}"

    def _take(self, server: str, at_ns: int, samples: Samples) -> None:
        up = next((value for name, _, value in samples if name == _UP), None)
        page = self._reader.of_samples(samples)
        if page is None and up != 0:
            return  # another target of the job, or one that was not there then
        if server not in self.watched:
            self.watched[server] = self._made(server)
        if page is not None and up != 0:
            self.watched[server].take(page, at_ns)
        else:
            self.watched[server].miss(at_ns, "up is 0 in Prometheus: its own scrape of it fails")


def by_server(text: str) -> Iterator[tuple[str, int, Samples]]:
    """(instance, stamp, its series then) by time, of an answer to query_range. Raises PageError."""
    try:
        answer: Any = json.loads(text)
        if answer.get("status") != "success":
            raise PageError(f"prometheus: {answer.get('error', 'no answer')}"[:200])
        found: dict[tuple[float, str], Samples] = {}
        for series in answer["data"]["result"]:
            labels = dict(series["metric"])
            name, server = labels.pop("__name__", ""), labels.get("instance", "")
            for stamp, value in series["values"]:
                found.setdefault((stamp, server), []).append((name, labels, float(value)))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise PageError(
            "prometheus: not an answer of its HTTP API; url is http://HOST:PORT of the server itself"
        ) from None
    for (stamp, server), samples in sorted(found.items(), key=lambda item: item[0]):
        yield server, round(stamp * NS), samples
