"""Every dialect from the wire to the metrics: generated streams, and an oracle that knows what the server did."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.clock import Anchor
from harness.judge.capacity.probe import replies
from harness.judge.columns import measured
from harness.judge.metrics import per_request
from harness.measure.drive import dialect
from harness.measure.drive.rows import Context, Raw, StampMap, record
from harness.records import Endpoint, Phase, PlannedRequest, RequestRecord
from tests.drive.streams import Event, Piece, Usage, events, output_of, reasoning_of
from tests.judge.run_builder import frame

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
SENT_NS = 10**15
KINDS = {  # of reasoning: open servers stream it, closed ones keep it and may sum it up
    "completions": ((),),
    "chat": (("thinking",), ("hidden",)),
    "responses": (("thinking",), ("hidden", "summary")),
    "messages": (("hidden", "summary"),),
    "messages of vLLM": (("thinking",),),
}


@dataclass(frozen=True)
class Served:
    """What a server did, and in which reads it came: `cuts` are places in the stream, `gaps_ns` the time before each read."""

    spoken: str
    pieces: tuple[Piece, ...]
    usage: Usage
    cuts: tuple[float, ...]
    gaps_ns: tuple[int, ...]

    @property
    def api(self) -> str:
        return self.spoken.partition(" ")[0]

    @property
    def events(self) -> list[Event]:
        return list(events(self.api, self.pieces, self.usage))

    def reads(self) -> list[tuple[bytes, int]]:
        """What each read brought, and when; without `cuts` an event a read."""
        said = b"".join(data for data, _ in self.events)
        if self.cuts:
            ends = sorted({max(1, round(cut * len(said))) for cut in self.cuts} | {len(said)})
        else:
            ends = [sum(len(data) for data, _ in self.events[: i + 1]) for i in range(len(self.events))]
        at, now, reads = 0, SENT_NS, []
        for number, end in enumerate(ends):
            now += self.gaps_ns[number % len(self.gaps_ns)]
            reads.append((said[at:end], now))
            at = end
        return reads

    def row(self) -> RequestRecord:
        reads = [(HEAD, SENT_NS + 1), *((b"%x\r\n%b\r\n" % (len(data), data), ns) for data, ns in self.reads())]
        reads[-1] = reads[-1][0] + b"0\r\n\r\n", reads[-1][1]
        stamps = b"".join(struct.pack("=qq", *divmod(ns, 10**9)) for _, ns in reads)
        lengths = array("I", [len(data) for data, _ in reads]).tobytes()
        whole = b"".join(data for data, _ in reads)
        raw = Raw(0, "", "", SENT_NS, 1, 1, 0, True, SENT_NS, 10**16, False, stamps, lengths, whole)
        stamp_map = StampMap()
        stamp_map.add(Anchor(0, 0, 1))
        context = Context(Phase.MEASURE, open_loop=True, api_key=None, spoken=self.spoken)
        planned = PlannedRequest(0, 0, self.usage.prompt, max(1, output_of(self.pieces)), None, 0)
        return record(raw, planned, "r", 0, stamp_map, context)


@dataclass(frozen=True)
class Truth:
    """By the oracle. `chunk_ns`: of every chunk with the model's own tokens; None, nan: unknown."""

    chunk_ns: list[int]
    first_visible_ns: int | None
    tpot_s: float


def truth(served: Served) -> Truth:
    """When each token was there, by the read that had its event's last byte, and how many of the counted ones were in the stream."""
    ends, at = [], 0
    for data, ns in served.reads():
        at += len(data)
        ends.append((at, ns))
    chunks, at = [], 0
    for data, number in served.events:
        at += len(data)
        if number is not None and served.pieces[number].kind not in ("summary", "hidden"):
            chunks.append((next(ns for end, ns in ends if end >= at), served.pieces[number].kind))
    streamed = sum(p.tokens for p in served.pieces if p.kind not in ("summary", "hidden"))
    unknown = any(p.kind in ("hidden", "summary") for p in served.pieces) and not served.usage.tells
    after = streamed - 1
    spans = [] if not chunks or after < 1 or unknown else [(chunks[-1][0] - chunks[0][0]) / 1e9 / after]
    visible = [ns for ns, kind in chunks if kind != "thinking"]
    return Truth([ns for ns, _ in chunks], visible[0] if visible else None, spans[0] if spans else math.nan)


def mixed(spoken: str) -> st.SearchStrategy[tuple[Piece, ...]]:
    visible = ("text",) if spoken == "completions" else ("text", "refusal", "call")
    kinds = st.sampled_from(KINDS[spoken]).flatmap(
        lambda reasoning: st.lists(st.sampled_from(visible + reasoning), min_size=1, max_size=6)
    )
    return kinds.flatmap(
        lambda names: st.tuples(*(st.builds(Piece, st.just(name), st.integers(1, 12)) for name in names))
    )


def served_by(spoken: str) -> st.SearchStrategy[Served]:
    hidden_is_told = spoken == "chat"  # where it is not, nothing in the stream says that there was any
    return st.builds(
        Served,
        spoken=st.just(spoken),
        pieces=mixed(spoken),
        usage=st.builds(
            Usage,
            uncached=st.integers(1, 99),
            cached=st.integers(0, 99),
            written_5m=st.integers(0, 99),
            written_1h=st.just(0) if spoken in ("chat", "completions") else st.integers(0, 99),
            tells=st.just(spoken != "messages of vLLM") if hidden_is_told or spoken.endswith("vLLM") else st.booleans(),
        ),
        cuts=st.just(()) | st.lists(st.floats(0, 1), min_size=1, max_size=12).map(tuple),
        gaps_ns=st.lists(st.integers(10**3, 10**9), min_size=1, max_size=5).map(tuple),
    )


SERVED = st.sampled_from(tuple(KINDS)).flatmap(served_by)


def values_of(row: RequestRecord) -> dict[str, float]:
    return {name: column[0] for name, column in per_request(measured(frame([row], RequestRecord))).items()}


def same(got: float, wanted: float) -> bool:
    return (math.isnan(got) and math.isnan(wanted)) or got == pytest.approx(wanted)


@settings(max_examples=200, deadline=None)
@given(SERVED)
def test_stamps_and_metrics_are_those_of_the_model_s_own_tokens(served):
    """TTFT, time to the first visible token and TPOT for reasoning that streams, is kept, is summed up or is not counted apart, calls,
    refusals and several parts, however the stream is cut into reads."""
    row, wanted = served.row(), truth(served)
    got = values_of(row)
    assert list(row.chunk_ns) == wanted.chunk_ns
    assert row.first_visible_ns == wanted.first_visible_ns
    assert same(got["ttft_s"], (wanted.chunk_ns[0] - SENT_NS) / 1e9 if wanted.chunk_ns else math.nan)
    assert same(got["tpot_s"], wanted.tpot_s)
    (judged,) = replies([row], {"tpot_s": wanted.tpot_s * 1.001})
    assert judged.good == (row.outcome == "ok" and not math.isnan(wanted.tpot_s))


@settings(max_examples=150, deadline=None)
@given(SERVED)
def test_tokens_are_those_of_usage(served):
    """The prompt with its cached and written parts, the output with its reasoning, in every dialect; a reply that bore tokens is ok."""
    row, usage = served.row(), served.usage
    assert row.prompt_tokens == usage.prompt
    assert row.cached_prompt_tokens == usage.cached
    assert (row.cache_written_5m_tokens or 0) + (
        row.cache_written_1h_tokens or 0
    ) == usage.written_5m + usage.written_1h
    if served.api in ("responses", "messages"):
        assert (row.cache_written_5m_tokens, row.cache_written_1h_tokens) == (usage.written_5m, usage.written_1h)
    assert row.output_tokens == output_of(served.pieces)
    assert row.reasoning_tokens == (reasoning_of(served.pieces) if usage.tells else None)
    assert row.outcome == ("ok" if row.chunk_ns else "empty_reply")


@settings(max_examples=200, deadline=None)
@given(SERVED, st.floats(0, 1))
def test_a_stream_that_is_cut_is_no_good_reply(served, share):
    """Wherever it ends before its last event: a row, never ok unless the server had said how it ended, and no more chunks than whole."""
    said = b"".join(data for data, _ in served.events)
    reply = dialect.reply(served.spoken)
    kept = said[: int(share * len(said))]
    for event in kept.split(b"\n\n")[:-1]:
        reply.take(event.partition(b"data: ")[2], 0)
    assert len(reply.chunk_ns) <= len(truth(served).chunk_ns)
    assert not reply.done or kept.count(b"\n\n") == said.count(b"\n\n")


@pytest.mark.parametrize("api", ["completions", "chat", "responses", "messages"])
def test_every_dialect_has_its_replies(api):
    """Also of a vLLM server."""
    for vllm in (False, True):
        assert dialect.reply(dialect.spoken(Endpoint("http://h/v1", "m", api, vllm_extensions=vllm))).chunk_ns == []


def test_ten_thousand_hidden_tokens_do_not_hurry_the_visible_ones():
    """Over Messages and Responses: 10,000 tokens of reasoning behind a summary, then 50 visible ones, 20 ms apart: TPOT is 20 ms."""
    pieces = (Piece("summary", 9), Piece("hidden", 10_000), Piece("text", 50))
    for spoken in ("messages", "responses"):
        row = Served(spoken, pieces, Usage(), (), (20_000_000,)).row()
        assert row.output_tokens == 10_050
        assert values_of(row)["tpot_s"] == pytest.approx(0.02)


def _spread(rows: Sequence[RequestRecord]) -> set[bool]:
    return {math.isnan(values_of(row)["tpot_s"]) for row in rows}


def test_hidden_reasoning_of_an_unknown_length_has_no_tpot():
    """Nobody knows how many of the counted tokens were seen: null, which keeps no promise."""
    pieces = (Piece("hidden", 100), Piece("text", 50))
    untold = Usage(tells=False)
    assert _spread([Served(spoken, pieces, untold, (), (10**6,)).row() for spoken in ("messages", "responses")]) == {
        True
    }
