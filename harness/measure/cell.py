"""One cell: its plan, and a run of it against a target that is up. `pipeline.py` says which cells, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.measure.calibrate import calibration_limit
from harness.measure.drive.network import NetworkSource
from harness.measure.fits import check_account, check_context
from harness.measure.hybrid import Ear, dispatcher_of
from harness.measure.nodes.share import share_of
from harness.measure.observe.boards.inventory import boards
from harness.measure.observe.environment import collect
from harness.measure.observe.sampler import Observers
from harness.measure.phases import Phases
from harness.measure.plan.drawing import draw
from harness.measure.provenance import link_log, manifest_of, target_facts
from harness.measure.run import Probe, Run
from harness.measure.targets import Target
from harness.measure.targets.adopt import reset_prefix_cache
from harness.measure.targets.hybrid import HybridTarget, sides_of
from harness.records import Cell, Phase, Plan, RunState
from harness.store.writer import RunWriter


def draw_plan(
    spec: ExperimentSpec, cell: Cell, load_spec: LoadSpec, probe: Probe | None = None
) -> tuple[Plan, tuple[str, ...]]:
    """The cell's plan: a function of workload, load, repetition and seed, and not of the target, so that every
    target replays the same one; different cells send different prompts, so that none finds another's in the cache. Of a
    capacity search: the plan of its first probe."""
    if load_spec.capacity is not None:
        search = load_spec.capacity
        _, longest_s = search.lengths_s(search.start_rps, spec.attainment)
        load_spec = LoadSpec(rate=[search.start_rps], duration_s=longest_s)
        cell = replace(cell, load=load_spec.points()[0])
    requests = load_spec.requests
    if load_spec.requests_per_slot and cell.load.concurrency:
        requests = load_spec.requests_per_slot * cell.load.concurrency
    key = f"{spec.seed}|{cell.workload}|{cell.load.name}|{cell.repetition}{f'|probe {probe.index}' if probe else ''}"
    plan, notes = draw(
        cell.workload,
        cell.load,
        requests=requests,
        duration_s=load_spec.duration_s,
        seed=int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) >> 1,
        warmup_requests=spec.warmup_requests,
        context_limit_tokens=spec.context_limit_tokens,
    )
    if spec.share is None:
        return plan, notes
    mine, note = share_of(plan, spec.share)
    return mine, (*notes, note)


def run_cell(run: Run, target: Target, facts: Mapping[str, Any] | None = None) -> None:
    """One run: plan written, warm-up, measured phase between two edges of every telemetry source, stored.

    `facts` are added to the manifest's environment. Raises ConfigError, TargetError, InvalidRunError, StoreError.
    """
    spec = run.spec
    plan, notes = draw_plan(spec, run.cell, run.load_spec, run.probe)
    check_context(plan, target)
    check_account(plan, run.account_spec)
    facts = {**(facts or {}), **_emptied(run, target)}
    cell = replace(run.cell, load=plan.load)  # a trace, or a preset's arrivals, bring their own rate
    up = target_facts(run.own_spec, target)
    manifest = manifest_of(spec, cell, up, run.run_dir, run.campaign_id, plan, notes)
    with RunWriter.create(run.run_dir, manifest) as writer:
        writer.write_plan(plan)
        link_log(target.log_path, run.run_dir)
        more = _network(run, sides_of(target)[-1])
        ear = Ear(writer.add)
        with Observers(sides_of(target)[0].info, spec.observe, ear, run.own_spec, run.used_before, more) as observers:
            calibration = (
                calibration_limit(spec.workers) if spec.driver == "wire" and spec.load_generators.is_local else None
            )
            here = {"machine_boards": [board.name for board in boards()]}
            extra = {"plan_notes": list(notes), "calibration": calibration, **here, **facts}
            environment = collect(observers.gpu_static, extra)
            writer.update(environment=environment, telemetry=dict(observers.telemetry))
            if isinstance(target, HybridTarget):
                ear.dispatcher = dispatcher_of(spec, run.target_spec, *target.sides)
            phases = Phases(run, target, plan, writer, observers, ear.dispatcher)
            _within_caps(phases)
        places = phases.heads.places()
        writer.update(telemetry={**observers.telemetry, **({"places": places} if places else {})})
        writer.finish(RunState.INTERRUPTED if run.stop.asked else RunState.COMPLETE)


def _emptied(run: Run, target: Target) -> dict[str, str]:
    """Empty the server's prefix cache where its target asks for it; what came of it, for the manifest."""
    if not run.own_spec.reset_prefix_cache:
        return {}
    came = reset_prefix_cache(target.endpoint)
    run.display.say(f"{target.info.name}: prefix cache reset: {came}")
    return {"reset_prefix_cache": came}


def _network(run: Run, side: Target) -> dict[str, tuple[NetworkSource, float]]:
    """The way to a target at a URL; none leads to a server of ours."""
    observe = run.spec.observe
    if side.info.kind not in ("adopt", "hosted") or observe.network == "off":
        return {}
    return {"network": (NetworkSource(side.endpoint), 1 / observe.network_s)}


def _within_caps(phases: Phases) -> None:
    """The phases; what of their money was not spent goes back. Raises ConfigError where a cap let nothing out, and StoreError: a ledger
    that cannot be written."""
    money = phases.money
    try:
        phases.measure()
    finally:
        money.close()
        if money.gates:
            phases.note("spending", money.facts())
            phases.run.display.say(money.words)
    if money.stopped_by and not phases.reports.get(Phase.MEASURE.value, {}).get("reads"):
        advice = "raise max_usd (or --max-usd), or wait for another day: `harness spend` shows what counts"
        raise ConfigError(f"nothing could be sent within the cap of the {money.stopped_by}", money.words, advice)
