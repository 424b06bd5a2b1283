"""The curve of a capacity search against the same estimate by sums and scipy's root finder; what takes part in it, and what gives none."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize, root
from scipy.special import expit
from scipy.stats import t as student

from harness.judge.capacity.fit import Curve, fit, near
from harness.records import ProbeResult


def probe(rate, batches, *, seconds=600.0, drawn=None, cv2=None, **changes):
    """A probe of these (offered, good); `drawn`: the rate of its plan, where it is another."""
    offered, good = (sum(each) for each in zip(*batches, strict=True))
    made = ProbeResult(1, rate, drawn or rate, seconds, offered, good, tuple(batches), good / offered, 0.0, 1.0, None, None, None,
                       "undecided", "longest probe", None, cv2)  # fmt: skip
    return replace(made, **changes)


def estimated(probes, attainment):
    """(rate, half-width, slope, batches with misses) as fit describes them, and its four half-widths."""
    rows = [
        (math.log(p.scheduled_rate_rps / 10), n, n - good, k) for k, p in enumerate(probes) for n, good in p.batches
    ]
    x, n, missed = (np.array(column, float) for column in list(zip(*rows, strict=True))[:3])
    of = np.array([row[3] for row in rows])
    known = [(p.work_cv2, p.offered) for p in probes if p.work_cv2 is not None]
    cv2 = sum(c * m for c, m in known) / sum(m for _, m in known) if known else 1.0
    uneven = max(1.0, (1 + cv2) / 2)

    def share(theta):
        return expit(theta[0] + math.exp(theta[1]) * x)

    def loss(theta, dispersion):
        odds = theta[0] + math.exp(theta[1]) * x
        prior = uneven**2 * (theta[1] - math.log(10 / uneven)) ** 2 / 2
        return (n * np.logaddexp(0, odds) - missed * odds).sum() / dispersion + prior

    def slopes(theta, dispersion):
        off = (n * share(theta) - missed) / dispersion
        prior = uneven**2 * (theta[1] - math.log(10 / uneven))
        return [off.sum(), (off * math.exp(theta[1]) * x).sum() + prior]

    theta, dispersion = np.array([math.log(missed.sum() / n.sum()), math.log(10 / uneven)]), 1.0
    for _ in range(3):
        used = dispersion
        theta = minimize(loss, theta, (used,), jac=slopes).x
        theta = root(slopes, theta, (used,), method="lm", tol=1e-14).x
        p = share(theta)
        dispersion = max(1.0, ((missed - n * p) ** 2 / (n * p * (1 - p))).sum() / max(1, len(x) - 2))
    slope, prior = math.exp(theta[1]), np.array([[0, 0], [0, uneven**2]])
    row = np.array([np.ones_like(x), slope * x])
    bread = np.linalg.inv(row @ np.diag(n * p * (1 - p) / used) @ row.T + prior)
    each = row * (missed - n * p) / dispersion
    by_batch = each @ each.T * len(x) / max(1, len(x) - 2)
    sums = np.array([each[:, of == k].sum(1) for k in range(len(probes))]).T
    by_probe = sums @ sums.T * len(probes) / max(1, len(probes) - 2)
    at = (math.log((1 - attainment) / attainment) - theta[0]) / slope
    gradient = np.array([1, at * slope]) / slope  # of the rate's logarithm, by a and by log b
    missing = int((missed > 0).sum())
    variances = [
        gradient @ c @ gradient for c in (bread, bread @ (by_batch + prior) @ bread, bread @ (by_probe + prior) @ bread)
    ]
    freedoms = (missing - 1, missing - 1, len(probes) - 2)
    halves = [student.ppf(0.975, max(3, f)) * math.sqrt(v) for v, f in zip(variances, freedoms, strict=True)]
    expected = (n * np.minimum(p, 1 - attainment)).sum()
    busy = 1 + max(0.0, slope - 1) / math.log(1 / (1 - attainment))
    halves.append(1.96 * math.sqrt(2.4 / expected) * uneven * busy / slope)
    skew = min(1.0, max(variances) * slope**2) / 2 / slope
    return 10 * math.exp(at - skew), min(0.7, max(halves)), slope, missing, halves


def drawn(seed, rates, *, size=400, batches=10, clusters=0.0, nights=0.0, slope=17.0, **kw):
    """Probes of a logistic server; `clusters`, `nights`: scatter of the log-odds between batches and between probes."""
    rng = np.random.default_rng(seed)
    found = []
    for k, rate in enumerate(rates):
        odds = math.log(0.05 / 0.95) + slope * math.log(rate / 10) + nights * rng.standard_normal()
        miss = 1 / (1 + np.exp(-(odds + clusters * rng.standard_normal(batches))))
        found.append(
            probe(
                rate,
                [(size + k, size + k - int(m)) for m in rng.binomial(size, miss)],
                drawn=rate * (1 + 0.002 * k),
                **kw,
            )
        )
    return found


def mixed(seed):
    """Probes of every size and scatter, over 30 % of rate."""
    rng = np.random.default_rng(seed)
    rates = sorted(rng.uniform(8.5, 11.5, rng.integers(3, 14)))
    kinds = [
        {"clusters": rng.choice([0, 2.5]), "slope": rng.choice([9, 20]), "size": int(rng.choice([60, 1000, 6000]))}
        for _ in rates
    ]
    return [drawn(seed * 20 + k, (rate,), **kind)[0] for k, (rate, kind) in enumerate(zip(rates, kinds, strict=True))]


CASES = {
    "of what the fit says": drawn(1, (9.2, 9.7, 10.1, 10.4), batches=8, size=20),
    "of clusters": drawn(2, (9.4, 9.8, 10.2), clusters=1.2, slope=20),
    "of what batches say": mixed(1),
    "of what probes say": drawn(3, (9.0, 9.5, 10.0, 10.5, 11.0), nights=0.9, size=2000),
    "of a queue": drawn(4, (9.3, 9.8, 10.3, 10.8), slope=9),
    "of uneven work": drawn(5, (9.3, 9.8, 10.3, 10.8), slope=9, cv2=4.0),
    "of work as uneven in one probe": [*drawn(6, (9.3, 9.8), cv2=7.0), *drawn(7, (10.2,), size=300)],
    "of three batches": [probe(9.9, [(4000, 3650), (4000, 3850)]), probe(10.3, [(4000, 3750)])],
    "of next to nothing": [probe(9.9, [(40, 40)] * 9 + [(40, 30)]), probe(10.3, [(40, 40)] * 9 + [(40, 38)])],
}


@pytest.mark.parametrize("name", CASES)
def test_the_curve_is_the_penalised_quasi_likelihoods(name):
    """Rate, slope, interval and batches with misses as sums and scipy give them."""
    rate, half, slope, missing, _ = estimated(CASES[name], 0.95)
    curve = fit(CASES[name], 0.95, 10.0)
    assert (curve.rate_rps, curve.slope) == pytest.approx((rate, slope), rel=1e-6)
    assert (curve.low_rps, curve.high_rps) == pytest.approx((rate * math.exp(-half), rate * math.exp(half)), rel=1e-6)
    assert math.log(curve.high_rps / curve.low_rps) / 2 == pytest.approx(half, rel=1e-6)
    assert curve.batches_with_misses == missing


def test_each_of_the_four_half_widths_is_the_widest_somewhere():
    """So that the test above is of all of them."""
    assert {int(np.argmax(estimated(probes, 0.95)[-1])) for probes in CASES.values()} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("slope", "inside", "outside"), [(6.0, 0.45, 0.56), (9.0, 0.3, 0.4), (3.0, 0.66, 0.78), (20.0, 0.19, 0.21)]
)
def test_a_flat_curve_is_fitted_over_more_of_the_rates(slope, inside, outside):
    """Probes within 3 of log-odds take part, within 20 % of rate at least and 70 % at most; those beyond do not, however good."""
    at = {0.97: 0.0, 1.0: 0.0, 1.03: 0.0, math.exp(-inside): 0.0, math.exp(-outside): 2.0}
    probes = []
    for factor, more in at.items():
        miss = 1 / (1 + math.exp(-(math.log(0.05 / 0.95) + slope * math.log(factor) + more)))
        probes.append(probe(10 * factor, [(100_000, 100_000 - round(100_000 * miss))] * 10))
    curve = fit(probes, 0.95, 10.0)
    assert curve.slope == pytest.approx(slope, rel=0.02)
    assert curve.rate_rps == pytest.approx(estimated(probes[:-1], 0.95)[0], rel=1e-9)


def test_a_curve_is_fitted_again_around_where_it_met_the_target():
    """Begun at 9/s, from where a probe at 11.5/s is too far: it takes part once the target is found near 10/s."""
    probes = drawn(8, (9.0, 9.7, 10.3, 11.5), size=3000)
    assert probes[-1] not in near(probes, 9.0)
    assert fit(probes, 0.95, 9.0).rate_rps == pytest.approx(estimated(probes, 0.95)[0], rel=1e-6)


def test_what_takes_part():
    """Rates as drawn within 20 % on either side; a tenth of the longest near probe's seconds; neither invalid, nor growing, nor unknown."""
    whole = [(100, 95)]
    edge = [probe(10 * math.exp(sign * 0.2 * (1 - 1e-12)), whole) for sign in (-1, 1)]
    short, drawn_near = probe(10, whole, seconds=60.0), probe(14, whole, drawn=10.1)
    others = [
        *(probe(10 * math.exp(sign * 0.2 * (1 + 1e-9)), whole, seconds=6000.0) for sign in (-1, 1)),
        probe(10, whole, seconds=59.9),
        probe(10, whole, drawn=14.0),
        probe(10, whole, verdict="invalid"),
        probe(10, whole, stopped="queue growing"),
        probe(10, whole, scheduled_rate_rps=None),
    ]
    taking = [*edge, short, drawn_near]
    assert near([*taking, *others], 10.0) == taking
    assert near(others[:1], 10.0, 0.3) == others[:1]
    assert near([], 10.0) == []


def test_what_gives_no_curve():
    """One probe, no miss at all, a target of 100 %, or one that the curve meets far from the probes."""
    two = [probe(9.9, [(100, 50)] * 10), probe(10.1, [(100, 48)] * 10)]
    assert fit(two[:1], 0.5, 10.0) is None
    assert fit([probe(9.9, [(100, 100)] * 10), probe(10.1, [(100, 100)] * 10)], 0.5, 10.0) is None
    assert fit(two, 1.0, 10.0) is None
    odds = fit(two, 0.5, 10.0).slope  # of 100 % of rate
    assert isinstance(fit(two, 0.8, 10.0), Curve)
    assert fit(two, float(expit(0.73 * odds)), 10.0) is None
