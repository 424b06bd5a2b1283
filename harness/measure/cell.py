"""One cell against a target that is up: its run directory, and its run. `pipeline.py` says which cells, and in which order."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from harness.base.errors import ConfigError
from harness.measure.cell_plan import Drawn
from harness.measure.drive.network import NetworkSource
from harness.measure.fits import check_account, check_context
from harness.measure.hybrid import dispatcher_of, heard_by
from harness.measure.observe.boards.inventory import boards
from harness.measure.observe.environment import collect
from harness.measure.observe.sampler import Observers
from harness.measure.phases import Phases
from harness.measure.provenance import begin_run, target_facts
from harness.measure.run import Run
from harness.measure.targets import Target
from harness.measure.targets.adopt import reset_prefix_cache
from harness.measure.targets.hybrid import HybridTarget, sides_of
from harness.records import Phase, Plan, RunState
from harness.store.writer import RunWriter


def begin_cell(run: Run, drawn: Drawn, target: Target, facts: Mapping[str, Any]) -> AbstractContextManager[RunWriter]:
    """The cell's run directory, once its plan fits what it is to be sent to. Raises ConfigError, StoreError."""
    check_context(drawn.plan, target)
    check_account(drawn.plan, run.account_spec)
    return begin_run(run, drawn, target_facts(run.own_spec, target), target.log_path, facts)


def run_cell(run: Run, plan: Plan, target: Target, writer: RunWriter) -> None:
    """Warm-up, and the measured phase between two edges of every telemetry source, stored. Raises ConfigError, TargetError,
    InvalidRunError, StoreError."""
    emptied = _emptied(run, target)
    own, account = sides_of(target)[0], sides_of(target)[-1]
    dispatcher = dispatcher_of(run, target) if isinstance(target, HybridTarget) else None
    sink = writer.add if dispatcher is None else heard_by(dispatcher, writer.add)
    more = _network(run, account)
    with Observers(own.info, run.spec.observe, sink, run.own_spec, run.used_before, more) as observers:
        here = {"machine_boards": [board.name for board in boards()], **emptied}
        environment = collect(observers.gpu_static, {**writer.manifest.environment, **here})
        writer.update(environment=environment, telemetry=dict(observers.telemetry))
        phases = Phases(run, target, plan, writer, observers, dispatcher)
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
