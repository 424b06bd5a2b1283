"""The plan of a cell, whatever the target."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import NamedTuple

from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.measure.nodes.share import share_of
from harness.measure.plan.drawing import draw
from harness.measure.run import Probe
from harness.records import Cell, Plan


class Drawn(NamedTuple):
    """`notes`: sentences about what the draw had to do."""

    plan: Plan
    notes: tuple[str, ...]


def draw_plan(
    spec: ExperimentSpec, cell: Cell, load_spec: LoadSpec, probe: Probe | None = None, *, salt: int = 0
) -> Drawn:
    """A function of workload, load, repetition and seed, and not of the target, so that every target replays the same plan; different cells
    send different prompts, so that none finds another's in the cache. Of a capacity search: the plan of its first probe.
    `salt`: the run's own, which gives its prompts words that no server has seen. Shares of a plan have one in common, by their start."""
    if load_spec.capacity is not None:
        search = load_spec.capacity
        _, longest_s = search.lengths_s(search.start_rps, spec.attainment)
        load_spec = LoadSpec(rate=[search.start_rps], duration_s=longest_s)
        cell = replace(cell, load=load_spec.points()[0])
    requests = load_spec.requests
    if load_spec.requests_per_slot and cell.load.concurrency:
        requests = load_spec.requests_per_slot * cell.load.concurrency
    if spec.share is not None:
        salt = 0 if (start_at := spec.share.start_at) is None else int(start_at.timestamp() * 1000)
    key = f"{spec.seed}|{cell.workload}|{cell.load.name}|{cell.repetition}{f'|probe {probe.index}' if probe else ''}"
    plan, notes = draw(
        cell.workload,
        cell.load,
        requests=requests,
        duration_s=load_spec.duration_s,
        seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1,
        warmup_requests=spec.warmup_requests,
        context_limit_tokens=spec.context_limit_tokens,
        salt=salt,
    )
    if spec.share is None:
        return Drawn(plan, notes)
    mine, note = share_of(plan, spec.share)
    return Drawn(mine, (*notes, note))
