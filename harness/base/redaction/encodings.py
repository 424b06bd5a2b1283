"""Text as it was before URLs, HTML, JSON, a shell or a line's width had their way with it, and where each character came from."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator

_CODED = re.compile(
    r"\\+u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\+u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})|\\+(?:u(?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2}))"
    r"|(?P<percent>(?:%[0-9a-fA-F]{2})+)|(?P<entity>&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);)"
    r"|(?P<quote>'(?:\"'\"|\\'')')|\\+[nrt]|<br ?/?>|\\+"
)
_MARKS = ("\\", "%", "&", "<br", "'\"'\"'")


def _plain(found: re.Match[str]) -> str:
    """What a coded piece stands for; a line break or a lone backslash for nothing."""
    if found["percent"]:
        return _bytes_of(found["percent"]).decode("utf-8", "replace")
    if found["entity"]:
        return html.unescape(found["entity"])
    if found["quote"]:
        return "'"
    if found["high"]:
        return chr(0x10000 + ((int(found["high"], 16) & 0x3FF) << 10) + (int(found["low"], 16) & 0x3FF))
    code = found["u"] or found["x"]
    return chr(int(code, 16)) if code else ""


def _bytes_of(percent: str) -> bytes:
    return bytes.fromhex(percent.replace("%", ""))


def compact(text: str) -> str:
    """Without any space or line end."""
    return "".join(text.split())


def decoded(text: str) -> str:
    """Without one layer of encoding."""
    return _CODED.sub(_plain, text) if any(mark in text for mark in _MARKS) else text


def traced(text: str, layers: int) -> tuple[str, list[int], list[int]]:
    """The compact text without so many layers of encoding, and of each of its characters where in `text` it begins and ends."""
    starts, ends = list(range(len(text))), list(range(1, len(text) + 1))
    for _ in range(layers):
        parts: list[str] = []
        begun: list[int] = []
        ended: list[int] = []
        at = 0
        for found in _CODED.finditer(text):
            parts.append(text[at : found.start()])
            begun += starts[at : found.start()]
            ended += ends[at : found.start()]
            at = found.end()
            for c, first, last in _pieces(found):
                parts.append(c)
                begun.append(starts[first])
                ended.append(ends[last - 1])
        parts.append(text[at:])
        text, starts, ends = "".join(parts), begun + starts[at:], ended + ends[at:]
    kept = [i for i, c in enumerate(text) if not c.isspace()]
    return compact(text), [starts[i] for i in kept], [ends[i] for i in kept]


def _pieces(found: re.Match[str]) -> Iterator[tuple[str, int, int]]:
    """Characters of a coded piece with the part of it that each is made of; where bytes are no text, all of it."""
    plain, at = _plain(found), found.start()
    even = found["percent"] is not None and plain.encode("utf-8") == _bytes_of(found["percent"])
    for c in plain:
        length = 3 * len(c.encode("utf-8")) if even else 0
        yield (c, at, at + length) if even else (c, found.start(), found.end())
        at += length


def in_base64(raw: bytes) -> Iterator[str]:
    """What base64 makes of the bytes wherever they stand in what is encoded, without what their neighbours decide."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + raw).decode()
        inner = whole[-(-8 * before // 6) : 8 * (before + len(raw)) // 6]
        yield inner
        if "+" in inner or "/" in inner:
            yield inner.replace("+", "-").replace("/", "_")


def misread(text: str) -> str:
    """UTF-8 taken for Latin-1, as header values are."""
    return text.encode("utf-8", "surrogateescape").decode("latin-1")
