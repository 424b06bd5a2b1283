"""The capacity search as it runs: order a probe, watch it, stop it when it is clear, until `next_probe` has none.

`search_cell` is such a search as a cell of a campaign. `search_capacity` takes a callable that makes a probe, and `probe_by_run` makes
one from whatever drives a run and returns its directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from harness.base.errors import StoreError
from harness.config.load import CapacitySpec, LoadSpec
from harness.judge.capacity.orders import ProbeOrder, conclude, next_probe
from harness.judge.capacity.probe import PASS_NOW, Watch, replies
from harness.judge.metrics import slo_of
from harness.judge.summary import summarise
from harness.measure.cell import begin_cell, run_cell
from harness.measure.cell_plan import Drawn, draw_plan
from harness.measure.observe.environment import host_sha256
from harness.measure.provenance import manifest_of, target_facts
from harness.measure.run import Probe, Run
from harness.measure.targets import Target
from harness.records import OVERLOAD, CapacityResult, Manifest, Phase, ProbeResult, RequestRecord, RunState, Verdict
from harness.store.manifest import NAME, read_manifest, read_probes, write_capacity, write_probes
from harness.store.reader import read_judged
from harness.store.writer import RunWriter

ShouldStop = Callable[[], str | None]
OnRows = Callable[[Sequence[RequestRecord]], None]
MakeProbe = Callable[[ProbeOrder, Watch], ProbeResult]
RunProbe = Callable[[ProbeOrder, LoadSpec, ShouldStop, OnRows], Path]

# A probe that was clear early is short on purpose; its own test says whether it is long enough.
SHORT = frozenset({"window_too_short", "too_few_requests", "no_window"})

STOPPED_BY_SEARCH = "probe_decided"  # the driver's stop word for a failed probe: what is in flight is cancelled


def search_capacity(
    spec: CapacitySpec,
    attainment: float,
    probe: MakeProbe,
    on_event: Callable[[ProbeResult], None] = lambda _: None,
    *,
    made: Sequence[ProbeResult] = (),
    stopped: Callable[[], bool] = lambda: False,
) -> CapacityResult:
    """Search; `attainment` is the target (slo.attainment). `made`: probes of a search that was cut off, not repeated.

    `probe` gets the order and a Watch to feed, and must end when the watch decides; `on_event` gets each result. When
    `stopped` turns true the probes made so far are concluded. What `probe` raises ends the search.
    """
    probes = list(made)
    while not stopped() and (order := next_probe(spec, attainment, probes)) is not None:
        watch = Watch(
            order.rate_rps, attainment, order.shortest_s, order.inflation, patient=order.patient, stays=order.stays
        )
        result = probe(order, watch)
        if stopped():
            break  # cut short by the user: neither clear nor as long as it should be
        probes.append(result)
        on_event(result)
    return conclude(spec, attainment, probes)


def probe_by_run(
    order: ProbeOrder,
    watch: Watch,
    slo: Mapping[str, float],
    run_probe: RunProbe,
    verdict_of: Callable[[Path], Verdict] | None = None,
) -> ProbeResult:
    """One probe as a run of its own: driven, stored and judged like any other.

    `slo`: limits by metric, as metrics.slo_of gives them. `run_probe` draws the plan of the LoadSpec (Poisson, one rate, the
    order's duration; the order's index belongs into its seed), drives it, gives rows to the last argument as they end, asks
    the one before as its should_stop, and returns the run directory. A probe whose run is not VALID for another reason than
    its load or length is invalid.
    """

    def should_stop() -> str | None:
        return stop_word(watch.decide())

    def on_rows(rows: Sequence[RequestRecord]) -> None:
        measured = [row for row in rows if row.phase == Phase.MEASURE and row.scheduled_ns is not None]
        watch.add(replies(measured, slo))

    load = LoadSpec(rate=[order.rate_rps], duration_s=order.longest_s)
    run_dir = run_probe(order, load, should_stop, on_rows)
    verdict = (verdict_of or _verdict)(run_dir)
    return watch.result(order.index, run_dir.name, untrusted(verdict))


def stop_word(decision: str | None) -> str | None:
    """Driver's word for a decision: a passed probe drains, a failed one's queue is cancelled instead of waited for."""
    if decision is None:
        return None
    return "drain" if decision == PASS_NOW else STOPPED_BY_SEARCH


def untrusted(verdict: Verdict) -> str | None:
    """Why the probe cannot be used, None if it can."""
    for reason in verdict.reasons:
        # an overload makes a failed probe, not one that cannot be trusted
        if reason.severity in ("invalid", "unknown") and reason.code not in OVERLOAD | SHORT:
            return f"{reason.code}: {reason.message}"
    return None


def _verdict(run_dir: Path) -> Verdict:
    return summarise(read_judged(run_dir)).verdict


# What a capacity is of, in `Manifest.target`
_SERVER = ("kind", "model", "server_version", "max_model_len", "flags")


def search_cell(run: Run, first: Drawn, target: Target, facts: Mapping[str, Any]) -> None:
    """A capacity search: each probe is a run in a folder of its own, the result is capacity.json beside them. One that was broken off goes on
    from the probes that had ended. `first`: what the first draws."""
    spec = run.load_spec.capacity
    assert spec is not None
    slo = slo_of(run.spec.model_dump(mode="json"))
    manifest = manifest_of(run, run.cell, target_facts(run.target_spec, target), first, {})

    def run_probe(order: ProbeOrder, load: LoadSpec, should_stop: ShouldStop, on_rows: OnRows) -> Path:
        cell = replace(run.cell, load=load.points()[0])
        run_dir = run.run_dir / f"{run.campaign_id}_{cell.name}_probe{order.index:02d}"
        run.display.say(f"probe {order.index}: {order.rate_rps:.3g} requests/s, {order.longest_s:.3g} s at most")
        probe = Probe(order.index, should_stop, on_rows)
        probing = replace(run, cell=cell, load_spec=load, run_dir=run_dir, probe=probe)
        drawn = draw_plan(run.spec, cell, load, probe, salt=run.salt)
        with begin_cell(probing, drawn, target, facts) as writer:
            run_cell(probing, drawn.plan, target, writer)
        return run_dir

    with RunWriter.create(run.run_dir, manifest) as writer:
        made = _taken_back(run)

        def ended(probe: ProbeResult) -> None:
            made.append(probe)
            write_probes(run.run_dir, made)
            share = "-" if probe.attainment is None else f"{probe.attainment:.2%}"
            run.display.say(f"probe {probe.index}: {probe.verdict}, attainment {share} ({probe.stopped})")

        result = search_capacity(
            spec, run.spec.attainment, lambda order, watch: probe_by_run(order, watch, slo, run_probe), ended,
            made=tuple(made), stopped=lambda: bool(run.stop.asked),
        )  # fmt: skip
        if made:  # where it was measured, as its probes know it
            seen = read_manifest(run.run_dir / str(made[0].run_id)).environment
            writer.update(environment={**seen, **writer.manifest.environment})
        if not run.stop.asked:
            write_capacity(run.run_dir, result)
        writer.finish(RunState.INTERRUPTED if run.stop.asked else RunState.COMPLETE)


def _taken_back(run: Run) -> list[ProbeResult]:
    """Probes of the last attempt that was broken off, moved here: up to the first that is missing, and none where the machine or the
    server was another. Raises StoreError."""
    attempt = run.attempt
    if attempt is None:
        return []
    try:
        made = list(takewhile(lambda probe: (attempt / str(probe.run_id) / NAME).is_file(), read_probes(attempt)))
        now, before = read_manifest(run.run_dir), [read_manifest(attempt / str(probe.run_id)) for probe in made]
    except StoreError as error:
        run.display.say(f"the search begins anew: {error.what}: {error.value}")
        return []
    other = next((why for one in before if (why := _another(one, now))), None)
    if other is not None:
        run.display.say(f"the search begins anew: another {other} than of its {len(made)} probes in {attempt}")
        return []
    if made:
        write_probes(run.run_dir, made)
        for probe in made:
            _move(attempt / str(probe.run_id), run.run_dir)
        run.display.say(f"the search goes on after probe {len(made)} of the attempt before")
    return made


def _move(probe_dir: Path, into: Path) -> None:
    try:
        probe_dir.rename(into / probe_dir.name)
    except OSError as error:
        raise StoreError("a probe cannot be moved", probe_dir, str(error.strerror)) from error


def _another(before: Manifest, now: Manifest) -> str | None:
    """What of machine, harness and server differs between a probe and the search that would go on from it."""
    if before.environment.get("host_sha256") != host_sha256():
        return "machine"
    if before.harness_version != now.harness_version:
        return "version of the harness"
    return next((f"{name} of the server" for name in _SERVER if before.target.get(name) != now.target.get(name)), None)
