"""What the monitor knows as Prometheus metrics: /metrics over the latest state, loopback unless told otherwise.

A line of a view is a gauge `harness_monitor_NAME{monitor, window, kind, name}`, its unit in Prometheus' form (`ttft_p99_high_s` is
`harness_monitor_ttft_p99_high_seconds`); what is not known is no sample, never 0. Tokens, requests and dollars are true counters beside
them, under names of their own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from threading import Lock

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from harness import __version__
from harness.base import clock
from harness.base.errors import ConfigError
from harness.records import MonitorState, MonitorView

PREFIX = "harness_monitor_"
MANY_GROUPS, MOST_GROUPS = (
    50,
    1000,
)  # of one kind in one window: from the first on headlines alone, none beyond the second
HEADLINES = frozenset((
    "usd", "usd_per_hour", "usd_per_million_output_tokens", "output_tps", "request_rps", "utilisation", "ttft_p99_low_s",
    "ttft_p99_high_s", "attainment_low", "budget_burn_low", "gap_s", "restarts",
))  # fmt: skip
SHORT_WINDOWS = ("1m", "1h")  # of which they are shown: 500 servers are 12,000 samples, and would be 110,000
TOTALS = (  # line of a view, counter, value of its label `token`
    ("prompt_tokens", "served_tokens", "prompt"),
    ("cached_tokens", "served_tokens", "cached"),
    ("output_tokens", "served_tokens", "output"),
    ("requests", "served_requests", None),
    ("errors", "failed_requests", None),
    ("usd", "paid_usd", None),
)
_TOTALS_HELP = {
    "served_tokens": "Tokens of this month's requests; cached ones are prompt tokens too.",
    "served_requests": "Requests that ended this month.",
    "failed_requests": "Requests of this month that ended in an error or were aborted.",
    "paid_usd": "Dollars that the machines cost this month.",
}
_RATIOS = re.compile(r"(?:^|_)(?:utilisation|share|acceptance|attainment|burn)(?:_low|_high)?$")
_FORMS = (  # a name here, the same in Prometheus' words and base units
    (re.compile(r"_share(?=_|$)"), ""),
    (re.compile(r"^request_rps$"), "requests_per_second"),
    (re.compile(r"_rps$"), "_requests_per_second"),
    (re.compile(r"_tps$"), "_tokens_per_second"),
    (re.compile(r"_s$"), "_seconds"),
    (re.compile(r"^j_per_"), "joules_per_"),
)


def metric_name(line: str) -> str:
    """`attainment_low` -> `attainment_low_ratio`, behind PREFIX: shares are ratios, seconds and joules are written out."""
    ratio = _RATIOS.search(line) is not None
    for pattern, form in _FORMS:
        line = pattern.sub(form, line)
    return f"{line}{'_ratio' if ratio else ''}"


class Exporter(Collector):
    """Holds the latest state and answers for it; `show` replaces it whole, from any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._state: MonitorState | None = None
        self._month = ""
        self._view: MonitorView | None = None
        self._totals: dict[tuple[str, str, str], float] = {}  # (line, kind, name) -> the most it has been this month

    def show(self, state: MonitorState) -> None:
        """Answer for `state` from now on. Counters begin anew with a month, which Prometheus takes for what it is, and never fall within one."""
        with self._lock:
            self._state = state
            month = state.views.get("month")
            if month is None or month is self._view:
                return
            self._view = month
            name = datetime.fromtimestamp(month.to_ns // clock.NS, UTC).strftime("%Y-%m")
            if name != self._month:
                self._month, self._totals = name, {}
            for group in month.groups[: 5 * MOST_GROUPS]:
                for line, _, _ in TOTALS:
                    if (value := group.value(line)) is not None:
                        key = (line, group.kind, group.name)
                        self._totals[key] = max(value, self._totals.get(key, 0.0))

    def collect(self) -> Iterator[Metric]:
        """The families of the latest state; nothing but the version before the first."""
        with self._lock:
            state, totals = self._state, dict(self._totals)
        yield InfoMetricFamily(PREFIX.rstrip("_"), "The harness that watches.", value={"version": __version__})
        if state is not None:
            page = _Page(state.name)
            _lines(page, state)
            _counters(page, totals)
            _servers(page, state)
            _money(page, state)
            page.gauge(
                "state_timestamp_seconds", "When these figures were made, since the epoch.", state.at_utc_ns / clock.NS
            )
            page.gauge("unstored_rows", "Readings that could not be written.", state.unstored)
            yield from page.families.values()


class _Page:
    """Families as their samples come; each sample says whose monitor it is of, and a family's samples have the same labels."""

    def __init__(self, monitor: str) -> None:
        self.families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        self._monitor = monitor

    def gauge(self, name: str, says: str, value: float, /, **labels: str) -> None:
        self._add(GaugeMetricFamily, name, says, value, labels)

    def counter(self, name: str, says: str, value: float, /, **labels: str) -> None:
        self._add(CounterMetricFamily, name, says, value, labels)

    def _add(
        self,
        kind: type[GaugeMetricFamily | CounterMetricFamily],
        name: str,
        says: str,
        value: float,
        labels: dict[str, str],
    ) -> None:
        if name not in self.families:
            self.families[name] = kind(PREFIX + name, says, labels=("monitor", *labels))
        self.families[name].add_metric((self._monitor, *labels.values()), float(value))


def _lines(page: _Page, state: MonitorState) -> None:
    """A gauge a line. Many groups of a kind have their headlines in the short windows alone; how many are left out is a gauge too."""
    for window, view in state.views.items():
        page.gauge(
            "window_end_timestamp_seconds",
            "When the window of these figures ended, since the epoch.",
            view.to_ns / clock.NS,
            window=window,
        )
        many = {kind for kind, count in Counter(group.kind for group in view.groups).items() if count > MANY_GROUPS}
        seen: Counter[str] = Counter()
        for group in view.groups:
            seen[group.kind] += 1
            if seen[group.kind] > MOST_GROUPS or (group.kind in many and window not in SHORT_WINDOWS):
                continue
            for line in group.lines:
                if line.value is not None and (group.kind not in many or line.name in HEADLINES):
                    says = f"{line.label}{f', {line.unit}' if line.unit else ''}."
                    page.gauge(
                        metric_name(line.name), says, line.value, window=window, kind=group.kind, name=group.name
                    )
        for kind, count in seen.items():
            left_out = max(0, count - MOST_GROUPS)
            page.gauge("groups_left_out", "Groups beyond the bound of this page.", left_out, window=window, kind=kind)


def _counters(page: _Page, totals: dict[tuple[str, str, str], float]) -> None:
    names = {line: (counter, token) for line, counter, token in TOTALS}
    for (line, kind, name), value in totals.items():
        counter, token = names[line]
        labels = {"kind": kind, "name": name} | ({"token": token} if token else {})
        page.counter(counter, _TOTALS_HELP[counter], value, **labels)


def _servers(page: _Page, state: MonitorState) -> None:
    for one in state.servers:
        labels = {"server": one.server, "pool": one.pool, "engine": one.engine}
        page.gauge("server_up", "1 where the server's last page came.", one.up, **labels)
        page.counter("scrapes", "Pages asked for.", one.scrapes, **labels)
        page.counter("missed_scrapes", "Pages asked for that did not come.", one.missed, **labels)
        if one.read_utc_ns is not None:
            age_s = (state.at_utc_ns - one.read_utc_ns) / clock.NS
            page.gauge("reading_age_seconds", "Since the server's last page came.", age_s, **labels)


def _money(page: _Page, state: MonitorState) -> None:
    """What the figures are held against: prices and their age, capacities, the budget; and what could be saved."""
    for price in state.prices:
        known = price.usd_per_hour is not None
        page.gauge("price_known", "1 where the pool's machines have a price.", known, pool=price.pool)
        if price.as_of is not None:
            age_s = state.at_utc_ns / clock.NS - datetime.fromisoformat(price.as_of).replace(tzinfo=UTC).timestamp()
            page.gauge("price_age_seconds", "Since the day that the pool's price is of.", age_s, pool=price.pool)
        says = "Share of its capacity that a replica is to carry."
        page.gauge("planned_utilisation_ratio", says, price.planned_share, pool=price.pool)
    view = state.views.get("24h") or next(iter(state.views.values()), None)
    used: dict[str, bool] = {}
    saves: dict[str, float] = {}
    for capacity in view.capacities if view else ():
        used[capacity.model] = used.get(capacity.model, False) or capacity.used
    for one in state.advice:
        saves[one.name] = saves.get(one.name, 0.0) + float(one.usd_per_month)
    for model, is_used in used.items():
        page.gauge(
            "capacity_used",
            "1 where a capacity measured of the model is used, 0 where it is only shown.",
            is_used,
            model=model,
        )
    for name, value in saves.items():
        page.gauge("advice_usd_per_month", "What following an advice would save.", value, advice=name)
    budgets = {
        "budget_usd_per_million_output_tokens": (
            "Dollars that a million output tokens may cost.",
            state.usd_per_million_budget,
        ),
        "budget_usd_per_month": ("Dollars that a month may cost.", state.usd_per_month_budget),
    }
    for name, (says, budget) in budgets.items():
        if budget is not None:
            page.gauge(name, says, float(budget))


@contextmanager
def serving(exporter: Exporter, host: str, port: int) -> Iterator[str]:
    """Serve /metrics in a thread until the context ends; yields its URL (port 0: a free one). Raises ConfigError where it cannot listen."""
    registry = CollectorRegistry()
    registry.register(exporter)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ConfigError(
            "cannot listen there", f"{host}:{port}: {error.strerror or error}", "another --listen HOST:PORT"
        ) from None
    try:
        yield f"http://{host}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
