"""Writes configs/monitor/dashboards: Grafana's dashboards over the monitor's exporter, built with Grafana's own types.

    make dashboards        (python -m tests.monitor.dashboards)

Every panel's queries are asked of a real Prometheus in test_prometheus.py and must bring data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "monitor" / "dashboards"
SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
WINDOWS = {"1m": "last minute", "1h": "last hour", "24h": "last 24 h", "month": "month to date"}
_ALL = 'monitor="$monitor", kind="all"'
_POOL = 'monitor="$monitor", kind="pool", name=~"$pool"'


@dataclass(frozen=True)
class Panel:
    """`shape`: stat | line | stack | bars | table; `queries`: (PromQL, legend). `limits`: values from which it is yellow, then red."""

    title: str
    shape: str
    unit: str
    queries: Sequence[tuple[str, str]]
    says: str
    span: int = 12
    limits: tuple[float, ...] = ()


def line(name: str, labels: str, window: str = "$window") -> str:
    """The exporter's gauge of a view's line; two monitors of one config say the same, so the larger is taken."""
    return f'max by (monitor, kind, name) (harness_monitor_{name}{{{labels}, window="{window}"}})'


def of_pools(title: str, name: str, unit: str, says: str, span: int = 12) -> Panel:
    """A line a pool over time."""
    return Panel(title, "line", unit, [(line(name, _POOL), "{{name}}")], says, span)


def band(title: str, what: str, share: str) -> Panel:
    """Both ends of a percentile, a pair a pool."""
    queries = [(line(f"{what}_{share}_{end}_seconds", _POOL), f"{{{{name}}}} {end}") for end in ("low", "high")]
    return Panel(
        title, "line", "s", queries, "The percentile lies between the two: the bounds of its histogram bucket.", 8
    )


COST = [
    ("Now", [
        Panel("Dollars an hour", "stat", "currencyUSD", [(line("usd_per_hour", _ALL, "1m"), "now")], "What the machines cost that are paid now.", 4),
        Panel("Dollars a million output tokens", "stat", "currencyUSD", [(line("usd_per_million_output_tokens", _ALL), "$window")], "Paid dollars over served tokens, idle hours included.", 5),
        Panel("Dollars this month", "stat", "currencyUSD", [(line("usd", _ALL, "month"), "so far")], "From the first of the month, UTC.", 4),
        Panel("At the month's end", "stat", "currencyUSD", [('harness_monitor:usd:month_end{monitor="$monitor", kind="all"}', "expected")], "So far, and the last day's rate for the hours that are left.", 4),
        Panel("Utilisation", "stat", "percentunit", [(line("utilisation_ratio", _ALL), "$window")], "Served load over measured capacity.", 3, (0.7, 1.0)),
        Panel("Output tokens a second", "stat", "short", [(line("output_tokens_per_second", _ALL, "1m"), "now")], "Of the last minute.", 4),
    ]),
    ("Over time", [
        Panel("Dollars a million output tokens", "line", "currencyUSD", [
            (line("usd_per_million_output_tokens", _POOL), "{{name}}"),
            ('max by (monitor) (harness_monitor_budget_usd_per_million_output_tokens{monitor="$monitor"})', "budget"),
        ], "A pool's paid dollars over its served output tokens."),
        of_pools("Dollars an hour", "usd_per_hour", "currencyUSD", "What each pool's machines cost."),
        Panel("Output tokens a second, by the counters", "line", "short", [
            ('max by (kind, name) (rate(harness_monitor_served_tokens_total{monitor="$monitor", kind="pool", name=~"$pool", token="output"}[$__rate_interval]))', "{{name}}"),
        ], "Prometheus' own rate of the true counter."),
        Panel("Tokens by kind", "stack", "short", [
            ('max by (token) (rate(harness_monitor_served_tokens_total{monitor="$monitor", kind="all"}[$__rate_interval]))', "{{token}}"),
        ], "Prompt tokens hold the cached ones."),
        of_pools("Dollars a thousand requests", "usd_per_1000_requests", "currencyUSD", "Where requests are alike, the easier figure."),
        of_pools("Dollars a million tokens in all", "usd_per_million_total_tokens", "currencyUSD", "Input and output together: needs no split."),
    ]),
    ("Idle and elsewhere", [
        Panel("Idle dollars and what they are for", "stack", "currencyUSD", [
            (f'max by (name) (harness_monitor_idle_{part}_usd{{{_ALL}, window="$window"}})', part)
            for part in ("spares", "headroom", "shape", "waste")
        ], "Spares and headroom were planned; shape is what replicas that cannot follow the load cost; waste nobody needed."),
        Panel("The same tokens hosted", "line", "currencyUSD", [
            (line("hosted_usd", _POOL), "{{name}} hosted"), (line("usd", _POOL), "{{name}} here"),
        ], "Today's list prices for what was served in the window."),
        of_pools("Break-even", "break_even_requests_per_second", "reqps", "From this rate on the own machines are cheaper."),
        of_pools("Saved by the prefix cache", "prefix_saved_usd", "currencyUSD", "Dollars of prefill that were not spent."),
        Panel("Advice", "bars", "currencyUSD", [('max by (advice) (harness_monitor_advice_usd_per_month{monitor="$monitor"})', "{{advice}}")], "Dollars a month, above their noise; `harness monitor report` has the reasons.", 24),
    ]),
]  # fmt: skip

SERVICE = [
    ("Promise", [
        Panel("In the promise, at least", "stat", "percentunit", [(line("attainment_low_ratio", _POOL), "{{name}}")], "The least that the histograms leave possible.", 6),
        Panel("Budget burn, at least", "stat", "short", [(line("budget_burn_low_ratio", _POOL), "{{name}}")], "Share outside the promise over the share that it allows: above 1 the budget ends early.", 6, (1.0, 14.4)),
        Panel("Requests a second", "stat", "reqps", [(line("requests_per_second", _POOL, "1m"), "{{name}}")], "Of the last minute.", 6),
        Panel("Errors", "stat", "short", [(line("errors", _POOL), "{{name}}")], "Requests that ended in an error or were aborted.", 6, (1.0,)),
        Panel("In the promise", "line", "percentunit", [
            (line("attainment_low_ratio", _POOL), "{{name}} at least"), (line("attainment_high_ratio", _POOL), "{{name}} at most"),
        ], "Two ends, because a limit inside a bucket splits it."),
        Panel("Budget burn by window", "line", "short", [
            (f"max by (name, window) (harness_monitor_budget_burn_low_ratio{{{_POOL}}})", "{{name}} {{window}}"),
        ], "What the burn alerts look at."),
    ]),
    ("Times", [
        band(f"{title} p{share}", what, f"p{share}")
        for what, title in (("ttft", "TTFT"), ("tpot", "TPOT"), ("queue", "Queue"), ("e2el", "E2EL"))
        for share in (50, 90, 99)
    ]),
    ("Load", [
        Panel("Utilisation", "line", "percentunit", [
            (line("utilisation_ratio", _POOL), "{{name}}"),
            ('max by (pool) (harness_monitor_planned_utilisation_ratio{monitor="$monitor", pool=~"$pool"})', "{{pool}} planned"),
        ], "Served load over measured capacity, and what was planned."),
        Panel("Requests a second and capacity", "line", "reqps", [
            (line("requests_per_second", _POOL), "{{name}}"), (line("capacity_requests_per_second", _POOL), "{{name}} capacity"),
        ], "The capacity is the highest rate at which a run kept the promise."),
        of_pools("Prefix cache hits", "prefix_hit_ratio", "percentunit", "Prompt tokens that were found in the cache."),
        of_pools("Speculative tokens accepted", "draft_acceptance_ratio", "percentunit", "Of those proposed."),
        of_pools("Work done again", "preemption_ratio", "percentunit", "Tokens that were computed again after preemptions, for lack of KV cache."),
        of_pools("Energy an output token", "joules_per_output_token", "joule", "GPU energy, not wall energy."),
    ]),
    ("Who", [
        Panel(f"By {kind}", "table", "short", [
            (f'max by (name) (harness_monitor_output_tokens_per_second{{monitor="$monitor", kind="{kind}", window="$window"}})', "{{name}}"),
        ], f"Output tokens a second of each {kind}.", 8)
        for kind in ("model", "tenant", "server")
    ]),
]  # fmt: skip

MONITOR = [
    ("Servers", [
        Panel("Servers read", "stat", "short", [('sum(max by (server) (harness_monitor_server_up{monitor="$monitor"}))', "up")], "Whose last page came.", 6),
        Panel("Servers known", "stat", "short", [('count(max by (server) (harness_monitor_server_up{monitor="$monitor"}))', "known")], "Named by the config or discovered.", 6),
        Panel("Oldest reading", "stat", "s", [('max(harness_monitor_reading_age_seconds{monitor="$monitor"})', "age")], "Since the page of the most silent server came.", 6, (60.0, 300.0)),
        Panel("Oldest price", "stat", "s", [('max(harness_monitor_price_age_seconds{monitor="$monitor"})', "age")], "A price that is old is a wrong price.", 6, (30 * 86_400.0, 90 * 86_400.0)),
        Panel("Up", "line", "short", [('max by (server) (harness_monitor_server_up{monitor="$monitor", pool=~"$pool"})', "{{server}}")], "1 where the last page came."),
        Panel("Scrapes missed", "line", "percentunit", [('harness_monitor:missed_scrapes:ratio5m{monitor="$monitor", pool=~"$pool"}', "{{server}}")], "Of the last five minutes."),
        of_pools("Not read", "gap_seconds", "s", "Seconds of the window between readings that are too far apart: what they held is in the totals, not known to the minute."),
        Panel("Restarts", "line", "short", [
            (line("restarts", _POOL), "{{name}}"), (line("lost_restarts", _POOL), "{{name}} with unread counts"),
        ], "What a server served between its last reading and its restart is unseen."),
    ]),
    ("The monitor itself", [
        Panel("Age of the figures", "line", "s", [('time() - max by (monitor) (harness_monitor_state_timestamp_seconds{monitor="$monitor"})', "age")], "Grows where the monitor hangs.", 6),
        Panel("Readings not stored", "line", "short", [('max by (monitor) (harness_monitor_unstored_rows{monitor="$monitor"})', "rows")], "Above 0: a full disk, or a store that cannot be reached.", 6),
        Panel("Groups left out", "line", "short", [('max by (kind) (harness_monitor_groups_left_out{monitor="$monitor"})', "{{kind}}")], "Beyond the bound of a page.", 6),
        Panel("Its memory", "line", "bytes", [('process_resident_memory_bytes and on (instance) harness_monitor_state_timestamp_seconds{monitor="$monitor"}', "{{instance}}")], "Resident.", 6),
        Panel("Prices known", "table", "short", [('max by (pool) (harness_monitor_price_known{monitor="$monitor"})', "{{pool}}")], "0: the pool's dollars are in no figure."),
        Panel("Capacities used", "table", "short", [('max by (model) (harness_monitor_capacity_used{monitor="$monitor"})', "{{model}}")], "0: measured on another machine, so it is shown and not used."),
    ]),
]  # fmt: skip

DASHBOARDS = {
    "cost": ("Inference cost", "What production costs now, what it is for, and what it should cost.", COST),
    "service": ("Inference service", "Whether the promise is kept, and how near its capacity each pool is.", SERVICE),
    "monitor": ("Cost monitor", "Whether the figures of the other two can be believed.", MONITOR),
}


def built(name: str) -> str:
    """The dashboard's JSON as Grafana imports it."""
    title, says, rows = DASHBOARDS[name]
    page = dashboard.Dashboard(title).uid(f"harness-monitor-{name}").description(says)
    page = page.tags(["harness-monitor"]).editable().refresh("30s").time("now-6h", "now").timezone("browser")
    page = page.tooltip(models.DashboardCursorSync.CROSSHAIR)
    for variable in _variables():
        page = page.with_variable(variable)
    links = dashboard.DashboardLink("Cost monitor").type(models.DashboardLinkType.DASHBOARDS)
    page = page.link(links.tags(["harness-monitor"]).as_dropdown(True).include_vars(True).keep_time(True))
    number = 0
    for row, panels in rows:
        number += 1
        page = page.with_row(dashboard.Row(row).id(number))
        for panel in panels:
            number += 1
            page = page.with_panel(_panel(panel).id(number))
    return json.dumps(page.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variables() -> list:
    windows = ",".join(f"{words} : {window}" for window, words in WINDOWS.items())
    pools = 'label_values(harness_monitor_usd{monitor="$monitor", kind="pool"}, name)'
    monitors = "label_values(harness_monitor_state_timestamp_seconds, monitor)"
    every = models.VariableOption(text="All", value="$__all")
    return [
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"),
        dashboard.QueryVariable("monitor").label("Monitor").query(monitors).datasource(SOURCE).refresh(models.VariableRefresh.ON_DASHBOARD_LOAD),
        dashboard.QueryVariable("pool").label("Pool").query(pools).datasource(SOURCE).refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True).include_all(True).current(every),
        dashboard.CustomVariable("window").label("Window").values(windows).current(models.VariableOption(text="last hour", value="1h")),
    ]  # fmt: skip


def _panel(panel: Panel):
    shapes = {"stat": stat, "line": timeseries, "stack": timeseries, "bars": bargauge, "table": table}
    made = shapes[panel.shape].Panel().title(panel.title).description(panel.says).unit(panel.unit)
    made = made.datasource(SOURCE).span(panel.span).height(4 if panel.shape == "stat" else 8)
    for at, (expression, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expression).legend_format(legend).ref_id("ABCDEFGH"[at]).datasource(SOURCE)
        query = query.range() if panel.shape in ("line", "stack") else query.instant()
        made = made.with_target(query.format(PromQueryFormat.TABLE) if panel.shape == "table" else query)
    if panel.shape == "stack":
        stacking = common.StackingConfig().mode(common_models.StackingMode.NORMAL).group("A")
        made = made.stacking(stacking).fill_opacity(30)
    if panel.limits:
        colors = ("green", "red") if len(panel.limits) == 1 else ("green", "yellow", "red")
        steps = [
            models.Threshold(value=value, color=color)
            for value, color in zip((None, *panel.limits), colors, strict=True)
        ]
        made = made.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps))
    return made


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in DASHBOARDS:
        (FOLDER / f"{name}.json").write_text(built(name), encoding="utf-8")
        print(f"{name}.json")


if __name__ == "__main__":
    main()
