"""What does not change about a board in a run, for provenance and for `harness compare`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

_PCI_DEVICES = Path("/sys/bus/pci/devices")


class Asked(Protocol):
    """A board or slice that answers: `ask_or_none` gives a counter's value, None where it is not known."""

    index: int
    uuid: str

    def ask_or_none(self, counter: str) -> Any: ...


def board_facts(board: Asked, slices: Sequence[Asked], driver: Mapping[str, Any]) -> dict[str, Any]:
    """One board as NVML tells it, null where it does not; `slices`: those of its MIG slices that are watched.

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
