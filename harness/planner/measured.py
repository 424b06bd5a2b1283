"""Capacity out of measured runs and searches, for the cost of a fleet.

The capacity under a promise is an offered rate: a finished search's, else the highest of the open-loop runs that kept it. A closed
loop waits for its own replies, so it shows no such rate, and a hosted API's capacity is not ours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.base import stats
from harness.base.errors import ConfigError, InvalidRunError
from harness.planner.measured_api import MeasuredApi, measured_apis
from harness.planner.sweep import LEVEL, Sweep, offered_rates, overloaded, sweep
from harness.planner.uncertainty import Interval
from harness.price.machine_match import RanOn, ran_on
from harness.records import RunSummary, SearchedCapacity

Usage = tuple[tuple[int, ...], ...]
_BOOTSTRAP = "bootstrap over runs: Student's t x standard error"


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server was seen to serve. `plan_rps` is what a fleet is sized by: the interval's low end, else `rps`.

    `rps`: the capacity; where `at_least`, a bound that nothing broke. `is_upper_bound`: throughput where nothing was promised.
    `how`: how it was found, in words that every page prints. `ran_on`: the GPUs of the server, None where no run says.
    `apis`: hosted targets that were held against the same promise beside it.
    """

    plan_rps: float
    rps: float
    interval: Interval | None
    usage: Usage
    run_ids: tuple[str, ...]
    models: tuple[str, ...]
    created_utc: str
    how: str
    warnings: tuple[str, ...]
    at_least: bool = False
    is_upper_bound: bool = False
    ran_on: RanOn | None = None
    apis: tuple[MeasuredApi, ...] = ()


def measured_capacity(
    summaries: Sequence[RunSummary],
    workload: str | None = None,
    *,
    target: str | None = None,
    searches: Sequence[SearchedCapacity] = (),
) -> Measured:
    """Capacity of one server for one workload, from `searches` where there is one, else from the runs. Runs of hosted targets beside
    those of a server of ours tell what these APIs attain.

    Under an SLO: the highest offered rate whose attainment is at the target. Without: throughput at saturation, an upper bound.
    `workload`, `target`: which ones, needed where there are several: an easy workload's capacity is not another's.

    Raises InvalidRunError if no run is VALID or UNKNOWN; ConfigError where the runs are of several servers (naming what differs)
    or of a hosted API, or show no capacity: closed loops under an SLO, a promise that no rate kept, no rate, no usage.
    """
    everything, ours = summaries, [s for s in summaries if s.target_kind != "hosted"]
    if target is None and (ours or searches):
        summaries = ours
    probes = {run_id for search in searches for run_id in search.probe_ids}
    usable = [s for s in summaries if s.verdict.state != "INVALID" or s.run_id in probes or overloaded(s)]
    if not searches and all(s.verdict.state == "INVALID" for s in usable):
        first = summaries[0] if summaries else None
        raise InvalidRunError("no run whose capacity may be used", first.run_id if first else "none", "run it again")
    workload = _the_one("workload", workload, {s.cell.workload for s in usable} | {s.workload for s in searches})
    usable = [s for s in usable if s.cell.workload == workload]
    searches = [s for s in searches if s.workload == workload]
    if target is not None:
        _the_one("target", target, {s.cell.target for s in usable} | {s.target for s in searches})
        usable = [s for s in usable if s.cell.target == target]
        searches = [s for s in searches if s.target == target]
    _of_one_server(usable)
    _the_one("target", target, {s.cell.target for s in usable} | {s.target for s in searches})
    if searches:
        capacity = _searched(searches, usable)
    else:
        capacity = _swept(usable) if any(_promise(s) for s in usable) else _saturated(usable)
    capacity = replace(capacity, apis=measured_apis(everything, workload))
    return replace(capacity, ran_on=ran_on(usable[0])) if usable else capacity


def _the_one(what: str, wanted: str | None, known: set[str]) -> str:
    """The one asked for, or the only one there is."""
    if wanted is None and len(known) > 1:
        advice = f"name one: capacity.{what}, or give one run's directory"
        raise ConfigError(f"runs of several {what}s", ", ".join(sorted(known)), advice)
    if wanted is not None and wanted not in known:
        raise ConfigError(f"no run of this {what}", wanted, f"there are: {', '.join(sorted(known))}")
    return wanted if wanted is not None else next(iter(known))


def _of_one_server(runs: Sequence[RunSummary]) -> None:
    """Raises ConfigError where runs are of a hosted API, or differ in what makes a server."""
    hosted = sorted({f"{s.cell.target} ({s.model})" for s in runs if s.target_kind == "hosted"})
    if hosted:
        advice = (
            "its limits are its vendor's: name the target that is your own server (capacity.target), or give its run"
        )
        raise ConfigError("a hosted API has no capacity of ours", ", ".join(hosted), advice)
    for name, of in _SERVER.items():
        known = {value for s in runs if (value := of(s)) is not None}
        if len(known) > 1:
            advice = "a capacity is one server's: give the directory or the campaign of one"
            raise ConfigError(f"runs of several {name}", " | ".join(sorted(known)), advice)


def _environment(*path: str) -> Any:
    def of(summary: RunSummary) -> str | None:
        value: Any = summary.environment
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        return (
            None
            if value is None or value == ""
            else value
            if isinstance(value, str)
            else json.dumps(value, sort_keys=True)
        )

    return of


def _gpus(summary: RunSummary) -> str | None:
    if "gpus" not in summary.environment:
        return None
    names = [str(gpu.get("name")) for gpu in summary.environment["gpus"] or ()]
    return " + ".join(f"{names.count(name)} x {name}" for name in sorted(set(names))) or "no GPU"


def _promise(summary: RunSummary) -> str | None:
    """The SLO's limits and target; None where nothing was promised."""
    slo = {name: value for name, value in (summary.config.get("slo") or {}).items() if value is not None}
    if slo.keys() - {"attainment"}:
        return json.dumps(slo, sort_keys=True)
    return "an SLO" if summary.scalars.get("attainment", summary.scalars.get("goodput_rps")) is not None else None


_SERVER = {  # what must be one for runs to be of one server; what a run does not say is not held against it
    "models": lambda s: s.model,
    "GPUs": _gpus,
    "CPUs": _environment("cpu_model"),
    "CPU core counts": _environment("cores", "usable"),
    "machines": _environment("host_sha256"),
    "server versions": _environment("server", "server_version"),
    "server flags": _environment("server", "flags"),
    "promises": lambda s: _promise(s) or "none",
}


# ---------------------------------------------------------------- a search


def _searched(searches: Sequence[SearchedCapacity], runs: Sequence[RunSummary]) -> Measured:
    """What the searches of one server say together; `runs` give usage, and may contradict them."""
    (search,) = searches
    if search.low_rps is None or search.state not in ("found", "censored_above"):
        advice = "search again: a lower min_rps, or longer probe_s; harness report shows every probe"
        raise ConfigError("the capacity search found no rate that can be planned with", search.why, advice)
    own = [s for s in runs if s.run_id in search.probe_ids]
    times = f", {search.repetitions} repetitions together" if search.repetitions > 1 else ""
    promised = f"{search.attainment:.4g} of requests within the SLO{times}"
    warnings: list[str] = []
    if search.state == "found" and search.capacity_rps is not None and search.high_rps is not None:
        between = f"{search.level:.0%} interval {search.low_rps:.4g} to {search.high_rps:.4g}"
        how = f"capacity search: {search.capacity_rps:.4g}/s ({between}), {promised}"
        method = "capacity search"
        interval = Interval(
            search.low_rps, search.capacity_rps, search.high_rps, search.level, method, search.repetitions
        )
    else:
        how, interval = f"capacity search: at least {search.low_rps:.4g}/s, no rate failed, {promised}", None
        warnings.append("the capacity is at least this: nothing that was offered broke the promise")
    if search.repetitions == 1:
        warnings.append("one search: its repeatability from day to day is not known; repeat it")
    others = [s for s in runs if s.run_id not in search.probe_ids]
    open_loop, left_out = offered_rates(others)
    for rate in open_loop:
        kept = rate.keeps(search.attainment)
        if (kept and search.high_rps is not None and rate.rate_rps > search.high_rps) or (
            not kept and rate.rate_rps < search.low_rps
        ):
            word = "kept" if kept else "broke"
            warnings.append(
                f"a run at {rate.rate_rps:.4g}/s {word} the promise ({rate.attainment:.2%}): it contradicts the search"
            )
    return Measured(
        plan_rps=search.low_rps,
        rps=search.capacity_rps or search.low_rps,
        interval=interval,
        usage=_usage(own, search.run_ids[0]),
        run_ids=search.run_ids,
        models=tuple(sorted({s.model for s in own or runs})),
        created_utc=search.created_utc,
        how=how,
        warnings=(*warnings, *left_out),
        at_least=interval is None,
    )


# ---------------------------------------------------------------- runs under an SLO


def _swept(runs: Sequence[RunSummary]) -> Measured:
    """Raises ConfigError where there is no open loop, or none that kept the promise."""
    rates, left_out = offered_rates(runs)
    if not rates:
        best = max((s.scalars.get("goodput_rps") or 0.0 for s in runs), default=0.0)
        advice = f"a closed loop waits for its own replies; search it: loads: [{{capacity: {{start_rps: {max(best, 0.01):.3g}}}}}], or offer rates"
        raise ConfigError(
            "closed loops show no capacity under an SLO", ", ".join(sorted({s.run_id for s in runs})), advice
        )
    target = float((runs[0].config.get("slo") or {}).get("attainment", 0.99))
    walk = sweep(rates, target)
    if walk is None:
        lowest = min(rates, key=lambda rate: rate.rate_rps)
        what = f"{lowest.rate_rps:.4g}/s, the lowest offered: {lowest.attainment:.2%} within the SLO, {target:.4g} promised"
        raise ConfigError(
            "no offered rate kept the promise", what, "offer lower rates, or search: loads: - capacity: .."
        )
    ids = set(walk.kept.run_ids)
    best_runs = [s for s in runs if s.run_id in ids]
    interval = None
    if walk.low_rps is not None and walk.high_rps is not None:
        method = "requests and runs at the highest rate that kept the promise"
        interval = Interval(walk.low_rps, walk.kept.rate_rps, walk.high_rps, LEVEL, method, len(best_runs))
    return Measured(
        plan_rps=walk.kept.rate_rps if walk.low_rps is None else walk.low_rps,
        rps=walk.kept.rate_rps,
        interval=interval,
        usage=_usage(best_runs, best_runs[0].run_id),
        run_ids=tuple(s.run_id for s in best_runs),
        models=tuple(sorted({s.model for s in runs})),
        created_utc=max(s.created_utc for s in best_runs),
        how=_how(walk, target),
        warnings=(*_doubts(walk, best_runs), *left_out),
        at_least=walk.broke is None,
    )


def _how(walk: Sweep, target: float) -> str:
    kept, broke = walk.kept, walk.broke
    of = "" if kept.requests is None else f" of {kept.requests:,.0f} requests"
    end = (
        "nothing offered broke it: at least that"
        if broke is None
        else f"{broke.rate_rps:.4g}/s broke it ({broke.attainment:.2%})"
    )
    runs = f"{len(kept.runs)} run{'s' * (len(kept.runs) > 1)}"
    return f"highest offered rate that kept the promise: {kept.rate_rps:.4g}/s, {kept.attainment:.2%}{of} within the SLO ({target:.4g} promised), {runs}; {end}"


def _doubts(walk: Sweep, runs: Sequence[RunSummary]) -> list[str]:
    words = [f"run {s.run_id} is {s.verdict.state}" for s in runs if s.verdict.state != "VALID"]
    if walk.broke is None:
        words.append("the capacity is at least this: nothing that was offered broke the promise")
    if len(walk.kept.runs) == 1:
        words.append("one run: its repeatability is not known; repeat it 5 times")
    if walk.low_rps is None:
        words.append("how many requests were offered is not known: the capacity has no interval")
    elif walk.low_rps < walk.kept.rate_rps * 0.97:
        words.append(
            f"so few requests leave open whether {walk.kept.rate_rps:.4g}/s kept the promise: planned with {walk.low_rps:.4g}/s; run longer"
        )
    if walk.again:
        again = ", ".join(f"{rate.rate_rps:.4g}" for rate in walk.again)
        words.append(f"higher rates kept the promise again ({again}/s): luck, or the runs differ")
    return words


# ---------------------------------------------------------------- runs without an SLO


def _saturated(runs: Sequence[RunSummary]) -> Measured:
    """Throughput at any latency: the highest mean of request_rps over loads."""
    by_load: dict[str, list[RunSummary]] = {}
    for s in runs:
        if s.scalars.get("request_rps"):
            by_load.setdefault(s.cell.load.name, []).append(s)
    if not by_load:
        raise ConfigError(
            "runs have no rate", f"request_rps of {runs[0].run_id}", "a run that served nothing has no capacity"
        )
    rates = {name: [float(s.scalars["request_rps"] or 0) for s in same] for name, same in by_load.items()}
    name = max(rates, key=lambda key: fmean(rates[key]))
    best, seen = by_load[name], rates[name]
    ends = stats.bootstrap_mean(seen, LEVEL)
    interval = None if ends is None else Interval(ends[0], fmean(seen), ends[1], LEVEL, _BOOTSTRAP, len(seen))
    warnings = [f"run {s.run_id} is {s.verdict.state}" for s in best if s.verdict.state != "VALID"]
    warnings.append("no SLO was declared: the capacity is throughput at saturation, at any latency, an upper bound")
    if interval is None:
        warnings.append("one run: its repeatability is not known; repeat it 5 times")
    return Measured(
        plan_rps=seen[0] if interval is None else interval.low,
        rps=fmean(seen),
        interval=interval,
        usage=_usage(best, best[0].run_id),
        run_ids=tuple(s.run_id for s in best),
        models=tuple(sorted({s.model for s in best})),
        created_utc=max(s.created_utc for s in best),
        how=f"throughput at saturation, no SLO declared (an upper bound): highest request_rps over loads: {name}, {len(best)} run{'s' * (len(best) > 1)}",
        warnings=tuple(warnings),
        is_upper_bound=True,
    )


def _usage(runs: Sequence[RunSummary], name: str) -> Usage:
    usage: Usage = tuple(u for s in runs for u in s.usage)
    if not usage:
        raise ConfigError("runs have no usage", name, "the server must say how many tokens a request had")
    return usage


def measured(
    directory: Path, campaign: str | None = None, *, workload: str | None = None, target: str | None = None
) -> Measured:
    """The capacity that a run or experiment directory shows, for the cost of a fleet: every command takes it from here.

    Raises StoreError, and what cost.measured.measured_capacity raises.
    """
    from harness.judge.runs import analyse, searched

    analysis = analyse(directory, campaign)
    found = measured_capacity(analysis.summaries, workload, target=target, searches=searched(analysis.capacities))
    return replace(found, warnings=(*found.warnings, *(f"not read: {problem}" for problem in analysis.problems)))
