"""How the loop sees a reply's beginning and end without parsing it: pure rules over the bytes of its reads.

They may only ever say yes where the framing parser would: what they do not know goes to the parser.
"""

from __future__ import annotations

ENDS = b"\r\n\r\n"  # of a last chunk, with or without trailers
_DONE_END = b"data: [DONE]\n\n\r\n0\r\n\r\n"
TAIL_BYTES = len(_DONE_END)


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


def said_done(tail: bytes) -> bool:
    """The bytes end with `data: [DONE]` and a last chunk: the stream has said that it is over."""
    return tail.endswith(_DONE_END)
