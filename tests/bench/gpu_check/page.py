"""The summary: lines for a terminal, and a Markdown page that can be committed (no host name, no path of this machine)."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from harness.base import redaction
from harness.measure.observe import machine
from tests.bench.gpu_check.step import DIFFERS, FAILED, OK, ROOT, SKIPPED, Outcome

_NAMES = (OK, DIFFERS, FAILED, SKIPPED)


def verdict(outcome: Outcome) -> str:
    """`ok`, or the state with its reason."""
    return outcome.state if not outcome.why else f"{outcome.state}: {outcome.why}"


def counts(outcomes: Sequence[Outcome]) -> str:
    found = {name: sum(o.state == name for o in outcomes) for name in _NAMES}
    return ", ".join(f"{number} {name}" for name, number in found.items() if number) or "nothing was run"


def table(outcomes: Sequence[Outcome]) -> str:
    """A line a step, and below it what was seen."""
    lines = [f"{'step':12}{'seconds':>8}  verdict"]
    for outcome in outcomes:
        took = f"{outcome.seconds:.0f}" if outcome.state != SKIPPED else "-"
        lines.append(f"{outcome.step:12}{took:>8}  {verdict(outcome)}")
        if said := outcome.figures.get("said"):
            lines.append(f"{'':22}{said}")
    return "\n".join([*lines, counts(outcomes)])


def public(text: str) -> str:
    """Without secrets, and without where things stand on this machine."""
    for path, word in ((str(ROOT), "."), (str(Path.home()), "~")):
        text = text.replace(path, word)
    return str(redaction.text(text)).replace(os.uname().nodename, "HOST")


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", public(text)).replace("|", "\\|").replace("<", "&lt;")


def markdown(outcomes: Sequence[Outcome]) -> str:
    """A page of all steps; `outcomes` hold what was expected of each."""
    commits = sorted({str(o.harness.get("commit") or "?")[:12] for o in outcomes if o.done})
    days = sorted({o.began_utc[:10] for o in outcomes if o.done})
    boards = sorted({str(name) for o in outcomes for name in o.harness.get("boards") or ()})
    rehearsal = any(o.rehearsal and o.done for o in outcomes)
    when = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "never"
    where = f"{', '.join(boards) or 'no GPU'}; {machine.cpu_model()}, {machine.cores()['usable']} cores"
    lines = [
        "# GPU check" + (" (REHEARSAL: a tiny model on a CPU stood for the GPU's server)" if rehearsal else ""),
        "",
        f"Run {when}, harness at {', '.join(commits) or '?'}; {where}. {counts(outcomes)}.",
        "",
        "| step | what it runs | expected | verdict | seen | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        cells = (
            o.step,
            o.runs,
            o.expects,
            verdict(o),
            str(o.figures.get("said", "")),
            "" if o.state == SKIPPED else f"{o.seconds:.0f}",
        )
        lines.append("| " + " | ".join(map(_cell, cells)) + " |")
    return "\n".join(lines) + "\n"
