"""Decisions as whole values: the reason, what would flip it, constraints and what they exclude, every threshold by hand.

Two machines of $4 that serve 5 requests/s each inside their headroom, one of them the spare: $5,844 a month of 730.5 hours.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.planner.scenario.decide import Decision, decide
from harness.planner.scenario.options import Option
from harness.planner.scenario.run import run_scenario
from tests.planner.scenario_values import hosted, scenario

NOTHING_PAYS = ("hybrid: 0 machines always on, the rest to host/m", "not a machine pays for itself: the same as hosted")
SLO = "SLO: P99 TTFT <= 2 s"
CASES = {
    "dear machines": (
        {},
        "hosted",
        "host/m: $2,000 a month, against $5,844 for self-hosted (2 machines, box)",
        (
            "hosted price: self-hosting is cheaper above $0.5844 per 1,000 requests; host/m is at $0.2000",
            "machine price: self-hosting is cheaper below $1.37 per hour; it is $4.0",  # 2000 / 730.5 / 2
            "volume: no volume flips it against host/m: a machine would have to carry 111% of what headroom and peaks leave of it",  # 4 / (0.72 x 5)
        ),
        (SLO,),
        (NOTHING_PAYS,),
    ),
    "dear tokens": (
        {"hosted": [hosted(1.0)]},
        "hybrid",
        "1 machine always on, the rest to host/m: $2,922 a month, against $5,844 for self-hosted (2 machines, box)",
        (
            "hosted price: self-hosting is cheaper above $0.5844 per 1,000 requests; host/m is at $1.00",
            "machine price: self-hosting is cheaper below $6.84 per hour; it is $4.0",
            "volume: self-hosting is first cheaper than host/m at 5,844,000 requests a month, for good from 5,844,000",  # 8 / 3.6 rps
            "people: self-hosting is cheaper with fewer than 0.1593 people; 0 are planned",  # 5.689 / (150 x 40 / 168)
        ),
        (SLO,),
        (),
    ),
    "a minimum just above": (
        {"hosted": [hosted(minimum_usd_per_month=6000)]},
        "hosted",
        "host/m: $6,000 a month, within 10 % of the cheapest (self-hosted, $5,844) and simpler to run",
        (
            "hosted price: self-hosting is cheaper at every price: the minimum commitment of host/m alone is more",
            "machine price: self-hosting is cheaper below $4.11 per hour; it is $4.0",
            "volume: self-hosting is cheaper than host/m, whose minimum commitment is due, from the first request on; above 13,149,000 requests a month hosted is",
            "people: self-hosting is cheaper with fewer than 0.005979 people; 0 are planned",
        ),
        (SLO,),
        (NOTHING_PAYS,),
    ),
    "data and people": (
        {"constraints": {"data_stays_inside": True, "engineers": 0.1, "latency": "in the EU"}, "labour": {"full_time": 0.1}},
        "self-hosted",
        "the only one that may be taken: 2 machines, box, $8,453 a month; the constraints cost $6,453 a month (host/m is $2,000)",
        (
            "hosted price: self-hosting is cheaper above $0.8453 per 1,000 requests; host/m is at $0.2000",
            "machine price: not even a free machine is cheaper than host/m: labour and storage alone are more than its bill",
            "volume: no volume flips it against host/m: a machine would have to carry 111% of what headroom and peaks leave of it",
        ),
        (
            SLO,
            "privacy: data stays inside; what that costs is the difference to the cheapest hosted option",
            "latency: in the EU",
            "engineers: 0.1 to run it, 0.1 needed for self-hosting",
        ),
        (("hosted: host/m", "data may not leave (data_stays_inside)"), NOTHING_PAYS),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_everything_a_decision_says(name):
    """Choice, reason, thresholds, constraints and exclusions; odds and warnings are the result's."""
    change, choice, reason, flips, constraints, excluded = CASES[name]
    result = run_scenario(scenario(**change))
    flipping = ", ".join(result.outlook.flips) or "none"
    assert decide(result) == Decision(
        choice=choice,
        option=next(o for o in result.options if o.kind == choice),
        reason=reason,
        flips=(*flips, f"assumptions whose declared range alone flips it: {flipping}"),
        constraints=constraints,
        excluded=excluded,
        p_self_cheaper=result.outlook.p_self_cheaper,
        p_never=result.outlook.p_never,
        warnings=result.warnings,
    )


def flips_of(**change):
    return decide(run_scenario(scenario(**change))).flips


def test_volumes_under_a_minimum_that_hosted_outgrows_for_a_while():
    """$10/h committed: one stair of self-hosting is below it; at $1.08 an rps-hour it is again, for good, from 28 / 1.08 rps on."""
    lines = flips_of(hosted=[hosted(0.3, minimum_usd_per_month=7305)])
    assert (
        "volume: self-hosting is cheaper than host/m, whose minimum commitment is due, from the first request on; "
        "above 13,149,000 requests a month hosted is, for good from 68,180,000"
    ) in lines


def test_free_tokens_have_no_crossing_and_a_price_of_nothing():
    """At $0 no volume, and no use of a machine, beats it."""
    lines = flips_of(hosted=[hosted(0.0)])
    assert lines[0].endswith("host/m is at $0.00")
    assert lines[2] == "volume: none against host/m"


def test_flips_are_against_the_price_that_is_compared_with():
    """Of two prices the cheaper one is the reference, wherever it stands."""
    dear = hosted(0.9, provider="dear")
    for prices in ([dear, hosted()], [hosted(), dear]):
        assert flips_of(hosted=prices) == flips_of()


def test_no_reference():
    """Nothing to compare with: no odds, and one line."""
    found = decide(run_scenario(scenario(hosted=[hosted(meets_slo=False)])))
    assert found.flips == ("a hosted price that is feasible would be something to compare with",)
    assert (found.p_self_cheaper, found.p_never) == (None, None)


# ---------------------------------------------------------------- of several


RESULT = run_scenario(scenario())


def option(kind, usd, name=None, *, why=None, notes=()):
    return Option(kind, name or f"the {kind}", D(usd), D(usd) / 10**7, why, notes, {})


def deciding(*options, result=RESULT):
    """Decided between these; the hosted price is still the result's reference."""
    reference = option("hosted", 10**6, "host/m", why="too slow")
    return decide(replace(result, options=(*options, reference)))


def test_of_equals_the_simplest_to_run():
    """Hosted before dedicated before self-hosted before hybrid, of two of a kind the cheaper one."""
    order = ["hosted", "dedicated", "self-hosted", "hybrid"]
    options = [option(kind, 100) for kind in reversed(order)]
    for kind in order:
        assert deciding(*options).choice == kind
        options = [o for o in options if o.kind != kind]
    two = deciding(option("hosted", 105, "x"), option("hosted", 104, "y"), option("hybrid", 100))
    assert (two.option.name, two.reason) == (
        "y", "y: $104 a month, within 10 % of the cheapest (hybrid, $100) and simpler to run",
    )  # fmt: skip


def test_against_the_cheapest_of_another_kind():
    """The runner-up that is named is the cheapest that is bought otherwise."""
    found = deciding(option("hosted", 100, "x"), option("hosted", 120, "y"), option("hybrid", 300), option("dedicated", 200))  # fmt: skip
    assert found.reason == "x: $100 a month, against $200 for dedicated (the dedicated)"
    assert deciding(option("hosted", 100, "x"), option("hosted", 120, "y")).reason == (
        "the only one that may be taken: x, $100 a month"
    )


def test_what_constraints_cost():
    """Only what is feasible, the same product and cheaper, and may not be taken."""
    inside = run_scenario(scenario(constraints={"data_stays_inside": True}))
    own = option("self-hosted", 100, "x")
    for other, words in (
        (option("hosted", 60, "y"), "; the constraints cost $40 a month (y is $60)"),
        (option("hosted", 100, "y"), ""),
        (option("hosted", 60, "y", why="too slow"), ""),
        (option("hosted", 60, "y", notes=("a different product: z",)), ""),
    ):
        assert deciding(own, other, result=inside).reason == f"the only one that may be taken: x, $100 a month{words}"


def test_who_is_needed_to_run_what():
    """More people than there are exclude what runs machines; exactly as many do not; hosted and dedicated need none."""
    every = [option(kind, 100) for kind in ("self-hosted", "hybrid", "dedicated", "hosted")]
    for engineers, excluded in ((0.4, ["self-hosted: the self-hosted", "hybrid: the hybrid"]), (0.5, [])):
        result = run_scenario(scenario(labour={"full_time": 0.5}, constraints={"engineers": engineers}))
        found = deciding(*every, result=result)
        assert [what for what, _ in found.excluded] == [*excluded, "hosted: host/m"]
    why = "needs 0.5 people to run, there are 0.4 (engineers)"
    assert dict(
        deciding(
            *every,
            result=run_scenario(scenario(labour={"full_time": 0.5}, constraints={"engineers": 0.4})),
        ).excluded
    ) == {"self-hosted: the self-hosted": why, "hybrid: the hybrid": why, "hosted: host/m": "too slow"}


def test_another_product_is_excluded_with_its_reason():
    """The model that was asked for is named."""
    found = deciding(option("hosted", 1, "y", notes=("a different product: z",)), option("hybrid", 100))
    assert found.excluded[0] == ("hosted: y", "a different product than m: decide on its quality first")
    assert found.choice == "hybrid"


def test_nothing_that_may_be_taken_says_why():
    """Each reason once."""
    slow = [
        option("hosted", 1, name, why=why) for name, why in (("x", "too slow"), ("y", "too far"), ("z", "too slow"))
    ]
    with pytest.raises(ConfigError, match="nothing may be taken") as error:
        deciding(*slow)
    assert error.value.value == "too slow; too far"
