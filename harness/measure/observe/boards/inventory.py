"""Which boards this machine has, whoever uses them, what they have free, and who holds the rest: asked before a server is started."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from harness.measure.observe.boards import nvml
from harness.measure.observe.boards.choice import visible_devices
from harness.measure.observe.boards.unit import Unit

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Board:
    """A board as NVML names it. `memory_bytes`: of the whole board. `slices_bytes`: of its MIG slices; `mig`: whether it is in MIG
    mode, where nothing computes on the whole board. None where NVML does not tell."""

    name: str
    memory_bytes: int | None
    mig: bool = False
    slices_bytes: tuple[int | None, ...] = ()

    @property
    def usable_bytes(self) -> int | None:
        """Memory that one server on it gets: CUDA shows a process one MIG slice, the first."""
        return next(iter(self.slices_bytes), None) if self.mig else self.memory_bytes


def boards(*, visible: bool = False) -> tuple[Board, ...]:
    """Every board of this machine that NVML shows, none without NVML; with `visible` those that CUDA_VISIBLE_DEVICES leaves."""
    gpus = nvml.open_gpus(devices=visible_devices(os.environ) if visible else None)
    if isinstance(gpus, str):
        return ()
    try:
        return tuple(map(_board, gpus.static()))
    finally:
        gpus.close()


def _board(fact: dict[str, Any]) -> Board:
    return Board(
        fact["name"] or "a GPU without a name",
        fact["memory_total_bytes"],
        fact["mig_enabled"] is True,
        tuple(fact["mig_slices_memory_bytes"]),
    )


def used_bytes() -> dict[str, int]:
    """Memory in use of every board and MIG slice, by uuid, now; empty where there is no NVML. What a board holds later and did not before
    a server of ours was started is the server's."""
    gpus = nvml.open_gpus()
    if isinstance(gpus, str):
        return {}
    try:
        return gpus.used_bytes()
    finally:
        gpus.close()


# ---------------------------------------------------------------- what is free


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
        taken = []
        for word in words[:count]:
            if reason := gpus.watch((), [word]):
                return reason
            taken.append(_room(gpus.leaves[0]))
        return Rooms(tuple(taken), tuple(gpus.names))
    finally:
        gpus.close()


def _room(unit: Unit) -> Room | None:
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
