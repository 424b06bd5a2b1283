"""The dialects of an API: a planned request into a body, a streamed event into facts.

`encode` is pure; a `Reply` accumulates what one streamed answer said. A chunk bears tokens when it names their ids, when the
server's running usage grew in it, or, where chunks carry neither (a plain body, an API without extensions), when it holds text,
reasoning or a tool call: how many tokens are in it is then not known. `chat` has completions too; `responses` and `messages` are
OpenAI's and Anthropic's other ones.
"""

from __future__ import annotations

import json
from typing import Any

from harness.base.errors import ConfigError
from harness.measure.drive.dialect import chat, messages, responses
from harness.measure.drive.dialect.errors import MAX_ERROR_CHARS, clean_error, error_message
from harness.measure.drive.dialect.reply import Reply, overrun
from harness.records import Endpoint, PlannedRequest, Prompt

__all__ = (
    "MAX_ERROR_CHARS",
    "Reply",
    "clean_error",
    "encode",
    "error_message",
    "overrun",
    "path",
    "reply",
    "spoken",
)

_PATHS = {
    "completions": "/completions",
    "chat": "/chat/completions",
    "responses": "/responses",
    "messages": "/messages",
}
_REPLIES: dict[str, type[Reply]] = {
    "completions": chat.ChatReply,
    "chat": chat.ChatReply,
    "responses": responses.ResponsesReply,
    "messages": messages.MessagesReply,
    "messages of vLLM": messages.VllmMessagesReply,
}


def path(endpoint: Endpoint) -> str:
    """Path below base_url that the endpoint's API is served at."""
    return _PATHS[endpoint.api]


def spoken(endpoint: Endpoint) -> str:
    """Name of the dialect of its replies: the API, or vLLM's own way with it where that differs."""
    name = f"{endpoint.api} of vLLM"
    return name if endpoint.vllm_extensions and name in _REPLIES else endpoint.api


def reply(spoken: str, content: Any | None = None) -> Reply:
    """An empty reply in a dialect. `content`: where its text is kept (turns.Content), if it is needed."""
    return _REPLIES[spoken](content)


def encode(endpoint: Endpoint, request: PlannedRequest, prompt: Prompt, *, followed: bool = False) -> bytes:
    """JSON body of a streamed request; `followed`: a later turn needs the reply's token ids. The endpoint's own fields (`request`)
    come last: they replace ours, and a null leaves one out. Raises ConfigError if the API is unknown or cannot take the prompt."""
    match endpoint.api:
        case "completions" | "chat":
            body = chat.body(endpoint, request, prompt, followed=followed)
        case "responses":
            body = responses.body(endpoint, request, prompt)
        case "messages":
            body = messages.body(endpoint, request, prompt)
        case other:
            raise ConfigError("unknown API", other, f"use one of {', '.join(_PATHS)}")
    body = {key: value for key, value in (body | dict(endpoint.request)).items() if value is not None}
    return json.dumps(body, separators=(",", ":")).encode()
