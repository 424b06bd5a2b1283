"""Capacity: the highest Poisson rate whose attainment is at the target. Which rate to probe next, and what the probes say.

1. Bracket: double until something fails, or halve until something passes; where a queue grew, the rate at which requests
   ended is the server's throughput, and the next probe goes just below it. Then halve the bracket down to `_CLOSE`.
2. Refine: fit one curve through all probes near the target (fit) and probe where it meets the target and a little
   to both sides, until the interval's half-width is below the tolerance or the probes are used up.
3. A server that breaks within the tolerance (every probe clear, no curve to fit) is bracketed by bisection alone.

Pure: a search is a function of its spec and the probes made so far, so it goes on where it was cut off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from harness.base.stats import t_above
from harness.config.load import CapacitySpec
from harness.judge.capacity.fit import Curve, fit, near, uneven
from harness.judge.capacity.probe import FEW_MISSES, LEAST_INFLATION
from harness.records import CapacityResult, ProbeResult

_CLOSE = 1.3  # high / low of a bracket within which a curve is fitted
_STEP = 2.0
_BELOW_THROUGHPUT = 0.85
_ENOUGH = 0.85  # of the tolerance: an interval that is just narrow enough came out so by luck half the time
_SIDES = (0.0, -1.0, 1.0, 0.0, -0.5, 0.5)  # offsets of refining probes, for the slope
_LOGIT_OFFSET, _WIDEST_OFFSET = 1.0, 0.06  # odds of a miss times or by 2.7, and at most 6 % of rate
_REFUSED = 0.9  # of a rate at which two probes were invalid: what the machine can still offer is below
_SAME = 0.03
_PATIENCE = 0.3  # of the longest probe
_MIN_MISSING = 15
_AROUND, _MIN_LONGEST = 0.1, 3.5  # seconds of probes within 10 % of the capacity, in longest probes


@dataclass(frozen=True, slots=True)
class ProbeOrder:
    """The next probe: offer `rate_rps` for at most `longest_s` of schedule; the others as in probe.Watch."""

    index: int
    rate_rps: float
    longest_s: float
    shortest_s: float
    inflation: float = 1.0
    patient: bool = False
    stays: float = 0.0


@dataclass(frozen=True, slots=True)
class _Standing:
    """What is known so far. `clear_*`: verdicts; `low`, `high`: the same with undecided probes by their side of the target."""

    low_rps: float | None
    high_rps: float | None
    clear_low_rps: float | None
    clear_high_rps: float | None
    refused_rps: float | None
    curve: Curve | None


def next_probe(spec: CapacitySpec, attainment: float, probes: Sequence[ProbeResult]) -> ProbeOrder | None:
    """The next probe, or None when the search is over: precise enough, censored, or out of probes."""
    if len(probes) >= spec.probes:
        return None
    rate = _next_rate(spec, attainment, probes)
    if rate is None:
        return None
    rate = float(f"{rate:.5g}")
    while any(rate == p.rate_rps for p in probes):  # an equal rate would draw an equal plan
        rate = float(f"{rate * 1.0005:.5g}")
    shortest, longest = spec.lengths_s(rate, attainment, _stay_s(probes, attainment))
    if _standing(attainment, probes).curve is None:
        return ProbeOrder(len(probes) + 1, rate, math.sqrt(shortest * longest), shortest, stays=spec.stays)
    # what is fitted must not be chosen by its luck: near the target a probe that begins badly is heard out
    patience_s = max(shortest, _PATIENCE * longest)
    inflation = _inflation(near(probes, rate))
    return ProbeOrder(len(probes) + 1, rate, longest, patience_s, inflation, patient=True, stays=spec.stays)


def conclude(spec: CapacitySpec, attainment: float, probes: Sequence[ProbeResult]) -> CapacityResult:
    """The result of the probes made; at any time, also of a search that was cut off."""
    at = _standing(attainment, probes)
    interval = _interval(at)
    state, why = _state(spec, at, interval, probes)
    capacity = low = high = None
    if state == "found" and interval is not None:
        low, capacity, high = interval
    else:  # an undecided probe guides the search, but bounds nothing
        low, high = at.clear_low_rps, at.clear_high_rps
    return CapacityResult(
        state=state,
        capacity_rps=capacity,
        low_rps=low,
        high_rps=high,
        output_tps=_output_tps(probes, capacity if capacity is not None else low),
        attainment=attainment,
        tolerance=spec.tolerance,
        seconds=sum(p.seconds for p in probes),
        probes=tuple(probes),
        why=why,
    )


def _inflation(probes: Sequence[ProbeResult]) -> float:
    """Median of requests over effective requests, of the probes in which misses were seen to cluster or not."""
    seen = [
        p.offered / p.effective_requests
        for p in probes
        if p.effective_requests and sum(good < offered for offered, good in p.batches) >= FEW_MISSES
    ]
    return median(seen) if seen else LEAST_INFLATION * uneven(probes) ** 2


def _stay_s(probes: Sequence[ProbeResult], attainment: float) -> float | None:
    """The longest E2EL (median) of a load that was served; of overloads the shortest, where there is nothing else."""
    known = [(p.stay_s, _leans_pass(p, attainment)) for p in probes if p.stay_s is not None and p.verdict != "invalid"]
    served = [stay_s for stay_s, kept_up in known if kept_up]
    return max(served) if served else min((stay_s for stay_s, _ in known), default=None)


def _leans_pass(probe: ProbeResult, attainment: float) -> bool:
    if probe.verdict == "undecided":
        return probe.attainment is not None and probe.attainment >= attainment
    return probe.verdict == "pass"


def _standing(attainment: float, probes: Sequence[ProbeResult]) -> _Standing:
    valid = [p for p in probes if p.verdict != "invalid"]
    passed = [p.rate_rps for p in valid if _leans_pass(p, attainment)]
    failed = [p.rate_rps for p in valid if not _leans_pass(p, attainment)]
    low, high = max(passed, default=None), min(failed, default=None)
    clear_high = min((p.rate_rps for p in valid if p.verdict == "fail"), default=None)
    clear_low = max((p.rate_rps for p in valid if p.verdict == "pass"), default=None)
    if clear_low is not None and clear_high is not None and clear_low >= clear_high:
        clear_low = clear_high = None  # two clear verdicts that contradict each other bound nothing
    curve = None
    if low is not None and high is not None and high / low <= _CLOSE:
        curve = fit(valid, attainment, math.sqrt(low * high))
    return _Standing(low, high, clear_low, clear_high, _refused(probes), curve)


def _refused(probes: Sequence[ProbeResult]) -> float | None:
    """The lowest rate at which two probes were invalid: beyond it this set-up measures nothing."""
    rates = sorted(p.rate_rps for p in probes if p.verdict == "invalid")
    twice = [b for a, b in zip(rates, rates[1:], strict=False) if b <= a * (1 + _SAME)]
    return min(twice, default=None)


def _next_rate(spec: CapacitySpec, attainment: float, probes: Sequence[ProbeResult]) -> float | None:
    if not probes:
        return spec.start_rps
    at = _standing(attainment, probes)
    refused_once = probes[-1].verdict == "invalid" and (at.refused_rps is None or probes[-1].rate_rps < at.refused_rps)
    if refused_once:
        return probes[-1].rate_rps  # once may be an accident
    interval = _interval(at)
    if at.low_rps is not None and at.high_rps is not None:
        if (
            interval is not None
            and _is_shown(at, spec, attainment, probes)
            and math.log(interval[2] / interval[0]) / 2 <= _ENOUGH * spec.tolerance
        ):
            return None
        return _inside(at, probes)
    if at.high_rps is None:
        limit = spec.highest_rps if at.refused_rps is None else min(spec.highest_rps, _REFUSED * at.refused_rps)
        if at.low_rps is None:
            return limit / _STEP if limit / _STEP >= spec.lowest_rps else None
        rate = min(at.low_rps * _STEP, limit)
        return rate if rate > at.low_rps * (1 + _SAME) else None
    rate = max(_throughput_guess(probes) or at.high_rps / _STEP, spec.lowest_rps)
    rate = min(rate, at.high_rps / (1 + _SAME)) if rate < at.high_rps else at.high_rps / _STEP
    return max(rate, spec.lowest_rps) if at.high_rps > spec.lowest_rps * (1 + 1e-9) else None


def _is_shown(at: _Standing, spec: CapacitySpec, attainment: float, probes: Sequence[ProbeResult]) -> bool:
    """False where the width of a curve's interval rests on too little to be believed."""
    if at.curve is None:
        return True
    around = sum(p.seconds for p in probes if abs(math.log(p.rate_rps / at.curve.rate_rps)) <= _AROUND)
    _, longest_s = spec.lengths_s(at.curve.rate_rps, attainment, _stay_s(probes, attainment))
    return at.curve.batches_with_misses >= _MIN_MISSING and around >= _MIN_LONGEST * longest_s


def _inside(at: _Standing, probes: Sequence[ProbeResult]) -> float:
    """A rate inside a bracket: by the curve where there is one, else by throughput, else the middle."""
    assert at.low_rps is not None
    assert at.high_rps is not None
    middle = math.sqrt(at.low_rps * at.high_rps)
    if at.curve is not None:
        turn = _SIDES[sum(abs(math.log(p.rate_rps / at.curve.rate_rps)) <= _AROUND for p in probes) % len(_SIDES)]
        return at.curve.rate_rps * math.exp(turn * min(_WIDEST_OFFSET, _LOGIT_OFFSET / at.curve.slope))
    guess = _throughput_guess(probes[-1:])  # only right after an overload: once
    return guess if guess is not None and at.low_rps * 1.1 < guess < at.high_rps / 1.1 else middle


def _throughput_guess(probes: Sequence[ProbeResult]) -> float | None:
    """A little below the rate at which an overloaded server finished requests."""
    ended_rps = [p.completed_rps for p in probes if p.stopped == "queue growing" and p.completed_rps]
    return _BELOW_THROUGHPUT * min(ended_rps) if ended_rps else None


def _interval(at: _Standing) -> tuple[float, float, float] | None:
    """(low, capacity, high): the curve's, else the bracket of clear verdicts."""
    if at.curve is not None:
        return at.curve.low_rps, at.curve.rate_rps, at.curve.high_rps
    if at.clear_low_rps is None or at.clear_high_rps is None:
        return None
    return at.clear_low_rps, math.sqrt(at.clear_low_rps * at.clear_high_rps), at.clear_high_rps


def _state(
    spec: CapacitySpec, at: _Standing, interval: tuple[float, float, float] | None, probes: Sequence[ProbeResult]
) -> tuple[str, str]:
    if at.high_rps is None and at.clear_low_rps is not None:
        if at.refused_rps is not None:
            return (
                "censored_above",
                f"probes at {at.refused_rps:g}/s and above cannot be trusted: {_why_invalid(probes)}",
            )
        return "censored_above", "no rate failed" + (
            ", max_rps included" if at.clear_low_rps >= spec.highest_rps * 0.999 else " within the probes allowed"
        )
    if at.low_rps is None and at.clear_high_rps is not None:
        return "censored_below", "no rate passed" + (
            ", min_rps included" if at.clear_high_rps <= spec.lowest_rps * 1.001 else " within the probes allowed"
        )
    if interval is None:
        if at.low_rps is None and at.high_rps is None:
            return "undecided", f"no probe can be trusted: {_why_invalid(probes)}" if probes else "no probe was made"
        return "undecided", "the probes allowed do not tell on which side of the target they lie"
    half = math.log(interval[2] / interval[0]) / 2
    if half > spec.tolerance:
        return "found", f"the interval of +-{half:.1%} is wider than +-{spec.tolerance:.1%}: the probes were used up"
    return "found", f"the interval is within +-{spec.tolerance:.1%}"


def _why_invalid(probes: Sequence[ProbeResult]) -> str:
    return next((p.stopped for p in reversed(probes) if p.verdict == "invalid"), "none is there")


def _output_tps(probes: Sequence[ProbeResult], rate_rps: float | None) -> float | None:
    """Output tokens/s of a server that keeps up with `rate_rps`: times the tokens an offered request brought."""
    if rate_rps is None:
        return None
    used = near(probes, rate_rps) or [p for p in probes if p.rate_rps == rate_rps]
    tokens = [p.output_tokens for p in used]
    known = [count for count in tokens if count is not None]
    offered = sum(p.offered for p in used)
    return rate_rps * sum(known) / offered if offered and len(known) == len(tokens) else None


def best_probe(result: CapacityResult) -> ProbeResult | None:
    """The probe of the highest rate that kept the promise; None if none did. An undecided one did where all probes together put
    the capacity above its rate."""
    kept = [
        probe
        for probe in result.probes
        if probe.run_id and probe.attainment is not None and probe.attainment >= result.attainment
        and ((probe.verdict == "pass" and probe.rate_rps <= (result.capacity_rps or result.low_rps or 0.0))
             or (probe.verdict == "undecided" and probe.rate_rps <= (result.low_rps or 0.0)))
    ]  # fmt: skip
    return max(kept, key=lambda probe: probe.rate_rps, default=None)


# ---------------------------------------------------------------- over repetitions


@dataclass(frozen=True, slots=True)
class CapacityMean:
    """Capacity over repetitions. `mean_rps` is the geometric mean; the interval is 95 %, None where it cannot be given.

    With a repetition that was censored above, `low_rps` is the mean with its bound in its place: at least that.
    """

    state: str  # found | censored_above | undecided
    repetitions: int
    mean_rps: float | None
    low_rps: float | None
    high_rps: float | None
    output_tps: float | None


def over_repetitions(results: Sequence[CapacityResult]) -> CapacityMean:
    """Combine searches of one cell; repetitions are the unit.

    Student's t over the logs of the capacities, and never narrower than what the searches say of themselves (their standard
    errors, combined): few repetitions that happen to agree are no proof. One repetition: its own interval. Those censored
    below or undecided leave the whole undecided: leaving them out would take the good nights only.
    """
    n = len(results)
    values = [
        r.capacity_rps if r.state == "found" else r.low_rps if r.state == "censored_above" else None for r in results
    ]
    known = [v for v in values if v is not None]
    if not known or len(known) < n:
        return CapacityMean("undecided", n, None, None, None, None)
    mean = math.exp(fmean(math.log(v) for v in known))
    tps = [r.output_tps for r in results if r.output_tps is not None]
    output_tps = math.exp(fmean(math.log(v) for v in tps)) if len(tps) == n else None
    if any(r.state == "censored_above" for r in results):
        return CapacityMean("censored_above", n, None, mean, None, output_tps)
    if n == 1:
        return CapacityMean("found", 1, known[0], results[0].low_rps, results[0].high_rps, output_tps)
    own = math.sqrt(sum(math.log((r.high_rps or 1) / (r.low_rps or 1)) ** 2 for r in results)) / (2 * n)
    between = t_above(1 - 0.975, n - 1) * stdev(math.log(v) for v in known) / math.sqrt(n)
    half = max(own, between)
    return CapacityMean("found", n, mean, mean * math.exp(-half), mean * math.exp(half), output_tps)
