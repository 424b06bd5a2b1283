"""`harness recover`: rows of killed runs out of their spools."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.cli.offline import as_json_option, directory_argument

if TYPE_CHECKING:
    from harness.recover import Recovered


@click.command("recover")
@directory_argument
@as_json_option
def recover_command(directory: Path, as_json: bool) -> None:
    """Store what killed runs at or below DIRECTORY had received and not stored yet.

    A run that ended by itself, by Ctrl-C too, has nothing left. Its rows join the part files; the run stays interrupted.
    """
    from harness.recover import runs_left

    found = []
    for run_dir in runs_left(directory):
        done = _with_progress(run_dir)
        found.append({"run": str(run_dir), "recovered": done.rows, "stored_before": done.before, "planned": done.planned})  # fmt: skip
        if not as_json:
            click.echo(
                f"{run_dir}: {done.rows:,} rows recovered, {done.before:,} were stored before, {done.planned:,} were planned"
            )
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"{directory}: no killed run left anything to recover")


def _with_progress(run_dir: Path) -> Recovered:
    from rich.console import Console
    from rich.progress import Progress

    from harness.recover import recover

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(run_dir.name, total=None)
        return recover(run_dir, lambda rows, planned: progress.update(task, completed=rows, total=planned))
