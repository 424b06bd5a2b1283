"""The response side of HTTP/1.1 (RFC 9112): bytes in, body bytes out, no I/O.

Hand-written because it decides, per read, which bytes of which read belong to the body, and when a kept-alive
connection is free again. Handles chunked, content-length and close-delimited bodies, and skips 1xx responses. Below the parser
stand the rules by which a loop sees a reply's beginning and end without parsing it: they may only ever say yes where the
parser would, and what they do not know goes to the parser.
"""

from __future__ import annotations

import re
from enum import Enum, auto

MAX_HEAD_BYTES = 256 * 1024
_MAX_SIZE_LINE = 4096
_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}$")
_LENGTH = re.compile(r"[0-9]{1,18}$")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: .*)?$")

ENDS = b"\r\n\r\n"  # of a last chunk, with or without trailers
_DONE_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
TAIL_BYTES = len(_DONE_END)


class HttpError(Exception):
    """Bytes that are not HTTP/1.1; the message never quotes them."""


class _At(Enum):
    HEAD = auto()
    SIZE = auto()  # a chunk's size line
    DATA = auto()  # inside a chunk
    CRLF = auto()  # the line end after a chunk
    TRAILER = auto()
    LENGTH = auto()  # a body of known length
    CLOSE = auto()  # a body that ends with the connection
    DONE = auto()


class Response:
    """One response, fed as it arrives.

    `status` and `headers` (lower-case names) are set once the head is in; `complete` once the body is.
    `reusable`: the connection may carry another request after this response. `bodiless`: it answers a HEAD.
    """

    __slots__ = ("_at", "_bodiless", "_held", "_left", "headers", "reusable", "status", "surplus")

    def __init__(self, *, bodiless: bool = False) -> None:
        self._at = _At.HEAD
        self._bodiless = bodiless
        self._held = b""
        self._left = 0
        self.status: int | None = None
        self.headers: dict[str, str] = {}
        self.reusable = False
        self.surplus = 0  # bytes that came after the end

    @property
    def complete(self) -> bool:
        return self._at is _At.DONE

    @property
    def between_chunks(self) -> bool:
        """True where a chunk's size line comes next and nothing of it has come."""
        return self._at is _At.SIZE and not self._held

    def feed(self, data: bytes) -> bytes:
        """Body bytes contained in `data`. Raises HttpError on bytes that are not HTTP/1.1 framing."""
        if self._at is _At.HEAD:
            data = self._head(data)
        if self._at is _At.LENGTH or self._at is _At.CLOSE:
            return self._plain(data)
        return self._chunks(data) if data else b""

    def end_of_input(self) -> bool:
        """The peer closed: True if that ends the response properly."""
        if self._at is _At.CLOSE:
            self._at = _At.DONE
        return self.complete

    def _head(self, data: bytes) -> bytes:
        self._held += data
        while self._at is _At.HEAD:
            end = self._held.find(b"\r\n\r\n")
            if end < 0:
                if len(self._held) > MAX_HEAD_BYTES:
                    raise HttpError(f"response head longer than {MAX_HEAD_BYTES} bytes")
                if not b"HTTP/1.".startswith(self._held[:7]):
                    raise HttpError("the response does not begin with HTTP/1.x")
                return b""
            head, self._held = self._held[:end], self._held[end + 4 :]
            self._read_head(head)
        rest, self._held = self._held, b""
        return rest

    def _read_head(self, head: bytes) -> None:
        first, *lines = head.split(b"\r\n")
        match = _STATUS.match(first)
        if not match:
            raise HttpError("the response does not begin with an HTTP/1.x status line")
        status = int(match[1])
        if 100 <= status < 200:
            return  # an interim response: the real one follows
        for line in lines:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise HttpError("a response header line has no name")
            self.headers[name.decode("latin-1").lower()] = value.strip().decode("latin-1")
        self.status = status
        connection = self.headers.get("connection", "").lower()
        self.reusable = "close" not in connection and (not first.startswith(b"HTTP/1.0") or "keep-alive" in connection)
        length = self.headers.get("content-length")
        if status in (204, 304) or self._bodiless:
            self._at = _At.DONE
        elif self.headers.get("transfer-encoding", "").lower().endswith("chunked"):
            self._at = _At.SIZE
        elif length is None:
            self._at, self.reusable = _At.CLOSE, False
        elif not _LENGTH.match(length):
            raise HttpError("content-length is not a number")
        else:
            self._left = int(length)
            self._at = _At.LENGTH if self._left else _At.DONE

    def _plain(self, data: bytes) -> bytes:
        if self._at is _At.CLOSE:
            return data
        body = data[: self._left]
        self._left -= len(body)
        if not self._left:
            self._at = _At.DONE
            self._over(len(data) - len(body))
        return body

    def _over(self, surplus: int) -> None:
        if surplus:
            self.surplus += surplus
            self.reusable = False

    def _chunks(self, data: bytes) -> bytes:
        body: list[bytes] = []
        if self._held:
            data, self._held = self._held + data, b""
        at, end = 0, len(data)
        while at < end:
            if self._at is _At.DATA:
                piece = data[at : at + self._left]
                body.append(piece)
                at += len(piece)
                self._left -= len(piece)
                if not self._left:
                    self._at = _At.CRLF
            elif self._at is _At.CRLF:
                if end - at < 2:
                    break
                if data[at : at + 2] != b"\r\n":
                    raise HttpError("a chunk is longer than its size says")
                at += 2
                self._at = _At.SIZE
            elif self._at is _At.DONE:
                self._over(end - at)
                return b"".join(body)
            else:
                line_end = data.find(b"\r\n", at)
                if line_end < 0:
                    if end - at > _MAX_SIZE_LINE:
                        raise HttpError("a chunk size line does not end")
                    if self._at is _At.SIZE and not data[at : at + 1].isalnum():
                        raise HttpError("a chunk size is not hexadecimal")
                    break
                self._line(data[at:line_end])
                at = line_end + 2
        self._held = data[at:]
        return b"".join(body)

    def _line(self, line: bytes) -> None:
        if self._at is _At.TRAILER:
            if not line:
                self._at = _At.DONE
            return
        size = line.partition(b";")[0].rstrip(b" \t")
        if not _HEX.match(size):
            raise HttpError("a chunk size is not hexadecimal")
        self._left = int(size, 16)
        self._at = _At.DATA if self._left else _At.TRAILER


# ---------------------------------------------------------------- without parsing


def usual_head(data: bytes) -> bool | None:
    """For a first read: True or False for the head of a chunked 200 that came whole, as the connection may be used
    again or not; None for anything else, which does not take the hot path."""
    head = data[: data.find(ENDS) + 2].lower()
    if not head.startswith(b"http/1.1 200") or b"\r\ntransfer-encoding: chunked\r\n" not in head:
        return None
    return b"\r\nconnection: close\r\n" not in head


def may_end(first: bytes) -> bool:
    """A first read that ends like a last chunk, by more than the head's own end."""
    return first.endswith(ENDS) and first.find(ENDS) < len(first) - len(ENDS)


def has_done(tail: bytes) -> bool:
    """The bytes end with `data: [DONE]` and a last chunk: the stream has said that it is over."""
    return tail.endswith(_DONE_END)
