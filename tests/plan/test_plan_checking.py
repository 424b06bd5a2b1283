"""check: the source's figures beside those of a sample, as a command and for one's own presets."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.catalogue import workloads
from harness.measure.plan.checking import check
from harness.measure.plan.describing import describe
from harness.measure.plan.preset import presets


@pytest.mark.parametrize("name", presets())
def test_presets_reproduce_their_sources(name):
    """10,000 requests: every figure within 10 % (bursts within 25 %, shares within 2 points). The p99 of sessions is left to
    test_plan_sessions: their quantiles lie so far apart that so many calls do not tell it."""
    for one in check(name, 10_000):
        if name.startswith("agent") and "p99" in one.quantity:
            continue
        allowed = 0.02 if one.unit == "share" else 0.25 if one.quantity.startswith("arrivals") else 0.1
        assert one.deviation is not None
        assert abs(one.deviation) <= allowed, one


def test_a_preset_that_does_not_reproduce_is_seen(tmp_path):
    """A wrong mean in `check` shows as a deviation of that size."""
    (tmp_path / "p.yaml").write_text(
        "prompt_quantile_levels: [0, 1]\nprompt_tokens: [100, 300]\noutput_given_prompt_quantile_levels: [0, 0.5, 1]\n"
        "output_tokens_by_prompt_bin:\n- {prompt_rank: [0, 1], output_tokens: [5, 10, 20]}\n"
        "check: {prompt_mean: 100}\nsource: {name: x, repository: y, licence: CC0}\n"
    )
    found = {one.quantity: one for one in check(str(tmp_path / "p.yaml"), 20_000)}
    assert found["prompt mean"].deviation == pytest.approx(1.0, abs=0.01)
    assert found["output p50"].deviation == pytest.approx(0.0, abs=0.06)


def test_what_has_no_source():
    """A short form is an error; a preset of a fixed shape has nothing to check but its rate."""
    with pytest.raises(ConfigError, match="only a preset"):
        check("fixed:1x1")
    assert check("1024x128", 1000) == []


def test_the_command_prints_a_table_and_json():
    """`harness workloads check NAME`: source, drawn and deviation of each figure; the same as JSON."""
    run = CliRunner().invoke
    shown = run(workloads, ["check", "code", "--n", "5000"]).output
    assert "prompt mean, tokens" in shown
    assert "2,047.8" in shown
    rows = json.loads(run(workloads, ["check", "code", "--n", "5000", "--json"]).output)["code"]
    assert {"quantity", "unit", "source", "drawn", "deviation"} == set(rows[0])


def test_what_is_told_of_a_preset_is_the_same_every_time():
    """Both draw: with a fixed seed, so that two people see the same figures."""
    assert check("code", 2000) == check("code", 2000)
    assert describe("code") == describe("code")


def test_a_session_that_the_sample_cuts_is_left_out(tmp_path):
    """15 calls of sessions of 10: the calls of a session are 10, not the 5 before the sample ends; one alone counts as it is."""
    tables = ("first_prompt_tokens", "new_prompt_tokens_per_later_call", "output_tokens", "think_time_s")
    (tmp_path / "p.yaml").write_text(
        "sessions:\n  context_limit_tokens: 100000\n  quantile_levels: [0, 0.5, 0.9, 0.99, 1]\n"
        "  calls_per_session: [10, 10, 10, 10, 10]\n"
        + "".join(f"  {table}: [7, 7, 7, 7, 7]\n" for table in tables)
        + "source: {name: x, repository: y, licence: CC0}\n"
    )
    for rows, calls in ((15, 10), (6, 6)):
        found = {one.quantity: one.drawn for one in check(str(tmp_path / "p.yaml"), rows)}
        assert {found[f"calls per session {level}"] for level in ("p50", "p90", "p99")} == {calls}


def test_a_bin_is_not_the_marginal(tmp_path):
    """Outputs by two bins of the prompt and no quantiles of all outputs: none is compared with the first bin's."""
    (tmp_path / "p.yaml").write_text(
        "prompt_quantile_levels: [0, 0.5, 1]\nprompt_tokens: [100, 200, 300]\n"
        "output_given_prompt_quantile_levels: [0, 0.5, 1]\noutput_tokens_by_prompt_bin:\n"
        "- {prompt_rank: [0, 0.5], output_tokens: [5, 10, 20]}\n- {prompt_rank: [0.5, 1], output_tokens: [50, 100, 200]}\n"
        "source: {name: x, repository: y, licence: CC0}\n"
    )
    assert [one.quantity for one in check(str(tmp_path / "p.yaml"), 2000)] == [
        "prompt p50",
        "output p50 in prompt ranks 0-0.5",
        "output p50 in prompt ranks 0.5-1",
    ]
