"""A comparison for people: its conclusion in one sentence, its table in the terminal, and as plain values for --json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import ComparedSide, Comparison, Detection, Effect
from harness.report import formats

STYLES = {"regressed": "bold red", "improved": "green", "unchanged": "dim", "unclear": "yellow"}
_SHOWN_UNCLEAR = 40  # rows of the terminal's table that nothing was found in


def regressed(comparison: Comparison) -> bool:
    """True where at least one cell and metric regressed: the command's exit code is 8 then."""
    return any(effect.verdict == "regressed" for effect in comparison.effects)


def cell_name(effect: Effect) -> str:
    """`smollm2 fixed:128x32 c4`."""
    return formats.clean(f"{effect.target} {effect.workload} {effect.load.name}", 200)


def side_name(side: ComparedSide) -> str:
    """`results/night 20261124T143825Z target smollm2`."""
    target = f" target {side.target}" if side.target else ""
    return formats.clean(f"{side.directory} {side.campaign_id}{target}", 300)


def change_words(effect: Effect) -> str:
    """`+3.1 %` (attainment: `-1.2 points`), `-` where absent."""
    size = _signed(effect.change)
    return size if size == formats.ABSENT or size.endswith("x") else f"{size} {_unit(effect)}"


def interval_words(effect: Effect) -> str:
    """The corrected interval, `+1.9 .. +4.4 %`; empty without one."""
    if effect.corrected_low is None or effect.corrected_high is None:
        return ""
    return f"{_signed(effect.corrected_low)} .. {_signed(effect.corrected_high)} {_unit(effect)}"


def _unit(effect: Effect) -> str:
    return "points" if effect.unit == "" else "%"


def _signed(share: float | None) -> str:
    """In per cent, with 3 digits and a sign."""
    value = formats.finite(share)
    if value is None:
        return formats.ABSENT
    size = abs(float(value)) * 100
    if size > 999:
        return "over +10x" if value > 0 else "below -10x"
    digits = 0 if size >= 99.95 else 1 if size >= 9.995 else 2
    return f"{float(value) * 100 if size >= 0.005 else 0.0:+.{digits}f}"


def value_writer(effect: Effect) -> Callable[[float], str]:
    """How a metric's values are written: times as durations, shares in per cent, the rest with its unit."""
    if effect.unit == "s":
        return formats.duration
    if effect.unit == "":
        return formats.percent
    return lambda value: f"{formats.number(value)} {effect.unit}"


def conclusion(comparison: Comparison) -> str:
    """One sentence: what regressed most, or that nothing was found and what that is worth. It may hold words from outside."""
    counts = Counter(effect.verdict for effect in comparison.effects)
    total = len(comparison.effects)
    if not total:
        return "Nothing was compared: no metric is known on both sides."
    rest = [f"{counts[v]} {v}" for v in ("improved", "unchanged", "unclear") if counts[v]]
    if counts["regressed"]:
        worst = next(e for e in comparison.effects if e.verdict == "regressed")
        tail = f"; {', '.join(rest)}" if rest else ""
        return (
            f"REGRESSED: {counts['regressed']} of {total} comparisons, worst {worst.label} "
            f"{change_words(worst)} ({interval_words(worst)}) in {cell_name(worst)}{tail}."
        )
    if not comparison.tests:
        return "No regression can be found: there is one repetition, so its spread is not known. Run repetitions: 3 or more."
    sentence = f"No regression found in {total} comparisons: {', '.join(rest)}."
    if counts["unclear"]:
        sentence += " An unclear one may hold a change; --detect says how many repetitions would show it."
    return sentence


def method(comparison: Comparison) -> str:
    """How the verdicts were reached, in two sentences."""
    paired = sum(effect.paired for effect in comparison.effects)
    return (
        f"The interval of each change is corrected (Holm) for {comparison.tests} comparisons, so that two equal campaigns give any "
        f"regression with a probability of at most {formats.percent(comparison.alpha)}; {paired} are paired by repetition. Regressed and "
        f"improved: it excludes no change and the change is above {formats.percent(comparison.min_effect)}; unchanged: this "
        f"comparison's own {formats.percent(1 - comparison.alpha)} interval lies within that; unclear: neither."
    )


def notes(comparison: Comparison) -> list[str]:
    """What a reader must know besides the table, one line each. It may hold words from outside."""
    lines = [f"warning: {formats.clean(text, 300)}" for text in comparison.warnings]
    for which, side in (("base", comparison.base), ("new", comparison.new)):
        if side.invalid:
            lines.append(f"{which}: {side.invalid} of {side.runs} runs are INVALID and left out")
        if side.unknown:
            lines.append(f"{which}: {side.unknown} of {side.runs} runs are UNKNOWN and used")
    for which, names in (("base", comparison.only_base), ("new", comparison.only_new)):
        if names:
            lines.append(f"only in {which}: {formats.clean(', '.join(names), 300)}")
    return lines


def render(console: Console, comparison: Comparison) -> None:
    """Print the table, worst first, what changed, the notes and the conclusion."""
    shown = _shown(comparison.effects)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for header in ("cell", "metric"):
        table.add_column(header, overflow="fold")
    for header in ("base", "new", "change", "corrected interval"):
        table.add_column(header, justify="right")
    table.add_column("n", justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for effect in shown:
        write = value_writer(effect)
        count = (
            f"{effect.base_count}"
            if effect.base_count == effect.new_count
            else f"{effect.base_count}/{effect.new_count}"
        )
        table.add_row(
            Text(cell_name(effect)),
            Text(effect.label),
            Text(write(effect.base)),
            Text(write(effect.new)),
            Text(change_words(effect)),
            Text(interval_words(effect) or effect.note),
            Text(count),
            Text(effect.verdict, style=STYLES[effect.verdict]),
        )
    console.print(Text(f"base {side_name(comparison.base)}"), soft_wrap=True)
    console.print(Text(f"new  {side_name(comparison.new)}"), soft_wrap=True)
    if shown:
        console.print(table)
    if len(shown) < len(comparison.effects):
        console.print(
            Text(
                f"{len(comparison.effects) - len(shown)} more, none regressed or improved, are in --json and --markdown"
            )
        )
    for name, base, new in comparison.changes:
        console.print(
            Text(f"changed: {formats.clean(name, 60)}: {formats.clean(base, 200)} → {formats.clean(new, 200)}")
        )
    for line in notes(comparison):
        console.print(Text(line))
    console.print(Text(method(comparison), style="dim"))
    console.print(Text(conclusion(comparison), style="bold"))


def _shown(effects: Sequence[Effect]) -> list[Effect]:
    """All that regressed or improved, and of the rest the first ones."""
    moved = [effect.verdict in ("regressed", "improved") for effect in effects]
    rest = [index for index, found in enumerate(moved) if not found][:_SHOWN_UNCLEAR]
    return [effect for index, effect in enumerate(effects) if moved[index] or index in rest]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, with its conclusion and the exit code's meaning."""
    plain = asdict(comparison)
    plain["effects"] = [
        {**asdict(e), "load": e.load.name, "cell": f"{e.target} {e.workload} {e.load.name}"} for e in comparison.effects
    ]
    plain["changes"] = [{"name": n, "base": b, "new": w} for n, b, w in comparison.changes]
    return {"conclusion": conclusion(comparison), "regressed": regressed(comparison), **plain}


# ---------------------------------------------------------------- how many repetitions


def detection_conclusion(detection: Detection) -> str:
    """How many repetitions see the change in every cell and metric, and which of them asks for most."""
    change, power = formats.percent(detection.change), formats.percent(detection.power)
    worst = detection.rows[0]
    name = formats.clean(f"{worst.label} in {worst.target} {worst.workload} {worst.load.name}", 200)
    over = [row for row in detection.rows if row.needed is None]
    known = [row.needed for row in detection.rows if row.needed is not None]
    if over:
        rest = f"; the other {len(known)}: {max(known)}" if known else ""
        return (
            f"A change of {change} is not seen with {detection.limit} repetitions in {len(over)} of {len(detection.rows)} "
            f"comparisons (first: {name}){rest}."
        )
    return f"{max(known)} repetitions a side see a change of {change} in each comparison with a probability of {power} (most: {name})."


def render_detection(console: Console, detection: Detection) -> None:
    """Print, for each cell and metric, the spread, what is seen now and the repetitions that the change needs."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("cell", overflow="fold")
    table.add_column("metric")
    headers = ("n", "spread", "of it inside runs", "smallest seen now", f"n for {formats.percent(detection.change)}")
    for header in headers:
        table.add_column(header, justify="right")
    for row in detection.rows:
        table.add_row(
            Text(formats.clean(f"{row.target} {row.workload} {row.load.name}", 200)),
            Text(row.label),
            str(row.repetitions),
            formats.percent(float(f"{row.spread:.3g}")),
            formats.ABSENT if row.inside_share is None else f"{row.inside_share:.0%}",
            "over 10x"
            if row.smallest_now is None or row.smallest_now > 10
            else formats.percent(float(f"{row.smallest_now:.3g}")),
            f"> {detection.limit}" if row.needed is None else str(row.needed),
        )
    console.print(Text(side_name(detection.side)), soft_wrap=True)
    console.print(table)
    for text in detection.skipped:
        console.print(Text(f"not planned: {formats.clean(text, 300)}"))
    console.print(
        Text(
            f"a side's repetitions for {formats.percent(detection.power)} power, corrected for {detection.tests} comparisons at "
            f"{formats.percent(detection.alpha)}, changes up to {formats.percent(detection.min_effect)} not counting; fewer metrics need fewer",
            style="dim",
        )
    )
    console.print(Text(detection_conclusion(detection), style="bold"))


def detection_json(detection: Detection) -> dict[str, Any]:
    """The plan as plain values, with its conclusion."""
    plain = asdict(detection)
    plain["rows"] = [{**asdict(row), "load": row.load.name} for row in detection.rows]
    return {"conclusion": detection_conclusion(detection), **plain}
