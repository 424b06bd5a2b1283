"""A finished exchange, raw as it left the wire, into a RequestRecord: framing, events, tokens and outcome."""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from harness.base import redaction
from harness.base.clock import NS, Anchor
from harness.measure.drive import dialect, http1, sse, turns
from harness.measure.drive.rate_headers import retry_after_s
from harness.measure.job import Head
from harness.records import RETRIED, Outcome, Phase, PlannedRequest, RequestRecord

_USER = -1  # seconds of a stamp that was taken in user space
_MAX_ERROR_BODY = 64 * 1024
_QUOTED_BYTES = 4096  # of a reply that cannot be read: much more than is shown
_PIECE = 4  # characters of a key that may not be shown


@dataclass(frozen=True, slots=True)
class Raw:
    """What the loop knew. Zero stamps mean "did not happen"; `wire` is "" for a reply whose end was seen, `eof`,
    or an Outcome. `stamps`: 16 bytes a read, `lengths`: uint32 a read, `data`: all bytes received."""

    index: int
    wire: str
    error: str
    due_ns: int
    connect_started_ns: int
    connect_ns: int
    tls_ns: int
    reused: bool | None
    sent_ns: int
    ended_ns: int
    retried: bool
    stamps: bytes
    lengths: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Context:
    """What rows share. `api_key` only to keep it out of error texts; `spoken`: the dialect of replies; `on_head` hears their heads."""

    phase: Phase
    open_loop: bool
    api_key: str | None
    spoken: str = "completions"
    on_head: Callable[[Head], None] | None = None


class StampMap:
    """Kernel stamps onto CLOCK_MONOTONIC, each with the worker's last anchor at or before it (the first if none)."""

    def __init__(self) -> None:
        self.anchors: list[Anchor] = []
        self._keys = np.empty(0, np.int64)
        self._offsets = np.empty(0, np.int64)

    def add(self, anchor: Anchor) -> None:
        self.anchors.append(anchor)
        self._keys = np.array([a.monotonic_ns + a.offset_ns for a in self.anchors], np.int64)
        self._offsets = np.array([a.offset_ns for a in self.anchors], np.int64)

    def monotonic(self, stamps: bytes) -> list[int]:
        """One CLOCK_MONOTONIC stamp per 16-byte timespec."""
        if not stamps:
            return []
        pairs = np.frombuffer(stamps, np.int64).reshape(-1, 2)
        real = pairs[:, 0] * NS + pairs[:, 1]
        at = np.maximum(np.searchsorted(self._keys, real, "right") - 1, 0)
        mapped = real - self._offsets[at]
        user = pairs[:, 0] == _USER
        stamps_ns: list[int] = np.where(user, pairs[:, 1], mapped).tolist()
        return stamps_ns


# A usual read, as nearly every server sends them: one chunk, which is one event, which is one data line, in some dialects after its
# name. By a read's length: the first bytes that such a read was once found to have, its size, its name and `data: `.
_beginnings: dict[int, bytes] = {}
_END = b"\n\n\r\n"
_LF, _CR = b"\n\r"
_BEGINNING = re.compile(rb"([0-9A-Fa-f]+)\r\n(?:event: [^\r\n]*\n)?data: ")


def _learn(read: bytes) -> None:
    """Remember how this read begins, if it is a usual one: the next of its length costs no parsing of its frame."""
    found = _BEGINNING.match(read)
    if found and int(found[1], 16) == len(read) - len(found[1]) - 4:
        _beginnings[len(read)] = found[0]


class _Reading:
    """The reply read through once: framing, then events, each with the stamp of the read that completed it."""

    def __init__(self, spoken: str, content: turns.Content | None) -> None:
        self.response = http1.Response()
        self.events = sse.SseParser()
        self.reply = dialect.reply(spoken, content)
        self.streaming = False
        self.merged_reads = 0
        self.error_body = bytearray()
        self.problem: str | None = None  # a protocol error

    def read_all(self, data: bytes, lengths: Sequence[int], stamps: Sequence[int]) -> None:
        between = False  # events, and chunks
        at, beginning, take = 0, _beginnings.get, self.reply.take
        try:
            for end, stamp in zip(accumulate(lengths), stamps, strict=True):
                read, at = data[at:end], end
                if (
                    between
                    and (begin := beginning(len(read)))
                    and read.startswith(begin)
                    and read.endswith(_END)
                    and _LF not in (event := read[len(begin) : -4])
                    and _CR not in event
                ):
                    take(event, stamp)
                else:
                    if between:
                        _learn(read)
                    between = self._read(read, stamp)
        except (http1.HttpError, sse.SseError) as error:
            self.problem = str(error)
        except ValueError:
            self.problem = "an event is not a JSON object of the expected shape"

    def _read(self, read: bytes, stamp: int) -> bool:
        """Take any read; True if what comes next begins with a chunk and an event. Raises HttpError, SseError, ValueError."""
        body = self.response.feed(read)
        if body and not self.streaming:
            self.streaming = self._streams()
            if not self.streaming:
                self.error_body += body[: _MAX_ERROR_BODY - len(self.error_body)]
        if body and self.streaming:
            bearing = sum([self.reply.take(event.data, stamp) for event in self.events.feed(body)])
            self.merged_reads += bearing > 1
        return self.streaming and self.events.between and self.response.between_chunks

    def _streams(self) -> bool:
        """True if body bytes are events; raises HttpError for a 200 that is something else."""
        if self.response.status != 200:
            return False
        headers = self.response.headers
        encoding = headers.get("content-encoding", "identity")
        if encoding.lower() != "identity":
            raise http1.HttpError(f"content-encoding {redaction.text(encoding)[:20]} although none was asked for")
        kind = headers.get("content-type", "text/event-stream").partition(";")[0].strip().lower()
        return kind == "text/event-stream"


def _http_error(reading: _Reading) -> str:
    response = reading.response
    status = response.status or 0
    parts = [f"HTTP {status}"]
    if 300 <= status < 400:
        parts.append("redirect, not followed")
    if "content-encoding" not in response.headers and (message := dialect.error_message(bytes(reading.error_body))):
        parts.append(message)
    if after := response.headers.get("retry-after"):
        parts.append(f"retry-after {after}")
    return ": ".join(parts)


def _judge(raw: Raw, reading: _Reading) -> tuple[Outcome, str | None]:
    response, reply = reading.response, reading.reply
    if raw.wire in (
        Outcome.CONNECT_ERROR,
        Outcome.TIMEOUT_CONNECT,
        Outcome.DROPPED,
        Outcome.CANCELLED,
        Outcome.OVERRUN,
    ):
        return Outcome(raw.wire), raw.error or None
    if reading.problem is not None or raw.wire == Outcome.PROTOCOL_ERROR:
        return Outcome.PROTOCOL_ERROR, reading.problem or raw.error
    if response.status not in (None, 200):
        return Outcome.HTTP_ERROR, _http_error(reading)
    if reply.error is not None:
        return Outcome.ERROR_EVENT, reply.error
    if reading.error_body:  # a 200 with a body that is no stream
        message = dialect.error_message(bytes(reading.error_body))
        if message:
            return Outcome.ERROR_EVENT, message
        return (
            Outcome.PROTOCOL_ERROR,
            f"not an event stream: {redaction.text(response.headers.get('content-type', ''))[:60]}",
        )
    match raw.wire:
        case "" | "eof":
            ended = response.end_of_input() if raw.wire == "eof" else response.complete
            if raw.wire == "" and (not ended or response.surplus):
                return Outcome.PROTOCOL_ERROR, "the chunk sizes do not add up to the bytes of the stream"
            if reply.done or (ended and reply.finish_reason):
                return _finished(reply, RETRIED if raw.retried else None)
            return Outcome.TRUNCATED, "the stream ended before its finish" if raw.data else "closed before any reply"
        case Outcome.RESET:
            return _finished(reply, None) if reply.done else (Outcome.RESET, raw.error)
        case other:
            return Outcome(other), raw.error or None


def _finished(reply: dialect.Reply, note: str | None) -> tuple[Outcome, str | None]:
    """A stream that came to its end: ok, if it bore a token."""
    return (Outcome.OK, note) if reply.chunk_ns else (Outcome.EMPTY_REPLY, reply.emptiness())


def _outcome(
    raw: Raw, reading: _Reading, lengths: Sequence[int], stamps: Sequence[int], target_tokens: int
) -> tuple[Outcome, str | None]:
    """Read the reply, and judge it: whatever a server sends is a row."""
    try:
        reading.read_all(raw.data, lengths, stamps)
        outcome, error = _judge(raw, reading)
    except Exception as unforeseen:
        outcome, error = Outcome.PROTOCOL_ERROR, f"the reply cannot be read ({type(unforeseen).__name__})"
    if outcome is Outcome.OK and (too_long := dialect.overrun(reading.reply.visible_tokens(), target_tokens)):
        return Outcome.OVERRUN, too_long
    return outcome, error


def _beginning(data: bytes, api_key: str | None) -> str:
    """Of a reply that cannot be read, as it came: framing may part a key that it echoes, so that no rule for whole keys finds it."""
    text = data[:_QUOTED_BYTES].decode(errors="replace")
    pieces = {api_key[at : at + _PIECE] for at in range(max(1, len(api_key) - _PIECE + 1))} if api_key else set()
    return "with pieces of the key" if any(piece in text for piece in pieces) else text


def record(
    raw: Raw,
    request: PlannedRequest,
    request_id: str,
    worker: int,
    stamp_map: StampMap,
    context: Context,
    content: turns.Content | None = None,
) -> RequestRecord:
    """The row of one exchange; the reply's content goes into `content`, where one is given."""
    reading = _Reading(context.spoken, content)
    lengths = array("I")
    lengths.frombytes(raw.lengths)
    stamps = stamp_map.monotonic(raw.stamps)
    outcome, error = _outcome(raw, reading, lengths, stamps, request.target_output_tokens)
    if outcome is Outcome.PROTOCOL_ERROR and raw.data:
        error = f"{error}; it begins {_beginning(raw.data, context.api_key)}"
    reply, response = reading.reply, reading.response
    if context.on_head is not None and response.status is not None and stamps:
        context.on_head(Head(request.seq, stamps[0], response.status, response.headers))
    chunk_tokens = reply.chunk_tokens()
    whole = raw.wire in ("", Outcome.PROTOCOL_ERROR) and stamps
    return RequestRecord(
        request_id=request_id,
        seq=request.seq,
        phase=context.phase.value,
        worker=worker,
        session_id=request.session_id,
        target_prompt_tokens=request.target_prompt_tokens,
        target_output_tokens=request.target_output_tokens,
        scheduled_ns=raw.due_ns if context.open_loop else None,
        due_ns=raw.due_ns or None,
        connect_started_ns=None if raw.reused else raw.connect_started_ns or None,
        connect_ns=None if raw.reused else raw.connect_ns or None,
        tls_ns=None if raw.reused else raw.tls_ns or None,
        sent_ns=raw.sent_ns or None,
        first_byte_ns=stamps[0] if stamps else None,
        first_token_ns=reply.chunk_ns[0] if reply.chunk_ns else None,
        last_token_ns=reply.chunk_ns[-1] if reply.chunk_ns else None,
        ended_ns=stamps[-1] if whole else raw.ended_ns,
        chunk_ns=tuple(reply.chunk_ns),
        chunk_tokens=chunk_tokens,
        prompt_tokens=reply.prompt,
        cached_prompt_tokens=reply.cached,
        output_tokens=reply.output,
        reasoning_tokens=reply.reasoning,
        counted_output_tokens=sum(chunk_tokens) if chunk_tokens else None,
        merged_reads=reading.merged_reads,
        reads=len(lengths),
        response_bytes=len(raw.data),
        connection_reused=raw.reused if raw.connect_ns or raw.reused else None,
        outcome=outcome.value,
        http_status=response.status,
        retry_after_s=retry_after_s(response.headers),
        finish_reason=reply.finish_reason,
        error=None if error is None else dialect.clean_error(error, context.api_key),
        first_visible_ns=reply.first_visible_ns,
        reasoning_chunks=reply.reasoning_chunks,
        reasoning_hidden=reply.reasoning_hidden,
        cache_written_5m_tokens=reply.written_5m,
        cache_written_1h_tokens=reply.written_1h,
    )
