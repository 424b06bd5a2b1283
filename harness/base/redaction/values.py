"""Secrets whose value is known: registered once in a process, then found in any text, encoded or not."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

MASK = "***"
FEWEST = 6  # shorter values are words and numbers that stand everywhere: only their names and places hide them
_BOUNDED = 8  # shorter ones, and numbers, are also parts of other words
_PIECE = 256  # characters of one search
_TAIL = 8  # so much of a secret at the end of a text is one that was cut
_LAYERS = 2  # JSON in HTML, a URL in JSON
_WORDS = frozenset(("false", "enabled", "disabled", "default", "required", "optional", "localhost", "unknown"))
_FREE_BEFORE = re.compile(r"(?<![^\W_])|(?<=%[0-9A-Fa-f]{2})|(?<=\\[nrt])")
_FREE_AFTER = re.compile(r"(?![^\W_])")


@dataclass(frozen=True, slots=True)
class _Secret:
    """`forms`: what its value is in a compact text without a layer or two of encoding; `bounded` are those that count only
    where no letter or digit touches them."""

    value: str
    forms: tuple[str, ...]
    bounded: tuple[str, ...]


_known: dict[str, _Secret] = {}
SHORT = 200  # characters; shorter texts come again and again, and are looked at once


class _Generation:
    """Which set of secrets is known: what was found with another one is looked for again."""

    number = 0

    def next(self) -> None:
        self.number += 1


generation = _Generation()


def learn(value: str | None) -> None:
    """Make a secret's value known to this process; of one with several lines, or a very long one, each part by itself."""
    whole = (value or "").strip()
    for line in whole.splitlines() if len(whole) > _PIECE else [whole]:
        for at in range(0, len(line), _PIECE):
            one = line[at : at + _PIECE].strip()
            if len(one) >= FEWEST and one.lower() not in _WORDS and one not in _known:
                _known[one] = _secret(one)
                generation.next()


def learned() -> list[str]:
    """Every value that is known, e.g. to tell another process of ours through a pipe."""
    return list(_known)


def forget() -> None:
    """Know nothing again (between tests)."""
    _known.clear()
    generation.next()


def known(text: str) -> str:
    """The text with every known secret masked: plain, percent-encoded, escaped for JSON, HTML or a shell, in base64, and
    broken by spaces or line ends. For whole pages and terminals, where places (`redaction.text`) would be guessed."""
    if not _known or len(text) < FEWEST:
        return text
    return _of_short(text, generation.number) if len(text) <= SHORT else _of_any(text)


@lru_cache(4096)
def _of_short(text: str, _: int) -> str:
    return _of_any(text)


def _of_any(text: str) -> str:
    return _masked(text, _known.values(), lambda _: MASK)


def veil(value: str) -> Callable[[bytes], bytes]:
    """A function that puts stars, as many bytes, in place of one secret in a reply as it came. A reply of status 200 is searched
    for the plain spellings only, which costs next to nothing; any other for all."""
    secret = _secret(value)
    forms = [form.encode() for form in secret.forms]

    def hide(data: bytes) -> bytes:
        for form in forms:
            if form in data:
                data = data.replace(form, b"*" * len(form))
        if data.startswith(b"HTTP/1.1 200"):
            return data
        return _masked(data.decode("latin-1"), [secret], lambda found: "*" * len(found)).encode("latin-1")

    return hide


def _secret(value: str) -> _Secret:
    spelled = dict.fromkeys(map(compact, (value, decoded(value), misread(value), value.replace(" ", "+"))))
    plain = tuple(form for form in spelled if len(form) >= FEWEST - 1)
    coded = in_base64(value.encode("utf-8", "surrogateescape"))
    return _Secret(value, (*plain, *coded), plain if len(value) < _BOUNDED or value.isdigit() else ())


def _masked(text: str, secrets: Iterable[_Secret], mask: Callable[[str], str]) -> str:
    view = text
    for layers in range(_LAYERS + 1):
        bare = compact(view)
        there = [secret for secret in secrets if any(form in bare for form in secret.forms)]
        if there:
            text = _hidden(text, there, layers, mask)
        further = decoded(view)
        if further == view:
            break
        view = further
    for secret in secrets:
        text = _without_cut(text, secret.value, mask)
    return text


def _hidden(text: str, secrets: Iterable[_Secret], layers: int, mask: Callable[[str], str]) -> str:
    bare, starts, ends = traced(text, layers)
    spans = []
    for secret in secrets:
        for form in secret.forms:
            at = bare.find(form)
            while at >= 0:
                start, end = starts[at], ends[at + len(form) - 1]
                if form not in secret.bounded or (_FREE_BEFORE.match(text, start) and _FREE_AFTER.match(text, end)):
                    spans.append((start, end))
                at = bare.find(form, at + 1)
    return replaced(text, spans, mask)


def replaced(text: str, spans: Iterable[tuple[int, int]], mask: Callable[[str], str]) -> str:
    """The text with `mask` of each span in its place; spans that overlap are one."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    for start, end in reversed(merged):
        text = text[:start] + mask(text[start:end]) + text[end:]
    return text


def _without_cut(text: str, value: str, mask: Callable[[str], str]) -> str:
    """Without the beginning of a secret that a text ends with, because somebody cut it there."""
    end = len(text.rstrip(" \t\r\n….\"'"))
    at = text.rfind(value[:_TAIL], max(0, end - len(value)), end) if len(value) > _TAIL else -1
    return replaced(text, [(at, end)], mask) if at >= 0 and value.startswith(text[at:end]) else text


# ---------------------------------------------------------------- text as it was before URLs, HTML, JSON, a shell or a line's width had their way with it

_CODED = re.compile(
    r"\\+u(?P<high>[dD][89abAB][0-9a-fA-F]{2})\\+u(?P<low>[dD][c-fC-F][0-9a-fA-F]{2})|\\+(?:u(?P<u>[0-9a-fA-F]{4})|x(?P<x>[0-9a-fA-F]{2}))"
    r"|(?P<percent>(?:%[0-9a-fA-F]{2})+)|(?P<entity>&(?:\#\d{1,7}|\#[xX][0-9a-fA-F]{1,6}|amp|lt|gt|quot|apos);)"
    r"|(?P<quote>'(?:\"'\"|\\'')')|\\+[nrt]|<br ?/?>|\\+"
)
_MARKS = ("\\", "%", "&", "<br", "'\"'\"'")


def _plain(piece: re.Match[str]) -> str:
    """What a coded piece stands for; a line break or a lone backslash for nothing."""
    if piece["percent"]:
        return _bytes_of(piece["percent"]).decode("utf-8", "replace")
    if piece["entity"]:
        return html.unescape(piece["entity"])
    if piece["quote"]:
        return "'"
    if piece["high"]:
        return chr(0x10000 + ((int(piece["high"], 16) & 0x3FF) << 10) + (int(piece["low"], 16) & 0x3FF))
    code = piece["u"] or piece["x"]
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
        for coded in _CODED.finditer(text):
            parts.append(text[at : coded.start()])
            begun += starts[at : coded.start()]
            ended += ends[at : coded.start()]
            at = coded.end()
            for c, first, last in _pieces(coded):
                parts.append(c)
                begun.append(starts[first])
                ended.append(ends[last - 1])
        parts.append(text[at:])
        text, starts, ends = "".join(parts), begun + starts[at:], ended + ends[at:]
    visible = [i for i, c in enumerate(text) if not c.isspace()]
    return compact(text), [starts[i] for i in visible], [ends[i] for i in visible]


def _pieces(piece: re.Match[str]) -> Iterator[tuple[str, int, int]]:
    """Characters of a coded piece with the part of it that each is made of; where bytes are no text, all of it."""
    plain, at = _plain(piece), piece.start()
    even = piece["percent"] is not None and plain.encode("utf-8") == _bytes_of(piece["percent"])
    for c in plain:
        length = 3 * len(c.encode("utf-8")) if even else 0
        yield (c, at, at + length) if even else (c, piece.start(), piece.end())
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
