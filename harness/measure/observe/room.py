"""What the boards that a server will take have free, and who holds the rest; asked before it is started."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psutil

from harness.measure.observe import boards, nvml

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Room:
    """A board or MIG slice, bytes. `held_by`: what each process holds there, in words; empty where the driver shows none."""

    name: str
    index: int
    total_bytes: int
    used_bytes: int
    held_by: tuple[str, ...]

    @property
    def free_bytes(self) -> int:
        return self.total_bytes - self.used_bytes


@dataclass(frozen=True, slots=True)
class Rooms:
    """`taken`: one entry a board, None for one that does not tell its memory. `names`: of all boards of this machine."""

    taken: tuple[Room | None, ...]
    names: tuple[str | None, ...]


def rooms(devices: Sequence[str] | None, count: int) -> Rooms | str:
    """The first `count` of `devices` (indices, UUIDs; None: all that NVML has), as vLLM takes them; a string says why none is known.

    Of a board in MIG mode that is named without a slice, CUDA takes the first slice.
    """
    gpus = nvml.open_gpus()
    if isinstance(gpus, str):
        return gpus
    try:
        words = list(devices) if devices is not None else [str(index) for index in gpus.indices]
        found = []
        for word in words[:count]:
            if reason := gpus.watch((), [word]):
                return reason
            found.append(_room(gpus.leaves[0]))
        return Rooms(tuple(found), tuple(gpus.names))
    finally:
        gpus.close()


def _room(unit: boards.Unit) -> Room | None:
    """None where the board does not tell its memory."""
    memory = unit.ask_or_none("memory")
    if memory is None or memory.total is None or memory.used is None:
        return None
    name = unit.ask_or_none("name") or (unit.parent and unit.parent.ask_or_none("name")) or "GPU"
    held: Mapping[int, int | None] = unit.ask_or_none("processes") or {}
    return Room(
        f"{name} {unit.uuid}" if unit.parent else str(name),
        unit.index,
        memory.total,
        memory.used,
        tuple(_holder(pid, held[pid]) for pid in sorted(held, key=lambda pid: -(held[pid] or 0))),
    )


def _holder(pid: int, held_bytes: int | None) -> str:
    """`pid 4711 (python3 train.py) 34.2 GiB`"""
    try:
        process = psutil.Process(pid)
        words = f" ({' '.join(process.cmdline()[:2])[:60] or process.name()})"
    except psutil.Error:
        words = " (of another user or container)"
    return f"pid {pid}{words}" + ("" if held_bytes is None else f" {held_bytes / _GIB:.1f} GiB")
