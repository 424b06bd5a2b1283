"""A comparison as a comment of a pull request: one line, the table of what moved, the rest folded. GitHub's Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Comparison, Effect
from harness.report import compare, formats
from harness.report.formats import md_code, md_text

_MARKS = {"regressed": "❌", "improved": "✅", "unchanged": "⚪", "unclear": "❔"}
_MAX_ROWS = 400  # a comment of GitHub ends at 65,536 characters


def markdown(comparison: Comparison) -> str:
    """The whole comment. Words from outside are escaped."""
    moved = [e for e in comparison.effects if e.verdict in ("regressed", "improved")]
    rest = [e for e in comparison.effects if e.verdict not in ("regressed", "improved")]
    known = any(e.verdict in ("unchanged", "improved") for e in comparison.effects)
    mark = "❌" if compare.regressed(comparison) else "✅" if known else "❔"
    parts = [
        f"{mark} **{md_text(compare.conclusion(comparison))}**",
        f"base {md_code(compare.side_name(comparison.base))}, new {md_code(compare.side_name(comparison.new))}",
    ]
    if moved:
        parts.append(_table(moved))
    if comparison.changes:
        lines = [
            f"| {md_text(n)} | {md_code(b, cell=True)} | {md_code(w, cell=True)} |" for n, b, w in comparison.changes
        ]
        parts.append(_folded(f"what changed ({len(lines)})", "\n".join(["| | base | new |", "|---|---|---|", *lines])))
    if rest:
        more = f"\n\n{len(rest) - _MAX_ROWS} more are in the JSON." if len(rest) > _MAX_ROWS else ""
        parts.append(_folded(f"not regressed and not improved ({len(rest)})", _table(rest[:_MAX_ROWS]) + more))
    lines = compare.notes(comparison)
    if lines:
        parts.append("\n".join(f"- {md_text(line)}" for line in lines))
    parts.append(_folded("how this was decided", md_text(compare.method(comparison))))
    return "\n\n".join(parts) + "\n"


def _table(effects: Sequence[Effect]) -> str:
    lines = [
        "| | cell | metric | base | new | change | corrected interval | n |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]
    for e in effects:
        write = compare.value_writer(e)
        between = compare.interval_words(e) or e.note
        numbers = (write(e.base), write(e.new), compare.change_words(e), between, f"{e.base_count}/{e.new_count}")
        cells = " | ".join(md_text(text) for text in numbers)
        lines.append(
            f"| {_MARKS[e.verdict]} {e.verdict} | {md_code(compare.cell_name(e), cell=True)} | {md_text(e.label)} | {cells} |"
        )
    return "\n".join(lines)


def _folded(title: str, body: str) -> str:
    return f"<details><summary>{formats.clean(title)}</summary>\n\n{body}\n\n</details>"
