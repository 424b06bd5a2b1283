"""Capacity from runs at chosen rates, where no search was made: the highest offered rate that kept the promise.

The rates are walked upwards and the walk ends at the first that broke it: a higher one that kept it again was lucky. How far the
count of misses may be off is carried over to the rate by the odds of a miss, which rise with the rate to the power of `_SLOPE` at
least (M/D/1 at P99: 7 to 37), or of less where the runs show less: so a rate added above the capacity can only lower the low end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from harness.records import OVERLOAD, RunSummary

LEVEL = 0.9
_Z = 1.645
_CLUSTERED = 4.0  # neighbours share a queue: so many requests tell as much as one, unless the runs differ by more
_SLOPE = 7.0


@dataclass(frozen=True, slots=True)
class OfferedRate:
    """A rate and what became of its requests: (offered, attainment), one a run; `offered` None where it is not known.

    `rate_rps`: as asked for, or as the plans drew it where that was less. `steady`: False where a queue grew.
    """

    rate_rps: float
    runs: tuple[tuple[float | None, float], ...]
    steady: bool = True
    run_ids: tuple[str, ...] = ()

    @property
    def requests(self) -> float | None:
        """Over all runs; None where it is not known of one."""
        known = [offered for offered, _ in self.runs if offered is not None]
        return sum(known) if len(known) == len(self.runs) else None

    @property
    def attainment(self) -> float:
        """Of all requests together; the mean over runs where their number is not known."""
        weights = [offered or 0.0 for offered, _ in self.runs] if self.requests else [1.0] * len(self.runs)
        return sum(w * share for w, (_, share) in zip(weights, self.runs, strict=True)) / sum(weights)

    def keeps(self, target: float) -> bool:
        return self.steady and self.attainment >= target - 1e-9

    def misses_between(self) -> tuple[float, float] | None:
        """Wilson's interval of the share of misses; None where the number of requests is not known."""
        n, p = self.requests, 1 - self.attainment
        if not n:
            return None
        crowded = _CLUSTERED
        if len(self.runs) > 2 and 0 < p < 1:
            shares = variance([share for _, share in self.runs])
            crowded = max(crowded, shares * n / len(self.runs) / (p * (1 - p)))
        n = n / crowded
        centre = (p + _Z * _Z / (2 * n)) / (1 + _Z * _Z / n)
        half = _Z / (1 + _Z * _Z / n) * math.sqrt(max(0.0, p * (1 - p) / n + _Z * _Z / (4 * n * n)))
        return max(0.0, centre - half), min(1.0, centre + half)


def overloaded(summary: RunSummary) -> bool:
    """INVALID for nothing but what an overload brings about: it broke its promise."""
    reasons = [reason.code for reason in summary.verdict.reasons if reason.severity == "invalid"]
    return bool(reasons) and OVERLOAD.issuperset(reasons)


def offered_rates(runs: Sequence[RunSummary]) -> tuple[list[OfferedRate], list[str]]:
    """Open-loop runs by offered rate, and what was left out, in words."""
    by_load: dict[tuple[str, float], list[RunSummary]] = {}
    closed: list[str] = []
    unknown: list[str] = []
    for s in runs:
        if s.cell.load.rate_rps is None:
            closed.append(s.cell.load.name)
        elif s.scalars.get("attainment") is None and not overloaded(s):
            unknown.append(s.run_id)
        else:
            by_load.setdefault((s.cell.load.arrivals, s.cell.load.rate_rps), []).append(s)
    arrivals = sorted({kind for kind, _ in by_load})
    chosen = "poisson" if "poisson" in arrivals else arrivals[0] if arrivals else ""
    words = []
    if closed:
        words.append(f"left out: {', '.join(sorted(set(closed)))}: a closed loop cannot show a capacity under an SLO")
    if unknown:
        words.append(f"left out: {', '.join(unknown)}: their attainment is not known")
    if others := [kind for kind in arrivals if kind != chosen]:
        words.append(f"left out: runs of other arrivals than {chosen}: {', '.join(others)}")
    if chosen not in ("", "poisson"):
        words.append(f"arrivals were {chosen}, not Poisson: traffic that comes otherwise has another capacity")
    rates = [_offered(load, same) for (kind, load), same in by_load.items() if kind == chosen]
    return rates, words


def _offered(load_rps: float, runs: Sequence[RunSummary]) -> OfferedRate:
    drawn = [rate for s in runs if (rate := s.scalars.get("scheduled_rate_rps"))]
    seen = []
    for s in runs:
        share, goodput = s.scalars.get("attainment") or 0.0, s.scalars.get("goodput_rps")
        known = bool(share and goodput and s.window is not None)
        seen.append((goodput * s.window.offered_s / share if known else None, share))  # type: ignore[operator, union-attr]
    grew = any(reason.code in OVERLOAD for s in runs for reason in s.verdict.reasons)
    rate = min(load_rps, fmean(drawn) if drawn else load_rps)
    return OfferedRate(rate, tuple(seen), not grew, tuple(s.run_id for s in runs))


@dataclass(frozen=True, slots=True)
class Sweep:
    """`kept`: the capacity's rate. `broke`: the lowest rate above that did not keep the promise, None where none was offered.

    `low_rps`, `high_rps`: at `LEVEL`; None where the number of requests is not known, `high_rps` also where nothing broke.
    `again`: rates above `broke` that kept it.
    """

    kept: OfferedRate
    broke: OfferedRate | None
    low_rps: float | None
    high_rps: float | None
    again: tuple[OfferedRate, ...]


def sweep(rates: Sequence[OfferedRate], target: float) -> Sweep | None:
    """The capacity that runs at several rates show; `target`: the attainment promised. None where the lowest breaks it."""
    walked = sorted(rates, key=lambda rate: rate.rate_rps)
    broken = next((i for i, rate in enumerate(walked) if not rate.keeps(target)), len(walked))
    if broken == 0:
        return None
    kept, broke = walked[broken - 1], walked[broken] if broken < len(walked) else None
    between = kept.misses_between()
    low = high = None
    if between is not None:
        slope = min([_SLOPE, *(_slope(kept, higher) for higher in walked[broken:])])
        # a lower rate that kept it surely is a floor under what the misses of the highest leave open
        sure = [r.rate_rps for r in walked[:broken] if (m := r.misses_between()) is not None and m[1] <= 1 - target]
        low = max([kept.rate_rps * min(1.0, _times(between[1], target, slope)), *sure])
        if broke is not None:
            high = min(broke.rate_rps, kept.rate_rps * max(1.0, _times(between[0], target, slope)))
    return Sweep(kept, broke, low, high, tuple(r for r in walked[broken:] if r.keeps(target)))


def _slope(kept: OfferedRate, higher: OfferedRate) -> float:
    """Power of the rate with which the odds of a miss rose between two rates, a half added to each count; 1 at least."""
    odds = []
    for rate in (kept, higher):
        n = rate.requests or 1000.0
        odds.append(_log_odds(((1 - rate.attainment) * n + 0.5) / (n + 1)))
    apart = math.log(higher.rate_rps / kept.rate_rps)
    return max(1.0, (odds[1] - odds[0]) / apart) if apart > 0 else 1.0


def _times(missed: float, target: float, slope: float) -> float:
    """Rate at which the target is met, over the one at which that share was missed."""
    return math.exp((_log_odds(1 - target) - _log_odds(missed)) / slope)


def _log_odds(share: float) -> float:
    share = min(max(share, 1e-6), 1 - 1e-6)
    return math.log(share / (1 - share))
