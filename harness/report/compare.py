"""A comparison: its conclusion in one sentence, its table in the terminal, a pull request's comment, JUnit XML, and plain values for --json."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any
from xml.sax.saxutils import escape, quoteattr  # writes only: nothing is parsed

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records import ComparedSide, Comparison, Effect
from harness.report import formats
from harness.report.formats import md_code, md_text

STYLES = {"regressed": "bold red", "improved": "green", "unchanged": "dim", "unclear": "yellow"}
_MARKS = {"regressed": "❌", "improved": "✅", "unchanged": "⚪", "unclear": "❔"}
_MAX_ROWS = 400  # a comment of GitHub ends at 65,536 characters
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
            f"{change_words(worst)} ({interval_words(worst) or worst.note}) in {cell_name(worst)}{tail}."
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
    rest = [index for index, yes in enumerate(moved) if not yes][:_SHOWN_UNCLEAR]
    return [effect for index, effect in enumerate(effects) if moved[index] or index in rest]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values, with its conclusion and the exit code's meaning."""
    plain = asdict(comparison)
    plain["effects"] = [
        {**asdict(e), "load": e.load.name, "cell": f"{e.target} {e.workload} {e.load.name}"} for e in comparison.effects
    ]
    plain["changes"] = [{"name": n, "base": b, "new": w} for n, b, w in comparison.changes]
    return {"conclusion": conclusion(comparison), "regressed": regressed(comparison), **plain}


# ---------------------------------------------------------------- a comment of a pull request


def markdown(comparison: Comparison) -> str:
    """One line, the table of what moved, the rest folded, in GitHub's Markdown. Words from outside are escaped."""
    moved = [e for e in comparison.effects if e.verdict in ("regressed", "improved")]
    rest = [e for e in comparison.effects if e.verdict not in ("regressed", "improved")]
    known = any(e.verdict in ("unchanged", "improved") for e in comparison.effects)
    mark = "❌" if regressed(comparison) else "✅" if known else "❔"
    parts = [
        f"{mark} **{md_text(conclusion(comparison))}**",
        f"base {md_code(side_name(comparison.base))}, new {md_code(side_name(comparison.new))}",
    ]
    if moved:
        parts.append(_md_table(moved))
    if comparison.changes:
        lines = [
            f"| {md_text(n)} | {md_code(b, cell=True)} | {md_code(w, cell=True)} |" for n, b, w in comparison.changes
        ]
        parts.append(_folded(f"what changed ({len(lines)})", "\n".join(["| | base | new |", "|---|---|---|", *lines])))
    if rest:
        more = f"\n\n{len(rest) - _MAX_ROWS} more are in the JSON." if len(rest) > _MAX_ROWS else ""
        parts.append(_folded(f"not regressed and not improved ({len(rest)})", _md_table(rest[:_MAX_ROWS]) + more))
    lines = notes(comparison)
    if lines:
        parts.append("\n".join(f"- {md_text(line)}" for line in lines))
    parts.append(_folded("how this was decided", md_text(method(comparison))))
    return "\n\n".join(parts) + "\n"


def _md_table(effects: Sequence[Effect]) -> str:
    lines = [
        "| | cell | metric | base | new | change | corrected interval | n |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for e in effects:
        write = value_writer(e)
        between = interval_words(e) or e.note
        numbers = (write(e.base), write(e.new), change_words(e), between, f"{e.base_count}/{e.new_count}")
        cells = " | ".join(md_text(text) for text in numbers)
        lines.append(
            f"| {_MARKS[e.verdict]} {e.verdict} | {md_code(cell_name(e), cell=True)} | {md_text(e.label)} | {cells} |"
        )
    return "\n".join(lines)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{formats.clean(title)}</summary>\n\n{body}\n\n</details>"


# ---------------------------------------------------------------- JUnit


def junit(comparison: Comparison) -> str:
    """JUnit XML, one test case for each cell and metric: regressed is a failure, what could not be tested is skipped, the rest passes."""
    failures = sum(e.verdict == "regressed" for e in comparison.effects)
    skipped = sum(e.p is None for e in comparison.effects)
    counts = f'tests="{len(comparison.effects)}" failures="{failures}" errors="0" skipped="{skipped}"'
    name = _attribute(f"{side_name(comparison.new)} against {side_name(comparison.base)}")
    changed = "".join(
        f"    <property name={_attribute(n)} value={_attribute(f'{b} -> {w}')}/>\n" for n, b, w in comparison.changes
    )
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="harness compare" {counts}>',
        f"  <testsuite name={name} {counts}>",
        *([f"    <properties>\n{changed}    </properties>"] if changed else []),
        *(_case(effect) for effect in comparison.effects),
        f"    <system-out>{escape(formats.clean(conclusion(comparison)))}</system-out>",
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(effect: Effect) -> str:
    write = value_writer(effect)
    between = interval_words(effect)
    text = f"{write(effect.base)} -> {write(effect.new)}: {change_words(effect)}" + (f" ({between})" if between else "")
    head = f"    <testcase classname={_attribute(cell_name(effect))} name={_attribute(effect.label)}"
    if effect.verdict == "regressed":
        return f'{head}>\n      <failure type="regressed" message={_attribute(text)}/>\n    </testcase>'
    if effect.p is None:
        return f"{head}>\n      <skipped message={_attribute(effect.note)}/>\n    </testcase>"
    return (
        f"{head}>\n      <system-out>{escape(formats.clean(f'{effect.verdict}: {text}'))}</system-out>\n    </testcase>"
    )


def _attribute(text: str) -> str:
    return quoteattr(formats.clean(text, 500))
