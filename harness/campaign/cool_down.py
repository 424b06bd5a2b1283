"""Pauses between cells until the GPUs are as cool as before the campaign, and their clocks those of an idle server.

The temperature's baseline is read before the first server starts. That of the SM clock is read when a server stands and
nothing was sent to it yet: an open CUDA context alone raises the clocks, so they never come back to those before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from harness import clock
from harness.config import CoolDownSpec
from harness.observe.boards import Gpus
from harness.observe.nvml import open_gpus
from harness.records import GpuSample

_POLL_S = 0.5
# NVML's clocks-event-reasons that slow a board down: HW slowdown, SW thermal, HW thermal, HW power brake.
_SLOWED = 0x8 | 0x20 | 0x40 | 0x80

Read = Callable[[], Sequence[GpuSample]]


@dataclass(frozen=True, slots=True)
class Pause:
    """What a wait came to. `state`: back | timeout; `why` names what was not back."""

    state: str
    waited_s: float
    why: str = ""


class CoolDown:
    """Waits before cells; without NVML, or with timeout_s 0, it never does. Use as a context manager."""

    def __init__(self, spec: CoolDownSpec, read: Read | None = None) -> None:
        """`read` gives a row for each board; left out, NVML is asked."""
        self._spec = spec
        self._gpus: Gpus | None = None
        if read is None and spec.timeout_s > 0:
            found = open_gpus()
            self._gpus = None if isinstance(found, str) else found
        self._read = read or (None if self._gpus is None else self._sample)
        self._cold = self._boards()
        self._idle: Mapping[str, GpuSample] = {}

    def _sample(self) -> Sequence[GpuSample]:
        assert self._gpus is not None
        return self._gpus.sample(())

    def _boards(self) -> dict[str, GpuSample]:
        return {row.gpu_uuid: row for row in self._read()} if self._read is not None else {}

    def server_is_up(self) -> None:
        """Take the clocks' baseline: a server stands, and nothing was sent to it yet."""
        self._idle = self._boards()

    def wait(self, say: Callable[[str], None]) -> Pause | None:
        """Wait until every board is back, at most timeout_s; None where there is nothing to wait for."""
        if self._read is None or self._spec.timeout_s <= 0:
            return None
        begun_ns, said = clock.monotonic_ns(), False
        while True:
            waited_s = (clock.monotonic_ns() - begun_ns) / clock.NS
            why = self._not_back()
            if not why:
                return Pause("back", waited_s)
            if waited_s >= self._spec.timeout_s:
                say(f"not cooled down after {waited_s:.0f} s: {why}")
                return Pause("timeout", waited_s, why)
            if not said:
                say(f"cooling down: {why}")
                said = True
            clock.sleep(min(_POLL_S, self._spec.timeout_s - waited_s))

    def _not_back(self) -> str:
        found = []
        for uuid, now in self._boards().items():
            cold, idle = self._cold.get(uuid), self._idle.get(uuid)
            name = f"GPU {now.gpu_index}"
            if now.temperature_c is not None and cold is not None and cold.temperature_c is not None:
                limit = cold.temperature_c + self._spec.margin_c
                if now.temperature_c > limit:
                    found.append(f"{name} at {now.temperature_c} degC, limit {limit:g}")
            if now.sm_clock_mhz is not None and idle is not None and idle.sm_clock_mhz is not None:
                off = abs(now.sm_clock_mhz - idle.sm_clock_mhz)
                if off > self._spec.margin_mhz:
                    found.append(f"{name} at {now.sm_clock_mhz} MHz, idle server {idle.sm_clock_mhz}")
            if (now.throttle_reasons or 0) & _SLOWED & ~((cold.throttle_reasons or 0) if cold else 0):
                found.append(f"{name} is slowed down")
        return "; ".join(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._gpus is not None:
            self._gpus.close()


def as_facts(pause: Pause | None) -> dict[str, Any] | None:
    """For the manifest of the cell after it."""
    return None if pause is None else asdict(pause)
