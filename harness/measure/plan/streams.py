"""Seeded streams of numbers that are the same on every machine, Python and NumPy.

Only the raw output of PCG64 is taken from NumPy, which guarantees it; everything above is IEEE basic arithmetic (no log or
exp of a C library or SIMD kernel, whose last bit differs between machines). Each purpose has its own child of the
seed, so that drawing more of one never shifts another.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

_LN2 = 0.6931471805599453
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class Purpose(IntEnum):
    """Spawn keys of the seed's children. Never renumber: every plan made so far depends on it."""

    LENGTHS = 0
    ARRIVALS = 1
    PROMPTS = 2
    WARMUP_LENGTHS = 3
    REDRAWS = 4
    WARMUP_REDRAWS = 5
    ARRIVAL_STATES = 6
    TRACE_SAMPLE = 7
    TRACE_TICKS = 8
    SHARED = 9
    SESSIONS = 10
    SYSTEM_PROMPT = 11
    WARMUP_TRACE = 12


def raw(seed: int, purpose: Purpose, count: int) -> U64:
    """The first `count` 64-bit words of the purpose's stream."""
    sequence = np.random.SeedSequence(seed, spawn_key=(int(purpose),))
    return np.random.PCG64(sequence).random_raw(count)


def key(seed: int, purpose: Purpose) -> int:
    """A 64-bit key for counter-based numbers (`mix64`)."""
    return int(np.random.SeedSequence(seed, spawn_key=(int(purpose),)).generate_state(1, np.uint64)[0])


def uniform(words: U64) -> F64:
    """Words -> floats in [0, 1), 53 bits."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix64(words: U64) -> U64:
    """splitmix64's output function (Steele, Lea, Flood, OOPSLA 2014): a bijection on 64 bits, element by element."""
    z = words.copy()
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def at(start: U64, counter: U64) -> U64:
    """Element `counter` of the splitmix64 stream that begins at `start`."""
    return mix64(start + (counter + np.uint64(1)) * _GOLDEN)


def neg_log(u: F64) -> F64:
    """-ln(1 - u) for u in [0, 1): unit exponentials, to 4 units in the last place.

    ln m = 2 atanh((m - 1) / (m + 1)) for a mantissa m in [sqrt 1/2, sqrt 2), by its series.
    """
    mantissa, exponent = np.frexp(1.0 - u)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2.0, mantissa)
    exponent = exponent - small
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = np.zeros_like(s)
    for k in range(23, 0, -2):
        series = series * square + 1.0 / k
    logarithm: F64 = -(exponent * _LN2 + 2.0 * s * series)
    return logarithm


def interpolate(u: F64, levels: F64, values: F64) -> F64:
    """Piecewise linear inverse distribution: `values` at the increasing `levels`, which begin at 0 and end at 1."""
    right = np.clip(np.searchsorted(levels, u, side="right"), 1, len(levels) - 1)
    low, high = levels[right - 1], levels[right]
    share = (u - low) / (high - low)
    value: F64 = values[right - 1] + share * (values[right] - values[right - 1])
    return value
