"""Where secrets come from: the environment, a command line, and what a file says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.base.redaction.names import is_secret, secret_flag
from harness.base.redaction.places import spans
from harness.base.redaction.values import learn

_NAMES_A_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_SCHEME = re.compile(r"(?i)(?:bearer|basic|token)\s+")


def learn_data(value: Any, environ: Mapping[str, str] | None = None) -> None:
    """Every secret in plain values (a config, an environment, a command's words), by name or place; with `environ` also the
    variables that members ending in `_env` name, for those hold a key or a webhook's URL. What cannot be a variable's name there
    may be the key itself."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if is_secret(name):
                _learn_all(inner)
            elif str(name).endswith("_env") and isinstance(inner, str) and environ is not None:
                learn(environ.get(inner) if inner in environ or _NAMES_A_VARIABLE.fullmatch(inner) else inner)
            learn_data(inner, environ)
    elif isinstance(value, list | tuple):
        for word, after in zip(value, value[1:], strict=False):
            if secret_flag(word):
                _learn_all(after)
        for inner in value:
            learn_data(inner, environ)
    elif isinstance(value, str):
        _learn_places(value)


def _learn_all(value: Any) -> None:
    """All of it, for its name is a secret's."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            _learn_all(inner)
    elif value is not None and not isinstance(value, bool):
        learn(str(value))


def _learn_places(text: str) -> None:
    for start, end in spans(text):
        said = text[start:end].strip("\"'")
        user, colon, password = said.partition(":")
        if text[max(0, start - 3) : start] == "://":
            learn(password if colon else user)
        else:
            learn(_SCHEME.sub("", said, count=1))
    if "@" in text and "://" not in text and not any(c.isspace() for c in text):  # user:password@host without a scheme
        learn(text.rpartition("@")[0].partition(":")[2])
