"""Every field of the window against plain loops over the requests, for runs of every kind."""

from __future__ import annotations

import math
import random
import re
from dataclasses import replace

import numpy as np
import pytest

from harness.judge.columns import measured
from harness.judge.window import find_window, growing, offered, settling_ns
from harness.records import Load, RequestRecord
from tests.judge.run_builder import closed_loop, failed, frame, ns, open_loop, request

NS = 10**9


def settled(durations):
    """The smallest whole t with sum(max(0, S - t)) at most a twentieth of sum(S), by bisection."""
    low, high = 0, max(durations)
    while low < high:
        t = (low + high) // 2
        if 20 * sum(max(0, s - t) for s in durations) <= sum(durations):
            high = t
        else:
            low = t + 1
    return low


def last_full(records, concurrency):
    """The last instant from which on so many requests were in the system, for a time or none."""
    stays = [
        (r.due_ns if r.due_ns is not None else r.sent_ns, r.ended_ns)
        for r in records
        if r.ended_ns is not None and (r.due_ns or r.sent_ns)
    ]
    events = sorted([(went, 0) for _, went in stays] + [(came, 1) for came, _ in stays])
    now, found = 0, None
    for at, comes in events:
        now += 1 if comes else -1
        found = at if now >= concurrency else found
    return found


def by_hand(records, load):
    """(start, end, offered_s, ramp_s, drain_s, lacking, advice, numbers of the rule)."""
    c = load.concurrency
    sends = sorted(r.sent_ns for r in records if r.sent_ns is not None)
    latest = max([*sends, *(r.ended_ns for r in records if r.ended_ns is not None)])
    loads: dict = {}
    for r in records:
        if r.sent_ns is not None:
            key = ("session", r.session_id) if r.session_id is not None else ("request", r.seq)
            loads.setdefault(key, []).append((r.sent_ns, latest if r.ended_ns is None else r.ended_ns))
    starts = [min(a for a, _ in spans) for spans in loads.values()]
    t = settled([max(b for _, b in spans) - min(a for a, _ in spans) for spans in loads.values()])
    if c is None:
        first = sum(s < sends[0] + t for s in sends) + 1
        behind = max(first, sum(s <= max(starts) - t for s in sends))
    else:
        first = max(2 * c, sum(s <= sends[0] + t for s in sends))
        full = max(starts) if any(r.session_id is not None for r in records) else last_full(records, c)
        if full is None:
            full = max(starts)
        behind = first + max(0, sum(s <= full - t for s in sends) - first) // c * c
    last_token = max(r.last_token_ns for r in records if r.outcome == "ok" and r.last_token_ns is not None)
    over = max(last_token, *(r.ended_ns for r in records if r.ended_ns is not None))
    start, end = (sends[first - 1], sends[behind - 1]) if behind > first else (sends[0], (sends[0] + sends[-1]) // 2)
    grows = growing(measured(frame(records, RequestRecord)), start, end, t, "poisson") if c is None else None
    span = (sends[-1] - sends[0]) / NS
    rate = len(sends) / span
    ramp = max(t / NS, 2 * c / rate) if c else t / NS
    counted = max(5.0, (1 if c else 3) * t / NS, max(10, c or 0) / rate)
    needed = max(1.3 * (ramp + counted + t / NS), 2 * span if grows else 0)
    advice = f"let it last {math.ceil(needed)} s or {math.ceil(needed * rate) + (c or 0)} requests"
    if behind <= first or grows or end - start < max((1 if c else 3) * t, 1):
        lacking = "queue_growing" if grows else "window_too_short"
        numbers = (
            re.findall(r"[\d.]+", grows)
            if grows
            else [str(len(sends)), f"{(over - sends[0]) / NS:.3g}", f"{t / NS:.3g}"]
        )
        return (
            sends[0] - 1,
            last_token,
            (last_token - sends[0]) / NS,
            0.0,
            (over - last_token) / NS,
            lacking,
            advice,
            numbers,
        )
    offered_s = (end - start) / NS
    if c is not None:
        stays = [
            (r.due_ns if r.due_ns is not None else r.sent_ns, r.ended_ns, r) for r in records if r.ended_ns is not None
        ]
        inside = sum(max(0, min(b, end) - max(a, start)) for a, b, _ in stays) / (end - start)
        of = [
            b - a
            for a, b, r in stays
            if start
            < (r.sent_ns if r.sent_ns is not None else r.due_ns if r.due_ns is not None else r.scheduled_ns)
            <= end
        ]
        offered_s = sum(of) / inside / NS
    numbers = [*([str(c)] if c else []), str(behind - first), str(first), str(len(sends) - behind), f"{t / NS:.3g}"]
    return start, end, offered_s, (start - sends[0]) / NS, (over - end) / NS, None, advice, numbers


def spoilt(r, chance):
    if chance < 0.03:
        return replace(failed(r, "dropped", sent=False), ended_ns=r.due_ns + 10**6)
    if chance < 0.06:
        return failed(r)
    if chance < 0.07:
        return replace(failed(r), ended_ns=None)
    return replace(r, due_ns=None) if chance < 0.1 else r


def drawn(seed):
    """Open and closed loops of every length, size and evenness; some requests failed, were never sent, or never ended."""
    rng = random.Random(seed)
    c = rng.choice([None, None, 1, 3, 8])
    count = rng.choice([12, 30, 60, 200])
    if c is None:
        rate = rng.choice([2.0, 10.0])
        records = [
            request(i, i / rate + rng.random() * 0.01, scheduled_s=i / rate, tokens=rng.choice([2, 8, 40]))
            for i in range(count)
        ]
    else:
        records = closed_loop(c, count, stagger_s=rng.choice([0.001, 0.01]), tokens=rng.choice([2, 8, 40]))
        records = [replace(r, due_ns=r.sent_ns - rng.randrange(10**7)) for r in records]
    changed = [spoilt(r, rng.random()) if 2 < r.seq < count - 2 else r for r in records]
    return changed, Load(rate_rps=10.0) if c is None else Load(concurrency=c)


CASES = {f"drawn {seed}": drawn(seed) for seed in range(60)}
CASES |= {
    "sessions, open": (
        [replace(request(n * 3 + k, n * 0.5 + k * 0.7), session_id=n) for n in range(60) for k in range(3)],
        Load(rate_rps=2.0),
    ),
    "sessions, closed": (
        [replace(r, session_id=r.seq // 3) for r in closed_loop(3, 90, stagger_s=0.002)],
        Load(concurrency=3),
    ),
    "sessions and single requests": (
        [replace(r, session_id=r.seq // 4 if r.seq % 4 < 2 else None) for r in open_loop(10, 120)],
        Load(rate_rps=10.0),
    ),
    "fewer than the slots": (closed_loop(2, 30, stagger_s=0.01), Load(concurrency=5)),
    "growing": ([request(n, n, ttft_s=0.1 + 0.3 * n, tokens=1, scheduled_s=n) for n in range(41)], Load(rate_rps=1.0)),
    "a reply as long as the run": (
        [request(0, 0.0, scheduled_s=0.0, gap_s=5.0), *(request(n, n / 10, scheduled_s=n / 10) for n in range(1, 300))],
        Load(rate_rps=10.0),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_window_is_that_of_plain_loops(name):
    """Edges, seconds, ramp, drain, what is lacking, the advice, and every number of the rule."""
    records, load = CASES[name]
    start, end, offered_s, ramp_s, drain_s, lacking, advice, numbers = by_hand(records, load)
    window, rule = find_window(measured(frame(records, RequestRecord)), load)
    assert (window.start_ns, window.end_ns, window.lacking) == (start, end, lacking)
    assert (window.offered_s, window.ramp_s, window.drain_s) == pytest.approx((offered_s, ramp_s, drain_s), abs=1e-12)
    assert window.advice == advice if lacking != "queue_growing" else window.advice.endswith(f"{advice})")
    assert re.findall(r"\d[\d.]*", rule) == [n for n in numbers if n[0].isdigit()]
    assert window.rule == rule


def test_the_drawn_runs_are_of_every_kind():
    """With and without a steady part, open and closed."""
    kinds = {(load.concurrency is None, by_hand(records, load)[5]) for records, load in CASES.values()}
    assert kinds >= {
        (True, None),
        (False, None),
        (True, "window_too_short"),
        (False, "window_too_short"),
        (True, "queue_growing"),
    }


@pytest.mark.parametrize("durations", [[7], [1, 1, 1, 97], [5, 5, 6], [100, 1], list(range(1, 200)), [3, 0, 0]])
def test_the_settling_time_is_the_smallest(durations):
    """By bisection, to the nanosecond."""
    assert settling_ns(np.array(durations, np.int64)) == settled(durations)


def test_what_counts_as_offered():
    """Sent in (start, end], or never sent and due in it, or where nothing says when it was due scheduled in it."""
    plain = request(0, 2.0, scheduled_s=1.0)
    unsent = replace(failed(plain, sent=False), due_ns=ns(2.0))
    rows = [
        *(replace(plain, sent_ns=ns(at)) for at in (1.0, 1.000000001, 3.0, 3.000000001)),
        *(replace(unsent, due_ns=ns(at)) for at in (1.0, 1.000000001, 3.0, 3.000000001)),
        *(replace(unsent, due_ns=None, scheduled_ns=ns(at)) for at in (1.0, 3.0)),
        replace(plain, sent_ns=ns(9), due_ns=ns(2)),
        replace(unsent, due_ns=ns(9), scheduled_ns=ns(2)),
        replace(unsent, due_ns=None, scheduled_ns=None),
    ]
    found = offered(measured(frame(rows, RequestRecord)), ns(1), ns(3)).tolist()
    assert found == [False, True, True, False] * 2 + [False, True, False, False, False]


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ([], "no request of the measured phase was sent"),
        ([failed(request(0, 1.0))], "no request of the measured phase succeeded"),
        ([replace(request(0, 1.0), last_token_ns=None)], "no request of the measured phase succeeded"),
        (
            [replace(failed(request(0, 1.0))), replace(request(1, 1.0), sent_ns=None)],
            "no request of the measured phase succeeded",
        ),
        ([request(0, 1.0, ttft_s=0.0, tokens=1)], "the measured phase lasted 0 ns"),
        ([request(0, 1.0, ttft_s=1e-9, tokens=1)], None),
    ],
)
def test_where_there_is_no_window(rows, why):
    """And why."""
    window, rule = find_window(measured(frame(rows, RequestRecord)), Load(concurrency=1))
    assert (window is None) == (why is not None)
    assert why is None or rule == why
