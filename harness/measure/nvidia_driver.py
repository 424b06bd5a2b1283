"""The NVIDIA driver and GPUs of this machine as the kernel, NVML and CUDA show them. Standard library only: the set-up looks
here before anything is installed. The names and counters of boards are `observe.boards.nvml`'s.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.base import clock

NVML = "libnvidia-ml.so.1"
CUDA = "libcuda.so.1"
# NVIDIA, CUDA Compatibility, "Minor Version Compatibility", table 1, and CUDA Toolkit Release Notes, table "CUDA Toolkit and
# Corresponding Driver Versions", Linux x86-64; read 2026-11-26. A toolkit runs from the floor of its major version up;
# below the driver it came with, what is compiled to PTX at run time is not sure to load.
_MAJOR_FLOOR = {11: "450.80.02", 12: "525.60.13", 13: "580.65.06"}
_CAME_WITH = {
    "11.8": "520.61.05", "12.0": "525.60.13", "12.1": "530.30.02", "12.2": "535.54.03", "12.3": "545.23.06",
    "12.4": "550.54.14", "12.5": "555.42.02", "12.6": "560.28.03", "12.8": "570.26", "12.9": "575.51.03",
    "13.0": "580.65.06", "13.1": "590.44.01",
}  # fmt: skip
_SMI_TIMEOUT_S = 60.0
_CUDA_TIMEOUT_S = 60.0
_CUDA_POLL_S = 2.0
# CUDA driver API, enum CUresult: the answers of cuInit that say what to do.
_CUDA_ADVICE = {
    100: "no CUDA device: is the GPU given to this container or session (CUDA_VISIBLE_DEVICES, --gpus)?",
    802: "the system is not ready: start nvidia-fabricmanager of the driver's version (NVSwitch boxes need it)",
    803: "libcuda.so.1 and the loaded kernel driver differ in version: reboot, or reload the driver",
    804: "the forward compatibility package does not work on this board: take it off the library path",
    999: "unknown error: is the module nvidia_uvm loaded, and /dev/nvidia-uvm in this container?",
}
# nvmlGpuFabricState_t
FABRIC_STATES = {0: "not supported", 1: "not started", 2: "in progress", 3: "completed"}


@dataclass(frozen=True, slots=True)
class Box:
    """What shows of NVIDIA here. `driver`: version of the loaded driver, None if none shows. `gpus`: boards that this process
    may use, by `gpus_from`; `listed`: boards that the driver lists, those that a container was not given too."""

    driver: str | None
    driver_from: str
    gpus: int
    gpus_from: str
    listed: int

    @property
    def has_gpu(self) -> bool:
        return self.gpus > 0


def look(root: Path = Path("/"), nvml: str = NVML) -> Box:
    """Ask NVML, nvidia-smi and the kernel's files, in this order. A container often has neither of the first two, and only a
    process that was given a board has its /dev/nvidiaN. `root` stands for / and `nvml` for the library in tests."""
    version, count = _ask_nvml(nvml)
    driver_from = "NVML" if version else ""
    for path in ("sys/module/nvidia/version", "proc/driver/nvidia/version"):
        if version is None and (version := _version_in(root / path)) is not None:
            driver_from = f"/{path}"
    gpus, gpus_from = count, "NVML" if count else ""
    if not gpus and (listed := _smi_lines()):
        gpus, gpus_from = listed, "nvidia-smi"
    nodes = sorted(p.name for p in _entries(root / "dev") if re.fullmatch(r"nvidia\d+", p.name))
    if not gpus and nodes:
        gpus, gpus_from = len(nodes), f"/dev/{nodes[0]}"
    return Box(version, driver_from, gpus, gpus_from, len(_entries(root / "proc/driver/nvidia/gpus")))


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _version_in(path: Path) -> str | None:
    """The version in /sys/module/nvidia/version, or behind "Kernel Module" in /proc/driver/nvidia/version."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"(?:^|Kernel Module\s+(?:for \S+\s+)?)(\d+\.\d+(?:\.\d+)*)\b", text)
    return match[1] if match else None


def _smi_lines() -> int:
    """GPUs that nvidia-smi lists."""
    if shutil.which("nvidia-smi") is None:
        return 0
    words = ["nvidia-smi", "-L"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_SMI_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return 0 if done.returncode else len(re.findall(r"^GPU \d+:", done.stdout, re.MULTILINE))


def _ask_nvml(library: str) -> tuple[str | None, int]:
    """(driver version, boards); (None, 0) where there is no NVML or it does not start."""
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInitWithFlags(0):
            return None, 0
        try:
            text, count = ctypes.create_string_buffer(96), ctypes.c_uint()
            version = None if nvml.nvmlSystemGetDriverVersion(text, len(text)) else text.value.decode()
            return version, 0 if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) else count.value
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError, UnicodeDecodeError):  # not there, or not NVML
        return None, 0


class _FabricInfo(ctypes.Structure):
    """nvmlGpuFabricInfo_t."""

    _fields_ = (
        ("cluster_uuid", ctypes.c_ubyte * 16),
        ("status", ctypes.c_int),
        ("clique_id", ctypes.c_uint),
        ("state", ctypes.c_ubyte),
    )


def fabric_states(library: str = NVML) -> list[int]:
    """Each board's nvmlGpuFabricState_t, see FABRIC_STATES; boards and drivers that do not tell are left out."""
    states = []
    try:
        nvml = ctypes.CDLL(library)
        if nvml.nvmlInitWithFlags(0):
            return []
        try:
            count = ctypes.c_uint()
            nvml.nvmlDeviceGetCount_v2(ctypes.byref(count))
            for index in range(count.value):
                handle, info = ctypes.c_void_p(), _FabricInfo()
                if nvml.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(handle)):
                    continue
                if nvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info)) == 0:
                    states.append(int(info.state))
        finally:
            nvml.nvmlShutdown()
    except (OSError, AttributeError):
        return []
    return states


def cuda_problem_here(library: str = CUDA) -> str | None:
    """Why CUDA does not start in this very process, None if it starts and has a device. NVML's answers do not tell: without
    nvidia_uvm, or on an NVSwitch box whose fabric manager is down, NVML works and CUDA does not."""
    try:
        cuda = ctypes.CDLL(library)
        code = cuda.cuInit(0)
    except (OSError, AttributeError) as error:
        return f"{CUDA} cannot be used: {error}"
    if code:
        return f"cuInit answers {code}: {_CUDA_ADVICE.get(code, 'see enum CUresult of the CUDA driver API')}"
    count = ctypes.c_int()
    code = cuda.cuDeviceGetCount(ctypes.byref(count))
    if code or not count.value:
        return (
            f"cuInit works, and there are {count.value} devices (cuDeviceGetCount answers {code}): {_CUDA_ADVICE[100]}"
        )
    return None


def cuda_problem(library: str = CUDA) -> str | None:
    """Why CUDA does not start, None if it does; asked in a process of its own, for a driver that is stuck does not answer."""
    code = "import sys; from harness.measure.nvidia_driver import cuda_problem_here; print(cuda_problem_here(sys.argv[1]) or '')"
    words = [sys.executable, "-c", code, library]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_CUDA_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"cuInit does not come back within {_CUDA_TIMEOUT_S:g} s: see dmesg for Xid errors"
    if done.returncode:
        return f"cuInit ends its process with status {done.returncode}"
    return done.stdout.strip() or None


def wait_for_cuda(within_s: float, library: str = CUDA) -> str | None:
    """`cuda_problem`, asked again until it is none or `within_s` have passed: after a boot the fabric takes minutes."""
    begun_ns = clock.monotonic_ns()
    while True:
        problem = cuda_problem(library)
        left_s = within_s - (clock.monotonic_ns() - begun_ns) / clock.NS
        if problem is None or left_s <= 0:
            return problem
        clock.sleep(min(_CUDA_POLL_S, left_s))


# ---------------------------------------------------------------- which CUDA a driver runs


def _key(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version))


def floor(cuda: str) -> str | None:
    """The oldest driver that runs builds of CUDA `cuda` ("13.0"), None if its major version is not in NVIDIA's table."""
    return _MAJOR_FLOOR.get(_key(cuda)[0])


def runs(driver: str, cuda: str) -> str:
    """Whether `driver` runs builds of `cuda`: yes | minor (by minor version compatibility) | no | unknown (no such CUDA here)."""
    least = floor(cuda)
    if least is None:
        return "unknown"
    if _key(driver) < _key(least):
        return "no"
    came_with = _CAME_WITH.get(cuda, least)
    return "minor" if _key(driver) < _key(came_with) else "yes"
