"""`harness recover`: rows of killed runs out of their spools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from harness.base.errors import StoreError
from harness.cli.results import as_json_option, emit

if TYPE_CHECKING:
    from harness.measure.recover import Recovered


@click.command("recover")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--from",
    "given",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Of one run that nodes sent (--on): a node's folder of rows, or a copy of it; may be repeated.",
)
@as_json_option
def recover_command(directory: Path, given: tuple[Path, ...], as_json: bool) -> None:
    """Store what killed runs at or below DIRECTORY had received and not stored yet.

    A run that ended by itself, by Ctrl-C too, has nothing left. Its rows join the part files; the run stays interrupted. Money that it had
    taken from a ledger and that nobody can have billed is given back. With --from the rows are those that a node of the run DIRECTORY kept
    when it was cut off, or when this machine went away.
    """
    if given:
        _from_nodes(directory, given, as_json=as_json)
        return
    from harness.measure.recover import runs_left

    recovered, damaged = [], []
    for run_dir in runs_left(directory):
        try:
            run = _with_progress(run_dir)
        except StoreError as error:  # the other runs are none the worse for it
            damaged.append(error)
            continue
        recovered.append({"run": str(run_dir), "recovered": run.rows, "stored_before": run.before, "planned": run.planned, "unread": run.unread,
                          "settled": [{"lease": one.lease, "spent_usd": str(one.spent_usd), "back_usd": str(one.back_usd)} for one in run.settled],
                          "unsettled": run.unsettled})  # fmt: skip
        if run.unread:
            damaged.append(_unread(run_dir, run.unread))
        if not as_json:
            click.echo(
                f"{run_dir}: {run.rows:,} rows recovered, {run.before:,} were stored before, {run.planned:,} were planned"
            )
            for line in (*(one.words for one in run.settled), *run.unsettled):
                click.echo(f"  {line}")
    if as_json:
        emit(recovered)
    elif not recovered and not damaged:
        click.echo(f"{directory}: no killed run left anything to recover")
    for earlier in damaged[:-1]:
        click.echo(f"error: {earlier}", err=True)
    if damaged:
        raise damaged[-1]


def _from_nodes(run_dir: Path, given: Sequence[Path], *, as_json: bool) -> None:
    from harness.measure.nodes.merge_kept import merge_kept

    came = merge_kept(run_dir, given)
    if as_json:
        emit(
            {
                "run": str(run_dir),
                "recovered": came.rows,
                "replaced": came.replaced,
                "nodes": came.nodes,
                "unread": came.unread,
            }
        )
    else:
        click.echo(
            f"{run_dir}: {came.rows:,} rows recovered, {came.replaced:,} in place of rows that only said they were lost, "
            f"from {', '.join(came.nodes)}"
        )
    if came.unread:
        more = f"; {len(came.unread) - 1} more" if len(came.unread) > 1 else ""
        raise StoreError(
            "a part of a node's rows cannot be read", came.unread[0] + more, "copy the folder from the node again"
        )


def _unread(run_dir: Path, what: Sequence[str]) -> StoreError:
    from harness.store.parts import SCRATCH

    more = f"; {len(what) - 1} more" if len(what) > 1 else ""
    advice = f"every reply that could be read is stored; the spool was kept in {run_dir / SCRATCH}: delete that folder when it is of no use"
    return StoreError("a part of the spool cannot be read", f"{run_dir}: {what[0]}{more}", advice)


def _with_progress(run_dir: Path) -> Recovered:
    from rich.console import Console
    from rich.progress import Progress

    from harness.measure.recover import recover

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(run_dir.name, total=None)
        return recover(run_dir, lambda rows, planned: progress.update(task, completed=rows, total=planned))
