"""A finished capacity search as a run of its cell, for comparisons and the history: its one number is the capacity."""

from __future__ import annotations

from dataclasses import replace

from harness.judge.summary import bare
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
    run = bare(manifest)
    capacity_rps = result.capacity_rps if result.state == "found" else None
    return replace(
        run,
        verdict=Verdict(severity.upper() or "VALID", reasons),
        scalars={**run.scalars, "capacity_rps": capacity_rps},
    )
