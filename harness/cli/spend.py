"""`harness spend`: what the ledgers say was spent, by key, day and campaign."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.table import Table

from harness.cli.results import console


@click.command()
@click.option(
    "--ledger-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="[default: HARNESS_LEDGER_DIR, or the user's state directory]",
)
@click.option("--json", "as_json", is_flag=True)
def spend(ledger_dir: Path | None, as_json: bool) -> None:
    """What was spent at paid APIs under a cap: a row for each key (by its fingerprint), day of UTC and campaign. What a killed run had
    taken counts as spent until `harness recover`, or the next start with such a ledger, settles it by what was sent."""
    from harness.price.ledger import ledger_dir as usual
    from harness.price.ledger import rows_of

    folder = ledger_dir or usual()
    rows, damaged = rows_of(folder)
    if as_json:
        out = [{"key": r.key, "day": r.day, "run": r.run, "usd": str(r.usd), "leases": r.leases} for r in rows]
        click.echo(json.dumps({"ledger_dir": str(folder), "rows": out, "damaged_lines": damaged}, indent=2))
        return
    table = Table("key", "day (UTC)", "campaign", "counted $", box=None)
    for row in rows:
        table.add_row(row.key, row.day, row.run, f"{row.usd:.6f}")
    console().print(table)
    for key in dict.fromkeys(row.key for row in rows):
        click.echo(f"key {key}: ${sum(row.usd for row in rows if row.key == key):.6f} in all")
    if not rows:
        click.echo(f"nothing was spent under a cap: no ledger in {folder}")
    for path, count in damaged.items():
        click.echo(f"note: {count} line(s) of {path} cannot be read and count for nothing")
