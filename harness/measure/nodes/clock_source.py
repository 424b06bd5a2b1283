"""What disciplines this machine's clock, as facts of the manifest: chrony, PTP, systemd's word, the kernel's time source.

Nothing here is needed: offsets are bounded by round trips (`time_line`) whatever these say. They explain a drift that moves, since a discipline
slews CLOCK_MONOTONIC too. A program that is not there, does not answer, or says something else is a key that is missing.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.measure.observe import machine

ASK_S = 2.0
# chronyc(1), "tracking", in the order of its report, which is that of `-c`; times in s, rates in ppm, signs as chronyc prints them
CHRONY = (
    "reference_id", "reference", "stratum", "reference_time_s", "system_offset_s", "last_offset_s", "rms_offset_s", "frequency_ppm",
    "residual_ppm", "skew_ppm", "root_delay_s", "root_dispersion_s", "update_interval_s", "leap_status",
)  # fmt: skip
CHRONY_WORDS = ("reference_id", "reference", "leap_status")
PTP = {  # pmc(8), TIME_STATUS_NP and CURRENT_DATA_SET -> ours
    "master_offset": "offset_ns", "gmPresent": "has_master", "gmIdentity": "master", "stepsRemoved": "steps_removed",
    "meanPathDelay": "path_delay_ns",
}  # fmt: skip


def clock_facts(root: Path = Path("/")) -> dict[str, Any]:
    """`time_source` (the kernel's), `chrony`, `ptp`, `ptp_clocks` (hardware ones, by name), `synchronised` (as systemd has it, by whomever):
    those that can be had. Takes no longer than a few seconds."""
    found = {
        "time_source": machine.clock_source(),
        "chrony": chrony(machine.command("chronyc", "-n", "-c", "tracking", timeout_s=ASK_S)),
        "ptp": ptp(
            machine.command("pmc", "-u", "-b", "0", "GET TIME_STATUS_NP", "GET CURRENT_DATA_SET", timeout_s=ASK_S)
        ),
        "ptp_clocks": hardware_clocks(root),
        "synchronised": systemd(machine.command("timedatectl", "show", "--property=NTPSynchronized", timeout_s=ASK_S)),
    }
    return {name: value for name, value in found.items() if value not in (None, {}, [])}


def chrony(said: str | None) -> dict[str, Any]:
    """The one line of `chronyc -c tracking`; {} where it is none."""
    values = (said or "").strip().split(",")
    if len(values) < len(CHRONY):
        return {}
    found = {
        name: value if name in CHRONY_WORDS else _number(value) for name, value in zip(CHRONY, values, strict=False)
    }
    return {} if None in found.values() else found


def _number(word: str) -> float | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def ptp(said: str | None) -> dict[str, Any]:
    """What ptp4l of this machine answered to pmc; {} where nobody did (pmc repeats its question then, and nothing else)."""
    found: dict[str, Any] = {}
    for line in (said or "").splitlines():
        name, _, value = line.strip().partition(" ")
        value = value.strip()
        if name not in PTP or not value:
            continue
        match name:
            case "gmPresent":
                found[PTP[name]] = value == "true"
            case "gmIdentity":
                found[PTP[name]] = value
            case _:
                found |= {} if (number := _number(value)) is None else {PTP[name]: number}
    return found


def systemd(said: str | None) -> bool | None:
    """`NTPSynchronized=yes`: the kernel's own flag, whoever set it."""
    return {"NTPSynchronized=yes": True, "NTPSynchronized=no": False}.get((said or "").strip())


def hardware_clocks(root: Path) -> list[str]:
    """Names of the PTP hardware clocks (of network cards, of the hypervisor) under /sys/class/ptp."""
    names = (machine.read_text(str(path)) for path in sorted(root.glob("sys/class/ptp/ptp*/clock_name")))
    return [name.strip() for name in names if name and name.strip()]
