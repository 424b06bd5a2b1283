"""NVML's clocks-event-reasons (nvml.h), as bits of the column `throttle_reasons`: why a board does not run at its highest clock."""

from __future__ import annotations

IDLE = 0x01  # GpuIdle: nothing runs, and the clock says nothing
POWER_CAPPED = 0x04  # SwPowerCap: the set power limit, usual under full load
SLOWED = (
    0x08 | 0x20 | 0x40 | 0x80
)  # HwSlowdown, SwThermalSlowdown, HwThermalSlowdown, HwPowerBrakeSlowdown: heat or the power supply
