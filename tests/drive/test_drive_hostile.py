"""Whatever a server sends is a row, says why, and ends there: no worker, run or memory goes with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure.drive import exchanges
from harness.records import OVERRUN_TIMES, Timeouts
from tests.drive.offering import offer
from tests.fakes.fault_server import FaultServer
from tests.fakes.hostile_replies import CHAT, HOSTILE, IN_TURN, KEY, TOKENS

pytestmark = pytest.mark.timing
LIMITS = Timeouts(60, 60, 60, 120)
# what openai and its HTTP library make of a reply where they differ from the truth on the wire
SDK_DIFFERS = {
    "status_000": "protocol_error",
    "error_of_64_mib": "http_error",
    "head_without_end": "protocol_error",
}


@pytest.fixture(scope="module")
def server():
    with FaultServer() as running:
        yield running


def offer_hostile(server: FaultServer, turn: str, n: int, driver: str, concurrency: int):
    timeouts = replace(LIMITS, total_s=1.0) if turn == "slow" else LIMITS
    api = "chat" if turn == "chat" or turn in CHAT else "completions"
    more = {"tokens": TOKENS, "vllm_extensions": False, "api": api, "api_key": KEY.decode(), "timeouts": timeouts}
    return offer(server.url(turn), n, concurrency=concurrency, driver=driver, **more)


@pytest.fixture(scope="module", params=["compiled", "python"])
def wire_rows(server, request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "python":
            patch.setenv("HARNESS_READER", "python")
        found = {}
        for turn, names in IN_TURN.items():
            rows, report = offer_hostile(server, turn, 2 * len(names), "wire", 4)
            assert report.stop_reason == "done"
            for at, name in enumerate(names):
                found[name] = [row for row in rows if row.seq % len(names) == at]
        return found


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_reply_is_a_row(wire_rows, name):
    """Each comes to its outcome, twice, with its reason in one short printable line; the run goes on to its end."""
    rows = wire_rows[name]
    assert [row.outcome for row in rows] == [HOSTILE[name]] * 2, [row.error for row in rows]
    for row in rows:
        assert row.outcome == "ok" or (row.error and len(row.error) <= 200 and row.error.isprintable())
        assert len(row.finish_reason or "") <= 40
        for count in (row.prompt_tokens, row.output_tokens, row.cached_prompt_tokens, row.reasoning_tokens):
            assert count is None or 0 <= count < 1 << 31
        repr(row).encode()  # no half of a pair, which no file takes


@pytest.mark.parametrize("name", [name for name, outcome in HOSTILE.items() if outcome == "protocol_error"])
def test_what_cannot_be_read_is_quoted(wire_rows, name):
    """The row shows with what bytes the reply began, unless they hold pieces of the key."""
    rows = wire_rows[name]
    if name == "key_in_pieces":
        assert "with pieces of the key" in rows[0].error
        assert not any(KEY[at : at + 5].decode() in rows[0].error for at in range(0, len(KEY), 5))
        return
    begins = {"head_of_nul": "it begins ?", "status_of_5000_digits": "it begins HTTP/1.1 222"}.get(
        name, "it begins HTTP/1.1"
    )
    assert begins in rows[0].error


@pytest.mark.parametrize("name", [name for name, outcome in HOSTILE.items() if outcome == "overrun"])
def test_an_overrun_ends_soon(wire_rows, name):
    """More than twice the tokens asked for: ended by us, with what came until then counted, and no more than a read or two of it."""
    for row in wire_rows[name]:
        assert len(row.chunk_ns) > OVERRUN_TIMES * TOKENS
        assert row.response_bytes < 8 << 20
        assert f"where {TOKENS} were asked for" in row.error


def test_one_reply_holds_no_more_than_its_tokens_may(wire_rows):
    """A reply that never ends is ended at the bytes that twice its tokens may take, and what one more read brings."""
    most = exchanges.MOST_BYTES + TOKENS * exchanges.MOST_BYTES_A_TOKEN
    for name in ("endless_body", "line_without_end", "endless_comments", "giant_events", "error_of_64_mib"):
        for row in wire_rows[name]:
            assert row.response_bytes < most + 130 * 65536, name


@pytest.mark.parametrize(
    "name", [*SDK_DIFFERS, "tool_function_is_text", "usage_of_30_digits", "endless_tokens", "error_of_brackets"]
)
def test_the_sdk_makes_rows_of_them_too(server, name):
    """Through the SDK the same replies are rows, some of another name."""
    rows, report = offer_hostile(server, name, 2, "sdk", 1)
    assert [row.outcome for row in rows] == [SDK_DIFFERS.get(name, HOSTILE[name])] * 2, [row.error for row in rows]
    assert report.stop_reason == "done"
