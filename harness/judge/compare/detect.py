"""How many repetitions it takes to see a change: the planner behind `harness compare DIR [AGAIN] --detect 3%`.

A change is seen where `compare` would say so: the corrected test rejects and the measured change is above the smallest that counts.
Planned with as many repetitions on each side, at the first step of Holm's correction (alpha / comparisons), for the test that `compare`
would choose: Welch's, or the paired one where a second campaign that replayed the same plans shows how much of the spread the plans
bring about. One campaign cannot show that. The spread between repetitions is itself known from few, so the number is the one that sees
the change with the wanted probability on average over what the spread may be. For this the cells of a metric share what they know of
it (Smyth 2004), and metrics of fewer than 3 cells do: a pilot of 3 repetitions in 12 cells knows more than 3 values tell. Tests never
share it (see significance). `python -m tests.bench.bench_compare --only found` prints the power at the number asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, special

from harness.base.errors import ConfigError
from harness.base.stats import FloatArray, inside_variance, t_above
from harness.judge.columns import measured_of
from harness.judge.compare.comparison import ALPHA, MIN_EFFECT, pair_of
from harness.judge.compare.keys import check_comparable, match_cells
from harness.judge.compare.sides import ComparedRun, Side, require_valid
from harness.judge.compare.significance import worth_pairing
from harness.judge.metrics import per_request
from harness.judge.repeats import Point, intervals, points, usable
from harness.records import CellInterval, Detectable, Detection, Load

POWER = 0.90
TAILS = 1.5  # variance of an estimated variance over that of normal values: an excess kurtosis of 1
LIMIT = 200  # repetitions
_GRID = (np.arange(99) + 0.5) / 99  # quantiles that an expectation is taken over


def detect(
    side: Side,
    change: float,
    *,
    again: Side | None = None,
    metrics: Iterable[str] = (),
    min_effect: float = MIN_EFFECT,
    alpha: float = ALPHA,
    power: float = POWER,
    limit: int = LIMIT,
) -> Detection:
    """Repetitions a side to see a change of `change` (0.03: 3 %), from a campaign of at least two repetitions.

    `again`: a second one of the same plans, for what pairing saves; whether the two differ does not matter. Raises ConfigError where
    the change is not above `min_effect`, or no cell has two repetitions; InvalidRunError; with `again` NotComparableError.
    """
    if change <= min_effect:
        value = f"--detect {change:.3g}, --min-effect {min_effect:.3g}"
        raise ConfigError("a change that does not count cannot be seen", value, "--detect must be above --min-effect")
    require_valid("DIR", side)
    wanted = points(metrics)
    cells = intervals([run.summary for run in side.runs], [point.key for point in wanted])
    positive = [(point, each) for point in wanted for each in cells if each.metric == point.key and each.scale == "log"]
    known = [(point, each) for point, each in positive if len(each.values) >= 2]
    if not known:
        raise ConfigError(
            "the spread between repetitions is not known",
            f"{side.record.directory}: no cell has two repetitions of a positive metric",
            "run the experiment with repetitions: 3 or more, and plan from that",
        )
    skipped = _skipped(positive, wanted, again)
    tests = len(known)
    spreads = _spreads(
        [(point.key, float(np.log(each.values).var(ddof=1)), len(each.values) - 1.0) for point, each in known]
    )
    pairs = {} if again is None else _pairs(side, again, wanted)
    paired = _spreads([(key[-1], pair.off, pair.count - 1.0) for key, pair in pairs.items()])
    of_pairs = dict(zip(pairs, paired, strict=True))
    inside = _inside_shares(side, known)
    rows = []
    for (_, each), (variance, df), share in zip(known, spreads, inside, strict=True):
        needed = repetitions_needed(variance, df, change, min_effect, alpha / tests, power, limit)
        smallest = smallest_change(variance, df, len(each.values), min_effect, alpha / tests, power)
        key = (each.target, each.workload, each.load, each.metric)
        if key in of_pairs:
            together = [pair.correlation for other, pair in pairs.items() if other[-1] == each.metric]
            off, off_df = of_pairs[key]
            in_pairs = _needed_in_pairs(off, off_df, together, change, min_effect, alpha / tests, power, limit)
            needed = min((n for n in (needed, in_pairs) if n is not None), default=None)
        rows.append(
            Detectable(
                target=each.target,
                workload=each.workload,
                load=each.load,
                metric=each.metric,
                label=each.label,
                repetitions=len(each.values),
                spread=math.sqrt(variance),
                inside_share=share,
                smallest_now=smallest,
                needed=needed,
            )
        )
    rows.sort(key=lambda row: -(row.needed or limit + 1))
    return Detection(
        side.record, change, min_effect, alpha, power, tests, limit, tuple(rows), tuple(dict.fromkeys(skipped))
    )


def _skipped(positive: Sequence[tuple[Point, CellInterval]], wanted: Sequence[Point], again: Side | None) -> list[str]:
    """What is not planned for, and why."""
    skipped = [
        f"{each.target} {each.workload} {each.load.name} {each.label}: one repetition"
        for _, each in positive
        if len(each.values) < 2
    ]
    if any(point.is_share for point in wanted):
        skipped.append("attainment: its spread depends on how near the load is to the limit")
    if again is None:
        skipped.append("pairs: a second campaign of the same plans, given as NEW, shows what pairing saves")
    return skipped


@dataclass(frozen=True, slots=True)
class _InPairs:
    """What two campaigns of the same plans show of one cell and metric: half the variance of the differences, how the sides move
    together, and from how many repetitions."""

    off: float
    correlation: float
    count: int


def _pairs(side: Side, again: Side, wanted: Sequence[Point]) -> dict[tuple[str, str, Load, str], _InPairs]:
    matched, _, _ = match_cells(side, again, ())
    check_comparable(matched, (), strict=False)
    of_cell = {}
    for cell in matched:
        first = cell[1][0].summary.cell
        for point in wanted:
            pair = pair_of(cell, point, ())
            if pair is None or not pair.log or len(pair.shared) < 3:
                continue
            base, new = pair.scaled(pair.base, pair.shared), pair.scaled(pair.new, pair.shared)
            if base.std() > 0 and new.std() > 0:
                off = float((new - base).var(ddof=1)) / 2
                together = float(np.corrcoef(base, new)[0, 1])
                of_cell[first.target, first.workload, first.load, point.key] = _InPairs(off, together, len(base))
    return of_cell


def _needed_in_pairs(
    variance: float,
    known_df: float,
    together: Sequence[float],
    change: float,
    min_effect: float,
    alpha: float,
    power: float,
    limit: int,
) -> int | None:
    """The smallest number of pairs that suffices and with which `compare` would test in pairs; `together`: the metric's correlations."""
    effect, least, middle = math.log1p(change), math.log1p(min_effect), float(np.median(together))

    def enough(n: int) -> bool:
        return worth_pairing(middle, n, len(together), alpha) and (
            chance(effect, variance, known_df, n, least, alpha, paired=True) >= power
        )

    return _first(enough, 2, limit)


def chance(
    effect: float,
    variance: float,
    known_df: float,
    n: int,
    least: float,
    alpha: float,
    *,
    tails: float = TAILS,
    paired: bool = False,
) -> float:
    """Probability that a true change `effect` (in logarithms) is seen with `n` repetitions a side.

    That is P(difference > max(t s sqrt(2 / n), least)) with s^2 a chi-square variance of df = 2n - 2 (in pairs n - 1), averaged over the true
    variance given that `variance` was estimated with `known_df`: variance x known_df / chi2(known_df). Heavier tails than normal
    make variances less certain (var(s^2) = sigma^4 (2 / df + kurtosis / n)): both chi-squares have their degrees of freedom
    divided by `tails`. With known_df infinite, least = 0 and tails = 1 it is the noncentral t's power (a test compares the two).
    """
    df = n - 1 if paired else 2 * n - 2
    truth = np.full(1, variance) if math.isinf(known_df) else variance / _share_of_variance(known_df / tails)
    seen = _share_of_variance(df / tails)
    error = np.sqrt(truth * 2 / n)[:, None]
    threshold = np.maximum(t_above(alpha / 2, df) * np.sqrt(seen)[None, :] * error, least)
    return float(special.ndtr((effect - threshold) / error).mean())


@lru_cache(maxsize=1000)
def _share_of_variance(df: float) -> FloatArray:
    """Quantiles of an estimated over the true variance: chi2(df) / df."""
    return np.asarray(2 * special.gammaincinv(df / 2, _GRID) / df, np.float64)


def repetitions_needed(
    variance: float, known_df: float, change: float, min_effect: float, alpha: float, power: float, limit: int = LIMIT
) -> int | None:
    """The smallest number of repetitions a side that sees `change` with probability `power`; None above `limit`."""
    effect, least = math.log1p(change), math.log1p(min_effect)

    def enough(n: int) -> bool:
        return chance(effect, variance, known_df, n, least, alpha) >= power

    return _first(enough, 2, limit)


def _first(enough: Callable[[int], bool], low: int, high: int) -> int | None:
    """The smallest n in low..high for which `enough` holds, which holds for every larger one; None if there is none."""
    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def smallest_change(
    variance: float, known_df: float, n: int, min_effect: float, alpha: float, power: float
) -> float | None:
    """The smallest change that `n` repetitions a side see with probability `power`; None above a factor of 20."""
    least = math.log1p(min_effect)

    def lacking(effect: float) -> float:
        return chance(effect, variance, known_df, n, least, alpha) - power

    high = math.log(20)
    if lacking(high) < 0:
        return None
    return math.expm1(float(optimize.brentq(lacking, 0.0, high, xtol=1e-5)))


def _spreads(known: Sequence[tuple[str, float, float]]) -> list[tuple[float, float]]:
    """(variance of the logarithm, degrees of freedom it is known with) of each (metric, variance, df), shared within a metric,
    and among all metrics that have fewer than 3 cells."""
    keys = [key for key, _, _ in known]
    groups = [key if keys.count(key) >= 3 else "" for key in keys]
    spreads: dict[int, tuple[float, float]] = {}
    for group in set(groups):
        index = [i for i, of in enumerate(groups) if of == group]
        variances = np.array([known[i][1] for i in index])
        degrees = np.array([known[i][2] for i in index])
        spreads |= dict(zip(index, shared_variances(variances, degrees), strict=True))
    return [spreads[i] for i in range(len(known))]


def shared_variances(variances: FloatArray, degrees: FloatArray) -> list[tuple[float, float]]:
    """Each variance drawn towards what all have in common: (d0 s0^2 + d s^2) / (d0 + d), known with d0 + d.

    d0 and s0^2 by moments of log s^2 (Smyth 2004, section 6.2); with fewer than 3 variances, or any that is 0, each stands alone.
    """
    smallest = 1e-16  # equal to the last digit
    alone = [(max(float(v), smallest), float(d)) for v, d in zip(variances, degrees, strict=True)]
    if len(variances) < 3 or (variances <= smallest).any():
        return alone
    e = np.log(variances) - special.digamma(degrees / 2) + np.log(degrees / 2)
    excess = float(e.var(ddof=1) - special.polygamma(1, degrees / 2).mean())
    if excess <= 1e-3:  # no more different than chance makes them
        total = float(degrees.sum())
        together = float((variances * degrees).sum() / total)
        return [(together, total)] * len(variances)
    d0 = 2 * float(optimize.brentq(lambda x: float(special.polygamma(1, x)) - excess, 1e-4, 1e4))
    s0 = math.exp(float(e.mean()) + float(special.digamma(d0 / 2)) - math.log(d0 / 2))
    return [((d0 * s0 + d * v) / (d0 + d), d0 + d) for v, d in alone]


def _inside_shares(side: Side, known: Sequence[tuple[Point, CellInterval]]) -> list[float | None]:
    """What share of each spread's square the requests inside a run explain; None for rates, and without stored requests."""
    cells = side.cells()
    arrays = {id(run): _requests_of(run) for run in side.runs}
    shares: list[float | None] = []
    for point, each in known:
        inside = []
        for run in usable(cells[each.target, each.workload, each.load]):
            values = arrays[id(run)].get(point.metric)
            if values is not None and point.at:
                inside.append(inside_variance(values, _log_of(point.at)))
        between = float(np.log(each.values).var(ddof=1))
        variances = [v for v in inside if v is not None]
        shares.append(min(1.0, float(np.mean(variances)) / between) if variances and between > 0 else None)
    return shares


def _log_of(at: str) -> Callable[[FloatArray], float]:
    if at == "mean":
        return lambda values: math.log(float(values.mean()))
    quantile = float(at[1:]) / 100
    return lambda values: math.log(max(float(np.quantile(values, quantile)), 1e-12))


def _requests_of(run: ComparedRun) -> dict[str, FloatArray]:
    """Each per-request metric of the run's ok requests of the window, in the order they were sent."""
    window = run.summary.window
    if run.data is None or window is None:
        return {}
    requests = measured_of(run.data)
    use = requests.ok & requests.sent.inside(window)
    order = np.argsort(requests.sent.data[use], kind="stable")
    columns = {name: column[use][order] for name, column in per_request(requests).items()}
    return {name: column[~np.isnan(column)] for name, column in columns.items()}
