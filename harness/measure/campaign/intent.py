"""What an invocation of `harness run` says beside the config. Imports nothing, so that the command line may."""

from __future__ import annotations

from dataclasses import dataclass

NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Intent:
    """What the command line says beside the config: globs on cell names, the campaign to resume (an id, or NEWEST), whether to
    wait for one that holds the GPU, and whether a resumption runs failed cells again."""

    only: tuple[str, ...] = ()
    resume: str | None = None
    wait_lock: bool = False
    failed: bool = False
