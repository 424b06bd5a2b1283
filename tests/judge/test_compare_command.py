"""`harness compare` on stored campaigns: what it prints, writes and exits with."""

from __future__ import annotations

import json
import sys
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from harness.cli import cli, main
from harness.cli.compare import compare_command
from harness.records import Cell, Load, Plan, PlannedRequest
from harness.store.writer import RunWriter
from tests.judge import run_builder

LOAD = Load(concurrency=4)


def store(folder, campaign, gaps_s, *, target="a", plan="p", failing=False, model="m"):
    """One cell with a repetition a gap: 200 requests of 8 tokens, one every `gap_s`."""
    for repetition, gap_s in enumerate(gaps_s, 1):
        records = run_builder.closed_loop(4, 200, gap_s=gap_s)
        if failing:
            records = [run_builder.failed(r) if r.seq % 2 else r for r in records]
        cell = Cell(target, "fixed:128x8", LOAD, repetition)
        config = {"slo": None, "driver": "wire", "targets": []}
        data = run_builder.run(
            records, LOAD, cell=cell, campaign_id=campaign, run_id=f"{campaign}_{cell.name}", plan_sha256=f"{plan}{repetition}",
            config=config, state="running",
        )  # fmt: skip
        manifest = data.manifest
        manifest = type(manifest)(
            **{name: getattr(manifest, name) for name in manifest.__slots__}
            | {"target": {**manifest.target, "model": model}}
        )
        planned = tuple(PlannedRequest(r.seq, None, 128, 8, None, 1) for r in records)
        with RunWriter.create(folder / manifest.run_id, manifest) as writer:
            writer.write_plan(Plan(planned, (), LOAD, "fixed:128x8", 1, manifest.plan_sha256))
            writer.add("requests", records)
            writer.add("server", run_builder.edges(records))
            writer.add("host", run_builder.host(records))
            writer.finish("complete")


def gaps(level, seed, n=5):
    return level * np.exp(np.random.default_rng(seed).normal(0, 0.002, n))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Two campaigns in one directory (the newer one slower), and directories that must not be compared with it."""
    root = tmp_path_factory.mktemp("stored")
    store(root / "e", "20261101T000000Z", gaps(0.010, 1))
    store(root / "e", "20261102T000000Z", gaps(0.011, 2))
    store(root / "ab", "20261103T000000Z", gaps(0.010, 3))
    store(root / "ab", "20261103T000000Z", gaps(0.0101, 4), target="b")
    store(root / "model", "20261104T000000Z", gaps(0.010, 5, 2), model="other")
    store(root / "bad", "20261105T000000Z", gaps(0.010, 6, 2), failing=True)
    return root


@pytest.fixture
def harness(monkeypatch, capsys, stored):
    """Runs `harness compare` in this process: exit code, stdout, stderr."""
    if "compare" not in cli.commands:
        monkeypatch.setitem(cli.commands, "compare", compare_command)

    def run(*words):
        monkeypatch.chdir(stored)
        monkeypatch.setattr(sys, "argv", ["harness", "compare", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def test_a_slower_night_exits_with_8(harness):
    """The older campaign against the newest: 8, TPOT, ITL and output throughput worse, in table and conclusion."""
    code, out, _ = harness("e@20261101T000000Z", "e")
    assert code == 8
    assert "regressed" in out
    assert "REGRESSED: 3 of 4 comparisons" in out


def test_every_output_tells_the_same(harness, stored):
    """JSON, Markdown and JUnit of one call: the same regressions, each valid in its own format."""
    code, out, _ = harness("e@20261101T000000Z", "e", "--json", "--markdown", "o/c.md", "--junit", "o/c.xml")
    found = json.loads(out)
    bad = {(e["cell"], e["label"]) for e in found["effects"] if e["verdict"] == "regressed"}
    assert (code, found["regressed"], len(bad)) == (8, True, 3)
    tpot = next(e for e in found["effects"] if e["metric"] == "tpot_s.p50")
    assert tpot["change"] == pytest.approx(0.1, abs=0.01)
    suite = ET.parse(stored / "o/c.xml").getroot()
    assert {(c.get("classname"), c.get("name")) for c in suite.iter("testcase") if c.find("failure") is not None} == bad
    assert suite.get("failures") == "3"
    assert (stored / "o/c.md").read_text().count("❌ regressed") == 3


def test_two_targets_of_a_campaign(harness):
    """1 % slower is below the minimum of 2 %: exit code 0; above one of 0.5 %: 8."""
    words = ("ab", "--base-target", "a", "--new-target", "b")
    assert harness(*words)[0] == 0
    assert harness(*words, "--min-effect", "0.5%")[0] == 8


def test_what_must_not_be_compared_exits_with_6(harness):
    """Another model: three lines with the key, both values and what to try; --ignore lifts it."""
    code, _, err = harness("e", "model")
    assert code == 6
    assert err.splitlines()[0] == "error: not comparable: model differs"
    assert "base m, new other" in err
    assert "--ignore model" in err
    assert harness("e", "model", "--ignore", "model", "--ignore", "plan")[0] in (0, 8)


def test_a_side_that_is_invalid_exits_with_7(harness):
    """Every run of NEW has half its requests failed."""
    code, _, err = harness("e", "bad")
    assert code == 7
    assert "all 2 are INVALID" in err


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("e",), 2, "--detect"),
        (("e@nothing", "e"), 5, "no such campaign"),
        (("absent", "e"), 5, "no such run"),
        (("e", "e", "--new-target", "b"), 2, "one side only"),
        (("e", "e", "--base-target", "x", "--new-target", "a"), 2, "its targets: a"),
        (("e", "e", "--metric", "latency"), 2, "no such metric"),
        (("e", "e", "--min-effect", "200%"), 2, "not a share"),
    ],
)
def test_bad_words(harness, words, code, text):
    """Each has its exit code and says what is wrong."""
    got, _, err = harness(*words)
    assert got == code
    assert text in err


def test_detect_plans_repetitions(harness):
    """A pilot with a spread of 0.2 %: few repetitions, in the table and as JSON with what the requests inside explain."""
    code, out, _ = harness("e", "--detect", "3%", "--metric", "tpot_s.p50")
    assert code == 0
    assert "repetitions a side see a change of 3 %" in out
    found = json.loads(harness("e", "--detect", "3%", "--metric", "tpot_s.p50", "--json")[1])
    (row,) = found["rows"]
    assert 2 <= row["needed"] <= 6
    assert 0 <= row["inside_share"] <= 1
    assert row["smallest_now"] < 0.03


def test_a_run_against_itself_has_no_change(harness):
    """Equal files: nothing regresses, whatever is compared."""
    code, out, _ = harness("e", "e", "--metric", "all", "--json")
    assert code == 0
    assert {e["verdict"] for e in json.loads(out)["effects"]} == {"unchanged"}
