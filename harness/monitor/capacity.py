"""The capacity that was measured of a pool's model on its kind of machine, from the runs and searches in the history.

A capacity of another machine, or of requests of other lengths, is shown with what differs, and not used.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from harness.base import redaction
from harness.base.errors import HarnessError
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor.paid import hardware_on
from harness.price.hosted import same_model
from harness.price.machine_match import price_mismatch
from harness.records.monitor import CapacityOfRun, ServerUsage

if TYPE_CHECKING:
    from harness.planner.measured import Measured

LENGTHS_ALIKE = 1.5  # mean prompts and replies up to so many times as long or as short are taken for the same work
_MOST_READ = 12  # campaigns whose raw files are read for one model, newest first


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """What the runs in a results directory say of one model; `problems`: why others cannot be used."""

    model: str
    found: tuple[Measured, ...]
    problems: tuple[str, ...] = ()


def measured_models(results: str | Path, models: Sequence[str]) -> tuple[MeasuredModel, ...]:
    """Reads the raw files of each model's newest campaigns, one of each experiment, target and workload: seconds, so not at every look.

    A results directory that is not there, or on object storage, has none. Raises StoreError where the history cannot be read.
    """
    root = Path(results)
    wanted = sorted({model for model in models if model})
    if not wanted or "://" in str(results) or not root.is_dir():
        return tuple(MeasuredModel(model, (), ("no results directory here",)) for model in wanted)
    from harness.store import history

    rows = history.sql(
        root,
        "SELECT experiment, target, workload, model, max(campaign_id) AS newest FROM runs "
        "WHERE target_kind <> 'hosted' AND verdict <> 'INVALID' GROUP BY ALL ORDER BY newest DESC",
    ).rows
    return tuple(_of_model(root, model, [row for row in rows if same_model(model, str(row[3]))]) for model in wanted)


def measured_apart(results: str | Path, models: Sequence[str]) -> tuple[MeasuredModel, ...]:
    """`measured_models`, by a process that ends: what reads runs (DataFrames, DuckDB) would stay in the memory of a monitor that asks for it
    once an hour. What keeps it from an answer is a problem of each model, for the servers are watched all the same."""
    if "://" in str(results) or not Path(results).is_dir():
        return measured_models(results, models)
    code = "import sys; from harness.monitor.capacity import answer; answer(sys.argv[1], sys.argv[2:])"
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)
    done = subprocess.run(
        [sys.executable, "-c", code, str(results), *models], env={**os.environ, "PYTHONPATH": path}, stdin=subprocess.DEVNULL,
        capture_output=True, check=False, start_new_session=True,
    )  # fmt: skip
    if done.returncode == 0:
        found: tuple[MeasuredModel, ...] | str = pickle.loads(done.stdout)  # noqa: S301 - our own child wrote it
    else:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
        found = f"the results were not read: exit code {done.returncode}: {redaction.text(''.join(last))}"
    return tuple(MeasuredModel(model, (), (found,)) for model in models) if isinstance(found, str) else found


def answer(results: str, models: Sequence[str]) -> None:
    """Write to stdout what `measured_apart` reads there."""
    try:
        found: tuple[MeasuredModel, ...] | str = measured_models(results, models)
    except HarnessError as error:
        found = f"{error.what}: {error.value}; {error.advice}"
    sys.stdout.buffer.write(pickle.dumps(found))


def _of_model(root: Path, model: str, rows: Sequence[tuple[object, ...]]) -> MeasuredModel:
    from harness.planner.measured import measured

    found, problems = [], []
    for experiment, target, workload, _, campaign in rows[:_MOST_READ]:
        try:
            found.append(measured(root / str(experiment), str(campaign), workload=str(workload), target=str(target)))
        except HarnessError as error:
            problems.append(f"{experiment} {target} {workload}: {error.what}: {error.value}")
    if len(rows) > _MOST_READ:
        problems.append(f"{len(rows) - _MOST_READ} older campaigns were not read")
    return MeasuredModel(model, tuple(found), tuple(problems))


def capacities(
    spec: MonitorSpec, usages: Sequence[ServerUsage], known: Sequence[MeasuredModel], at: datetime
) -> tuple[CapacityOfRun, ...]:
    """Of each pool and model that was served, every capacity that was measured of it; at most one is `used`: of this kind of machine and
    of requests as long as those served, the nearest in length, then the newest."""
    pools = {pool.name: pool for pool in spec.pools}
    served: dict[tuple[str, str], list[ServerUsage]] = {}
    for usage in usages:
        if usage.pool in pools and usage.model:
            served.setdefault((usage.pool, usage.model), []).append(usage)
    found: list[CapacityOfRun] = []
    for (pool, model), rows in served.items():
        every = next((one.found for one in known if one.model == model), ())
        lengths = mean_lengths(rows)
        judged = [_judged(pools[pool], model, one, lengths, at) for one in every]
        best = min((one for one in judged if one.used), key=lambda one: _apart(one, lengths), default=None)
        for one in judged:
            if one.used and one is not best:
                one = _unused(one, "another run's requests are nearer in length")  # noqa: PLW2901
            found.append(one)
    return tuple(found)


def mean_lengths(rows: Sequence[ServerUsage]) -> tuple[float, float] | None:
    """Mean prompt and output tokens of the requests served; None where the counters do not say."""
    sums = []
    for name in ("requests", "prompt_tokens", "output_tokens"):
        values = [row.counters.get(name) for row in rows]
        if any(value is None for value in values):
            return None
        sums.append(sum(value for value in values if value is not None))
    requests, prompt, output = sums
    return (prompt / requests, output / requests) if requests >= 1 else None


def _apart(one: CapacityOfRun, lengths: tuple[float, float] | None) -> float:
    """The larger factor between mean prompts and mean replies; 1 where one side is not known."""
    if lengths is None or one.prompt_tokens is None or one.output_tokens is None:
        return 1.0
    pairs = zip(lengths, (one.prompt_tokens, one.output_tokens), strict=True)
    return max(max(max(a, 1.0) / max(b, 1.0), max(b, 1.0) / max(a, 1.0)) for a, b in pairs)


def _unused(one: CapacityOfRun, why: str) -> CapacityOfRun:
    return replace(one, used=False, why=why)


def _judged(
    pool: PoolSpec, model: str, one: Measured, lengths: tuple[float, float] | None, at: datetime
) -> CapacityOfRun:
    prompt, output = fmean(u[0] for u in one.usage), fmean(u[2] for u in one.usage)
    made = CapacityOfRun(
        model=model, pool=pool.name, rps=one.rps, output_tps=one.rps * output, run_ids=one.run_ids, used=True,
        low_rps=one.interval.low if one.interval else None, high_rps=one.interval.high if one.interval else None,
        prompt_tokens=prompt, output_tokens=output, how=one.how,
    )  # fmt: skip
    if (differs := _other_machine(pool, one, at)) is not None:
        return _unused(made, differs)
    if lengths is not None and _apart(made, lengths) > LENGTHS_ALIKE:
        told = f"{prompt:.0f} + {output:.0f} tokens a request, here {lengths[0]:.0f} + {lengths[1]:.0f}"
        return _unused(made, f"its requests are of other lengths: {told}; measure the capacity under a load like this")
    return made


def _other_machine(pool: PoolSpec, one: Measured, at: datetime) -> str | None:
    """How the pool's machine differs from the one that ran; None where nothing is known to."""
    try:
        hardware = hardware_on(pool, at)
    except HarnessError:
        return "which machine the pool is on is not declared: hardware: of the pool"
    if one.ran_on is None:
        return None
    if hardware.gpu_count and not one.ran_on.boards:
        return f"the pool's machine has {hardware.gpu_count} x {hardware.gpu_model or 'GPU'}, the run saw no GPU"
    if one.ran_on.boards and not hardware.gpu_model:
        return (
            f"the run was on {', '.join(sorted(set(one.ran_on.boards)))}, the pool's price names no GPU: add gpu_model"
        )
    return price_mismatch(hardware, one.ran_on, pool.servers_per_machine)


def used(capacities_: Sequence[CapacityOfRun]) -> Mapping[tuple[str, str], CapacityOfRun]:
    """(pool, model) -> the capacity to count with."""
    return {(one.pool, one.model): one for one in capacities_ if one.used}
