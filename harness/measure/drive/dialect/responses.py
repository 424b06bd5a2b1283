"""OpenAI's Responses: named events, usage with the last one.

https://platform.openai.com/docs/api-reference/responses-streaming; fields as the SDK openai 3.54.0 types them. An event says its name in `type` too. vLLM's server takes
`ignore_eos` beside the documented fields (vllm/entrypoints/openai/responses/protocol.py, 0.32.0), and no `min_tokens`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.measure.drive.dialect.chat import messages_of
from harness.measure.drive.dialect.errors import message_of
from harness.measure.drive.dialect.reply import Reply, counted
from harness.records import Endpoint, PlannedRequest, Prompt

_VISIBLE = frozenset(  # what the model writes for whoever asked, or for a tool
    f"response.{what}.delta"
    for what in (
        "output_text",
        "refusal",
        "function_call_arguments",
        "custom_tool_call_input",
        "mcp_call_arguments",
        "code_interpreter_call_code",
        "shell_call_command",
        "audio",
    )
)
_REASONING = "response.reasoning_text.delta"
_ADDED = "response.output_item.added"
_ENDS = frozenset(("response.completed", "response.incomplete", "response.failed"))


def body(endpoint: Endpoint, request: PlannedRequest, prompt: Prompt) -> dict[str, Any]:
    """Of a streamed request; nothing of it is kept by the API (`store`). Raises ConfigError for a prompt without text."""
    body: dict[str, Any] = {
        "model": endpoint.model,
        "input": messages_of(endpoint.api, prompt),
        endpoint.output_limit or "max_output_tokens": request.target_output_tokens,
        "temperature": 0,
        "stream": True,
        "store": False,
    }
    return body | {"ignore_eos": True} if endpoint.vllm_extensions else body


class _Written(msgspec.Struct):
    ttl_30m_tokens: Any = None
    ttl_12h_tokens: Any = None


class _Input(msgspec.Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None
    cache_write_tokens_details: _Written | None = None


class _Output(msgspec.Struct):
    reasoning_tokens: Any = None


class _Usage(msgspec.Struct):
    input_tokens: Any = None
    output_tokens: Any = None
    input_tokens_details: _Input | None = None
    output_tokens_details: _Output | None = None


class _Incomplete(msgspec.Struct):
    reason: Any = None


class _Response(msgspec.Struct):
    status: Any = None
    usage: _Usage | None = None
    error: Any = None
    incomplete_details: _Incomplete | None = None


class _Item(msgspec.Struct):
    type: Any = None
    name: Any = None


class Event(msgspec.Struct):
    """Of one event what is looked at."""

    type: str = ""
    delta: Any = None
    item: _Item | None = None
    response: _Response | None = None
    error: Any = None
    message: Any = None
    code: Any = None


class ResponsesReply(Reply):
    """Of the Responses API. A summary of the reasoning (`response.reasoning_summary_text.delta`) bears no
    tokens: usage counts those that it sums up, and they are hidden."""

    __slots__ = ("_thought",)
    _decode = msgspec.json.Decoder(Event).decode
    _shape = Event

    def __init__(self, content: Any | None = None) -> None:
        super().__init__(content)
        self._thought = False  # an item of reasoning has begun

    def take_event(self, event: Event, stamp_ns: int) -> bool:
        kind = event.type
        if kind in _VISIBLE:
            if not event.delta:
                return False
            if self._kept is not None and kind == "response.output_text.delta":
                self._kept.text.append(str(event.delta))
            return self._bore(stamp_ns, reasons=False)
        if kind == _REASONING:
            return bool(event.delta) and self._bore(stamp_ns, reasons=True)
        if kind == _ADDED:
            return event.item is not None and self._begin(event.item, stamp_ns)
        if kind == "error" or event.error:
            error = event.error or {"message": event.message, "code": event.code}
            self.error = message_of({"error": error}) or "error"
        elif kind in _ENDS:
            self._end(kind, event.response or _Response())
        return False

    def _begin(self, item: _Item, stamp_ns: int) -> bool:
        """A call's name is written before its arguments."""
        self._thought = self._thought or item.type == "reasoning"
        return bool(item.name) and self._bore(stamp_ns, reasons=False)

    def _end(self, kind: str, response: _Response) -> None:
        """vLLM ends with `response.completed` whatever the status is; the reason of an incomplete one is its finish reason."""
        self.done = True
        if response.usage is not None:
            self._take_usage(response.usage)
        if kind == "response.failed" or response.error:
            self.error = message_of({"error": response.error or {}}) or "the response failed"
        details = response.incomplete_details
        self._finish((details and details.reason) or response.status or kind.removeprefix("response."))

    def _take_usage(self, usage: _Usage) -> None:
        self.prompt, self.output = counted(usage.input_tokens), counted(usage.output_tokens)
        if given := usage.input_tokens_details:
            self.cached = counted(given.cached_tokens)
            self.written_5m = counted(given.cache_write_tokens)
            if each := given.cache_write_tokens_details:
                self.written_5m, self.written_1h = counted(each.ttl_30m_tokens), counted(each.ttl_12h_tokens)
        if usage.output_tokens_details:
            self.reasoning = counted(usage.output_tokens_details.reasoning_tokens)
        self.reasoning_hidden = not self.reasoning_chunks and (self._thought or bool(self.reasoning))
