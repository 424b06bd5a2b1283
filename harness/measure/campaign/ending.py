"""How a campaign ends: one line, and whoever asked to be told."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from email.message import EmailMessage

import httpx

from harness.base import redaction
from harness.base.errors import HarnessError
from harness.config.experiment import NotifySpec
from harness.measure.control_request import request
from harness.records import CostReport, RunState, RunSummary

_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 60.0
_TOTAL_PRICE = "self_usd_per_million_total_tokens"


@dataclass(frozen=True, slots=True)
class Summary:
    """A campaign in one row. `ok` counts runs that are VALID or UNKNOWN, `invalid` INVALID ones that ran to their end, `failed`
    those that did not, `left` cells that were not run. The best cell is that of the highest output throughput among VALID runs,
    else UNKNOWN ones; its price is per million total tokens. None: there is none."""

    experiment: str
    campaign_id: str
    state: str  # finished | interrupted | aborted
    cells: int
    ok: int
    unknown: int
    invalid: int
    failed: int
    left: int
    dropped_repetitions: tuple[int, ...]
    best_cell: str | None
    best_output_tps: float | None
    best_usd_per_million_tokens: str | None
    duration_s: float
    report: str | None
    failures: tuple[str, ...] = ()
    exit_code: int = 0
    price_basis: str = "declared"  # declared | proposed | example, of the best cell


def summarise_campaign(
    experiment: str,
    campaign_id: str,
    state: str,
    cells: int,
    duration_s: float,
    summaries: Sequence[RunSummary],
    costs: Sequence[CostReport],
    *,
    report: str | None,
    dropped: Sequence[int] = (),
    failures: Sequence[str] = (),
    exit_code: int = 0,
) -> Summary:
    """Count the runs' states and verdicts, and find the best cell."""
    failed = [s for s in summaries if s.state != RunState.COMPLETE]
    ran = [s for s in summaries if s.state == RunState.COMPLETE]
    invalid = [s for s in ran if s.verdict.state == "INVALID"]
    unknown = [s for s in ran if s.verdict.state == "UNKNOWN"]
    valid = [s for s in ran if s.verdict.state == "VALID"]
    rated = [s for s in valid or unknown if s.scalars.get("output_tps") is not None]
    best = max(rated, key=lambda s: s.scalars["output_tps"] or 0.0, default=None)
    bases = {c.run_id: c.hardware.basis for c in costs if c.hardware is not None}
    prices = {c.run_id: line.usd for c in costs for line in c.own if line.name == _TOTAL_PRICE}
    return Summary(
        experiment=experiment,
        campaign_id=campaign_id,
        state=state,
        cells=cells,
        ok=len(valid) + len(unknown),
        unknown=len(unknown),
        invalid=len(invalid),
        failed=len(failed),
        left=max(0, cells - len(summaries)),
        dropped_repetitions=tuple(dropped),
        best_cell=None if best is None else best.cell.name,
        best_output_tps=None if best is None else best.scalars["output_tps"],
        best_usd_per_million_tokens=None if best is None else prices.get(best.run_id),
        price_basis="declared" if best is None else bases.get(best.run_id, "declared"),
        duration_s=duration_s,
        report=report,
        failures=tuple(failures),
        exit_code=exit_code,
    )


def aborted(experiment: str, error: HarnessError) -> Summary:
    """A campaign that could not go on."""
    why = "; ".join(str(error).splitlines())
    return summarise_campaign(
        experiment, "", "aborted", 0, 0.0, (), (), report=None, failures=[why], exit_code=error.exit_code
    )


def line(summary: Summary) -> str:
    """The summary for people, in one line."""
    counts = f"{summary.ok} ok" + (f" ({summary.unknown} UNKNOWN)" if summary.unknown else "")
    counts += f", {summary.invalid} INVALID, {summary.failed} failed"
    counts += f", {summary.left} not run" if summary.left else ""
    parts = [f"campaign {summary.campaign_id} {summary.state}: {summary.cells} cells, {counts}"]
    if summary.dropped_repetitions:
        parts.append(f"repetitions left out for time: {', '.join(map(str, summary.dropped_repetitions))}")
    if summary.best_cell is not None:
        price = summary.best_usd_per_million_tokens
        basis = "" if summary.price_basis == "declared" else f" ({summary.price_basis} price)"
        money = f", ${float(price):.4g}/M tokens{basis}" if price is not None else ""
        parts.append(f"best {summary.best_output_tps:.1f} output tok/s{money} ({summary.best_cell})")
    parts.append(duration(summary.duration_s))
    parts += [summary.report] if summary.report else []
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """`38 s`, `2:05`, `1:02:05`."""
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}" if minutes else f"{whole} s"


def notify(spec: NotifySpec, summary: Summary, say: Callable[[str], None]) -> None:
    """Tell the webhook, the command and the mail address, as far as they are given. Never raises: a notice that fails
    is said, without the webhook's URL, which is a secret."""
    text = json.dumps(redaction.data(asdict(summary)))
    if spec.webhook_env:
        say_failure(_post(spec.webhook_env, text), "webhook", say)
    if spec.command:
        say_failure(_run(spec.command, text), "command", say)
    if spec.mail:
        say_failure(_run(["sendmail", "-i", "-t"], _mail(spec.mail, summary, text)), "mail", say)


def say_failure(why: str | None, what: str, say: Callable[[str], None]) -> None:
    if why is not None:
        say(redaction.text(f"warning: the {what} of notify failed: {why}"))


def _post(variable: str, text: str) -> str | None:
    url = os.environ.get(variable, "").strip()
    if not url:
        return f"the environment variable {variable} is not set"
    try:
        with httpx.Client(timeout=_TIMEOUT_S) as http:
            kind = {"content-type": "application/json"}
            answer = request(http, "POST", url, content=text, headers=kind, total_s=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        return f"{type(error).__name__} ({variable})"
    return None if answer.is_success else f"HTTP {answer.status_code} ({variable})"


def _run(command: Sequence[str], text: str) -> str | None:
    try:
        done = subprocess.run(
            list(command), input=text, text=True, capture_output=True, timeout=_COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{command[0]}: {type(error).__name__}"
    said = (done.stderr or done.stdout).strip().splitlines()
    return (
        None
        if done.returncode == 0
        else f"{command[0]}: exit status {done.returncode} {said[-1] if said else ''}".strip()
    )


def _mail(address: str, summary: Summary, text: str) -> str:
    message = EmailMessage()
    message["To"] = address
    message["Subject"] = (
        f"{summary.experiment}: {summary.ok} of {summary.cells} cells ok, exit code {summary.exit_code}"
    )
    message.set_content(redaction.text("\n".join([line(summary), *summary.failures, "", text])))
    return message.as_string()
