"""Every rule by hand: a state, a request, and the side that must come out of them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError

from harness.config.policy import PolicySpec
from harness.routing.policies import policy_of
from harness.routing.state import HOSTED, OWN, RouteRequest, SideState, State
from harness.routing.worth import NEWEST, Worth

REQUEST = RouteRequest(seq=0, prompt_tokens=100, output_tokens=10, session=None, hosted_usd=0.002)


class Straight:
    """TTFT of `each_s` seconds a request in flight, itself included; learned from `rows`."""

    def __init__(self, each_s, rows=100):
        self.each_s, self.rows = each_s, rows

    def predict(self, load, prompt_tokens, output_tokens):
        return {"ttft_s": self.each_s * (load + 1)}


def side(name, each_s=0.1, **words):
    return SideState(name, Straight(each_s, words.pop("rows", 100)), **words)


def state(own=None, hosted=None, **words):
    promise = {"ttft_s": 1.0}
    return State(own or side("own"), hosted or side("api", 0.5), promise, **words)


def chosen(spec, at, request=REQUEST):
    return policy_of(PolicySpec(**spec))(at, request)


def test_slo_stays_until_the_margin_and_then_spills():
    """At 0.1 s a request and a promise of 1 s x 0.8, the eighth is the last on the own side."""
    sides = [chosen({"rule": "slo"}, state(side("own", load=n))).side for n in range(10)]
    assert sides == [OWN] * 8 + [HOSTED] * 2


def test_slo_says_what_it_predicted():
    """The reason names the side, the metric, the promise and the load."""
    assert chosen({"rule": "slo"}, state(side("own", load=9, waiting=2))).why == (
        "own: ttft_s 1 of 1 at 9 in flight, 2 waiting"
    )


def test_slo_takes_the_lesser_evil_where_both_would_break():
    """A full hosted side is no refuge: the one that breaks the promise by less is taken."""
    own = side("own", load=10)  # 1.1 s
    assert chosen({"rule": "slo"}, state(own, side("api", 0.5, load=1))).side == HOSTED  # 1.0 s
    assert chosen({"rule": "slo"}, state(own, side("api", 0.5, load=2))).side == OWN  # 1.5 s


def test_slo_spills_where_the_kv_cache_would_be_full():
    """KV usage after this request counts, and is the reason given."""
    own = side("own", kv_usage=0.9, kv_capacity_tokens=1000)  # + 110 tokens: 101 %
    choice = chosen({"rule": "slo"}, state(own))
    assert (choice.side, choice.why) == (HOSTED, "own: KV cache 101% full")
    assert chosen({"rule": "slo"}, state(replace(own, kv_capacity_tokens=10_000))).side == OWN


def test_a_side_of_which_nothing_is_known_gets_one_at_a_time():
    """Before the first row the own side is asked once, and then the other."""
    own = side("own", rows=0)
    assert chosen({"rule": "slo"}, state(own)).side == OWN
    assert chosen({"rule": "slo"}, state(replace(own, load=1))).side == HOSTED


def test_a_side_thought_too_slow_is_asked_again_after_a_while():
    """A server that was slow once is not left for ever."""
    own = side("own", load=20, quiet_s=10.0)
    assert chosen({"rule": "slo"}, state(own)).side == HOSTED
    assert chosen({"rule": "slo"}, state(replace(own, quiet_s=31.0))).side == OWN


@pytest.mark.parametrize(
    ("own_usd", "minimum_usd", "elapsed_s", "billed_usd", "expected"),
    [
        (0.0, 0.0, 0.0, 0.0, OWN),  # paid anyway
        (0.003, 0.0, 0.0, 0.0, HOSTED),  # its own next request costs more than the price
        (0.002, 0.0, 0.0, 0.0, OWN),  # the same: own
        (0.001, 730.0, 3600.0, 0.0, HOSTED),  # $1 of the minimum is paid by now
        (0.001, 730.0, 3600.0, 0.999, OWN),  # .. and used but for half a request
    ],
    ids=["paid", "dear", "equal", "committed", "used"],
)
def test_cost_compares_marginal_dollars(own_usd, minimum_usd, elapsed_s, billed_usd, expected):
    """What is paid already costs nothing more, on either side."""
    spec = {"rule": "cost", "own_usd_per_request": own_usd, "hosted_minimum_usd_per_month": minimum_usd}
    assert chosen(spec, state(elapsed_s=elapsed_s, hosted_usd=billed_usd)).side == expected


def test_cost_leaves_a_side_that_would_break_the_promise_however_cheap():
    """Free and late is not free."""
    assert chosen({"rule": "cost"}, state(side("own", load=9.5))).side == HOSTED


def test_cost_uses_the_misses_that_are_allowed_before_it_pays():
    """Beyond margin and promise it waits for the own side while allowed misses are left, the longer the more of them are."""
    at = state(side("own", load=8.5))  # 0.95 s of 1 s
    assert chosen({"rule": "cost"}, at).side == HOSTED
    full = replace(at, own=side("own", load=14.5))
    sides = [
        chosen({"rule": "cost"}, replace(one, allowed_misses=10.0, misses=misses)).side
        for one in (at, full)
        for misses in (0, 7, 10)
    ]
    assert sides == [OWN, OWN, HOSTED, OWN, HOSTED, HOSTED]


@pytest.mark.parametrize(("worth", "expected"), [(0.0, HOSTED), (0.3, OWN), (1.0, OWN)])
def test_cost_spills_what_is_worth_least_first(worth, expected):
    """Where the queue takes 0.65 s of the 1 s promised, a request that is cheap to host for the time that it would take makes room."""
    at = state(side("own", load=5.5), worth=worth, allowed_misses=10.0)
    assert chosen({"rule": "cost"}, at).side == expected


def test_worth_is_the_place_among_the_recent():
    """The share of them that save less a second, half of those that save the same; the oldest are forgotten."""
    worth = Worth()
    assert [worth.of(usd, 2.0) for usd in (4.0, 2.0, 6.0, 4.0)] == [0.5, 0.0, 1.0, 0.5]
    for _ in range(NEWEST):
        worth.of(1.0, 1.0)
    assert worth.of(1.5, 1.0) == 1.0
    assert worth.of(1.2, 1.0) == 1 - 1 / NEWEST


def test_concurrency_counts_what_is_in_flight():
    """The own side has three at most."""
    spec = {"rule": "concurrency", "own_in_flight": 3}
    assert [chosen(spec, state(side("own", load=n))).side for n in (0, 2, 3, 9)] == [OWN, OWN, HOSTED, HOSTED]


@pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 0.5, 0.97, 1.0], ids=lambda share: f"{share:.2f}")
def test_share_is_kept_at_every_moment(share):
    """After n requests the hosted side has floor(n x share), or one less by rounding."""
    own = hosted = 0
    for n in range(1, 400):
        choice = chosen(
            {"rule": "share", "hosted_share": share}, state(side("own", sent=own), side("api", sent=hosted))
        )
        own, hosted = own + (choice.side == OWN), hosted + (choice.side == HOSTED)
        assert -1e-6 <= n * share - hosted < 1 + 1e-6


def test_clock_looks_at_nothing_but_the_hour():
    """Hours 0 to 3 are hosted, however idle the own side is."""
    spec = {"rule": "clock", "hosted_hours": [0, 1, 2, 3]}
    assert [chosen(spec, state(hour=h)).side for h in (0.0, 3.99, 4.0, 23.9)] == [HOSTED, HOSTED, OWN, OWN]


def test_a_session_stays_whatever_the_rule_says():
    """Its cache is there; without sticky it goes where the rule says."""
    at = state(session_side=HOSTED)
    request = replace(REQUEST, session=7)
    assert chosen({"rule": "slo"}, at, request).side == HOSTED
    assert chosen({"rule": "slo", "sticky": False}, at, request).side == OWN


@pytest.mark.parametrize(
    ("own", "hosted", "expected"),
    [
        ({}, {}, OWN),
        ({"is_up": False}, {}, HOSTED),
        ({"is_up": False, "probe_is_due": True}, {}, OWN),
        ({"is_up": False}, {"is_up": False}, OWN),
        ({}, {"is_up": False}, OWN),
    ],
    ids=["both-up", "own-down", "probe", "both-down", "hosted-down"],
)
def test_failover(own, hosted, expected):
    """A side that is down is left, but for probes; where both are, nothing is gained by moving."""
    assert chosen({"rule": "slo"}, state(side("own", **own), side("api", 0.5, **hosted))).side == expected


def test_a_session_leaves_a_side_that_is_down():
    """Sticky is not stubborn."""
    at = state(hosted=side("api", is_up=False, failures=3), session_side=HOSTED)
    choice = chosen({"rule": "slo"}, at, replace(REQUEST, session=7))
    assert (choice.side, choice.why) == (OWN, "api is down (3 failures in a row)")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ({"rule": "clock"}, "hosted_hours"),
        ({"rule": "share"}, "hosted_share"),
        ({"rule": "concurrency"}, "own_in_flight"),
        ({"rule": "slo", "hosted_share": 0.5}, "no key of rule slo"),
        ({"rule": "clock", "hosted_hours": [24]}, "hour of the day"),
        ({"rule": "share", "hosted_share": 1.5}, "share of the requests"),
    ],
    ids=["clock", "share", "concurrency", "foreign-key", "hour-24", "share-150"],
)
def test_a_policy_that_cannot_be_is_refused(words, complaint):
    """A rule without its value, or with another rule's."""
    with pytest.raises(ValidationError, match=complaint):
        PolicySpec(**words)
