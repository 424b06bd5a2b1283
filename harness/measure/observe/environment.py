"""Provenance: what a run stood on, as plain JSON values for the manifest. Nothing is imported to find it out."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from harness import __version__
from harness.base import redaction
from harness.measure import gpu_build
from harness.measure.observe import machine

_NAMES = (
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "NVIDIA_VISIBLE_DEVICES",
    "OMP_NUM_THREADS",
    "PYTORCH_CUDA_ALLOC_CONF",
    "HF_HUB_OFFLINE",
)
_PREFIXES = ("VLLM_", "NCCL_")


def public_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that change what vLLM does, without any whose name says secret, without secrets in the others."""
    kept = {
        name: redaction.text(value)
        for name, value in environ.items()
        if (name in _NAMES or name.startswith(_PREFIXES)) and not redaction.is_secret(name)
    }
    return dict(sorted(kept.items()))


@cache
def _versions() -> Mapping[str, str | None]:
    """Of the packages that matter to a run: what this process has imported does not change, each reading takes 5 ms."""
    return {name: gpu_build.installed(name) for name in machine.PACKAGES}


def collect(gpus_static: Sequence[Mapping[str, Any]], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of a run. `gpus_static`: Observers.gpu_static. `extra`: further facts of the caller, kept as given."""
    versions = _versions()
    return {
        "harness_version": __version__,
        "python": platform.python_version(),
        "os": _os_name(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu_model": machine.cpu_model(),
        "cores": machine.cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "cpu_governor": machine.governor(),
        "clock_source": machine.clock_source(),
        "container": machine.container(),
        "cgroup": machine.cgroup_limits(),
        "machine": machine.virtualisation(),
        "virtual_machine": machine.is_virtual_machine(),
        "open_files_limit": machine.open_files_limit(),
        "host_sha256": host_sha256(),
        "git": machine.git_state(str(Path.cwd())),
        "packages": {name: version for name, version in versions.items() if version is not None},
        "gpus": [dict(gpu) for gpu in gpus_static],
        "variables": public_environment(os.environ),
        **extra,
    }


def host_sha256() -> str:
    """Of this machine's name, which may be private, the beginning of its SHA-256: equal for equal machines, no more."""
    return hashlib.sha256(platform.node().encode()).hexdigest()[:12]


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME") or platform.system()
    except OSError:
        return platform.system()
