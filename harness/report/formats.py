"""How numbers, units and words from outside are written, the same in every output: absent is "-", never 0."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from harness.records import Load

ABSENT = "-"
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")
_SPACE = re.compile(r"\s+")
_MD_SPECIAL = re.compile(r"([\\`*_{}\[\]|#~$])")


def clean(text: object, limit: int = 2000) -> str:
    """Text from outside on one line: control and direction-changing characters become U+FFFD, so that no terminal
    escape, XML error or forged line comes through; longer than `limit` is cut with an ellipsis."""
    one_line = _CONTROL.sub("\ufffd", _SPACE.sub(" ", str(text))).strip()
    return one_line if len(one_line) <= limit else one_line[: limit - 1] + "…"


def finite(value: float | Decimal | None) -> float | Decimal | None:
    """The value, or None where it is absent, NaN or infinite."""
    return value if value is not None and math.isfinite(value) else None


def money(usd: str | None) -> Decimal | None:
    """Decimal text of a record as a Decimal; None where absent or not a finite number."""
    if usd is None:
        return None
    try:
        value = Decimal(usd)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def number(value: float | Decimal | None) -> str:
    """3 to 4 significant digits, thousands separated: 12,346  163.4  16.3  0.0163; an int stays whole."""
    value = finite(value)
    if value is None:
        return ABSENT
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    size = float(f"{abs(value):.4g}")
    if size >= 1e15 or size < 1e-5:
        return f"{value:.3g}"
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    return f"{value:.{2 - math.floor(math.log10(float(f'{size:.3g}')))}f}"


def usd(value: Decimal | str | None) -> str:
    """$12,346  $123.40  $12.35  $0.0123: cents from one dollar up, below that 3 significant digits."""
    amount = money(value) if isinstance(value, str) else value
    if amount is None or not amount.is_finite():
        return ABSENT
    sign = "-" if amount < 0 else ""
    size: Decimal = abs(amount)
    if size < 1:
        size = Decimal(f"{size:.3g}")
    if size == 0:
        return "$0"
    if size >= 10_000:
        return f"{sign}${size:,.0f}"
    if size >= 1:
        return f"{sign}${size:,.2f}"
    places = 2 - size.adjusted()
    return f"{sign}${size:.{places}f}" if places <= 12 else f"{sign}${size:.2e}"


def percent(share: float | Decimal | None) -> str:
    """A share as `99.5 %`; never rounded up to 100 % from below."""
    share = finite(share)
    if share is None:
        return ABSENT
    text = f"{float(share) * 100:.4g}"
    return f"{'> 99.99' if share < 1 and text == '100' else text} %"


def duration(seconds: float | None) -> str:
    """ms below one second, s above: `43.1 ms`, `12.3 s`."""
    value = finite(seconds)
    if value is None:
        return ABSENT
    return f"{number(float(value) * 1000)} ms" if abs(float(value)) < 1 else f"{number(value)} s"


def ratio(value: Decimal | float) -> str:
    """A factor in words: `12x`, `2.3x`, `1.07x`."""
    return f"{value:,.0f}x" if value >= 10 else f"{value:.1f}x" if value >= 2 else f"{value:.2f}x"


def load_words(load: Load) -> str:
    """`concurrency 16` or `2 req/s poisson`."""
    return clean(load.words, 40) if load.is_closed or load.rate_rps is not None else ABSENT


def md_text(text: object) -> str:
    """Text from outside for a Markdown paragraph or table cell: no markup, HTML, mention or line break survives."""
    escaped = clean(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MD_SPECIAL.sub(r"\\\1", escaped).replace("@", "@\u200b").replace("://", ":\u200b//")


def md_code(text: object, *, cell: bool = False) -> str:
    """Text from outside as a code span; `cell`: inside a table, where a bar must be escaped even in code."""
    body = clean(text) or " "
    body = body.replace("|", "\\|") if cell else body
    fence = "`" * (max((len(run) for run in re.findall(r"`+", body)), default=0) + 1)
    pad = " " if body.startswith("`") or body.endswith("`") else ""
    return f"{fence}{pad}{body}{pad}{fence}"


def run_ids(ids: Sequence[str]) -> str:
    """Run ids on one line; those that differ only after their last `_rep` share what stands before it."""
    stems: dict[str, list[str]] = {}
    for run_id in ids:
        stem, mark, repetition = clean(run_id, 200).rpartition("_rep")
        stems.setdefault(stem + mark, []).append(repetition)
    return ", ".join(stem + ",".join(repetitions) for stem, repetitions in stems.items())
