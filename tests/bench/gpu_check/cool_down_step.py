"""How a board cools: heat and clock after a matmul, its context open all the while, and what our own pause makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from harness.base import clock
from harness.config.experiment import CoolDownSpec
from harness.measure.campaign.cool_down import CoolDown
from harness.records import GpuSample, TargetInfo
from tests.bench.gpu_check.matmul import matmul
from tests.bench.gpu_check.nvml_steps import on_boards, open_all, watch
from tests.bench.gpu_check.step import Figures, Place, Step, StepError, now_s

_HEAT_S, _CURVE_S, _HZ = 45.0, 75.0, 2.0
_RISE_C = 5  # less than that says nothing of how it cools
_NOBODY = TargetInfo("matmul", "vllm", "", "", None, None, {}, {}, (), None, None, {})


def _decay(place: Place) -> Figures:
    gpus = open_all()
    curve: list[tuple[float, GpuSample]] = []

    def read() -> Sequence[GpuSample]:
        rows = on_boards(gpus.sample((), processes=False))
        curve.extend((now_s(), row) for row in rows)
        return rows

    spec = CoolDownSpec()
    try:
        with matmul(place, "cool-down") as load, CoolDown(spec, read) as cool:
            clock.sleep(place.seconds(5))
            cool.server_is_up(_NOBODY)
            before = {row.gpu_uuid: row for _, row in curve}
            load.go()
            watch(gpus, place.seconds(_HEAT_S), 1.0)
            hot = {row.gpu_uuid: row for row in read()}
            load.stop()
            stopped_s = now_s()
            curve.clear()
            pause = cool.wait(place.say)
            while now_s() < stopped_s + place.seconds(_CURVE_S):
                clock.sleep(1 / _HZ)
                read()
    finally:
        gpus.close()
    if pause is None:
        raise StepError("the pause had nothing to wait for")
    risen = {uuid: (row.temperature_c or 0) - (before[uuid].temperature_c or 0) for uuid, row in hot.items()}
    uuid = max(risen, key=lambda one: risen[one])
    seen = [(round(at - stopped_s, 2), row) for at, row in curve if row.gpu_uuid == uuid]
    found = {
        "pause": {"state": pause.state, "waited_s": pause.waited_s, "why": pause.why},
        "timeout_s": spec.timeout_s,
        "margin_c": spec.margin_c,
        "idle": _state(before[uuid]),
        "hot": _state(hot[uuid]),
        "curve": [[at, row.temperature_c, row.sm_clock_mhz, row.power_mw] for at, row in seen],
    }
    found["half_s"] = cooled_s(found["curve"], found["hot"]["temperature_c"], found["idle"]["temperature_c"], 0.5)
    found["within_margin_s"] = next(
        (at for at, degrees, *_ in found["curve"] if degrees is not None and degrees <= _limit_c(found)), None
    )
    hot_c, idle_c = found["hot"]["temperature_c"], found["idle"]["temperature_c"]
    found["said"] = (
        f"{idle_c} degC idle, {hot_c} after {place.seconds(_HEAT_S):.0f} s of matmul; half of it gone after {found['half_s']} s, "
        f"within {spec.margin_c:g} degrees after {found['within_margin_s']} s; our pause: {pause.state} after {pause.waited_s:.0f} s"
    )
    return found


def _state(row: GpuSample) -> Figures:
    return {name: getattr(row, name) for name in ("temperature_c", "sm_clock_mhz", "power_mw", "throttle_reasons")}


def _limit_c(found: Mapping[str, Any]) -> float:
    return float((found["idle"]["temperature_c"] or 0) + found["margin_c"])


def cooled_s(curve: Sequence[Sequence[Any]], hot_c: float | None, idle_c: float | None, share: float) -> float | None:
    """Seconds until `share` of the rise was gone for good: no later reading is above it; None if that was not seen."""
    if hot_c is None or idle_c is None:
        return None
    limit = hot_c - share * (hot_c - idle_c)
    above = [at for at, degrees, *_ in curve if degrees is not None and degrees > limit]
    return next((at for at, *_ in curve if not above or at > above[-1]), None)


def check_decay(found: Mapping[str, Any]) -> list[str]:
    """The board was heated, cooled within the pause's limit, and its clock came back with it."""
    wrong, pause = [], found["pause"]
    rise_c = (found["hot"]["temperature_c"] or 0) - (found["idle"]["temperature_c"] or 0)
    if rise_c < _RISE_C:
        wrong.append(f"a matmul raised the temperature by {rise_c} degrees only: nothing is learnt of cooling")
    if pause["state"] == "timeout":
        wrong.append(f"the pause ended by its limit of {found['timeout_s']:g} s: {pause['why']}")
    if pause["state"] == "settled":
        wrong.append(f"the board does not come back: {pause['why']} is where it settles beside an open context")
    late = [mhz for at, _, mhz, _ in found["curve"] if mhz is not None and at >= pause["waited_s"]]
    idle_mhz = found["idle"]["sm_clock_mhz"]
    if late and idle_mhz is not None and median(late) > 1.05 * idle_mhz + 15:
        wrong.append(f"the clock stays at {median(late):.0f} MHz beside an open context, {idle_mhz} MHz before")
    return wrong


STEPS = (
    Step(
        "cool-down",
        f"{_HEAT_S:g} s of matmul, then temperature, clock and power at {_HZ:g} Hz for {_CURVE_S:g} s; the campaign's own pause meanwhile",
        "the board comes back within 5 degrees of its idle state with an open context, within the pause's 120 s, and its clock too",
        2.4,
        ("gpu", "torch"),
        _decay,
        check_decay,
    ),
)
