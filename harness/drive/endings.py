"""How the loop sees a reply's beginning and end without parsing it: pure rules over the bytes of its reads.

They may only ever say yes where the framing parser would: what they do not know goes to the parser.
"""

from __future__ import annotations

from harness.drive.wire import Stamped

ENDS = b"\r\n\r\n"  # of a last chunk, with or without trailers
_LAST_CHUNK = b"0\r\n\r\n"
_DONE_CHUNK = b"data: [DONE]\n\n\r\n"
_DONE_END = _DONE_CHUNK + _LAST_CHUNK


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


def said_done(buf: list[Stamped]) -> bool:
    """The reads end with `data: [DONE]` and a last chunk: the stream has said that it is over."""
    last: bytes = buf[-1][0]
    return last.endswith(_DONE_END) or (last == _LAST_CHUNK and len(buf) > 1 and buf[-2][0].endswith(_DONE_CHUNK))
