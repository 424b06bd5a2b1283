"""The decision page: self-contained, the answer first, every input with source and date, and words from outside escaped."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from click.testing import CliRunner

from harness.cli import cli
from harness.planner.scenario.decide import decide
from harness.planner.scenario.inputs import base_of
from harness.planner.scenario.run import run_scenario
from harness.report.decision import figures, page
from tests.planner.scenario_values import hosted, scenario
from tests.report.test_report_document import Tree


def page_of(**changes) -> str:
    result = run_scenario(scenario(**changes))
    return page.html(result, decide(result), base_of(result.spec, None))


MUCH = {"demand": {"requests_per_month": 3e8}, "hosted": [hosted(0.5)]}


@pytest.fixture(scope="module")
def much():
    return page_of(**MUCH)


def test_the_page_is_one_self_contained_well_formed_file(much):
    """Tags nest, ids are unique, links stay in the page, nothing is loaded, no script; the plots are in it."""
    tree = Tree(much)
    assert tree.stack == []
    assert len(tree.ids) == len(set(tree.ids))
    assert {link[1:] for link in tree.links} <= set(tree.ids)
    assert all(link.startswith("#") for link in tree.links)
    assert tree.outside == []
    assert "script" not in tree.tags
    assert not re.search(r"url\((?!#)|@import", much)
    assert tree.tags.count("svg") in {3, 4}


def test_the_answer_stands_first_with_its_odds(much):
    """Headline and P before everything; then flips, options, volume, ladder, bill, assumptions, constraints, in this order."""
    order = ["answer", "flips", "options", "volume", "ladder", "hosted", "assumptions", "constraints", "figures"]
    places = [much.index(f'id="{name}"') for name in order]
    assert places == sorted(places)
    answer = much[places[0] : places[1]]
    assert "Own the base" in answer or "Host it yourself" in answer
    assert "P(self-hosting is cheaper than host/m) = " in answer


def test_every_price_has_its_source_and_date(much):
    """Machine and hosted price: the source and the day that the scenario gives."""
    table = much[much.index('id="assumptions"') : much.index('id="constraints"')]
    rows = re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
    for what, source in (("machine, $/h", "quote"), ("hosted: host/m", "list"), ("capacity of a machine", "declared")):
        row = next(r for r in rows if what in r)
        assert source in row
        assert "2026-11-01" in row


def test_what_may_not_be_taken_is_struck_out():
    """Data that stays inside: the hosted price is shown with a line through it and the reason."""
    text = page_of(constraints={"data_stays_inside": True})
    table = text[text.index('id="options"') : text.index('id="volume"')]
    assert "<s>$2,000.00</s>" in table
    assert "data may not leave" in table


def test_without_a_feasible_hosted_price_the_page_says_so():
    """No odds, no plots, no crash."""
    text = page_of(hosted=[hosted(meets_slo=False)])
    assert "No odds" in text
    assert "nothing to compare with" in text


def test_hostile_words_are_escaped():
    """Names and sources with markup, terminal escapes and plot text do not get out of their place."""
    evil = "<script>alert(1)</script>\x1b[31m$x^2$"
    text = page_of(hosted=[hosted(model=evil, source=evil)], slo=evil, workload={"source": evil})
    assert "<script>" not in text
    assert "\x1b" not in text
    assert Tree(text).stack == []


def test_markdown_has_the_same_answer_and_no_open_markup():
    """Headline, ladder, assumptions; hostile words stay words."""
    result = run_scenario(scenario(slo="<b>|x", **MUCH))
    found = decide(result)
    text = page.markdown(result, found, base_of(result.spec, None))
    assert text.startswith(f"# test: {found.choice}\n\n**")
    assert "<b>" not in text
    for heading in ("What would flip it", "Cost ladder", "Break-even", "Assumptions", "What money does not say"):
        assert f"## {heading}" in text
    widths = {len(re.findall(r"(?<!\\)\|", row)) for row in text.split("## Assumptions")[1].split("## ")[0].splitlines() if row}  # fmt: skip
    assert widths == {6}


def test_equal_inputs_give_equal_bytes():
    """No clock and no address gets into the page."""
    assert page_of() == page_of()


def test_plots_parse_and_show_every_crossing():
    """The break-even plot is XML with a dot a crossing; a dot's note says which side is cheaper above it."""
    result = run_scenario(scenario(**MUCH))
    base, against = base_of(result.spec, None), result.against[0]
    end = figures.plot_limits_rps(against.crossings, base.demand.mean_rps, base.usable_rps)[0]
    stairs = page.self_staircase(base, end)
    text = figures.break_even_plot("b", stairs, 0.0005, "host/m", against.crossings, base.demand.mean_rps)
    ET.fromstring(text)
    inside = [c for c in against.crossings.crossings if c.rps <= end]
    assert len(inside) == len(re.findall(r"<title>above .* is cheaper</title>", text)) > 0


def test_a_decision_page_is_written_by_both_commands(tmp_path):
    """`decide` and `scenario` write the same page; --markdown prints it; a path that cannot be is an error of three lines."""
    pages = []
    for command in ("decide", "scenario"):
        out = tmp_path / "new" / f"{command}.html"
        assert CliRunner().invoke(cli, ["cost", command, "startup-chat", "--html", str(out)]).exit_code == 0
        pages.append(out.read_text())
    assert pages[0] == pages[1]
    shown = CliRunner().invoke(cli, ["cost", "decide", "seed-chat", "--markdown"]).output
    assert shown.startswith("# seed-chat: hosted")
    (tmp_path / "file").write_text("")
    failed = CliRunner().invoke(cli, ["cost", "decide", "startup-chat", "--html", str(tmp_path / "file" / "x.html")])
    assert "cannot be written" in str(failed.exception)
