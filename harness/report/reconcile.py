"""The table of a reconciliation: ours, theirs, the difference and its name, a day and a model a row."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.price.reconcile import ROUNDING, Line, Reconciliation
from harness.report import formats


def render(console: Console, found: Reconciliation) -> None:
    """Print the table, what each difference is, and whether the invoice and our rows agree."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("day", "model", "ours $", "unknown up to $", "theirs $", "difference $", ""):
        table.add_column(Text(heading), justify="right" if heading.endswith("$") else "left", no_wrap=heading != "")
    for line in found.lines:
        unknown = Decimal(0) if line.ours is None else line.ours.unknown_usd
        table.add_row(
            *(
                Text(text)
                for text in (
                    line.day.isoformat(),
                    formats.clean(line.model, 40),
                    _cents(line.ours_usd, line.ours is not None),
                )
            ),
            Text(_cents(unknown) if unknown else ""),
            Text(
                _cents(line.theirs_usd, line.theirs is not None) + ("*" if line.is_priced_here and line.theirs else "")
            ),
            Text(_cents(line.difference_usd)),
            Text(_names(line), style="" if line.agrees else "bold red"),
        )
    console.print(table)
    if any(line.is_priced_here and line.theirs for line in found.lines):
        console.print(Text("* the file has no dollars: its tokens at our prices"))
    for line in found.lines:
        for cause in line.causes:
            usd = "" if cause.usd is None else f" ({cause.usd:+.4f} $)"
            words = f"{line.day} {line.model}: {cause.name}{usd}: {cause.words}"
            console.print(Text(formats.clean(words, 400)), soft_wrap=True)
    for note in (*found.notes, *(f"not compared: {why}" for why in found.left_out)):
        console.print(Text(formats.clean(note, 400)), soft_wrap=True)
    console.print(Text(verdict(found), style="bold"), soft_wrap=True)


def verdict(found: Reconciliation) -> str:
    """One sentence."""
    if not found.lines:
        return "Nothing was compared: neither side has a row of what was asked for."
    ours, theirs = (
        sum((getattr(line, f"{side}_usd") for line in found.lines), Decimal(0)) for side in ("ours", "theirs")
    )
    wrong = [line for line in found.lines if not line.agrees]
    sums = f"ours ${_cents(ours)}, theirs ${_cents(theirs)}"
    if not wrong:
        return f"Agrees to the cent: {sums}, {len(found.lines)} days and models."
    return (
        f"Does NOT agree in {len(wrong)} of {len(found.lines)} days and models: {sums}; {', '.join(_counted(wrong))}."
    )


def _counted(lines: Sequence[Line]) -> list[str]:
    names = list(dict.fromkeys(cause.name for line in lines for cause in line.causes if cause.name != ROUNDING))
    return [f"{name} in {sum(any(c.name == name for c in line.causes) for line in lines)}" for name in names]


def _names(line: Line) -> str:
    return "; ".join(dict.fromkeys(cause.name for cause in line.causes)) or "agrees"


def _cents(usd: Decimal, is_there: bool = True) -> str:
    cents = usd.quantize(Decimal("0.01")) + 0  # without a minus before nothing
    return f"{cents:,.2f}" if is_there else formats.ABSENT


def as_values(found: Reconciliation) -> dict[str, Any]:
    """The same for --json; dollars are exact decimals."""
    return {
        "agrees": found.agrees,
        "verdict": verdict(found),
        "lines": [_line_values(line) for line in found.lines],
        "notes": list(found.notes),
        "left_out": list(found.left_out),
    }


def _line_values(line: Line) -> dict[str, Any]:
    ours, theirs = line.ours, line.theirs
    return {
        "day": line.day.isoformat(),
        "model": line.model,
        "agrees": line.agrees,
        "ours_usd": line.ours_usd,
        "theirs_usd": line.theirs_usd,
        "theirs_is_priced_here": line.is_priced_here,
        "difference_usd": line.difference_usd,
        "causes": [{"name": cause.name, "usd": cause.usd, "words": cause.words} for cause in line.causes],
        "ours": None
        if ours is None
        else {
            "requests": ours.requests,
            "tokens": dict(ours.tokens),
            "unknown_requests": ours.unknown,
            "unknown_usd": ours.unknown_usd,
            "run_ids": list(ours.run_ids),
        },
        "theirs": None
        if theirs is None
        else {
            "requests": theirs.requests,
            "input_tokens": theirs.input_tokens,
            "tokens": dict(theirs.tokens),
            "keys": list(theirs.keys),
        },
    }
