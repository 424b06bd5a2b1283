"""The spreadsheet: its formulas live, and come to the figures of the model."""

from __future__ import annotations

import io
import math
import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.planner.scenario.run import run_scenario
from harness.planner.scenario.spec import find_scenario, load_scenario
from harness.planner.workbook import workbook
from harness.price.run_cost import cost_run
from harness.records import Hardware
from tests.planner.scenario_values import hosted, scenario
from tests.price.cost_summaries import summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
SPEC = CostSpec(utilisation=0.5, hosted=[PriceRef(provider="openai", model="gpt-5.5")])


def run(**changes):
    s = summary(**changes)
    return s, cost_run(s, BOX, SPEC)


_NS = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}


class Sheets:
    """A spreadsheet program in 40 lines: the formulas this workbook uses, over named cells."""

    def __init__(self, data: bytes):
        with zipfile.ZipFile(io.BytesIO(data)) as z:
            book = ET.fromstring(z.read("xl/workbook.xml"))
            titles = [s.get("name") for s in book.findall("m:sheets/m:sheet", _NS)]
            self.names = {
                n.get("name"): n.text.replace("$", "") for n in book.findall("m:definedNames/m:definedName", _NS)
            }
            self.formula, self.value = {}, {}
            for n, title in enumerate(titles, 1):
                for c in ET.fromstring(z.read(f"xl/worksheets/sheet{n}.xml")).iter(f"{{{_NS['m']}}}c"):
                    f, v = c.find("m:f", _NS), c.find("m:v", _NS)
                    key = f"{title}!{c.get('r')}"
                    if f is not None:
                        self.formula[key] = f.text
                    if v is not None and c.get("t") != "s":
                        self.value[key] = float(v.text)

    def get(self, where: str):
        where = self.names.get(where, where)
        if ":" in where:
            title, cells = where.split("!")
            (column, first), (_, last) = (re.match(r"([A-Z]+)(\d+)", c).groups() for c in cells.split(":"))
            return [self.get(f"{title}!{column}{n}") for n in range(int(first), int(last) + 1)]
        return self.evaluate(self.formula[where], where.split("!")[0]) if where in self.formula else self.value[where]

    def evaluate(self, formula: str, title: str):
        def value(match):
            word = match[0]
            if word in {"IF", "MAX", "SUM", "ROUND", "ROUNDUP", "ROWS"}:
                return f"_{word}"
            return repr(self.get(word if word in self.names else f"{title}!{word}"))

        text = re.sub(r"[A-Za-z_][A-Za-z_0-9]*", value, formula).replace("]=1", "]==1").replace("0=1", "0==1")

        def flat(args):
            return [x for a in args for x in (a if isinstance(a, list) else [a])]

        return eval(  # of our own formulas
            text,
            {
                "_IF": lambda c, a, b: a if c else b, "_MAX": lambda *a: max(flat(a)), "_SUM": lambda *a: sum(flat(a)),
                "_ROUND": round, "_ROUNDUP": lambda x, _: math.ceil(x), "_ROWS": len,
            },
        )  # fmt: skip


SCENARIOS = ["seed-chat", "internal-code", "nightly-batch", "agent-fleet"]


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_formula_gives_the_value_stored_beside_it(name):
    """Recalculating the sheet changes nothing: the formulas are the model."""
    sheets = Sheets(workbook(run_scenario(load_scenario(find_scenario(Path(name))))))
    assert len(sheets.formula) > 30
    for where, formula in sheets.formula.items():
        assert sheets.evaluate(formula, where.split("!")[0]) == pytest.approx(sheets.value[where], rel=1e-6), where


@pytest.mark.parametrize("name", SCENARIOS)
def test_changing_an_input_is_the_scenario_with_that_input(name):
    """Three times the requests, typed into the sheet: the cost of the scenario priced anew with them."""
    spec = load_scenario(find_scenario(Path(name)))
    more = spec.demand.requests_per_month * 3
    sheets = Sheets(workbook(run_scenario(spec)))
    sheets.value[sheets.names["requests_per_month"]] = more
    again = run_scenario(load_scenario(find_scenario(Path(name)), (f"demand.requests_per_month={more}",)))
    rough = (
        0.02 if spec.fleet.scaling == "autoscaled" else 1e-6
    )  # its share for cold starts is that of the first demand
    assert sheets.get("self_usd") == pytest.approx(float(again.figure("self_usd_per_month")), rel=rough)
    assert sheets.get("hosted_0_usd") == pytest.approx(float(again.figure("hosted_0_usd_per_month")), rel=1e-6)


def test_a_minimum_is_a_floor_in_the_sheet_too():
    """$3,000 committed where $2,000 are used; three times the requests are $6,000, not $9,000."""
    sheets = Sheets(workbook(run_scenario(scenario(hosted=[hosted(minimum_usd_per_month=3_000)]))))
    assert sheets.get("hosted_0_usd") == 3_000
    sheets.value[sheets.names["requests_per_month"]] *= 3
    assert sheets.get("hosted_0_usd") == pytest.approx(6_000)


@pytest.mark.parametrize("scaling", ["fixed", "autoscaled"])
def test_the_sheet_carries_the_traces_peak_in_a_fixed_fleet_only(scaling):
    """m-large, whose trace peaks at 1.86 x its mean: each row's machines, and the sum of them, are the fleet's."""
    spec = scenario(demand={"requests_per_month": 3e8, "shape": "m-large"}, fleet={"scaling": scaling})
    result = run_scenario(spec)
    sheets = Sheets(workbook(result))
    assert max(sheets.get("hourly_machines")) == result.figure("machines")
    assert sheets.get("self_usd") == pytest.approx(float(result.figure("self_usd_per_month")), rel=1e-9)
    for where, formula in sheets.formula.items():
        assert sheets.evaluate(formula, where.split("!")[0]) == pytest.approx(sheets.value[where], rel=1e-6), where


def test_small_amounts_are_shown_as_money_and_inputs_stand_out():
    """Each number of Inputs is plain decimals on a fill of its own, each result of Costs plain decimals without."""
    with zipfile.ZipFile(io.BytesIO(workbook(run_scenario(scenario())))) as z:
        styles = ET.fromstring(z.read("xl/styles.xml"))
        codes = {n.get("numFmtId"): n.get("formatCode") for n in styles.findall("m:numFmts/m:numFmt", _NS)}
        shown = [(codes.get(x.get("numFmtId")), x.get("fillId") != "0") for x in styles.findall("m:cellXfs/m:xf", _NS)]
        found = {
            title: {
                shown[int(c.get("s", 0))]
                for c in ET.fromstring(z.read(f"xl/worksheets/sheet{n}.xml")).iter(f"{{{_NS['m']}}}c")
                if c.get("t") != "s"
            }
            for n, title in ((1, "Inputs"), (3, "Costs"))
        }
    assert found == {"Inputs": {("#,##0.########", True)}, "Costs": {("#,##0.00####", False)}}


def test_the_same_scenario_is_the_same_file():
    """No clock gets into it."""
    result = run_scenario(scenario())
    assert workbook(result) == workbook(result)
