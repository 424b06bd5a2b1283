"""What `harness doctor` says of this machine: a line for each thing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.measure.nvidia_driver import CUDA, NVML


@dataclass(frozen=True, slots=True)
class DoctorLine:
    """One finding. `state`: ok | missing | warn; `how_to_get` is empty where nothing is to be done."""

    item: str
    state: str
    detail: str
    how_to_get: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where to look; tests give folders and libraries of their own."""

    root: Path = Path("/")
    nvml: str = NVML
    cuda: str = CUDA
