"""Matrices of layers that keep a state, as test_cost_model_matrices has those of attention and feed-forward blocks."""

from __future__ import annotations

import pytest

from harness.config.model.layers import read_config
from harness.config.model.matrices import state_elements
from tests.model.matrix_lists import BASE, BLOCKS, DELTA, EMBEDDING, HEAD, NEMOTRON, attention, block, found

MLP = "model.layers.0.mlp"
NORMS = 24 + 2 * 24  # the last, and two of the only layer


def test_delta_layers():
    """Keys of 2 x 3, values of 4 x 5: one joined matrix in Qwen3-Next, and apart in Qwen3.5; both gate their full attention."""
    at, one = "model.layers.0.linear_attn", "model.layers.1"
    tail = [f"{at}.out_proj 24x20 attention", *block(MLP), *attention(f"{one}.self_attn", 40), *block(f"{one}.mlp")]
    small = 24 + 4 * 24 + 2 * 5 + 2 * 4 + 5  # norms; heads' norms; decay and step of each value head, and its norm
    joined = [f"{at}.in_proj_qkvz 52x24 attention", f"{at}.in_proj_ba 8x24 attention"]
    apart = [
        f"{at}.in_proj_qkv 32x24 attention", f"{at}.in_proj_a 4x24 attention", f"{at}.in_proj_z 20x24 attention",
        f"{at}.in_proj_b 4x24 attention",
    ]  # fmt: skip
    for model_type, mixer in (("qwen3_next", joined), ("qwen3_5", apart), ("qwen3_5_text", apart)):
        text, others = found(model_type, num_hidden_layers=2, **DELTA)
        assert text == [EMBEDDING, HEAD, *mixer, *tail]
        assert others == small + 4 * (2 * 6 + 20)  # four taps of convolution
        assert found(model_type, num_hidden_layers=2, linear_conv_kernel_dim=3, **DELTA)[1] == small + 3 * 32


@pytest.mark.parametrize(
    ("change", "steps", "small"),
    [
        ({}, 2, 48 * 4 + 48 * 16 + 2 * 48 + 2 + 2 * 16 + 48),  # convolution, decay, skip and step, norms, convolution's bias
        ({"mamba_dt_rank": "auto", "mamba_conv_bias": False}, 2, 48 * 4 + 48 * 16 + 2 * 48 + 2 + 2 * 16),
        ({"mamba_dt_rank": 1, "mamba_d_conv": 3}, 1, 48 * 3 + 48 * 16 + 2 * 48 + 1 + 2 * 16 + 48),
        ({"mamba_dt_rank": 5, "mamba_proj_bias": True}, 5, 48 * 4 + 48 * 16 + 2 * 48 + 5 + 2 * 16 + 48 + 2 * 48 + 24),
    ],
)  # fmt: skip
def test_mamba_layers(change, steps, small):
    """Twice as wide as the model, 16 states; as many steps as the config says, or a sixteenth of the width."""
    at, feed = "model.layers.0.mamba", "model.layers.0.feed_forward"
    mixer = [
        f"{at}.in_proj 96x24 attention", f"{at}.x_proj {steps + 32}x48 attention", f"{at}.dt_proj 48x{steps} attention",
        f"{at}.out_proj 24x48 attention",
    ]  # fmt: skip
    assert found("jamba", **change) == ([EMBEDDING, HEAD, *mixer, *block(feed)], NORMS + small)


def test_mamba_layers_of_another_size():
    """Three times the width, 10 states; experts by the router's name; attention where it is its turn."""
    at, feed = "model.layers.0.mamba", "model.layers.1.feed_forward"
    text, small = found(
        "jamba", num_hidden_layers=2, mamba_expand=3, mamba_d_state=10, attn_layer_period=2, attn_layer_offset=1, num_experts=6
    )  # fmt: skip
    experts = [*block(f"{feed}.experts.0", 7, "expert 2 of 6"), f"{feed}.router 6x24 router"]
    assert text == [
        EMBEDDING, HEAD, f"{at}.in_proj 144x24 attention", f"{at}.x_proj 22x72 attention", f"{at}.dt_proj 72x2 attention",
        f"{at}.out_proj 24x72 attention", *block("model.layers.0.feed_forward"), *attention("model.layers.1.self_attn"), *experts,
    ]  # fmt: skip
    assert small == 24 + 4 * 24 + 72 * 4 + 72 * 10 + 2 * 72 + 2 + 2 * 10 + 72


@pytest.mark.parametrize(
    ("pattern", "change", "matrices", "small"),
    [
        ("M", {}, ["in_proj 114x24 attention", "out_proj 24x30 attention"], 78 * 4 + 3 * 6 + 30 + 78),
        ("M", {"conv_kernel": 3, "use_conv_bias": False}, ["in_proj 114x24 attention", "out_proj 24x30 attention"], 78 * 3 + 48),
        ("M", {"n_groups": 2, "use_bias": True}, ["in_proj 78x24 attention", "out_proj 24x30 attention"],
         42 * 4 + 48 + 42 + 30 + 42 + 6 + 24),
        ("-", {}, ["up_proj 7x24 mlp", "down_proj 24x7 mlp"], 0),
        ("-", {"mlp_bias": True}, ["up_proj 7x24 mlp", "down_proj 24x7 mlp"], 7 + 24),
        ("E", {}, ["experts.0.up_proj 9x24 expert 2 of 6", "experts.0.down_proj 24x9 expert 2 of 6", "gate 6x24 router"], 6),
        ("E", {"moe_shared_expert_intermediate_size": 13, "n_shared_experts": 1, "mlp_bias": True},
         ["experts.0.up_proj 9x24 expert 2 of 6", "experts.0.down_proj 24x9 expert 2 of 6", "gate 6x24 router",
          "shared_experts.up_proj 13x24 mlp", "shared_experts.down_proj 24x13 mlp"], 6 + 13 + 24),
        ("E", {"moe_latent_size": 10},
         ["experts.0.up_proj 9x10 expert 2 of 6", "experts.0.down_proj 10x9 expert 2 of 6", "gate 6x24 router",
          "fc1_latent_proj 10x24 mlp", "fc2_latent_proj 24x10 mlp"], 6),
        ("E", {"moe_latent_size": 1, "mlp_bias": True},
         ["experts.0.up_proj 9x1 expert 2 of 6", "experts.0.down_proj 1x9 expert 2 of 6", "gate 6x24 router",
          "fc1_latent_proj 1x24 mlp", "fc2_latent_proj 24x1 mlp"], 6 + 1 + 24),
    ],
)  # fmt: skip
def test_blocks_of_nemotron(pattern, change, matrices, small):
    """One mixer and one norm a layer; after it a layer of attention. Wide are 6 heads of 5, and twice the groups' 3 states."""
    text, others = found("nemotron_h", hybrid_override_pattern=pattern + "*", **{**NEMOTRON, **change})
    at = "backbone.layers.0.mixer"
    assert text == [EMBEDDING, HEAD, *(f"{at}.{m}" for m in matrices), *attention("backbone.layers.1.mixer")]
    assert others == 24 + 2 * 24 + small


@pytest.mark.parametrize(
    ("change", "q"),
    [({}, 20), ({"head_dim": None}, 4 * 128), ({"head_dim": None, "attention_head_dim": 3}, 12)],
)
def test_the_width_of_nemotrons_heads(change, q):
    """head_dim, else attention_head_dim, else 128; never hidden size / heads. Its attention has no biases."""
    text, small = found("nemotron_h", hybrid_override_pattern="*", attention_bias=True, **change)
    assert text[2] == f"backbone.layers.0.mixer.q_proj {q}x24 attention"
    assert small == 24 + 24


@pytest.mark.parametrize(
    ("model_type", "change", "elements"),
    [
        ("qwen3_next", DELTA, (3 * (2 * 6 + 20), 4 * 5 * 3)),
        ("qwen3_5_text", {**DELTA, "linear_conv_kernel_dim": 3}, (2 * 32, 60)),
        ("jamba", {}, (3 * 48, 48 * 16)),
        ("jamba", {"mamba_expand": 3, "mamba_d_conv": 2, "mamba_d_state": 10}, (72, 72 * 10)),
        ("nemotron_h", BLOCKS, (3 * 78, 30 * 3)),
        ("nemotron_h", {**BLOCKS, "conv_kernel": 3, "n_groups": 2}, (2 * 42, 90)),
    ],
)
def test_what_a_state_is_made_of(model_type, change, elements):
    """Inputs that the convolution looks back at, one less than it has taps; and the state of each head."""
    assert state_elements(read_config({**BASE, "model_type": model_type, **change}, "m")) == elements
