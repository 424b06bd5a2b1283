"""A judge reads a run in little memory: columns left out, chunks in 4 bytes, percentiles without a copy. Not one figure may change."""

from __future__ import annotations

import random
from dataclasses import asdict, fields, replace

import numpy as np
import pytest

from harness.base import clock
from harness.judge import metrics
from harness.judge.columns import measured
from harness.judge.metrics import distribution, gap_distribution
from harness.judge.summary import summarise
from harness.records import Cell, Load, Manifest, Plan, PlannedRequest, RunState
from harness.store.reader import read_judged, read_run
from harness.store.writer import RunWriter
from tests.judge.run_builder import closed_loop, failed, gpu, host, request

FOUR = Load(concurrency=4)


def odd_rows(seed: int) -> list:
    """A closed loop in which replies fail, are cut, stall for seconds, tell no tokens, several a chunk, more than a byte holds, or none."""
    chance, rows = random.Random(seed), [request(-at, 0.0, phase="warmup") for at in (3, 2, 1)]
    for row in closed_loop(4, 120):
        stamps = row.chunk_ns
        stalled = (*stamps[:2], *(stamp + 3_000_000_000 for stamp in stamps[2:]))
        changed = chance.choice([
            row, row, failed(row), replace(row, outcome="truncated"),
            replace(row, chunk_tokens=None, counted_output_tokens=None, output_tokens=2 * len(stamps) + 1),
            replace(row, chunk_tokens=None, counted_output_tokens=None, output_tokens=None),
            replace(row, chunk_tokens=tuple(chance.randint(1, 400) for _ in stamps)),
            replace(row, chunk_ns=stalled, last_token_ns=stalled[-1], ended_ns=stalled[-1] + 5),
            replace(row, reasoning_tokens=3, reasoning_chunks=0, output_tokens=len(stamps) + 3),
        ])  # fmt: skip
        rows.append(changed)
    every = {"connect_ns": 1, "tls_ns": 2, "retry_after_s": 0.5, "released_ns": rows[-1].sent_ns, "served_by": "h:1", "routed_why": "w"}  # fmt: skip
    rows[-1] = replace(rows[-1], **every)
    return rows


def stored(run_dir, rows, *, state, parts):
    manifest = Manifest(
        1, "r", "e", "c", Cell("t", "fixed:128x8", FOUR, 1), RunState.RUNNING, clock.utc_now().isoformat(), 0, 0, "0",
        {"slo": {"ttft_s": 0.1, "tpot_s": 0.011}}, "", "", 1, {}, {"kind": "vllm", "model": "m"}, {}, {}, {}, None,
    )  # fmt: skip
    writer = RunWriter.create(run_dir, manifest)
    plan = [PlannedRequest(r.seq, None, 128, 8, None, r.seq, prefix=(7, 64)) for r in rows if r.phase == "measure"]
    writer.write_plan(Plan(tuple(plan), (), FOUR, "w", 1, ""))
    for table, more in (("host", host(rows)), ("gpu", gpu(8))):
        writer.add(table, more)
    for piece in np.array_split(np.arange(len(rows)), parts):
        writer.add("requests", [rows[at] for at in piece])
        writer.flush()
    if state is not None:
        writer.finish(state)
    return writer


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("merged", [True, False], ids=["merged", "going on"])
def test_read_to_be_judged_a_run_has_the_same_summary(tmp_path, parts, merged):
    """To the last bit and in every field, whether its rows are in one file or in parts; what is left out is there when it is read whole."""
    writer = stored(tmp_path / "r", odd_rows(parts), state=RunState.COMPLETE if merged else None, parts=parts)
    try:
        whole, lean = read_run(tmp_path / "r"), read_judged(tmp_path / "r")
    finally:
        writer.finish(RunState.COMPLETE)
    assert asdict(summarise(lean)) == asdict(summarise(whole))
    assert summarise(lean).distributions["icl_s"].maximum == pytest.approx(3.01)
    assert {"chunk_ns", "request_id"} <= set(whole.requests) - set(lean.requests)
    assert len(lean.requests) == len(whole.requests)
    assert {f.name for f in fields(type(whole))} == {f.name for f in fields(type(lean))}


def test_some_rows_have_their_own_chunks(tmp_path):
    """Every third row of a run in parts, as a hybrid's side is: the pieces hold their chunks and no others."""
    stored(tmp_path / "r", odd_rows(5), state=RunState.COMPLETE, parts=3)
    whole, lean = read_run(tmp_path / "r").requests.iloc[::3], read_judged(tmp_path / "r")
    found, expected = (
        requests.chunks for requests in (measured(lean.requests.iloc[::3], lean.chunks), measured(whole))
    )
    for name in ("count", "exact", "first_tokens"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("stamp_ns", "gap_ns", "is_first", "tokens", "row"):
        mine, theirs = (
            np.concatenate([getattr(piece, name) for piece in chunks.pieces()]) for chunks in (found, expected)
        )
        np.testing.assert_array_equal(mine, theirs)
    assert found.total == sum(map(len, whole[whole.phase == "measure"].chunk_ns)) > 100


@pytest.mark.parametrize("count", [1, 9, 10, 137, 499, 500, 3000, 5003])
def test_percentiles_and_means_of_gaps_are_those_of_seconds(count, monkeypatch):
    """Bit by bit as NumPy has them of the gaps as floats, also where the sum is put together of many pieces; of 4 bytes and of 8."""
    monkeypatch.setattr(metrics, "_SUMMED_AT_ONCE", 128)
    chance = np.random.default_rng(count)
    gaps = chance.lognormal(16, 1, count).astype(np.int64)
    for kind, values in ((np.int32, gaps), (np.int64, gaps * 1_000)):
        expected = distribution("icl_s", values / 1e9)
        assert gap_distribution("icl_s", values.astype(kind)) == expected
