"""`harness reproduce`: a published throughput table, measured here."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import click

from harness.base.errors import INTERRUPTED, ConfigError
from harness.cli.results import console, emit
from harness.cli.signals import signals


@click.command("reproduce")
@click.argument("table")
@click.option("--dry-run", is_flag=True, help="Say which rows can run here, and why the others cannot; starts nothing.")
@click.option(
    "--from",
    "results_from",
    type=click.Path(path_type=Path),
    help="Compare with the runs in this run or experiment directory instead of measuring.",
)
@click.option(
    "--results",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where experiment directories stand; the table's is reproduce-NAME.",
)
@click.option(
    "--model", "models", multiple=True, metavar="TARGET=MODEL", help="Where a target's model is on this machine."
)
@click.option("--markdown", "markdown_file", type=click.Path(path_type=Path), help="Write the comparison there too.")
@click.option("--json", "as_json", is_flag=True, help="The comparison as JSON on stdout.")
def reproduce_command(
    table: str,
    dry_run: bool,
    results_from: Path | None,
    results: Path,
    models: tuple[str, ...],
    markdown_file: Path | None,
    as_json: bool,
) -> int:
    """Measure a published throughput TABLE's cells here: published, measured, ratio, and why they may differ.

    TABLE is a file, or the name of one in configs/experiments/tables. Rows whose model is not here or does not fit are
    named with the reason and skipped. Exit codes: 0 something was measured, 7 a row has INVALID runs only, 3 nothing
    could be measured, else that of the first failure.
    """
    from harness import pipeline
    from harness.config.published import load_table
    from harness.measure.reproduce import rows
    from harness.measure.reproduce.obstacles import this_machine
    from harness.measure.run import Stop
    from harness.report import published as page
    from harness.report.live import Live
    from harness.report.pages import write_whole

    if dry_run and results_from:
        raise ConfigError("--dry-run and --from", "both were given", "--from measures nothing by itself")
    published = rows.place_models(load_table(table), _places(models))
    machine = this_machine()
    stop = Stop()
    if dry_run:
        comparison, code = rows.dry_run(published, machine), 0
    elif results_from is not None:
        comparison, code = rows.compare_with(published, results_from, machine)
    else:
        out = results / f"reproduce-{published.table}"
        with signals(stop), Live() as live:
            measure = partial(pipeline.measure_campaign, out=out, display=live, stop=stop)
            comparison, code = rows.reproduce(published, out, measure, stop, machine)
    for problem in comparison.problems:
        click.echo(f"not read: {problem}", err=True)
    if markdown_file is not None:
        write_whole(markdown_file, page.markdown(comparison))
    if as_json:
        emit(comparison)
    else:
        page.render(console(), comparison)
        if markdown_file is not None:
            click.echo(f"markdown: {markdown_file}")
    return INTERRUPTED if stop.asked else code


def _places(models: tuple[str, ...]) -> dict[str, str]:
    places = {}
    for text in models:
        target, equals, model = text.partition("=")
        if not equals or not target or not model:
            raise ConfigError(
                "a model's place is TARGET=MODEL", text, "e.g. --model llama-8b=/models/Llama-3.1-8B-Instruct"
            )
        places[target] = model
    return places
