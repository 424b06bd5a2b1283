"""Anthropic's Messages: named events, content in blocks, usage at the beginning and the end.

https://platform.claude.com/docs/build-with-claude/streaming; fields as the SDK anthropic 2.13.0 types them. An event says its name in `type` too. vLLM's server speaks it
(vllm/entrypoints/anthropic/protocol.py, 0.32.0) without a field that makes a reply as long as planned: it ends where the model does.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from harness.measure.drive.dialect.chat import messages_of
from harness.measure.drive.dialect.errors import message_of
from harness.measure.drive.dialect.reply import Reply, count_of, counted
from harness.records import Endpoint, PlannedRequest, Prompt

_THINKS = ("thinking", "redacted_thinking")  # kinds of blocks


def body(endpoint: Endpoint, request: PlannedRequest, prompt: Prompt) -> dict[str, Any]:
    """Of a streamed request. Raises ConfigError for a prompt without text."""
    return {
        "model": endpoint.model,
        endpoint.output_limit or "max_tokens": request.target_output_tokens,
        "messages": messages_of(endpoint.api, prompt),
        "temperature": 0,
        "stream": True,
    }


class _Written(msgspec.Struct):
    ephemeral_5m_input_tokens: Any = None
    ephemeral_1h_input_tokens: Any = None


class _Output(msgspec.Struct):
    thinking_tokens: Any = None


class _Usage(msgspec.Struct):
    """Cumulative: what a later one names replaces what an earlier one said."""

    input_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_creation: _Written | None = None
    output_tokens: Any = None
    output_tokens_details: _Output | None = None


class _Message(msgspec.Struct):
    usage: _Usage | None = None


class _Block(msgspec.Struct):
    type: Any = None
    text: Any = None
    thinking: Any = None
    name: Any = None


class _Delta(msgspec.Struct):
    text: Any = None
    thinking: Any = None
    partial_json: Any = None
    stop_reason: Any = None


class Event(msgspec.Struct):
    """Of one event what is looked at."""

    type: str = ""
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: Any = None


class MessagesReply(Reply):
    """Of the Messages API. What streams of the reasoning is a summary or nothing, while `thinking_tokens` count all of it
    (https://platform.claude.com/docs/build-with-claude/extended-thinking): a summary bears no tokens, and reasoning is hidden wherever
    there was any."""

    __slots__ = ("_thought", "_uncached", "_written")
    _decode = msgspec.json.Decoder(Event).decode
    _shape = Event
    _is_whole: ClassVar = False  # the reasoning that streams is the one that is counted

    def __init__(self, content: Any | None = None) -> None:
        super().__init__(content)
        self._uncached: int | None = None
        self._written: int | None = None
        self._thought = False  # a block of thinking has begun

    def take_event(self, event: Event, stamp_ns: int) -> bool:
        match event.type:
            case "content_block_delta":
                return event.delta is not None and self._take_piece(event.delta, stamp_ns)
            case "content_block_start":
                return event.content_block is not None and self._begin(event.content_block, stamp_ns)
            case "message_start":
                if event.message is not None and event.message.usage is not None:
                    self._take_input(event.message.usage)
            case "message_delta":
                if event.delta is not None and event.delta.stop_reason:
                    self._finish(event.delta.stop_reason)
                if event.usage is not None:
                    self._take_input(event.usage)
                    self._take_output(event.usage)
            case "message_stop":
                self.done = True
            case "error":
                self.error = message_of({"type": "error", "error": event.error or {}}) or "error"
        return False

    def _begin(self, block: _Block, stamp_ns: int) -> bool:
        """A call's name is written before its arguments; what else a block begins with is mostly empty."""
        if block.type in _THINKS:
            return self._think(block.thinking, stamp_ns)
        if block.text:
            return self._text(block.text, stamp_ns)
        calls = isinstance(block.type, str) and block.type.endswith("tool_use")
        return calls and bool(block.name) and self._bore(stamp_ns, reasons=False)

    def _take_piece(self, delta: _Delta, stamp_ns: int) -> bool:
        if delta.text:
            return self._text(delta.text, stamp_ns)
        if delta.thinking:
            return self._think(delta.thinking, stamp_ns)
        return bool(delta.partial_json) and self._bore(stamp_ns, reasons=False)

    def _think(self, thinking: Any, stamp_ns: int) -> bool:
        self._thought = True
        return self._is_whole and bool(thinking) and self._bore(stamp_ns, reasons=True)

    def _text(self, text: Any, stamp_ns: int) -> bool:
        if self._kept is not None:
            self._kept.text.append(str(text))
        return self._bore(stamp_ns, reasons=False)

    def _take_input(self, usage: _Usage) -> None:
        """`input_tokens` has neither what was read from the cache nor what was written into it: a prompt is all three
        (https://platform.claude.com/docs/build-with-claude/prompt-caching). Without a lifetime it is the usual one, 5 minutes."""
        if isinstance(usage.input_tokens, int):
            self._uncached = count_of(usage.input_tokens)
        if isinstance(usage.cache_read_input_tokens, int):
            self.cached = count_of(usage.cache_read_input_tokens)
        if isinstance(usage.cache_creation_input_tokens, int):
            self._written = count_of(usage.cache_creation_input_tokens)
        if each := usage.cache_creation:
            self.written_1h = counted(each.ephemeral_1h_input_tokens)
        if self._written is not None:
            self.written_5m = max(0, self._written - (self.written_1h or 0))
        if self._uncached is not None:
            self.prompt = self._uncached + (self.cached or 0) + (self._written or 0)

    def _take_output(self, usage: _Usage) -> None:
        """Of `message_delta` alone: the first event's `output_tokens` is what was written when it was sent."""
        self.output = counted(usage.output_tokens)
        if usage.output_tokens_details:
            self.reasoning = counted(usage.output_tokens_details.thinking_tokens)
        self.reasoning_hidden = not self._is_whole and (self._thought or bool(self.reasoning))


class VllmMessagesReply(MessagesReply):
    """Of vLLM's server, which streams all of the reasoning ("reasoning is always returned",
    vllm/entrypoints/anthropic/protocol.py, 0.32.0) and does not count it apart."""

    __slots__ = ()
    _is_whole = True
