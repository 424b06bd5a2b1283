"""`harness upload`: results of this machine to where they are kept."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from harness.base.errors import ConfigError, StoreError
from harness.cli.results import as_json_option, emit


@click.command("upload")
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("url")
@as_json_option
def upload_command(directory: Path, url: str, as_json: bool) -> None:
    """Put the runs of DIRECTORY (a run, an experiment or all results) to URL, e.g. s3://bucket/nightly, as `harness run --results URL` does.

    What is there whole is left alone, so it may be repeated, and goes on where it was broken off: exit code 0 says that all is there.
    """
    from rich.console import Console
    from rich.progress import Progress

    from harness.pipeline import upload_results
    from harness.store.elsewhere import is_url

    if not is_url(url):
        raise ConfigError(
            "that is no URL", url, "give s3://BUCKET/PREFIX, gs://.. or abfs://..; a directory is copied by cp"
        )
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("runs", total=None)
        say = lambda text: click.echo(text, err=True)  # noqa: E731
        done = upload_results(directory, url, say, lambda at, of: bar.update(task, completed=at, total=of))
    if as_json:
        emit(done)
    else:
        click.echo(
            f"{url}: {len(done.runs):,} runs uploaded, {done.bytes / 1e6:,.1f} MB; {done.known:,} were there; {done.indexed:,} rows in the history"
        )
    if done.left:
        name, why = done.left[0]
        more = f" (and {len(done.left) - 1} more)" if len(done.left) > 1 else ""
        raise StoreError("not everything is there", f"{name}{more}", why)
