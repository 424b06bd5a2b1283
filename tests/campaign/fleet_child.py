"""A campaign over a box of this machine, in a process that can be killed: `fleet_child.py CONFIG OUT BOXES`; says what the campaign says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from campaign_values import Quiet
from fleet_values import LocalBoxes

from harness import pipeline
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.intent import Intent
from harness.measure.run import Stop


class Said(Quiet):
    def say(self, text: str) -> None:
        print(text, flush=True)


def main() -> None:
    config, out, folder = sys.argv[1:]
    boxes = LocalBoxes(Path(folder), {"x": {}})
    spec = ExperimentSpec.model_validate(json.loads(config))
    pipeline.measure_fleet(spec, Path(out), Said(), Stop(), Intent(), None, boxes)


main()
