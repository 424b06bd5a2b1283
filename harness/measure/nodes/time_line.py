"""A node's clock on the parent's line: from questions and answers to an offset, its drift, and a bound that holds.

Every machine's CLOCK_MONOTONIC has another origin and runs at another rate. The parent asks, the node answers with its clock, the answer
comes back; whatever the two ways took, the node's stamp was taken in between: `asked <= there + offset <= back`. So every round trip bounds
the offset by an interval as wide as the trip was long (Cristian, "Probabilistic clock synchronization", 1989), however unequal the ways.
Intervals of different times are joined by what a clock can do: its rate is within RATE_MAX of the parent's, and within WANDER of one value
for as long as WINDOW bursts last. The offsets that contradict no interval are a convex set, a programme of two variables (offset and rate;
Duda et al., "Estimating global time in distributed systems", 1987, for the lines through such corridors); its middle is the estimate, its
half-width the uncertainty. No delay is taken to be symmetric, no distribution assumed.

Where no line fits, the node's clock (or the parent's) was stepped or slewed: a suspended machine, a migrated one. Then there are two lines,
and a stamp between them is given both's room. A step that is smaller than the quickest trips around it are long cannot be seen by anybody.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

NS = 1_000_000_000
RATE_MAX = 500_000.0  # ns/s (500 ppm): two crystals at 100 ppm each, and what NTP's discipline may slew
WANDER = 10_000.0  # ns/s (10 ppm): temperature moves a crystal by less within WINDOW bursts
WINDOW = 48  # bursts that one corridor is made of
BURST_NS = 200_000_000  # trips so near to each other are one burst
FASTER = (1.0, 4.0, 16.0, 50.0)  # what WANDER is multiplied by until a corridor is open

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """One question: the parent's clock before it was sent, the node's when it answered, the parent's when the answer was there (ns)."""

    asked_ns: int
    there_ns: int
    back_ns: int

    @property
    def length_ns(self) -> int:
        return self.back_ns - self.asked_ns


@dataclass(frozen=True, slots=True)
class _Corridor:
    """What offset (ns, less the line's reference) and rate (ns/s) can be at one instant; `wander` it took to be open."""

    low: float
    high: float
    rate_low: float
    rate_high: float
    wander: float

    def at(self, seconds: Floats) -> tuple[Floats, Floats]:
        """Bounds of the offset so many seconds later (or earlier)."""
        ways = np.stack([self.rate_low * seconds, self.rate_high * seconds])
        room = self.wander * np.abs(seconds)
        return self.low + ways.min(axis=0) - room, self.high + ways.max(axis=0) + room


def _corridor(x: Floats, low: Floats, high: Floats, wander: float) -> _Corridor | None:
    """Every (offset o, rate b) at x = 0 with `low <= o + b x <= high` at each x (s) and |b| <= RATE_MAX, by elimination of one of the two
    (Fourier and Motzkin): for two variables exact. None where no line fits."""
    low, high = low - wander * np.abs(x) - 1.0, high + wander * np.abs(x) + 1.0  # 1 ns: rounding closes nothing
    here = x == 0
    o_low, o_high = (float(low[here].max()), float(high[here].min())) if here.any() else (-np.inf, np.inf)
    x, low, high = x[~here], low[~here], high[~here]
    # bounds on b, each `c - o s`: from an interval to the right its upper end is the upper bound, to the left its lower end
    s = np.append(1 / x, 0.0)
    above = np.append(np.where(x > 0, high, low) / x, RATE_MAX)
    below = np.append(np.where(x > 0, low, high) / x, -RATE_MAX)
    slope, gap = s[None, :] - s[:, None], above[None, :] - below[:, None]  # o slope <= gap
    with np.errstate(divide="ignore", invalid="ignore"):
        ends = gap / slope
    o_high = min(o_high, float(ends[slope > 0].min(initial=np.inf)))
    o_low = max(o_low, float(ends[slope < 0].max(initial=-np.inf)))
    if o_low > o_high or bool((gap[slope == 0] < 0).any()):
        return None
    x, low, high = np.append(x, 0.0), np.append(low, o_low), np.append(high, o_high)
    apart = x[None, :] - x[:, None]
    later = apart > 0
    rate_low = float(((low[None, :] - high[:, None])[later] / apart[later]).max(initial=-RATE_MAX))
    rate_high = float(((high[None, :] - low[:, None])[later] / apart[later]).min(initial=RATE_MAX))
    if rate_low > rate_high:
        return None
    return _Corridor(o_low, o_high, rate_low, rate_high, wander)


@dataclass(slots=True)
class _Stretch:
    """Bursts in the order of the node's clock that one line fits: instants (node's ns) and bounds of the offset (ns, less the reference)."""

    at: list[int] = field(default_factory=list)
    low: list[int] = field(default_factory=list)
    high: list[int] = field(default_factory=list)

    def append(self, at: int, low: int, high: int) -> None:
        self.at.append(at)
        self.low.append(low)
        self.high.append(high)

    def cut(self, length: int) -> None:
        for values in (self.at, self.low, self.high):
            del values[length:]

    def corridor(self, here: int, first: int, end: int, wander: float = WANDER) -> _Corridor | None:
        """At burst `here`, out of the bursts first .. end - 1."""
        x = np.array([at - self.at[here] for at in self.at[first:end]]) / NS
        low, high = np.array(self.low[first:end], np.float64), np.array(self.high[first:end], np.float64)
        return _corridor(x, low, high, wander)

    def knot(self, here: int) -> _Corridor:
        """At burst `here`, out of those on both sides; where they contradict each other by no more than a slew, with more room."""
        first = max(0, here - WINDOW // 2)
        for times in FASTER:
            found = self.corridor(here, first, here + WINDOW // 2 + 1, WANDER * times)
            if found is not None:
                return found
        return _Corridor(self.low[here], self.high[here], -RATE_MAX, RATE_MAX, 0.0)

    def bounds(self, there_ns: Ints) -> tuple[Floats, Floats]:
        """Bounds of the offset at these instants: between two bursts on the chord of theirs, with the room that wandering has."""
        first = int(np.searchsorted(self.at, there_ns.min(), "right")) - 1
        last = int(np.searchsorted(self.at, there_ns.max(), "left"))
        first, last = max(0, min(first, len(self.at) - 1)), max(0, min(last, len(self.at) - 1))
        knots = [self.knot(k) for k in range(first, last + 1)]
        x = (there_ns - self.at[first]) / NS
        at = np.array([a - self.at[first] for a in self.at[first : last + 1]]) / NS
        low = np.interp(x, at, [knot.low for knot in knots])
        high = np.interp(x, at, [knot.high for knot in knots])
        if len(knots) > 1:
            left = np.clip(np.searchsorted(at, x, "right") - 1, 0, len(at) - 2)
            since, until = np.maximum(x - at[left], 0), np.maximum(at[left + 1] - x, 0)
            wander = np.array([max(a.wander, b.wander) for a, b in pairwise(knots)])[left]
            room = 2 * wander * since * until / (since + until)
            low, high = low - room, high + room
        for knot, edge, outside in ((knots[0], at[0], x < at[0]), (knots[-1], at[-1], x > at[-1])):
            low[outside], high[outside] = knot.at(x[outside] - edge)
        return low, high


class TimeLine:
    """One node's stamps on the parent's line. Safe to be fed by one thread and read by another.

    `add` takes round trips in the order in which they came back; asked for an offset before the first one it raises ValueError.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._burst: list[RoundTrip] = []
        self._stretches: list[_Stretch] = []
        self._reference_ns = 0
        self._lengths: list[int] = []  # the quickest trip of each burst
        self._trips = self._given_max_ns = 0
        self._newest = (0, 0)  # back and there of the newest trip
        self._back_ns = 0  # by how much the node's clock went back, which a monotonic one never does

    def __len__(self) -> int:
        """How many round trips it is made of."""
        return self._trips

    def add(self, trip: RoundTrip) -> None:
        """Take one round trip. Raises ValueError where the answer was there before the question."""
        if trip.back_ns < trip.asked_ns:
            raise ValueError(f"an answer before its question: {trip}")
        with self._lock:
            if self._burst and trip.there_ns - self._burst[0].there_ns > BURST_NS:
                self._close()
            if not self._trips:
                self._reference_ns = (trip.asked_ns + trip.back_ns) // 2 - trip.there_ns
                self._stretches.append(_Stretch())
            elif trip.asked_ns > self._newest[0] and trip.there_ns < self._newest[1]:
                self._back_ns = max(self._back_ns, self._newest[1] - trip.there_ns)
            self._newest = max(self._newest, (trip.back_ns, trip.there_ns))
            self._trips += 1
            self._burst.append(trip)

    def _close(self) -> None:
        """Make the trips of a burst one interval at its quickest trip, or two where the clock was stepped among them."""
        trips, self._burst = self._burst, []
        found = []
        while trips:
            best = min(trips, key=lambda trip: trip.length_ns)
            low, high = self._interval(best)
            others = []
            for trip in trips:
                room = int(abs(trip.there_ns - best.there_ns) * RATE_MAX / NS) + 1
                trip_low, trip_high = self._interval(trip)
                if trip_low - room > high or trip_high + room < low:
                    others.append(trip)
                else:
                    low, high = max(low, trip_low - room), min(high, trip_high + room)
            found.append((best.there_ns, low, high))
            self._lengths.append(best.length_ns)
            trips = others
        for burst in sorted(found):
            self._append(*burst)

    def _interval(self, trip: RoundTrip) -> tuple[int, int]:
        reference = trip.there_ns + self._reference_ns
        return trip.asked_ns - reference, trip.back_ns - reference

    def _append(self, at: int, low: int, high: int) -> None:
        stretch = self._stretches[-1]
        if stretch.at and at <= stretch.at[-1]:
            return  # an answer that was overtaken by those of a later burst
        stretch.append(at, low, high)
        end = len(stretch.at)
        if stretch.corridor(end - 1, max(0, end - WINDOW), end) is not None:
            return
        # the break is after the last burst that contradicts this one: what lies between may be on either side, and is of neither
        before = end - 2
        while stretch.corridor(end - 1, before, end) is not None:
            before -= 1
        stretch.cut(before + 1)
        self._stretches.append(_Stretch([at], [low], [high]))

    def _closed(self) -> list[_Stretch]:
        self._close()
        if not self._stretches:
            raise ValueError("no question to this node's clock was answered")
        return self._stretches

    def offsets(self, there_ns: Ints) -> tuple[Ints, Ints]:
        """For stamps of the node's clock (ns): what to ADD to each to have the parent's, and the uncertainty of each (ns)."""
        there_ns = np.asarray(there_ns, np.int64)
        low, high = np.empty(len(there_ns)), np.empty(len(there_ns))
        with self._lock:
            stretches = self._closed()
            starts = np.array([stretch.at[0] for stretch in stretches])
            which = np.maximum(np.searchsorted(starts, there_ns, "right") - 1, 0)
            for k in np.unique(which):
                mine = which == k
                low[mine], high[mine] = stretches[k].bounds(there_ns[mine])
                if k + 1 < len(stretches):
                    gap = mine & (there_ns > stretches[k].at[-1])
                    if gap.any():
                        other_low, other_high = stretches[k + 1].bounds(there_ns[gap])
                        low[gap], high[gap] = np.minimum(low[gap], other_low), np.maximum(high[gap], other_high)
            error = np.ceil((high - low) / 2).astype(np.int64) + 1 + self._back_ns
            self._given_max_ns = max(self._given_max_ns, int(error.max(initial=0)))
            return np.rint((low + high) / 2).astype(np.int64) + self._reference_ns, error

    def offset(self, there_ns: int) -> tuple[int, int]:
        """For one stamp of the node's clock: (ns to add to have the parent's, uncertainty ns)."""
        offset, error = self.offsets(np.array([there_ns], np.int64))
        return int(offset[0]), int(error[0])

    def to_node(self, parent_ns: int) -> int:
        """The node's clock at an instant of the parent's."""
        node_ns = parent_ns - self._reference_ns
        for _ in range(3):  # the offset moves by less than a 2000th of the way to it
            node_ns = parent_ns - self.offset(node_ns)[0]
        return node_ns

    @property
    def last_ns(self) -> int:
        """The node's clock at the newest burst."""
        with self._lock:
            return self._closed()[-1].at[-1]

    @property
    def error_max_ns(self) -> int:
        """The largest uncertainty of any offset that was given, and of the one at the newest burst."""
        self.offset(self.last_ns)
        return self._given_max_ns

    @property
    def drift(self) -> tuple[float, float] | None:
        """By how much the node's clock runs faster than the parent's, and the uncertainty of that (ppm), over the longest stretch
        without a break; None where there was one burst."""
        with self._lock:
            longest = max(self._closed(), key=lambda stretch: stretch.at[-1] - stretch.at[0])
            first, last = longest.knot(0), longest.knot(len(longest.at) - 1)
            span_s = (longest.at[-1] - longest.at[0]) / NS
        if not span_s:
            return None
        rate = (last.low + last.high - first.low - first.high) / 2 / span_s
        error = (last.high - last.low + first.high - first.low) / 2 / span_s
        return -rate / 1000, error / 1000

    @property
    def drift_ppm(self) -> float | None:
        return None if self.drift is None else self.drift[0]

    @property
    def breaks(self) -> list[tuple[int, int, int]]:
        """Where no one line fits: the node's clock at the last burst before and the first after, and by how much the offset moved (ns)."""
        with self._lock:
            pairs = list(pairwise(self._closed()))
            found = []
            for one, two in pairs:
                before, after = one.knot(len(one.at) - 1), two.knot(0)
                found.append((one.at[-1], two.at[0], round((after.low + after.high - before.low - before.high) / 2)))
            return found

    def facts(self) -> dict[str, object]:
        """What the manifest says of this node's clock."""
        with self._lock:
            if not self._trips:
                return {"round_trips": 0}
            offset_ns, error_ns = self.offset(self.last_ns)
            drift, breaks = self.drift, self.breaks
            return {
                "round_trips": self._trips,
                "round_trip_best_us": round(min(self._lengths) / 1000, 1),
                "round_trip_median_us": round(
                    float(np.median(self._lengths)) / 1000, 1
                ),  # of the quickest of each burst
                "offset_ns": offset_ns,
                "error_us": round(error_ns / 1000, 1),
                "error_max_us": round(self.error_max_ns / 1000, 1),
                "went_back_us": round(self._back_ns / 1000, 1),
                "drift_ppm": None if drift is None else round(drift[0], 3),
                "drift_error_ppm": None if drift is None else round(drift[1], 3),
                "breaks": [
                    {"from_node_ns": first, "to_node_ns": last, "moved_us": round(moved / 1000, 1)}
                    for first, last, moved in breaks
                ],
            }
