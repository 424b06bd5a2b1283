"""A reply much longer than was asked for: an API that ignores `max_tokens` bills for it until somebody hangs up."""

from __future__ import annotations

from harness.measure.drive import dialect, http1, sse

TIMES = 2  # the tokens asked for: a reply beyond it is another request than the one planned


def tokens_of(data: bytes) -> int:
    """Tokens in the bytes of a reply that goes on, by the server's usage or one a chunk; of what can be read of it."""
    response, events, reply = http1.Response(), sse.SseParser(), dialect.Reply()
    try:
        for event in events.feed(response.feed(data)):
            reply.take(event.data, 0)
    except (http1.HttpError, sse.SseError, ValueError, RecursionError):
        pass
    return reply.visible_tokens()


def said(tokens: int, asked: int) -> str:
    return f"{tokens} tokens came where {asked} were asked for"
