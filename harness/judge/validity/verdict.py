"""VALID, INVALID or UNKNOWN: every rule asked, and those of the run, its requests and the load generator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.config.target import flags_by_name
from harness.judge.account import TOO_MANY
from harness.judge.columns import FloatArray
from harness.judge.validity import Evidence, invalid, unknown, warning
from harness.judge.validity.account import ACCOUNT_CHECKS, refused_by_choice
from harness.judge.validity.machine import MACHINE_CHECKS
from harness.judge.validity.server import SERVER_CHECKS
from harness.judge.validity.tokens import TOKEN_CHECKS
from harness.judge.window import MIN_REQUESTS, MIN_WINDOW_S, TOO_SHORT
from harness.records import Outcome, Reason, RunState, Verdict

MAX_FAILED = 0.01  # above it the load that the server really had is another than the one asked for
MAX_SEND_LAG_S = 0.005  # p99: what an unhurried event loop keeps to on a busy machine
MAX_SEND_LAG_GAPS = 0.1  # or 10 % of the mean gap between sends, where that is longer
MIN_ACHIEVED = 0.98  # of the scheduled rate
MAX_CLOCK_STEP_NS = 1_000_000  # slewing moves microseconds between two anchors
MAX_MERGED_READS = 0.01  # beyond it the p99 of ITL consists of upper bounds


_ADVICE_OF_DEATH = {
    "no room on disk": "free disk space or write elsewhere, and run again",
    "SIGKILL": "look for an out-of-memory kill (dmesg) and run again with fewer workers",
}


def run_state(e: Evidence) -> Reason | None:
    manifest = e.run.manifest
    if manifest.state == RunState.COMPLETE:
        return None
    return invalid(
        "run_not_complete",
        f"the run is {manifest.state}{f': {manifest.error}' if manifest.error else ''}",
        "run it again",
    )


def stopped_early(e: Evidence) -> Reason | None:
    why = e.drive.get("stop_reason")
    if why == "worker_died":
        note = next((line for line in e.drive.get("notes") or () if "died" in line or "damaged" in line), None)
        return invalid(
            "worker_died",
            note or "a load-generator process died: its requests are missing",
            _ADVICE_OF_DEATH.get(next((word for word in _ADVICE_OF_DEATH if word in (note or "")), ""), "run again"),
        )
    if why == "node_lost":
        return _node_lost(e)
    if why == "target_died":
        return invalid(
            "target_died",
            "the server died during the measured phase",
            "read the end of server.log in the run directory",
        )
    return None


def _node_lost(e: Evidence) -> Reason:
    """Load from many nodes went on without one: the server had less of it, and nobody knows what came of that node's requests."""
    lost = [node for node in e.drive.get("nodes") or () if node.get("lost")]
    names = [str(node.get("node")) for node in lost]
    gone = np.isin(e.requests.outcome, [Outcome.LOST.value, Outcome.DROPPED.value]).sum()
    share = gone / max(1, e.requests.count)
    return invalid(
        "node_lost",
        f"{', '.join(names)} lost: {gone} of {e.requests.count} requests ({share:.1%}) were not sent or nobody knows what came of them",
        "look at that machine and its network, and run again; `drive` in the manifest says why it was given up"
        + (f"; what it had in hand: harness recover RUN --from {kept} (there)" if (kept := _kept(lost)) else ""),
    )


def _kept(lost: Sequence[Mapping[str, Any]]) -> str | None:
    """The folder on the first lost node that its rows are in."""
    return next((f"{node['kept_at']}/{node['kept_as']}" for node in lost if node.get("kept_at")), None)


def rows_missing(e: Evidence) -> Reason | None:
    plan = e.run.plan
    if plan is None or e.drive.get("stop_reason") != "done" or e.requests.count == len(plan):
        return None
    return invalid(
        "rows_missing",
        f"{len(plan)} requests were planned and {e.requests.count} recorded, though the driver says it is done",
        "report this: every planned request must be a row",
    )


def ok_requests(e: Evidence) -> Reason | None:
    if e.requests.ok.any() or e.run.manifest.state == RunState.FAILED:  # a run that never began says why itself
        return None
    outcomes = ", ".join(f"{n} {o}" for o, n in sorted(Counter(e.requests.outcome.tolist()).items())) or "no request"
    return invalid(
        "no_ok_requests",
        f"nothing succeeded: {outcomes}",
        "the `error` column of requests.parquet has the server's words",
    )


def failures(e: Evidence) -> Reason | None:
    """Requests that we cut off at the end of a timed run did not fail."""
    bad = ~e.requests.ok & ~refused_by_choice(e)
    if e.drive.get("stop_reason") == "duration":
        bad &= e.requests.outcome != Outcome.CANCELLED.value
    share = bad.sum() / max(1, e.requests.count)
    if share <= MAX_FAILED:
        return None
    counts = Counter(e.requests.outcome[bad].tolist())
    outcomes = ", ".join(f"{n} {o}" for o, n in sorted(counts.items()))
    overruns = counts[Outcome.OVERRUN.value] > bad.sum() / 2
    refused = (e.requests.status.present & (e.requests.status.data == TOO_MANY))[bad].sum() > bad.sum() / 2
    return invalid(
        "too_many_failures",
        f"{share:.1%} of {e.requests.count} requests failed ({outcomes}); at most {MAX_FAILED:.0%} may",
        "this API goes on beyond max_tokens: find the parameter that it takes for a reply's length"
        if overruns
        else "the account's limits refused them (429): offer less, or say of the target limits: {rpm: .., tpm: .., pace: true | false}"
        if refused
        else "lower the load, or lengthen the timeouts if the server was only slow",
    )


def _own_lag_s(e: Evidence) -> FloatArray:
    """Seconds that the client was late by itself: from when the pacing let a request go, and without the set-up of a connection that is
    made anew for each by choice."""
    r = e.requests
    released = r.released.present & r.scheduled.present & (r.released.data > r.scheduled.data)
    late = np.where(released, r.sent.minus(r.released), e.values["send_lag_s"])
    if e.run.manifest.target_config.get("connections") == "fresh":
        set_up = r.sent.minus(r.connect_started)
        late = late - np.where(np.isnan(set_up), 0.0, set_up)
    return late


def _clocks_unsure_s(e: Evidence) -> float:
    """How far the nodes' stamps may be from this machine's line, at most; 0 where all stamps are of one machine."""
    errors_ns = [error for _, error in e.drive.get("clock_offsets") or ()]
    return max(errors_ns, default=0) / 1e9 if e.drive.get("nodes") else 0.0


def send_lag(e: Evidence) -> Reason | None:
    if e.load.is_closed or e.window is None:
        return None
    lag = _own_lag_s(e)[e.requests.sent.inside(e.window)]
    lag = lag[~np.isnan(lag)]
    rate = e.scalars.get("scheduled_rate_rps")
    if not len(lag) or not rate:
        return None
    limit = max(MAX_SEND_LAG_S, MAX_SEND_LAG_GAPS / rate)
    unsure_s = _clocks_unsure_s(e)
    p99 = float(np.quantile(lag, 0.99)) + unsure_s
    if p99 <= limit:
        return None
    clocks = f" ({unsure_s * 1e3:.2f} ms of it is how unsure the nodes' clocks are)" if unsure_s else ""
    return invalid(
        "send_lag",
        f"p99 send lag is {p99 * 1e3:.1f} ms{clocks}, above {limit * 1e3:.1f} ms: the client was late",
        "use more workers or another machine for the load generator; `harness calibrate` shows its ceiling",
    )


def achieved_rate(e: Evidence) -> Reason | None:
    scheduled, achieved = e.scalars.get("scheduled_rate_rps"), e.scalars.get("achieved_rate_rps")
    if e.load.is_closed or not scheduled or achieved is None or achieved >= MIN_ACHIEVED * scheduled:
        return None
    if e.requests.released.present.any():
        return None  # paced: `paced` says so, and send_lag how late the client was by itself
    return invalid(
        "achieved_below_scheduled",
        f"{achieved:.3g} requests/s were sent where {scheduled:.3g} were scheduled ({achieved / scheduled:.1%})",
        "use more workers, or offer a rate that this client can send (`harness calibrate`)",
    )


def clock_step(e: Evidence) -> Reason | None:
    step = int(e.drive.get("largest_clock_step_ns") or 0)
    if step <= MAX_CLOCK_STEP_NS:
        return None
    message = f"the wall clock was stepped by {step / 1e6:.1f} ms during the run"
    advice = "let the time daemon slew (chrony: makestep only at start) and run again"
    if e.drive.get("stamp_source") == "user":
        return warning("clock_stepped", f"{message}; stamps were taken on the monotonic clock and stand", advice)
    return invalid("clock_stepped", f"{message}: kernel stamps around it are wrong by as much", advice)


def merged_reads(e: Evidence) -> Reason | None:
    merged, reads = e.requests.merged_reads, e.requests.reads
    if merged <= MAX_MERGED_READS * reads:
        return None
    return warning(
        "merged_reads",
        f"{merged} of {reads} reads held several chunks under one stamp: high ITL and ICL percentiles are upper bounds",
        "give the load generator a core of its own or more workers",
    )


def client_bottleneck(e: Evidence) -> Reason | None:
    """The load against what this machine's client was shown to measure (`harness calibrate`); without that, nothing."""
    calibration = e.run.manifest.environment.get("calibration")
    if not calibration or e.window is None:
        return None
    each = (piece.stamp_ns for piece in e.requests.chunks.pieces())
    chunks = sum(int(((stamps > e.window.start_ns) & (stamps <= e.window.end_ns)).sum()) for stamps in each)
    loads = (
        ("tokens_per_s", "tokens_bounded", chunks / e.window.seconds, "chunks/s"),
        ("requests_per_s", "requests_bounded", e.scalars.get("achieved_rate_rps") or 0.0, "requests/s"),
    )
    ceilings = sorted(calibration["ceilings"], key=lambda c: -c["error_s"])  # the widest limit first: it weighs most
    for ceiling in ceilings:
        for name, bounded, load, unit in loads:
            limit = ceiling[name] or 0.0
            if not ceiling[bounded] or load <= limit:
                continue
            message = f"the client was the bottleneck: {load:,.0f} {unit} in the window, where an error below {ceiling['error_s'] * 1e3:g} ms was shown up to {limit:,.0f} ({calibration['workers']} worker(s), {calibration['made_utc']})"
            advice = "offer less, use more workers or another machine, or calibrate again on an idle machine"
            worst = ceiling["error_s"] == ceilings[0]["error_s"]
            return (invalid if worst else warning)("client_bottleneck", message, advice)
    return None


def no_window(e: Evidence) -> Reason | None:
    if e.window is not None or not e.requests.ok.any():
        return None  # without ok requests the run is INVALID already
    return unknown("no_window", f"no steady part: {e.rule}", "send more requests")


def not_steady(e: Evidence) -> Reason | None:
    """The window is the whole phase, or too short for the telemetry."""
    w = e.window
    if w is None:
        return None
    if w.lacking is not None and e.kind != "offline":  # a batch is measured from end to end
        return unknown(w.lacking, w.rule, w.advice)
    if w.seconds >= MIN_WINDOW_S:
        return None
    return unknown(TOO_SHORT, f"the window is {w.seconds:.2f} s, below {MIN_WINDOW_S:g} s", w.advice)


def too_few_requests(e: Evidence) -> Reason | None:
    n = int(e.population.sum())
    if e.window is None or n >= MIN_REQUESTS:
        return None
    return unknown("too_few_requests", f"{n} requests in the window, below {MIN_REQUESTS}", e.window.advice)


def dummy_weights(e: Evidence) -> Reason | None:
    if flags_by_name(e.run.manifest.target.get("flags") or {}).get("load_format") != "dummy":
        return None
    return warning(
        "dummy_weights",
        "the weights are random (load_format dummy): the speed is that of a model of this shape, the text means nothing",
        "give the real model (its path, or a name in the hub cache) where its text, its drafts or its prefix hits matter",
    )


CHECKS = (
    run_state, stopped_early, rows_missing, ok_requests, failures, send_lag, achieved_rate, client_bottleneck, clock_step,
    *ACCOUNT_CHECKS,
    *TOKEN_CHECKS,
    no_window, not_steady, too_few_requests, merged_reads, dummy_weights, *SERVER_CHECKS, *MACHINE_CHECKS,
)  # fmt: skip


def judge(evidence: Evidence) -> Verdict:
    """Run every check; INVALID if any reason is, else UNKNOWN if any is, else VALID. Reasons come worst first."""
    reasons = [reason for check in CHECKS if (reason := check(evidence)) is not None]
    order = ("invalid", "unknown", "warning")
    reasons.sort(key=lambda r: order.index(r.severity))
    worst = reasons[0].severity if reasons else "warning"
    state = {"invalid": "INVALID", "unknown": "UNKNOWN", "warning": "VALID"}[worst]
    return Verdict(state, tuple(reasons))
