"""What the server said of itself: whether it ran the kernels that a user of this GPU gets (FlashInfer, CUDA graphs, tuned configs), and
whether it still compiled while it was measured."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.base import clock
from harness.judge.validity import Evidence, unknown, warning
from harness.records import Reason

_INSTALL = "run `vllm download-kernels` in the server's Python, or install flashinfer-cubin and flashinfer-jit-cache of flashinfer-python's version"
# Hopper and newer: there vLLM 0.32 tunes with FlashInfer, and on Blackwell it is the first attention backend (platforms/cuda.py).
_DEFAULT_ON = re.compile(r"\bG?H(?:100|200|800|20)\b|\bG?B\d{3}\b|\bRTX 50\d\d|\bBlackwell\b", re.IGNORECASE)
_ASKED_VARIABLES = re.compile(r"VLLM_\w*FLASHINFER\w*")
_SEEN_LATE_NS = clock.NS  # the log is looked at a few times a second, and a compilation is told when it has ended
_SHOWN_CHARS = 160


def _checks(e: Evidence) -> Mapping[str, Any]:
    checks: Mapping[str, Any] = e.run.manifest.target.get("checks") or {}
    return checks


def _asked_for(e: Evidence) -> str | None:
    """Why this server was expected to use FlashInfer; None where neither its flags, its variables nor its boards say so."""
    target = e.run.manifest.target
    for name, value in (target.get("flags") or {}).items():
        if "flashinfer" in str(value).lower():
            return f"{name}={value} asks for it"
    for name, value in (e.run.manifest.target_config.get("env") or {}).items():
        if _ASKED_VARIABLES.fullmatch(name) and str(value).lower() not in ("", "0", "false"):
            return f"{name}={value} asks for it"
    boards = {str(gpu.get("name")) for gpu in e.run.manifest.environment.get("gpus") or []}
    default = sorted(board for board in boards if _DEFAULT_ON.search(board))
    return f"vLLM uses it by default on {default[0]}" if default else None


def flashinfer_disabled(e: Evidence) -> Reason | None:
    """FlashInfer cannot run in this installation. UNKNOWN where it was asked for or is this GPU's default: the numbers are those of the
    fallback, and not of vLLM on this GPU."""
    state = str(_checks(e).get("flashinfer", ""))
    if not state.startswith("disabled") and "; disabled" not in state:
        return None
    why = _asked_for(e)
    message = f"vLLM ran without FlashInfer ({state})"
    if why is None:
        return warning("flashinfer_disabled", message, f"{_INSTALL}; compare only with runs without it")
    return unknown("flashinfer_disabled", f"{message}, and {why}: these are the numbers of a fallback", _INSTALL)


def flashinfer_compiles(e: Evidence) -> Reason | None:
    state = str(_checks(e).get("flashinfer", ""))
    if "compiles its kernels" not in state:
        return None
    return warning(
        "flashinfer_compiles",
        f"FlashInfer had no kernels of its version ({state}): its start took longer, and a first use may compile",
        _INSTALL,
    )


def eager(e: Evidence) -> Reason | None:
    """No CUDA graphs, though nobody asked for that."""
    graphs = str(_checks(e).get("cuda_graphs", ""))
    flags: Mapping[str, Any] = e.run.manifest.target.get("flags") or {}
    meant = flags.get("enforce_eager") in (True, "true", "True") or any(
        "compilation" in name or "cudagraph" in name for name in flags
    )
    if not graphs.startswith("none") or meant:
        return None
    return unknown(
        "eager_fallback",
        f"vLLM captured no CUDA graphs, and no flag asked for that ({graphs.removeprefix('none: ')}): small batches are slower than they need be",
        "choose an attention backend that supports graphs, or write enforce_eager: true if this is meant",
    )


def slow_path(e: Evidence) -> Reason | None:
    line = _checks(e).get("slow_path")
    if not line:
        return None
    return warning(
        "slow_path", f"vLLM said of itself: {line}", "follow what it says, or compare only with runs that say the same"
    )


# ---------------------------------------------------------------- its log while it was measured


def _compilations(e: Evidence, name: str) -> Sequence[Any]:
    log: Mapping[str, Any] = e.run.manifest.drive.get("compiling") or {}
    return log.get(name) or ()


def compiled_in_window(e: Evidence) -> Reason | None:
    """The server compiled or tuned kernels while it was measured: requests waited for that, in a number that another run does not have."""
    window = e.window
    if window is None:
        return None
    inside = [
        line
        for line in _compilations(e, "lines")
        if window.start_ns <= line["seen_ns"] <= window.end_ns + _SEEN_LATE_NS
    ]
    if not inside:
        return None
    kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(line["kind"] for line in inside).items()))
    first = inside[0]
    at = (
        f" at {first['logged_at']}"
        if first["logged_at"]
        else f" {(first['seen_ns'] - window.start_ns) / clock.NS:.1f} s into it"
    )
    return unknown(
        "compiled_in_window",
        f"the server compiled in the window ({kinds}); the first{at}: {first['text'][:_SHOWN_CHARS]}",
        "run again on the warm server, or raise warmup_requests; jit-monitor-verbose: true in the flags (vLLM 0.28 and newer) logs each compilation with its shape",
    )


def still_compiling(e: Evidence) -> Reason | None:
    """Every round of the warm-up saw the server compile: it ended by its bound."""
    lines = _compilations(e, "round_lines")
    if not lines or not lines[-1]:
        return None
    return warning(
        "still_compiling",
        f"the server still compiled in the last of {len(lines)} rounds of warm-up ({', '.join(map(str, lines))} lines)",
        "raise warmup_requests, so that the warm-up meets more of the shapes that are measured",
    )


SERVER_CHECKS = (compiled_in_window, still_compiling, flashinfer_disabled, flashinfer_compiles, eager, slow_path)
