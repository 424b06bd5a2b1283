"""Reasoning from the wire to the verdict on a promise: bytes of a stream -> row -> TPOT, TTFVT, attainment."""

from __future__ import annotations

import json
import struct
from array import array
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.clock import Anchor
from harness.judge.capacity.probe import replies
from harness.judge.columns import measured
from harness.judge.metrics import good, per_request
from harness.measure.drive.rows import Context, Raw, StampMap, record
from harness.records import Phase, PlannedRequest, RequestRecord
from tests.judge.run_builder import frame

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SENT_NS = 10**15
CONTEXT = Context(Phase.MEASURE, open_loop=True, api_key=None)


@dataclass(frozen=True)
class Served:
    """What a server did: `reasoning` tokens, streamed or hidden, then `visible` ones, `each` to a chunk; the first chunk
    `wait_ns` after the send, then one every `gap_ns`. Usage grows along, or comes at the end."""

    reasoning: int
    visible: int
    streamed: bool
    each: int
    running: bool
    wait_ns: int
    gap_ns: int

    @property
    def chunks(self) -> list[tuple[str, int]]:
        """(field, tokens) of every token-bearing chunk."""
        parts = [("reasoning_content", self.reasoning if self.streamed else 0), ("content", self.visible)]
        return [(name, min(self.each, n - at)) for name, n in parts for at in range(0, n, self.each)]

    def row(self) -> RequestRecord:
        said, sent = [], 0 if self.streamed else self.reasoning
        for name, tokens in self.chunks:
            sent += tokens
            said.append(self._event([{"delta": {name: "a" * tokens}}], sent if self.running else None))
        end = self._event([{"delta": {}, "finish_reason": "stop"}], sent if self.running else None)
        reads = [HEAD, *map(_chunk, said), _chunk(end + self._event([], sent) + b"data: [DONE]\n\n") + b"0\r\n\r\n"]
        at = [SENT_NS + 1, *(SENT_NS + self.wait_ns + i * self.gap_ns for i in range(len(said)))]
        stamps = b"".join(struct.pack("=qq", *divmod(ns, 10**9)) for ns in [*at, at[-1] + 1])
        lengths = array("I", map(len, reads)).tobytes()
        raw = Raw(0, "", "", SENT_NS, 1, 1, 0, True, SENT_NS, 10**16, False, stamps, lengths, b"".join(reads))
        stamp_map = StampMap()
        stamp_map.add(Anchor(0, 0, 1))
        return record(raw, PlannedRequest(0, 0, 8, self.reasoning + self.visible, None, 0), "r", 0, stamp_map, CONTEXT)

    def _event(self, choices: list, tokens: int | None) -> bytes:
        value: dict = {"choices": choices}
        if tokens is not None:
            told = {"reasoning_tokens": self.reasoning}
            value["usage"] = {"prompt_tokens": 8, "completion_tokens": tokens, "completion_tokens_details": told}
        return b"data: " + json.dumps(value).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def values_of(row: RequestRecord) -> dict:
    return {name: column[0] for name, column in per_request(measured(frame([row], RequestRecord))).items()}


def is_good(row: RequestRecord, slo: dict) -> tuple[bool, bool]:
    """By the summary and by the capacity search."""
    requests = measured(frame([row], RequestRecord))
    return bool(good(requests, per_request(requests), slo)[0]), bool(replies([row], slo)[0].good)


def test_hidden_reasoning_does_not_make_tokens_come_faster():
    """1,000 hidden tokens, then 100 visible ones, one every 20 ms: TPOT is 20 ms, and a promise of 10 ms is not kept."""
    row = Served(1000, 100, False, 1, False, 8 * 10**9, 20_000_000).row()
    assert row.output_tokens == 1100
    assert values_of(row)["tpot_s"] == pytest.approx(0.02)
    assert is_good(row, {"tpot_s": 0.01}) == (False, False)
    assert is_good(row, {"tpot_s": 0.021}) == (True, True)


SERVED = st.builds(
    Served,
    reasoning=st.integers(0, 40),
    visible=st.integers(1, 40),
    streamed=st.booleans(),
    each=st.integers(1, 4),
    running=st.booleans(),
    wait_ns=st.integers(10**6, 10**10),
    gap_ns=st.integers(10**3, 10**9),
).filter(lambda served: served.running or served.each == 1)  # else no one tells how many a chunk held


@settings(max_examples=150, deadline=None)
@given(SERVED)
def test_every_metric_is_that_of_the_stream(served):
    """TPOT is the gap over a chunk's tokens, TTFT and TTFVT are when the first token and the first visible one came, for
    every mix of hidden and streamed reasoning; the summary and the capacity search agree on either side of a limit."""
    row = served.row()
    got = values_of(row)
    after = sum(tokens for _, tokens in served.chunks[1:])
    span_s = (len(served.chunks) - 1) * served.gap_ns / 1e9
    unseen = sum(name != "content" for name, _ in served.chunks)
    assert got["ttft_s"] == pytest.approx(served.wait_ns / 1e9)
    assert got["ttfvt_s"] == pytest.approx((served.wait_ns + unseen * served.gap_ns) / 1e9)
    assert (row.reasoning_chunks, row.output_tokens) == (unseen, served.reasoning + served.visible)
    if not after:
        assert np.isnan(got["tpot_s"])
        return
    assert got["tpot_s"] == pytest.approx(span_s / after)
    for name in ("tpot_s", "ttfvt_s"):
        assert is_good(row, {name: got[name] * 1.001}) == (True, True)
        assert is_good(row, {name: got[name] * 0.999}) == (False, False)
    before = replace(row, first_visible_ns=None, reasoning_chunks=None)  # as a run's file of an older harness gives it
    assert values_of(before)["tpot_s"] == pytest.approx(span_s / after)
    assert np.isnan(values_of(before)["ttfvt_s"])


@pytest.mark.parametrize("tokens", [2, 40])
def test_reasoning_billed_beside_the_output_hides_none_of_it(tokens):
    """Where usage counts reasoning beyond the output tokens, these are all visible: TPOT divides by them."""
    row = Served(0, tokens, False, 1, False, 10**9, 10**7).row()
    assert values_of(replace(row, reasoning_tokens=1000))["tpot_s"] == pytest.approx(0.01)


def test_a_reply_that_only_reasons_has_no_visible_token():
    """All tokens went into reasoning: TTFVT is null, which meets no promise; TTFT and TPOT are there."""
    row = replace(Served(30, 1, True, 1, True, 10**9, 10**7).row(), first_visible_ns=None)
    assert np.isnan(values_of(row)["ttfvt_s"])
    assert is_good(row, {"ttfvt_s": 1e9}) == (False, False)
    assert values_of(row)["tpot_s"] == pytest.approx(0.01)
