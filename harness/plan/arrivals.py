"""When each request of an open loop is sent: offsets from the start in whole nanoseconds, one central draw."""

from __future__ import annotations

import math

import numpy as np

from harness.errors import ConfigError
from harness.plan.streams import I64, Purpose, neg_log, raw, uniform

MAX_REQUESTS = 10_000_000


def _constant(rate_rps: float, count: int) -> I64:
    """Request i at i / rate, to the nearest nanosecond: no drift, since no gap is added to another."""
    return np.rint(np.arange(count, dtype=np.float64) * 1e9 / rate_rps).astype(np.int64)


def _poisson(rate_rps: float, count: int, seed: int) -> I64:
    """Sums of independent exponential gaps of mean 1 / rate. The first gap comes before the first request."""
    gaps = neg_log(uniform(raw(seed, Purpose.ARRIVALS, count))) * (1e9 / rate_rps)
    return np.cumsum(np.rint(gaps).astype(np.int64))


def arrivals(kind: str, rate_rps: float, seed: int, requests: int | None, duration_s: float | None) -> I64:
    """Offsets in ns, not decreasing: the first `requests` of them, or all that are < duration_s. Raises ConfigError."""
    expected = requests if requests is not None else rate_rps * (duration_s or 0)
    if expected > MAX_REQUESTS:
        raise ConfigError(
            "plan too large", f"{expected:.0f} requests", f"at most {MAX_REQUESTS:,}: lower the rate or the duration"
        )
    # 8 standard deviations above the mean: a shorter draw than needed is tried again with more of the same stream
    count = requests if requests is not None else math.ceil(expected + 8 * math.sqrt(expected)) + 8
    while True:
        match kind:
            case "constant":
                offsets = _constant(rate_rps, count)
            case "poisson":
                offsets = _poisson(rate_rps, count, seed)
            case _:
                raise ConfigError("unknown arrivals", kind, "use constant or poisson")
        if duration_s is None:
            return offsets
        if offsets[-1] >= duration_s * 1e9:
            kept = offsets[offsets < duration_s * 1e9]
            if not len(kept):
                what = f"rate {rate_rps:g}/s for {duration_s:g} s, seed {seed}"
                raise ConfigError("no request would be sent", what, "raise the rate or the duration, or use requests")
            return kept
        count *= 2
