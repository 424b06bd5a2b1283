"""The capacity search as it runs: order a probe, watch it, stop it when it is clear, until `next_probe` has none.

Knows nothing about sockets: `search_capacity` takes a callable that makes a probe, and `probe_by_run` makes one from whatever
drives a run and returns its directory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from harness.config.load import CapacitySpec, LoadSpec
from harness.judge.capacity import ProbeOrder, conclude, next_probe
from harness.judge.capacity_probe import PASS_NOW, Watch, reply
from harness.judge.summary import summarise
from harness.records import OVERLOAD, CapacityResult, Phase, ProbeResult, RequestRecord, Verdict
from harness.store.reader import read_run

Probe = Callable[[ProbeOrder, Watch], ProbeResult]
RunProbe = Callable[[ProbeOrder, LoadSpec, Callable[[], str | None], Callable[[Sequence[RequestRecord]], None]], Path]

# A probe that was clear early is short on purpose; its own test says whether it is long enough.
SHORT = frozenset({"window_too_short", "too_few_requests", "no_window"})

STOPPED_BY_SEARCH = "probe_decided"  # the driver's stop word for a failed probe: what is in flight is cancelled


def search_capacity(
    spec: CapacitySpec,
    attainment: float,
    probe: Probe,
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

    `slo`: limits by metric, as rates.slo_of gives them. `run_probe` draws the plan of the LoadSpec (Poisson, one rate, the
    order's duration; the order's index belongs into its seed), drives it, gives rows to the last argument as they end, asks
    the one before as its should_stop, and returns the run directory. A probe whose run is not VALID for another reason than
    its load or length is invalid.
    """

    def should_stop() -> str | None:
        return stop_word(watch.decide())

    def on_rows(rows: Sequence[RequestRecord]) -> None:
        watch.add(reply(row, slo) for row in rows if row.phase == Phase.MEASURE and row.scheduled_ns is not None)

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
    return summarise(read_run(run_dir)).verdict
