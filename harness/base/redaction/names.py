"""How a secret is told whatever it is: by the name of the flag, variable, setting, query parameter or JSON member that holds it, and
by its place in a text: after `://`, in a query, after a header's, flag's, variable's or member's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ANYWHERE = frozenset(
    ("secret", "secrets", "password", "passwords", "passwd", "passphrase", "credential", "credentials", "bearer")
)
_LAST = frozenset(
    ("token", "key", "keys", "auth", "authorization", "pass", "cookie", "apikey", "accesskey", "authtoken")
)
_OF_TEXT = frozenset(("per", "bos", "eos", "pad", "unk"))  # `.. per output token`, and a tokenizer's own
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret(name: object) -> bool:
    """True where the value may be a credential: a word like `secret` or `password` stands anywhere in the name, or one
    like `token` or `key` is its last word (`HF_TOKEN`, `--api-key`, `authToken`).

    Words end at anything that is no letter, and where a capital begins one. Counts of tokens (`max_num_batched_tokens`),
    times per token and the names of variables or files that hold a secret (`api_key_env`) are not secret.
    """
    words = [word.lower() for word in _WORD.findall(str(name))]
    while words and words[-1].isdigit():  # HF_TOKEN_2
        words.pop()
    if not words:
        return False
    of_text = words[-1] == "token" and not _OF_TEXT.isdisjoint(words)
    return not _ANYWHERE.isdisjoint(words) or (words[-1] in _LAST and not of_text)


def secret_flag(word: object) -> bool:
    """Whether a command's word is a flag whose value, the next word, is a secret: `--api-key`."""
    return isinstance(word, str) and word.startswith("-") and "=" not in word and is_secret(word)


# ---------------------------------------------------------------- places

_URL = (
    # A password with a slash in it ends at the last @ all the same; a port does not begin one.
    re.compile(r"""://(?P<secret>[^\s/:@"'<>]*:(?!\d+(?:[/?#]|$))[^\s@"'<>]*)@"""),
    re.compile(r"""://(?P<secret>[^\s/?#"'<>]+)@"""),
)
_HEADER = re.compile(
    r"""(?i)\b(?:proxy-authorization|authorization|x-api-key|api-key|x-goog-api-key|x-auth-token|set-cookie|cookie)"""
    r"""\\*["']?\s*[:=]\s*\\*["']?(?P<secret>[^\r\n"']+)"""
)
_BY_NAME = (
    re.compile(r"""[?&;](?P<name>[\w.-]+)=(?P<secret>[^\s&#;"'<>]+)"""),
    re.compile(r"""(?<![\w-])--?(?P<name>[A-Za-z][\w.-]*)(?:=|\s+)(?P<secret>"[^"]*"|'[^']*'|[^\s"'-][^\s"']*)"""),
    re.compile(r"""(?<![\w-])(?P<name>[A-Za-z_]\w*)=(?P<secret>"[^"]*"|'[^']*'|[^\s"',;&)}\]]+)"""),
    re.compile(r"""(?P<quote>\\*["'])(?P<name>[\w.-]+)(?P=quote)\s*:\s*(?P=quote)(?P<secret>.*?)(?<!\\)(?P=quote)"""),
)
_KEY_LIKE = re.compile(
    r"(?P<secret>(?i:\b(?:bearer\s+|sk-))[\w.~+/=-]{6,}|\bhf_\w{16,}|\b(?:AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_\w{20,})"
)
_STEMS = (
    "secret",
    "pass",
    "credential",
    "bearer",
    "token",
    "key",
    "auth",
    "cookie",
)  # every secret's name has one in it
_LIKE_A_KEY = ("bearer", "sk-", "hf_", "akia", "asia", "gh")


def spans(text: str) -> Iterator[tuple[int, int]]:
    """(start, end) of what stands in a secret's place, in no order; they may overlap."""
    low = text.lower()
    by_name = any(stem in low for stem in _STEMS)
    patterns = [*(_URL if "://" in text and "@" in text else ()), *((_HEADER,) if by_name else ())]
    patterns += [_KEY_LIKE] if any(word in low for word in _LIKE_A_KEY) else []
    for pattern in patterns:
        for match in pattern.finditer(text):
            yield match.span("secret")
    for pattern in _BY_NAME if by_name else ():
        at = 0
        while match := pattern.search(text, at):
            secret = is_secret(match["name"])
            at = match.end() if secret else match.end("name")  # what follows a plain name may begin the next place
            if secret:
                yield match.span("secret")


def url_secret(url: str) -> str | None:
    """What of a base URL may carry credentials and so cannot be used: None, or `a user name or password`, `a query or fragment`."""
    if "@" in url:
        return "a user name or password"
    return "a query or fragment" if "?" in url or "#" in url else None
