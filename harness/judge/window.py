"""The steady part of a run: which requests its numbers are made of, and in what time the load offered them.

A window is the half-open interval (start, end] between two sends. The requests sent in it are the only ones that count, and
they count whole: tokens, completions, goodput and percentiles are of the same requests, so goodput cannot exceed throughput, and
nothing depends on how much of a reply lies on which side of an edge. Rates divide by `offered_s`:

    open loop     end - start: n sends in n gaps
    closed loop   sum of (ended - due) over these requests / requests in the system on average        (Little's law)

In a closed loop that is the time that the slots spent on just these requests: exact for replies that end and restart together in
waves, wherever the edges cut them, and without the bias of counting over time when lengths vary (the requests in hand at an edge
are longer than the average). Their number is a multiple of the concurrency, so that each place of a wave counts as often.

The load must be whole while they are served: it builds up for one settling time before, and goes on for one after the last of
them. The settling time t follows from the durations S of the run: what is still missing of the load after t,
sum(max(0, S - t)) / sum(S), is `_MISSING`. It is nearly the E2EL where all are equal, three times the mean where they are exponential. A
duration is a request's, or a whole session's. A closed loop has also refilled every slot twice: its first wave has a common prefill.

Where too little is left between the two (one settling time, in an open loop three), or the queue of an open loop grows, the window
is the whole phase with ramp and drain in it, and `lacking` says so. An offline batch has no other. So it is where the rate is meant to
change and what is left came at another rate than the whole, or leaves a tenth of it out: a step whose peak lies at an end.

Whether a queue grows is watched by the E2EL of a reply of average length, TTFT from schedule + TPOT x mean tokens: the queue shows in it,
whether requests wait before their first token or slow each other down after it, and how long each happens to be does not. Where work is
served in turn, a rise of that by s seconds a second means departures at 1 / (1 + s) of the arrivals. Arrivals at one rate come in bursts
by chance, and one late in a window raises it too, without a queue that goes on growing: what it owes to the arrivals a second, from one
E2EL before to one after each request, is no growth and is taken out by regression. Where the rate is meant to change there is no steady
part: what that does to the E2EL counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.base.stats import t_above
from harness.judge.columns import BoolArray, FloatArray, IntArray, Ints, Requests
from harness.judge.metrics import per_request
from harness.records import Load, Window

MIN_REQUESTS = 10  # ok requests in the window: below it not even a median is given
MIN_WINDOW_S = 5.0  # five samples of a server's 1 Hz counters
_MISSING = 0.05  # of the load at the window's first send; it shrinks from there
_ROOM = 1.3  # what is advised is so much longer than what would just do
# blocks, of 4 requests and one settling time at least where that leaves so many: closer ones are not independent
_FEWEST_BLOCKS, _MOST_BLOCKS = 4, 10
_CERTAIN = 0.95  # one-sided, of the slope
_FALLS_BEHIND = 0.02  # s/s: 2 % fewer departures than arrivals
_RISES = 0.10  # of the mean over the window: half of that is what the mean is off
_ONE_RATE = ("poisson", "constant", "gamma")  # words of arrivals whose rate is the same all along, bursts being chance
_MOVING = ("ramp", "step", "diurnal", "onoff")  # of those whose rate changes about the mean that the load names
_MOST_OFF = 0.03  # the rate of a part that stands for all of those, over theirs
_MOST_CUT = 0.1  # of the sends: what it leaves out
_MOST_LONGER = 20.0  # times, of an advice

TOO_SHORT, GROWING = "window_too_short", "queue_growing"


@dataclass(frozen=True, slots=True)
class _Phase:
    """The measured phase as a load: sends in order; when the last request or session began; the settling time. All ns."""

    sends: IntArray
    last_start: int
    settling: int

    @property
    def first(self) -> int:
        return int(self.sends[0])

    @property
    def last(self) -> int:
        return int(self.sends[-1])

    @property
    def rate(self) -> float:
        """Sends per ns; 0 where they were all at once."""
        return len(self.sends) / (self.last - self.first) if self.last > self.first else 0.0

    @property
    def settles(self) -> str:
        return f"{self.settling / 1e9:.3g} s to build up and as long to end"


def settling_ns(durations: IntArray) -> int:
    """The smallest t with sum(max(0, S - t)) <= `_MISSING` x sum(S)."""
    ordered = np.sort(durations).astype(np.float64)
    n = len(ordered)
    above = ordered[::-1].cumsum()[::-1]  # sum of S from each on
    missing = above - ordered * np.arange(n, 0, -1)  # at t = each S, falling to 0
    allowed = _MISSING * above[0]
    at = int(np.argmax(missing <= allowed))
    return int(np.ceil((above[at] - allowed) / (n - at)))


def _phase(requests: Requests) -> _Phase:
    """Raises nothing; at least one request was sent."""
    sent = requests.sent.present
    begun = requests.sent.data[sent]
    latest = int(max(begun.max(), requests.ended.data[requests.ended.present].max(initial=0)))
    over = np.where(requests.ended.present[sent], requests.ended.data[sent], latest)
    session = requests.session.data[sent]
    own = -1 - np.arange(len(begun), dtype=np.int64)  # a request without a session is one by itself
    _, of = np.unique(np.where(requests.session.present[sent], session, own), return_inverse=True)
    starts = np.full(of.max() + 1, np.iinfo(np.int64).max)
    ends = np.zeros(of.max() + 1, dtype=np.int64)
    np.minimum.at(starts, of, begun)
    np.maximum.at(ends, of, over)
    return _Phase(np.sort(begun), int(starts.max()), settling_ns(ends - starts))


def _in_system(requests: Requests, which: BoolArray | None = None) -> tuple[IntArray, IntArray]:
    """When each request (of `which`) that has ended came (its slot was free, or it was due) and went, ns."""
    known = (requests.due.present | requests.sent.present) & requests.ended.present
    if which is not None:
        known &= which
    came = np.where(requests.due.present, requests.due.data, requests.sent.data)
    return came[known], requests.ended.data[known]


def _last_full(requests: Requests, concurrency: int, phase: _Phase) -> int:
    """Until when every slot was in use. Sessions think between their turns: theirs were, until the last one had begun."""
    if requests.session.present.any():
        return phase.last_start
    came, went = _in_system(requests)
    stamps = np.concatenate([went, came])
    order = np.argsort(stamps, kind="stable")  # a slot that is free and taken in the same instant was never empty
    count = np.cumsum(np.concatenate([np.full(len(went), -1), np.full(len(came), 1)])[order])
    full = np.flatnonzero(count >= concurrency)
    return int(stamps[order][full[-1]]) if len(full) else phase.last_start


def _closed(requests: Requests, concurrency: int, phase: _Phase) -> tuple[int, int]:
    """(first, behind the last) of the sends that count; equal where there are none."""
    first = max(2 * concurrency, int(np.searchsorted(phase.sends, phase.first + phase.settling, side="right")))
    last = _last_full(requests, concurrency, phase) - phase.settling
    behind = int(np.searchsorted(phase.sends, last, side="right"))
    return first, first + max(0, behind - first) // concurrency * concurrency


def _open(phase: _Phase) -> tuple[int, int]:
    first = int(np.searchsorted(phase.sends, phase.first + phase.settling)) + 1
    return first, max(first, int(np.searchsorted(phase.sends, phase.last_start - phase.settling, side="right")))


def offered(requests: Requests, start_ns: int, end_ns: int) -> BoolArray:
    """Requests that count as offered in (start, end]: sent in it, or never sent and due in it (dropped, no connection)."""

    def inside(stamps: Ints) -> BoolArray:
        return stamps.present & (stamps.data > start_ns) & (stamps.data <= end_ns)

    due = inside(requests.due) | (~requests.due.present & inside(requests.scheduled))
    return inside(requests.sent) | (~requests.sent.present & due)


def _slot_time_s(requests: Requests, start: int, end: int) -> float:
    """Closed loop: time in the system of the requests offered in (start, end] over the mean number in the system there."""
    came, went = _in_system(requests)
    inside = np.minimum(went, end) - np.maximum(came, start)
    mean = float(np.maximum(inside, 0).sum()) / (end - start)
    came, went = _in_system(requests, offered(requests, start, end))
    return float((went - came).sum()) / mean / 1e9


def _counted(concurrency: int | None) -> int:
    """Settling times that a window lasts at least. An open loop's queue takes longer than the replies it began with."""
    return 3 if concurrency is None else 1


def _enough(phase: _Phase, concurrency: int | None, least_ns: float = 0) -> str:
    """What would suffice, from the rate and the durations seen."""
    if not phase.rate:
        return "send more requests, over time"
    ramp = max(phase.settling, 2 * concurrency / phase.rate) if concurrency else phase.settling
    counted = max(
        MIN_WINDOW_S * 1e9, _counted(concurrency) * phase.settling, max(MIN_REQUESTS, concurrency or 0) / phase.rate
    )
    needed = max(_ROOM * (ramp + counted + phase.settling), least_ns)
    requests = math.ceil(needed * phase.rate) + (concurrency or 0)
    return f"let it last {math.ceil(needed / 1e9)} s or {requests} requests"


def _unlike(phase: _Phase, first: int, behind: int, load: Load) -> tuple[float, str]:
    """How often too short a load is, whose rate is meant to change, for the sends first..behind - 1 to stand for all of it, and why."""
    if load.arrivals.partition(":")[0] not in _MOVING:
        return 0.0, ""
    part_ns, all_ns = int(phase.sends[behind - 1] - phase.sends[first - 1]), phase.last - phase.first
    off = (behind - first) / part_ns * all_ns / (len(phase.sends) - 1) - 1
    cut = 1 - (behind - first) / len(phase.sends)
    words = {
        abs(off) / _MOST_OFF: f"came at a rate {abs(off):.1%} {'above' if off > 0 else 'below'} that of all",
        cut / _MOST_CUT: f"leaves out {cut:.1%} of them",
    }
    times = max(words)
    return times, f"{len(phase.sends)} requests whose rate changes by {load.arrivals}: the steady part {words[times]}"


def _whole(phase: _Phase, last_token: int, over: int, why: str, lacking: str, advice: str) -> tuple[Window, str]:
    """The whole phase and its rule: why there is no steady part in it."""
    seconds = (last_token - phase.first) / 1e9
    start = phase.first - 1  # the first send is inside
    rule = f"whole phase, first send to last token: {why}"
    return Window(start, last_token, rule, seconds, 0.0, (over - last_token) / 1e9, lacking, advice), rule


def _typical_e2el_s(requests: Requests, inside: Window) -> tuple[FloatArray, FloatArray]:
    """When each ok request of the window was sent (s after its start), in order, and the E2EL of a reply of average length then."""
    values = per_request(requests)
    use = requests.ok & requests.sent.inside(inside) & requests.first_token.present
    since = np.where(requests.due.present, requests.due.data, requests.sent.data)
    since = np.where(requests.released.present, np.maximum(since, requests.released.data), since)[use]  # pacing is ours
    wait = (requests.first_token.data[use] - since) / 1e9
    each = values["tpot_s"][use]
    tokens = requests.output.data[use & requests.output.present]
    known = ~np.isnan(each)
    if known.any() and len(tokens):
        wait = wait + np.where(known, each, each[known].mean()) * max(0.0, float(tokens.mean()) - 1)
    at = (requests.sent.data[use] - inside.start_ns) / 1e9
    order = np.argsort(at, kind="stable")
    return at[order], wait[order]


def _arrivals(requests: Requests, start_ns: int, at: FloatArray, within_s: float) -> FloatArray:
    """Scheduled requests sent a second, from `within_s` before to as long after each of `at` (s after `start_ns`), while any were. A later turn
    of a session comes after a reply: it is no cause of how long that took."""
    sent = np.sort(requests.sent.data[requests.sent.present & requests.scheduled.present] - start_ns) / 1e9
    if not len(sent):
        return np.zeros(len(at))
    since, until = np.clip(at - within_s, sent[0], sent[-1]), np.clip(at + within_s, sent[0], sent[-1])
    number = np.searchsorted(sent, until, side="right") - np.searchsorted(sent, since, side="right")
    rate = np.zeros(len(at))
    np.divide(number, until - since, out=rate, where=until > since)
    return rate


def growing(requests: Requests, start_ns: int, end_ns: int, settling_ns: int, arrivals: str) -> str | None:
    """What is seen of a growing queue among the requests sent in (start, end], in words; None where nothing is. `arrivals`: the load's word."""
    at, typical = _typical_e2el_s(requests, Window(start_ns, end_ns, "", 0, 0, 0))
    blocks = min(_MOST_BLOCKS, len(at) // 4, max(_FEWEST_BLOCKS, (end_ns - start_ns) // max(1, settling_ns)))
    if blocks < _FEWEST_BLOCKS or at[-1] <= at[0]:
        return None
    x = np.array([part.mean() for part in np.array_split(at, blocks)])
    y = np.array([part.mean() for part in np.array_split(typical, blocks)])
    mean, spread = float(y.mean()), x - x.mean()
    slope = float((spread * y).sum() / (spread**2).sum())
    left = y - mean - slope * spread
    error = math.sqrt(float((left**2).sum()) / (blocks - 2) / float((spread**2).sum()))
    if slope <= t_above(1 - _CERTAIN, blocks - 2) * error:
        return None
    without = ""
    if arrivals.partition(":")[0] in _ONE_RATE:
        rate = np.array([part.mean() for part in np.array_split(_arrivals(requests, start_ns, at, mean), blocks)])
        (beside, each), *_ = np.linalg.lstsq(np.column_stack([spread, rate - rate.mean()]), y - mean, rcond=None)
        slope, without = (float(beside), ", without what bursts of arrivals add") if each > 0 else (slope, "")
    rise = slope * (end_ns - start_ns) / 1e9
    if slope <= _FALLS_BEHIND and rise <= _RISES * mean:
        return None
    return (
        f"the queue grows: from the first to the last request counted, the E2EL of a reply of average length rose by {rise:.3g} s "
        f"(mean {mean:.3g} s), {slope:.2%} of the time that passed{without}"
    )


def find_window(requests: Requests, load: Load) -> tuple[Window | None, str]:
    """The window and its rule, or None and the reason why there is none. Never raises."""
    if not requests.sent.present.any():
        return None, "no request of the measured phase was sent"
    done = requests.ok & requests.last_token.present & requests.sent.present
    if not done.any():
        return None, "no request of the measured phase succeeded"
    phase = _phase(requests)
    last_token = int(requests.last_token.data[done].max())
    if last_token <= phase.first:
        return None, f"the measured phase lasted {last_token - phase.first} ns"
    over = max(last_token, int(requests.ended.data[requests.ended.present].max(initial=0)))
    slots = load.concurrency
    first, behind = _open(phase) if slots is None else _closed(requests, slots, phase)
    left = behind > first
    if left:
        start, end = int(phase.sends[first - 1]), int(phase.sends[behind - 1])
    else:  # replies to the second half may already be faster for want of others
        start, end = phase.first, (phase.first + phase.last) // 2
    grows = None if slots is not None else growing(requests, start, end, phase.settling, load.arrivals)
    if grows is not None:  # a load that only builds up is over it in twice the time, or near
        enough = _enough(phase, slots, 2 * (phase.last - phase.first))
        advice = f"this rate is too high for a steady latency, or the server slowed down: offer less, or run it again (or, if the load was only building up, {enough})"
        if load.arrivals.partition(":")[0] in _MOVING:
            advice = f"{load.arrivals} changes the rate: see the report's plots over time, or measure one rate"
        return _whole(phase, last_token, over, grows, GROWING, advice)
    if not left or end - start < max(_counted(slots) * phase.settling, 1):
        why = f"{len(phase.sends)} requests in {(over - phase.first) / 1e9:.3g} s hold no steady part, the load takes {phase.settles}"
        return _whole(phase, last_token, over, why, TOO_SHORT, _enough(phase, slots))
    times, unlike = _unlike(phase, first, behind, load)
    if times > 1:
        enough = _enough(phase, slots, min(times, _MOST_LONGER) * (phase.last - phase.first))
        return _whole(phase, last_token, over, unlike, TOO_SHORT, enough)
    enough = _enough(phase, slots)
    kind = "open loop" if slots is None else f"closed loop of {slots}"
    after = f"sent after the first {first} and before the last {len(phase.sends) - behind}"
    rule = f"{kind}: the {behind - first} requests {after} (the load takes {phase.settles})"
    offered_s = (end - start) / 1e9 if slots is None else _slot_time_s(requests, start, end)
    return Window(start, end, rule, offered_s, (start - phase.first) / 1e9, (over - end) / 1e9, None, enough), rule
