"""Shards written whole, as a drive has them in the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.measure.drive import feed, turns
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt


def write(
    requests: Sequence[PlannedRequest], prompts: Sequence[Prompt], owner: Sequence[int], workers: int, endpoint: Endpoint, run_id: str, folder: Path
) -> None:  # fmt: skip
    """The files of `workers` workers in `folder`, for a phase that is measured."""
    whole = feed.Feed(
        Job(requests, prompts, Load(), Phase.MEASURE, run_id, folder),
        owner,
        workers,
        endpoint,
        folder,
        turns.tree_of(requests),
    )
    while whole.fill(10**9):
        pass
    whole.close()
