"""Every fault is a row with its outcome, and none a hang."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from pathlib import Path

import pytest

from harness.base import clock
from harness.measure.drive import reader, sdk, shard
from harness.measure.drive.collect import Collector
from harness.measure.drive.spool import Writer
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, RequestRecord, Timeouts
from tests import shards
from tests.drive.offering import offer
from tests.fakes.fault_replies import FAULTS
from tests.fakes.fault_server import FaultServer

pytestmark = pytest.mark.timing
KEY = "topsecret-key-1"
CHAT = ("role_first", "reasoning", "hidden_reasoning", "tool_call", "empty_hidden")
# what openai and its HTTP library make of a fault where they differ from the truth on the wire
SDK_DIFFERS = {
    "gzip": "ok",  # they ask for it
    "chunk_size_large": "ok",  # [DONE] came inside the chunk
    "error_json": "empty_reply",  # a body that is no stream: it found no event in it
    "json_reply": "empty_reply",
}
SDK_FAULTS = [
    *SDK_DIFFERS,
    *("status_429", "redirect", "error_event", "bad_json", "not_http", "reset_before", "reset_in"),
    *("close_in", "hang", "hang_in", "no_finish", "role_first", "leak_key"),
    *("empty_done", "empty_stop", "empty_no_done", "empty_hidden", "reasoning", "hidden_reasoning"),
]


@pytest.fixture(scope="module")
def server():
    with FaultServer() as running:
        yield running


def limits(fault: str) -> Timeouts:
    """The one limit that the fault is to reach is short; the others are against hanging only."""
    short = {
        "timeout_first_token": {"first_token_s": 0.4},
        "timeout_idle": {"idle_s": 0.4},
        "timeout_total": {"total_s": 1.0},
    }
    return replace(Timeouts(60, 60, 60, 120), **short.get(FAULTS[fault], {}))


def words_of(fault: str) -> tuple[str, Timeouts]:
    return "chat" if fault in CHAT else "completions", limits(fault)


def wire_offer(server: FaultServer, fault: str):
    api, timeouts = words_of(fault)
    more = {"tokens": 3, "vllm_extensions": False, "api": api, "api_key": KEY, "timeouts": timeouts}
    return offer(server.url(fault), 2, concurrency=1, **more)


class _Worker:
    number = 0
    ready = False


def sdk_offer(server: FaultServer, fault: str) -> list[RequestRecord]:
    """What a worker of the SDK driver does, in this process: importing the SDK once instead of once a fault."""
    api, timeouts = words_of(fault)
    plan = [PlannedRequest(0, None, 1, 3, None, 0)]
    endpoint = Endpoint(server.url(fault), "golden", api, KEY)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards.write(plan, [Prompt(0, "a", None)], [0], 1, endpoint, "run", folder)
        spool, (control, parent) = Writer(folder, 0), os.pipe()
        os.write(parent, b"go %d\n" % clock.monotonic_ns())
        config = {"base_url": endpoint.base_url, "api": api, "spoken": api, "headers": {}, "ca_file": None, "slots": 1}
        config |= {"timeouts": list(astuple(timeouts)), "duration_ns": None, "proxy_url": None, "kept": True}
        sdk.run(config, shard.Shard(folder, 0), spool, control)
        spool.close()
        os.close(control)
        os.close(parent)
        collector = Collector(
            Job(plan, (), Load(concurrency=1), Phase.MEASURE, "run", folder), [0], 1, folder, endpoint.api_key
        )
        return collector.collect([_Worker()], 10**9)


def of_each(offer_one, server: FaultServer, faults: list[str]) -> dict:
    """Side by side: most of the time is waiting."""
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(faults, pool.map(lambda fault: offer_one(server, fault), faults), strict=True))


@pytest.fixture(scope="module", params=["compiled", "python"])
def wire_rows(server, request):
    """By the compiled reader, and by the one in Python."""
    if request.param == "compiled" and reader.library() is None:
        pytest.skip("no compiler here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setenv("HARNESS_READER", "python")
        rows = of_each(wire_offer, server, list(FAULTS))
    name = "reader in Python" if request.param == "python" else "compiled reader"
    assert all(name in str(report.notes) for _, report in rows.values())
    return rows


@pytest.fixture(scope="module")
def sdk_rows(server):
    return of_each(sdk_offer, server, SDK_FAULTS)


@pytest.mark.parametrize("fault", FAULTS)
def test_wire_outcome(wire_rows, fault):
    """The wire driver gives each fault its outcome, and goes on with the next request."""
    rows, report = wire_rows[fault]
    assert [row.outcome for row in rows] == [FAULTS[fault]] * 2, rows[0].error
    assert report.stop_reason == "done"
    for row in rows:
        assert KEY not in repr(row)
        if row.outcome == "ok":
            assert len(row.chunk_ns) == 3
            assert row.first_token_ns >= row.sent_ns
        if row.http_status not in (None, 200):
            assert row.outcome == "http_error"
            assert row.first_token_ns is None


@pytest.mark.parametrize("fault", SDK_FAULTS)
def test_sdk_outcome(sdk_rows, fault):
    """The SDK driver maps the same faults to the same outcomes, save where the SDK itself cannot tell."""
    rows = sdk_rows[fault]
    assert [row.outcome for row in rows] == [SDK_DIFFERS.get(fault, FAULTS[fault])]
    assert KEY not in repr(rows)


def test_several_tokens_in_a_chunk(server):
    """Running usage says how many tokens each chunk held; one stamp each."""
    rows, _ = offer(server.url("several_tokens"), 1, concurrency=1, tokens=6)
    assert rows[0].chunk_tokens == (2, 3, 1)
    assert rows[0].counted_output_tokens == rows[0].output_tokens == 6


def test_reads_with_several_chunks_are_counted(server):
    """Chunks that came in one read are counted as a merged read."""
    rows, report = offer(server.url("joined_events"), 2, concurrency=1, tokens=3)
    assert all(row.merged_reads >= 1 for row in rows)
    assert report.merged_reads == sum(row.merged_reads for row in rows)


def test_usage_details_reach_the_row(server):
    """Reasoning and cached tokens are the server's; missing usage is null, not the length asked for."""
    rows, _ = offer(server.url("reasoning"), 1, concurrency=1, tokens=3, api="chat")
    assert (rows[0].reasoning_tokens, rows[0].cached_prompt_tokens, rows[0].output_tokens) == (2, 4, 3)
    rows, _ = offer(server.url("no_usage"), 1, concurrency=1, tokens=3, vllm_extensions=False)
    assert (rows[0].output_tokens, rows[0].prompt_tokens, rows[0].chunk_tokens) == (None, None, None)


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_reasoning_is_told_from_what_is_seen(wire_rows, sdk_rows, driver):
    """Streamed reasoning comes before the first visible token and in chunks that are counted; hidden reasoning is in no chunk."""
    of = lambda fault: (wire_rows[fault][0] if driver == "wire" else sdk_rows[fault])[0]  # noqa: E731
    streamed, hidden = of("reasoning"), of("hidden_reasoning")
    assert (streamed.reasoning_chunks, streamed.first_visible_ns) == (2, streamed.chunk_ns[2])
    assert (hidden.reasoning_chunks, hidden.first_visible_ns) == (0, hidden.first_token_ns)
    assert (hidden.output_tokens, hidden.reasoning_tokens) == (1003, 1000)


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_an_empty_reply_says_how_it_ended_and_what_it_cost(wire_rows, sdk_rows, driver):
    """No stamp of a token, the finish reason, and the tokens that usage bills though none came."""
    of = lambda fault: (wire_rows[fault][0] if driver == "wire" else sdk_rows[fault])[0]  # noqa: E731
    for fault, words in (("empty_done", "none"), ("empty_stop", "stop"), ("empty_hidden", "length")):
        row = of(fault)
        assert (row.first_token_ns, row.first_visible_ns, row.chunk_ns) == (None, None, ())
        assert f"finish_reason {words}" in row.error
    assert "9 output tokens" in of("empty_hidden").error


def test_leaving_the_fast_path_is_said(wire_rows):
    """A reply that the loop had to read with the framing parser is counted in the notes; a usual one is not."""
    for fault, slow in (("ok", False), ("chance_end", True), ("trailer", True), ("content_length", True)):
        assert any("fast path" in note for note in wire_rows[fault][1].notes) == slow, fault


def test_retry_after_is_kept(server):
    """A 429 keeps its status and its Retry-After."""
    rows, _ = offer(server.url("status_429"), 1, concurrency=1)
    assert rows[0].http_status == 429
    assert "retry-after 7" in rows[0].error


def test_key_echoed_by_the_server_is_hidden(server):
    """A key that the server repeats in its error does not reach the row."""
    rows, _ = offer(server.url("leak_key"), 1, concurrency=1, api_key=KEY)
    assert "***" in rows[0].error
    assert KEY not in rows[0].error


def test_nobody_listens():
    """A refused connection and an unknown host are rows."""
    rows, _ = offer("http://127.0.0.1:1/v1", 3, concurrency=2)
    assert [row.outcome for row in rows] == ["connect_error"] * 3
    assert rows[0].connection_reused is None
    rows, _ = offer("http://no-such-host.invalid/v1", 2, gap_s=0.01)
    assert [row.outcome for row in rows] == ["connect_error"] * 2
