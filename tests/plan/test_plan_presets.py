"""Every preset: its figures are its source's, its plan is the same everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import yaml

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.describing import describe
from harness.measure.plan.drawing import draw
from harness.measure.plan.prefixes import hit_ratio
from harness.measure.plan.preset import _rates, load_preset, presets
from harness.records import Load

ROWS = 100_000
PRESETS = {name: load_preset(data_dir("workloads") / f"{name}.yaml") for name in presets()}
TRACED = ["code", "long-chat", "summarise"]  # chat has a file of its own
SHAPES = {
    "1024x128": (1024, 128),
    "1024x1024": (1024, 1024),
    "8192x1024": (8192, 1024),
    "128x2048": (128, 2048),
    "prefill-only": (2048, 1),
    "decode-only": (1, 1024),
}

GOLDEN = {
    "1024x1024": ("5a2c871628b385bf", "c8575f3e856777af"),
    "1024x128": ("628aa1b113e662ca", "f1aa9be0a50cbecf"),
    "128x2048": ("e6fd6f1a52164d03", "370ee1f4b7b26bbd"),
    "8192x1024": ("82bfd31eecd631f4", "20f5b79b3c486a4f"),
    "agent": ("9ae6f83589234c26", "e6100b3597bb745f"),
    "agent-128k": ("6b1b74cc6211bdbc", "0d3fa84eb042f56f"),
    "batch": ("9e27214540efd2fb", "7901a2c2e748750a"),
    "chat": ("e38a5ef7b834ee84", "eab118e66543c5fa"),
    "code": ("498c388301d46ca2", "3de446ebd900ddf4"),
    "decode-only": ("15fc67c17eb8f5d6", "96336557697092ec"),
    "inferencex-1k1k": ("e2c7d87d2358c2a3", "9afd57f6990ca791"),
    "inferencex-1k8k": ("bc7c9404a650390b", "5e65be1e2098611a"),
    "inferencex-8k1k": ("11adebfbcd70a404", "3e446acb8ada412a"),
    "long-chat": ("ea9406c1018ff4f0", "abb10cbbf2c5c202"),
    "mlperf-like": ("31fc4bd8bdc4bdf4", "07f9f96759b963b1"),
    "prefill-only": ("9c4a5d6056939c6e", "f80f6ac0c4c8a9c1"),
    "reasoning": ("d4c6081334358035", "01a637c1f115cc93"),
    "seed-chat": ("e638f73133c4bc25", "8572be7997cd0257"),
    "seed-codegen": ("954ed494661bdead", "d536b54e60455ae5"),
    "summarise": ("0619ad4bf777c63e", "8732e62f769fbeea"),
}


def plan_of(name, requests=500, load=None, seed=1):
    return draw(
        name,
        load or Load(concurrency=4),
        requests=requests,
        duration_s=None,
        seed=seed,
        warmup_requests=2,
        context_limit_tokens=None,
    )


def columns(plan):
    return (
        np.array([r.target_prompt_tokens for r in plan.requests]),
        np.array([r.target_output_tokens for r in plan.requests]),
    )


@pytest.mark.parametrize("name", presets())
def test_golden_digests_of_presets(name):
    """500 requests of every preset, closed loop and at the preset's own arrivals, are the same bytes on every machine."""
    closed = plan_of(name)[0].sha256
    own = Load(arrivals="preset")
    if PRESETS[name].arrivals.mean_rate_rps is None and PRESETS[name].arrivals.process != "batch":
        own = Load(rate_rps=2.0, arrivals="preset")
    assert (closed[:16], plan_of(name, load=own)[0].sha256[:16]) == GOLDEN[name]


@pytest.fixture(scope="module", params=TRACED)
def sampled(request):
    """(preset, prompts, outputs) of 100,000 requests."""
    return PRESETS[request.param], *columns(plan_of(request.param, ROWS)[0])


def test_means_are_the_sources(sampled):
    """Mean prompt and output within 2 %."""
    preset, prompt, output = sampled
    assert prompt.mean() == pytest.approx(preset.check["prompt_mean"], rel=0.02)
    assert output.mean() == pytest.approx(preset.check["output_mean"], rel=0.02)


def test_quantiles_are_the_sources(sampled):
    """p50, p90 and p99 of prompt and output within 3 %."""
    preset, prompt, output = sampled
    for tokens, key in ((prompt, "prompt_p50_p90_p99"), (output, "output_p50_p90_p99")):
        assert np.quantile(tokens, [0.5, 0.9, 0.99]) == pytest.approx(preset.check[key], rel=0.03)


def test_medians_of_the_output_by_prompt_bin(sampled):
    """In each tenth of the prompts by rank, the median output is that bin's to 10 %."""
    preset, prompt, output = sampled
    middle = preset.output_given_prompt_quantile_levels.index(0.5)
    parts = np.array_split(output[np.argsort(prompt, kind="stable")], 10)
    for tenth, part in zip(preset.output_tokens_by_prompt_bin, parts, strict=True):
        assert np.median(part) == pytest.approx(tenth.output_tokens[middle], rel=0.1)


@pytest.mark.parametrize("name", ["batch", "reasoning", "mlperf-like"])
def test_marginals_are_the_sources(name):
    """Presets of which only marginals are known: the share of lengths up to each quantile is its level, to 4 standard
    deviations, and prompt and output are independent."""
    preset = PRESETS[name]
    prompt, output = columns(plan_of(name, ROWS)[0])
    tables = (
        (prompt, preset.prompt_quantile_levels, preset.prompt_tokens),
        (output, preset.output_given_prompt_quantile_levels, preset.output_tokens_by_prompt_bin[0].output_tokens),
    )
    for tokens, levels, values in tables:
        ordered, level = np.sort(tokens), np.array(levels)
        allowed = 4 * np.sqrt(level * (1 - level) / ROWS)
        # a whole number stands for the half below and above it, which matters where lengths are short
        assert (np.searchsorted(ordered, np.array(values) - 1, side="right") / ROWS <= level + allowed).all()
        assert (np.searchsorted(ordered, np.array(values) + 1, side="right") / ROWS >= level - allowed).all()
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 4 / np.sqrt(ROWS)


def test_mlperf_like_has_the_sources_mean_and_limit():
    """Outputs of 294.45 tokens on average, none above 1,024."""
    _, output = columns(plan_of("mlperf-like", ROWS)[0])
    assert output.mean() == pytest.approx(294.45, rel=0.02)
    assert output.max() <= 1024


def test_standard_shapes():
    """Fixed shapes are what their names say; InferenceX's draw each length uniformly from 0.8 of it to all of it."""
    for name, shape in SHAPES.items():
        assert {(r.target_prompt_tokens, r.target_output_tokens) for r in plan_of(name, 20)[0].requests} == {shape}
    for name, ends in (("1k1k", (1024, 1024)), ("1k8k", (1024, 8192)), ("8k1k", (8192, 1024))):
        for tokens, end in zip(columns(plan_of(f"inferencex-{name}", 20_000)[0]), ends, strict=True):
            assert 0.8 * end <= tokens.min() <= 0.802 * end
            assert tokens.max() == end
            assert tokens.mean() == pytest.approx(0.9 * end, rel=0.005)


def test_seed_scenarios():
    """500 tokens a request at 10 million a month; 1,000 at 100,000 a month, all at once."""
    plan, notes = plan_of("seed-chat", 300, Load(arrivals="preset"))
    assert {r.target_prompt_tokens + r.target_output_tokens for r in plan.requests} == {500}
    assert plan.load.rate_rps == pytest.approx(10e6 / (30 * 86_400), rel=1e-4)
    plan, notes = plan_of("seed-codegen", 300, Load(arrivals="preset"))
    assert {r.scheduled_ns for r in plan.requests} == {0}
    assert plan.load.rate_rps is None
    assert notes == ("planned arrivals (preset): 300 at once",)


def test_long_chat_has_the_sources_hit_ratio():
    """The token hit ratio that the source gives for a cache without limits is what the prompts allow, within 1 point,
    and the share cached per request has the source's quantiles."""
    plan, notes = plan_of("long-chat", 20_000)
    prefix = PRESETS["long-chat"].prefix
    assert hit_ratio(plan.requests, 16).by_block == pytest.approx(prefix.token_hit_ratio_unlimited_cache, abs=0.01)
    share = [sum(r.prefix[1::2]) / r.target_prompt_tokens for r in plan.requests]
    for level in (0.3, 0.5, 0.7, 0.9):
        asked = prefix.cached_fraction[prefix.cached_fraction_quantile_levels.index(level)]
        assert np.quantile(share, level) == pytest.approx(asked, abs=0.02)
    assert any("37.4%" in note for note in notes)


@pytest.mark.parametrize("name", ["chat", "code"])
def test_preset_arrivals_are_as_bursty_as_the_source(name):
    """At its own rate the preset's arrivals scatter over 10 s as the source's 10 s bins do, within 25 %."""
    bins = np.array(PRESETS[name].arrivals.requests_per_10s_bin)
    measured = []
    for seed in range(1, 5):
        plan = plan_of(name, int(bins.sum()), Load(arrivals="preset"), seed=seed)[0]
        times = np.array([r.scheduled_ns for r in plan.requests])
        counts = np.bincount(times // 10_000_000_000)[:-1]
        measured.append(counts.var() / counts.mean())
    assert np.mean(measured) == pytest.approx(bins.var() / bins.mean(), rel=0.25)


@pytest.mark.parametrize("name", presets())
def test_every_preset_can_be_shown(name):
    """`show` gives quantiles, a histogram that holds every request, source and licence."""
    shown = describe(name)
    for bins in shown["histogram"].values():
        assert sum(count for _, _, count in bins) == shown["rows"] == ROWS
    assert shown["licence"]
    assert shown["description"]


def test_what_chance_explains_of_the_scatter_is_taken_out():
    """Equal bins stay equal, bins no more scattered than Poisson's become so; of others the rest of the variance stays."""
    assert _rates([5, 5, 0, 5]) == (5, 5, 0, 5)
    assert _rates([2, 4, 6]) == pytest.approx((4, 4, 4))  # variance 8 / 3 below the mean
    kept = _rates([0, 10, 30])  # mean 20, variance 100: 80 of it is not chance's
    assert kept == pytest.approx((0, 20 - 80**0.5, 20 + 80**0.5))


@pytest.mark.parametrize(
    ("name", "place", "least", "unsaid"),
    [("seed-chat", "requests_per_month", 1, None), ("agent", "sessions.compaction_keeps_tokens", 0, 0)],
)
def test_what_a_preset_may_leave_out_has_a_least(tmp_path, name, place, least, unsaid):
    """A month has a request at least and a compaction keeps no fewer than 0 tokens: less is refused with the key; both may be unsaid."""
    *parents, key = place.split(".")

    def loaded(value):
        data = yaml.safe_load((data_dir("workloads") / f"{name}.yaml").read_text())
        at = data
        for part in parents:
            at = at[part]
        at.pop(key, None)
        (tmp_path / "p.yaml").write_text(yaml.safe_dump(data if value is None else at.update({key: value}) or data))
        found = load_preset(tmp_path / "p.yaml")
        for part in [*parents, key]:
            found = getattr(found, part)
        return found

    assert (loaded(least), loaded(None)) == (least, unsaid)
    with pytest.raises(ConfigError) as error:
        loaded(least - 1)
    assert error.value.value == f"{place} = {least - 1}"
