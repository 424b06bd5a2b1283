"""`harness box`: what a campaign over a fleet starts on each of its boxes."""

from __future__ import annotations

import io
import os
import sys

import click

from harness.base.errors import HarnessError
from harness.cli.signals import signals


@click.command("box", hidden=True)
def box() -> int:
    """Run a part of a campaign, told on stdin; say how it goes on stdout, a line of JSON each."""
    from harness import pipeline
    from harness.measure.campaign.fleet.part import Voice
    from harness.measure.run import Stop

    said = io.TextIOWrapper(os.fdopen(os.dup(1), "wb"), encoding="utf-8")
    os.dup2(2, 1)  # what others print is no line of ours
    voice, stop = Voice(sys.stdin, said), Stop()
    with signals(stop):
        try:
            pipeline.measure_part(voice.work(), voice, stop)
        except HarnessError as error:
            voice.tell("trouble", str(error))
            return error.exit_code
    return 0
