"""Which cells an experiment has, and in which order they run.

A block is one repetition of every cell. Within a block the order of the targets is random, and within a target that of
its cells: drift of the machine over the night then meets every cell alike, and a server is started once a block.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import groupby

from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.records import Cell

_LONGEST_NAME = (
    200  # bytes; file systems take 255, and a run directory has a date before the name and a probe's number behind it
)


@dataclass(frozen=True, slots=True)
class Step:
    """One cell in its place: `index` counts from 1 over the campaign."""

    index: int
    cell: Cell
    load: LoadSpec

    @property
    def name(self) -> str:
        return self.cell.name

    @property
    def block(self) -> int:
        return self.cell.repetition


def cells_of(spec: ExperimentSpec, target: str) -> list[tuple[Cell, LoadSpec]]:
    """Every cell of one target as written, repetitions outermost."""
    return [
        (Cell(target, workload, load, repetition), load_spec)
        for repetition in range(1, spec.repetitions + 1)
        for workload in spec.workloads
        for load_spec in spec.loads
        for load in load_spec.points()
    ]


def ordered(spec: ExperimentSpec, only: Sequence[str] = ()) -> tuple[Step, ...]:
    """The cells in the order they run, a function of the spec and its seed; `only`: those whose name one glob matches.

    The order of the rest is not changed by leaving cells out. Raises ConfigError: nothing matches, two cells have
    one name (their directories would be one), or a name is too long for a directory.
    """
    cells = [pair for block in range(1, spec.repetitions + 1) for pair in _block(spec, block)]
    twice = [name for name, count in Counter(cell.name for cell, _ in cells).items() if count > 1]
    if twice:
        raise ConfigError("two cells have one name", twice[0], "write every workload and every load point once")
    longest = max((cell.name for cell, _ in cells), key=lambda name: len(name.encode()), default="")
    if len(longest.encode()) > _LONGEST_NAME:
        advice = "shorten the target's name or the workload's path: a link to the file has a shorter one"
        raise ConfigError(f"a cell's name is longer than {_LONGEST_NAME} bytes", longest, advice)
    if not cells:
        raise ConfigError("the experiment has no cell", spec.experiment, "its loads name no point to measure")
    kept = [pair for pair in cells if not only or any(fnmatchcase(pair[0].name, pattern) for pattern in only)]
    if not kept:
        shown = ", ".join(cell.name for cell, _ in cells[:4])
        raise ConfigError("no cell has such a name", " ".join(only), f"cells are named {shown}, ..; * matches anything")
    return tuple(Step(index, cell, load) for index, (cell, load) in enumerate(kept, 1))


def _block(spec: ExperimentSpec, block: int) -> list[tuple[Cell, LoadSpec]]:
    per_target = [[pair for pair in cells_of(spec, t.name) if pair[0].repetition == block] for t in spec.targets]
    match spec.order:
        case "as-written":
            pass
        case "blocked-random":
            draw = random.Random(f"{spec.seed}|order|{block}")  # noqa: S311 - an order to run in, not a secret
            draw.shuffle(per_target)
            for cells in per_target:
                draw.shuffle(cells)
    return [pair for cells in per_target for pair in cells]


def from_names(spec: ExperimentSpec, names: Sequence[str]) -> tuple[Step, ...]:
    """The steps that a campaign file recorded. Raises ConfigError for a name that the spec has no cell of."""
    known = {cell.name: (cell, load) for target in spec.targets for cell, load in cells_of(spec, target.name)}
    missing = [name for name in names if name not in known]
    if missing:
        raise ConfigError("the campaign has a cell that the config has not", missing[0], "resume with the same config")
    return tuple(Step(index, *known[name]) for index, name in enumerate(names, 1))


def blocks(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps of each block, in order."""
    return [list(group) for _, group in groupby(steps, key=lambda step: step.block)]


def visits(steps: Sequence[Step]) -> list[list[Step]]:
    """The steps of each visit to a target within one block, in order."""
    return [list(group) for _, group in groupby(steps, key=lambda step: (step.cell.target, step.block))]


def server_key(spec: ExperimentSpec, step: Step) -> tuple[str, int]:
    """Steps with equal keys, one after the other, are served by one start of a server."""
    keep = len(spec.targets) == 1 and spec.restart == "never" and spec.fleet is None  # a box starts one a repetition
    return step.cell.target, 0 if keep else step.block
