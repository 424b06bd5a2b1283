"""Every cell of the spreadsheet: names, labels, values, units, formulas and sources, against arithmetic by hand."""

from __future__ import annotations

import io
import tempfile
import zipfile
from datetime import date
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from harness.planner.measured import Measured
from harness.planner.scenario.run import run_scenario
from harness.planner.workbook import workbook
from tests.planner.scenario_values import hosted, scenario

_NS = {"m": "http://schemas.openxmlformats.org/spreadsheetml/2006/main"}
HEAD = ["name", "what", "value", "unit", "source or formula"]


class Book:
    """Sheets as rows of cells: text, number, or (formula, number)."""

    def __init__(self, data: bytes):
        self.zip = zipfile.ZipFile(io.BytesIO(data))
        strings = [
            "".join(t.text or "" for t in s.iter(f"{{{_NS['m']}}}t")) for s in self.xml("sharedStrings.xml").findall("m:si", _NS)
        ]  # fmt: skip
        book = self.xml("workbook.xml")
        self.names = {n.get("name"): n.text for n in book.findall("m:definedNames/m:definedName", _NS)}
        self.sheets: dict[str, list[list[Any]]] = {}
        self.widths: dict[str, list[tuple[int, int, float]]] = {}
        self.heads: dict[str, set[tuple[bool, str | None]]] = {}
        self.formats: dict[str, dict[str, set[tuple[str | None, str | None]]]] = {}
        styles = self.xml("styles.xml")
        fonts = [f.find("m:b", _NS) is not None for f in styles.findall("m:fonts/m:font", _NS)]
        borders = [b.find("m:bottom", _NS).get("style") for b in styles.findall("m:borders/m:border", _NS)]
        shown = [
            (fonts[int(x.get("fontId"))], borders[int(x.get("borderId"))])
            for x in styles.findall("m:cellXfs/m:xf", _NS)
        ]
        codes = {c.get("numFmtId"): c.get("formatCode") for c in styles.findall("m:numFmts/m:numFmt", _NS)}
        colours = [f.find(".//m:fgColor", _NS) for f in styles.findall("m:fills/m:fill", _NS)]
        looks = [
            (codes.get(x.get("numFmtId")), None if (c := colours[int(x.get("fillId"))]) is None else c.get("rgb"))
            for x in styles.findall("m:cellXfs/m:xf", _NS)
        ]
        for n, sheet in enumerate(book.findall("m:sheets/m:sheet", _NS), 1):
            page, title = self.xml(f"worksheets/sheet{n}.xml"), sheet.get("name")
            self.sheets[title] = []
            for row in page.findall("m:sheetData/m:row", _NS):
                cells = {self.column(c): self.cell(c, strings) for c in row.findall("m:c", _NS)}
                self.sheets[title] += [[]] * (int(row.get("r")) - 1 - len(self.sheets[title]))  # rows without a cell
                self.sheets[title].append([cells.get(at, "") for at in range(max(cells) + 1)])
            self.formats[title] = {}
            for c in page.iter(f"{{{_NS['m']}}}c"):
                if c.get("t") != "s":
                    self.formats[title].setdefault(c.get("r")[0], set()).add(looks[int(c.get("s", 0))])
            first = page.find("m:sheetData/m:row", _NS).findall("m:c", _NS)
            self.heads[title] = {shown[int(c.get("s", 0))] for c in first}
            self.widths[title] = [
                (int(c.get("min")), int(c.get("max")), int(float(c.get("width"))))
                for c in page.findall("m:cols/m:col", _NS)
            ]

    def xml(self, name: str) -> ET.Element:
        return ET.fromstring(self.zip.read(f"xl/{name}"))

    @staticmethod
    def column(cell: ET.Element) -> int:
        return ord(cell.get("r")[0]) - ord("A")

    @staticmethod
    def cell(cell: ET.Element, strings: list[str]) -> Any:
        formula, value = cell.find("m:f", _NS), cell.find("m:v", _NS)
        if cell.get("t") == "s":
            return strings[int(value.text)]
        return float(value.text) if formula is None else (formula.text, float(value.text))


def near(rows):
    """The rows, with numbers to nine digits."""

    def one(cell):
        if isinstance(cell, tuple):
            return (cell[0], pytest.approx(cell[1], rel=1e-9))
        return cell if isinstance(cell, str) else pytest.approx(cell, rel=1e-9, abs=1e-12)

    return [[one(cell) for cell in row] for row in rows]


CLAIMS = [
    {"row": 7, "says": "two machines", "stated": "$8,168", "arithmetic": "2 * 1_000", "ours": "machines * 2", "unit": "USD", "reason": "r1"},
    {"says": "crosses", "ours": "permanent_crossing_0 * 1", "unit": "requests", "reason": "r2"},
    {"row": 9, "says": "unknown", "reason": "r3"},
]  # fmt: skip
# 10 requests/s on average, 5 and 15 in turn: 5 usable of a machine's 10 need 1 and 3 of them, and there is a spare
SPEC = scenario(
    demand={"requests_per_month": 26_298_000, "shape": [1, 3], "source": "log"},
    fleet={"scaling": "autoscaled", "cold_start_s": 360, "storage_usd_per_month": 50},
    labour={"full_time": 0.5, "usd_per_work_hour": 100, "source": "rota"},
    hosted=[hosted(0.2), hosted(0.1, model="n", minimum_usd_per_month=10_000)],
    claims=CLAIMS,
)
PAID = 1 + 1 + 2 * 3960 / 7200  # the spare, one always, two from 360 s before their hour
MACHINES, LABOUR = PAID * 4 * 730.5, 0.5 * 40 / 168 * 100 * 730.5
SELF = MACHINES + LABOUR + 50


@pytest.fixture(scope="module")
def book():
    return Book(workbook(run_scenario(SPEC)))


def test_the_inputs_are_every_number_typed_in(book):
    """Name, label, value, unit and source of each; every price with its source and date; nothing else is typed in."""
    list_1, list_2 = "list, 2026-11-01", "list, 2026-11-01"
    assert book.sheets["Inputs"] == near([
        HEAD,
        ["requests_per_month", "requests", 26_298_000, "per month", "log"],
        ["hours_per_month", "hours of a mean month", 730.5, "h", "8766 / 12"],
        ["input_tokens", "input tokens of a request", 800, "tokens", "declared"],
        ["output_tokens", "output tokens of a request", 200, "tokens", "declared"],
        ["peak_factor", "highest hour of all days over the shape's, for a fixed fleet", 1, "", "log"],
        ["capacity_rps", "capacity of a machine at the SLO", 10, "requests/s", "declared; 2026-11-01"],
        ["headroom", "planning headroom", 0.5, "", "declared"],
        ["spares", "spare machines", 1, "machines", "declared"],
        ["min_machines", "machines at least", 1, "machines", "declared"],
        ["autoscaled", "1: machines follow the hour; 0: fixed at the peak", 1, "", "declared"],
        ["extra_paid", "share paid on top: cold starts, billing units", PAID / 3 - 1, "", "computed for this demand"],
        ["machine_usd_per_hour", "price of box", 4, "USD per hour", "quote, 2026-11-01, 23 days old"],
        ["full_time", "people", 0.5, "", "rota"],
        ["usd_per_work_hour", "a work hour", 100, "USD", "rota"],
        ["storage_usd_per_month", "storage", 50, "USD per month", "declared"],
        ["hosted_0_usd_per_request", "host/m, a request", 0.0002, "USD", list_1],
        ["hosted_0_minimum_usd", "host/m, billed at least", 0, "USD per month", "declared"],
        ["hosted_1_usd_per_request", "host/n, a request", 0.0001, "USD", list_2],
        ["hosted_1_minimum_usd", "host/n, billed at least", 10_000, "USD per month", "declared"],
    ])  # fmt: skip


def test_the_costs_are_formulas_with_their_values(book):
    """3.1 machines of $4 for 730.5 h, half a person of $100, $50 of storage; $5,259.60 at one price and the $10,000 floor at the other."""
    used, floor = 26_298_000 * 0.0002, 10_000

    def row(name, what, formula, value, unit, source=None):
        return [name, what, (formula, value), unit, source or formula]

    each = [
        row(f"hosted_{n}_usd", name, f"MAX(hosted_{n}_minimum_usd,requests_per_month*hosted_{n}_usd_per_request)", due, "USD per month")
        for n, name, due in ((0, "host/m", used), (1, "host/n", floor))
    ]  # fmt: skip
    apart = [
        row(f"difference_{n}_usd", f"self-hosted - {name}", f"self_usd-hosted_{n}_usd", SELF - due, "USD per month", "below 0: self-hosted is cheaper")
        for n, name, due in ((0, "host/m", used), (1, "host/n", floor))
    ]  # fmt: skip
    need = [
        row(f"needed_use_{n}", f"how full a machine must be to match {name}",
            f"machine_usd_per_hour/(hosted_{n}_usd_per_request*3600*capacity_rps)", 4 / (usd * 36_000), "", "above 1: never")
        for n, name, usd in ((0, "host/m", 0.0002), (1, "host/n", 0.0001))
    ]  # fmt: skip
    assert book.sheets["Costs"] == near([
        HEAD,
        row("mean_rps", "mean demand", "requests_per_month/(hours_per_month*3600)", 10, "requests/s"),
        row("paid_machines", "machines paid on average",
            "IF(autoscaled=1,SUM(hourly_machines)/ROWS(hourly_machines),MAX(hourly_machines))*(1+extra_paid)", PAID, "machines"),
        row("machines_usd", "machines", "paid_machines*machine_usd_per_hour*hours_per_month", MACHINES, "USD per month"),
        row("labour_usd", "labour", "full_time*40/168*usd_per_work_hour*hours_per_month", LABOUR, "USD per month"),
        row("self_usd", "self-hosted, all in", "machines_usd+labour_usd+storage_usd_per_month", SELF, "USD per month"),
        row("self_usd_per_request", "self-hosted, a request", "self_usd/requests_per_month", SELF / 26_298_000, "USD"),
        row("self_usd_per_million", "self-hosted, a million tokens",
            "self_usd_per_request/(input_tokens+output_tokens)*1000000", SELF / 26_298, "USD"),
        row("utilisation", "utilisation of what is paid", "mean_rps/(paid_machines*capacity_rps)", 1 / PAID, "", "a result, not an input"),
        each[0], apart[0], need[0], each[1], apart[1], need[1],
    ])  # fmt: skip


def machines(n):
    return f"MAX(min_machines,ROUNDUP(ROUND(C{n}*IF(autoscaled=1,1,peak_factor)/(capacity_rps*headroom),9),0))+spares"


def test_the_demand_is_a_row_for_every_step(book):
    """Step, share of the mean, rate and machines; then where the shape is from."""
    assert book.sheets["Demand"] == near([
        ["step", "of the mean", "requests/s", "machines"],
        [0, 0.5, ("B2*mean_rps", 5), (machines(2), 2)],
        [1, 1.5, ("B3*mean_rps", 15), (machines(3), 4)],
        [],
        ["of the scenario: log; prices as of 2026-11-24"],
    ])  # fmt: skip


def test_the_claims_stand_beside_ours(book):
    """Published arithmetic as a formula; ours as a number; a crossing that never comes says so; what has neither is left empty."""
    assert book.sheets["Claims"] == near([
        ["row", "claim", "stated", "its arithmetic", "ours", "unit", "reason"],
        ["7", "two machines", "$8,168", ("2 * 1000", 2000), 8, "USD", "r1"],
        ["", "crosses", "", "", "never", "requests", "r2"],
        ["9", "unknown", "", "", "", "USD per month", "r3"],
    ])  # fmt: skip


def test_names_point_at_the_cells_and_the_file_says_what_it_is(book):
    """Each named cell by its row; the columns' widths; bold heads with a line under them; title, words and date of the file."""
    want = {"hourly_machines": "Demand!$D$2:$D$3"}
    for title in ("Inputs", "Costs"):
        want |= {row[0]: f"{title}!$C${n}" for n, row in enumerate(book.sheets[title], 1) if n > 1}
    assert book.names == want
    plain = [(1, 1, 26), (2, 2, 54), (3, 3, 16), (4, 5, 34)]
    assert book.widths == {"Inputs": plain, "Demand": [], "Costs": plain, "Claims": [(1, 7, 30)]}
    assert book.heads == {title: {(True, "thin")} for title in book.sheets}
    said = {e.tag.rpartition("}")[2]: e.text for e in ET.fromstring(book.zip.read("docProps/core.xml"))}
    assert (said["title"], said["description"]) == ("test", "estimate from a benchmark, no invoice")
    assert said["created"] == "2026-11-24T00:00:00Z"


def test_numbers_typed_in_stand_out_from_results(book):
    """Inputs and shares of the mean on a light fill, to eight places; formulas and ours to six; no number of another look."""
    typed, made = {("#,##0.########", "FFFFF8DC")}, {("#,##0.00####", None)}
    assert book.formats == {
        "Inputs": {"C": typed}, "Demand": {"A": {(None, None)}, "B": typed, "C": made, "D": made}, "Costs": {"C": made},
        "Claims": {"D": made, "E": made},
    }  # fmt: skip


def test_a_fixed_fleet_carries_the_highest_hour_and_may_be_free():
    """18 requests/s in the highest hour of all days: 5 machines at all times, at $0 too; a free API has no use to match."""
    spec = scenario(
        as_of=date(2026, 11, 25),
        demand={"requests_per_month": 26_298_000, "shape": [1, 3], "peak_factor": 1.2},
        machine={"declared": {"name": "own", "usd_per_hour": 0, "source": "q", "as_of": "2026-11-01"}},
        hosted=[hosted(0)],
    )
    found = Book(workbook(run_scenario(spec)))
    assert list(found.sheets) == ["Inputs", "Demand", "Costs"]  # no claims, no sheet of them
    inputs = {row[0]: row[2] for row in found.sheets["Inputs"]}
    assert (inputs["peak_factor"], inputs["autoscaled"], inputs["extra_paid"]) == (pytest.approx(1.2), 0, 0)
    assert [row[3] for row in found.sheets["Demand"][1:3]] == [(machines(2), 3), (machines(3), 5)]
    costs = {row[0]: row[1:] for row in found.sheets["Costs"]}
    assert costs["paid_machines"][1][1] == 5
    assert [costs[name][1][1] for name in ("machines_usd", "labour_usd", "self_usd", "hosted_0_usd")] == [0, 0, 0, 0]
    assert costs["needed_use_0"] == ["hosted is free", 0, "", ""]
    assert found.names["hosted_0_usd"] == "Costs!$C$10"


def test_the_sheet_of_a_measured_run_has_its_capacity():
    """Capacity and its source are those of the run that the scenario was priced with."""
    seen = Measured(8.0, 8.0, None, ((800, 0, 200, 0),), ("r",), ("m",), "20261120T000000Z", "five runs", ())
    spec = scenario(capacity={"requests_per_s": None, "run": "x", "source": ""})
    inputs = {row[0]: row for row in Book(workbook(run_scenario(spec, seen), seen)).sheets["Inputs"]}
    assert inputs["capacity_rps"][2:] == [8, "requests/s", "measured: five runs; runs r of 20261120T000000Z"]


def test_the_file_is_made_in_memory(monkeypatch, tmp_path):
    """Nothing is written on the way: it needs no directory for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    assert workbook(run_scenario(scenario()))[:2] == b"PK"
