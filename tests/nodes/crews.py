"""A plan over a crew against the golden server, for tests of load from many nodes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from harness.base import clock
from harness.measure.drive.golden.server import MODEL
from harness.measure.job import Job
from harness.measure.nodes.crew import Crew
from harness.measure.nodes.drive_nodes import drive_nodes
from harness.measure.nodes.kept import SENT_FROM
from harness.measure.nodes.muster import Nodes, mustered
from harness.records import (
    DriveProgress,
    DriveReport,
    Endpoint,
    Load,
    Phase,
    PlannedRequest,
    RequestRecord,
    Timeouts,
    Vocabulary,
)
from harness.store.parcels import records
from harness.store.writer import RunWriter

WORDS = Vocabulary(("a", "b"), tuple(range(10, 100)), 0, "a test's")
LIMITS = Timeouts(30, 60, 60, 120)


@dataclass
class Seen:
    """A NodesWatcher that keeps what it hears (the tables themselves until the end). `on_progress` may do something to the run, `stop` end it."""

    on_progress: Callable[[DriveProgress], None] = lambda _: None
    stop: Callable[[], str | None] = lambda: None
    tables: list[Any] = field(default_factory=list)
    said: list[RequestRecord] = field(default_factory=list)
    used: list[tuple[int, float]] = field(
        default_factory=list
    )  # (ns, CPU seconds of this process) at each progress under way
    was_ended: bool = False

    @cached_property
    def rows_seen(self) -> list[RequestRecord]:
        """Every row; ask when it is over."""
        return [row for table in self.tables for row in records(table)] + self.said

    def cpu_share(self) -> float:
        """What this process took of a core from the first to the last progress of the load."""
        (began_ns, before_s), (ended_ns, after_s) = self.used[0], self.used[-1]
        return (after_s - before_s) / max(1e-9, (ended_ns - began_ns) / 1e9)

    def table(self, table: Any) -> None:
        self.tables.append(table)

    def rows(self, rows: list[RequestRecord]) -> None:
        self.said += rows

    def progress(self, progress: DriveProgress) -> None:
        if progress.elapsed_s:
            self.used.append((clock.monotonic_ns(), clock.process_cpu_s()))
        self.on_progress(progress)

    def should_stop(self) -> str | None:
        return self.stop()

    def ended(self) -> None:
        self.was_ended = True


@dataclass
class Storing(Seen):
    """Stores them in a run's directory, too."""

    writer: RunWriter | None = None

    def told(self, nodes: Nodes) -> None:
        """As a run writes down whose rows it takes."""
        self.writer.update(drive={SENT_FROM: {"mark": nodes.mark}})

    def table(self, table: Any) -> None:
        super().table(table)
        self.writer.add_ready("requests", table)

    def rows(self, rows: list[RequestRecord]) -> None:
        super().rows(rows)
        self.writer.add("requests", rows)

    def ended(self) -> None:
        super().ended()
        self.writer.flush()


def poisson(
    count: int, rate_rps: float, tokens: int, seed: int = 1, late_s: float | None = None
) -> list[PlannedRequest]:
    """`late_s`: one more, due then: after whatever the test waits for."""
    due = np.cumsum(np.random.default_rng(seed).exponential(1e9 / rate_rps, count)).astype(np.int64)
    if late_s is not None:
        due = np.append(due, int(late_s * 1e9))
    return [PlannedRequest(i, int(at), 16, tokens, None, i) for i, at in enumerate(due)]


def offer(
    crew: Crew,
    url: str,
    plan: list[PlannedRequest],
    load: Load,
    seen: Seen,
    *,
    workers: int = 1,
    duration_s: float | None = None,
    api_key: str | None = None,
    run_id: str = "nodes",
    on_nodes: Callable[[Nodes], None] = lambda _: None,
) -> DriveReport:
    with tempfile.TemporaryDirectory() as scratch, mustered(crew, workers) as nodes:
        on_nodes(nodes)
        return drive_nodes(
            Job(plan, (), load, Phase.MEASURE, run_id, Path(scratch), duration_s),
            seen,
            nodes,
            Endpoint(url, MODEL, "completions", api_key=api_key, vllm_extensions=True),
            WORDS,
            driver="wire",
            timeouts=LIMITS,
        )
