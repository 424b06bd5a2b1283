"""A comparison as JUnit XML: one test case for each cell and metric, so that any CI shows what regressed."""

from __future__ import annotations

from xml.sax.saxutils import escape, quoteattr  # writes only: nothing is parsed

from harness.records import Comparison, Effect
from harness.report import compare, formats


def junit(comparison: Comparison) -> str:
    """A `testsuites` document: regressed is a failure, what could not be tested is skipped, everything else passes."""
    failures = sum(e.verdict == "regressed" for e in comparison.effects)
    skipped = sum(e.p is None for e in comparison.effects)
    counts = f'tests="{len(comparison.effects)}" failures="{failures}" errors="0" skipped="{skipped}"'
    name = _attribute(f"{compare.side_name(comparison.new)} against {compare.side_name(comparison.base)}")
    changed = "".join(
        f"    <property name={_attribute(n)} value={_attribute(f'{b} -> {w}')}/>\n" for n, b, w in comparison.changes
    )
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        f'<testsuites name="harness compare" {counts}>',
        f"  <testsuite name={name} {counts}>",
        *([f"    <properties>\n{changed}    </properties>"] if changed else []),
        *(_case(effect) for effect in comparison.effects),
        f"    <system-out>{escape(formats.clean(compare.conclusion(comparison)))}</system-out>",
        "  </testsuite>",
        "</testsuites>",
    ]
    return "\n".join(lines) + "\n"


def _case(effect: Effect) -> str:
    write = compare.value_writer(effect)
    between = compare.interval_words(effect)
    text = f"{write(effect.base)} -> {write(effect.new)}: {compare.change_words(effect)}" + (
        f" ({between})" if between else ""
    )
    head = f"    <testcase classname={_attribute(compare.cell_name(effect))} name={_attribute(effect.label)}"
    if effect.verdict == "regressed":
        return f'{head}>\n      <failure type="regressed" message={_attribute(text)}/>\n    </testcase>'
    if effect.p is None:
        return f"{head}>\n      <skipped message={_attribute(effect.note)}/>\n    </testcase>"
    return (
        f"{head}>\n      <system-out>{escape(formats.clean(f'{effect.verdict}: {text}'))}</system-out>\n    </testcase>"
    )


def _attribute(text: str) -> str:
    return quoteattr(formats.clean(text, 500))
