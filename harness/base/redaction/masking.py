"""Texts and plain values without secrets: by place, by name, and by value."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from harness.base.redaction.names import is_secret, secret_flag
from harness.base.redaction.places import spans
from harness.base.redaction.values import MASK, SHORT, generation, known, replaced


def text(value: object) -> str:
    """A line, message or log without what stands in a secret's place and without any known secret."""
    given = str(value)
    return _of_short(given, generation.number) if len(given) <= SHORT else _of_any(given)


@lru_cache(4096)
def _of_short(given: str, _: int) -> str:
    return _of_any(given)


def _of_any(given: str) -> str:
    given = known(given)
    return replaced(given, spans(given), lambda _: MASK)


def data(value: Any) -> Any:
    """Plain JSON values without secrets: the value of a secret's name, the word after a secret's flag, and every text as `text`
    makes it. Switches and nulls stand as they are."""
    if isinstance(value, Mapping):
        return {key: _member(key, inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        hidden = (False, *map(secret_flag, value[:-1]))
        return [MASK if hide and isinstance(one, str) else data(one) for one, hide in zip(value, hidden, strict=False)]
    return text(value) if isinstance(value, str) else value


def _member(name: object, value: Any) -> Any:
    if not is_secret(name) or value is None or isinstance(value, bool) or value in ("", [], {}):
        return data(value)
    return MASK
