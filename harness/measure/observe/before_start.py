"""What the boards held before a server of ours was started: what they hold later and did not then is the server's."""

from __future__ import annotations

from harness.measure.observe.nvml import open_gpus


def used_bytes() -> dict[str, int]:
    """Memory in use of every board and MIG slice, by uuid, now; empty where there is no NVML."""
    gpus = open_gpus()
    if isinstance(gpus, str):
        return {}
    try:
        return gpus.used_bytes()
    finally:
        gpus.close()
