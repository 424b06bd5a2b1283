"""Whether a hosted API keeps the promise is taken from runs against it where there are some."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.planner.measured import measured_capacity
from harness.planner.scenario.decide import decide
from harness.planner.scenario.run import run_scenario
from harness.records import Cell, Load
from tests.planner.measured_runs import FAILED, at
from tests.planner.scenario_values import hosted, scenario

NOT_MEASURED = "whether it meets the SLO is not measured"


def api(attainments, rate=5.0, **words):
    """Runs against the API whose price is host/m, a repetition each."""
    config = {
        "slo": {"ttft_s": 1, "attainment": 0.99},
        "targets": [{"name": "api", "kind": "hosted", "url": "https://host.example/v1", "price": {"provider": "host", "model": "m"}}],
    }  # fmt: skip
    return [
        replace(
            at(rate, f"api{rate:g}-{rep}", attainment=kept, target_kind="hosted"),
            cell=Cell("api", "w", Load(rate_rps=rate, arrivals="poisson"), rep), config=config, model="m", **words,
        )
        for rep, kept in enumerate(attainments)
    ]  # fmt: skip


def decided(runs, **part):
    """The decision for a chat of a server that serves 10 requests/s, with these runs beside its own."""
    words = {
        "workload": {"kind": "interactive"},
        "capacity": {"requests_per_s": None, "run": "x"},
        "hosted": [hosted(**part)],
    }
    return decide(run_scenario(scenario(**words), measured_capacity([at(10), *runs])))


def taken(found):
    """Whether the hosted option may be taken."""
    return not any(name.startswith("hosted") for name, _ in found.excluded)


def test_without_runs_against_it_nothing_is_known():
    """An experiment of our own server alone leaves the hosted side unmeasured, and says so."""
    assert any(NOT_MEASURED in warning for warning in decided([]).warnings)


def test_a_measured_attainment_stands_in_the_place_of_not_measured():
    """Three repetitions above the promise: the option stays, with its attainment and interval."""
    found = decided(api([0.995, 0.996, 0.997]))
    told = "\n".join(found.warnings)
    assert NOT_MEASURED not in told
    assert "measured attainment 99.60 % (95 %: 99." in told.replace("%", " %").replace("  ", " ")
    assert taken(found)


def test_an_api_that_misses_the_promise_is_not_taken():
    """The whole interval below 99 %: excluded with the figures, and the choice is another."""
    found = decided(api([0.90, 0.91, 0.92]))
    (why,) = [why for name, why in found.excluded if name == "hosted: host/m"]
    assert "measured attainment 91.00%" in why
    assert found.choice == "self-hosted"


@pytest.mark.parametrize("kept", [(0.98, 0.99, 0.995), (0.97, 0.999, 0.999)], ids=str)
def test_an_interval_that_holds_the_promise_excludes_nothing(kept):
    """A mean below 99 % whose interval reaches it is told, and that more repetitions would tell."""
    found = decided(api(kept))
    assert taken(found)
    assert any("more repetitions would tell" in warning for warning in found.warnings)


def test_the_load_of_the_lowest_attainment_counts():
    """Kept at one request a second, missed at five: it is missed, and the sentence names the load."""
    found = decided([*api([0.999] * 3, rate=1.0), *api([0.5, 0.51, 0.52])])
    (why,) = [why for name, why in found.excluded if name == "hosted: host/m"]
    assert "at 5 req/s, the lowest of 2 loads" in why


def test_runs_against_another_api_say_nothing_of_this_one():
    """The price is of host/m; runs of a target that declares another price leave it unmeasured. So do INVALID ones."""
    other = api([0.5, 0.51, 0.52])
    for run in other:
        run.config["targets"][0]["price"] = {"provider": "other", "model": "m"}
    for runs in (other, api([0.5, 0.51, 0.52], verdict=FAILED)):
        assert any(NOT_MEASURED in warning for warning in decided(runs).warnings)


def test_what_is_declared_stands():
    """meets_slo of the scenario is the user's word: measured runs do not overrule it."""
    assert taken(decided(api([0.5, 0.51, 0.52]), meets_slo=True))
