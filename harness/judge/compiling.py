"""What the server's log says of compilations while it was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.base import clock
from harness.judge.evidence import Evidence, unknown, warning
from harness.records import Reason

_SEEN_LATE_NS = clock.NS  # the log is looked at a few times a second, and a compilation is told when it has ended
_SHOWN_CHARS = 160


def _lines(e: Evidence) -> Sequence[Mapping[str, Any]]:
    told: Mapping[str, Any] = e.run.manifest.drive.get("compiling") or {}
    return told.get("lines") or ()


def compiled_in_window(e: Evidence) -> Reason | None:
    """The server compiled or tuned kernels while it was measured: requests waited for that, in a number that another run does not have."""
    window = e.window
    if window is None:
        return None
    inside = [line for line in _lines(e) if window.start_ns <= line["seen_ns"] <= window.end_ns + _SEEN_LATE_NS]
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
    told: Mapping[str, Any] = e.run.manifest.drive.get("compiling") or {}
    lines = told.get("round_lines") or ()
    if not lines or not lines[-1]:
        return None
    return warning(
        "still_compiling",
        f"the server still compiled in the last of {len(lines)} rounds of warm-up ({', '.join(map(str, lines))} lines)",
        "raise warmup_requests, so that the warm-up meets more of the shapes that are measured",
    )


COMPILING_CHECKS = (compiled_in_window, still_compiling)
