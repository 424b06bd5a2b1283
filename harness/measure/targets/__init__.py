"""Real servers to measure: one of ours (`vllm`), somebody else's (`adopt`), a hosted API (`hosted`), two at once (`hybrid`).

Importing this package costs nothing beyond the standard library: the set-up runs from it before anything is installed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.measure.targets.target import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from harness.config.target import TargetSpec

__all__ = ["Target", "open_target"]


def open_target(spec: TargetSpec, log_path: Path, say: Callable[[str], None]) -> Target:
    """Start or reach the target of `spec`. A server of ours writes to `log_path`; `say` takes progress, a line a call. A hybrid is opened
    by its two sides, see `hybrid.open_both`.

    Raises ConfigError for words in the spec that cannot be used, TargetError for a server that does not start, does
    not answer, refuses the key, or serves another model than the one asked for.
    """
    match spec.kind:
        case "vllm":
            from harness.measure.targets import vllm

            return vllm.start(spec, log_path, say)
        case "adopt":
            from harness.measure.targets import adopt

            return adopt.adopt(spec, say)
        case "offline":
            from harness.measure.targets.batch import engine

            return engine.start(spec, log_path, say)
        case "hosted":
            from harness.measure.targets import hosted

            return hosted.reach(spec, say)
        case "hybrid":
            raise AssertionError("a hybrid has no server of its own")
