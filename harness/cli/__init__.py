"""Commands: parse, call one function, print, exit code. What they do is in pipeline.py."""

from __future__ import annotations

import os
import sys

import click

from harness import __version__
from harness.base import redaction
from harness.base.errors import INTERRUPTED, HarnessError, StoreError
from harness.base.files import is_no_room
from harness.cli import (
    box,
    calibrate,
    catalogue,
    compare,
    cost,
    history,
    monitor,
    probe,
    recover,
    reproduce,
    results,
    run,
    spend,
    upload,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="harness")
@click.option("--debug", is_flag=True, help="Show a traceback instead of the three-line error.")
def cli(debug: bool) -> None:
    """Measures real vLLM servers and hosted LLM APIs, and turns what it measures into dollars per token.

    Exit codes: 2 config, 3 target, 4 required telemetry missing, 5 store, 6 not comparable, 7 INVALID run, 8 regression.
    """


def main() -> None:
    """Entry point: a HarnessError becomes three lines on stderr and its exit code. Secrets of the
    environment and of the command line are masked in all that is printed."""
    redaction.learn_data(dict(os.environ))
    redaction.learn_data(sys.argv[1:])
    redaction.terminal()
    debug = "--debug" in sys.argv[1:] or bool(os.environ.get("HARNESS_DEBUG"))
    try:
        code = cli.main(standalone_mode=False)
    except HarnessError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            raise
        if is_no_room(error):
            click.echo(
                f"error: no room to write\n{error.filename or ''}: {error.strerror}\nfree some space or use another --out; what was stored is readable",
                err=True,
            )
            sys.exit(StoreError.exit_code)
        click.echo(
            f"error: not foreseen\n{type(error).__name__}: {error}\nrun it again with `harness --debug ..` and report what it prints",
            err=True,
        )
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


for command in (
    run.run,
    run.plan_command,
    spend.spend,
    results.analyse_command,
    cost.cost_group,
    results.report_command,
    recover.recover_command,
    compare.compare_command,
    history.history_group,
    upload.upload_command,
    monitor.monitor_group,
    reproduce.reproduce_command,
    probe.probe_command,
    probe.targets,
    catalogue.workloads,
    catalogue.prices,
    catalogue.doctor,
    calibrate.calibrate_command,
    box.box,
):
    cli.add_command(command)
