"""Every matrix of a small model of each family, by name, size, kind, copies and use, and the sum of what is no matrix."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from tests.model.matrix_lists import DELTA, EMBEDDING, EXPERTS, HEAD, LATENT, NEMOTRON, attention, block, found

AT, MLP = "model.layers.0.self_attn", "model.layers.0.mlp"
NORMS = 24 + 2 * 24  # the last, and two of the only layer


@pytest.mark.parametrize(
    ("model_type", "change", "small"),
    [
        ("llama", {}, NORMS),
        ("llama", {"attention_bias": True, "mlp_bias": True}, NORMS + 5 * (4 + 2 * 2) + 24 + 2 * 7 + 24),
        ("qwen2", {}, NORMS + 5 * (4 + 2 * 2)),
        ("qwen2", {"qkv_bias": True}, NORMS + 5 * (4 + 2 * 2)),
        ("qwen2", {"qkv_bias": False}, NORMS),
        ("qwen2", {"attention_bias": True}, NORMS + 5 * (4 + 2 * 2) + 24),
        ("qwen3", {}, NORMS + 2 * 5),  # a norm of queries and one of keys
        ("olmo2", {}, NORMS + 5 * (4 + 2)),
        ("gemma2", {"tie_word_embeddings": False}, 24 + 4 * 24),
        ("gemma3_text", {"tie_word_embeddings": False}, 24 + 4 * 24 + 2 * 5),
        ("glm4_moe", {}, NORMS),
        ("glm4_moe", {"use_qk_norm": True, "attention_bias": True}, NORMS + 2 * 5 + 5 * (4 + 2 * 2)),
    ],
)  # fmt: skip
def test_a_dense_layer(model_type, change, small):
    """The seven matrices are every family's; what they differ in is biases and norms."""
    assert found(model_type, **change) == ([EMBEDDING, HEAD, *attention(AT), *block(MLP)], small)


@pytest.mark.parametrize(
    ("model_type", "tied", "head"),
    [("llama", None, True), ("gemma", None, False), ("gemma", False, True), ("llama", True, False)],
)
def test_a_head_that_is_the_embedding_is_counted_once(model_type, tied, head):
    """As the config says; where it does not, Gemma's is tied."""
    said = {} if tied is None else {"tie_word_embeddings": tied}
    assert found(model_type, **said)[0][:2] == [EMBEDDING, HEAD if head else f"{AT}.q_proj 20x24 attention"]


def test_heads_and_their_width_that_a_config_leaves_out():
    """As many KV heads as heads, hidden size / heads wide."""
    text, _ = found("llama", num_key_value_heads=None, head_dim=None)
    assert text[2:6] == [f"{AT}.{name}_proj 24x24 attention" for name in "qkvo"]


@pytest.mark.parametrize(
    ("change", "matrices", "small"),
    [
        ({"q_lora_rank": 13}, [f"{AT}.q_a_proj 13x24 attention", f"{AT}.q_b_proj 20x13 attention"], 6 + 13),
        ({}, [f"{AT}.q_proj 20x24 attention"], 6),
    ],
)
def test_latent_attention(change, matrices, small):
    """4 heads of 3 + 2 for a query; 6 + 2 of latent and position, unpacked to 4 x (3 + 5); norms as wide as the latents."""
    rest = [f"{AT}.kv_a_proj_with_mqa 8x24 attention", f"{AT}.kv_b_proj 32x6 attention", f"{AT}.o_proj 24x20 attention"]
    assert found("deepseek_v2", **LATENT, **change) == (
        [EMBEDDING, HEAD, *matrices, *rest, *block(MLP)],
        NORMS + small,
    )


@pytest.mark.parametrize(
    ("model_type", "change", "shared", "small"),
    [
        ("deepseek_v2", {}, [], 0),
        ("deepseek_v2", {"n_shared_experts": 2}, block(f"{MLP}.shared_experts", 18), 0),
        ("deepseek_v3", {"n_shared_experts": 1}, block(f"{MLP}.shared_experts", 9), 6),
        ("deepseek_v3", {"topk_method": "noaux_tc"}, [], 6),
        ("deepseek_v3", {"topk_method": "greedy"}, [], 0),
        ("kimi_k2", {"n_shared_experts": 1, "topk_method": "greedy"}, block(f"{MLP}.shared_experts", 9), 6),
        ("glm4_moe", {"n_shared_experts": 1, "use_qk_norm": True}, block(f"{MLP}.shared_experts", 9), 6 + 10),
    ],
)  # fmt: skip
def test_experts_with_shared_ones(model_type, change, shared, small):
    """6 experts of which a token uses 3, a router, shared experts in one, and, without an auxiliary loss, the router's biases."""
    text, others = found(
        model_type, n_routed_experts=6, moe_intermediate_size=9, num_experts_per_tok=3, num_local_experts=None, **change
    )
    experts = [*block(f"{MLP}.experts.0", 9, "expert 3 of 6"), f"{MLP}.gate 6x24 router"]
    assert text == [EMBEDDING, HEAD, *attention(AT), *experts, *shared]
    assert others == NORMS + small


def test_biases_of_shared_experts():
    """DeepSeek-V2's shared experts are an ordinary block, with its biases; routed experts have none."""
    words = {"n_routed_experts": 6, "moe_intermediate_size": 9, "n_shared_experts": 2}
    assert found("deepseek_v2", **words, mlp_bias=True)[1] - found("deepseek_v2", **words)[1] == 2 * 18 + 24


@pytest.mark.parametrize(
    ("model_type", "change", "q", "shared", "small"),
    [
        ("qwen2_moe", {"shared_expert_intermediate_size": 13}, 20, 13, 40),
        ("qwen2_moe", {}, 20, 0, 40),
        ("qwen3_next", {"shared_expert_intermediate_size": 13, "layer_types": ["full_attention"]}, 40, 13, 10),
        ("qwen3_5_moe", {"shared_expert_intermediate_size": 13, "layer_types": ["full_attention"]}, 40, 13, 10),
    ],
)
def test_experts_with_a_gated_shared_one(model_type, change, q, shared, small):
    """2 experts a token where the config does not say; one row decides how much of the shared one is used."""
    experts = [*block(f"{MLP}.experts.0", 9, "expert 2 of 6"), f"{MLP}.gate 6x24 router"]
    one = block(f"{MLP}.shared_expert", shared) if shared else []
    assert found(model_type, **EXPERTS, **change) == (
        [EMBEDDING, HEAD, *attention(AT, q), *experts, *one, f"{MLP}.shared_expert_gate 1x24 router"],
        NORMS + small,
    )


def test_experts_of_qwen3_stand_alone():
    """No shared expert, whatever its width."""
    text, small = found("qwen3_moe", **EXPERTS, shared_expert_intermediate_size=13)
    experts = [*block(f"{MLP}.experts.0", 9, "expert 2 of 6"), f"{MLP}.gate 6x24 router"]
    assert (text, small) == ([EMBEDDING, HEAD, *attention(AT), *experts], NORMS + 10)


@pytest.mark.parametrize(
    ("model_type", "place", "router", "shared", "small"),
    [
        ("mixtral", "block_sparse_moe", "gate", False, 0),
        ("llama4", "feed_forward", "router", True, 0),
        ("gpt_oss", "mlp", "router", False, 4 + 6 + 6 * (2 * 7 + 24)),  # sinks, biases of the router and of the experts
    ],
)
def test_experts_as_wide_as_a_dense_block(model_type, place, router, shared, small):
    """Their width is intermediate_size; each family has its own names."""
    at = f"model.layers.0.{place}"
    text, others = found(model_type, num_local_experts=6, num_experts_per_tok=1)
    experts = [*block(f"{at}.experts.0", 7, "expert 1 of 6"), f"{at}.{router} 6x24 router"]
    one = block(f"{at}.shared_expert") if shared else []
    assert (text, others) == ([EMBEDDING, HEAD, *attention(AT), *experts, *one], NORMS + small)


@pytest.mark.parametrize(
    ("change", "width"), [({"intermediate_size_mlp": 15}, 15), ({}, 7)]
)  # fmt: skip
def test_a_dense_layer_of_llama_4_has_a_width_of_its_own(change, width):
    """intermediate_size_mlp, or, where it is not given, that of the experts."""
    at = "model.layers.0.feed_forward"
    text, _ = found("llama4_text", num_local_experts=6, interleave_moe_layer_step=2, **change)
    assert text[6:] == block(at, width)


SPARSE = {"num_hidden_layers": 6, "num_experts": 6, "moe_intermediate_size": 9}


@pytest.mark.parametrize(
    ("model_type", "change", "layers"),
    [
        ("mixtral", {}, "012345"),
        ("qwen2_moe", {}, "012345"),
        ("qwen2_moe", {"decoder_sparse_step": 2}, "135"),
        ("qwen3_moe", {"decoder_sparse_step": 3, "mlp_only_layers": [2]}, "5"),
        ("qwen3_next", {"mlp_only_layers": [1, 2], **DELTA}, "0345"),
        ("llama4_text", {}, "012345"),
        ("llama4_text", {"interleave_moe_layer_step": 3}, "25"),
        ("llama4_text", {"interleave_moe_layer_step": 3, "moe_layers": [0, 4]}, "04"),
        ("deepseek_v2", {}, "012345"),
        ("deepseek_v2", {"first_k_dense_replace": 3}, "345"),
        ("deepseek_v3", {"first_k_dense_replace": 1, "moe_layer_freq": 2}, "24"),
        ("kimi_k2", {"first_k_dense_replace": 5}, "5"),
        ("glm4_moe", {"first_k_dense_replace": 2}, "2345"),
        ("jamba", {}, "135"),  # the second of every two
        ("jamba", {"expert_layer_period": 3, "expert_layer_offset": 0}, "03"),
        ("llama", {"num_experts": 0}, ""),
        ("llama", {"num_experts": 0, "num_local_experts": 6}, "012345"),
        ("llama", {"num_experts": 0, "n_routed_experts": 6}, "012345"),
    ],
)
def test_which_layers_have_experts(model_type, change, layers):
    """By the family's own rule, and its defaults."""
    text, _ = found(model_type, **{**SPARSE, **change})
    assert sorted({name.split(".")[2] for name in text if "experts.0.gate_proj" in name}) == list(layers)


ONES = {
    "head_dim": ("llama", {}), "num_key_value_heads": ("llama", {}), "attention_head_dim": ("nemotron_h", {"head_dim": None}),
    "mamba_dt_rank": ("jamba", {}), "expert_layer_period": ("jamba", {"num_experts": 6}), "num_experts_per_tok": ("mixtral", {"num_local_experts": 6}),
    "interleave_moe_layer_step": ("llama4_text", {"num_local_experts": 6}), "decoder_sparse_step": ("qwen3_moe", EXPERTS),
    "moe_layer_freq": ("deepseek_v2", {**EXPERTS, "n_routed_experts": 6}), "moe_latent_size": ("nemotron_h", NEMOTRON),
}  # fmt: skip


@pytest.mark.parametrize("key", ONES)
def test_counts_of_one_are_the_least(key):
    """One is read, none is refused by the number's name."""
    model_type, change = ONES[key]
    given = {"hybrid_override_pattern": "*ME", **NEMOTRON, **change} if model_type == "nemotron_h" else change
    assert found(model_type, **{**given, key: 1})[0]
    with pytest.raises(ConfigError, match=f"model m: {key} is not a whole number of at least 1"):
        found(model_type, **{**given, key: 0})
