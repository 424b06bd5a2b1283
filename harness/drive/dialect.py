"""The OpenAI wire dialect: a planned request into a body, a streamed event into facts.

`encode` is pure; `Reply` accumulates what one streamed answer said. A chunk bears tokens when the server's running
usage grew in it, or, where chunks carry no usage, when it holds text, reasoning or a tool call.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import from_json

from harness.errors import ConfigError
from harness.records import Endpoint, PlannedRequest, Prompt

MAX_ERROR_CHARS = 200
_KEY_LIKE = re.compile(r"(?i)\b(?:bearer\s+|sk-)[\w.~+/=-]{6,}")


def path(endpoint: Endpoint) -> str:
    """Path below base_url that the endpoint's API is served at."""
    return "/chat/completions" if endpoint.api == "chat" else "/completions"


def encode(endpoint: Endpoint, request: PlannedRequest, prompt: Prompt, *, followed: bool = False) -> bytes:
    """JSON body of a streamed request; `followed`: a later turn needs the reply's token ids. Raises ConfigError if the
    API is unknown or cannot take the prompt."""
    n = request.target_output_tokens
    body: dict[str, Any] = {"model": endpoint.model}
    match endpoint.api:
        case "completions":
            content: Any = prompt.text if prompt.token_ids is None else prompt.token_ids
            if content is None:
                raise ConfigError("a prompt is empty", f"seq {prompt.seq}", "give text or token ids")
            body |= {"prompt": content, "max_tokens": n}
        case "chat":
            if prompt.text is None:
                raise ConfigError("the chat API takes text", f"seq {prompt.seq}", "use api: completions for token ids")
            limit = "max_tokens" if endpoint.vllm_extensions else "max_completion_tokens"
            said = prompt.messages or (("user", prompt.text),)
            body |= {"messages": [{"role": role, "content": text} for role, text in said], limit: n}
        case other:
            raise ConfigError("unknown API", other, "use completions or chat")
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    if endpoint.vllm_extensions:
        body |= {"ignore_eos": True, "min_tokens": n}
        body["stream_options"]["continuous_usage_stats"] = True
        if followed:
            body["return_token_ids"] = True
    return json.dumps(body, separators=(",", ":")).encode()


def clean_error(text: object, api_key: str | None) -> str:
    """One short line without secrets, fit for a record."""
    line = " ".join(str(text).split())
    if api_key:
        line = line.replace(api_key, "***")
    return _KEY_LIKE.sub("***", line)[:MAX_ERROR_CHARS]


def error_message(body: bytes) -> str | None:
    """`error.message` (or what servers put in its place) of a JSON body; None if there is none."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return _message(value) if isinstance(value, dict) else None


def _message(value: dict[str, Any]) -> str | None:
    error = value.get("error", value)
    if isinstance(error, dict):
        error = error.get("message") or error.get("detail")
    return None if error is None else str(error)


class Reply:
    """What one streamed answer said so far. `chunk_ns` and `tokens` run in step, one entry per token-bearing chunk."""

    __slots__ = (
        "_gap",
        "_said",
        "cached",
        "chunk_ns",
        "done",
        "error",
        "finish_reason",
        "output",
        "prompt",
        "reasoning",
        "tokens",
    )

    def __init__(self, said: Any | None = None) -> None:
        """`said`: where the content is kept (turns.Said), if it is needed."""
        self._said = said
        self.chunk_ns: list[int] = []
        self.tokens: list[int | None] = []
        self.prompt: int | None = None
        self.cached: int | None = None
        self.output: int | None = None
        self.reasoning: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.done = False  # [DONE] was seen
        self._gap = False  # a token-bearing chunk came without usage

    def take(self, data: bytes, stamp_ns: int) -> bool:
        """Account for one event; True if it bore tokens. Raises ValueError if it is neither JSON nor [DONE]."""
        if data == b"[DONE]":
            self.done = True
            return False
        chunk = from_json(data)  # its string cache also holds the values that every chunk repeats
        if not isinstance(chunk, dict):
            raise ValueError("an event is not a JSON object")  # noqa: TRY004 - of the server's bytes, not of a type
        try:
            return self.take_chunk(chunk, stamp_ns)
        except (AttributeError, TypeError):
            raise ValueError("an event does not have the expected shape") from None

    def take_chunk(self, chunk: dict[str, Any], stamp_ns: int) -> bool:
        """Account for one event already read as JSON; True if it bore tokens."""
        if chunk.get("error"):
            self.error = _message(chunk) or "error"
            return False
        choices = chunk.get("choices") or ()
        for choice in choices:
            if reason := choice.get("finish_reason"):
                self.finish_reason = str(reason)
        if self._said is not None and choices:
            self._said.text.append(_content(choices[0]))
            self._said.token_ids += choices[0].get("token_ids") or ()
        usage = chunk.get("usage")
        grown = self._take_usage(usage) if usage else None
        if self._gap:
            grown = None  # usage came late: what it grew by belongs to earlier chunks too
        if not choices or not (any(map(_bears, choices)) if grown is None else grown > 0):
            return False
        self._gap = grown is None
        self.chunk_ns.append(stamp_ns)
        self.tokens.append(grown)
        return True

    def _take_usage(self, usage: dict[str, Any]) -> int | None:
        """Tokens that this chunk added by the server's running usage; None if it does not say."""
        before = self.output
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if isinstance(prompt, int):
            self.prompt = prompt
        if isinstance(output, int):
            self.output = output
        if details := usage.get("prompt_tokens_details"):
            self.cached = _count(details, "cached_tokens", self.cached)
        if details := usage.get("completion_tokens_details"):
            self.reasoning = _count(details, "reasoning_tokens", self.reasoning)
        return None if self.output is None else self.output - (before or 0)

    def chunk_tokens(self) -> tuple[int, ...] | None:
        """Tokens per token-bearing chunk; None unless every one of them said so."""
        known = tuple(n for n in self.tokens if n is not None)
        return known if len(known) == len(self.tokens) and known else None


def _count(source: dict[str, Any], key: str, otherwise: int | None) -> int | None:
    value = source.get(key)
    return value if isinstance(value, int) else otherwise


def _content(choice: dict[str, Any]) -> str:
    return str(choice.get("text") or (choice.get("delta") or {}).get("content") or "")


def _bears(choice: dict[str, Any]) -> bool:
    return bool(choice.get("text")) or _delta_bears(choice.get("delta"))


def _delta_bears(delta: dict[str, Any] | None) -> bool:
    if not delta:
        return False
    if delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning"):
        return True
    return any(_call_bears(call) for call in delta.get("tool_calls") or ())


def _call_bears(call: dict[str, Any]) -> bool:
    function = call.get("function") or {}
    return bool(function.get("arguments") or function.get("name"))
