"""Where in a text a secret stands, whatever it is: after `://`, in a query, after a header's, flag's, variable's or member's name."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.base.redaction.names import is_secret

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
        for found in pattern.finditer(text):
            yield found.span("secret")
    for pattern in _BY_NAME if by_name else ():
        at = 0
        while named := pattern.search(text, at):
            secret = is_secret(named["name"])
            at = named.end() if secret else named.end("name")  # what follows a plain name may begin the next place
            if secret:
                yield named.span("secret")


def url_secret(url: str) -> str | None:
    """What of a base URL may carry credentials and so cannot be used: None, or `a user name or password`, `a query or fragment`."""
    if "@" in url:
        return "a user name or password"
    return "a query or fragment" if "?" in url or "#" in url else None
