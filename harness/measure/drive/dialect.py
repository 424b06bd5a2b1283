"""The OpenAI wire dialect: a planned request into a body, a streamed event into facts.

`encode` is pure; `Reply` accumulates what one streamed answer said. A chunk bears tokens when it names their ids, when the
server's running usage grew in it, or, where chunks carry neither (a plain body, an API without extensions), when it holds text,
reasoning or a tool call: how many tokens are in it is then not known.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from harness.base import redaction
from harness.base.errors import ConfigError
from harness.records import Endpoint, PlannedRequest, Prompt

MAX_ERROR_CHARS = 200
MAX_FINISH_CHARS = 40
OVERRUN_TIMES = 2  # the tokens asked for: a reply beyond it is another request than the one planned, and billed until somebody hangs up
MAX_COUNT = 1 << 31  # of tokens: more is nonsense


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
            messages = prompt.messages or (("user", prompt.text),)
            body |= {"messages": [{"role": role, "content": text} for role, text in messages], limit: n}
        case other:
            raise ConfigError("unknown API", other, "use completions or chat")
    body |= {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    if endpoint.vllm_extensions:
        body["ignore_eos"] = True
    if endpoint.vllm_extensions and endpoint.body == "exact":
        body["min_tokens"] = n
        body["stream_options"]["continuous_usage_stats"] = True
        if followed:
            body["return_token_ids"] = True
    return json.dumps(body, separators=(",", ":")).encode()


def clean_error(text: object, api_key: str | None) -> str:
    """One short line without secrets and control characters, fit for a record."""
    line = " ".join(str(text).split())
    if api_key:
        line = line.replace(api_key, redaction.MASK)  # of any length
    line = redaction.text(line)[:MAX_ERROR_CHARS]
    return "".join(c if c.isprintable() else "?" for c in line)


def error_message(body: bytes) -> str | None:
    """`error.message` (or what servers put in its place) of a JSON body, with the error's code; None if there is none."""
    try:
        value = json.loads(body)
        return _message(value) if isinstance(value, dict) else None
    except (ValueError, RecursionError):  # no JSON, or nested too deep to be read or written
        return None


def _message(value: dict[str, Any]) -> str | None:
    error: Any = value.get("error", value)
    code = None
    if isinstance(error, dict):
        error, code = error.get("message") or error.get("detail"), error.get("code")
    if error is None:
        return None
    return f"{error} ({code})" if isinstance(code, str) and code else str(error)


class _Details(msgspec.Struct):
    cached_tokens: Any = None
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


_decode = msgspec.json.Decoder(Chunk).decode


def chunk_of(value: dict[str, Any]) -> Chunk:
    """The same of an event that the SDK has read. Raises ValueError if it has another shape."""
    return msgspec.convert(value, Chunk)


class Reply:
    """What one streamed answer said so far. `chunk_ns` and `tokens` run in step, one entry per token-bearing chunk."""

    __slots__ = (
        "_gap",
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
        "tokens",
    )

    def __init__(self, content: Any | None = None) -> None:
        """`content`: where it is kept (turns.Content), if it is needed."""
        self._kept = content
        self.chunk_ns: list[int] = []
        self.tokens: list[int | None] = []
        self.first_visible_ns: int | None = None
        self.reasoning_chunks = 0
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
        try:
            chunk = _decode(data)
        except msgspec.DecodeError:
            if data != b"[DONE]":
                raise
            self.done = True
            return False
        except RecursionError:
            raise ValueError("an event is nested too deep") from None
        return self.take_chunk(chunk, stamp_ns)

    def take_chunk(self, chunk: Chunk, stamp_ns: int) -> bool:
        """Account for one event already read as JSON; True if it bore tokens."""
        if chunk.error:
            self.error = _message({"error": chunk.error}) or "error"
            return False
        choices = chunk.choices or ()
        for choice in choices:
            if choice.finish_reason:
                self.finish_reason = redaction.text(choice.finish_reason)[:MAX_FINISH_CHARS]
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
            self.prompt = _count(usage.prompt_tokens)
        if isinstance(usage.completion_tokens, int):
            self.output = _count(usage.completion_tokens + _reasoning_beside(usage))
        if (details := usage.prompt_tokens_details) and isinstance(details.cached_tokens, int):
            self.cached = _count(details.cached_tokens)
        if (details := usage.completion_tokens_details) and isinstance(details.reasoning_tokens, int):
            self.reasoning = _count(details.reasoning_tokens)
        return None if self.output is None else self.output - (before or 0)

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


def _count(tokens: int) -> int:
    if not 0 <= tokens < MAX_COUNT:
        raise ValueError("usage counts what cannot be")
    return tokens


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
    return str(choice.text or (choice.delta and choice.delta.content) or "")


def _bears(choice: _Choice) -> bool:
    return _is_visible(choice) or _reasons(choice)


def _is_visible(choice: _Choice) -> bool:
    """Text or a tool call: what whoever asked sees or uses."""
    delta = choice.delta
    if choice.text or delta is None:
        return bool(choice.text)
    if delta.content and not _is_thinking(delta.content):
        return True
    return _calls(delta)


def _reasons(choice: _Choice) -> bool:
    delta = choice.delta
    return delta is not None and bool(delta.reasoning_content or delta.reasoning or _is_thinking(delta.content))


def _is_thinking(content: Any) -> bool:
    """Mistral's content of typed parts, all of them `thinking`."""
    if not isinstance(content, list) or not content:
        return False
    return all(isinstance(part, dict) and part.get("type") == "thinking" for part in content)


def _calls(delta: _Delta) -> bool:
    """Whether a piece of a tool call is in it: its name, or some of its arguments."""
    calls = delta.tool_calls if isinstance(delta.tool_calls, list) else ()
    functions = [call.get("function") for call in calls if isinstance(call, dict)]
    return any(bool(f.get("arguments") or f.get("name")) for f in functions if isinstance(f, dict))
