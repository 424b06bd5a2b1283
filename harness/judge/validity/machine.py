"""Was the machine the target's alone: its boards, at their clocks, and its CPU?

What the sampler knew about its boards is in the manifest (telemetry.gpu_facts, measure/observe/boards/source.py); runs from before that have
none, and are judged by their rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.judge.columns import IntArray, ints
from harness.judge.energy import slices_in
from harness.judge.telemetry import foreign_cpu_share
from harness.judge.validity import Evidence, invalid, unknown, warning
from harness.records import CLOCK_IDLE, CLOCK_POWER_CAPPED, CLOCK_SLOWED, Reason

MAX_THROTTLED = 0.01  # of the GPU samples in the window: below it nothing is said
MAX_LOST_CLOCK = 0.03  # of the SM clock over the window: what heat took away, and with it about as much throughput
MAX_HARNESS_CPU = 0.05  # of the server's CPU time: both may share the cores
MAX_FOREIGN_CPU = 0.10  # of the machine's CPU time, used by neither harness nor server
MIN_FREE_SAMPLES = 5  # of a board at its own clock, to know that clock

_STARTED = ("vllm", "offline")  # kinds whose processes are all known


@dataclass(frozen=True, slots=True)
class Throttled:
    """A board over the window: share of the samples that were held, their clock and that without, and the share of the clock
    that was lost (None where no clock without is known)."""

    index: int
    held_share: float
    held_mhz: float | None
    free_mhz: float | None
    lost_share: float | None


def facts(e: Evidence) -> Mapping[str, Any]:
    """What the sampler knew about the boards; empty for runs from before it was written down."""
    return e.run.manifest.telemetry.get("gpu_facts") or {}


def _in_window(e: Evidence) -> Any | None:
    if e.run.gpu is None or e.window is None:
        return None
    stamps = ints(e.run.gpu, "stamp_ns")
    rows = e.run.gpu[stamps.inside(e.window)]
    return rows if len(rows) else None


def gpu_throttled(e: Evidence) -> Reason | None:
    rows = _in_window(e)
    if rows is None:
        return None
    bits = ints(rows, "throttle_reasons")
    known = max(1, int(bits.present.sum()))
    held = int(((bits.data & CLOCK_SLOWED) != 0).sum()) / known
    if held > MAX_THROTTLED:
        return _held(e, rows, held)
    capped = int(((bits.data & CLOCK_POWER_CAPPED) != 0).sum()) / known
    if capped > MAX_THROTTLED:
        return warning(
            "gpu_power_capped",
            f"in {capped:.1%} of the GPU samples the power limit held the clocks down",
            "compare only with runs under the same power limit (nvidia-smi -q -d POWER)",
        )
    return None


def _held(e: Evidence, rows: Any, share: float) -> Reason:
    """INVALID by the clock that the worst board lost; a board that may not be the target's is a warning."""
    message = f"in {share:.1%} of the GPU samples the clocks were held down by heat or the power supply"
    advice = "cool the machine, check nvidia-smi -q -d PERFORMANCE, run again"
    boards = [b for index in np.unique(rows["gpu_index"]) if (b := throttled(e, rows, int(index))) is not None]
    known = [b for b in boards if b.lost_share is not None]
    if not known or len(known) < len([b for b in boards if b.held_share]):
        return unknown("gpu_throttled", f"{message}; how much clock was lost is not known", advice)
    worst = max(known, key=lambda b: b.lost_share or 0.0)
    message += f": GPU {worst.index} lost {worst.lost_share:.1%} of its SM clock over the window"
    if worst.held_mhz is not None:
        message += f" ({worst.held_mhz:,.0f} MHz where it was held, {worst.free_mhz:,.0f} MHz else)"
    if (worst.lost_share or 0.0) <= MAX_LOST_CLOCK or facts(e).get("certain") is False:
        return warning("gpu_throttled", message, advice)
    return invalid("gpu_throttled", f"{message}, above {MAX_LOST_CLOCK:.0%}", advice)


def throttled(e: Evidence, rows: Any, index: int) -> Throttled | None:
    """One board's clock in `rows`, those of the window; None where it tells no reasons.

    The clock without: the mean of its samples that were neither held nor idle, of the window, else of the whole run, where there
    are some; else the board's highest clock. The share lost is the held samples' share x (1 - their mean / that).
    """
    own = rows[rows["gpu_index"] == index]
    bits, clock = ints(own, "throttle_reasons"), ints(own, "sm_clock_mhz")
    if not bits.present.any():
        return None
    held = bits.present & ((bits.data & CLOCK_SLOWED) != 0)
    share = float(held.sum() / bits.present.sum())
    if not held.any():
        return Throttled(index, 0.0, None, None, 0.0)
    whole = e.run.gpu[e.run.gpu["gpu_index"] == index] if e.run.gpu is not None else own
    free_mhz = _free_clock(own) or _free_clock(whole) or _limit(e, index)
    clocks = clock.data[held & clock.present]
    if free_mhz is None or not len(clocks):
        return Throttled(index, share, None, free_mhz, None)
    held_mhz = float(clocks.mean())
    return Throttled(index, share, held_mhz, free_mhz, max(0.0, share * (1 - held_mhz / free_mhz)))


def _free_clock(rows: Any) -> float | None:
    bits, clock = ints(rows, "throttle_reasons"), ints(rows, "sm_clock_mhz")
    free = bits.present & clock.present & ((bits.data & (CLOCK_SLOWED | CLOCK_IDLE)) == 0)
    clocks: IntArray = clock.data[free]
    return float(clocks.mean()) if len(clocks) >= MIN_FREE_SAMPLES and clocks.mean() > 0 else None


def _limit(e: Evidence, index: int) -> float | None:
    boards = e.run.manifest.environment.get("gpus") or []
    limit_mhz = next((board.get("sm_clock_limit_mhz") for board in boards if board.get("index") == index), None)
    return float(limit_mhz) if limit_mhz else None


def _process_rows(e: Evidence) -> Any | None:
    """Rows with a list of processes: those in the window, and the last before and the first after it (they are seconds apart)."""
    if e.run.gpu is None or e.window is None:
        return None
    listed = e.run.gpu[ints(e.run.gpu, "process_count").present | ints(e.run.gpu, "other_process_count").present]
    if not len(listed):
        return None
    stamps = ints(listed, "stamp_ns").data
    before, after = stamps[stamps <= e.window.start_ns], stamps[stamps > e.window.end_ns]
    low = int(before.max()) if len(before) else e.window.start_ns
    high = int(after.min()) if len(after) else e.window.end_ns
    return listed[(stamps >= low - _ONE_SAMPLE_NS) & (stamps <= high + _ONE_SAMPLE_NS)]


_ONE_SAMPLE_NS = 50_000_000  # the boards of one sample are read one after the other


def other_gpu_processes(e: Evidence) -> Reason | None:
    rows = _process_rows(e) if facts(e) else _in_window(e)
    if rows is None:
        return None
    others = int(ints(rows, "other_process_count").data.max(initial=0))
    if not others:
        return None
    message = f"up to {others} other processes had work on the target's GPUs"
    advice = "end them (nvidia-smi shows their ids) and run again"
    # of a server that we did not start we do not know the processes: they may be its own
    return (invalid if e.kind in _STARTED else warning)("other_gpu_processes", message, advice)


def gpu_boards_unknown(e: Evidence) -> Reason | None:
    """Boards that may be somebody else's, or whose other processes cannot be known: 0 seen is not 0."""
    boards = facts(e)
    kind = unknown if e.kind in _STARTED else warning
    if boards.get("certain") is False:
        return kind(
            "gpu_boards_unknown",
            f"which boards are the target's is not known ({boards.get('chosen', 'all visible')}): no energy is told, and clocks "
            "and memory may be others'",
            "name them with the target's key gpus (index, GPU or MIG UUID); for another machine give telemetry_url too",
        )
    if not boards.get("others_unknown"):
        return None
    return kind(
        "gpu_others_unknown",
        f"whether other processes used the target's GPUs cannot be known: {boards['others_unknown']}",
        "share the host's pid namespace (docker run --pid=host, hostPID: true), or start the harness before anything holds the board",
    )


def gpu_board_shared(e: Evidence) -> Reason | None:
    if e.run.gpu is None or not slices_in(e.run.gpu):
        return None
    return warning(
        "gpu_board_shared",
        "the target has a MIG slice: power, energy and clocks are of the whole board, which other slices share",
        "compare only with runs on the same MIG profile; energy is told for whole boards only",
    )


def gpu_xid(e: Evidence) -> Reason | None:
    xids = facts(e).get("xids") or []
    if not xids:
        return None
    errors = ", ".join(f"Xid {xid} on GPU {index}" for index, xid in xids[:5])
    return unknown(
        "gpu_xid",
        f"the driver reported critical errors during the run: {errors}",
        "look at dmesg and NVIDIA's list of Xids, and run again on a healthy board",
    )


def gpu_board_failed(e: Evidence) -> Reason | None:
    rows = _in_window(e)
    if rows is None or "error" not in rows:
        return None
    failed = rows[rows["error"].notna()]
    if failed.empty:
        return None
    boards = ", ".join(str(i) for i in np.unique(failed["gpu_index"]))
    return unknown(
        "gpu_board_failed",
        f"GPU {boards} stopped answering in the window: {failed['error'].iloc[0]}",
        "look at dmesg for Xid errors; throttling and energy of this run are not known",
    )


# ---------------------------------------------------------------- the CPU


def harness_cpu(e: Evidence) -> Reason | None:
    share = e.scalars.get("harness_cpu_share")
    if share is None or share <= MAX_HARNESS_CPU:
        return None
    return warning(
        "harness_cpu",
        f"the harness used {share:.1%} of the CPU time that the server used, above {MAX_HARNESS_CPU:.0%}",
        "on shared cores it slows the server: run it on another machine",
    )


def foreign_cpu(e: Evidence) -> Reason | None:
    """Somebody else's work on the machine: it slows a server on the CPU, and the host side of one on a GPU."""
    cores = int((e.run.manifest.environment.get("cores") or {}).get("logical") or 0)
    share = foreign_cpu_share(e.run.host, e.requests, cores)
    if share is None or share <= MAX_FOREIGN_CPU:
        return None
    kind = unknown if e.run.gpu is None else warning
    return kind(
        "foreign_cpu",
        f"other processes used {share:.0%} of this machine's CPU time, above {MAX_FOREIGN_CPU:.0%}",
        "end them (top shows them) and run again: the server was not alone",
    )


def host_telemetry_missing(e: Evidence) -> Reason | None:
    if e.kind not in ("vllm", "offline") or (e.run.host is not None and len(e.run.host)):
        return None
    why = e.run.manifest.telemetry.get("host", "not recorded")
    return warning(
        "host_telemetry_missing",
        f"no host telemetry ({why}): a load generator that starves the server would not show",
        "see `harness doctor`",
    )


MACHINE_CHECKS = (
    gpu_throttled,
    other_gpu_processes,
    gpu_boards_unknown,
    gpu_board_shared,
    gpu_xid,
    gpu_board_failed,
    harness_cpu,
    foreign_cpu,
    host_telemetry_missing,
)
