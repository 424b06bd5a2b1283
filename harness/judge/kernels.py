"""Whether the server ran the kernels that a user of this GPU gets: FlashInfer, CUDA graphs, tuned configs; by what its start said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.judge.evidence import Evidence, unknown, warning
from harness.records import Reason

_INSTALL = "run `vllm download-kernels` in the server's Python, or install flashinfer-cubin and flashinfer-jit-cache of flashinfer-python's version"
# Hopper and newer: there vLLM 0.32 tunes with FlashInfer, and on Blackwell it is the first attention backend (platforms/cuda.py).
_DEFAULT_ON = re.compile(r"\bG?H(?:100|200|800|20)\b|\bG?B\d{3}\b|\bRTX 50\d\d|\bBlackwell\b", re.IGNORECASE)
_ASKED_VARIABLES = re.compile(r"VLLM_\w*FLASHINFER\w*")


def _checks(e: Evidence) -> Mapping[str, Any]:
    found: Mapping[str, Any] = e.run.manifest.target.get("checks") or {}
    return found


def _asked_for(e: Evidence) -> str | None:
    """Why this server was expected to use FlashInfer; None where neither its flags, its variables nor its boards say so."""
    target = e.run.manifest.target
    for name, value in (target.get("flags") or {}).items():
        if "flashinfer" in str(value).lower():
            return f"{name}={value} asks for it"
    declared: Mapping[str, Any] = next(
        (t for t in e.run.manifest.config.get("targets") or [] if t.get("name") == target.get("name")), {}
    )
    for name, value in (declared.get("env") or {}).items():
        if _ASKED_VARIABLES.fullmatch(name) and str(value).lower() not in ("", "0", "false"):
            return f"{name}={value} asks for it"
    boards = {str(gpu.get("name")) for gpu in e.run.manifest.environment.get("gpus") or []}
    default = sorted(board for board in boards if _DEFAULT_ON.search(board))
    return f"vLLM uses it by default on {default[0]}" if default else None


def flashinfer_disabled(e: Evidence) -> Reason | None:
    """FlashInfer cannot run in this installation. UNKNOWN where it was asked for or is this GPU's default: the numbers are those of the
    fallback, and not of vLLM on this GPU."""
    said = str(_checks(e).get("flashinfer", ""))
    if not said.startswith("disabled") and "; disabled" not in said:
        return None
    why = _asked_for(e)
    message = f"vLLM ran without FlashInfer ({said})"
    if why is None:
        return warning("flashinfer_disabled", message, f"{_INSTALL}; compare only with runs without it")
    return unknown("flashinfer_disabled", f"{message}, and {why}: these are the numbers of a fallback", _INSTALL)


def flashinfer_compiles(e: Evidence) -> Reason | None:
    said = str(_checks(e).get("flashinfer", ""))
    if "compiles its kernels" not in said:
        return None
    return warning(
        "flashinfer_compiles",
        f"FlashInfer had no kernels of its version ({said}): its start took longer, and a first use may compile",
        _INSTALL,
    )


def eager(e: Evidence) -> Reason | None:
    """No CUDA graphs, though nobody asked for that."""
    said = str(_checks(e).get("cuda_graphs", ""))
    flags: Mapping[str, Any] = e.run.manifest.target.get("flags") or {}
    asked = flags.get("enforce_eager") in (True, "true", "True") or any(
        "compilation" in name or "cudagraph" in name for name in flags
    )
    if not said.startswith("none") or asked:
        return None
    return unknown(
        "eager_fallback",
        f"vLLM captured no CUDA graphs, and no flag asked for that ({said.removeprefix('none: ')}): small batches are slower than they need be",
        "choose an attention backend that supports graphs, or write enforce_eager: true if this is meant",
    )


def slow_path(e: Evidence) -> Reason | None:
    said = _checks(e).get("slow_path")
    if not said:
        return None
    return warning(
        "slow_path", f"vLLM said of itself: {said}", "follow what it says, or compare only with runs that say the same"
    )


KERNEL_CHECKS = (flashinfer_disabled, flashinfer_compiles, eager, slow_path)
