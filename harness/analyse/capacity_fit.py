"""All probes of a capacity search as one curve: log-odds of a miss = a + b log(rate), fitted around the target.

Near capacity the tail of a queue's wait is exponential in (1 - load), so that the log-odds of a miss are close to straight
over some 20 % of rate. The abscissa is the rate as drawn, not as asked for: a plan that came out 1 % denser was 1 % more load.
The interval is the delta method's, with the sandwich (cluster-robust) covariance over the probes' batches, and Student's t with
as many degrees of freedom as batches hold misses, and never narrower than the binomial one times the dispersion. A weak prior keeps the slope positive where the probes say little about it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import t as student

from harness.records import ProbeResult

NEAR = 0.2  # |log(rate / capacity)| of the probes that take part
_SLOPE, _LOG_SLOPE_SD = (
    17.0,
    0.8,
)  # the prior: odds of a miss rise 17 % with 1 % of rate (M/D/1 at p99: 7 to 37), a factor of 5 either way
_REACH = 0.5  # farther from its centre a curve says nothing
_MIN_SECONDS_SHARE = 0.1  # of the longest near probe: one that broke off sooner was chosen for its bad luck

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """`rate_rps` where attainment meets the target, its 95 % interval, and `slope` = d log-odds of a miss / d log rate."""

    rate_rps: float
    low_rps: float
    high_rps: float
    slope: float
    batches_with_misses: int

    @property
    def half_width(self) -> float:
        """Half of log(high / low): about the half-width as a share of the rate."""
        return math.log(self.high_rps / self.low_rps) / 2


def near(probes: Sequence[ProbeResult], centre_rps: float) -> list[ProbeResult]:
    """Probes that say something about the curve around a rate: none whose queue grew, it has no steady attainment."""
    found = [
        p
        for p in probes
        if p.verdict != "invalid"
        and p.stopped != "queue growing"
        and p.scheduled_rate_rps is not None
        and abs(math.log(p.scheduled_rate_rps / centre_rps)) <= NEAR
    ]
    longest_s = max((p.seconds for p in found), default=0.0)
    return [p for p in found if p.seconds >= _MIN_SECONDS_SHARE * longest_s]


def fit(probes: Sequence[ProbeResult], attainment: float, centre_rps: float) -> Curve | None:
    """The curve through the probes near `centre_rps`, and again around where it met the target.

    None where fewer than two probes are near, no batch holds a miss, the target is far from them, or it is 100 %, which no
    finite odds meet.
    """
    for _ in range(3):
        curve = _fit_around(near(probes, centre_rps), attainment, centre_rps)
        if curve is None or abs(math.log(curve.rate_rps / centre_rps)) < 1e-3:
            return curve
        centre_rps = curve.rate_rps
    return curve


def _fit_around(probes: Sequence[ProbeResult], attainment: float, centre_rps: float) -> Curve | None:
    rows = [
        (math.log((p.scheduled_rate_rps or p.rate_rps) / centre_rps), offered, offered - good)
        for p in probes
        for offered, good in p.batches
    ]
    if attainment >= 1 or len(probes) < 2 or not any(misses for _, _, misses in rows):
        return None
    x, offered, misses = np.array(rows, np.float64).T
    found = _newton(x, offered, misses)
    if found is None:
        return None
    theta, covariances = found
    slope = math.exp(theta[1])
    at = (math.log((1 - attainment) / attainment) - float(theta[0])) / slope
    if abs(at) > _REACH:
        return None
    missing = int((misses > 0).sum())
    gradient = np.array([-1 / slope, -at])
    variance = max(float(gradient @ one @ gradient) for one in covariances)
    half = min(float(student.ppf(0.975, max(3, missing - 1))) * math.sqrt(variance), _REACH)
    # misses come in rare clusters: their log is below the log of their mean by half its variance (second order, so that it
    # says nothing about a variance above 1)
    skew = min(variance * slope**2, 1.0) / (2 * slope)
    rate = centre_rps * math.exp(at - skew)
    return Curve(rate, rate * math.exp(-half), rate * math.exp(half), slope, missing)


def _newton(
    x: FloatArray, offered: FloatArray, misses: FloatArray
) -> tuple[FloatArray, tuple[FloatArray, FloatArray]] | None:
    """Penalised maximum likelihood of (a, log b) by Fisher scoring, and two covariances of it: the sandwich, and the binomial
    one times Pearson's dispersion. With few clusters of misses either may come out too small."""
    prior = np.diag([0.0, _LOG_SLOPE_SD**-2])
    start = math.log(_SLOPE)
    theta = np.array([math.log((misses.sum() + 0.5) / (offered.sum() - misses.sum() + 0.5)), start])
    for _ in range(200):
        design, p = _design(theta, x)
        score = design.T @ (misses - offered * p) - prior @ (theta - [0.0, start])
        information = (design * (offered * p * (1 - p))[:, None]).T @ design + prior
        step = np.clip(np.linalg.solve(information, score), -0.5, 0.5)
        theta = theta + step
        if np.abs(step).max() < 1e-8:
            break
    else:
        return None
    design, p = _design(theta, x)
    freedom = max(1, len(x) - 2)
    residual = misses - offered * p
    meat = (design * (residual**2)[:, None]).T @ design * len(x) / freedom + prior
    dispersion = max(1.0, float((residual**2 / np.maximum(offered * p * (1 - p), 1e-12)).sum()) / freedom)
    bread = np.linalg.inv(information)
    return theta, (bread @ meat @ bread, bread @ ((information - prior) * dispersion + prior) @ bread)


def _design(theta: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Derivatives of the log-odds by a and log b, and the share of misses."""
    rise = math.exp(theta[1]) * x
    return np.column_stack([np.ones_like(x), rise]), 1 / (1 + np.exp(-np.clip(theta[0] + rise, -40, 40)))
