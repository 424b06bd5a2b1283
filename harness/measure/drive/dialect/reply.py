"""What one streamed answer said so far, in any dialect."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from harness.base import redaction
from harness.records import OVERRUN_TIMES

MAX_FINISH_CHARS = 40
MAX_COUNT = 1 << 31  # of tokens: more is nonsense


class Reply:
    """`chunk_ns` and `tokens` run in step, one entry per token-bearing chunk. A dialect says how an event is read (`_decode`, `_shape`)
    and what it says (`take_event`)."""

    __slots__ = (
        "_kept",
        "cached",
        "chunk_ns",
        "done",
        "error",
        "finish_reason",
        "first_visible_ns",
        "output",
        "prompt",
        "reasoning",
        "reasoning_chunks",
        "reasoning_hidden",
        "tokens",
        "written_1h",
        "written_5m",
    )
    _decode: ClassVar[Any]  # of JSON bytes
    _shape: ClassVar[type[msgspec.Struct]]

    def __init__(self, content: Any | None = None) -> None:
        """`content`: where it is kept (turns.Content), if it is needed."""
        self._kept = content
        self.chunk_ns: list[int] = []
        self.tokens: list[int | None] = []
        self.first_visible_ns: int | None = None
        self.reasoning_chunks = 0
        self.reasoning_hidden: bool | None = None  # None: by the chunks and by usage
        self.prompt: int | None = None
        self.cached: int | None = None
        self.written_5m: int | None = None
        self.written_1h: int | None = None
        self.output: int | None = None
        self.reasoning: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.done = False  # the stream has said that it is over

    def take(self, data: bytes, stamp_ns: int) -> bool:
        """Account for one event; True if it bore tokens. Raises ValueError if it is neither JSON nor [DONE]."""
        try:
            event = self._decode(data)
        except msgspec.DecodeError:
            if data != b"[DONE]":
                raise
            self.done = True
            return False
        except RecursionError:
            raise ValueError("an event is nested too deep") from None
        return self.take_event(event, stamp_ns)

    def take_value(self, value: dict[str, Any], stamp_ns: int) -> bool:
        """The same for an event that somebody else (an SDK) has read as JSON."""
        return self.take_event(msgspec.convert(value, self._shape), stamp_ns)

    def take_event(self, event: Any, stamp_ns: int) -> bool:
        """Account for one event of this dialect's shape; True if it bore tokens."""
        raise NotImplementedError

    def _bore(self, stamp_ns: int, *, reasons: bool) -> bool:
        """A chunk that bore tokens, nobody says how many: reasoning, or what whoever asked sees or uses."""
        self.chunk_ns.append(stamp_ns)
        self.tokens.append(None)
        if reasons:
            self.reasoning_chunks += 1
        elif self.first_visible_ns is None:
            self.first_visible_ns = stamp_ns
        return True

    def _finish(self, reason: object) -> None:
        self.finish_reason = redaction.text(str(reason))[:MAX_FINISH_CHARS]

    def visible_tokens(self) -> int:
        """Tokens so far, by the server's usage or one a chunk, without the reasoning that usage tells of."""
        return len(self.chunk_ns) if self.output is None else self.output - (self.reasoning or 0)

    def emptiness(self) -> str:
        """How a stream without a token ended, and what usage says that it cost all the same."""
        billed = f"; usage counts {self.output} output tokens" if self.output else ""
        return f"the stream ended (finish_reason {self.finish_reason or 'none'}) without a token{billed}"

    def chunk_tokens(self) -> tuple[int, ...] | None:
        """Tokens per token-bearing chunk; None unless every one of them said so."""
        known = tuple(n for n in self.tokens if n is not None)
        return known if len(known) == len(self.tokens) and known else None


def overrun(tokens: int, target: int) -> str | None:
    """What is wrong with a reply of so many tokens where `target` were asked for, if anything is."""
    return f"{tokens} tokens came where {target} were asked for" if tokens > OVERRUN_TIMES * target else None


def count_of(tokens: int) -> int:
    """The same number. Raises ValueError where it counts what cannot be."""
    if not 0 <= tokens < MAX_COUNT:
        raise ValueError("usage counts what cannot be")
    return tokens


def counted(tokens: Any) -> int | None:
    """A number of tokens where it is one; None where a server says something else, or nothing. Raises ValueError as `count_of`."""
    return count_of(tokens) if isinstance(tokens, int) else None
