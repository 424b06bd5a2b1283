"""A pair of simulated clocks whose offset is known at every instant, and round trips between them through delays of any kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.measure.nodes.time_line import RoundTrip, TimeLine

NS = 1_000_000_000
Ints = NDArray[np.int64]
Delay = Callable[[np.random.Generator, int], Ints]


def quiet(rng: np.random.Generator, count: int) -> Ints:
    """A veth's or a rack's: 30 µs and a tail."""
    return (30e3 + rng.exponential(20e3, count)).astype(np.int64)


def jitter(least_s: float, most_s: float) -> Delay:
    """Anything between the two."""
    return lambda rng, count: rng.integers(round(least_s * 1e9), round(most_s * 1e9) + 1, count)


@dataclass(frozen=True)
class Clocks:
    """The node's clock is the parent's plus an origin, running `drift_ppm` faster, its rate swinging by `wander_ppm` in `period_s`; a `step_ns`
    at `step_s`, and `slew_ppm` faster between the two instants of `slewed_s`."""

    begin_ns: int = 7 * NS
    origin_ns: int = 50_000 * NS
    drift_ppm: float = 0.0
    wander_ppm: float = 0.0
    period_s: float = 120.0
    step_s: float = float("inf")
    step_ns: int = 0
    slew_ppm: float = 0.0
    slewed_s: tuple[float, float] = (0.0, 0.0)

    def node(self, parent_ns: Ints) -> Ints:
        s = (parent_ns - self.begin_ns) / NS
        turn = self.period_s / (2 * np.pi)
        ahead = 1e3 * (self.drift_ppm * s + self.wander_ppm * turn * np.sin(s / turn))
        ahead = ahead + np.where(s > self.step_s, self.step_ns, 0)
        ahead = ahead + 1e3 * self.slew_ppm * np.clip(s - self.slewed_s[0], 0, self.slewed_s[1] - self.slewed_s[0])
        return parent_ns + self.origin_ns + np.rint(ahead).astype(np.int64)

    def trips(
        self,
        rng: np.random.Generator,
        there: Delay,
        back: Delay | None = None,
        seconds: float = 60.0,
        questions: int = 3,
        every_s: float = 1.0,
    ) -> list[RoundTrip]:
        """A burst of questions every `every_s`, answers in the order in which they came back."""
        bursts = np.arange(0, round(seconds * NS), round(every_s * NS))
        asked = self.begin_ns + (bursts[:, None] + np.arange(questions) * 4_000_000).ravel()
        arrived = asked + there(rng, len(asked))
        over = arrived + (back or there)(rng, len(asked))
        trips = map(RoundTrip, asked.tolist(), self.node(arrived).tolist(), over.tolist())
        return sorted(trips, key=lambda trip: trip.back_ns)

    def instants(self, rng: np.random.Generator, count: int, seconds: float = 60.0) -> Ints:
        """So many instants of the parent's clock, in order."""
        return self.begin_ns + np.sort(rng.integers(0, round(seconds * NS), count))


def line_of(trips: list[RoundTrip]) -> TimeLine:
    line = TimeLine()
    for trip in trips:
        line.add(trip)
    return line


def errors(line: TimeLine, clocks: Clocks, parent_ns: Ints) -> tuple[Ints, Ints]:
    """How far each stamp of the node is mapped from the truth, and the uncertainty that was given (ns)."""
    node_ns = clocks.node(parent_ns)
    offset, error = line.offsets(node_ns)
    return np.abs(node_ns + offset - parent_ns), error
