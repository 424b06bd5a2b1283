"""Shares of a plan: every request in exactly one, at its own time, and each a run of its own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import pipeline
from harness.base import clock
from harness.base.errors import ConfigError
from harness.cli.run import run
from harness.cli.shape import spec_of
from harness.config.share import ShareSpec, parse_share
from harness.measure.nodes.share import StartAt, share_of
from harness.measure.plan.drawing import draw
from harness.measure.run import Stop
from harness.records import Load
from harness.store.reader import read_run
from tests.campaign.campaign_values import Quiet
from tests.fakes.golden_server import GoldenServer

URL = ("--url", "http://127.0.0.1:9/v1", "--workload", "fixed:16x8", "--rate", "8", "--requests", "64")


def plan_of(load: Load, workload: str = "fixed:16x8", requests: int = 60):
    return draw(
        workload, load, requests=requests, duration_s=None, seed=3, warmup_requests=5, context_limit_tokens=None
    )[0]


@settings(max_examples=30)
@given(st.integers(1, 12), st.booleans(), st.integers(12, 40))
def test_every_request_is_in_exactly_one_share(of, closed, slots):
    """Open and closed: all shares together are the plan, rows unchanged, warm-up too; their loads sum up to the plan's."""
    plan = plan_of(Load(concurrency=slots) if closed else Load(rate_rps=20.0))
    shares = [share_of(plan, ShareSpec(index=index, of=of))[0] for index in range(of)]
    assert sorted((r for share in shares for r in share.requests), key=lambda r: r.seq) == list(plan.requests)
    assert sorted((r.seq for share in shares for r in share.warmup), reverse=True) == [r.seq for r in plan.warmup]
    assert len({share.sha256 for share in shares}) == of
    if closed:
        assert sum(share.load.concurrency for share in shares) == slots
    else:
        assert sum(share.load.rate_rps for share in shares) == pytest.approx(20.0)


def test_a_session_stays_whole():
    """A later turn needs the reply before it."""
    plan = plan_of(Load(rate_rps=2.0), "agent", 400)
    assert any(r.after_seq is not None for r in plan.requests)
    home = {}
    for index in range(3):
        for request in share_of(plan, ShareSpec(index=index, of=3))[0].requests:
            assert home.setdefault(request.session_id, index) == index


@pytest.mark.parametrize(
    ("load", "requests", "said"),
    [(Load(concurrency=4), 60, "more shares than slots"), (Load(rate_rps=2.0), 3, "more shares than requests")],
)
def test_a_share_of_nothing_is_refused(load, requests, said):
    """More shares than slots or requests: before anything is sent."""
    with pytest.raises(ConfigError, match=said):
        share_of(plan_of(load, requests=requests), ShareSpec(index=1, of=8))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--share", "8/8"), "not INDEX/SHARES"),
        (("--share", "a"), "not INDEX/SHARES"),
        (("--start-at", "2026-11-27T01:30:00Z"), "goes with --share"),
        (("--share", "0/8", "--start-at", "2026-11-27 01:30"), "its zone"),
        (("--share", "0/8", "--usd-per-hour", "2"), "has no price"),
    ],
)
def test_words_that_make_no_share(words, said):
    """Each is told with what to write in its place."""
    with pytest.raises(ConfigError, match=said):
        spec_of(run.make_context("run", [*URL, *words]).params)


def test_a_share_is_of_one_cell():
    """Not of a config; the instant is kept as UTC."""
    with pytest.raises(ConfigError, match="of one cell"):
        spec_of(run.make_context("run", ["quickstart", "--share", "0/2"]).params)
    share = spec_of(run.make_context("run", [*URL, "--share", "1/2", "--start-at", "2026-11-27T02:30:00+01:00"]).params)
    assert share.share == ShareSpec(index=1, of=2, start_at=datetime(2026, 11, 27, 1, 30, tzinfo=UTC))
    assert parse_share(" 0/1 ", None).words == "0/1"
    assert "share" not in spec_of(run.make_context("run", [*URL]).params).public()


@pytest.mark.timing
def test_a_start_is_waited_for_and_a_late_one_is_said():
    """Not before the instant; after it at once, with how late; not at all where the user stops."""
    said: list[str] = []
    instant = clock.utc_now() + timedelta(seconds=0.25)
    StartAt(instant, lambda: False, said.append).wait()
    assert clock.utc_now() >= instant
    assert said == []
    StartAt(instant - timedelta(seconds=60), lambda: False, said.append).wait()
    assert "later than the others" in said[0]
    StartAt(instant + timedelta(days=1), lambda: True, said.append).wait()


@pytest.mark.timing
def test_two_shares_are_the_whole_plan_at_the_server(tmp_path):
    """Two runs, each with its own results: every planned request reaches the server exactly once, and each run is its share's."""
    with GoldenServer(ttft_s=0.01, itl_s=0.002) as server:
        for index in range(2):
            words = [
                "--url",
                server.url,
                "--model",
                "golden",
                "--workload",
                "fixed:16x8",
                "--rate",
                "40",
                "--requests",
                "40",
            ]
            start = (clock.utc_now() + timedelta(seconds=1)).isoformat()
            words += ["--share", f"{index}/2", "--start-at", start, "--warmup", "2"]
            pipeline.measure_one(spec_of(run.make_context("run", words).params), tmp_path / str(index), Quiet(), Stop())
    runs = [read_run(tmp_path / str(index)) for index in range(2)]
    measured = [data.requests[data.requests["phase"] == "measure"] for data in runs]
    assert sorted(seq for rows in measured for seq in rows["seq"]) == list(range(40))
    for data, rows in zip(runs, measured, strict=True):
        assert set(rows["outcome"]) == {"ok"}
        assert data.manifest.cell.load.rate_rps == 20
        assert any(note.startswith("share ") for note in data.manifest.environment["plan_notes"])
