"""`harness cost attribute` on an experiment's directory: from stored runs and server logs to what a token costs."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from click.testing import CliRunner

from harness.cli.attribute import attribute
from harness.records import Cell, Load, Plan, PlannedRequest
from harness.store.writer import RunWriter
from tests.judge import run_builder
from tests.planner.step_simulator import simulate

USD_PER_HOUR = 0.36
TRUE = (2e-8, 6e-8, 3e-11, 2e-12)  # alpha, beta, gamma, delta of this server, in dollars
SHAPES = [(64, 16), (128, 64), (256, 32), (512, 16), (64, 96), (1024, 48)]
SLO = {"ttft_from_schedule_s": 0.5, "attainment": 0.99}


def capacity_rps(i, o):
    alpha, beta, gamma, delta = TRUE
    return USD_PER_HOUR / 3600 / (alpha * i + beta * o + gamma * o * (i + o / 2) + delta * i * i / 2)


def stored(folder, i, o, load, records):
    """A run on disk with its server's log, whose steps lie inside the run."""
    cell = Cell("t", f"fixed:{i}x{o}", load, 0)
    noon_ns = int(datetime(2026, 11, 24, 11, 59).timestamp() * 1e9)  # noqa: DTZ001 (local, as the log's stamps are)
    drive = {"anchors": [[run_builder.BASE_NS, noon_ns - run_builder.BASE_NS, 0]], "ended_ns": run_builder.ns(36_000)}
    data = run_builder.run(
        records, load, cell=cell, run_id=f"20261124T113000Z_{cell.name}", state="running", slo=SLO, drive=drive
    )
    path = folder / data.manifest.run_id
    plan = tuple(PlannedRequest(r.seq, None, i, o, None, 1) for r in records)
    with RunWriter.create(path, data.manifest) as writer:
        writer.write_plan(Plan(plan, (), load, cell.workload, 1, ""))
        writer.add("requests", records)
        writer.add("server", run_builder.edges(records))
        writer.add("host", run_builder.host(records))
        writer.finish("complete")
    (path / "server.log").write_text("\n".join(simulate(i, o, 4, requests=60).lines))


def test_a_token_costs_what_capacity_says_whatever_loads_were_run(tmp_path):
    """Six shapes at half their capacity, at it and beyond it, and one in a closed loop: the server's own constants come back, and the
    closed loop is named and left out."""
    for i, o in SHAPES:
        at = capacity_rps(i, o)
        for share, ttft_s in ((0.5, 0.05), (1.0, 0.05), (1.5, 2.0)):
            rate = at * share
            records = run_builder.open_loop(rate, round(20 * rate), prompt=i, tokens=o, gap_s=0.001, ttft_s=ttft_s)
            stored(tmp_path, i, o, Load(rate_rps=rate), records)
    stored(tmp_path, 300, 8, Load(concurrency=2), run_builder.closed_loop(2, 300, prompt=300, tokens=8, ttft_s=0.2))
    words = [str(tmp_path), "--usd-per-hour", str(USD_PER_HOUR)]
    shown = json.loads(CliRunner().invoke(attribute, [*words, "--json"], catch_exceptions=False).output)
    found = shown["black_box"]
    assert [found[name] for name in ("alpha", "beta", "gamma", "delta")] == pytest.approx(TRUE, rel=1e-3)
    assert max(abs(error) for error in found["error"].values()) < 1e-3
    assert list(shown["black_box_left_out"]) == ["fixed:300x8"]
    said = CliRunner().invoke(attribute, words, catch_exceptions=False).output
    assert "6 shapes, each at its capacity" in said
    assert "left out of the black box: fixed:300x8: closed loops show no capacity" in said
