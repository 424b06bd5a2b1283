"""The chat preset against the figures of its source."""

from __future__ import annotations

import numpy as np
import pytest

from harness.base.files import data_dir
from harness.measure.plan.describing import describe
from harness.measure.plan.drawing import draw
from harness.measure.plan.preset import load_preset
from harness.records import Load

PRESET = load_preset(data_dir("workloads") / "chat.yaml")
ROWS = 100_000


@pytest.fixture(scope="module", params=[1, 2, 3])
def lengths(request):
    """(prompt, output) tokens of 100,000 requests."""
    plan, notes = draw(
        "chat",
        Load(concurrency=1),
        requests=ROWS,
        duration_s=None,
        seed=request.param,
        warmup_requests=0,
        context_limit_tokens=None,
    )
    assert notes == ()
    return (
        np.array([r.target_prompt_tokens for r in plan.requests]),
        np.array([r.target_output_tokens for r in plan.requests]),
    )


def test_means_within_two_percent(lengths):
    """Mean prompt and mean output are the source's."""
    assert lengths[0].mean() == pytest.approx(PRESET.check["prompt_mean"], rel=0.02)
    assert lengths[1].mean() == pytest.approx(PRESET.check["output_mean"], rel=0.02)


def test_quantiles_within_three_percent(lengths):
    """p50, p90, p99 of prompt and output are the source's."""
    for tokens, key in zip(lengths, ("prompt_p50_p90_p99", "output_p50_p90_p99"), strict=True):
        assert np.quantile(tokens, [0.5, 0.9, 0.99]) == pytest.approx(PRESET.check[key], rel=0.03)


def test_conditional_medians_within_ten_percent(lengths):
    """In each tenth of the prompts by rank, the median output is that bin's: the pair is drawn jointly."""
    prompt, output = lengths
    order = np.argsort(prompt, kind="stable")
    middle = PRESET.output_given_prompt_quantile_levels.index(0.5)
    for tenth, rows in zip(PRESET.output_tokens_by_prompt_bin, np.array_split(order, 10), strict=True):
        assert np.median(output[rows]) == pytest.approx(tenth.output_tokens[middle], rel=0.1)


def test_whole_tables_are_reproduced(lengths):
    """Not only the quantiles that `check` names: the share of prompts up to each quantile is its level, to 4 standard deviations."""
    ordered = np.sort(lengths[0])
    below = np.searchsorted(ordered, PRESET.prompt_tokens, side="left") / ROWS
    up_to = np.searchsorted(ordered, PRESET.prompt_tokens, side="right") / ROWS
    levels = np.array(PRESET.prompt_quantile_levels)
    allowed = 4 * np.sqrt(levels * (1 - levels) / ROWS)
    assert (below <= levels + allowed).all()
    assert (up_to >= levels - allowed).all()


def test_describe_shows_quantiles_and_source():
    """`harness workloads show chat` gets means, quantiles, licence and citation."""
    shown = describe("chat")
    assert shown["prompt_tokens"]["quantiles"]["p50"] == pytest.approx(1020, rel=0.03)
    assert shown["output_tokens"]["mean"] == pytest.approx(211.1, rel=0.02)
    assert (shown["licence"], shown["source"]["repository"]) == ("CC-BY-4.0", "Azure/AzurePublicDataset")
    assert "Splitwise" in shown["cite"]
    assert describe("fixed:10x5")["prompt_tokens"] == {
        "mean": 10.0,
        "min": 10,
        "max": 10,
        "quantiles": dict.fromkeys(shown["prompt_tokens"]["quantiles"], 10),
    }
