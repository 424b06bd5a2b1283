"""How long a side takes at a load, learned from the rows so far: a curve of TTFT and one of TPOT over the requests in flight.

Each load level keeps its newest rows; what they promise is the `quantile` of them. The levels' values are made to rise with the load
by pooling neighbours that do not (pool adjacent violators, Ayer et al. 1955), so that a hiccup at one level does not close a side. Above
the highest level that was seen latency is taken to grow in proportion to the load, which is what a server that is full does:

    ttft(n, prompt) = curve(n) + prefill x prompt        e2el = ttft + tpot x (output - 1)

`prefill`, seconds a prompt token, is the least-squares slope over rows at no more than one other request.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping

_EXACT = 16  # levels by the request up to here, then each a tenth above the last
_GROWTH = 1.1
_ALWAYS = 256  # rows up to which a prediction knows every one of them, then all but the newest few
_OFTEN = 16
_FEW = 20  # rows of a level below which its quantile is guessed from mean and spread
_SPREADS = 2.0


def level_of(load: float) -> int:
    """The level of a load, requests in flight."""
    if load <= _EXACT:
        return max(0, round(load))
    return _EXACT + 1 + int(math.log(load / _EXACT) / math.log(_GROWTH))


def _lowest_load(level: int) -> float:
    return float(level) if level <= _EXACT else _EXACT * _GROWTH ** (level - _EXACT - 1)


class _Curve:
    """Value over level, from the newest values of each level."""

    def __init__(self, quantile: float, newest: int) -> None:
        self._quantile, self._newest = quantile, newest
        self._values: dict[int, deque[tuple[float, int]]] = {}
        self._changed: set[int] = set()
        self._of_level: dict[int, float] = {}
        self._levels: list[int] = []
        self._pooled: list[float] = []

    def add(self, level: int, value: float, prompt_tokens: int) -> None:
        self._values.setdefault(level, deque(maxlen=self._newest)).append((value, prompt_tokens))
        self._changed.add(level)

    def refresh(self, slope: float = 0.0) -> None:
        """Look at what was added. `slope`: of the value, a prompt token: it is taken off."""
        if not self._changed:
            return
        for level in self._changed:
            self._of_level[level] = self._promised(sorted(value - slope * n for value, n in self._values[level]))
        self._changed.clear()
        self._levels = sorted(self._of_level)
        self._pooled = _rising([(self._of_level[at], len(self._values[at])) for at in self._levels])

    def _promised(self, ordered: list[float]) -> float:
        """The quantile of values; of few, mean + 2 sd, which is no less for a skewed few."""
        count = len(ordered)
        if count >= _FEW:
            return ordered[min(count - 1, math.ceil(self._quantile * count) - 1)]
        mean = math.fsum(ordered) / count
        return mean + _SPREADS * math.sqrt(math.fsum((value - mean) ** 2 for value in ordered) / count)

    def at(self, load: float) -> float | None:
        """None before the first value."""
        if not self._levels:
            return None
        highest = self._levels[-1]
        place = bisect_right(self._levels, level_of(load)) - 1
        value = self._pooled[max(0, place)]
        beyond = (load + 1) / (_lowest_load(highest) + 1) if level_of(load) > highest else 1.0
        return value * beyond


def _rising(levels: list[tuple[float, int]]) -> list[float]:
    """Pool adjacent violators: the non-decreasing values nearest to these, by weight."""
    blocks: list[list[float]] = []  # value, weight, levels
    for value, weight in levels:
        blocks.append([value, weight, 1])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            late = blocks.pop()
            early = blocks[-1]
            total = early[1] + late[1]
            blocks[-1] = [(early[0] * early[1] + late[0] * late[1]) / total, total, early[2] + late[2]]
    return [block[0] for block in blocks for _ in range(int(block[2]))]


class Learned:
    """A side's latency as its rows tell it (a state.Latency). `quantile`: of the rows that is to be within the promise."""

    def __init__(self, quantile: float = 0.95, newest: int = 64) -> None:
        self._ttft, self._tpot = _Curve(quantile, newest), _Curve(quantile, newest)
        self._idle = _Slope()
        self.rows = 0
        self._known = 0  # of them, those in the curves

    def add(self, load: float, prompt_tokens: int, ttft_s: float, tpot_s: float | None) -> None:
        """A request that was sent while `load` others were in flight, and ended well."""
        level = level_of(load)
        if level <= 1:
            self._idle.add(prompt_tokens, ttft_s)
        self._ttft.add(level, ttft_s, prompt_tokens)
        if tpot_s is not None:
            self._tpot.add(level, tpot_s, prompt_tokens)
        self.rows += 1

    def predict(self, load: float, prompt_tokens: int, output_tokens: int) -> Mapping[str, float]:
        """Seconds by the promise's names; what no row has told is left out."""
        if self.rows > self._known and (self.rows <= _ALWAYS or self.rows - self._known >= _OFTEN):
            self._known = self.rows
            self._ttft.refresh(self._idle.slope)
            self._tpot.refresh()
        predicted: dict[str, float] = {}
        base, tpot = self._ttft.at(load), self._tpot.at(load)
        if base is not None:
            ttft = max(0.0, base + self._idle.slope * prompt_tokens)
            predicted |= {"ttft_s": ttft, "ttft_from_schedule_s": ttft, "ttfvt_s": ttft}
            if output_tokens <= 1:
                predicted["e2el_s"] = ttft
            elif tpot is not None:
                predicted["e2el_s"] = ttft + tpot * (output_tokens - 1)
        if tpot is not None and output_tokens > 1:
            predicted["tpot_s"] = tpot
        return predicted


class _Slope:
    """Least squares of TTFT on prompt tokens, by sums around the first row; 0 until there is enough to tell."""

    _LEAST = 8

    def __init__(self) -> None:
        self._count = 0
        self._first = (0, 0.0)
        self._x = self._y = self._xx = self._xy = 0.0
        self.slope = 0.0

    def add(self, prompt_tokens: int, ttft_s: float) -> None:
        if not self._count:
            self._first = (prompt_tokens, ttft_s)
        x, y = prompt_tokens - self._first[0], ttft_s - self._first[1]
        self._count += 1
        self._x, self._y, self._xx, self._xy = self._x + x, self._y + y, self._xx + x * x, self._xy + x * y
        spread = self._xx - self._x * self._x / self._count
        if self._count >= self._LEAST and spread > 0:
            self.slope = max(0.0, (self._xy - self._x * self._y / self._count) / spread)
