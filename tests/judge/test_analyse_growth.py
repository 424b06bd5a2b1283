"""A growing queue of an open loop: what is watched, and from which slope and rise on it counts."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from harness.judge.columns import measured
from harness.judge.window import _typical_e2el_s, find_window, growing
from harness.records import Load, RequestRecord, Window
from tests.judge import serving
from tests.judge.run_builder import BASE_NS, frame, ns, request
from tests.judge.serving import Engine, Offered


def of(records):
    return measured(frame(records, RequestRecord))


def test_what_is_watched_is_the_wait_from_the_schedule_and_a_mean_reply_at_each_requests_tpot():
    """By hand, in the order of sending: lag + TTFT + TPOT x (mean tokens - 1); a reply of one token has no TPOT and gets the mean
    of the others'; what was not due counts from its send; failed requests and those outside the window are left out."""
    records = [
        request(0, 9.0, ttft_s=9.0, tokens=30, scheduled_s=9.0),  # outside
        request(1, 12.0, ttft_s=0.5, tokens=6, gap_s=0.04, scheduled_s=11.0),
        request(2, 11.0, ttft_s=0.1, tokens=1, scheduled_s=10.7),
        replace(request(3, 13.0, ttft_s=0.2, tokens=14, gap_s=0.02), due_ns=None),
        replace(request(4, 12.5, scheduled_s=12.0), outcome="truncated"),  # failed after its first token
    ]
    at, typical = _typical_e2el_s(of(records), Window(ns(10), ns(13), "", 0, 0, 0))
    mean_tokens = (6 + 1 + 14) / 3
    assert at == pytest.approx([1.0, 2.0, 3.0])
    assert typical == pytest.approx(
        [0.4 + 0.03 * (mean_tokens - 1), 1.5 + 0.04 * (mean_tokens - 1), 0.2 + 0.02 * (mean_tokens - 1)]
    )


def test_replies_of_one_token_are_their_wait_alone():
    """Without any TPOT the wait until the only token is what is watched."""
    records = [request(n, float(n + 1), ttft_s=0.3, tokens=1, scheduled_s=float(n + 1)) for n in range(3)]
    assert _typical_e2el_s(of(records), Window(ns(0), ns(9), "", 0, 0, 0))[1] == pytest.approx([0.3] * 3)


def rising(slope, mean_s, *, seconds=40, count=40):
    """One-token replies sent evenly, whose wait rises by `slope` seconds a second around `mean_s`."""
    step = seconds / count
    return of(
        [
            request(
                n,
                (n + 1) * step,
                ttft_s=mean_s + slope * ((n + 1) * step - seconds / 2),
                tokens=1,
                scheduled_s=(n + 1) * step,
            )
            for n in range(count)
        ]
    )


@pytest.mark.parametrize(
    ("slope", "mean_s", "grows"),
    [
        (0.0201, 40.0, True),  # departures 2 % behind the arrivals, a rise of 2 % of the mean
        (0.0199, 40.0, False),
        (0.0099, 3.9, True),  # 1 % behind, a rise of a tenth of the mean
        (0.0099, 4.1, False),
        (-0.5, 40.0, False),
        (0.0, 40.0, False),
    ],
)
def test_a_queue_grows_by_its_slope_or_by_its_rise(slope, mean_s, grows):
    """Above 2 % of the time that passes, or above a tenth of the mean over the window: either is enough, and less of both is not."""
    said = growing(rising(slope, mean_s), BASE_NS, ns(40), 1, "poisson")
    assert (said is not None) == grows
    if grows:
        rise, mean, share = (float(word) for word in re.findall(r"([0-9.]+)(?= s |%| s\))", said)[:3])
        assert rise == pytest.approx(slope * 40, rel=0.01)
        assert mean == pytest.approx(mean_s, rel=0.01)
        assert share == pytest.approx(slope * 100, rel=0.01)


def test_sixteen_requests_are_the_fewest_that_show_growth():
    """Four blocks of four; of fifteen nothing is said, however steep."""
    assert growing(rising(0.5, 40, count=16), BASE_NS, ns(40), 1, "poisson") is not None
    assert growing(rising(0.5, 40, count=15), BASE_NS, ns(40), 1, "poisson") is None


@pytest.mark.parametrize(("slope", "least", "most"), [(0.0, 8, 32), (0.03, 360, 400)])
def test_chance_is_not_growth_and_growth_is_seen_through_chance(slope, least, most):
    """Waits of 1 s that scatter by half of that, in 400 runs of 40 requests: without a trend growth is seen in 5 % of them, where they
    rise by 3 % of the time in 90 % or more."""
    rng = np.random.default_rng(1)
    plain = of([request(n, n + 1, tokens=1, scheduled_s=n + 1) for n in range(40)])
    seen = 0
    for _ in range(400):
        waits_s = 1 + 0.5 * rng.standard_normal(40).clip(-1.9, 1.9) + slope * np.arange(40)
        first = replace(plain.first_token, data=plain.sent.data + np.round(waits_s * 1e9).astype(np.int64))
        seen += growing(replace(plain, first_token=first), BASE_NS, ns(40), 1, "poisson") is not None
    assert least <= seen <= most


def test_what_would_show_that_a_load_only_built_up_is_a_run_twice_as_long():
    """A queue that grows over 40 s: the advice is a lower rate, or 80 s."""
    records = [request(n, n, ttft_s=0.1 + 0.3 * n, tokens=1, scheduled_s=n) for n in range(41)]
    window, _ = find_window(of(records), Load(rate_rps=1))
    assert window.lacking == "queue_growing"
    assert "offer less" in window.advice
    assert int(re.search(r"last (\d+) s", window.advice)[1]) == 80


@pytest.mark.parametrize("arrivals", ["ramp", "ramp:1-3", "step:1,2", "poisson"])
def test_of_a_rate_that_is_meant_to_rise_nobody_is_told_that_it_is_too_high(arrivals):
    records = [request(n, n, ttft_s=0.1 + 0.3 * n, tokens=1, scheduled_s=n) for n in range(41)]
    window, _ = find_window(of(records), Load(rate_rps=1, arrivals=arrivals))
    assert window.lacking == "queue_growing"
    assert ("too high" in window.advice) == (arrivals == "poisson")
    assert window.advice.startswith(f"{arrivals} changes the rate") == (arrivals != "poisson")


def crowded(each_s, slope=0.0, turns=False):
    """A request a second for 40 s and four a second from 24 s on; 1 s a reply, `each_s` more for each other sent within a second of it.
    `turns`: the extra ones are later turns of sessions."""
    at = np.sort(np.concatenate([np.arange(0.5, 40), np.arange(24.1, 40, 1 / 3)]))
    near = np.array([int((abs(at - t) <= 1).sum()) - 1 for t in at])
    waits_s = 1 + each_s * near + slope * at + 0.02 * np.resize([-1, 1, 1, -1], len(at))
    return of(
        [
            request(n, t, tokens=1, ttft_s=wait, scheduled_s=None if turns and t % 1 != 0.5 else t)
            for n, (t, wait) in enumerate(zip(at, waits_s, strict=True))
        ]
    )


@pytest.mark.parametrize(("each_s", "slope", "grows"), [(0.1, 0.0, False), (0.1, 0.03, True), (0.0, 0.03, True)])
def test_a_late_burst_that_is_served_is_no_growth_and_growth_beside_it_is(each_s, slope, grows):
    """Replies are slower while more are sent, and the busier part is the later; a queue that also grows is told, with about its own slope."""
    said = growing(crowded(each_s, slope), BASE_NS, ns(40), 1, "poisson")
    assert (said is not None) == grows
    if grows:
        assert float(re.search(r"([0-9.]+)% of the time", said)[1]) == pytest.approx(100 * slope, rel=0.25)
        assert said.endswith(
            "of the time that passed, without what bursts of arrivals add" if each_s else "of the time that passed"
        )


def test_later_turns_of_sessions_are_no_burst_of_the_plan():
    """They come after replies, so that a queue which grows has more of them or fewer."""
    assert growing(crowded(0.1, turns=True), BASE_NS, ns(40), 1, "poisson") is not None


@pytest.mark.parametrize("arrivals", ["ramp:0-2", "step:1,3", "trace", "onoff:20:20", "diurnal:flat", "preset"])
def test_a_rate_that_is_meant_to_change_is_no_chance(arrivals):
    """The same requests, by another word: where the rate itself rises there is no steady part."""
    said = growing(crowded(0.1), BASE_NS, ns(40), 1, arrivals)
    assert said.endswith("of the time that passed")


@pytest.mark.parametrize(
    ("load", "arrivals", "least", "most"),
    [
        (0.6, "poisson", 0, 1), (1.3, "poisson", 38, 40), (0.9, "ramp:0.667-1.333", 37, 40), (0.9, "step:0.667,1.333", 37, 40)
    ],
)  # fmt: skip
def test_arrivals_by_chance_are_no_growth_and_too_many_are(load, arrivals, least, most):
    """40 runs of 30 s before a server of 32 slots whose replies are slower the more there are: at 60 % of what it can serve hardly any has
    a growing queue (without regard to bursts: 4 of them), at 130 % hardly any has a steady part, nor
    where it rises from 60 to 120 %."""
    engine = Engine(step_s=0.02, per_sequence_s=0.001, prefill_s_per_token=0.0001, slots=32)
    offered = Load(rate_rps=round(load * engine.capacity_rps(64, 50), 3), arrivals=arrivals)
    lacking = [
        find_window(measured(serving.frame(serving.serve(engine, Offered("fixed:64x50", offered, duration_s=30), seed), offered)), offered)[0].lacking
        for seed in range(40)
    ]  # fmt: skip
    assert least <= sum(word is not None for word in lacking) <= most
