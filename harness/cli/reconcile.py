"""`harness cost reconcile FILE`: a vendor's invoice or usage export against our own rows, to the cent."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path

import click

from harness.base.errors import ConfigError, UnreconciledError, nearest
from harness.cli.results import Directory, as_json_option, console, emit

_day = click.DateTime(["%Y-%m-%d"])


@click.command("reconcile")
@click.argument("files", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--results", "directory", type=Directory("all"), default=Path("results"), show_default=True, metavar="DIR|URL",
    help="Our side: a run, an experiment's directory, or that of all.",
)  # fmt: skip
@click.option("--since", type=_day, help="First day (UTC)  [default: the file's]")
@click.option("--until", type=_day, help="Last day (UTC), in it  [default: the file's]")
@click.option("--model", help="This model alone, by our name or theirs.")
@click.option("--key", help="Rows of this API key alone, as the file names it.")
@click.option(
    "--column", "columns", multiple=True, metavar="OURS=THEIRS", help="Columns of any other CSV: day=Date usd=Cost .."
)
@as_json_option
def reconcile_command(
    files: tuple[Path, ...],
    directory: Path,
    since: datetime | None,
    until: datetime | None,
    model: str | None,
    key: str | None,
    columns: tuple[str, ...],
    as_json: bool,
) -> int:
    """Compare FILES (usage and costs exports of one vendor, or its invoice as CSV) with our runs against it, and name each difference.

    Known: the usage and costs APIs of OpenAI and Anthropic (JSON), OpenAI's and Anthropic's dashboards (CSV); any other CSV with
    --column. Exit code 9 where they do not agree to the cent.
    """
    from harness.judge.runs import hosted_summaries
    from harness.price.invoice import read_invoice
    from harness.price.reconcile import Wanted, reconcile
    from harness.report import reconcile as report

    declared = _declared(columns)
    invoices = [read_invoice(path, declared) for path in files]
    summaries, problems = hosted_summaries(directory)
    for problem in problems:
        click.echo(f"not read: {problem}", err=True)
    wanted = Wanted(_date(since), _date(until), model, key)
    found = reconcile([row for invoice in invoices for row in invoice.rows], summaries, wanted)
    if as_json:
        emit({"files": [{"file": str(path), "format": i.format, "rows": len(i.rows), "columns_not_read": list(i.unread)}
                        for path, i in zip(files, invoices, strict=True)], **report.as_values(found)})  # fmt: skip
    else:
        for path, invoice in zip(files, invoices, strict=True):
            unread = f"; columns not read: {', '.join(invoice.unread)}" if invoice.unread else ""
            click.echo(f"{path}: {invoice.format}, {len(invoice.rows)} rows{unread}")
        report.render(console(), found)
    return 0 if found.agrees else UnreconciledError.exit_code


def _date(day: datetime | None) -> date | None:
    return None if day is None else day.date()


def _declared(columns: tuple[str, ...]) -> dict[str, str]:
    """Raises ConfigError for words that are not OURS=THEIRS, or a name of ours that there is not."""
    from harness.price.invoice import GENERIC

    declared = {}
    for text in columns:
        ours, equals, theirs = text.partition("=")
        if not equals or not theirs or ours not in GENERIC:
            known = ", ".join(GENERIC)
            raise ConfigError("--column is OURS=THEIRS", text, nearest(ours, GENERIC, f"of {known}, e.g. usd=Cost"))
        declared[ours] = theirs
    return declared
