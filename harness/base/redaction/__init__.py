"""What is a secret, and how it is kept out of files, logs and terminals: the one definition, for all that is written.

A secret is told by its NAME (`names.is_secret`: `HF_TOKEN`, `--api-key`), by its PLACE (`names.spans`: userinfo of a URL, a query
parameter, an Authorization header, the value of a flag), and by its VALUE (`values`): what was once seen under such a name or in such
a place is known from then on and is masked wherever it appears, in whatever encoding. `learn..` makes known, `text`, `data` and
`known` mask; a text that is to be cut is masked before, for the beginning of a secret is told only at a text's end.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, TextIO, cast

from harness.base.redaction.names import is_secret, secret_flag, spans, url_secret
from harness.base.redaction.values import MASK, SHORT, forget, generation, known, learn, learned, replaced, veil

__all__ = [
    "MASK",
    "data",
    "forget",
    "holders",
    "is_path",
    "is_secret",
    "known",
    "learn",
    "learn_data",
    "learned",
    "no_core",
    "terminal",
    "text",
    "url_secret",
    "veil",
]

_IS_A_PATH = re.compile(r"(/|~/|\.{1,2}/).+")
_NAMES_A_VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
_holders: set[str] = set()
_SCHEME = re.compile(r"(?i)(?:bearer|basic|token)\s+")


# ---------------------------------------------------------------- learning: from the environment, a command line, a file


def learn_data(value: Any, environ: Mapping[str, str] | None = None) -> None:
    """Every secret in plain values (a config, an environment, a command's words), by name or place; with `environ` also the
    variables that members ending in `_env` name, for those hold a key or a webhook's URL. What cannot be a variable's name there,
    or a path in `api_key_file`, may be the key itself."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if is_secret(name):
                _learn_all(inner)
            elif str(name).endswith("_env") and isinstance(inner, str) and environ is not None:
                _holders.add(inner)
                learn(environ.get(inner) if inner in environ or _NAMES_A_VARIABLE.fullmatch(inner) else inner)
            elif name == "api_key_file" and isinstance(inner, str) and not is_path(inner):
                learn(inner)
            learn_data(inner, environ)
    elif isinstance(value, list | tuple):
        for word, after in zip(value, value[1:], strict=False):
            if secret_flag(word):
                _learn_all(after)
        for inner in value:
            learn_data(inner, environ)
    elif isinstance(value, str):
        _learn_places(value)


def holders() -> frozenset[str]:
    """Variables that a config named as those that hold a key of somebody else's API: nothing that we start needs them."""
    return frozenset(_holders)


def is_path(word: str) -> bool:
    """Whether a word says that it is a path: /etc/key, ~/key, ./key. A key does not begin so."""
    return bool(_IS_A_PATH.fullmatch(word))


def _learn_all(value: Any) -> None:
    """All of it, for its name is a secret's."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            _learn_all(inner)
    elif value is not None and not isinstance(value, bool):
        learn(str(value))


def _learn_places(words: str) -> None:
    for start, end in spans(words):
        secret = words[start:end].strip("\"'")
        user, colon, password = secret.partition(":")
        if words[max(0, start - 3) : start] == "://":
            learn(password if colon else user)
        else:
            learn(_SCHEME.sub("", secret, count=1))
    if (
        "@" in words and "://" not in words and not any(c.isspace() for c in words)
    ):  # user:password@host without a scheme
        learn(words.rpartition("@")[0].partition(":")[2])


# ---------------------------------------------------------------- masking: by place, by name, and by value


def text(value: object) -> str:
    """A line, message or log without what stands in a secret's place and without any known secret."""
    words = str(value)
    return _of_short(words, generation.number) if len(words) <= SHORT else _of_any(words)


@lru_cache(4096)
def _of_short(words: str, _: int) -> str:
    return _of_any(words)


def _of_any(words: str) -> str:
    words = known(words)
    return replaced(words, spans(words), lambda _: MASK)


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


# ---------------------------------------------------------------- standard output and error, masked on the way out


class _Masked:
    """A text stream in all but what it writes."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    def write(self, text: str) -> int:
        self._inner.write(known(text) if isinstance(text, str) else text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def terminal() -> None:
    """From here on what this process prints is masked, tracebacks and warnings too."""
    if sys.stdout is not None and not isinstance(sys.stdout, _Masked):
        sys.stdout = cast("TextIO", _Masked(sys.stdout))
    if sys.stderr is not None and not isinstance(sys.stderr, _Masked):
        sys.stderr = cast("TextIO", _Masked(sys.stderr))


# ---------------------------------------------------------------- what a crash would leave behind


def no_core() -> None:
    """From here on a crash of this process, and of those that it starts, leaves no core file: all its memory would be in there."""
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
    except (ImportError, ValueError, OSError):
        pass
