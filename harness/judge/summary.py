"""A run read back -> RunSummary: window, metrics, token check, timeline, verdict. A pure function of the stored files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from harness.judge import server_state
from harness.judge.account import account_of
from harness.judge.columns import BoolArray, Requests, measured_of
from harness.judge.energy import Energy, gpu_energy, withheld
from harness.judge.first_tokens import first_tokens
from harness.judge.metrics import NAMES, distribution, distributions, per_request, slo_of
from harness.judge.network import median_round_trip_s, network_path
from harness.judge.rates import rates
from harness.judge.replicas import replicas_of_run
from harness.judge.sent import sent_requests
from harness.judge.sides import names_of, of_side, sides_of_run
from harness.judge.telemetry import harness_cpu_share, timeline, token_checks
from harness.judge.usage import usage_of
from harness.judge.validity import Evidence
from harness.judge.validity.verdict import judge
from harness.judge.window import find_window
from harness.records import Manifest, Phase, RunData, RunSummary, Verdict, Window
from harness.records.metrics import METRICS

_RUN_METRICS = tuple(m.name for m in METRICS.values() if m.per == "run")


def _telemetry_notes(run: RunData, energy: Energy) -> list[str]:
    frames = {"gpu": run.gpu, "server": run.server, "host": run.host}
    notes = [
        f"{kind} telemetry absent: {run.manifest.telemetry.get(kind, 'not recorded')}"
        for kind, frame in frames.items()
        if frame is None or not len(frame)
    ]
    if run.gpu is not None and len(run.gpu) and energy.reason:
        notes.append(f"GPU energy unknown: {energy.reason}")
    return notes


def _spending_notes(run: RunData) -> list[str]:
    """What a cap did to the run: it ended it, or held requests back."""
    notes = []
    for name, facts in (run.manifest.drive.get("spending") or {}).items():
        cap, planned = facts.get("stopped_by"), 0 if run.plan is None else len(run.plan)
        if cap is not None:
            sent = int((run.requests.phase == Phase.MEASURE.value).sum())
            usd = (facts.get("caps_usd") or {}).get(cap)
            notes.append(
                f"{name}: the cap of the {cap} (${usd}) ended it: {sent:,} of {planned:,} planned requests were sent"
            )
        if facts.get("waited_for_money"):
            notes.append(
                f"{name}: {facts['waited_for_money']:,} requests waited for money in flight: the load was less than asked for"
            )
    return notes


def _request_notes(requests: Requests, slo: Mapping[str, float]) -> list[str]:
    notes = []
    if "tpot_s" in slo:
        short = int((requests.ok & requests.output.present & (requests.output.data < 2)).sum())
        if short:
            notes.append(
                f"{short} replies of fewer than 2 tokens have no TPOT: under the TPOT limit they count as not good"
            )
    if "ttft_from_schedule_s" in slo and requests.is_closed:
        notes.append(
            "closed loop: the limit on TTFT from schedule is held against the time since the request's slot became free"
        )
    left_out = int(requests.chunks.count[~requests.ok].sum())
    if left_out:
        notes.append(f"{left_out} token-bearing chunks of requests that did not succeed are in no number here")
    return notes


def _scalars(
    rated: Mapping[str, float | None], energy: Energy, window: Window | None, cpu_share: float | None
) -> dict[str, float | None]:
    output_tps = rated.get("output_tps")
    tokens = output_tps * window.seconds if output_tps is not None and window is not None else None
    per_token = energy.energy_j / tokens if energy.energy_j is not None and tokens else None
    own = {"energy_j": energy.energy_j, "energy_per_output_token_j": per_token, "harness_cpu_share": cpu_share}
    scalars = {**rated, **own}
    return {name: scalars.get(name) for name in _RUN_METRICS}


def summarise(run: RunData) -> RunSummary:
    """Everything later stages need of one run.

    Distributions are over ok requests of the measured phase sent inside the window (ICL and ITL: chunks stamped inside it);
    a metric that is undefined for the whole run has count 0 and None everywhere. Without a window there are no rates, and
    distributions are empty. Never raises for what is in the rows: what is wrong with them is in the verdict.
    """
    manifest = run.manifest
    requests = measured_of(run)
    window, rule = find_window(requests, manifest.cell.load)
    round_trip_s = median_round_trip_s(run, window)
    values = per_request(requests, round_trip_s)
    population: BoolArray = requests.ok & requests.sent.inside(window) if window else np.zeros(requests.count, np.bool_)
    slo = slo_of(manifest.config)
    energy = gpu_energy(run.gpu, window, withheld(manifest.telemetry))
    rated = (
        rates(requests, values, window, manifest.cell.load, slo)
        | server_state.scalars(run.server, manifest, window)
        | {"round_trip_s": round_trip_s}
    )
    scalars = _scalars(rated, energy, window, harness_cpu_share(run.host, requests))
    own = names_of(run)[:1]  # of a hybrid: the server's counters are the own side's
    counted = measured_of(of_side(run, own[0])) if own else requests
    tokens = token_checks(counted, run.server, manifest.target.get("server_version"))
    new = "prompts were new to the server: lengths of seed {}, words of this run's own salt {}"
    notes = [new.format(manifest.seed, salt)] if (salt := manifest.environment.get("prompt_salt")) else []
    notes += _spending_notes(run) + _request_notes(requests, slo) + _telemetry_notes(run, energy)
    target: Mapping[str, Any] = manifest.target
    each = (
        distributions(requests, values, window, population)
        if window
        else {n: distribution(n, np.zeros(0)) for n in NAMES}
    )
    return replace(
        bare(manifest),
        window=window,
        verdict=judge(Evidence(run, requests, values, window, rule, population, scalars, tokens)),
        outcomes=dict(sorted(Counter(requests.outcome.tolist()).items())),
        scalars=scalars,
        distributions=each,
        tokens=tokens,
        timeline=timeline(requests, run.gpu, run.server, run.host, target.get("server_version")),
        notes=tuple(notes) if window else (f"no window: {rule}", *notes),
        usage=usage_of(requests, population),
        network=network_path(run, window, each["ttft_s"]),
        account=account_of(run, requests, scalars),
        first_tokens=first_tokens(requests, values, window, slo),
        sent=sent_requests(run) if target.get("kind") == "hosted" else (),
        sides=sides_of_run(run, requests, values, window, slo, population),
        replicas=replicas_of_run(run, requests, values),
    )


def bare(manifest: Manifest) -> RunSummary:
    """What a manifest alone tells: no window, no request and no number."""
    target = manifest.target
    return RunSummary(
        run_id=manifest.run_id,
        experiment=manifest.experiment,
        campaign_id=manifest.campaign_id,
        created_utc=manifest.created_utc,
        cell=manifest.cell,
        state=manifest.state,
        model=str(target.get("model", "")),
        target_kind=str(target.get("kind", "")),
        window=None,
        verdict=Verdict("UNKNOWN", ()),
        outcomes={},
        scalars=dict.fromkeys(_RUN_METRICS),
        distributions={},
        tokens=(),
        timeline=None,
        notes=(),
        startup=dict(target.get("startup") or {}),
        environment=_provenance(manifest),
        config=manifest.config,
    )


def _provenance(manifest: Manifest) -> dict[str, Any]:
    """The environment, and what identifies plan, config and server, in one mapping for the report."""
    shas = {"plan_sha256": manifest.plan_sha256, "config_sha256": manifest.config_sha256}
    facts = ("server_version", "api", "body", "max_model_len", "flags", "cache_config", "checks", "vocabulary")
    server = {key: manifest.target[key] for key in facts if manifest.target.get(key)}
    return {
        **manifest.environment,
        **shas,
        "seed": manifest.seed,
        "server": server,
        "telemetry": dict(manifest.telemetry),
    }
