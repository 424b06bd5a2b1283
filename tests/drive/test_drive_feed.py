"""Prompts that are written while the run goes on: right, in time, and never many."""

from __future__ import annotations

import sys
import tempfile
from array import array
from itertools import chain
from pathlib import Path

import pytest
from offering import LIMITS

from harness.measure.drive import driver, feed
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, RequestRecord
from tests.drive.offering import Watching
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
REQUESTS, AHEAD, SEGMENT = 300, 20_000, 4_000
SHORTEST, LONGEST = 150, 500  # bytes of a request, about


@pytest.fixture(autouse=True)
def little(monkeypatch):
    monkeypatch.setattr(feed, "AHEAD_BYTES", AHEAD)
    monkeypatch.setattr(feed, "SEGMENT_BYTES", SEGMENT)


def planned(i: int, gap_s: float | None) -> PlannedRequest:
    return PlannedRequest(i, None if gap_s is None else round(i * gap_s * 1e9), 1 + i % 40, 2, None, i)


def streamed(words: dict, gap_s: float | None = None, n: int = REQUESTS):
    """(rows, report, how many prompts had been made at the start, the most that had been made and not sent)."""
    made: list[int] = []
    rows: list[RequestRecord] = []
    most = [0]

    def of_all():
        for i in range(n):
            made.append(i)
            yield Prompt(i, None, tuple(range(1 + i % 40)))

    with GoldenServer(0.0, 0.0) as server, tempfile.TemporaryDirectory() as name:

        def take(batch: list[RequestRecord]) -> None:
            rows.extend(batch)
            so_far = len(made)
            stamps = [array("q", path.read_bytes()) for path in Path(name).glob("*/shard-*.sent")]
            most.append(so_far - sum(map(bool, chain(*stamps))))
            kept = sum(path.stat().st_size for path in Path(name).glob("*/shard-*bodies*"))
            assert kept <= LONGEST * (len(made) - len(rows)) + (2 * words["workers"] + 2) * SEGMENT

        at_start: list[int] = []
        load = Load(concurrency=6) if gap_s is None else Load(rate_rps=1 / gap_s)
        report = driver.drive(
            Job([planned(i, gap_s) for i in range(n)], of_all(), load, Phase.MEASURE, "run", Path(name)),
            Watching(take, lambda _: at_start.append(len(made))),
            Endpoint(server.url, "golden", "completions", vllm_extensions=True),
            timeouts=LIMITS,
            **words,
        )
        assert list(Path(name).iterdir()) == []
    return rows, report, at_start[0], max(most)


@pytest.mark.parametrize(
    ("gap_s", "driver_name", "workers"),
    [(None, "wire", 1), (0.002, "wire", 3), (0.002, "sdk", 1), (None, "sdk", 2)],  # every pair
    ids=["closed-wire-1", "open-wire-3", "open-sdk-1", "closed-sdk-2"],
)
def test_every_request_is_sent_as_planned(gap_s, driver_name, workers):
    """Most prompts do not exist at the start; each arrives whole, once, few are ever ahead of the sends, and those that are over go."""
    rows, report, at_start, most = streamed({"driver": driver_name, "workers": workers}, gap_s)
    assert report.stop_reason == "done"
    assert at_start < REQUESTS / 2
    assert sorted((row.seq, row.outcome, row.prompt_tokens) for row in rows) == [
        (i, "ok", 1 + i % 40) for i in range(REQUESTS)
    ]
    assert most * SHORTEST < AHEAD + LONGEST


def test_prompts_that_come_late_make_sends_late(monkeypatch):
    """Where one is written at a time, six slots wait for them: nothing is lost, and the report counts the late sends and says what they waited for."""
    monkeypatch.setattr(feed, "AHEAD_BYTES", 1)
    rows, report, at_start, _ = streamed({"driver": "wire", "workers": 1}, None, 40)
    assert at_start == 1
    assert sorted((row.seq, row.outcome) for row in rows) == [(i, "ok") for i in range(40)]
    assert report.late_sends > 0
    assert any("sends waited for their prompts" in note for note in report.notes)


def test_arrivals_out_of_order_are_all_written_before_the_start(monkeypatch):
    """Streaming follows the plan's order: where the schedule does not, nothing due early waits for what is due late."""
    monkeypatch.setattr(sys.modules[__name__], "planned", lambda i, gap_s: PlannedRequest(i, 10**6 * (REQUESTS - i), 1 + i % 40, 2, None, i))  # fmt: skip
    rows, _, at_start, _ = streamed({"driver": "wire", "workers": 2}, 0.001)
    assert at_start == REQUESTS
    assert {row.outcome for row in rows} == {"ok"}
