"""A comparison in the terminal, as Markdown and as JUnit."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from rich.console import Console

from harness.records import ComparedSide, Comparison, Detectable, Detection, Effect, Load
from harness.report import compare, detect
from harness.report.compare import junit, markdown
from tests.report.report_values import HOSTILE

C4 = Load(concurrency=4)
REGRESSED = Effect(
    target="a", workload="fixed:128x32", load=C4, metric="tpot_s.p50", label="TPOT p50", unit="s", higher_is_better=False, base=0.02,
    new=0.0206, base_count=5, new_count=5, change=0.03, low=0.025, high=0.035, corrected_low=0.021, corrected_high=0.039, p=1e-5,
    p_corrected=1e-3, paired=True, df=4.0, verdict="regressed", note="",
)  # fmt: skip
UNCHANGED = replace(REGRESSED, metric="output_tps", label="output throughput", unit="tokens/s", higher_is_better=True, base=163.4,
                    new=163.0, change=-0.0024, corrected_low=-0.01, corrected_high=0.005, verdict="unchanged")  # fmt: skip
UNCLEAR = replace(REGRESSED, metric="attainment", label="attainment", unit="", base=0.995, new=0.983, change=-0.012, low=None, high=None,
                  corrected_low=None, corrected_high=None, p=None, p_corrected=None, verdict="unclear",
                  note="one repetition: its spread is not known")  # fmt: skip
SIDE = ComparedSide("results/night", "20261124T143825Z", None, 5, 1, 2)


def comparison(*effects: Effect, **kw) -> Comparison:
    how = {
        "changes": (("server version", "0.32.0", "0.33.0"),),
        "warnings": (),
        "only_base": ("a w c8",),
        "only_new": (),
        "ignored": (),
    }
    return Comparison(
        SIDE, SIDE, effects, alpha=0.05, min_effect=0.02, tests=sum(e.p is not None for e in effects), **(how | kw)
    )


def terminal(render, value, width=120) -> str:
    out = io.StringIO()
    render(Console(file=out, width=width), value)
    return out.getvalue()


def test_conclusion_names_the_worst():
    """One sentence with the metric, change, interval and cell, and how the rest came out."""
    text = compare.conclusion(comparison(REGRESSED, UNCLEAR, UNCHANGED))
    assert text == (
        "REGRESSED: 1 of 3 comparisons, worst TPOT p50 +3.00 % (+2.10 .. +3.90 %) in a fixed:128x32 c4; 1 unchanged, 1 unclear."
    )


def test_conclusion_without_a_regression_never_claims_more():
    """Unclear ones are said to be able to hold a change; one repetition cannot find any; nothing compared is said."""
    assert "may hold a change" in compare.conclusion(comparison(UNCLEAR, UNCHANGED))
    assert compare.conclusion(comparison(UNCHANGED)) == "No regression found in 1 comparisons: 1 unchanged."
    assert "no regression can be found" in compare.conclusion(comparison(UNCLEAR)).lower()
    assert "Nothing was compared" in compare.conclusion(comparison())


def test_terminal_has_values_changes_and_notes():
    """Units, per cent, points, what changed, the INVALID and UNKNOWN counts and the cell of one side."""
    text = terminal(compare.render, comparison(REGRESSED, UNCLEAR, UNCHANGED))
    for words in (
        "20.0 ms", "20.6 ms", "163.4 tokens/s", "-1.20 points", "server version: 0.32.0 → 0.33.0", "1 of 5 runs are INVALID",
        "2 of 5 runs are UNKNOWN", "only in base: a w c8",
    ):  # fmt: skip
        assert words in text


def test_terminal_keeps_what_moved_and_cuts_the_rest():
    """100 unchanged and one improvement at the end: the improvement is shown, the cut is said."""
    text = terminal(compare.render, comparison(*[UNCHANGED] * 100, replace(UNCHANGED, verdict="improved")))
    assert "improved" in text
    assert "60 more, none regressed or improved" in text


def test_markdown_shows_what_moved_and_folds_the_rest():
    """The regression stands in the open table, unchanged and unclear ones inside a details element."""
    text = markdown(comparison(REGRESSED, UNCLEAR, UNCHANGED))
    head, _, rest = text.partition("<details>")
    assert text.startswith("❌ **REGRESSED")
    assert "TPOT p50" in head
    assert "output throughput" not in head
    assert "output throughput" in rest
    assert text.count("<details>") == text.count("</details>")


@pytest.mark.parametrize(("effects", "mark"), [((UNCHANGED,), "✅"), ((UNCLEAR,), "❔"), ((REGRESSED,), "❌")])
def test_the_mark_is_green_only_for_something_known(effects, mark):
    """All unclear is no success."""
    assert markdown(comparison(*effects)).startswith(mark)


def test_junit_has_one_case_a_comparison():
    """Three cases: a failure, a skip with its reason, a pass; counts in the head agree."""
    suite = ET.fromstring(junit(comparison(REGRESSED, UNCLEAR, UNCHANGED)))
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    cases = list(suite.iter("testcase"))
    assert [c.find("failure") is not None for c in cases] == [True, False, False]
    assert cases[1].find("skipped").get("message") == "one repetition: its spread is not known"


def test_words_from_outside_stay_in_their_place():
    """Hostile names break neither XML nor Markdown nor the terminal."""
    evil = replace(REGRESSED, target=HOSTILE, workload=HOSTILE)
    found = comparison(evil, changes=((HOSTILE, HOSTILE, HOSTILE),), warnings=(HOSTILE,), only_base=(HOSTILE,))
    ET.fromstring(junit(found))
    text = markdown(found)
    assert "\n# h" not in text
    assert "<script>" not in re.sub(r"(`+).+?\1", "", text)
    assert "\x1b" not in terminal(compare.render, found) + text + junit(found)


def test_json_is_the_record_and_the_conclusion():
    """Plain values: every effect with its cell, the verdict for the exit code."""
    found = compare.as_json(comparison(REGRESSED, UNCHANGED))
    assert found["regressed"] is True
    assert [e["cell"] for e in found["effects"]] == ["a fixed:128x32 c4"] * 2
    assert found["changes"] == [{"name": "server version", "base": "0.32.0", "new": "0.33.0"}]


def test_changes_of_any_size_can_be_read():
    """Digits by size; beyond ten-fold in words; a change that is not known is a dash."""
    words = [compare.change_words(replace(REGRESSED, change=c)) for c in (0.001, -0.123, 1.5, 50.0, -1e-9, None)]
    assert words == ["+0.10 %", "-12.3 %", "+150 %", "over +10x", "+0.00 %", "-"]


def test_detection_says_how_many():
    """The largest number and its cell; where the limit is not enough that is said instead."""
    row = Detectable("a", "w", C4, "tpot_s.p50", "TPOT p50", 3, 0.015, 0.4, 0.12, 16)
    found = Detection(
        SIDE, 0.03, 0.02, 0.05, 0.9, 2, 200, (row, replace(row, needed=9)), ("a w c8 TTFT p99: one repetition",)
    )
    assert detect.conclusion(found).startswith("16 repetitions a side see a change of 3 %")
    text = terminal(detect.render, found)
    assert "1.5 %" in text
    assert "12 %" in text
    assert "not planned: a w c8 TTFT p99: one repetition" in text
    over = replace(found, rows=(replace(row, needed=None), row))
    assert "not seen with 200 repetitions in 1 of 2" in detect.conclusion(over)
    assert detect.as_json(found)["rows"][0]["load"] == "c4"
