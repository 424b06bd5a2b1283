"""Steps that ask NVML: what the counters say, what asking costs, and whether energy is power times time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import median
from typing import Any

import pynvml

from harness.base import clock
from harness.measure.observe.boards import nvml
from harness.measure.observe.boards.gpus import SAMPLED, UNOWNED_BYTES, Gpus
from harness.records import GpuSample
from tests.bench.gpu_check.matmul import matmul
from tests.bench.gpu_check.step import Figures, Place, Step, StepError

_HZ = 10.0  # as the sampler asks
_RAMP_S = 3.0  # the power that a board tells is a mean over one second (Ampere and newer)
# A sample may take a tenth of its period on every board; a list of processes is asked for once in 5 s.
SAMPLE_US, LIST_US, ANY_US, LOAD_FACTOR = 10_000, 5_000, 50_000, 3.0
ENERGY_SHARE = 0.05
_REASONS: Mapping[int, str] = {
    pynvml.nvmlClocksEventReasonGpuIdle: "gpu_idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "applications_clocks_setting",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal_slowdown",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake_slowdown",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clock_setting",
    0x200: "board_limit",  # nvmlClocksThrottleReasonBoardLimit and ..Reliability: not in every release of the binding
    0x400: "reliability",
}
_HELD_DOWN = {"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}


def reason_names(mask: int) -> tuple[str, ...]:
    """Names of the clocks-event-reasons set in `mask`, lowest bit first; a bit without a name stays hexadecimal."""
    bits = [1 << i for i in range(mask.bit_length()) if mask >> i & 1]
    return tuple(_REASONS.get(bit, hex(bit)) for bit in bits)


def open_all() -> Gpus:
    """Every board. Raises StepError where NVML does not answer."""
    gpus = nvml.open_gpus()
    if isinstance(gpus, str):
        raise StepError(gpus)
    return gpus


def on_boards(rows: Sequence[GpuSample]) -> list[GpuSample]:
    """Without the rows of MIG slices, which have no power and no clock."""
    return [row for row in rows if not row.gpu_uuid.startswith("MIG-")]


def watch(gpus: Gpus, seconds: float, hz: float, *, processes: bool = False) -> list[list[GpuSample]]:
    """Samples of all boards, `hz` a second: the rows of each sample."""
    begun_ns = clock.monotonic_ns()
    found = [gpus.sample((), processes=processes)]
    for tick in range(1, max(2, round(seconds * hz))):
        clock.sleep(max(0.0, tick / hz - (clock.monotonic_ns() - begun_ns) / clock.NS))
        found.append(gpus.sample((), processes=processes))
    return found


def _known(rows: Sequence[GpuSample], name: str) -> list[float]:
    return [value for row in rows if (value := getattr(row, name)) is not None]


def _spread(rows: Sequence[GpuSample], name: str) -> list[float] | None:
    """Smallest, median and largest; None where the board does not tell."""
    known = _known(rows, name)
    return [min(known), median(known), max(known)] if known else None


def by_board(samples: Sequence[Sequence[GpuSample]]) -> dict[str, list[GpuSample]]:
    found: dict[str, list[GpuSample]] = {}
    for rows in samples:
        for row in on_boards(rows):
            found.setdefault(row.gpu_uuid, []).append(row)
    return found


# ---------------------------------------------------------------- counters and clocks


def _counters(place: Place) -> Figures:
    gpus = open_all()
    try:
        period_ns = gpus.counter_period_ns()
        seen = by_board(watch(gpus, place.seconds(10), _HZ, processes=True))
        units = {board.uuid: sorted(board.unsupported & set(SAMPLED)) for board in gpus._boards}
        found = [
            {
                **fact,
                "missing": units[fact["uuid"]],
                "held_before_bytes": gpus.used_bytes().get(fact["uuid"]),
                "reasons": sorted({n for row in seen[fact["uuid"]] for n in reason_names(row.throttle_reasons or 0)}),
                **{
                    name: _spread(seen[fact["uuid"]], name)
                    for name in ("power_mw", "sm_clock_mhz", "mem_clock_mhz", "temperature_c")
                },
            }
            for fact in gpus.static()
        ]
        notes = list(gpus.notes)
    finally:
        gpus.close()
    first = found[0]
    said = f"{len(found)} x {first['name']}, driver {first['driver_version']}; energy counter every {(period_ns or 0) / 1e6:.0f} ms; "
    said += f"idle {_middle(first['power_mw'], 1e-3, 'W')}, {_middle(first['sm_clock_mhz'], 1, 'MHz')}, {_middle(first['temperature_c'], 1, 'degC')}"
    return {"said": said, "energy_period_ns": period_ns, "boards": found, "notes": notes}


def _middle(spread: Sequence[float] | None, factor: float, unit: str) -> str:
    return f"no {unit}" if spread is None else f"{spread[1] * factor:.0f} {unit}"


def check_counters(found: Mapping[str, Any]) -> list[str]:
    """Every counter answers, and with a value that such a board can have."""
    wrong = list(found["notes"])
    period_ns = found["energy_period_ns"]
    if period_ns is None or period_ns > 150e6:
        wrong.append(
            f"the energy counter moves every {period_ns} ns: a window's energy is uncertain by more than expected"
        )
    for board in found["boards"]:
        name = f"GPU {board['index']}"
        wrong += [f"{name}: no {counter}" for counter in board["missing"] if not board["mig_enabled"]]
        power, clocks, degrees = board["power_mw"], board["sm_clock_mhz"], board["temperature_c"]
        if power and not 3_000 <= power[1] <= 1.05 * (board["power_limit_mw"] or power[1]):
            wrong.append(f"{name}: {power[1] / 1e3:.1f} W while idle")
        if clocks and clocks[2] > (board["sm_clock_limit_mhz"] or clocks[2]):
            wrong.append(f"{name}: SM clock {clocks[2]} MHz, above its limit {board['sm_clock_limit_mhz']}")
        if degrees and not 5 <= degrees[1] <= 80:
            wrong.append(f"{name}: {degrees[1]} degC while idle")
        if held := _HELD_DOWN & set(board["reasons"]):
            wrong.append(f"{name}: held down while idle by {', '.join(sorted(held))}")
        own = board["memory_used_includes_reserved"]  # an old driver counts its own memory as used
        if not own and (board["held_before_bytes"] or 0) > UNOWNED_BYTES:
            wrong.append(f"{name}: {board['held_before_bytes'] / 2**20:,.0f} MiB in use before anything of ours ran")
        if board["power_limit_mw"] != board["power_limit_default_mw"]:
            wrong.append(
                f"{name}: power limit {board['power_limit_mw']} mW, its default {board['power_limit_default_mw']}"
            )
        if board["pcie_width"] != board["pcie_width_limit"]:
            wrong.append(f"{name}: PCIe width {board['pcie_width']} of {board['pcie_width_limit']}")
        if board["persistence_enabled"] is False:
            wrong.append(f"{name}: persistence mode is off: counters may start anew between two runs")
        if board["ecc_uncorrected_errors"]:
            wrong.append(f"{name}: {board['ecc_uncorrected_errors']} uncorrected ECC errors")
    return wrong


# ---------------------------------------------------------------- what a call costs


def _calls(place: Place) -> Figures:
    found: Figures = {}
    with matmul(place, "calls") as load:
        for phase in ("idle", "load"):
            if phase == "load":
                load.go()
                clock.sleep(place.seconds(_RAMP_S))
            gpus = open_all()
            try:
                count = gpus.board_count
                watch(gpus, place.seconds(12), _HZ, processes=True)
                found[phase] = gpus.calls()
            finally:
                gpus.close()
        load.stop()
    found["boards"] = count
    sample = [_sample_us(found[phase]) for phase in ("idle", "load")]
    lists = [found[phase]["processes"]["p50_us"] for phase in ("idle", "load")]
    found["said"] = (
        f"one sample of a board: {sample[0]:,.0f} us idle, {sample[1]:,.0f} us under load; its list of processes: {lists[0]:,.0f} and {lists[1]:,.0f} us"
    )
    return found


def _sample_us(calls: Mapping[str, Any]) -> float:
    """What one sample of one board costs without its list of processes."""
    return sum(calls[name]["p50_us"] for name in SAMPLED if name in calls and name != "processes")


def check_calls(found: Mapping[str, Any]) -> list[str]:
    """Asking costs little, under load too."""
    wrong = []
    for phase in ("idle", "load"):
        calls = found[phase]
        if (cost := _sample_us(calls) * found["boards"]) > SAMPLE_US:
            wrong.append(f"{phase}: a sample takes {cost / 1e3:.1f} ms, more than a tenth of the sampler's period")
        for name, call in calls.items():
            if name == "processes" and call["p50_us"] > LIST_US:
                wrong.append(f"{phase}: a list of processes takes {call['p50_us'] / 1e3:.1f} ms (p50)")
            elif name in SAMPLED and call["max_us"] > ANY_US:
                wrong.append(f"{phase}: {name} once took {call['max_us'] / 1e3:.1f} ms")
    for name, call in found["load"].items():
        idle_us = found["idle"].get(name, call)["p50_us"]
        if name in SAMPLED and call["p50_us"] > LOAD_FACTOR * idle_us + 200:
            wrong.append(f"{name}: {call['p50_us'] / 1e3:.1f} ms under load, {idle_us / 1e3:.1f} ms idle (p50)")
    return wrong


# ---------------------------------------------------------------- energy against power


def energy_and_power(rows: Sequence[GpuSample]) -> tuple[float, float] | None:
    """Joules by the counter and by sampled power (trapezoids) between the first and last sample that have both."""
    known = [row for row in rows if row.energy_mj is not None and row.power_mw is not None]
    if len(known) < 2:
        return None
    counted = (known[-1].energy_mj - known[0].energy_mj) / 1e3
    sampled = sum((a.power_mw + b.power_mw) / 2e3 * (b.stamp_ns - a.stamp_ns) / clock.NS for a, b in pairwise(known))
    return counted, sampled


def _energy(place: Place) -> Figures:
    gpus = open_all()
    try:
        limits = {fact["uuid"]: fact["power_limit_mw"] for fact in gpus.static()}
        with matmul(place, "energy") as load:
            load.go()
            clock.sleep(place.seconds(_RAMP_S))
            seen = by_board(watch(gpus, place.seconds(20), 20.0))
            done = load.stop()
    finally:
        gpus.close()
    both = {uuid: pair for uuid, rows in seen.items() if (pair := energy_and_power(rows)) is not None}
    if not both:
        raise StepError("no board tells both energy and power")
    uuid = next((one for one in both if load.uuid and one.endswith(load.uuid.removeprefix("GPU-"))), None)
    uuid = uuid or max(both, key=lambda one: both[one][1])
    counted_j, sampled_j = both[uuid]
    seconds = (seen[uuid][-1].stamp_ns - seen[uuid][0].stamp_ns) / clock.NS
    watts = sampled_j / seconds
    return {
        "said": f"counter {counted_j:,.0f} J, power x time {sampled_j:,.0f} J (ratio {counted_j / sampled_j:.3f}) in {seconds:.0f} s of matmul: "
        f"{watts:.0f} W, {done['tflops']:.0f} TFLOP/s, {_middle(_spread(seen[uuid], 'sm_clock_mhz'), 1, 'MHz')}",
        "uuid": uuid,
        "counted_j": counted_j,
        "sampled_j": sampled_j,
        "watts": watts,
        "limit_w": None if limits.get(uuid) is None else limits[uuid] / 1e3,
        "tflops": done["tflops"],
        "sm_clock_mhz": _spread(seen[uuid], "sm_clock_mhz"),
        "temperature_c": _spread(seen[uuid], "temperature_c"),
        "reasons": sorted({n for row in seen[uuid] for n in reason_names(row.throttle_reasons or 0)}),
    }


def check_energy(found: Mapping[str, Any]) -> list[str]:
    """The counter is the integral of the power, and the load was one."""
    wrong = []
    ratio = found["counted_j"] / found["sampled_j"]
    if abs(ratio - 1) > ENERGY_SHARE:
        wrong.append(
            f"the energy counter disagrees with sampled power by {ratio - 1:+.1%}: one of the two is not this board's"
        )
    if found["limit_w"] is not None and found["watts"] < 0.4 * found["limit_w"]:
        wrong.append(
            f"a matmul draws {found['watts']:.0f} W of {found['limit_w']:.0f} W: the board is held down, or shared"
        )
    return wrong


STEPS = (
    Step(
        "counters",
        "NVML: what every board is, and all that the sampler asks for, 10 s idle at 10 Hz",
        "every counter answers, the energy counter moves at least every 150 ms, an idle board is cool, unthrottled and nobody's",
        0.4,
        ("gpu",),
        _counters,
        check_counters,
    ),
    Step(
        "calls",
        "every NVML call of the sampler timed, 12 s idle and 12 s under a matmul",
        f"a sample of all boards below {SAMPLE_US / 1e3:g} ms, a list of processes below {LIST_US / 1e3:g} ms, none above {ANY_US / 1e3:g} ms, "
        f"under load at most {LOAD_FACTOR:g} times the idle time",
        0.7,
        ("gpu", "torch"),
        _calls,
        check_calls,
    ),
    Step(
        "energy",
        "the energy counter beside sampled power, 20 s of a bf16 matmul",
        f"they agree within {ENERGY_SHARE:.0%}, and the matmul draws at least 40 % of the power limit",
        0.6,
        ("gpu", "torch"),
        _energy,
        check_energy,
    ),
)
