"""A finished capacity search as a run of its cell, for comparisons and the history: its one number is the capacity."""

from __future__ import annotations

from harness.judge.summary import RUN_METRICS, provenance
from harness.records import CapacityResult, Manifest, Reason, RunSummary, Verdict

_STATES = {  # severity of what is no capacity, and what can be done
    "censored_above": ("unknown", "give it a higher start_rps, or more probes"),
    "censored_below": ("unknown", "give it a lower min_rps, or a promise that can be kept"),
    "undecided": ("invalid", "harness report shows every probe"),
}


def as_run(manifest: Manifest, result: CapacityResult) -> RunSummary:
    """The search that `manifest` and `result` tell of: VALID where it found the capacity, UNKNOWN where it knows a bound alone, else INVALID."""
    severity, advice = _STATES.get(result.state, ("", ""))
    message = f"the capacity search is {result.state}: {result.why}"
    reasons = (Reason("no_capacity", severity, message, advice),) if severity else ()
    found: dict[str, float | None] = dict.fromkeys(RUN_METRICS)
    return RunSummary(
        run_id=manifest.run_id,
        experiment=manifest.experiment,
        campaign_id=manifest.campaign_id,
        created_utc=manifest.created_utc,
        cell=manifest.cell,
        state=manifest.state,
        model=str(manifest.target.get("model", "")),
        target_kind=str(manifest.target.get("kind", "")),
        window=None,
        verdict=Verdict(severity.upper() or "VALID", reasons),
        outcomes={},
        scalars=found | {"capacity_rps": result.capacity_rps if result.state == "found" else None},
        distributions={},
        tokens=(),
        timeline=None,
        notes=(),
        startup=dict(manifest.target.get("startup") or {}),
        environment=provenance(manifest),
        config=manifest.config,
    )
