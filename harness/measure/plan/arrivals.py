"""When each request of an open loop is sent, in whole nanoseconds from the start, one central draw; and how bursty such times are.

Arrivals of varying rate are a Poisson process in operational time (mean 1 a unit) whose clock is turned by the integral
of the rate, so that one stream of exponentials serves them all and only basic arithmetic is done on it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from harness.base import bounds
from harness.base.documents import load_yaml
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.streams import F64, I64, Purpose, interpolate, neg_log, raw, uniform

MAX_REQUESTS = bounds.MOST_REQUESTS
FORMS = (
    "poisson, constant, gamma:SHAPE, onoff:ON_S:OFF_S[:OFF_SHARE], diurnal:NAME[:DAY_S], ramp[:FROM-TO], step:A,B,..,"
    " trace[:SPEEDUP], batch, preset"
)
_NUMBER = r"(\d+(?:\.\d+)?)"
_GAMMA_POINTS = 4_000
_GAMMA_LEAST = 1e-12  # of a mean gap: shorter ones are 0 ns
_WINDOWS_S = (1, 10, 60)
_LEAST_WINDOWS = 10
_MOST_WINDOWS = 20_000_000
_UNIT = 1e9  # operational time is counted in billionths, as whole numbers: their sum is exact


@dataclass(frozen=True, slots=True)
class Process:
    """An arrival process: `numbers` are the parameters of its word, `shape` the relative rates of equal pieces."""

    kind: str
    numbers: tuple[float, ...] = ()
    shape: tuple[float, ...] = ()
    piece_s: float | None = None  # None: the pieces share the run among them


@cache
def demand_shapes() -> dict[str, Any]:
    """workloads/demand/shapes.yaml: name -> 24 hourly rates relative to their mean, with the source."""
    return dict(load_yaml(data_dir("workloads") / "demand" / "shapes.yaml"))


def parse(text: str) -> Process:
    """The words of FORMS, except `preset`. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    if bad := [n for n in re.findall(_NUMBER, rest) if float(n) and not 1e-6 <= float(n) <= 1e9]:
        raise ConfigError("arrivals out of range", f"{text:.80}: {bad[0]:.20}", "a number there is 0.000001 to 1e9")
    match kind:
        case "poisson" | "constant" | "batch" if not rest:
            return Process(kind)
        case "trace" if not rest or re.fullmatch(_NUMBER, rest):
            process = Process(kind, (float(rest or 1),))
        case "gamma" if re.fullmatch(_NUMBER, rest):
            process = Process(kind, (float(rest),))
            if not 0.005 <= process.numbers[0] <= 1000:
                raise ConfigError(
                    "gamma shape out of range", text, "0.005 to 1000; the CV of the gaps is 1 / sqrt(SHAPE)"
                )
        case "onoff" if m := re.fullmatch(rf"{_NUMBER}:{_NUMBER}(?::{_NUMBER})?", rest):
            process = Process(kind, (float(m[1]), float(m[2]), float(m[3] or 0)))
            if not (process.numbers[0] > 0 and process.numbers[1] > 0 and process.numbers[2] <= 1):
                raise ConfigError("on/off times out of range", text, "ON_S and OFF_S above 0, OFF_SHARE from 0 to 1")
            return process
        case "diurnal" if m := re.fullmatch(rf"([a-z0-9/-]+)(?::{_NUMBER})?", rest):
            shapes = demand_shapes()["shapes"]
            if m[1] not in shapes:
                raise ConfigError("unknown diurnal shape", m[1], f"shapes: {', '.join(shapes)}")
            day_s = float(m[2] or 86_400)
            process = Process("rates", (day_s,), tuple(shapes[m[1]]), day_s / 24)
        case "ramp" if m := re.fullmatch(rf"(?:{_NUMBER}-{_NUMBER})?", rest):
            process = Process(kind, (float(m[1] or 0), float(m[2] or 2)))
            return _not_all_zero(process, process.numbers, text)
        case "step" if re.fullmatch(rf"{_NUMBER}(,{_NUMBER})*", rest):
            steps = tuple(map(float, rest.split(",")))
            return _not_all_zero(Process("rates", (), steps), steps, text)
        case _:
            raise ConfigError("unknown arrivals", text, f"use {FORMS}")
    if not all(0 < number < math.inf for number in process.numbers):
        raise ConfigError("arrivals out of range", text, "its number must be above 0")
    return process


def _not_all_zero(process: Process, rates: tuple[float, ...], text: str) -> Process:
    if not any(rates):
        raise ConfigError("arrivals without any rate", text, "at least one of the relative rates must be above 0")
    return process


def arrivals(kind: str | Process, rate_rps: float, seed: int, requests: int | None, duration_s: float | None) -> I64:
    """Offsets in ns, not decreasing: the first `requests` of them, or all that are < duration_s. Raises ConfigError.

    A ramp, and steps, take the duration as theirs (or requests / rate), with `rate_rps` their mean; what runs over it
    begins them again. Diurnal rates repeat every day.
    """
    process = parse(kind) if isinstance(kind, str) else kind
    if process.kind == "batch":
        if requests is None:
            raise ConfigError("a batch has no duration", f"{duration_s:g} s", "all is sent at once: give requests")
        return np.zeros(requests, np.int64)
    expected = requests if requests is not None else rate_rps * (duration_s or 0)
    if expected > MAX_REQUESTS:
        raise ConfigError(
            "plan too large", f"{expected:.0f} requests", f"at most {MAX_REQUESTS:,}: lower the rate or the duration"
        )
    span_s = duration_s if duration_s is not None else expected / rate_rps
    if span_s > bounds.YEAR_S:
        what = f"{expected:,.0f} requests at {rate_rps:g}/s"
        raise ConfigError("the plan would take more than a year", what, "raise the rate, or lower the requests")
    # 8 standard deviations above the mean: a shorter draw than needed is tried again with more of the same stream
    count = requests if requests is not None else math.ceil(expected + 8 * math.sqrt(expected)) + 8
    while True:
        offsets = _first(process, rate_rps, count, seed, span_s)
        if duration_s is None:
            return offsets
        if offsets[-1] >= duration_s * 1e9:
            kept = offsets[offsets < duration_s * 1e9]
            if not len(kept):
                what = f"rate {rate_rps:g}/s for {duration_s:g} s, seed {seed}"
                raise ConfigError("no request would be sent", what, "raise the rate or the duration, or use requests")
            return kept
        count *= 2


def _first(process: Process, rate_rps: float, count: int, seed: int, span_s: float) -> I64:
    match process.kind:
        case "constant":  # request i at i / rate, to the nearest nanosecond: no gap is added to another
            return np.rint(np.arange(count, dtype=np.float64) * 1e9 / rate_rps).astype(np.int64)
        case "poisson":  # the first gap comes before the first request
            gaps = neg_log(uniform(raw(seed, Purpose.ARRIVALS, count))) * (1e9 / rate_rps)
            return np.cumsum(np.rint(gaps).astype(np.int64))
        case "gamma":
            levels, values = gamma_quantiles(process.numbers[0])
            gaps = interpolate(uniform(raw(seed, Purpose.ARRIVALS, count)), levels, values) * (1e9 / rate_rps)
            return np.cumsum(np.rint(gaps).astype(np.int64))
        case "onoff":
            return _on_off(process, rate_rps, count, seed)
        case "ramp":
            return _ramp(process, rate_rps, _operational(count, seed), span_s)
        case "rates":
            shape = np.array(process.shape, np.float64)
            piece_s = process.piece_s if process.piece_s is not None else span_s / len(shape)
            rates = shape * (rate_rps * len(shape) / float(shape.sum()))
            return _turned(_operational(count, seed), np.full(len(shape), piece_s), rates)
        case _:
            raise ConfigError("arrivals need a trace", process.kind, "give a trace file as the workload")


def _operational(count: int, seed: int) -> F64:
    """Times of a Poisson process of rate 1."""
    gaps = neg_log(uniform(raw(seed, Purpose.ARRIVALS, count)))
    return np.cumsum(np.rint(gaps * _UNIT).astype(np.int64)).astype(np.float64) / _UNIT


def _turned(operational: F64, pieces_s: F64, rates: F64) -> I64:
    """Operational times -> ns, for pieces of constant rate that repeat for ever."""
    edges_s = np.concatenate(([0.0], np.cumsum(pieces_s)))
    mass = np.concatenate(([0.0], np.cumsum(pieces_s * rates)))
    cycle = np.floor(operational / mass[-1])
    left = operational - cycle * mass[-1]
    positive = np.flatnonzero(rates > 0)
    piece = positive[np.clip(np.searchsorted(mass[positive], left, side="right") - 1, 0, len(positive) - 1)]
    seconds = cycle * edges_s[-1] + edges_s[piece] + (left - mass[piece]) / rates[piece]
    return np.maximum.accumulate(np.rint(seconds * 1e9).astype(np.int64))


def _ramp(process: Process, rate_rps: float, operational: F64, span_s: float) -> I64:
    """Rate a + (b - a) t / span: its integral is inverted by the quadratic formula in the form without cancellation."""
    scale = 2 * rate_rps / (process.numbers[0] + process.numbers[1])
    a, b = process.numbers[0] * scale, process.numbers[1] * scale
    mass = rate_rps * span_s
    cycle = np.floor(operational / mass)
    left = operational - cycle * mass
    root = np.sqrt(np.maximum(a * a + 2 * (b - a) / span_s * left, 0))
    seconds = cycle * span_s + 2 * left / np.maximum(a + root, 1e-300)
    return np.maximum.accumulate(np.rint(seconds * 1e9).astype(np.int64))


def _on_off(process: Process, rate_rps: float, count: int, seed: int) -> I64:
    """Two-state Markov-modulated Poisson process: exponential times on and off, begun in its stationary state. The off
    state has OFF_SHARE of the on state's rate, and both are scaled to the mean rate."""
    on_s, off_s, share = process.numbers
    on_rate = rate_rps * (on_s + off_s) / (on_s + share * off_s)
    operational = _operational(count, seed)
    sojourns = max(64, math.ceil(4 * operational[-1] / (rate_rps * (on_s + off_s))))
    if sojourns > MAX_REQUESTS:
        advice = "lengthen ON_S and OFF_S: between two requests there are thousands of bursts"
        raise ConfigError("too many bursts", f"onoff:{on_s:g}:{off_s:g} at {rate_rps:g} requests/s", advice)
    while True:
        words = uniform(raw(seed, Purpose.ARRIVAL_STATES, sojourns + 1))
        begins_on = words[0] < on_s / (on_s + off_s)
        is_on = (np.arange(sojourns) % 2 == 0) == begins_on
        pieces_s = neg_log(words[1:]) * np.where(is_on, on_s, off_s)
        rates = np.where(is_on, on_rate, on_rate * share)
        if float((pieces_s * rates).sum()) > operational[-1]:
            return _turned(operational, pieces_s, rates)
        sojourns *= 2


# ---------------------------------------------------------------- gamma gaps


def _cumulative(shape: float, x: float) -> float:
    """Regularised lower incomplete gamma function P(shape, x): its series below shape + 1, else the continued fraction of
    the rest by Lentz (Press et al., Numerical Recipes, 6.2)."""
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        n = shape
        while term > total * 1e-17:
            n += 1
            term *= x / n
            total += term
        return front * total
    b = x + 1 - shape
    c, d = 1e300, 1 / b
    h = d
    for i in range(1, 10_000):
        a = -i * (i - shape)
        b += 2
        d = 1 / (a * d + b)
        c = b + a / c
        h *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return 1 - front * h


@cache
def gamma_quantiles(shape: float) -> tuple[F64, F64]:
    """Quantiles of the gamma distribution of mean 1: (levels, values) of a table that `interpolate` inverts, in geometric steps from
    1e-12 of the mean to a level of 1 - 1e-12, rounded so that no C library's last bit shows, scaled so that its own mean is 1."""
    top = shape + 12 * math.sqrt(shape) + 40
    low = _GAMMA_LEAST * shape
    points = [low * (top / low) ** (i / _GAMMA_POINTS) for i in range(_GAMMA_POINTS + 1)]
    if shape > 2:  # all of the mass lies within a few standard deviations: linear steps there
        low = max(low, shape - 9 * math.sqrt(shape))
        points = [low + (top - low) * i / _GAMMA_POINTS for i in range(_GAMMA_POINTS + 1)]
    levels, values = [0.0], [0.0 if shape <= 2 else points[0]]
    for x in points:
        level = round(_cumulative(shape, x), 12)
        if levels[-1] < level < 1:
            levels.append(level)
            values.append(x)
    levels.append(1.0)
    values.append(top)
    table = np.array(levels), np.array(values)
    mean = float((np.diff(table[0]) * (table[1][1:] + table[1][:-1])).sum()) / 2
    return table[0], np.array([float(f"{v / mean:.9g}") for v in values])


# ---------------------------------------------------------------- how bursty


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
            for window, value in zip(_WINDOWS_S, spread, strict=True)
        ]
        return ", ".join(parts)


def burstiness(times_ns: I64) -> Burstiness:
    """Of times in ns, not decreasing. Only whole windows count; fewer than 10 of them give None."""
    span_ns = int(times_ns[-1] - times_ns[0]) if len(times_ns) > 1 else 0
    if span_ns <= 0:
        return Burstiness(None, None, None, None, None)
    gaps = np.diff(times_ns).astype(np.float64)
    spread: list[float | None] = []
    for window_s in _WINDOWS_S:
        windows = span_ns // (window_s * 1_000_000_000)
        if not _LEAST_WINDOWS <= windows <= _MOST_WINDOWS:
            spread.append(None)
            continue
        index = (times_ns - times_ns[0]) // (window_s * 1_000_000_000)
        counts = np.bincount(index[index < windows], minlength=windows)
        spread.append(float(counts.var() / counts.mean()))
    cv = float(gaps.std() / gaps.mean())
    return Burstiness((len(times_ns) - 1) * 1e9 / span_ns, cv, spread[0], spread[1], spread[2])
