"""Chat texts -> lengths. Only with the tokenizer that counts them: an estimate from words would not be a length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from harness.base.documents import parse_json
from harness.base.errors import ConfigError
from harness.measure.plan.traces.formats import TEXT_KEYS, open_text, value_at
from harness.measure.plan.traces.values import BadRow, TraceRow

_HUMAN = ("human", "user", "system")
_MODEL = ("gpt", "assistant", "chatgpt", "bing", "bard")


def _counter(path: Path, tokenizer: str | None) -> Callable[[str], int]:
    advice = (
        "give ?tokenizer=PATH of the model's tokenizer.json, with the package `tokenizers` installed (vLLM brings it)"
    )
    if tokenizer is None:
        raise ConfigError("a trace of texts needs a tokenizer to count its tokens", path, advice)
    try:
        module: Any = import_module("tokenizers")
    except ImportError:
        raise ConfigError("the package tokenizers is not installed", tokenizer, advice) from None
    try:
        encoder = module.Tokenizer.from_file(tokenizer)
    except Exception as error:  # the library raises bare Exception
        raise ConfigError("tokenizer file cannot be read", tokenizer, f"{error}; {advice}") from None
    return lambda text: len(encoder.encode(text, add_special_tokens=False).ids)


def text_rows(path: Path, tokenizer: str | None) -> Iterator[TraceRow | BadRow]:
    """Every chat's first turn: the messages before the first reply, and the reply; without times. A .json list is numbered by its
    entries. Raises ConfigError."""
    count = _counter(path, tokenizer)
    for line, chat in _chats(path):
        where = f"{path}, line {line}"
        if not isinstance(chat, dict):
            yield BadRow(where, "", f"{chat!r:.80}", "not a JSON object")
            continue
        messages = next((v for key in TEXT_KEYS if isinstance(v := value_at(chat, key), list)), None)
        prompt, reply = _first_turn(messages or [])
        if reply is None and isinstance(answer := chat.get("response"), str):
            reply = answer
        if not prompt or not reply:
            yield BadRow(where, "messages", "", "no user message followed by a reply")
            continue
        lengths = count("\n".join(prompt)), count(reply)
        if min(lengths) < 1:
            yield BadRow(where, "messages", "", "a request needs at least 1 token in and 1 out")
        else:
            yield TraceRow(line, None, *lengths)


def _first_turn(messages: list[Any]) -> tuple[list[str], str | None]:
    prompt: list[str] = []
    for message in messages:
        role = message.get("from", message.get("role")) if isinstance(message, dict) else None
        text = message.get("value", message.get("content")) if isinstance(message, dict) else None
        if not isinstance(text, str):
            continue
        if role in _MODEL and prompt:
            return prompt, text
        if role in _HUMAN:
            prompt.append(text)
    return prompt, None


def _chats(path: Path) -> Iterator[tuple[int, Any]]:
    with open_text(path) as text:
        head = text.read(1)
        while head and head.isspace():
            head = text.read(1)
        text.seek(0)
        if head == "[":  # one JSON list: it has to be held whole
            try:
                yield from enumerate(parse_json(text.read()), 1)
            except ValueError as error:
                raise ConfigError("trace file is not JSON", path, str(error)) from None
            return
        for line, content in enumerate(text, 1):
            if content.strip():
                try:
                    yield line, parse_json(content)
                except ValueError as error:
                    yield line, f"not JSON: {error}"
