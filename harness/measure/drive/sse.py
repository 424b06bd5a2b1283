"""Server-sent events: bytes in, events out, no I/O.

The grammar is the WHATWG HTML standard's, section 9.2.6: lines end in CR, LF or CRLF, a line beginning with a
colon is a comment, an empty line dispatches the event, one BOM at the start is skipped.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MAX_LINE_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"
_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseError(Exception):
    """Bytes that cannot be an event stream."""


class Event(NamedTuple):
    """One dispatched event: `name` is `message` unless an event field said otherwise, `data` has its lines joined by LF."""

    data: bytes
    name: str = "message"


class SseParser:
    """Feed it bytes as they come, split anywhere; it returns the events that each piece completed."""

    __slots__ = ("_data", "_held", "_held_bytes", "_name", "_skip_lf", "_started")

    def __init__(self) -> None:
        self._held: list[bytes] = []  # the line begun and not yet ended
        self._held_bytes = 0
        self._data: list[bytes] = []
        self._name = ""
        self._skip_lf = False  # the last piece ended in CR: an LF next belongs to it
        self._started = False  # the place for a BOM is past

    @property
    def between(self) -> bool:
        """True where the bytes so far end with an event, and nothing of the next has come."""
        return self._started and not (self._held or self._data or self._name or self._skip_lf)

    def feed(self, piece: bytes) -> list[Event]:
        """Events completed by `piece`. Raises SseError on a line longer than MAX_LINE_BYTES."""
        if not self._started:
            piece = b"".join((*self._held, piece))
            if len(piece) < len(_BOM) and _BOM.startswith(piece):
                self._held = [piece]
                return []
            self._held, self._held_bytes, self._started = [], 0, True
            piece = piece.removeprefix(_BOM)
        if self._skip_lf and piece:
            self._skip_lf = False
            piece = piece.removeprefix(b"\n")
        *whole, rest = _LINE_END.split(piece)
        events: list[Event] = []
        if whole:
            if self._held:
                whole[0] = b"".join((*self._held, whole[0]))
                self._held, self._held_bytes = [], 0
            self._skip_lf = piece.endswith(b"\r")
            for line in whole:
                self._take_line(line, events)
        if rest:
            self._held.append(rest)
            self._held_bytes += len(rest)
            if self._held_bytes > MAX_LINE_BYTES:
                raise SseError(f"a line of the stream is longer than {MAX_LINE_BYTES} bytes")
        return events

    def _take_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(b"\n".join(self._data), self._name or "message"))
            self._data, self._name = [], ""
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
