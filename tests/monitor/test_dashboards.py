"""Rules and dashboards in a real Prometheus that scrapes the exporter: every query of every panel brings data, an alert is seen firing."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from harness.monitor.exporter import Exporter, serving
from tests.monitor.prometheus_server import Prometheus, prometheus
from tests.monitor.states import state
from tests.waiting import until

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "monitor"
PAGES = {path.stem: json.loads(path.read_text()) for path in sorted((CONFIGS / "dashboards").glob("*.json"))}
WINDOWS = ("1m", "1h", "24h", "month")


def panels() -> list[tuple[str, str, str]]:
    """(dashboard, panel's title, PromQL) of every query."""
    return [
        (name, panel["title"], target["expr"])
        for name, page in PAGES.items()
        for panel in page["panels"]
        for target in panel.get("targets", [])
    ]


def filled(expression: str, window: str) -> str:
    """A query as Grafana sends it: monitor and window chosen, all pools, its own interval."""
    for name, value in {"$monitor": "chat", "$pool": ".*", "$window": window, "$__rate_interval": "30s"}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def quick_rules(folder: Path) -> list[Path]:
    """The rules with no time to wait before an alert fires."""
    folder.mkdir(parents=True)
    for path in (CONFIGS / "rules").glob("*.yaml"):
        (folder / path.name).write_text(re.sub(r"for: \d+[mh]", "for: 0s", path.read_text()))
    return sorted(folder.iterdir())


def test_the_committed_dashboards_are_what_the_script_builds():
    """`make dashboards` changes nothing: nobody edited the JSON, nobody forgot to build it."""
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    from tests.monitor import dashboards

    assert set(PAGES) == set(dashboards.DASHBOARDS)
    for name in PAGES:
        assert (CONFIGS / "dashboards" / f"{name}.json").read_text() == dashboards.built(name), name


def test_grafanas_own_types_read_all_of_it():
    """Read into the SDK's types and written again nothing is lost: every key is one that Grafana knows; a misspelt one is not."""
    pytest.importorskip("grafana_foundation_sdk", reason="pip install grafana-foundation-sdk")
    from grafana_foundation_sdk.cog import plugins
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.models.dashboard import Dashboard

    def lost(ours: object, read: object) -> bool:
        if isinstance(ours, dict):
            return any(key not in read or lost(value, read[key]) for key, value in ours.items())
        if isinstance(ours, list):
            return len(ours) != len(read) or any(map(lost, ours, read))
        return ours != read

    def is_known(text: str) -> bool:
        page = json.loads(text)
        return not lost(page, json.loads(json.dumps(Dashboard.from_json(page), cls=JSONEncoder)))

    plugins.register_default_plugins()
    for name, page in PAGES.items():
        assert is_known(json.dumps(page)), name
        assert not is_known(json.dumps(page).replace('"legendFormat"', '"legendFromat"')), name


def test_panels_stand_beside_each_other():
    """Within the 24 columns, each at its own place, each with its own number and a query."""
    for name, page in PAGES.items():
        seen: set[tuple[int, int]] = set()
        for panel in page["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert not cells & seen, f"{name}: {panel['title']}"
            assert at["x"] + at["w"] <= 24, f"{name}: {panel['title']}"
            seen |= cells
            assert panel["type"] == "row" or panel["targets"]
        assert len({panel["id"] for panel in page["panels"]}) == len(page["panels"])


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A Prometheus that has scraped a monitor's exporter a few times, and evaluated the rules over it."""
    folder = tmp_path_factory.mktemp("prometheus")
    exporter = Exporter()
    exporter.show(state())
    with serving(exporter, "127.0.0.1", 0) as url:
        page = urllib.parse.urlsplit(url).netloc
        with prometheus(folder, {"harness-monitor": page}, quick_rules(folder / "rules")) as server:
            until(lambda: server.value('sum_over_time(up{job="harness-monitor"}[1m]) > 4'), "some scrapes")
            scrapes = count(40)

            def recorded() -> object:
                servers = [replace(one, scrapes=next(scrapes)) for one in state().servers]
                exporter.show(state(servers=tuple(servers)))
                return server.query("harness_monitor:missed_scrapes:ratio5m")

            until(recorded, "the recorded series")
            yield server


@pytest.mark.timing
def test_every_query_of_every_panel_brings_data(scraped: Prometheus):
    """In every window, at once and over a range, as Grafana would ask."""
    asked = {filled(expression, window) for _, _, expression in panels() for window in WINDOWS}
    assert len(asked) > 150
    now = scraped.value("vector(time())")
    for expression in sorted(asked):
        until(
            lambda e=expression: scraped.query(e), expression
        )  # a scrape that a busy machine missed is a moment without data
        over = scraped.get("query_range", query=expression, start=str(now - 60), end=str(now), step="1")["result"]
        assert over, expression


@pytest.mark.timing
def test_a_query_for_nothing_would_be_seen(scraped: Prometheus):
    """The check is one that can fail: a misspelt series brings nothing, a misspelt function is refused."""
    assert scraped.query("harness_monitor_uds") == []
    with pytest.raises(AssertionError, match="parse error"):
        scraped.query("maxx(harness_monitor_usd)")


@pytest.mark.timing
def test_the_variables_have_the_values_to_choose_from(scraped: Prometheus):
    """The monitor's and the pools' names come out of the queries of the dashboards' variables."""
    found = {}
    for page in PAGES.values():
        for variable in page["templating"]["list"]:
            if variable["type"] == "query":
                series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]).groups()
                match = urllib.parse.urlencode({"match[]": filled(series, "1h")})
                with urllib.request.urlopen(f"{scraped.url}/api/v1/label/{label}/values?{match}") as reply:
                    found[variable["name"]] = json.load(reply)["data"]
    assert found == {"monitor": ["chat"], "pool": ["chat"]}


@pytest.mark.timing
def test_alerts_fire_in_a_running_prometheus(tmp_path):
    """A silent server fires, and no longer once it is read; a price becomes too old; a budget is passed: by the rules as they are."""
    exporter = Exporter()
    calm = state(servers=state().servers[:1])
    exporter.show(calm)

    def firing() -> set[str]:
        return {sample["metric"]["alertname"] for sample in server.query('ALERTS{alertstate="firing"}')}

    with serving(exporter, "127.0.0.1", 0) as url:
        page = urllib.parse.urlsplit(url).netloc
        with prometheus(tmp_path / "data", {"harness-monitor": page}, quick_rules(tmp_path / "rules")) as server:
            until(lambda: server.query("harness_monitor:usd:month_end"), "the rules to be evaluated")
            until(
                lambda: not firing() - {"HarnessMonitorStuck", "HarnessMonitorMonthAboveBudget"},
                "what waits for the first scrape",
            )
            exporter.show(state(usd_per_million_budget=None))
            until(lambda: "HarnessMonitorScrapeGone" in firing(), "the silent server")
            assert "HarnessMonitorDollarsAboveBudget" not in firing()
            exporter.show(state(servers=calm.servers, usd_per_million_budget=8, unstored=5))
            until(lambda: {"HarnessMonitorDollarsAboveBudget", "HarnessMonitorNotStoring"} <= firing(), "the budget")
            until(lambda: "HarnessMonitorScrapeGone" not in firing(), "the server to be read again")
