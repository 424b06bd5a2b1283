"""How bursty a sequence of send times is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.measure.plan.streams import I64

WINDOWS_S = (1, 10, 60)
_LEAST_WINDOWS = 10
_MOST_WINDOWS = 20_000_000


@dataclass(frozen=True, slots=True)
class Burstiness:
    """None where there are too few requests or windows to say. A Poisson process has 1 everywhere."""

    mean_rate_rps: float | None  # (requests - 1) / (last - first)
    gap_cv: float | None  # standard deviation / mean of the gaps
    dispersion_1s: float | None  # variance / mean of the requests in a window of 1 s
    dispersion_10s: float | None
    dispersion_60s: float | None

    def words(self) -> str:
        parts = [
            "mean rate -" if self.mean_rate_rps is None else f"mean rate {self.mean_rate_rps:.4g}/s",
            "CV of gaps -" if self.gap_cv is None else f"CV of gaps {self.gap_cv:.2f}",
        ]
        spread = (self.dispersion_1s, self.dispersion_10s, self.dispersion_60s)
        parts += [
            f"index of dispersion at {window} s {'-' if value is None else f'{value:.2f}'}"
            for window, value in zip(WINDOWS_S, spread, strict=True)
        ]
        return ", ".join(parts)


def burstiness(times_ns: I64) -> Burstiness:
    """Of times in ns, not decreasing. Only whole windows count; fewer than 10 of them give None."""
    span_ns = int(times_ns[-1] - times_ns[0]) if len(times_ns) > 1 else 0
    if span_ns <= 0:
        return Burstiness(None, None, None, None, None)
    gaps = np.diff(times_ns).astype(np.float64)
    spread: list[float | None] = []
    for window_s in WINDOWS_S:
        windows = span_ns // (window_s * 1_000_000_000)
        if not _LEAST_WINDOWS <= windows <= _MOST_WINDOWS:
            spread.append(None)
            continue
        index = (times_ns - times_ns[0]) // (window_s * 1_000_000_000)
        counts = np.bincount(index[index < windows], minlength=windows)
        spread.append(float(counts.var() / counts.mean()))
    cv = float(gaps.std() / gaps.mean())
    return Burstiness((len(times_ns) - 1) * 1e9 / span_ns, cv, spread[0], spread[1], spread[2])
