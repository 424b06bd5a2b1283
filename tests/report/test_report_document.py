import csv
import dataclasses
import io
import itertools
import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from harness.base.errors import StoreError
from harness.records import Analysis, Load
from harness.records.metrics import METRICS
from harness.report import pages
from harness.report.run import document, figures, sections
from tests.report.report_values import (
    HOSTILE,
    INVALID,
    UNKNOWN,
    bare,
    closed_loop,
    cost,
    everything,
    hostile,
    open_loop,
    run,
)


def written(directory, summaries, costs, *, allow_invalid=False):
    analysis = Analysis(directory, tuple(summaries), ())
    return document.write_report(directory, analysis, costs, allow_invalid=allow_invalid)


VOID = {"meta", "br", "link"}


class Tree(HTMLParser):
    """Collects tags, ids and links, and checks that tags close in order."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.links, self.stack, self.outside = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.stack.append(tag)
        for name, value in attrs:
            self.ids += [value] if name == "id" else []
            self.links += [value] if name in ("href", "xlink:href") else []
            self.outside += [f"{tag} {name}"] if name in ("src", "srcset", "onload", "onerror", "onclick") else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


@pytest.fixture(scope="module")
def full():
    summaries, costs = everything()
    return document.html("quickstart", summaries, costs)


def test_html_is_one_self_contained_well_formed_file(full):
    """Tags nest, ids are unique, links stay in the page, nothing is loaded, no script, under 400 kB."""
    tree = Tree(full)
    assert tree.stack == []
    assert len(tree.ids) == len(set(tree.ids))
    assert all(link.startswith("#") for link in tree.links)
    assert {link[1:] for link in tree.links} <= set(tree.ids)
    assert tree.outside == []
    assert "script" not in tree.tags
    assert not re.search(r"url\((?!#)|@import", full)
    assert tree.tags.count("svg") == 3
    assert len(full.encode()) < 400_000


def test_answer_and_verdict_stand_before_everything_else(full):
    """The page's first section is the answer with its verdict."""
    assert full.index('id="answer"') < full.index('id="results"') < full.index('id="plots"') < full.index('id="cost"')
    assert "VALID (17 of 20 runs)" in full[: full.index('id="results"')]


def test_every_run_and_every_metric_is_in_the_page(full):
    """Each run id has its anchor and each defined metric its formula."""
    summaries, _ = everything()
    assert all(f'id="run-{summary.run_id}"' in full for summary in summaries)
    assert all(f"<code>{name}</code>" in full for name in METRICS)


def test_every_number_of_the_results_table_carries_its_run_id(full):
    """A cell with a number has the run ids as its title; a dash has its reason."""
    body = re.search(r'<table class="results">.*?</table>', full, re.DOTALL)[0]
    found = re.findall(r'<td class="n" title="([^"]*)">([^<]*)', body)
    assert len(found) > 80
    for title, text in found:
        assert ("_rep" in title) if text != "-" else (title and "_rep" not in title)


def test_invalid_runs_are_flagged_in_every_section_that_shows_them():
    """An INVALID run is marked in answer, results, plots, cost, tokens and runs."""
    summary = run(Load(concurrency=4), verdict=INVALID)
    text = document.html("t", [summary], [cost(summary)], allow_invalid=True)
    names = ("answer", "results", "plots", "cost", "validity", "tokens", "environment", "runs", "definitions")
    parts = dict(zip(names, (text[text.index(f'id="{a}"') :] for a in names), strict=True))
    cut = {a: parts[a][: len(parts[a]) - len(parts[b])] for a, b in itertools.pairwise(names)}
    for name in ("answer", "results", "plots", "cost", "tokens", "runs"):
        assert "INVALID" in cut[name], name
    assert "read server.log" in cut["validity"]


def test_no_dollar_of_an_invalid_run_in_any_file(tmp_path):
    """Not allowed, an INVALID run's dollars are in none of the three files."""
    summary = run(Load(concurrency=4), verdict=INVALID)
    report = cost(summary)
    paths = written(tmp_path, [summary], [report])
    for path in paths.values():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\$\d", text)
        assert all(line.usd not in text for line in report.own if line.usd)


def test_hostile_words_stay_words(tmp_path):
    """Names and errors with tags, markup and escapes come out escaped in all three files."""
    paths = written(
        tmp_path, [dataclasses.replace(hostile(), experiment=HOSTILE), bare()], [cost(hostile())], allow_invalid=True
    )
    text = paths["html"].read_text(encoding="utf-8")
    tree = Tree(text)
    assert "script" not in tree.tags
    assert tree.stack == []
    assert len(tree.ids) == len(set(tree.ids))
    assert "\x1b" not in text + paths["markdown"].read_text(encoding="utf-8") + paths["csv"].read_text(encoding="utf-8")
    outside_code = re.sub(r"(`+).*?\1(?!`)", "", paths["markdown"].read_text(encoding="utf-8"))
    assert "<script" not in outside_code


@pytest.mark.parametrize(
    "summaries", [[], [bare()], [bare("a", UNKNOWN), bare("b", INVALID)]], ids=["none", "bare", "two"]
)
def test_nothing_measured_still_makes_a_report(tmp_path, summaries):
    """No runs, and runs of None, make whole files that never print a zero for what is absent."""
    paths = written(tmp_path / "new", summaries, [])
    text = paths["html"].read_text(encoding="utf-8")
    assert Tree(text).stack == []
    assert text.count("Nothing to plot") == 3
    body = re.findall(r'<td class="n"[^>]*>([^<]*)', text[: text.index('id="definitions"')])
    assert not [cell for cell in body if cell.strip() in ("0.00", "$0", "0.0", "None", "nan")]


def test_equal_inputs_give_equal_bytes(tmp_path):
    """Writing twice gives the same bytes, and no temporary file stays."""
    summaries, costs = everything()
    first, second = (written(tmp_path / name, summaries, costs) for name in ("a", "b"))
    assert all(first[kind].read_bytes() == second[kind].read_bytes() for kind in first)
    assert sorted(p.name for p in (tmp_path / "a" / "derived").iterdir()) == ["report.html", "report.md", "results.csv"]


def test_a_directory_that_cannot_be_written_is_a_three_line_error(tmp_path):
    """A file in the place of the directory raises StoreError that names it."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="report cannot be written") as caught:
        written(tmp_path / "file", [], [])
    assert len(str(caught.value).splitlines()) == 3


def test_a_link_is_written_through(tmp_path):
    """What is no file of its own, such as /dev/stdout, stays what it is: the text goes where it leads."""
    link = tmp_path / "out"
    link.symlink_to(tmp_path / "there")
    pages.write_whole(link, "text")
    assert (link.is_symlink(), (tmp_path / "there").read_text()) == (True, "text")


def test_csv_has_full_numbers_and_no_formula():
    """The CSV keeps every digit, leaves absent numbers empty and disarms text that begins like a formula."""
    summary = run(Load(concurrency=4), target="=HYPERLINK(1)")
    (row,) = csv.DictReader(io.StringIO(document.results_csv(document.cells.rows([summary], []))))
    assert float(row["output_tps"]) == summary.scalars["output_tps"]
    assert row["attainment"] == ""
    assert row["target"] == "'=HYPERLINK(1)"


def test_markdown_has_answer_table_and_run_ids():
    """The Markdown begins with the answer, its table has one width, and run ids are listed."""
    text = document.markdown("quickstart", *everything())
    assert text.index("VALID (17 of 20 runs)") < text.index("## Results")
    lines = [line for line in text.split("## Results")[1].split("##")[0].splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert len(lines) == 2 + 8
    assert "`20261124T113000Z_smollm2-cpu_fixed-128x32_c1_rep1,2,3`" in text


def test_secrets_in_a_config_are_hidden():
    """A value whose name ends like a secret's is not in the page, its neighbours are."""
    text = document.html("t", [run(Load(concurrency=4))], [])
    assert "hf_abcdef" not in text
    assert "HF_TOKEN" in text
    assert "OMP_NUM_THREADS" in text


# ---------------------------------------------------------------- figures


def test_figures_are_xml_that_repeats_and_never_links_out():
    """Each figure parses, is the same text twice, and has no font, image, date or outside address."""
    summaries, _ = everything()
    for make in (
        lambda: figures.throughput_against_concurrency(summaries),
        lambda: figures.latency_against_rate(summaries),
        lambda: figures.timeline(summaries[4]),
    ):
        text = make()
        ET.fromstring(text)
        assert text == make()
        assert not re.search(r"@font-face|<image|<metadata|dc:date|href=\"http", text)


def test_each_run_is_a_point_with_its_id_and_invalid_ones_are_hollow():
    """The throughput figure has a tooltip a run; exactly the INVALID run's point is filled with the paper's colour."""
    text = figures.throughput_against_concurrency(closed_loop())
    titles = re.findall(r"<title>([^<]*)</title>", text)
    assert len(titles) == 12
    assert sum("INVALID" in title for title in titles) == 1
    assert len(re.findall(r"<use [^>]*fill: var\(--paper", text)) == 1


def test_latency_figure_has_three_panels_with_units():
    """TTFT from schedule p50 and p99 and TPOT are drawn over the scheduled rate, in ms."""
    text = figures.latency_against_rate(open_loop())
    for words in ("TTFT from schedule, p50", "TTFT from schedule, p99", "TPOT, p50", "scheduled rate (requests/s)"):
        assert words in text
    assert text.count(">ms</text>") == 3


def test_timeline_shows_gpu_power_where_there_is_a_gpu():
    """A GPU run's timeline has a power panel in W; a run without one has none."""
    with_gpu, without = (figures.timeline(run(Load(concurrency=4), gpu=gpu)) for gpu in (True, False))
    assert "GPU power" in with_gpu
    assert "GPU power" not in without


def test_figures_without_data_say_why():
    """An open-loop report says why there is no concurrency plot, a closed-loop one why there is no rate plot."""
    assert "no cell of this report is a closed loop" in figures.throughput_against_concurrency(open_loop())
    assert "no cell of this report is an open" in figures.latency_against_rate(closed_loop())
    assert "no run has a steady window" in figures.throughput_against_concurrency([bare()])
    assert "no timeline" in figures.timeline(bare())


# ---------------------------------------------------------------- sections


def test_findings_are_grouped_and_worst_first():
    """Reasons of one code are one finding with all its runs, invalid before unknown before warning."""
    found = sections.findings(
        [run(Load(concurrency=c), verdict=v) for c, v in ((1, UNKNOWN), (2, INVALID), (4, INVALID))]
    )
    assert [f.severity for f in found] == ["invalid", "unknown", "warning"]
    assert [len(runs) for _, runs in found[0].messages] == [2]


def test_token_counts_that_differ_come_first():
    """A disagreement of the three counts is told in the sentence and is the first line."""
    good = run(Load(concurrency=1))
    bad = dataclasses.replace(
        run(Load(concurrency=2)), tokens=(dataclasses.replace(good.tokens[1], server_counter=3839),)
    )
    lines = sections.token_lines([good, bad])
    assert lines[0].agrees is False
    assert sections.token_verdict(lines) == "2 of 3 counts agree between every source that exists; 1 differ."


def test_facts_show_where_runs_differ():
    """Equal values are one, different ones are each counted, absent is a dash."""
    facts = {f.name: f.values for f in sections.facts([{"a": {"b": 1}, "c": None}, {"a": {"b": 2}, "c": None}])}
    assert facts == {"a.b": (("1", 1), ("2", 1)), "c": (("-", 2),)}


def test_anchors_differ_even_for_ids_that_look_alike():
    """Two ids that become the same slug still get two anchors."""
    found = sections.anchors([bare("a b"), bare("a/b")])
    assert len(set(found.values())) == 2
