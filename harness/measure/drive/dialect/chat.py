"""OpenAI's chat completions and completions, which nearly every server speaks.

https://platform.openai.com/docs/api-reference/chat/create; vLLM's own fields: https://docs.vllm.ai/en/stable/serving/openai_compatible_server/.
"""

from __future__ import annotations

from typing import Any

import msgspec

from harness.base.errors import ConfigError
from harness.measure.drive.dialect.errors import message_of
from harness.measure.drive.dialect.reply import Reply, count_of
from harness.records import Endpoint, PlannedRequest, Prompt


def body(endpoint: Endpoint, request: PlannedRequest, prompt: Prompt, *, followed: bool) -> dict[str, Any]:
    """Of a streamed request; `followed`: a later turn needs the reply's token ids. Raises ConfigError for a prompt that the API
    cannot take."""
    n = request.target_output_tokens
    if endpoint.api == "completions":
        content: Any = prompt.text if prompt.token_ids is None else prompt.token_ids
        if content is None:
            raise ConfigError("a prompt is empty", f"seq {prompt.seq}", "give text or token ids")
        said, limit = {"prompt": content}, "max_tokens"
    else:
        said = {"messages": messages_of(endpoint.api, prompt)}
        limit = "max_tokens" if endpoint.vllm_extensions else "max_completion_tokens"
    options: dict[str, Any] = {"include_usage": True}
    body: dict[str, Any] = {"model": endpoint.model} | said | {endpoint.output_limit or limit: n}
    body |= {"temperature": 0, "stream": True, "stream_options": options}
    if endpoint.vllm_extensions:
        body["ignore_eos"] = True
    if endpoint.vllm_extensions and endpoint.body == "exact":
        body["min_tokens"] = n
        options["continuous_usage_stats"] = True
        if followed:
            body["return_token_ids"] = True
    return body


def messages_of(api: str, prompt: Prompt) -> list[dict[str, str]]:
    """The prompt as messages, one of the user's where it is not a session's. Raises ConfigError if it has no text."""
    if prompt.text is None:
        raise ConfigError(f"the {api} API takes text", f"seq {prompt.seq}", "use api: completions for token ids")
    return [{"role": role, "content": text} for role, text in prompt.messages or (("user", prompt.text),)]


class _Details(msgspec.Struct):
    cached_tokens: Any = None
    cache_write_tokens: Any = None
    reasoning_tokens: Any = None


class _Usage(msgspec.Struct):
    prompt_tokens: Any = None
    completion_tokens: Any = None
    total_tokens: Any = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None


class _Choice(msgspec.Struct):
    text: Any = None
    delta: _Delta | None = None
    finish_reason: Any = None
    token_ids: list[int] | None = None


class Chunk(msgspec.Struct):
    """Of one streamed event what is looked at; the rest is skipped where it stands. Values that servers disagree on are
    of any type."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


class ChatReply(Reply):
    """Of chat completions and completions."""

    __slots__ = ("_gap",)
    _decode = msgspec.json.Decoder(Chunk).decode
    _shape = Chunk

    def __init__(self, content: Any | None = None) -> None:
        super().__init__(content)
        self._gap = False  # a token-bearing chunk came without usage

    def take_event(self, chunk: Chunk, stamp_ns: int) -> bool:
        """Account for one chunk; True if it bore tokens."""
        if chunk.error:
            self.error = message_of({"error": chunk.error}) or "error"
            return False
        choices = chunk.choices or ()
        for choice in choices:
            if choice.finish_reason:
                self._finish(choice.finish_reason)
        if self._kept is not None and choices:
            self._kept.text.append(_content(choices[0]))
            self._kept.token_ids += choices[0].token_ids or ()
        usage = chunk.usage
        grown = None if usage is None else self._take_usage(usage)
        if self._gap:
            grown = None  # usage came late: what it grew by belongs to earlier chunks too
        counted = grown
        if choices and choices[0].token_ids:
            counted = sum([len(choice.token_ids or ()) for choice in choices])
        if not choices or not (any(map(_bears, choices)) if counted is None else counted > 0):
            return False
        self._gap = grown is None
        self.chunk_ns.append(stamp_ns)
        self.tokens.append(counted)
        self.reasoning_chunks += any(map(_reasons, choices))
        if self.first_visible_ns is None and any(map(_is_visible, choices)):
            self.first_visible_ns = stamp_ns
        return True

    def _take_usage(self, usage: _Usage) -> int | None:
        """Tokens that this chunk added by the server's running usage; None if it does not say. Raises ValueError where
        usage counts what cannot be."""
        before = self.output
        if isinstance(usage.prompt_tokens, int):
            self.prompt = count_of(usage.prompt_tokens)
        if isinstance(usage.completion_tokens, int):
            self.output = count_of(usage.completion_tokens + _reasoning_beside(usage))
        if details := usage.prompt_tokens_details:
            if isinstance(details.cached_tokens, int):
                self.cached = count_of(details.cached_tokens)
            if isinstance(details.cache_write_tokens, int):
                self.written_5m = count_of(details.cache_write_tokens)
        if (details := usage.completion_tokens_details) and isinstance(details.reasoning_tokens, int):
            self.reasoning = count_of(details.reasoning_tokens)
        return None if self.output is None else self.output - (before or 0)


def _reasoning_beside(usage: _Usage) -> int:
    """Reasoning tokens that completion_tokens leaves out: xAI counts them beside it, which shows in the total; else 0."""
    details = usage.completion_tokens_details
    reasoning = None if details is None else details.reasoning_tokens
    if not all(
        isinstance(n, int) for n in (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens, reasoning)
    ):
        return 0
    beside = usage.total_tokens == usage.prompt_tokens + usage.completion_tokens + reasoning
    return int(reasoning or 0) if beside else 0


def _content(choice: _Choice) -> str:
    content = choice.text or (choice.delta and choice.delta.content) or ""
    if not isinstance(content, list):
        return str(content)
    parts = [part.get("text") for part in content if isinstance(part, dict) and part.get("type") != "thinking"]
    return "".join(part for part in parts if isinstance(part, str))


def _bears(choice: _Choice) -> bool:
    return _is_visible(choice) or _reasons(choice)


def _is_visible(choice: _Choice) -> bool:
    """Text, a refusal or a tool call: what whoever asked sees or uses."""
    delta = choice.delta
    if choice.text or delta is None:
        return bool(choice.text)
    content = delta.content
    if content and (not isinstance(content, list) or any(not _is_thinking(part) for part in content)):
        return True
    return bool(delta.refusal) or _calls(delta)


def _reasons(choice: _Choice) -> bool:
    delta = choice.delta
    if delta is None:
        return False
    content = delta.content
    return bool(delta.reasoning_content or delta.reasoning) or (
        isinstance(content, list) and any(map(_is_thinking, content))
    )


def _is_thinking(part: Any) -> bool:
    """Mistral's content comes in typed parts, some of them `thinking`."""
    return isinstance(part, dict) and part.get("type") == "thinking"


def _calls(delta: _Delta) -> bool:
    """Whether a piece of a tool call is in it: its name, or some of its arguments."""
    calls = delta.tool_calls if isinstance(delta.tool_calls, list) else ()
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return any(bool(f.get("arguments") or f.get("name")) for f in functions if isinstance(f, dict))
