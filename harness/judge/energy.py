"""GPU energy of a window from the boards' own energy counters.

The counter (`nvmlDeviceGetTotalEnergyConsumption`) is differenced between the window's edges, each interpolated between
the two samples around it. Power is never integrated: on A100 and H100 the power sensor sees about a quarter of the run time
(arXiv 2312.02741). This is GPU energy, not wall energy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.judge.columns import IntArray, ints
from harness.records import Window


@dataclass(frozen=True, slots=True)
class Energy:
    """`energy_j` summed over `boards`; None with the `reason` where any board's share is not known."""

    energy_j: float | None
    boards: int
    reason: str | None


def _at(stamps: IntArray, energy_mj: IntArray, when_ns: int) -> float:
    # differences first: the counter and the stamps are too large for float arithmetic to keep their last digits
    return float(np.interp(when_ns - int(stamps[0]), stamps - stamps[0], energy_mj - energy_mj[0]))


def _board_mj(board: Any, window: Window, name: str) -> float | str:
    """Millijoules of one board over the window, or why they are not known."""
    counter = ints(board, "energy_mj")
    if not counter.present.any():
        return f"{name} has no energy counter"
    stamps = ints(board, "stamp_ns").data[counter.present]
    order = np.argsort(stamps, kind="stable")
    stamps, energy_mj = stamps[order], counter.data[counter.present][order]
    if stamps[0] > window.start_ns or stamps[-1] < window.end_ns:
        return f"{name} gave no energy reading {'before the window' if stamps[0] > window.start_ns else 'after the window'}"
    lo = np.searchsorted(stamps, window.start_ns, side="right") - 1
    hi = np.searchsorted(stamps, window.end_ns, side="left")
    if (np.diff(energy_mj[lo : hi + 1]) < 0).any():
        return f"{name}: the energy counter went backwards inside the window"
    return _at(stamps, energy_mj, window.end_ns) - _at(stamps, energy_mj, window.start_ns)


SHARED = "board, shared: the counter is the whole board's and the target has a MIG slice of it"


def slices_in(gpu: Any) -> bool:
    """Whether there are rows of MIG slices."""
    return bool(gpu["gpu_uuid"].str.startswith("MIG-").any())


def withheld(telemetry: Mapping[str, Any]) -> str | None:
    """Why a manifest's telemetry says that the boards' energy is not the target's; None where it is."""
    reason = (telemetry.get("gpu_facts") or {}).get("no_energy")
    if reason is None and str(telemetry.get("gpu", "")).startswith(_OLD_DOUBT):
        reason = "which boards are the target's is not known"
    return None if reason is None else str(reason)


# how a run from before gpu_facts says that it summed every board of the machine
_OLD_DOUBT = "partial: no process of the target was found"


def gpu_energy(gpu: Any | None, window: Window | None, why_not: str | None = None) -> Energy:
    """Energy over the window, summed over the boards in `gpu` (rows of GpuSample).

    None where `why_not` says that it is not the target's, and where the target has a MIG slice: its board's counter is of all
    slices. A board that stopped answering and
    did not come back before the window's end makes the sum unknown: the others' sum would be too small.
    """
    if gpu is None or not len(gpu):
        return Energy(None, 0, "no GPU telemetry")
    if window is None:
        return Energy(None, 0, "no window")
    if why_not is not None or slices_in(gpu):
        return Energy(None, 0, why_not or SHARED)
    total_mj, boards = 0.0, 0
    for index, rows in gpu.groupby("gpu_index", sort=True):
        with_counter = rows[rows["energy_mj"].notna()]
        one = rows if with_counter.empty else rows[rows["gpu_uuid"] == with_counter["gpu_uuid"].iloc[0]]
        energy_mj = _board_mj(one, window, f"GPU {index}")
        if isinstance(energy_mj, str):
            return Energy(None, boards, energy_mj)
        total_mj, boards = total_mj + energy_mj, boards + 1
    return Energy(total_mj / 1e3, boards, None)
