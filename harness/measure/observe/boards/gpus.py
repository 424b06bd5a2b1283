"""The boards that are watched, and a row for each of them. Knows counters by name only; NVML itself is in nvml.py.

A board in MIG mode gives one row for the board (power, energy, clocks: they exist only there and cover all its slices) and
one row for each watched slice (memory). No quantity stands on both, so sums over rows count nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from statistics import median
from typing import Any

from harness.base import clock
from harness.measure.observe.boards.unit import Unit, board_facts, read_unit
from harness.records import GpuSample

SAMPLED = (
    "energy",
    "power",
    "utilisation",
    "memory",
    "SM clock",
    "memory clock",
    "temperature",
    "clock event reasons",
    "processes",
)
# Memory that may be nobody's: less than a CUDA context takes. What a board holds beyond it has an owner.
UNOWNED_BYTES = 128 << 20
_NOTHING: Mapping[str, None] = dict.fromkeys(f.name for f in fields(GpuSample)[3:])


class Gpus:
    """The boards and slices watched. Not for use from two threads at once.

    `why` says how the watched ones were chosen, `certain` whether they are surely the target's; `target_seen` whether a
    process of the target was ever found on one of them; `foreign` holds the ids of the other processes in the last list;
    `others_known` whether the last lists told of all processes; `notes` says what could not be opened; `calls` gives what questions to the driver took.
    """

    def __init__(
        self,
        boards: Sequence[Unit],
        notes: Sequence[str],
        driver: Mapping[str, Any],
        shut_down: Callable[[], None],
        *,
        calls: Callable[[], dict[str, dict[str, float]]],
        xids: Callable[[], list[tuple[int, int]]],
    ) -> None:
        self._boards = tuple(boards)
        self._watched: tuple[Unit, ...] = ()
        self._driver = dict(driver)
        self._shut_down = shut_down
        self.why = ""
        self.certain = False
        self.target_seen = False
        self.foreign: frozenset[int] = frozenset()
        self.others_known: bool | None = None
        self.sees_all_processes = True  # whether a pid of anybody's would be in the lists: not so in a container
        self.used_before: Mapping[str, int] = {}  # uuid -> bytes held before the target was started
        self.notes = tuple(notes)
        self.calls = calls
        self._xids = xids

    def watch(self, pids: Collection[int], devices: Sequence[str] | None = None) -> str | None:
        """Choose what is sampled: `devices` where given, else the boards where a process of `pids` runs, else all.

        `devices` as in CUDA_VISIBLE_DEVICES: indices in NVML's order (PCI bus), or beginnings of GPU- and MIG- UUIDs.
        A slice is watched with its board. Returns why nothing can be watched, None on success.
        """
        target = frozenset(pids)
        if devices is None:
            chosen = [board for board in self._boards if target and board.holds(target)]
            self.target_seen = bool(chosen)
            self.why = "where the target's processes run" if chosen else "all visible"
            chosen = chosen or list(self._boards)
        else:
            chosen = []
            for word in devices:
                if (unit := self._find(word.strip())) is None:
                    have = ", ".join(f"{board.index} ({board.uuid})" for board in self._boards)
                    return f"no GPU {word!r}; NVML has {have}"
                chosen.append(unit)
            if not chosen:
                return "the list of devices is empty, so the target sees no GPU"
            self.target_seen = any((unit.parent or unit).holds(target) for unit in chosen)
            self.why = "devices " + ",".join(devices)
        self.certain = self.target_seen or devices is not None
        rows: dict[Unit, None] = {}
        for unit in chosen:
            rows |= dict.fromkeys((unit, *unit.slices) if unit.parent is None else (unit.parent, unit))
        self._watched = tuple(rows)
        return None

    def _find(self, word: str) -> Unit | None:
        if word.isdigit():
            return next((board for board in self._boards if board.index == int(word)), None)
        units = [unit for board in self._boards for unit in (board, *board.slices)]
        fits = [unit for unit in units if word and unit.uuid.startswith(word)]
        return fits[0] if len(fits) == 1 else None

    def _watched_boards(self) -> list[Unit]:
        return [unit for unit in self._watched if unit.parent is None]

    @property
    def board_count(self) -> int:
        return len(self._watched_boards())

    @property
    def slice_count(self) -> int:
        return len(self._watched) - self.board_count

    def missing(self) -> dict[str, int]:
        """Sampled counters that boards turned out not to have -> how many boards; known once `sample` has run."""
        boards = self._watched_boards()
        count = {name: sum(name in board.unsupported for board in boards) for name in SAMPLED}
        return {name: n for name, n in count.items() if n}

    @property
    def leaves(self) -> list[Unit]:
        """What is watched and computed on: boards, or of a board in MIG mode its slices."""
        return [unit for unit in self._watched if unit.parent is not None or not unit.slices]

    @property
    def names(self) -> list[str | None]:
        """Names of all boards, watched or not."""
        return [board.ask_or_none("name") for board in self._boards]

    @property
    def indices(self) -> list[int]:
        """Indices of all boards, watched or not."""
        return [board.index for board in self._boards]

    def used_bytes(self) -> dict[str, int]:
        """Memory in use of every board and slice, watched or not, by uuid."""
        units = [unit for board in self._boards for unit in (board, *board.slices)]
        memory_of = {unit.uuid: unit.ask_or_none("memory") for unit in units}
        return {
            uuid: memory.used for uuid, memory in memory_of.items() if memory is not None and memory.used is not None
        }

    def new_xids(self) -> list[tuple[int, int]]:
        """(index of the board, Xid) of critical errors since the last call, or since NVML was opened."""
        return self._xids()

    def sample(self, pids: Collection[int], *, processes: bool = True) -> list[GpuSample]:
        """A row for every watched board and slice; `pids` is the target's whole process tree.

        Without `processes` their lists are not asked for, and both counts are None. `other_process_count` is None too where
        it cannot be known (`_others`). A board that does not answer gives a row with `error` set and every value None.
        """
        target = frozenset(pids)
        reads = [read_unit(unit, processes=processes) for unit in self._watched]
        lists: list[Mapping[int, int | None] | None] = [values.pop("processes", None) for _, values in reads]
        if processes:
            seen: frozenset[int] = frozenset().union(*(p for p in lists if p is not None))
            self.target_seen = self.target_seen or not seen.isdisjoint(target)
            self.foreign = seen - target if self.target_seen else frozenset()
        rows, known = [], []
        for unit, (stamp_ns, values), here in zip(self._watched, reads, lists, strict=True):
            others = self._others(unit, here, values.get("mem_used_bytes"), target)
            if "error" not in values and not unit.slices:
                known.append(others is not None)
            count = None if here is None else len(here)
            columns = {**_NOTHING, **values, "process_count": count, "other_process_count": others}
            rows.append(GpuSample(stamp_ns=stamp_ns, gpu_index=unit.index, gpu_uuid=unit.uuid, **columns))
        if processes and known:
            self.others_known = all(known)
        return rows

    def _others(
        self, unit: Unit, here: Mapping[int, int | None] | None, used_bytes: int | None, target: frozenset[int]
    ) -> int | None:
        """Processes on the unit that are not the target's; None where that cannot be known.

        Nothing tells ours from theirs until a process of the target was seen. A driver lists no process of another pid
        namespace: an empty list in a container is no proof, unless the memory in use is the target's own, or the unit was
        empty before the target was started. Of a board in MIG mode the slices tell: other slices are not on the target's.
        """
        if here is None or unit.slices:
            return None
        others = here.keys() - target
        if self.target_seen and (others or self.sees_all_processes):
            return len(others)
        if others or used_bytes is None:
            return None
        own_bytes = sum(here[pid] or 0 for pid in here.keys() & target)
        if self.target_seen and used_bytes - own_bytes <= UNOWNED_BYTES:
            return 0
        before_bytes = self.used_before.get(unit.uuid)
        return 0 if before_bytes is not None and before_bytes <= UNOWNED_BYTES else None

    def static(self) -> list[dict[str, Any]]:
        """What does not change in a run, one mapping for each watched board; unknown values are None."""
        boards = self._watched_boards()
        return [board_facts(b, [u for u in self._watched if u.parent is b], self._driver) for b in boards]

    def counter_period_ns(self, limit_s: float = 0.6, changes: int = 5) -> int | None:
        """How often the energy counter really moves: the median gap between `changes` changes of one board's counter.

        Read about once in a millisecond, for at most `limit_s`; None if it did not move twice in that time. The energy of
        a window is uncertain by about one period of power at either end.
        """
        boards = (board for board in self._watched_boards() if board.ask_or_none("energy") is not None)
        board = next(boards, None)
        if board is None:
            return None
        moved: list[int] = []
        last = board.ask_or_none("energy")
        end_ns = clock.monotonic_ns() + int(limit_s * clock.NS)
        while len(moved) < changes and (now_ns := clock.monotonic_ns()) < end_ns:
            value = board.ask_or_none("energy")
            if value is not None and value != last:
                moved.append(now_ns)
                last = value
            clock.sleep(0.001)
        gaps = [b - a for a, b in pairwise(moved)]
        return int(median(gaps)) if gaps else None

    def close(self) -> None:
        """Shut NVML down; `sample` gives error rows from then on."""
        self._shut_down()
