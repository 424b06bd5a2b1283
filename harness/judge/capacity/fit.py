"""All probes of a capacity search as one curve: log-odds of a miss = a + b log(rate), fitted around the target.

Near capacity the tail of a queue's wait is exponential in (1 - load), so that the log-odds of a miss are close to straight
over some 20 % of rate. The abscissa is the rate as drawn, not as asked for: a plan that came out 1 % denser was 1 % more load.
A prior keeps the slope positive where the probes say little about it; misses that cluster say less.

The interval is the delta method's, the widest of four: what the fit says, what batches say of each other, what probes say of each
other (sandwiches, with Student's t), and what Poisson arrivals and uneven work bring about in any queue. The first three know only the clusters of
misses that came; where one more would have been as large as all of them, they are narrow and the capacity is too good at once.
`python -m tests.bench.bench_capacity` prints how often the interval covers the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.stats import FloatArray, t_above
from harness.judge.capacity.probe import unevenness
from harness.records import ProbeResult

NEAR = 0.2  # |log(rate / capacity)| of the probes that take part ..
_NEAR_LOG_ODDS = 3.0  # .. or so much of log-odds where the curve is flat
# The prior: odds of a miss rise with the rate to the power of 10 (M/D/1 at P99: 7 to 37, near 1 where the limit leaves no time to
# wait), a factor of 7 either way. Uneven work makes them rise less for the same limit, and clusters longer than a batch, so that
# misses say less of the slope than they seem to: both divided by `uneven` (at cv 2 the slope is 4 where 20 services are the limit).
_SLOPE, _LOG_SLOPE_SD = 10.0, 1.0
_ROUNDS = 3  # of curve and dispersion
_REACH = 0.7  # farther from its centre a curve says nothing
# So many misses count as one, times (`uneven` / (1 - load))^2 with the load as the slope tells it: by simulation 1.4 to 1.7 for
# M/D/1, 2.3 to 3.2 for M/M/1; uneven work, cv 1.5 to 3: 1.2 to 1.9 hyperexponential, 1.4 to 3.0 lognormal (4.4 at P99).
_QUEUE = 2.4
_MIN_SECONDS_SHARE = 0.1  # of the longest near probe: one that broke off sooner was chosen for its bad luck

IntArray = npt.NDArray[np.int_]


@dataclass(frozen=True, slots=True)
class Curve:
    """`rate_rps` where attainment meets the target, its 95 % interval, and `slope` = d log-odds of a miss / d log rate."""

    rate_rps: float
    low_rps: float
    high_rps: float
    slope: float
    batches_with_misses: int


def near(probes: Sequence[ProbeResult], centre_rps: float, reach: float = NEAR) -> list[ProbeResult]:
    """Probes that say something about the curve around a rate: none whose queue grew, it has no steady attainment."""
    around = [
        p
        for p in probes
        if p.verdict != "invalid"
        and p.stopped != "queue growing"
        and p.scheduled_rate_rps is not None
        and abs(math.log(p.scheduled_rate_rps / centre_rps)) <= reach
    ]
    return [p for p in around if p.seconds >= _MIN_SECONDS_SHARE * max(other.seconds for other in around)]


def fit(probes: Sequence[ProbeResult], attainment: float, centre_rps: float) -> Curve | None:
    """The curve through the probes near `centre_rps`, and again around where it met the target; near is wider for a flat curve.

    None where fewer than two probes are near, no batch holds a miss, the target is far from them, or it is 100 %, which no
    finite odds meet.
    """
    reach = NEAR
    for _ in range(4):
        curve = _fit_around(near(probes, centre_rps, reach), attainment, centre_rps)
        if curve is None:
            return None
        wider = min(max(NEAR, _NEAR_LOG_ODDS / curve.slope), _REACH)
        if abs(math.log(curve.rate_rps / centre_rps)) < 1e-3 and wider < 1.05 * reach:
            return curve
        centre_rps, reach = curve.rate_rps, max(reach, wider)
    return curve


def uneven(probes: Sequence[ProbeResult]) -> float:
    """`unevenness` of the probes' mean cv^2, weighted by their requests."""
    known = [(p.work_cv2, p.offered) for p in probes if p.work_cv2 is not None and p.offered]
    return unevenness(sum(cv2 * n for cv2, n in known) / sum(n for _, n in known) if known else None)


@dataclass(frozen=True, slots=True)
class _Rows:
    """One row a batch: log(rate / centre), requests, misses, and which probe it is of."""

    x: FloatArray
    offered: FloatArray
    misses: FloatArray
    probe: IntArray
    uneven: float

    @property
    def missing(self) -> int:
        return int((self.misses > 0).sum())

    @property
    def probes(self) -> int:
        return int(self.probe.max()) + 1

    @property
    def prior_mean(self) -> FloatArray:
        return np.array([0.0, math.log(_SLOPE / self.uneven)])

    @property
    def prior(self) -> FloatArray:
        """Its information."""
        return np.diag([0.0, (self.uneven / _LOG_SLOPE_SD) ** 2])


def _rows(probes: Sequence[ProbeResult], centre_rps: float) -> _Rows:
    of = [
        (math.log((p.scheduled_rate_rps or p.rate_rps) / centre_rps), offered, offered - good, k)
        for k, p in enumerate(probes)
        for offered, good in p.batches
    ]
    x, offered, misses, probe = np.array(of, np.float64).reshape(-1, 4).T
    return _Rows(x, offered, misses, probe.astype(np.int_), uneven(probes))


def _fit_around(probes: Sequence[ProbeResult], attainment: float, centre_rps: float) -> Curve | None:
    rows = _rows(probes, centre_rps)
    if attainment >= 1 or len(probes) < 2 or not rows.missing:
        return None
    solution = _settled(rows)
    if solution is None:
        return None
    theta, information, dispersion = solution
    slope = math.exp(theta[1])
    at = (math.log((1 - attainment) / attainment) - float(theta[0])) / slope
    if abs(at) > _REACH:
        return None
    gradient = np.array([-1 / slope, -at])
    half = _queue_half_width(rows, theta, attainment)
    variance = 0.0
    for covariance, freedom in _covariances(rows, theta, information, dispersion):
        own = float(gradient @ covariance @ gradient)
        half = max(half, t_above(1 - 0.975, max(3, freedom)) * math.sqrt(own))
        variance = max(variance, own)
    half = min(half, _REACH)
    # misses come in rare clusters: their log is below the log of their mean by half its variance (second order, so that it
    # says nothing about a variance above 1)
    skew = min(variance * slope**2, 1.0) / (2 * slope)
    rate = centre_rps * math.exp(at - skew)
    return Curve(rate, rate * math.exp(-half), rate * math.exp(half), slope, rows.missing)


def _settled(rows: _Rows) -> tuple[FloatArray, FloatArray, float] | None:
    """Curve, information and Pearson's dispersion: misses that cluster tell less, so that the prior weighs more."""
    dispersion = 1.0
    for _ in range(_ROUNDS):
        solution = _newton(rows, dispersion)
        if solution is None:
            return None
        theta, information = solution
        _, p = _design(theta, rows.x)
        squares = (rows.misses - rows.offered * p) ** 2 / np.maximum(rows.offered * p * (1 - p), 1e-12)
        dispersion = max(1.0, float(squares.sum()) / max(1, len(rows.x) - 2))
    return theta, information, dispersion


def _newton(rows: _Rows, dispersion: float) -> tuple[FloatArray, FloatArray] | None:
    """Penalised maximum quasi-likelihood of (a, log b) by Fisher scoring, and its information; None where it does not settle."""
    missed = rows.misses.sum()
    theta = np.array([math.log((missed + 0.5) / (rows.offered.sum() - missed + 0.5)), rows.prior_mean[1]])
    for _ in range(200):
        design, p = _design(theta, rows.x)
        score = design.T @ (rows.misses - rows.offered * p) / dispersion - rows.prior @ (theta - rows.prior_mean)
        information = (design * (rows.offered * p * (1 - p) / dispersion)[:, None]).T @ design + rows.prior
        if np.linalg.det(information) < 1e-9:  # all shares went to 0 or 1, whose logarithm nothing holds
            return None
        step = np.clip(np.linalg.solve(information, score), -0.5, 0.5)
        theta = theta + step
        if np.abs(step).max() < 1e-8:
            return theta, information
    return None


def _covariances(
    rows: _Rows, theta: FloatArray, information: FloatArray, dispersion: float
) -> list[tuple[FloatArray, int]]:
    """Covariances of (a, log b), each with the degrees of freedom that it is known with; any may come out too small by luck.

    The information's, and the sandwich over batches, with the batches that hold misses; the sandwich over probes, whose batches
    share a queue and a drawn plan, with the probes.
    """
    design, p = _design(theta, rows.x)
    residual = (rows.misses - rows.offered * p) / dispersion
    n, bread = len(rows.x), np.linalg.inv(information)
    by_batch = (design * (residual**2)[:, None]).T @ design * n / max(1, n - 2)
    sums = np.zeros((rows.probes, 2))
    np.add.at(sums, rows.probe, design * residual[:, None])
    by_probe = sums.T @ sums * rows.probes / max(1, rows.probes - 2)
    return [
        (bread, rows.missing - 1),
        (bread @ (by_batch + rows.prior) @ bread, rows.missing - 1),
        (bread @ (by_probe + rows.prior) @ bread, rows.probes - 2),
    ]


def _queue_half_width(rows: _Rows, theta: FloatArray, attainment: float) -> float:
    """Half-width that Poisson arrivals alone bring about, however little the misses seen happened to cluster.

    In a queue P(wait > x) falls as exp(-(1 - load) x / ..), so the slope b of the log-odds is load L / (1 - load) with L = log(1 /
    share of misses): 1 / (1 - load) = 1 + (b - 1) / L. A queue forgets in 1 / (1 - load)^2 services, and so many misses count as one:
    `_QUEUE` / (1 - load)^2. Uneven work lengthens that by (1 + cv^2) / 2, and since its long requests miss at any load the slope tells
    too low a load: by simulation the square. Over the misses expected at the target, and on the scale of the rate, 1 / b.
    """
    slope = math.exp(theta[1])
    _, p = _design(theta, rows.x)
    expected = float((rows.offered * np.minimum(p, 1 - attainment)).sum())
    busy = 1 + max(0.0, slope - 1) / -math.log(1 - attainment)
    return 1.96 * math.sqrt(_QUEUE / expected) * rows.uneven * busy / slope


def _design(theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Derivatives of the log-odds by a and log b, and the share of misses."""
    from scipy import special  # a quarter of what `harness run` imports, and only searches come here

    rise = math.exp(theta[1]) * x
    return np.column_stack([np.ones_like(x), rise]), special.expit(theta[0] + rise)
