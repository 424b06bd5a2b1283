"""Run summaries of many nights, for benches and tests of the history."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np

from harness.records import Cell, Distribution, Load, Reason, RunSummary, Verdict

FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)
VALID = Verdict("VALID", ())
INVALID = Verdict("INVALID", (Reason("throttled", "invalid", "the GPU was throttled", "cool it"),))
UNKNOWN = Verdict("UNKNOWN", (Reason("no_server_counters", "unknown", "no /metrics", "expose it"),))


def night_id(night: int) -> str:
    return (FIRST + timedelta(days=night)).strftime("%Y%m%dT%H%M%SZ")


def summary(
    night: int,
    *,
    tps: float,
    ttft_s: float = 0.1,
    load: Load | None = None,
    repetition: int = 1,
    target: str = "a",
    experiment: str = "e",
    verdict: Verdict = VALID,
    version: str = "0.32.0",
    flags: dict | None = None,
    env: dict | None = None,
) -> RunSummary:
    """One run of a night, with two metrics and the provenance that a history shows."""
    cell = Cell(target, "fixed:128x32", load or Load(concurrency=16), repetition)
    flags = {"max_num_seqs": 64} if flags is None else flags
    return RunSummary(
        run_id=f"{night_id(night)}_{cell.name}", experiment=experiment, campaign_id=night_id(night),
        created_utc=(FIRST + timedelta(days=night)).isoformat(), cell=cell, state="complete", model="m", target_kind="vllm",
        window=None, verdict=verdict, outcomes={"ok": 100, "reset": 2}, scalars={"output_tps": tps, "energy_j": None},
        distributions={"ttft_s": Distribution("ttft_s", "s", 100, ttft_s, ttft_s, ttft_s, ttft_s, None, ttft_s)},
        tokens=(), timeline=None, notes=(), startup={"ready_s": 30.0},
        environment={
            "server": {"server_version": version, "flags": flags}, "git": {"commit": "c" * 40, "dirty": False},
            "gpus": [{"name": "H100", "driver_version": "580.1"}], "plan_sha256": "p" * 64, "harness_version": "0.1.0",
        },
        config={"targets": [{"name": target, "env": env or {}}]},
    )  # fmt: skip


def many(runs: int, *, cells: int, repetitions: int, noise: float = 0.01, seed: int = 1) -> list[list[RunSummary]]:
    """`runs` runs as nights of `cells` x `repetitions`, 1 % noise; every fifth cell loses 3 % in the middle."""
    chance = np.random.default_rng(seed)
    a_night = cells * repetitions
    total = -(-runs // a_night)
    nights = []
    for night in range(total):
        of_night = []
        for cell in range(cells):
            drop = 0.97 if cell % 5 == 0 and night >= total // 2 else 1.0
            for repetition in range(1, repetitions + 1):
                tps = 100.0 * (cell + 1) * drop * np.exp(noise * chance.standard_normal())
                load = Load(concurrency=cell + 1)
                of_night.append(summary(night, tps=float(tps), load=load, repetition=repetition))
        nights.append(of_night[: max(0, runs - night * a_night)])
    return nights
