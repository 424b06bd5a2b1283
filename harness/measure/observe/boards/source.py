"""Boards of this machine as a telemetry source: rows, and what must be known to read them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from harness.base import clock
from harness.measure.observe import host
from harness.measure.observe.boards import choice
from harness.measure.observe.boards.gpus import Gpus
from harness.records import GpuSample, TargetInfo

# A list of processes takes milliseconds under the driver's lock, so it is not asked for with every sample.
LIST_PERIOD_NS = 5 * clock.NS

HIDDEN = "the driver hides processes of other pid namespaces from this one, and the memory in use is not explained by the target's own"


class GpuSource:
    """Boards through NVML; `tree` tells the target's processes when asked (empty where they are not known)."""

    def __init__(self, gpus: Gpus, tree: Callable[[], Collection[int]]) -> None:
        self._gpus = gpus
        self._ask = tree
        self._tree = frozenset(tree())
        self._listed_ns: int | None = None
        self._judged: frozenset[int] = frozenset()  # foreign ones that a fresh look at the tree did not claim
        self._lost: dict[str, tuple[str, int]] = {}
        self._xids: list[tuple[int, int]] = []
        self.static = gpus.static()
        self._period_ns = gpus.counter_period_ns()

    def read(self, edge: str | None) -> list[GpuSample]:
        now_ns = clock.monotonic_ns()
        listing = edge is not None or self._listed_ns is None or now_ns - self._listed_ns >= LIST_PERIOD_NS
        if edge is not None:
            self._tree = frozenset(self._ask())
        rows = self._gpus.sample(self._tree, processes=listing)
        if listing:
            self._listed_ns = now_ns
            self._xids += self._gpus.new_xids()
            if self._gpus.foreign - self._judged:
                self._tree = frozenset(self._ask())
                rows = self._gpus.sample(self._tree)
                self._judged = self._gpus.foreign
        for row in rows:
            if row.error is not None:
                error, count = self._lost.get(row.gpu_uuid, (row.error, 0))
                self._lost[row.gpu_uuid] = error, count + 1
        return rows

    def about(self) -> str:
        parts = [f"{self._gpus.board_count} boards ({self._gpus.why})"]
        if self._period_ns is None:
            parts.append("energy counter period not seen")
        else:
            parts.append(f"energy counter moves every {self._period_ns / 1e6:.0f} ms")
        if self._gpus.slice_count:
            parts.append(
                f"{self._gpus.slice_count} MIG slices: memory only; their board's power and energy include all its slices"
            )
        if missing := self._gpus.missing():
            parts.append("not given: " + ", ".join(f"{name} ({n} boards)" for name, n in sorted(missing.items())))
        parts.extend(self._gpus.notes)
        return "; ".join(parts)

    def complaint(self) -> str | None:
        parts = []
        if silent := self._gpus.missing().get("energy"):
            parts.append(f"no energy counter on {silent} boards")
        parts += [f"{uuid} stopped answering ({error}) in {n} samples" for uuid, (error, n) in self._lost.items()]
        if not self._gpus.certain:
            parts.append("no process of the target was found on a board, so these may not be the target's boards")
        parts += [f"Xid {xid} on GPU {index}" for index, xid in self._xids]
        return "; ".join(parts) or None

    def facts(self) -> Mapping[str, Any]:
        """For the manifest. `no_energy`: why the boards' energy is not the target's; `others_unknown`: why the number of other
        processes is not; None where they are. `calls`: by counter, count, p50_us and max_us of the questions to NVML."""
        return {
            "source": "NVML",
            "chosen": self._gpus.why,
            "certain": self._gpus.certain,
            "no_energy": no_energy(certain=self._gpus.certain, why=self._gpus.why, slices=self._gpus.slice_count),
            "others_unknown": self._others_unknown(),
            "sees_all_processes": self._gpus.sees_all_processes,
            "energy_counter_period_ns": self._period_ns,
            "xids": [list(xid) for xid in self._xids],
            "calls": self._gpus.calls(),
        }

    def _others_unknown(self) -> str | None:
        if self._gpus.others_known:
            return None
        if "processes" in self._gpus.missing():
            return "NVML gives no list of processes"
        if not self._gpus.certain:
            return "which processes are the target's is not known"
        if not self._gpus.sees_all_processes:
            return HIDDEN
        return "NVML lists no process of the target, so nothing tells its own from others"

    def close(self) -> None:
        self._gpus.close()


def no_energy(*, certain: bool, why: str, slices: int) -> str | None:
    """Why the energy of the watched boards is not the target's; None where it is."""
    if not certain:
        return f"which boards are the target's is not known ({why}): name them with the target's key gpus"
    if slices:
        return "board, shared: the counter is the whole board's and the target has a MIG slice of it"
    return None


def open_gpu_source(
    info: TargetInfo, declared: Sequence[str] = (), used_before: Mapping[str, int] | None = None
) -> GpuSource | str:
    """The boards of the target, or why there are none to watch (see choice.py)."""
    gpus = choice.open_boards(info, declared, used_before)
    if isinstance(gpus, str):
        return gpus
    roots = choice.roots_of(info)
    return GpuSource(gpus, lambda: host.process_tree(roots))
