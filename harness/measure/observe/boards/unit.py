"""A board or MIG slice: what it answers, one reading of it, and what does not change about it. Knows counters by name only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.base import clock

_PCI_DEVICES = Path("/sys/bus/pci/devices")


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

    `ask(counter)` gives its value (int, str, Memory, Utilisation, or for "processes" pid -> bytes it holds, None if not
    told), None where it is not known, and raises BoardError; it adds to `unsupported` what will never be known.
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
        return any(not pids.isdisjoint(unit.ask_or_none("processes") or ()) for unit in (self, *self.slices))


def read_unit(unit: Unit, *, processes: bool) -> tuple[int, dict[str, Any]]:
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
        if processes:
            values["processes"] = unit.ask("processes")
    except BoardError as error:
        return clock.monotonic_ns(), {"error": f"NVML: {error}"}
    return stamp_ns, values


def board_facts(board: Unit, slices: Sequence[Unit], driver: Mapping[str, Any]) -> dict[str, Any]:
    """What does not change about a board in a run, for provenance and for `harness compare`; null where NVML does not tell. `slices`: those
    of its MIG slices that are watched.

    PCIe: `pcie_width` is that of now, `pcie_generation` the best that board and slot agree on (an idle link goes down to 1).
    """
    ask = board.ask_or_none
    memory = ask("memory")
    return {
        "index": board.index,
        "uuid": board.uuid,
        "name": ask("name"),
        **driver,
        "power_limit_mw": ask("power limit"),
        "power_limit_default_mw": ask("default power limit"),
        "sm_clock_limit_mhz": ask("SM clock limit"),
        "memory_total_bytes": None if memory is None else memory.total,
        "memory_used_includes_reserved": None if memory is None or memory.total is None else memory.reserved_in_used,
        "ecc_enabled": _enabled(ask("ECC mode")),
        "ecc_uncorrected_errors": ask("uncorrected ECC errors"),
        "persistence_enabled": _enabled(ask("persistence mode")),
        "mig_enabled": _enabled(ask("MIG mode")),
        "mig_slices_watched": [unit.uuid for unit in slices],
        "mig_slices_memory_bytes": [None if (m := unit.ask_or_none("memory")) is None else m.total for unit in slices],
        "mig_profiles": [profile_of(unit.ask_or_none("name")) for unit in slices],
        "nvlinks_active": ask("active NVLinks"),
        "pcie_width": ask("PCIe width"),
        "pcie_width_limit": ask("PCIe width limit"),
        "pcie_generation": ask("PCIe generation limit"),
        "numa_node": numa_node(ask("PCI bus")),
    }


def profile_of(name: str | None) -> str | None:
    """`1g.10gb` of `NVIDIA H100 80GB HBM3 MIG 1g.10gb`."""
    return name.rpartition(" MIG ")[2] if name and " MIG " in name else None


def numa_node(bus: str | None) -> int | None:
    """The NUMA node of a board by NVML's bus id (`00000000:3B:00.0`); None where the kernel knows none."""
    if not bus:
        return None
    domain, _, rest = bus.lower().partition(":")
    try:
        node = int((_PCI_DEVICES / f"{domain[-4:]}:{rest}" / "numa_node").read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _enabled(value: int | None) -> bool | None:
    return None if value is None else value == 1
