"""An open target: where to send, what answers there, and how to end it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path

    from harness.measure.targets.server.process import ServerProcess
    from harness.records import Endpoint, TargetInfo, Vocabulary


@dataclass(frozen=True, slots=True)
class Target:
    """Use as a context manager: leaving it ends a server of ours with all its processes, and nobody else's.

    `log_path` and `server` are None unless we started the server.
    """

    info: TargetInfo
    endpoint: Endpoint
    vocabulary: Vocabulary
    log_path: Path | None = None
    server: ServerProcess | None = None

    def died(self) -> str | None:
        """Why a server of ours is gone, with its last log lines that matter, in one line; None while it lives."""
        return self.server.died() if self.server else None

    def ends_run(self) -> str | None:
        """Why a run of it cannot go on; None while it can."""
        return self.died()

    def close(self) -> None:
        """End the server if it is ours; may be called again."""
        if self.server:
            self.server.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
