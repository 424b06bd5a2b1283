"""What an invocation of `harness run` says beside the config. Imports nothing, so that the command line may."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Intent:
    """What the command line says beside the config: globs on cell names, the campaign to resume (an id, or NEWEST), whether to
    wait for one that holds the GPU, and whether a resumption runs failed cells again. `take`: asked with the campaign's file whether its id
    is ours where the results go; False where it is another campaign's, None where they stay here."""

    only: tuple[str, ...] = ()
    resume: str | None = None
    wait_lock: bool = False
    failed: bool = False
    take: Callable[[Path], bool] | None = None
