"""k of n: whole results, the last spare that is tried, and what is refused."""

from __future__ import annotations

from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.availability import (
    MAX_SPARES,
    Redundancy,
    fallback_usd_per_hour,
    k_of_n,
    spares_for,
    unavailability,
)


def test_down_is_repair_over_the_whole_cycle():
    """1 h of repair after 3 h of work: a quarter; repaired at once: never down."""
    assert unavailability(3, 1) == 0.25
    assert unavailability(3, 0) == 0
    for bad, named in (((0, 1), "time between failures"), ((-1, 1), "time between failures"), ((3, -1), "repair time")):
        with pytest.raises(ConfigError, match=named):
            unavailability(*bad)


@pytest.mark.parametrize(
    ("needed", "total", "down", "up"),
    [(2, 3, 0.5, 0.5), (1, 2, 0.25, 0.9375), (2, 2, 0.25, 0.5625), (0, 2, 0.25, 1), (2, 2, 0, 1), (1, 2, 1, 0), (0, 0, 0.5, 1)],
)  # fmt: skip
def test_k_of_n_is_the_binomial_sum(needed, total, down, up):
    """By hand: two of three coins 1/2, one of two at a quarter down 1 - 1/16, both 9/16; none needed always, none up never."""
    assert k_of_n(needed, total, down) == up


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ((3, 2, 0.1), "more replicas needed"), ((-1, 2, 0.1), "replicas needed is"), ((0.5, 2, 0.1), "replicas needed is"),
        ((1, -1, 0.1), "^replicas is"), ((1, 1.5, 0.1), "^replicas is"), ((1, 2, 1.01), "share of time"), ((1, 2, -0.1), "share of time"),
    ],
)  # fmt: skip
def test_counts_and_shares_that_cannot_be_are_refused(bad, named):
    """More needed than there are, halves of replicas, and shares outside 0 to 1, each by its name."""
    with pytest.raises(ConfigError, match=named):
        k_of_n(*bad)


def test_the_fewest_spares_that_reach_the_target():
    """At the target to the digit is enough; a replica that is never down needs none, even for always."""
    assert spares_for(2, 0.5, 0.5) == Redundancy(needed=2, total=3, availability=0.5, uplift=0.5)
    assert spares_for(2, 0.25, 0.5625) == Redundancy(2, 2, 0.5625, 0.0)
    assert spares_for(1, 0, 1) == Redundancy(1, 1, 1.0, 0.0)
    assert spares_for(4, 0.5, 0.99).uplift == (spares_for(4, 0.5, 0.99).total - 4) / 4


def test_a_hundred_spares_are_tried_and_no_more():
    """Down 99 % of the time, 1 - 0.99^101 is within reach of one replica and 1 - 0.99^102 is not."""
    assert MAX_SPARES == 100
    found = spares_for(1, 0.99, 0.637)
    assert (found.total, found.availability) == (101, pytest.approx(1 - 0.99**101))
    with pytest.raises(ConfigError, match="out of reach"):
        spares_for(1, 0.99, 0.64)


@pytest.mark.parametrize(
    ("bad", "named"),
    [
        ((2, 0.5, 1), "up always"), ((2, 0.5, 0), "^availability is"), ((2, 0.5, 1.01), "^availability is"),
        ((2, 1.5, 0.9), "share of time down"), ((2, 1.5, 1), "share of time down"), ((0, 0.1, 0.9), "replicas needed"),
        ((1.5, 0.1, 0.9), "replicas needed"),
    ],
)  # fmt: skip
def test_targets_that_cannot_be_are_refused(bad, named):
    """Always, never, more than always; no replica, or half of one; each by its name."""
    with pytest.raises(ConfigError, match=named):
        spares_for(*bad)


def test_a_hosted_spare_costs_what_it_takes_over():
    """A quarter down of 3 replicas of 8 rps are 6 rps: 21,600 requests an hour at $0.001; nothing where nothing is down or needed."""
    assert fallback_usd_per_hour(3, 0.25, 8, "0.001") == D("21.6")
    assert type(fallback_usd_per_hour(3, 0.25, 8, "0.001")) is D
    assert fallback_usd_per_hour(3, 0, 8, "0.001") == fallback_usd_per_hour(0, 0.25, 8, "0.001") == 0
    good = {"needed": 3, "down": 0.25, "capacity_rps": 8, "hosted_usd_per_request": 1}
    for name, bad, named in (
        ("needed", -1, "replicas needed"), ("down", 1.5, "share of time down"), ("capacity_rps", 0, "capacity of a replica"),
        ("hosted_usd_per_request", -1, "hosted price"), ("hosted_usd_per_request", None, "hosted price"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=named):
            fallback_usd_per_hour(**{**good, name: bad})
