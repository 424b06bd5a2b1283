"""Which boards this machine has, whoever uses them: what a first experiment is sized to and a machine's price is looked up by."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from harness.measure.observe import nvml
from harness.measure.observe.board_choice import visible_devices


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
