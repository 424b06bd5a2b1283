"""Rows of a published table as they run: servers shared, failures kept to their rows, earlier runs taken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.base.errors import TargetError
from harness.measure.reproduce import rows as reproduce_run
from harness.measure.reproduce.compare import compare_row
from harness.measure.reproduce.rows import compare_with, dry_run, reproduce
from harness.measure.run import Stop
from harness.records import Analysis, Reason, Verdict
from harness.report import published as page
from tests.report.report_values import UNKNOWN
from tests.reproduce.published_values import CPU, parsed, row, summary, table


def test_rows_of_one_target_share_a_server_and_skipped_rows_are_never_faked(runner):
    """Two small rows are one experiment; the row of two GPUs is skipped with its reason and has no measured number."""
    found = parsed(rows=[row("a", "small", 1), row("b", "small", 4), row("big-c4", "big")])
    got, code = reproduce(found, runner.out, runner.measure, Stop(), CPU)
    assert code == 0
    assert runner.loads == [["c1", "c4"]]
    assert runner.concluded == [("20261124T113000Z", 2, 0)]  # the campaign is closed: nothing is left to resume
    assert [r.state for r in got.rows] == ["measured", "measured", "skipped"]
    assert got.rows[2].figures[0].published == 100
    assert got.rows[2].figures[0].measured is None
    assert "needs 2 GPUs" in " ".join(got.rows[2].reasons)


def test_runs_made_before_in_the_same_directory_do_not_count(runner):
    """A second reproduction compares its own runs only, not those that were there, and none where it had none itself."""
    table_ = parsed(rows=[row("a", "small")])
    reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    runner.now = "20261125T113000Z"
    got, _ = reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    assert [r.run_ids for r in got.rows] == [(runner.runs[1].run_id,)]
    runner.now, runner.fails["small"] = "20261126T113000Z", TargetError("the vLLM server died", "", "")
    got, _ = reproduce(table_, runner.out, runner.measure, Stop(), CPU)
    assert [(r.state, r.run_ids) for r in got.rows] == [("failed", ())]


def test_a_server_that_does_not_start_fails_its_rows_and_not_the_others(runner):
    """The first target's server dies: its row is `failed` with the reason, the other is measured, the exit code is the error's."""
    runner.fails["small"] = TargetError("the vLLM server died while starting", "out of memory", "lower it")
    targets = table()["targets"] | {"other": {"label": "Other", "model": "embedded:tiny"}}
    found = parsed(targets=targets, rows=[row("a", "small"), row("b", "other")])
    got, code = reproduce(found, runner.out, runner.measure, Stop(), CPU)
    assert code == 3
    assert [r.state for r in got.rows] == ["failed", "measured"]
    assert "out of memory" in got.rows[0].reasons[0]


def test_a_run_that_was_recorded_as_failed_gives_its_reason(runner, monkeypatch):
    """A failed run directory (the server refused to start): the row is `failed`, exit 3, the reason is its verdict's."""
    why = Reason("run_failed", "invalid", "the run is failed: CUDA out of memory", "")
    failed = replace(summary(verdict=Verdict("INVALID", (why,))), state="failed")
    monkeypatch.setattr(reproduce_run, "analyse", lambda path, campaign=None: Analysis(path, (failed,), ()))
    got, code = reproduce(parsed(rows=[row("a", "small")]), runner.out, runner.measure, Stop(), CPU)
    assert (code, got.rows[0].state) == (3, "failed")
    assert any("CUDA out of memory" in reason for reason in got.rows[0].reasons)


def test_a_run_with_doubt_is_marked_at_its_number():
    """All runs UNKNOWN: the row says so, its number carries a mark, and the reason is listed."""
    found = parsed(rows=[row("a", "small")])
    got = compare_row(found, found.rows[0], [summary(verdict=UNKNOWN, repetition=2)])
    assert got.state == "unknown"
    text = page.markdown(replace(dry_run(found, CPU), rows=(got,), dry_run=False))
    assert "| 120.0 ! | 1.20 | measured, UNKNOWN |" in text
    assert "the server has no /metrics" in text


def test_an_interrupt_leaves_the_rest_not_run(runner):
    """Ctrl-C before a group's turn: its rows say so."""
    got, _ = reproduce(parsed(rows=[row("a", "small")]), runner.out, runner.measure, Stop(asked=1), CPU)
    assert got.rows[0].state == "not_run"


def test_when_nothing_can_run_the_exit_code_says_so(runner):
    """Only rows that do not fit: exit 3, and nothing was started."""
    got, code = reproduce(parsed(rows=[row("big-c4", "big")]), runner.out, runner.measure, Stop(), CPU)
    assert (code, runner.loads, got.rows[0].state) == (3, [], "skipped")


def test_a_comparison_with_earlier_runs_takes_the_newest_campaign_of_the_cell(monkeypatch):
    """Two campaigns hold the cell: the newer one's run is compared; another model's run is not."""
    runs = (
        summary(campaign="20261101T000000Z", tps=50.0),
        summary(campaign="20261102T000000Z", tps=80.0, repetition=2),
        summary(campaign="20261103T000000Z", tps=10.0, model="another"),
    )
    monkeypatch.setattr(reproduce_run, "analyse", lambda path, campaign: Analysis(path, runs, ("bad: torn",)))
    got, code = compare_with(parsed(), Path("results/x"), CPU)
    assert code == 0
    assert got.rows[0].figures[0].measured == pytest.approx(80.0)
    assert got.rows[1].state == "not_run"
    assert got.problems == ("bad: torn",)
