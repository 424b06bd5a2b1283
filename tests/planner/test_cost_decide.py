"""Decisions: the cheapest that may be taken, what flips it, and constraints that money does not know."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import pytest

from harness.base.errors import ConfigError
from harness.planner.scenario.decide import decide
from harness.planner.scenario.run import run_scenario
from tests.planner.scenario_values import hosted, scenario


def decided(**changes):
    return decide(run_scenario(scenario(**changes)))


def test_little_traffic_is_hosted():
    """$2,000 hosted against $5,844: hosted, with the odds beside it."""
    found = decided()
    assert found.choice == "hosted"
    assert "$2,000 a month, against $5,844 for self-hosted" in found.reason
    assert found.p_self_cheaper < 0.1


def test_much_traffic_is_not():
    """300M requests at $0.5/M are $150,000 hosted; 23 machines and a spare are $70,128: self-hosted or hybrid, never hosted."""
    found = decided(demand={"requests_per_month": 3e8}, hosted=[hosted(0.5)])
    assert found.choice in {"self-hosted", "hybrid"}
    assert found.p_self_cheaper > 0.9


def test_flips_are_where_the_answer_changes():
    """The hosted price and the machine price named as thresholds do flip the cheaper side, just above and below."""
    base = scenario(demand={"requests_per_month": 5e7})
    result = run_scenario(base)
    a = result.against[0]

    def cheaper(spec):
        r = run_scenario(spec)
        by_kind = {o.kind: o.usd_per_month for o in r.options}
        return "self" if by_kind["self-hosted"] < by_kind["hosted"] else "hosted"

    for factor, side in ((0.999, "hosted"), (1.001, "self")):
        usd = float(a.hosted_usd_per_request) * 1000 * factor  # $/M of 1,000 tokens a request
        assert cheaper(scenario(demand={"requests_per_month": 5e7}, hosted=[hosted(usd)])) == side
        box = {
            "name": "box",
            "usd_per_hour": float(a.machine_usd_per_hour) / factor,
            "source": "q",
            "as_of": "2026-11-01",
        }
        assert cheaper(scenario(demand={"requests_per_month": 5e7}, machine={"declared": box})) == side


def test_volume_thresholds_are_where_the_answer_changes():
    """Just below the first crossing hosted is cheaper, just above it self-hosted."""
    first = run_scenario(scenario(hosted=[hosted(0.5)])).figure("first_crossing_0")
    months = []
    for factor in (0.999, 1.001):
        r = run_scenario(scenario(demand={"requests_per_month": float(first) * factor}, hosted=[hosted(0.5)]))
        by_kind = {o.kind: o.usd_per_month for o in r.options}
        months.append(by_kind["self-hosted"] < by_kind["hosted"])
    assert months == [False, True]


def test_privacy_excludes_everything_that_leaves_and_has_a_price():
    """data_stays_inside: self-hosted, at a cost that is named."""
    found = decided(constraints={"data_stays_inside": True})
    assert found.choice == "self-hosted"
    assert "the constraints cost $3,844 a month" in found.reason
    assert any("data may not leave" in why for _, why in found.excluded)


def test_too_few_engineers_exclude_self_hosting():
    """Labour of 0.5 people and 0.2 engineers: hosted even where it is dearer."""
    cheap = {"demand": {"requests_per_month": 3e8}, "hosted": [hosted(1.0)], "labour": {"full_time": 0.5}}
    assert decided(**cheap).choice != "hosted"
    found = decided(**cheap, constraints={"engineers": 0.2})
    assert found.choice == "hosted"
    assert any("engineers" in line for line in found.constraints)


def test_nothing_left_is_an_error():
    """Privacy without engineers: no option, and the error says which constraints."""
    with pytest.raises(ConfigError, match="nothing may be taken") as error:
        decided(labour={"full_time": 1}, constraints={"data_stays_inside": True, "engineers": 0})
    assert "engineers" in str(error.value)


def test_a_different_product_is_never_chosen_by_price():
    """A cheaper other model is excluded, with the reason."""
    other = hosted(0.01, same_model=False, tokenizer_ratio=1, model="tiny")
    found = decided(hosted=[hosted(), other])
    assert found.option.name == "host/m"
    assert any("different product" in why for _, why in found.excluded)


def test_a_dedicated_endpoint_is_an_option():
    """A unit at $2.50/h that carries the load: $1,826 a month beats $2,000 hosted by less than 10 %: hosted is simpler and taken;
    at $1/h it is dedicated."""
    for usd, choice in ((2.5, "hosted"), (1.0, "dedicated")):
        part = {"usd_per_unit_hour": usd, "unit_requests_per_s": 10, "source": "quote"}
        assert decided(hosted=[hosted(dedicated=part)]).choice == choice


def test_near_ties_go_to_the_simpler():
    """Of two within 10 %, the one with less to run; the reason says so."""
    result = run_scenario(scenario())
    by_kind = {o.kind: o for o in result.options}
    near = replace(by_kind["self-hosted"], usd_per_month=by_kind["hosted"].usd_per_month * 95 / 100)
    found = decide(replace(result, options=(near, by_kind["hosted"])))
    assert found.choice == "hosted"
    assert "within 10 %" in found.reason


@pytest.mark.parametrize(("hosted_usd", "choice"), [(110, "hosted"), ("110.01", "self-hosted"), (150, "self-hosted"), (199, "self-hosted")])  # fmt: skip
def test_a_tie_ends_at_10_percent(hosted_usd, choice):
    """Hosted at exactly 110 % of self-hosting is taken as the simpler one, a cent beyond it is not, nor at 150 or 199 %."""
    result = run_scenario(scenario())
    by_kind = {o.kind: o for o in result.options}
    own = replace(by_kind["self-hosted"], usd_per_month=Decimal(100))
    bought = replace(by_kind["hosted"], usd_per_month=Decimal(hosted_usd))
    assert decide(replace(result, options=(own, bought))).choice == choice


def test_no_reference_is_said():
    """With no feasible hosted price there are no odds, and the decision stands on what is left."""
    found = decided(hosted=[hosted(meets_slo=False)])
    assert found.choice == "self-hosted"
    assert found.p_self_cheaper is None
    assert "something to compare with" in found.flips[0]


def test_deciding_loads_no_heavy_library():
    """`harness cost decide` and `--help` in a process of their own: no pandas, scipy, pyarrow or matplotlib; for help no specs either."""
    for words, allowed in (
        (["cost", "decide", "startup-chat"], {"numpy", "pydantic", "genai_prices"}),
        (["--help"], set()),
    ):
        code = f"import sys; sys.argv = ['harness', *{words!r}]; from harness.cli import cli; cli.main(standalone_mode=False); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        heavy = {"pandas", "scipy", "pyarrow", "matplotlib", "openai", "numpy", "pydantic", "genai_prices"} & set(
            done.stderr.split()
        )
        assert heavy <= allowed
