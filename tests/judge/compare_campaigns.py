"""Campaigns in memory for `compare`: runs whose metrics are given, everything about them comparable unless told otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.judge.compare.sides import ComparedRun, Side, side
from harness.judge.repeats import POINTS
from harness.records import Cell, Distribution, Load, Manifest, Reason, RunSummary, Verdict

INVALID = Verdict("INVALID", (Reason("x", "invalid", "the client was the bottleneck", "use more workers"),))
VALID = Verdict("VALID", ())


def run(
    values: Mapping[str, float | None],
    repetition: int,
    *,
    load: Load = Load(concurrency=4),  # noqa: B008 (frozen)
    target: str = "a",
    workload: str = "fixed:128x32",
    campaign: str = "20261124T100000Z",
    verdict: Verdict = VALID,
    requests: int = 400,
    created: str | None = None,
    environment: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    plan: str | None = None,
    schema: int = 1,
) -> ComparedRun:
    """One run with these points (`output_tps`, `ttft_s.p50`, ..)."""
    scalars = {key: value for key, value in values.items() if not POINTS[key].at}
    points: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():
        if POINTS[key].at:
            points.setdefault(POINTS[key].metric, {})[POINTS[key].at] = value
    distributions = {
        name: Distribution(name, "s", requests, at.get("mean"), at.get("p50"), at.get("p90"), None, at.get("p99"), None)
        for name, at in points.items()
    }
    cell = Cell(target, workload, load, repetition)
    config = {"driver": "wire", "slo": None, "targets": [{"name": target, "env": {}}], **(config or {})}
    environment = {"gpus": [], "cpu_model": "x", "cores": {"usable": 2}, **(environment or {})}
    info = {
        "kind": "vllm",
        "model": "m",
        "api": "completions",
        "server_version": "0.32.0",
        "flags": {},
        **(server or {}),
    }
    stamp = created or f"2026-11-24T10:{repetition:02d}:00+00:00"
    run_id = f"{campaign}_{cell.name}"
    summary = RunSummary(
        run_id=run_id, experiment="e", campaign_id=campaign, created_utc=stamp, cell=cell, state="complete", model="m", target_kind="vllm",
        window=None, verdict=verdict, outcomes={"ok": requests}, scalars=scalars, distributions=distributions, tokens=(), timeline=None,
        notes=(), environment=environment, config=config,
    )  # fmt: skip
    manifest = Manifest(
        schema_version=schema, run_id=run_id, experiment="e", campaign_id=campaign, cell=cell, state="complete", created_utc=stamp,
        owner_pid=1, owner_start_ticks=1, harness_version="0", config=config, config_sha256="", seed=1, environment=environment, target=info,
        plan_sha256=plan or f"{repetition:02d}{load.name}", drive={}, telemetry={}, row_counts={}, error=None,
    )  # fmt: skip
    return ComparedRun(summary, manifest)


def campaign(cells: Mapping[Load, Mapping[str, Sequence[float]]], *, of: str | None = None, **kw: Any) -> Side:
    """A side: for each load and point one value a repetition, from repetition 1 on. `of`: the target that was chosen."""
    runs = [
        run({key: series[index] for key, series in values.items()}, index + 1, load=load, **kw)
        for load, values in cells.items()
        for index in range(len(next(iter(values.values()))))
    ]
    return side("results/e", runs, of)


def loads(count: int) -> list[Load]:
    return [Load(concurrency=2**k) for k in range(count)]


def noise(rng: np.random.Generator, n: int, cells: int, metrics: int, tail: float = 4.0) -> np.ndarray:
    """Unit-variance noise with Student's t tails, half of it common to the metrics of a run: (n, cells, metrics)."""
    scale = np.sqrt(tail / (tail - 2)) if np.isfinite(tail) else 1.0

    def draw(*shape: int) -> np.ndarray:
        return (rng.standard_t(tail, shape) if np.isfinite(tail) else rng.standard_normal(shape)) / scale

    return np.sqrt(0.5) * draw(n, cells, 1) + np.sqrt(0.5) * draw(n, cells, metrics)
