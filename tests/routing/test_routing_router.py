"""The router's accounts: who is in flight, which side is down, where a session is, through any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config.policy import PolicySpec
from harness.routing.router import Router, Served, SideFacts
from harness.routing.state import HOSTED, OWN, RouteRequest

PROMISE = {"ttft_s": 1.0}


def router(**words):
    rule = {} if "rule" in words else {"rule": "share", "hosted_share": 0.0}
    return Router(PolicySpec(**rule, **words), SideFacts("own"), SideFacts("api"), PROMISE)


def request(seq, session=None, usd=0.01):
    return RouteRequest(seq, 100, 10, session, usd)


def failed(seq):
    return Served(seq, ok=False, is_failure=True)


def test_a_request_is_decided_once():
    """Asked again, later and with both sides changed, the answer is the same and nothing is counted twice."""
    one = router(rule="concurrency", own_in_flight=1)
    first = one.decide(request(0), 0.0)
    assert one.decide(request(0), 9.0) is first
    assert one.state(request(1), 9.0).own.load == 1


def test_a_side_is_down_after_failures_in_a_row_and_up_after_an_answer():
    """Two failures and an answer are none in a row; three are."""
    one = router(failover_after=3)
    for seq in range(6):
        assert one.decide(request(seq), 0.0).side == OWN
    for seq, served in enumerate([failed(0), failed(1), Served(2, ok=True, ttft_s=0.1), failed(3), failed(4)]):
        one.ended(served, 1.0)
        assert one.state(request(99), 1.0).own.is_up, seq
    one.ended(failed(5), 1.0)
    assert not one.state(request(99), 1.0).own.is_up
    assert one.decide(request(6), 1.1).side == HOSTED


def test_a_side_that_is_down_is_asked_every_so_often_until_it_answers():
    """One probe a period, and all requests after the one that was answered."""
    one = router(failover_after=1, probe_every_s=5)
    one.decide(request(0), 0.0)
    one.ended(failed(0), 0.0)
    sides = {at: one.decide(request(at + 1), float(at)).side for at in range(4, 12)}
    assert sides == {4: HOSTED, 5: OWN, 6: HOSTED, 7: HOSTED, 8: HOSTED, 9: HOSTED, 10: OWN, 11: HOSTED}
    one.ended(Served(11, ok=True, ttft_s=0.1), 12.0)  # the probe of second 10
    assert one.decide(request(100), 12.1).side == OWN


def test_what_we_gave_up_ourselves_is_no_failure_of_the_side():
    """Cancelled and dropped requests bring nothing down."""
    one = router(failover_after=1)
    one.decide(request(0), 0.0)
    one.ended(Served(0, ok=False), 0.1)
    assert one.state(request(1), 0.2).own.is_up
    assert (one.judged, one.misses) == (0, 0)


def test_sessions_stay_together():
    """Every later request of a session goes where its first went."""
    one = router(rule="share", hosted_share=0.5)
    first = {session: one.decide(request(session, session), 0.0).side for session in range(8)}
    assert set(first.values()) == {OWN, HOSTED}
    assert {s: one.decide(request(100 + s, s), 1.0).side for s in range(8)} == first


def test_requests_of_others_count_and_ours_only_once():
    """/metrics holds ours too: only what is beyond them is added."""
    one = router()
    one.decide(request(0), 0.0)
    one.saw(OWN, 5.0, 2.0, 0.4)
    side = one.state(request(1), 0.0).own
    assert (side.load, side.waiting, side.kv_usage) == (5.0, 2.0, 0.4)
    one.saw(OWN, 1.0, 0.0, 0.4)
    assert one.state(request(1), 0.0).own.load == 1.0


def test_the_bill_is_that_of_the_hosted_sides_requests():
    """Dollars are counted where they are spent, once a request."""
    one = router(rule="share", hosted_share=0.5)
    for seq in range(10):
        one.decide(request(seq), 0.0)
        one.decide(request(seq), 0.0)
    assert one.hosted_usd == pytest.approx(0.05)


def test_the_hour_is_utcs_or_the_plans():
    """A day of 240 s that begins with the run is at 6:00 after a minute; without one the clock is UTC's."""
    plan = router(rule="clock", hosted_hours=[0], day_s=240)
    assert plan.state(request(0), 60.0).hour == pytest.approx(6.0)
    utc = Router(
        PolicySpec(rule="clock", hosted_hours=[0]), SideFacts("own"), SideFacts("api"), PROMISE, utc_s=23 * 3600.0
    )
    assert utc.state(request(0), 7200.0).hour == pytest.approx(1.0)


def test_a_miss_is_counted_against_what_is_allowed():
    """Of 100 requests at 99 % one may miss; a failure is a miss."""
    one = router()
    for seq in range(100):
        one.decide(request(seq), 0.0)
        one.ended(Served(seq, ok=True, ttft_s=0.5 if seq else 2.0), 1.0)
    now = one.state(request(200), 2.0)
    assert (now.misses, now.allowed_misses) == (1, pytest.approx(1.0))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(
        [
            {"rule": "slo"},
            {"rule": "cost"},
            {"rule": "concurrency", "own_in_flight": 2},
            {"rule": "share", "hosted_share": 0.4},
        ]
    ),
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.floats(0.001, 3)), max_size=200),
)
def test_through_any_events_every_request_is_on_one_side(spec, events):
    """Loads are what was decided and has not ended, and are 0 in the end, whatever failed meanwhile."""
    one = Router(PolicySpec(**spec), SideFacts("own"), SideFacts("api"), PROMISE)
    under_way, seq, at_s = {}, 0, 0.0
    for begins, kind, wait_s in events:
        at_s += wait_s
        if begins or not under_way:
            under_way[seq] = one.decide(request(seq, seq % 5 if kind == 3 else None), at_s).side
            seq += 1
        else:
            done = sorted(under_way)[kind % len(under_way)]
            under_way.pop(done)
            one.ended(Served(done, kind == 0, is_failure=kind == 1, ttft_s=wait_s, tpot_s=wait_s / 50), at_s)
        now = one.state(request(10**6), at_s)
        assert (now.own.load, now.hosted.load) == tuple(list(under_way.values()).count(w) for w in (OWN, HOSTED))
    for done in under_way:
        one.ended(Served(done, ok=True, ttft_s=0.1), at_s)
    now = one.state(request(10**6), at_s)
    assert (now.own.load, now.hosted.load, now.own.sent + now.hosted.sent) == (0, 0, seq)
