"""Where cells are measured: the boxes that there are, what each target needs of one, and which targets are no box's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from harness.base.errors import HarnessError
from harness.config.experiment import ExperimentSpec
from harness.measure.campaign.course import Prepared
from harness.measure.campaign.fleet.boxes import Boxes
from harness.measure.campaign.fleet.schedule import Resources, Schedule, foreseen
from harness.measure.campaign.forecast import Forecast, Pace, longest_cool_down_s
from harness.measure.campaign.order import Step

HERE = "this machine"  # in a forecast

Find = Callable[[ExperimentSpec, Callable[[str], None]], Boxes]


def find_on_ray(spec: ExperimentSpec, say: Callable[[str], None]) -> Boxes:
    """The boxes of a Ray cluster. Raises ConfigError: there is no Ray."""
    from harness.measure.campaign.fleet.ray_boxes import RayBoxes

    assert spec.fleet is not None
    return RayBoxes(spec.fleet, say)


def shared(spec: ExperimentSpec, steps: Sequence[Step]) -> list[Step]:
    """The steps of targets that are no box's own."""
    names = {target.name for target in spec.targets if spec.is_shared(target)}
    return [step for step in steps if step.cell.target in names]


def foresee_boxes(
    spec: ExperimentSpec, out: Path, prepared: Prepared, coming: Forecast, find: Find = find_on_ray
) -> Forecast:
    """A forecast with the box of each cell, as they are now, and the time that they take together."""
    said: list[str] = []
    pace = Pace(out, longest_cool_down_s(spec))
    try:
        with find(spec, said.append) as boxes:
            found = boxes.look()
    except HarnessError as error:
        return replace(
            coming, notes=(*coming.notes, f"which box runs which cell is not known: {error.what}: {error.value}")
        )
    later = shared(spec, prepared.todo)
    schedule = Schedule([step for step in prepared.todo if step not in later], needs_of(spec))
    for box in found:
        schedule.came(box.name, box.resources)
    where, total_s = foreseen(schedule, lambda steps: pace.seconds(steps, prepared.sizes, spec))
    if later:
        where |= dict.fromkeys((step.name for step in later), HERE)
        total_s += pace.seconds(later, prepared.sizes, spec)
    cells = tuple(replace(cell, box=where.get(cell.name, "none")) for cell in coming.cells)
    words = f"{len(found)} boxes, as they are now: {', '.join(box.name for box in found)}"
    return replace(coming, cells=cells, total_s=total_s, notes=(*coming.notes, words, *said))


def needs_of(spec: ExperimentSpec) -> dict[str, Resources]:
    return {target.name: target.resources for target in spec.targets}
