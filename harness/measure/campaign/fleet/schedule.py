"""Which box runs which cells: no network, no clock, no files.

What is handed to a box is a repetition, all of its cells that the box can run, in their recorded order: cells of one repetition are
compared with each other, so that they stand on one box. Only where no box can run them all, or one was lost, is a repetition on
several.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from harness.measure.campaign.order import Step

MOST_LOST = 2  # boxes that a cell is lost with before it counts as what ends them

Resources = Mapping[str, float]


def suffices(has: Resources, needs: Resources) -> bool:
    """Whether a box with `has` can run what needs that."""
    return all(has.get(name, 0) >= amount for name, amount in needs.items())


@dataclass(slots=True)
class Schedule:
    """`steps` in their order; `needs`: a target's name -> what a box must have for it; `homes`: repetition -> the box that earlier runs
    of it stand on. Every step is waiting, then on a box, then over; a lost box gives its steps back."""

    steps: Sequence[Step]
    needs: Mapping[str, Resources]
    homes: dict[int, str] = field(default_factory=dict)
    boxes: dict[str, Resources] = field(default_factory=dict)
    _waiting: list[Step] = field(init=False)
    _running: dict[str, list[Step]] = field(init=False, default_factory=dict)
    _lost: dict[str, int] = field(init=False, default_factory=dict)
    _begun: set[int] = field(init=False)  # repetitions with a run

    def __post_init__(self) -> None:
        self._waiting = list(self.steps)
        self._begun = set(self.homes)

    @property
    def left(self) -> tuple[Step, ...]:
        """Steps that are not over, those that wait first."""
        return (*self._waiting, *(step for steps in self._running.values() for step in steps))

    @property
    def over(self) -> bool:
        return not self.left

    @property
    def busy(self) -> bool:
        return any(self._running.values())

    def came(self, box: str, resources: Resources) -> None:
        """A box that takes work from now on."""
        self.boxes[box] = resources

    def take(self, box: str, may_begin: Callable[[int], bool] = lambda _block: True) -> tuple[Step, ...]:
        """Hand the box its next cells, of one repetition; none where there are none for it now. `may_begin`: whether a repetition that was
        not begun may be.

        Its own repetitions come first, then the earliest that is open to it.
        """
        if self._running.get(box):
            return ()
        for block in sorted(self._open_to(box), key=lambda block: (self.homes.get(block) != box, block)):
            if block not in self.homes and not may_begin(block):
                continue
            taken = [step for step in self._waiting if step.block == block and self.fits(step, box)]
            self._waiting = [step for step in self._waiting if step not in taken]
            self._running[box] = taken
            self.homes[block] = box
            return tuple(taken)
        return ()

    def _open_to(self, box: str) -> list[int]:
        """Repetitions with cells for this box, unless a box that is here is at home there, or can run more of them than this one."""
        found = []
        for block in dict.fromkeys(step.block for step in self._waiting):
            mine = self._runs(block, box)
            home = self.homes.get(block)
            at_home = home is not None and home != box and home in self.boxes and bool(self._runs(block, home))
            if mine and not at_home and not any(mine < self._runs(block, other) for other in self.boxes):
                found.append(block)
        return found

    def _runs(self, block: int, box: str) -> frozenset[str]:
        """Names of the repetition's waiting cells that the box can run."""
        return frozenset(step.name for step in self._waiting if step.block == block and self.fits(step, box))

    def fits(self, step: Step, box: str) -> bool:
        return suffices(self.boxes.get(box, {}), self.needs.get(step.cell.target, {}))

    def ended(self, box: str, name: str) -> None:
        """The cell is over, whatever came of it."""
        self._begun |= {step.block for step in self._running.get(box, ()) if step.name == name}
        self._running[box] = [step for step in self._running.get(box, ()) if step.name != name]

    def gave_back(self, box: str) -> None:
        """The box ended its work and left cells of it: they wait again."""
        self._wait_again(self._running.pop(box, []))

    def lost(self, box: str) -> tuple[tuple[Step, ...], Step | None]:
        """The box is gone: (cells that wait again, the one that ran, where it was lost so often that it is over)."""
        self.boxes.pop(box, None)
        given_back = self._running.pop(box, [])
        self.homes = {
            block: "" if home == box else home
            for block, home in self.homes.items()
            if home != box or block in self._begun
        }
        ended = None
        if given_back:
            name = given_back[0].name  # of its cells only the first had begun
            self._lost[name] = self._lost.get(name, 0) + 1
            if self._lost[name] >= MOST_LOST:
                ended, given_back = given_back[0], given_back[1:]
        self._wait_again(given_back)
        return tuple(given_back), ended

    def _wait_again(self, steps: Sequence[Step]) -> None:
        self._waiting = sorted((*self._waiting, *steps), key=lambda step: step.index)

    def stranded(self) -> tuple[Step, ...]:
        """Waiting cells that no box can run that is here."""
        return tuple(step for step in self._waiting if not any(self.fits(step, box) for box in self.boxes))

    def give_up(self, steps: Sequence[Step]) -> None:
        """These waiting cells are over."""
        names = {step.name for step in steps}
        self._waiting = [step for step in self._waiting if step.name not in names]

    def drop_from(self, block: int) -> None:
        """Repetitions from this one on that were not begun are not wanted."""
        self.give_up([step for step in self._waiting if step.block >= block and step.block not in self.homes])


def foreseen(schedule: Schedule, seconds: Callable[[Sequence[Step]], float]) -> tuple[dict[str, str], float]:
    """(cell -> box, seconds until the last ends), if nothing goes wrong and pieces take what `seconds` says; uses the schedule up."""
    where: dict[str, str] = {}
    free = [(0.0, box) for box in sorted(schedule.boxes)]
    heapq.heapify(free)
    end_s = 0.0
    while free:
        now_s, box = heapq.heappop(free)
        taken = schedule.take(box)
        if not taken:
            continue
        for step in taken:
            where[step.name] = box
            schedule.ended(box, step.name)
        done_s = now_s + seconds(taken)
        end_s = max(end_s, done_s)
        heapq.heappush(free, (done_s, box))
    return where, end_s
