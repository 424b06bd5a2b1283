"""Lines of a vLLM log that mean a compilation, and a watch that stamps them as they come.

The words are vLLM's (`utils/jit_monitor.py`, `compilation/`, `model_executor/warmup/`, `v1/worker/`; read at 0.24, 0.28, 0.32 and 0.33),
Triton's (`runtime/autotuner.py`, 3.9), PyTorch's (`_inductor/select_algorithm.py`, `_dynamo/convert_frame.py`, 2.13) and
FlashInfer's (`jit/core.py`). vLLM logs a kernel's compilation once for each kernel, unless it was started with
`--jit-monitor-verbose`, and not at all with `--enforce-eager`: that no line came does not show that nothing was compiled.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from harness.base import clock
from harness.measure.targets.server.vllm_log import bare

if TYPE_CHECKING:
    from pathlib import Path

_KINDS = (
    ("kernel JIT", re.compile(r"JIT compilation during inference: ")),
    ("Triton autotune", re.compile(r"^(?:Triton autotuning for function |Autotuning kernel \S+ with config |Autotuning failed with )")),
    ("torch.compile", re.compile(r"Starting torch\.compile|Dynamo bytecode transform time|Compiling a graph for |torch\.compile (?:took|and initial)|Compile and warming up model for size|torch\._dynamo hit config\.")),
    ("Inductor autotune", re.compile(r"^AUTOTUNE \w+\(|AUTOTUNE benchmarking takes ")),
    ("FlashInfer JIT", re.compile(r"flashinfer\.jit: (?:Loading|Finished loading) JIT ops|\[Autotuner\]: Autotuning process ")),
    ("kernel warm-up", re.compile(r"(?:DeepGEMM warmup|Compiling CuTeDSL kernels|JIT kernel warmup)\b.*(?:\d+%|starting)")),
    ("CUDA graph capture", re.compile(r"Capturing CUDA graphs|Graph capturing finished")),
)  # fmt: skip
_LOGGED_AT = re.compile(r"(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d-\d\d \d\d:\d\d:\d\d)")
_MOST_LINES = 200  # kept of one watch; the rest are counted
_TEXT_CHARS = 300
_MOST_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class JitLine:
    """`seen_ns`: CLOCK_MONOTONIC when the line was read, at most one look after it was written. `logged_at`: the log's own time, local,
    MM-DD HH:MM:SS; None where the line carries none."""

    kind: str
    seen_ns: int
    logged_at: str | None
    text: str


def jit_kind(line: str) -> str | None:
    """What was compiled by this line of a log; None for every other line."""
    text = bare(line)
    return next((kind for kind, words in _KINDS if words.search(text)), None)


class JitWatch:
    """The JIT lines that a log gains from now on; without a log there are none. `look` is cheap where nothing was written."""

    def __init__(self, log_path: Path | None) -> None:
        self._path = log_path
        self._at = 0 if log_path is None or not log_path.exists() else log_path.stat().st_size
        self._rest = b""
        self.lines: list[JitLine] = []
        self.count = 0

    def look(self) -> int:
        """Read what is new; returns how many JIT lines were seen until now."""
        if self._path is None:
            return 0
        try:
            with self._path.open("rb") as log:
                log.seek(self._at)
                new = log.read(_MOST_READ_BYTES)
        except OSError:
            return self.count
        self._at += len(new)
        whole, _, self._rest = (self._rest + new).replace(b"\r", b"\n").rpartition(b"\n")
        now_ns = clock.monotonic_ns()
        for line in whole.decode("utf-8", "replace").split("\n"):
            if (kind := jit_kind(line)) is not None:
                self.count += 1
                if len(self.lines) < _MOST_LINES:
                    at = _LOGGED_AT.search(line)
                    self.lines.append(JitLine(kind, now_ns, at.group(1) if at else None, bare(line)[:_TEXT_CHARS]))
        return self.count

    def facts(self) -> list[dict[str, Any]]:
        """The lines as plain values, the first 200."""
        return [asdict(line) for line in self.lines]
