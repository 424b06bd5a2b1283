"""Usage that does not add up costs its own run, and nothing else: not the others' numbers, not the exit code."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.cli import cli
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.planner.focus import charges_of_runs
from harness.price.hosted import bill, find_price
from harness.price.opencost import opencost_text
from harness.price.prices import day_of
from harness.price.run_cost import price_runs
from harness.records import Cell, Hardware, Load, Plan, PlannedRequest
from harness.report.run.answer import find_answer
from harness.store.writer import RunWriter
from tests.judge import run_builder
from tests.price.cost_summaries import summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
PRICE = {"name": "box", "source": "quote", "as_of": "2026-11-01"}
SPEC = CostSpec(utilisation=0.5, hosted=[PriceRef(provider="openai", model="gpt-5")])
BAD = {
    "reasoning beyond output": (1000, 0, 200, 201),
    "cached beyond prompt": (1000, 1001, 200, 0),
    "negative": (1000, -1, 200, 0),
}


def runs(flags):
    """One run a flag, of other lengths each; a flag that is a key of BAD has one such request among its good ones."""
    found = []
    for n, flag in enumerate(flags):
        good = ((1000 + n, 10 * n, 200 + n, n),) * 50
        usage = good if flag is None else (*good[:20], BAD[flag], *good[20:])
        found.append(replace(summary(usage=usage), run_id=f"r{n}", cell=Cell("t", "w", Load(concurrency=4), n)))
    return tuple(found)


def priced(summaries):
    return {c.run_id: c for c in price_runs(summaries, SPEC, BOX)}


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([None, None, *BAD]), min_size=1, max_size=6))
def test_a_bad_run_never_changes_the_others_numbers(flags):
    """Random directories: the good runs' costs are those of the directory without the bad ones, and the bad ones have no dollar."""
    everything = runs(flags)
    good = tuple(s for s, flag in zip(everything, flags, strict=True) if flag is None)
    costs, alone = priced(everything), priced(good)
    assert set(costs) == {s.run_id for s in everything}
    assert {run_id: costs[run_id] for run_id in alone} == alone
    for s, flag in zip(everything, flags, strict=True):
        lines = [*costs[s.run_id].own, *costs[s.run_id].hosted["openai/gpt-5"]]
        if flag is None:
            assert costs[s.run_id].unpriced is None
            assert all(line.usd is not None for line in lines)
        else:
            assert [line.usd for line in lines] == [None] * 13
            assert all(str(BAD[flag]) in line.formula for line in lines)
            assert str(BAD[flag]) in costs[s.run_id].unpriced
            assert any("is not priced" in w for w in costs[s.run_id].warnings)


def test_exports_leave_a_bad_run_out_and_say_so():
    """FOCUS rows are the good runs', and the bad one's reason is told; OpenCost has no cost of it."""
    everything = runs([None, "reasoning beyond output", None])
    costs = priced(everything)
    charges, left_out = charges_of_runs([(s, costs[s.run_id]) for s in everything])
    assert {c.run_id for c in charges} == {"r0", "r2"}
    assert len(left_out) == 1
    assert left_out[0].startswith("r1: usage does not add up")
    metrics = opencost_text([(s, costs[s.run_id]) for s in everything]).splitlines()
    assert not any('run_id="r1"' in line for line in metrics if line.startswith("llm_cost_per_million_tokens"))


def test_the_answer_is_of_a_run_that_has_a_price():
    """The bad repetition is the one nearest the median: the sentence still has the hosted price, of another repetition."""
    everything = tuple(
        replace(s, scalars=s.scalars | {"output_tps": tps})
        for s, tps in zip(runs([None, "cached beyond prompt", None]), (1900.0, 2000.0, 2100.0), strict=True)
    )
    found = find_answer(everything, list(priced(everything).values()))
    assert found.cost.run_id in {"r0", "r2"}
    assert "openai/gpt-5" in found.headline


def test_the_bill_itself_still_refuses():
    """`bill` prices no part of usage that does not add up."""
    for usage in BAD.values():
        with pytest.raises(ConfigError, match="cannot be billed"):
            bill(find_price(SPEC.hosted[0], day_of("20261124T113000Z")), [(10, 0, 5, 0), usage])


# ---------------------------------------------------------------- from stored runs to every command


def store(folder: Path, repetition: int, *, bad: bool) -> None:
    records = run_builder.closed_loop(4, 400, gap_s=0.01)
    if bad:
        records = [replace(r, reasoning_tokens=r.output_tokens + 50) for r in records]
    cell = Cell("a", "fixed:128x8", Load(concurrency=4), repetition)
    config = {
        "slo": None, "driver": "wire", "cost": {"hosted": [{"provider": "openai", "model": "gpt-5"}]},
        "targets": [{"name": "a", "kind": "vllm", "model": "m", "hardware": {**PRICE, "usd_per_hour": 3.6}}],
    }  # fmt: skip
    manifest = run_builder.run(
        records, cell.load, cell=cell, campaign_id="20261120T000000Z", run_id=f"20261120T000000Z_{cell.name}", plan_sha256=f"p{repetition}",
        config=config, state="running",
    ).manifest  # fmt: skip
    planned = tuple(PlannedRequest(r.seq, None, 128, 8, None, 1) for r in records)
    with RunWriter.create(folder / manifest.run_id, manifest) as writer:
        writer.write_plan(Plan(planned, (), cell.load, "fixed:128x8", 1, manifest.plan_sha256))
        writer.add("requests", records)
        writer.add("server", run_builder.edges(records))
        writer.add("host", run_builder.host(records))
        writer.finish("complete")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """`good`: repetitions 1 and 3. `mixed`: the same, and repetition 2 with reasoning beyond its completions."""
    root = tmp_path_factory.mktemp("runs")
    for name, bad in (("good", ()), ("mixed", (2,))):
        for repetition in (1, *bad, 3):
            store(root / name / "e", repetition, bad=repetition in bad)
    return root


def harness(*words):
    """(exit code, stdout, stderr) of a command."""
    ended = CliRunner().invoke(cli, list(map(str, words)), catch_exceptions=False, standalone_mode=False)
    return ended.return_value or ended.exit_code or 0, ended.stdout, ended.stderr


@pytest.mark.parametrize("command", [("analyse",), ("report",), ("cost",), ("cost", "of")])
def test_commands_end_as_they_would_without_the_bad_run(stored, command):
    """analyse, report and cost: the exit code of the good directory, its runs' costs in full, and the bad run with its reason."""
    code, good, _ = harness(*command, stored / "good" / "e", "--json")
    mixed_code, mixed, _ = harness(*command, stored / "mixed" / "e", "--json")
    assert mixed_code == code
    good, mixed = json.loads(good), json.loads(mixed)
    by_run = {cost["run_id"]: cost for cost in mixed["costs"]}
    for cost in good["costs"]:
        assert by_run[cost["run_id"]] == cost
    assert {run["run_id"]: run for run in mixed["runs"]}.keys() > {run["run_id"] for run in good["runs"]}
    if command != ("analyse",):
        bad = next(cost for cost in mixed["costs"] if cost["unpriced"])
        assert bad["run_id"].endswith("rep2")
        assert "(128, 0, 8, 58)" in bad["unpriced"]
        assert len(good["costs"]) == 2


def test_words_name_the_bad_run(stored):
    """`harness cost` on the terminal, the report's pages, an export's stderr."""
    directory = stored / "mixed" / "e"
    assert "not priced: 20261120T000000Z_a_fixed-128x8_c4_rep2: usage does not add up" in " ".join(
        harness("cost", directory)[1].split()
    )
    harness("report", directory)
    assert "is not priced: usage does not add up" in (directory / "derived" / "report.html").read_text()
    code, rows, said = harness("cost", "export", directory, "--format", "focus")
    assert code == 0
    assert len(rows.splitlines()) == 1 + 2 * 4
    assert "rep2: usage does not add up" in said


def test_the_history_takes_every_run(stored):
    """All three repetitions are indexed."""
    code, said, _ = harness("history", "index", stored / "mixed")
    assert (code, said.startswith("3 runs indexed")) == (0, True)
