"""A growing queue against scipy's regressions of block means."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.judge.columns import measured
from harness.judge.window import growing
from harness.records import RequestRecord
from tests.judge.run_builder import frame, ns, request


def rate_by_hand(at, all_sent, within_s):
    """Others sent a second around each, counted one by one; before the first and after the last send there is no time."""
    first, last = min(all_sent), max(all_sent)
    found = []
    for t in at:
        since, until = max(first, t - within_s), min(last, t + within_s)
        found.append(sum(since < s <= until for s in all_sent) / (until - since))
    return np.array(found)


def growth_by_hand(at, wait, seconds, settling_s, one_rate):
    """(rise, mean, slope in percent) where the slope of block means is sure and, beside what bursts add, large enough; else None."""
    blocks = min(10, len(at) // 4, max(4, int(seconds / settling_s)))
    if blocks < 4:
        return None
    x, y = (np.array([part.mean() for part in np.array_split(v, blocks)]) for v in (at, wait))
    line = stats.linregress(x, y)
    if line.slope <= stats.t.isf(0.05, blocks - 2) * line.stderr:
        return None
    rate = np.array([part.mean() for part in np.array_split(rate_by_hand(at, at, y.mean()), blocks)])
    # Frisch and Waugh: what neither has to do with the other
    rate_alone, x_alone = (
        v - on.slope * w for v, w, on in ((rate, x, stats.linregress(x, rate)), (x, rate, stats.linregress(rate, x)))
    )
    slope = stats.linregress(x_alone, y).slope if stats.linregress(rate_alone, y).slope > 0 and one_rate else line.slope
    rise = slope * seconds
    if slope <= 0.02 and rise <= 0.1 * y.mean():
        return None
    return rise, y.mean(), 100 * slope


@pytest.mark.parametrize(
    ("each_s", "arrivals"), [(-0.1, "poisson"), (0.0, "gamma:0.5"), (0.3, "poisson"), (0.3, "ramp:0-2")]
)
@pytest.mark.parametrize("settling_s", [0.001, 6.0, 9.0, 30.0])
@pytest.mark.parametrize("count", [15, 16, 22, 40])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.05])
def test_growth_is_the_slope_of_block_means(settling_s, count, slope, each_s, arrivals):
    """As many blocks as settling times, 4 to 10, of 4 requests at least; rise, mean and slope as they are told, with what many at a time
    add to the wait or without, and where the busy are served sooner."""
    rng = np.random.default_rng(count)
    at = np.sort(rng.uniform(0.01, 40, count))
    wait = 1 + slope * at + 0.3 * rng.random(count) + each_s * rate_by_hand(at, at, 1.0)
    wait = np.round(wait, 9)
    rows = [request(k, 0.0, tokens=1) for k in range(count)]
    rows = [
        replace(
            r,
            scheduled_ns=ns(a),
            sent_ns=ns(a),
            due_ns=ns(a),
            first_token_ns=ns(a) + round(w * 1e9),
            last_token_ns=ns(a) + round(w * 1e9),
        )
        for r, a, w in zip(rows, at, wait, strict=True)
    ]
    said = growing(measured(frame(rows, RequestRecord)), ns(0), ns(40), round(settling_s * 1e9), arrivals)
    expected = growth_by_hand(at, wait, 40.0, settling_s, arrivals != "ramp:0-2")
    assert (said is None) == (expected is None)
    if said is not None:
        numbers = [float(word) for word in re.findall(r"(\d+\.?\d*)(?= s |%| s\))", said)[:3]]
        assert numbers[:2] == pytest.approx(expected[:2], rel=6e-3)
        assert numbers[2] == pytest.approx(expected[2], abs=0.006)  # said to the hundredth of a percent


def test_nothing_grows_in_no_time():
    """Sixteen requests sent at once, and no request at all; a settling time of 0 is as the shortest."""
    at_once = [replace(request(k, 1.0, tokens=1, ttft_s=0.1 * (k + 1))) for k in range(16)]
    assert growing(measured(frame(at_once, RequestRecord)), ns(0), ns(2), 1, "poisson") is None
    assert growing(measured(frame([], RequestRecord)), ns(0), ns(2), 1, "poisson") is None
    rising = measured(
        frame(
            [request(k, k + 1.0, tokens=1, ttft_s=0.1 + 0.2 * k, scheduled_s=k + 1.0) for k in range(40)], RequestRecord
        )
    )
    assert growing(rising, ns(0), ns(40), 0, "poisson") == growing(rising, ns(0), ns(40), 1, "poisson") is not None
