"""Which boards belong to the target, and a row for each of them. Knows counters by name only; NVML itself is in nvml.py.

A board in MIG mode gives one row for the board (power, energy, clocks: they exist only there and cover all its slices) and
one row for each watched slice (memory). No quantity stands on both, so sums over rows count nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from harness import clock
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
_NOTHING: Mapping[str, None] = dict.fromkeys(f.name for f in fields(GpuSample)[3:])


class BoardError(Exception):
    """A board does not answer any more; the text says why. Never leaves this package."""


class Memory(NamedTuple):
    """Bytes; `reserved_in_used`: NVML's first memory call counts what the driver keeps for itself as used."""

    total: int | None
    used: int | None
    reserved_in_used: bool


class Utilisation(NamedTuple):
    sm_pct: int | None
    memory_pct: int | None


@dataclass(slots=True, eq=False)
class Unit:
    """A board, or a MIG slice of `parent`.

    `ask(counter)` gives its value (int, str, Memory, Utilisation, or a frozenset of pids for "processes"), None where it is
    not known, and raises BoardError; it adds to `unsupported` what will never be known.
    """

    index: int
    uuid: str
    ask: Callable[[str], Any]
    unsupported: set[str]
    parent: Unit | None = None
    slices: list[Unit] = field(default_factory=list)

    def ask_or_none(self, counter: str) -> Any:
        try:
            return self.ask(counter)
        except BoardError:
            return None

    def holds(self, pids: frozenset[int]) -> bool:
        """Whether one of `pids` computes on this board, on any of its slices."""
        return any(pids & (unit.ask_or_none("processes") or frozenset()) for unit in (self, *self.slices))


class Gpus:
    """The boards and slices watched. Not for use from two threads at once.

    `why` says how the watched ones were chosen; `target_seen` whether a process of the target was ever found on one of
    them; `foreign` holds the ids of the other processes in the last `sample`; `notes` says what could not be opened.
    """

    def __init__(
        self, boards: Sequence[Unit], notes: Sequence[str], driver: Mapping[str, Any], shut_down: Callable[[], None]
    ) -> None:
        self._boards = tuple(boards)
        self._watched: tuple[Unit, ...] = ()
        self._driver = dict(driver)
        self._shut_down = shut_down
        self.why = ""
        self.target_seen = False
        self.foreign: frozenset[int] = frozenset()
        self.notes = tuple(notes)

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
        rows: dict[Unit, None] = {}
        for unit in chosen:
            rows |= dict.fromkeys((unit, *unit.slices) if unit.parent is None else (unit.parent, unit))
        self._watched = tuple(rows)
        return None

    def _find(self, word: str) -> Unit | None:
        if word.isdigit():
            return next((board for board in self._boards if board.index == int(word)), None)
        units = [unit for board in self._boards for unit in (board, *board.slices)]
        found = [unit for unit in units if word and unit.uuid.startswith(word)]
        return found[0] if len(found) == 1 else None

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

    def sample(self, pids: Collection[int]) -> list[GpuSample]:
        """A row for every watched board and slice; `pids` is the target's whole process tree.

        `other_process_count` is None until a process of the target has been seen: without that nothing tells ours from
        theirs. A board that does not answer gives a row with `error` set and every value None.
        """
        target = frozenset(pids)
        reads = [_read(unit) for unit in self._watched]
        processes = [values.pop("processes", None) for _, values in reads]
        seen: frozenset[int] = frozenset().union(*(p for p in processes if p is not None))
        self.target_seen = self.target_seen or not seen.isdisjoint(target)
        self.foreign = seen - target if self.target_seen else frozenset()
        rows = []
        for unit, (stamp_ns, values), here in zip(self._watched, reads, processes, strict=True):
            others = len(here - target) if here is not None and self.target_seen else None
            count = None if here is None else len(here)
            known = {**_NOTHING, **values, "process_count": count, "other_process_count": others}
            rows.append(GpuSample(stamp_ns=stamp_ns, gpu_index=unit.index, gpu_uuid=unit.uuid, **known))
        return rows

    def static(self) -> list[dict[str, Any]]:
        """What does not change in a run, one mapping for each watched board; unknown values are None."""
        facts = []
        for board in self._watched_boards():
            memory = board.ask_or_none("memory") or Memory(None, None, reserved_in_used=False)
            facts.append(
                {
                    "index": board.index,
                    "uuid": board.uuid,
                    "name": board.ask_or_none("name"),
                    **self._driver,
                    "power_limit_mw": board.ask_or_none("power limit"),
                    "memory_total_bytes": memory.total,
                    "memory_used_includes_reserved": None if memory.total is None else memory.reserved_in_used,
                    "ecc_enabled": _enabled(board.ask_or_none("ECC mode")),
                    "persistence_enabled": _enabled(board.ask_or_none("persistence mode")),
                    "mig_enabled": _enabled(board.ask_or_none("MIG mode")),
                    "mig_slices_watched": [unit.uuid for unit in self._watched if unit.parent is board],
                }
            )
        return facts

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


def _read(unit: Unit) -> tuple[int, dict[str, Any]]:
    """Stamp and values of one unit; the stamp is taken right after the energy counter, the value that is differenced."""
    values: dict[str, Any] = {}
    stamp_ns = clock.monotonic_ns()
    try:
        if unit.parent is None:
            values["energy_mj"] = unit.ask("energy")
            stamp_ns = clock.monotonic_ns()
            values["power_mw"] = unit.ask("power")
            if (use := unit.ask("utilisation")) is not None:
                values |= {"sm_util_pct": use.sm_pct, "mem_util_pct": use.memory_pct}
            values["sm_clock_mhz"] = unit.ask("SM clock")
            values["mem_clock_mhz"] = unit.ask("memory clock")
            values["temperature_c"] = unit.ask("temperature")
            values["throttle_reasons"] = unit.ask("clock event reasons")
        if not unit.slices and (memory := unit.ask("memory")) is not None:
            values["mem_used_bytes"] = memory.used
        values["processes"] = unit.ask("processes")
    except BoardError as error:
        return clock.monotonic_ns(), {"error": f"NVML: {error}"}
    return stamp_ns, values


def _enabled(value: int | None) -> bool | None:
    return None if value is None else value == 1
