"""Recorded machines: the files by which the NVIDIA driver shows, under a folder that stands for /."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).with_name("fake_driver.c")
# /proc/driver/nvidia/version of the proprietary and of the open kernel module
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc version 12.3.0\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U16-I1-N07-12-3)\nGCC version:\n"


def box(
    root: Path,
    driver: str | None,
    *,
    boards: int = 1,
    nodes: int | None = None,
    banner: str = CLOSED,
    sysfs: bool = True,
) -> Path:
    """A machine with `boards` that the driver lists and `nodes` (all of them, unless given) of them in /dev."""
    (root / "dev").mkdir(parents=True)
    if driver is None:
        return root
    (root / "proc/driver/nvidia/gpus").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(banner.format(driver))
    if sysfs:
        (root / "sys/module/nvidia").mkdir(parents=True)
        (root / "sys/module/nvidia/version").write_text(driver + "\n")
    for index in range(boards):
        (root / f"proc/driver/nvidia/gpus/0000:{index:02x}:00.0").mkdir()
    for name in (
        "nvidiactl",
        "nvidia-uvm",
        "nvidia-caps",
        *(f"nvidia{i}" for i in range(boards if nodes is None else nodes)),
    ):
        (root / "dev" / name).touch()
    return root


def build(out: Path, name: str) -> str:
    """The stand-in library under `name`; skips where there is no gcc."""
    gcc = shutil.which("gcc")
    if gcc is None:
        pytest.skip("gcc is not installed, so the fake driver library cannot be built")
    library = out / name
    subprocess.run(
        [gcc, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True
    )
    return str(library)
