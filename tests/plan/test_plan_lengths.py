"""Workload words and the lengths drawn from them."""

from __future__ import annotations

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.lengths import Fixed, Lognormal, Uniform, parse_short_form, sample
from harness.measure.plan.preset import presets
from harness.measure.plan.streams import Purpose, raw, uniform
from harness.measure.plan.workload import read_workload


def lengths_of(text):
    return read_workload(text).lengths


def _draw(lengths, count=100_000):
    u = uniform(raw(1, Purpose.LENGTHS, 2 * count))
    return sample(lengths, u[0::2], u[1::2])


def test_short_forms():
    """The three short forms, with the CV of lognormal 1 where it is not given."""
    assert parse_short_form("fixed:128x32") == Fixed(128, 32)
    assert parse_short_form("uniform:64-256x16-64") == Uniform((64, 256), (16, 64))
    assert parse_short_form("lognormal:512x128:0.8") == Lognormal(512, 128, 0.8)
    assert parse_short_form("lognormal:512x128") == Lognormal(512, 128, 1.0)


@pytest.mark.parametrize(
    "text",
    ["fixed:128", "fixed:0x5", "fixed:5x0", "fixed:-1x5", "fixed:1.5x2", "uniform:5-3x1-2", "uniform:1-2x0-2",
     "lognormal:5x5:0", "lognormal:5x5:99", "fixed:99999999999x1", "uniform:", "fixed: 1x1"],
)  # fmt: skip
def test_bad_short_forms_are_config_errors(text):
    """Each says what was wrong with which text and how it is written."""
    with pytest.raises(ConfigError) as caught:
        lengths_of(text)
    assert caught.value.value == text
    assert caught.value.advice


@given(st.integers(1, 50), st.integers(0, 5), st.integers(1, 50), st.integers(0, 5))
def test_uniform_reaches_both_ends_and_nothing_else(low, more, low_output, more_output):
    """Every whole number of the range, ends included, turns up in 2,000 draws."""
    prompt, output = _draw(Uniform((low, low + more), (low_output, low_output + more_output)), 2000)
    assert set(prompt.tolist()) == set(range(low, low + more + 1))
    assert set(output.tolist()) == set(range(low_output, low_output + more_output + 1))


def test_uniform_numbers_are_equally_likely():
    """Each of 10 values is drawn 10,000 times of 100,000, to 4 standard deviations; prompt and output are independent."""
    prompt, output = _draw(Uniform((1, 10), (1, 10)))
    for tokens in (prompt, output):
        assert np.abs(np.bincount(tokens)[1:] - 10_000).max() < 4 * np.sqrt(9_000)
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 0.015


@pytest.mark.parametrize("cv", [0.3, 1.0, 2.0])
def test_lognormal_has_the_mean_and_cv_asked_for(cv):
    """Mean to 2 %, CV to 8 % (its tail is heavy), the median where a lognormal's is."""
    prompt, output = _draw(Lognormal(2000, 500, cv), 200_000)
    for tokens, mean in ((prompt, 2000), (output, 500)):
        assert tokens.mean() == pytest.approx(mean, rel=0.02)
        assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.08)
        assert np.median(tokens) == pytest.approx(mean / np.sqrt(1 + cv * cv), rel=0.02)
    assert prompt.min() >= 1


def test_unknown_workload_names_the_nearest():
    """A misspelt preset or form gets a hint and the list of what there is."""
    assert "chat" in presets()
    for text, near in (("chatt", "chat"), ("fixd:1x1", "fixed"), ("unifrom:1-2x1-2", "uniform")):
        with pytest.raises(ConfigError, match="unknown workload") as caught:
            lengths_of(text)
        assert f"did you mean {near}" in caught.value.advice
        assert "fixed:PROMPTxOUTPUT" in caught.value.advice
    with pytest.raises(ConfigError, match="no such"):
        lengths_of("nowhere/own.yaml")


def test_a_file_of_the_same_form_is_a_workload(tmp_path):
    """A copy of a preset, by its path, is the same distribution."""
    path = tmp_path / "own.yaml"
    path.write_bytes((data_dir("workloads") / "chat.yaml").read_bytes())
    assert lengths_of(str(path)) == lengths_of("chat")


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"prompt_tokens": [1, 2]}, "prompt: levels"),
        ({"prompt_quantile_levels": [0.0, 1.0], "prompt_tokens": [5, 3]}, "prompt: levels"),
        ({"prompt_quantile_levels": [0.1, 1.0], "prompt_tokens": [3, 5]}, "prompt: levels"),
        ({"output_tokens_by_prompt_bin": [{"prompt_rank": [0, 0.5], "output_tokens": [1] * 15}]}, "without gaps"),
        ({"output_tokens_by_prompt_bin": []}, "at least 1"),
        ({"output_tokens_by_prompt_bin": [{"prompt_rank": [0, 1], "output_tokens": [0] * 15}]}, "from 1 up"),
        ({"prompt_token": [1, 2]}, "did you mean prompt_tokens"),
        ({"source": None}, "valid"),
    ],
)
def test_damaged_preset_files(tmp_path, change, word):
    """A table that is no distribution, or an unknown key, is a ConfigError naming the file and the place."""
    data = yaml.safe_load((data_dir("workloads") / "chat.yaml").read_text(encoding="utf-8"))
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(data | change))
    with pytest.raises(ConfigError) as caught:
        lengths_of(str(path))
    assert str(path) in caught.value.what
    assert word in caught.value.advice


def test_every_preset_names_its_source_and_licence():
    """Data without a licence does not ship."""
    for name in presets():
        data = yaml.safe_load((data_dir("workloads") / f"{name}.yaml").read_text(encoding="utf-8"))
        assert data["source"]["licence"]
        assert data["source"]["repository"]
