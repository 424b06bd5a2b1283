"""The recording and alert rules by promtool: their form, every alert fired and silent, every series one that the exporter has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.monitor.promtool import promtool
from tests.monitor.states import state
from tests.monitor.test_exporter import page

RULES = Path(__file__).resolve().parents[2] / "configs" / "monitor" / "rules"
FILES = sorted(RULES.glob("*.yaml"))
TESTS = sorted((RULES / "tests").glob("*.yaml"))


def rules(key: str) -> dict[str, str]:
    """Name -> expression of every `alert` or `record`."""
    groups = [group for path in FILES for group in yaml.safe_load(path.read_text())["groups"]]
    return {rule[key]: rule["expr"] for group in groups for rule in group["rules"] if key in rule}


def test_promtool_accepts_the_rules():
    """`check rules`, lint included."""
    code, text = promtool("check", "rules", "--lint=all", "--lint-fatal", *map(str, FILES))
    assert code == 0, text


def test_every_alert_fires_and_is_silent_as_written():
    """`test rules` over all cases."""
    code, text = promtool("test", "rules", *map(str, TESTS))
    assert code == 0, text


def test_every_alert_has_a_case_that_fires_and_one_that_does_not():
    """And every recorded series has a value that is asked for."""
    cases = [case for path in TESTS for case in yaml.safe_load(path.read_text())["tests"]]
    alerts = [one for case in cases for one in case.get("alert_rule_test", [])]
    assert {one["alertname"] for one in alerts if one["exp_alerts"]} == set(rules("alert"))
    assert {one["alertname"] for one in alerts if not one["exp_alerts"]} == set(rules("alert"))
    asked = " ".join(one["expr"] for case in cases for one in case.get("promql_expr_test", []))
    assert {name for name in rules("record") if name not in asked} == set()


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("> on (monitor)", "< on (monitor)"), ("> 14.4", "> 99"), (">= 1", ">= 0.9"), ('window="1m"}) > 14.4', 'window="1m"}) > 0'),
        ("== 0", "== 1"), ("> 90 * 86400", "> 1"), ("> 0.25", "> 0.1"), ("> 600", "> 60000"), ("for: 15m", "for: 0s"),
    ],
)  # fmt: skip
def test_a_changed_rule_would_be_seen(was, becomes, tmp_path):
    """The cases are ones that can fail: a threshold, a window or a wait that is another breaks one of them."""
    text = (RULES / "alerts.yaml").read_text()
    assert was in text
    (tmp_path / "tests").mkdir()
    (tmp_path / "alerts.yaml").write_text(text.replace(was, becomes))
    (tmp_path / "recording.yaml").write_text((RULES / "recording.yaml").read_text())
    (tmp_path / "tests" / "cases.yaml").write_text((RULES / "tests" / "alerts.test.yaml").read_text())
    assert promtool("test", "rules", str(tmp_path / "tests" / "cases.yaml"))[0] != 0


def test_every_series_in_a_rule_is_one_of_the_exporter():
    """No alert waits for a metric that nobody makes."""
    made = set(re.findall(r"^(harness_monitor_\w+)\{", page(state()), re.MULTILINE)) | set(rules("record")) | {"up"}
    expressions = {**rules("record"), **rules("alert")}
    for name, expression in expressions.items():
        used = set(re.findall(r"harness_monitor[\w:]+", expression))
        assert used <= made, name
