"""Pauses between cells until the server's own boards are as cool as when it stood idle, and nothing holds them down.

The baseline is read when a server stands and nothing was sent to it yet: an open CUDA context alone raises clocks and temperature, so
they never come back to those before it. Over several starts the coolest counts: a server that follows a hot cell starts hot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from harness.base import clock
from harness.config.experiment import CoolDownSpec
from harness.measure.observe.boards.choice import open_boards
from harness.measure.observe.boards.gpus import Gpus
from harness.records import CLOCK_IDLE, CLOCK_SLOWED, GpuSample, TargetInfo

_POLL_S = 0.5
_SETTLED_S = 20.0  # no degree less in so long: the board is as cool as it gets with a server on it

Read = Callable[[], Sequence[GpuSample]]


@dataclass(frozen=True, slots=True)
class Pause:
    """What a wait came to. `state`: back | settled (warmer than the baseline, and no longer cooling) | timeout; `why` names what
    was not back."""

    state: str
    waited_s: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class _Idle:
    """A board beside an idle server: the coolest that was seen, the clock and the reasons of the last start."""

    temperature_c: int | None
    sm_clock_mhz: int | None
    throttle_reasons: int


class CoolDown:
    """Waits before cells; without boards that are surely the server's, or with timeout_s 0, it never does. A context manager."""

    def __init__(self, spec: CoolDownSpec, read: Read | None = None) -> None:
        """`read` gives a row for each board; left out, NVML is asked about the boards of each server."""
        self._spec = spec
        self._given = read
        self._gpus: Gpus | None = None
        self._idle: dict[str, _Idle] = {}

    def _rows(self) -> dict[str, GpuSample]:
        """Rows of the boards by uuid, those of MIG slices (which have no clock) left out."""
        if self._given is not None:
            rows = self._given()
        else:
            rows = self._gpus.sample((), processes=False) if self._gpus is not None else ()
        return {row.gpu_uuid: row for row in rows if not row.gpu_uuid.startswith("MIG-")}

    def server_is_up(self, info: TargetInfo, declared: Sequence[str] = ()) -> None:
        """Find the server's boards and take their baseline: it stands, and nothing was sent to it yet. `declared`: its `gpus:`."""
        if self._spec.timeout_s <= 0:
            return
        if self._given is None:
            self._close()
            found = open_boards(info, declared)
            if isinstance(found, str):
                return
            self._gpus = found
            if not found.certain or found.slice_count:  # somebody else's heat is not waited for
                self._close()
        for uuid, row in self._rows().items():
            before = self._idle.get(uuid)
            seen = [t for t in (row.temperature_c, before.temperature_c if before else None) if t is not None]
            self._idle[uuid] = _Idle(min(seen, default=None), row.sm_clock_mhz, row.throttle_reasons or 0)

    def wait(self, say: Callable[[str], None]) -> Pause | None:
        """Wait until every board is back, at most timeout_s; None where there is nothing to wait for."""
        if self._spec.timeout_s <= 0 or (self._given is None and self._gpus is None):
            return None
        begun_ns, said = clock.monotonic_ns(), False
        coolest_c, cooled_ns = None, begun_ns
        while True:
            now_ns = clock.monotonic_ns()
            waited_s = (now_ns - begun_ns) / clock.NS
            warm, held, total_c = self._not_back()
            why = "; ".join((*warm, *held))
            if not why:
                return Pause("back", waited_s)
            if coolest_c is None or total_c < coolest_c:
                coolest_c, cooled_ns = total_c, now_ns
            if not held and (now_ns - cooled_ns) / clock.NS >= _SETTLED_S:
                say(f"no cooler in {_SETTLED_S:g} s: {why}")
                return Pause("settled", waited_s, why)
            if waited_s >= self._spec.timeout_s:
                say(f"not cooled down after {waited_s:.0f} s: {why}")
                return Pause("timeout", waited_s, why)
            if not said:
                say(f"cooling down: {why}")
                said = True
            clock.sleep(min(_POLL_S, self._spec.timeout_s - waited_s))

    def _not_back(self) -> tuple[list[str], list[str], int]:
        """Boards that are too warm, boards that something holds down, and the degrees of all boards together."""
        warm, held, total_c = [], [], 0
        for uuid, now in self._rows().items():
            idle = self._idle.get(uuid)
            if idle is None:
                continue
            name, reasons = f"GPU {now.gpu_index}", now.throttle_reasons or 0
            total_c += now.temperature_c or 0
            if now.temperature_c is not None and idle.temperature_c is not None:
                limit = idle.temperature_c + self._spec.margin_c
                if now.temperature_c > limit:
                    warm.append(f"{name} at {now.temperature_c} degC, limit {limit:g}")
            lost_mhz = (idle.sm_clock_mhz or 0) - (now.sm_clock_mhz or 0)
            known = now.sm_clock_mhz is not None and not reasons & CLOCK_IDLE
            if known and lost_mhz > self._spec.margin_mhz:  # one-sided: a higher clock is no harm
                held.append(f"{name} at {now.sm_clock_mhz} MHz, idle server {idle.sm_clock_mhz}")
            if reasons & CLOCK_SLOWED & ~idle.throttle_reasons:
                held.append(f"{name} is slowed down")
        return warm, held, total_c

    def _close(self) -> None:
        if self._gpus is not None:
            self._gpus.close()
            self._gpus = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def as_facts(pause: Pause | None) -> dict[str, Any] | None:
    """For the manifest of the cell after it."""
    return None if pause is None else asdict(pause)
