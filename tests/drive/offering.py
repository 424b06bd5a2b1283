"""One call that offers a small plan to a URL and returns the rows, for the driver's tests."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.measure.drive.driver import drive
from harness.measure.gate import CommonStart, Gate
from harness.measure.job import Job
from harness.records import (
    DriveProgress,
    DriveReport,
    Endpoint,
    Load,
    Phase,
    PlannedRequest,
    Prompt,
    RequestRecord,
    Timeouts,
)

PROMPT_TOKENS = 8
LIMITS = Timeouts(30, 60, 60, 120)  # against hanging only: tests of limits have their own


@dataclass
class Watching:
    """A Watcher made of callables, each of which may be left out."""

    rows: Callable[[list[RequestRecord]], None] = lambda _: None
    progress: Callable[[DriveProgress], None] = lambda _: None
    should_stop: Callable[[], str | None] = lambda: None
    ended: Callable[[], None] = lambda: None


def offer(
    url: str,
    n: int,
    *,
    concurrency: int | None = None,
    gap_s: float | None = None,
    tokens: int = 10,
    driver: str = "wire",
    workers: int = 1,
    api: str = "completions",
    vllm_extensions: bool = True,
    timeouts: Timeouts = LIMITS,
    duration_s: float | None = None,
    api_key: str | None = None,
    ca_file: str | None = None,
    of_target: Mapping[str, Any] | None = None,
    connections: str = "kept",
    proxy_env: str | None = None,
    should_stop: Callable[[], str | None] = lambda: None,
    look: Callable[[Path], None] = lambda _: None,
    on_rows: Callable[[list[RequestRecord]], None] = lambda _: None,
    gate: Gate | None = None,
    start: CommonStart | None = None,
) -> tuple[list[RequestRecord], DriveReport]:
    """Closed loop with `concurrency`, else open loop with a request every `gap_s`. Fails if a file is left behind."""
    requests = [
        PlannedRequest(i, None if gap_s is None else round(i * gap_s * 1e9), PROMPT_TOKENS, tokens, None, i)
        for i in range(n)
    ]
    ids = tuple(range(PROMPT_TOKENS)) if api == "completions" else None
    prompts = (Prompt(i, " ".join("abcdefgh"), ids) for i in range(n))
    load = Load(concurrency=concurrency) if gap_s is None else Load(rate_rps=1 / gap_s)
    rows: list[RequestRecord] = []

    def take(batch: list[RequestRecord]) -> None:
        rows.extend(batch)
        on_rows(batch)

    with tempfile.TemporaryDirectory() as folder:
        report = drive(
            Job(requests, prompts, load, Phase.MEASURE, "run", Path(folder), duration_s, gate=gate, start=start),
            Watching(take, lambda _: look(Path(folder)), should_stop),
            Endpoint(
                url,
                "golden",
                api,
                api_key,
                vllm_extensions,
                ca_file,
                connections=connections,
                proxy_env=proxy_env,
                **(of_target or {}),
            ),
            driver=driver,
            workers=workers,
            timeouts=timeouts,
        )
        assert list(Path(folder).iterdir()) == []
    return rows, report
