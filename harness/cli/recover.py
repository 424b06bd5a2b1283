"""`harness recover`: rows of killed runs out of their spools."""

from __future__ import annotations

import json
from pathlib import Path

import click

from harness.cli.offline import as_json_option, directory_argument


@click.command("recover")
@directory_argument
@as_json_option
def recover_command(directory: Path, as_json: bool) -> None:
    """Store what killed runs at or below DIRECTORY had received and not stored yet.

    A run that ended by itself, by Ctrl-C too, has nothing left. Its rows join the part files; the run stays interrupted.
    """
    from rich.console import Console
    from rich.progress import Progress

    from harness.recover import recover, runs_left

    found = []
    for run_dir in runs_left(directory):
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(run_dir.name, total=None)
            done = recover(run_dir, lambda rows, planned: progress.update(task, completed=rows, total=planned))  # noqa: B023
        found.append({"run": str(run_dir), "recovered": done.rows, "stored_before": done.before, "planned": done.planned})  # fmt: skip
        if not as_json:
            click.echo(
                f"{run_dir}: {done.rows:,} rows recovered, {done.before:,} were stored before, {done.planned:,} were planned"
            )
    if as_json:
        click.echo(json.dumps(found, indent=2))
    elif not found:
        click.echo(f"{directory}: no killed run left anything to recover")
