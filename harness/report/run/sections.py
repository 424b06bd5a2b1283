"""What the sections of the report say, as plain values: HTML and Markdown are both made from these."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.base import redaction
from harness.records import CostReport, RunSummary, TokenCheck
from harness.report import formats
from harness.report.run.answer import Answer
from harness.report.run.cells import Row

_SEVERITIES = ("invalid", "unknown", "warning")
_MAX_ROWS = 400


@dataclass(frozen=True, slots=True)
class Finding:
    """One kind of validity finding: its messages with the runs they were said of, and what to do."""

    code: str
    severity: str
    messages: tuple[tuple[str, tuple[RunSummary, ...]], ...]
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TokenLine:
    """A token check of one run; `agrees` is None where fewer than two of the three counts exist."""

    run: RunSummary
    check: TokenCheck
    agrees: bool | None


@dataclass(frozen=True, slots=True)
class Fact:
    """A line of the provenance: the values seen under one name, each with how many runs said it."""

    name: str
    values: tuple[tuple[str, int], ...]


def anchors(summaries: Sequence[RunSummary]) -> dict[str, str]:
    """run id -> an id for HTML: letters, digits, `-`, `_` and `.` only, each different."""
    ids: dict[str, str] = {}
    for run in summaries:
        slug = "run-" + re.sub(r"[^A-Za-z0-9_.-]+", "-", run.run_id)[:120]
        while slug in ids.values():
            slug += "-x"
        ids.setdefault(run.run_id, slug)
    return ids


def findings(summaries: Sequence[RunSummary]) -> list[Finding]:
    """Reasons of all runs by code and severity, the worst severity first."""
    grouped: dict[tuple[str, str], tuple[dict[str, list[RunSummary]], dict[str, None]]] = {}
    for run in summaries:
        for reason in run.verdict.reasons:
            messages, advice = grouped.setdefault((reason.severity, reason.code), ({}, {}))
            messages.setdefault(formats.clean(reason.message), []).append(run)
            if reason.advice:
                advice.setdefault(formats.clean(reason.advice))
    order = sorted(grouped, key=lambda key: (_SEVERITIES.index(key[0]) if key[0] in _SEVERITIES else -1, key[1]))
    return [
        Finding(code, severity, tuple((text, tuple(runs)) for text, runs in messages.items()), tuple(advice))
        for severity, code in order
        for messages, advice in (grouped[severity, code],)
    ]


def token_lines(summaries: Sequence[RunSummary]) -> list[TokenLine]:
    """The token checks of every run, those that disagree first."""
    lines = []
    for run in summaries:
        for check in run.tokens:
            counts = [count for count in (check.counted, check.usage, check.server_counter) if count is not None]
            lines.append(TokenLine(run, check, len(set(counts)) == 1 if len(counts) > 1 else None))
    return sorted(lines, key=lambda line: (True, None, False).index(line.agrees) * -1)


def token_verdict(lines: Sequence[TokenLine]) -> str:
    """The token accounting in one sentence."""
    if not lines:
        return "No token counts were made."
    differing, single = sum(line.agrees is False for line in lines), sum(line.agrees is None for line in lines)
    agreeing = len(lines) - differing - single
    text = f"{agreeing} of {len(lines)} counts agree between every source that exists"
    text += f"; {differing} differ" if differing else ""
    return text + (f"; {single} have fewer than two sources and cannot be checked" if single else "") + "."


def facts(mappings: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """Nested mappings of several runs as lines `a.b.c`: one value where all runs agree, else each with its count.

    Secrets are masked.
    """
    names: dict[str, dict[str, int]] = {}
    for mapping in mappings:
        for name, value in _flat(redaction.data(mapping), ""):
            counts = names.setdefault(name, {})
            counts[value] = counts.get(value, 0) + 1
    return [Fact(name, tuple(counts.items())) for name, counts in names.items()][:_MAX_ROWS]


def _flat(value: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            plain = formats.clean(key, 80)
            yield from _flat(inner, f"{name}.{plain}" if name else plain)
    elif isinstance(value, list | tuple) and any(isinstance(inner, Mapping | list | tuple) for inner in value):
        for index, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{index}]")
    elif isinstance(value, list | tuple):
        yield name, formats.clean(", ".join(map(str, value)), 300) or formats.ABSENT
    else:
        yield name, formats.ABSENT if value is None or value == {} else formats.clean(value, 300)


def startups(summaries: Sequence[RunSummary]) -> list[tuple[str, Mapping[str, float | None]]]:
    """(target, cold start times) of every server that we started, once each."""
    servers: dict[tuple[str, tuple[Any, ...]], Mapping[str, float | None]] = {}
    for run in summaries:
        if any(value is not None for value in run.startup.values()):
            servers.setdefault(
                (run.cell.target, tuple(sorted(run.startup.items(), key=lambda item: item[0]))), run.startup
            )
    return [(target, startup) for (target, _), startup in servers.items()]


def timeline_run(best: Answer, table: Sequence[Row], summaries: Sequence[RunSummary]) -> RunSummary | None:
    """The run to show over time: of the answer's cell the one nearest the median, else the first with a timeline."""
    row = best.row if best.row is not None else next((row for row in table if row.used), None)
    near: list[RunSummary] = []
    if row is not None:
        middle = float(row.middle("output_tps") or 0)
        near = sorted(row.used, key=lambda run: abs((run.scalars.get("output_tps") or 0) - middle))
    return next((run for run in [*near, *summaries] if run.timeline is not None), None)


def costs_shown(
    best: Answer, costs: Sequence[CostReport], summaries: Sequence[RunSummary], *, allow_invalid: bool
) -> list[CostReport]:
    """The costs to print, the answer's first; those of INVALID or unknown runs only if allowed."""
    trusted = {run.run_id for run in summaries if allow_invalid or run.verdict.state != "INVALID"}
    first = best.cost.run_id if best.cost is not None else ""
    return sorted((cost for cost in costs if cost.run_id in trusted), key=lambda cost: cost.run_id != first)


def outcome_words(run: RunSummary) -> str:
    """`120 ok, 12 reset`."""
    return ", ".join(f"{count:,} {formats.clean(name, 60)}" for name, count in run.outcomes.items()) or "no request"
