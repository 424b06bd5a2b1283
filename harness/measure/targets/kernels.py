"""FlashInfer's compiled kernels, after vLLM is installed. Standard library only.

Without the package flashinfer-cubin, or nvcc and ninja, vLLM 0.32 turns FlashInfer off; without flashinfer-jit-cache it compiles
at the server's start (vllm/utils/flashinfer.py). Where the list does not pin them (the index of the list has none of that
FlashInfer) they come by vLLM's own `download-kernels`: from FlashInfer's index, not held to hashes, which is said.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from harness.measure import gpu_build
from harness.measure.targets.pip_run import pip, say

_DOWNLOAD = ("-m", "vllm.entrypoints.cli.main", "download-kernels")
_TIMEOUT_S = 3600.0


def plan(wanted: Mapping[str, str], wheels: Path | None) -> str | None:
    """What `fetch` would do, None where nothing is to be done: no FlashInfer, or the list itself holds its kernels."""
    version = wanted.get("flashinfer-python")
    if version is None or "flashinfer-cubin" in wanted:
        return None
    if wheels is not None:
        names = ", ".join(path.name for path in in_folder(wheels, version)) or "none is there"
        return f"install FlashInfer's kernels {version} from {wheels}: {names}"
    return f"download FlashInfer's kernels {version} by vLLM's own command, not held to hashes (--no-kernels leaves them out)"


def fetch(wanted: Mapping[str, str], wheels: Path | None) -> bool:
    """Bring the kernels that belong to the list's FlashInfer; whether there was anything to do. A failure is said, for vLLM
    serves without them, only otherwise."""
    coming = plan(wanted, wheels)
    state = gpu_build.flashinfer()
    if coming is None or (state.complete and state.python == wanted["flashinfer-python"]):
        return False
    say(coming)
    why = _from_folder(wheels, wanted["flashinfer-python"]) if wheels is not None else _by_vllm()
    if why is not None:
        say(f"note: FlashInfer's kernels are not there ({why}): vLLM turns FlashInfer off, or compiles at each start")
        say(f"later: {sys.executable} {' '.join(_DOWNLOAD)}")
    return True


def in_folder(wheels: Path, version: str) -> list[Path]:
    """Wheels of the kernels of FlashInfer `version`: flashinfer-cubin, flashinfer-jit-cache and its parts for boards."""
    return sorted(
        path
        for pattern in ("flashinfer_cubin-{}-*.whl", "flashinfer_jit_cache*-{}-*.whl", "flashinfer_jit_cache*-{}+*.whl")
        for path in wheels.glob(pattern.format(version))
    )


def _from_folder(wheels: Path, version: str) -> str | None:
    found = in_folder(wheels, version)
    if not found:
        return f"no flashinfer_cubin-{version}-*.whl in {wheels}"
    code, lines = pip(["install", "--no-index", "--no-deps", *map(str, found)], len(found))
    return None if code == 0 else (lines or ["pip said nothing"])[-1]


def _by_vllm() -> str | None:
    """vLLM's own step, its output passed on; None if it worked, else why not."""
    try:
        done = subprocess.run([sys.executable, "-P", *_DOWNLOAD], timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    return None if done.returncode == 0 else f"exit status {done.returncode}"
