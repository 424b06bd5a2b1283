"""Arithmetic of attention in a roofline estimate, against sums over single pairs of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.model.memory import layer_token_bytes, weight_bytes
from harness.config.model.shape import load_model, model_shape
from harness.planner.roofline import Shape, best_estimate, decode_attention_flops, estimate, prefill_attention_flops
from tests.price.published_configs import LLAMA_4_SCOUT, QWEN3_NEXT

DEEPSEEK = load_model("deepseek-v3")
ONE = replace(load_model("llama-3.1-8b"), full_layers=1, window_layers=0, window=None)  # one layer, 32 heads of 128


def pairs(tokens, window=None, chunk=None):
    """Keys that each token sees, summed; half of itself, as i^2/2 counts it."""
    if chunk is not None:
        return sum(n % chunk + 0.5 for n in range(tokens))
    return sum(min(n + 0.5, window or n + 0.5) for n in range(tokens))


def test_latent_attention_prefills_at_the_width_of_its_heads():
    """DeepSeek-V3 at 8,192 tokens: 192 wide for query and key, 128 for the value, not the latent's 576 for both."""
    per_pair = 2 * 128 * (192 + 128) * 61
    assert prefill_attention_flops(DEEPSEEK, 8192) == per_pair * 8192 * 8192 / 2
    latent = 2 * 128 * (576 + 576) * 61 * 8192 * 8192 / 2
    matrices = 2 * DEEPSEEK.active_parameters * 8192
    right = matrices + prefill_attention_flops(DEEPSEEK, 8192)
    assert (matrices + latent) / right == pytest.approx(1.57, abs=0.01)


def test_latent_attention_decodes_on_the_latent():
    """A new token's 128 heads each meet 576 numbers of every key and 512 of every value: 61 layers, two operations each."""
    assert decode_attention_flops(DEEPSEEK, 8192) == 2 * 128 * (576 + 512) * 61 * 8192


def test_a_new_token_sees_its_window_or_half_a_chunk():
    """A window of 1,000 after 5,000 tokens: 1,000 keys; a chunk of 1,000: 500 on average; after 600 tokens, all of them."""
    unit = 2 * 32 * (128 + 128)
    windows = replace(ONE, full_layers=0, window_layers=1, window=1000)
    chunks = replace(windows, chunked=True)
    assert [decode_attention_flops(m, 5000) / unit for m in (ONE, windows, chunks)] == [5000, 1000, 500]
    assert [decode_attention_flops(m, 600) / unit for m in (ONE, windows, chunks)] == [600, 600, 600]


@given(st.integers(1, 400), st.integers(1, 400))
def test_windows_and_chunks_are_sums_over_pairs(tokens, size):
    """Closed forms of full, window and chunk layers against counting every pair."""
    unit = 2 * 32 * (128 + 128)
    windows = replace(ONE, full_layers=0, window_layers=1, window=size)
    assert prefill_attention_flops(ONE, tokens) == pytest.approx(unit * pairs(tokens))
    assert prefill_attention_flops(windows, tokens) == pytest.approx(unit * pairs(tokens, window=size))
    chunks = replace(windows, chunked=True)
    assert prefill_attention_flops(chunks, tokens) == pytest.approx(unit * pairs(tokens, chunk=size))


def test_equal_widths_cost_what_one_width_did():
    """Ordinary attention: 2 x layers x heads x head dimension x tokens^2 for a prompt."""
    model = load_model("llama-3.3-70b")
    assert prefill_attention_flops(model, 4096) == 2 * 80 * 64 * 128 * 4096**2


@pytest.mark.parametrize(("config", "attending"), [(QWEN3_NEXT, 12), (LLAMA_4_SCOUT, 12)])
def test_layers_that_do_not_see_a_long_prompt_do_not_grow_with_its_square(config, attending):
    """From 500,000 to 1,000,000 tokens the arithmetic grows by the full layers' pairs, and by a line for windows."""
    model = model_shape(config)
    n = 500_000
    grown = prefill_attention_flops(model, 2 * n) - 4 * prefill_attention_flops(model, n)
    per_pair = 2 * model.attention_heads * (model.qk_dim + model.v_dim)
    assert model.full_layers == attending
    assert abs(grown) <= per_pair * model.window_layers * (model.window or 0) * 2 * n


def test_a_long_context_that_is_bound_by_arithmetic_costs_more_a_token():
    """DeepSeek-V3 with memory that is never the limit: time of a token rises from 1k to 32k of context by attention on the latent."""

    def tpot(tokens):
        found = estimate(
            DEEPSEEK, Shape(prompt_tokens=tokens, output_tokens=2), flops=1e12, bandwidth_bytes_per_s=1e15,
            memory_bytes=10**13, gpus=1,
        )  # fmt: skip
        assert found is not None
        return found.tpot_s / found.batch

    prefill = [
        (2 * DEEPSEEK.active_parameters * i + prefill_attention_flops(DEEPSEEK, i)) / 0.5e12 for i in (1024, 32768)
    ]
    token = [(2 * DEEPSEEK.active_parameters + decode_attention_flops(DEEPSEEK, i + 1)) / 0.5e12 for i in (1024, 32768)]
    for at, tokens in enumerate((1024, 32768)):
        assert tpot(tokens) == pytest.approx(token[at] + prefill[at] / 2)


@pytest.mark.parametrize("name", ["deepseek-v3", "llama-3.1-8b"])
def test_only_replicas_that_a_server_would_start_are_estimated(name):
    """Heads must divide over the GPUs, those of latent attention too, or vLLM refuses to start: 14 heads go over 2 GPUs, and where
    the weights need 4 there is no estimate; 16 heads go over 4."""
    shape = Shape(prompt_tokens=512, output_tokens=128)

    def cut(heads, weights_gpus):
        model = replace(load_model(name), attention_heads=heads)
        each_gb = weight_bytes(model) / 1e9 / weights_gpus
        return best_estimate(model, shape, "H100-SXM", 8, memory_gb_each=each_gb, bandwidth_gb_per_s_each=3350)

    assert "4 x TP2," in cut(14, 1)[1]
    assert isinstance(cut(14, 3), str)
    assert " x TP" in cut(16, 3)[1]
    with pytest.raises(ConfigError, match="do not divide"):
        layer_token_bytes(replace(load_model(name), attention_heads=14), tensor_parallel=4)
