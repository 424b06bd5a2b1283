"""The matrices of a decoder, layer by layer, out of its config.json: what its parameters, weight bytes and states are made of.

Names are those of the published checkpoints, so that the lists of what a quantisation leaves alone can be matched with them.
Vision and audio towers and multi-token-prediction heads are not counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from harness.config.model.layers import Config, blocks_of, layer_kinds


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight matrix of `outputs` x `inputs`, in `copies` (experts), of which a token uses `used`. kind: attention (state mixers in),
    mlp, expert, router, embedding or head."""

    name: str
    outputs: int
    inputs: int
    kind: str
    copies: int = 1
    used: int = 1

    @property
    def parameters(self) -> int:
        return self.outputs * self.inputs * self.copies


def head_dim(c: Config) -> int:
    default = c.count("hidden_size") // c.count("num_attention_heads")
    if c.model_type == "nemotron_h" and c.values.get("head_dim") is None:
        return c.of("attention_head_dim", 128, 1)
    return c.of("head_dim", default, 1)


def kv_heads(c: Config) -> int:
    return c.of("num_key_value_heads", c.count("num_attention_heads"), 1)


def _attention(c: Config, at: str) -> Iterator[Matrix | int]:
    """Matrices of one attention layer, and how many weights its norms, biases and sinks have."""
    hidden, heads = c.count("hidden_size"), c.count("num_attention_heads")
    if c.values.get("kv_lora_rank"):
        rank, rope = c.count("kv_lora_rank"), c.count("qk_rope_head_dim")
        nope, v, q_rank = c.count("qk_nope_head_dim"), c.count("v_head_dim"), c.of("q_lora_rank", 0)
        if q_rank:
            yield Matrix(f"{at}.q_a_proj", q_rank, hidden, "attention")
            yield Matrix(f"{at}.q_b_proj", heads * (nope + rope), q_rank, "attention")
        else:
            yield Matrix(f"{at}.q_proj", heads * (nope + rope), hidden, "attention")
        yield Matrix(f"{at}.kv_a_proj_with_mqa", rank + rope, hidden, "attention")
        yield Matrix(f"{at}.kv_b_proj", heads * (nope + v), rank, "attention")
        yield Matrix(f"{at}.o_proj", hidden, heads * v, "attention")
        yield rank + q_rank
        return
    dim, kv = head_dim(c), kv_heads(c)
    yield Matrix(f"{at}.q_proj", heads * dim * (2 if c.family.gated_attention else 1), hidden, "attention")
    yield Matrix(f"{at}.k_proj", kv * dim, hidden, "attention")
    yield Matrix(f"{at}.v_proj", kv * dim, hidden, "attention")
    yield Matrix(f"{at}.o_proj", hidden, heads * dim, "attention")
    biased = bool(c.values.get("attention_bias")) and c.model_type != "nemotron_h"
    if biased or (c.family.qkv_bias and c.values.get("qkv_bias") is not False):
        yield dim * (heads + 2 * kv) + (hidden if biased and c.model_type != "glm4_moe" else 0)
    if c.family.head_norms or (c.model_type == "glm4_moe" and c.values.get("use_qk_norm")):
        yield 2 * dim
    if c.family.full_norms:
        yield dim * (heads + kv)
    if c.model_type == "gpt_oss":
        yield heads  # attention sinks


def _state(c: Config, at: str) -> Iterator[Matrix | int]:
    """Matrices of one linear-attention or state-space layer, and its convolution, decay, norms and biases."""
    hidden = c.count("hidden_size")
    match c.family.states:
        case "delta":
            key = c.count("linear_num_key_heads") * c.count("linear_key_head_dim")
            heads, value_dim = c.count("linear_num_value_heads"), c.count("linear_value_head_dim")
            value = heads * value_dim
            joined = c.model_type == "qwen3_next"
            names = ("in_proj_qkvz", "in_proj_ba") if joined else ("in_proj_qkv", "in_proj_a")
            yield Matrix(f"{at}.{names[0]}", 2 * key + value * (2 if joined else 1), hidden, "attention")
            yield Matrix(f"{at}.{names[1]}", heads * (2 if joined else 1), hidden, "attention")
            if not joined:
                yield Matrix(f"{at}.in_proj_z", value, hidden, "attention")
                yield Matrix(f"{at}.in_proj_b", heads, hidden, "attention")
            yield Matrix(f"{at}.out_proj", hidden, value, "attention")
            yield (2 * key + value) * c.of("linear_conv_kernel_dim", 4) + 2 * heads + value_dim
        case "mamba":
            inner, size = c.of("mamba_expand", 2) * hidden, c.of("mamba_d_state", 16)
            auto = c.values.get("mamba_dt_rank") in (None, "auto")
            steps = -(-hidden // 16) if auto else c.count("mamba_dt_rank")
            yield Matrix(f"{at}.in_proj", 2 * inner, hidden, "attention")
            yield Matrix(f"{at}.x_proj", steps + 2 * size, inner, "attention")
            yield Matrix(f"{at}.dt_proj", inner, steps, "attention")
            yield Matrix(f"{at}.out_proj", hidden, inner, "attention")
            yield inner * c.of("mamba_d_conv", 4) + inner * size + 2 * inner + steps + 2 * size
            yield inner if c.values.get("mamba_conv_bias", True) else 0
            yield 2 * inner + hidden if c.values.get("mamba_proj_bias") else 0
        case _:
            heads = c.count("mamba_num_heads")
            inner = heads * c.count("mamba_head_dim")
            wide = inner + 2 * c.of("n_groups", 8) * c.count("ssm_state_size")
            yield Matrix(f"{at}.in_proj", inner + wide + heads, hidden, "attention")
            yield Matrix(f"{at}.out_proj", hidden, inner, "attention")
            yield wide * c.of("conv_kernel", 4) + 3 * heads + inner
            yield wide if c.values.get("use_conv_bias", True) else 0
            yield inner + wide + heads + hidden if c.values.get("use_bias") else 0


def state_elements(c: Config) -> tuple[int, int]:
    """What a state layer keeps of a sequence, whatever its length: (elements of the convolution, elements of the state)."""
    match c.family.states:
        case "delta":
            key_dim = c.count("linear_key_head_dim")
            key = c.count("linear_num_key_heads") * key_dim
            value = c.count("linear_num_value_heads") * c.count("linear_value_head_dim")
            return (c.of("linear_conv_kernel_dim", 4) - 1) * (2 * key + value), value * key_dim
        case "mamba":
            inner = c.of("mamba_expand", 2) * c.count("hidden_size")
            return (c.of("mamba_d_conv", 4) - 1) * inner, inner * c.of("mamba_d_state", 16)
        case _:
            size = c.count("ssm_state_size")
            inner = c.count("mamba_num_heads") * c.count("mamba_head_dim")
            return (c.of("conv_kernel", 4) - 1) * (inner + 2 * c.of("n_groups", 8) * size), inner * size


def _dense(c: Config, at: str, width: int, kind: str = "mlp", copies: int = 1, used: int = 1) -> Iterator[Matrix | int]:
    """A feed-forward block: gate, up and down, and biases but in experts; Nemotron-H has no gate."""
    hidden = c.count("hidden_size")
    if kind == "expert":
        hidden = c.of("moe_latent_size", hidden, 1)
    widening = ("up_proj",) if c.model_type == "nemotron_h" else ("gate_proj", "up_proj")
    for name in widening:
        yield Matrix(f"{at}.{name}", width, hidden, kind, copies, used)
    yield Matrix(f"{at}.down_proj", hidden, width, kind, copies, used)
    if kind == "mlp" and c.values.get("mlp_bias"):
        yield len(widening) * width + hidden


def _is_sparse(c: Config, layer: int) -> bool:
    """Whether a layer's feed-forward block is experts."""
    v = c.values
    if not (v.get("num_local_experts") or v.get("n_routed_experts") or v.get("num_experts")):
        return False
    match c.model_type:
        case "jamba":
            return layer % c.of("expert_layer_period", 2, 1) == c.of("expert_layer_offset", 1)
        case "llama4_text":
            if v.get("moe_layers") is not None:
                return layer in v["moe_layers"]
            return (layer + 1) % c.of("interleave_moe_layer_step", 1, 1) == 0
        case "deepseek_v2" | "deepseek_v3" | "kimi_k2" | "glm4_moe":
            return layer >= c.of("first_k_dense_replace", 0) and layer % c.of("moe_layer_freq", 1, 1) == 0
        case "qwen2_moe" | "qwen3_moe" | "qwen3_next":
            return (
                layer not in (v.get("mlp_only_layers") or ()) and (layer + 1) % c.of("decoder_sparse_step", 1, 1) == 0
            )
        case _:
            return True


def _experts(c: Config, at: str) -> Iterator[Matrix | int]:
    v, hidden = c.values, c.count("hidden_size")
    experts, used = c.count("num_local_experts", "n_routed_experts", "num_experts"), c.of("num_experts_per_tok", 2, 1)
    own = c.model_type not in {"jamba", "mixtral", "llama4_text", "gpt_oss"}
    width = c.count("moe_intermediate_size") if own else c.count("intermediate_size")
    yield from _dense(c, f"{at}.experts.0", width, "expert", experts, used)
    yield Matrix(
        f"{at}.{'router' if c.model_type in {'jamba', 'llama4_text', 'gpt_oss'} else 'gate'}", experts, hidden, "router"
    )
    match c.model_type:
        case "qwen2_moe" | "qwen3_next" | "qwen3_5_moe_text":
            shared = c.of("shared_expert_intermediate_size", 0)
        case "deepseek_v2" | "deepseek_v3" | "kimi_k2" | "glm4_moe":
            shared = c.of("n_shared_experts", 0) * width
        case "nemotron_h":
            shared = c.of("moe_shared_expert_intermediate_size", 0)
        case "llama4_text":
            shared = width
        case _:
            shared = 0
    if shared:
        yield from _dense(c, f"{at}.shared_expert{'s' if v.get('n_shared_experts') else ''}", shared)
    if c.family.shared_gate:
        yield Matrix(f"{at}.shared_expert_gate", 1, hidden, "router")
    if latent := c.of("moe_latent_size", 0):
        yield Matrix(f"{at}.fc1_latent_proj", latent, hidden, "mlp")
        yield Matrix(f"{at}.fc2_latent_proj", hidden, latent, "mlp")
        yield latent + hidden if c.values.get("mlp_bias") else 0
    if c.family.corrected_router and not (
        c.model_type == "deepseek_v3" and v.get("topk_method", "noaux_tc") != "noaux_tc"
    ):
        yield experts  # the router's correction bias
    if c.model_type == "gpt_oss":
        yield experts + experts * (2 * width + hidden)  # biases of router and experts


def _feed_forward(c: Config, at: str, layer: int) -> Iterator[Matrix | int]:
    if _is_sparse(c, layer):
        yield from _experts(c, at)
        return
    width = (
        c.count("intermediate_size_mlp", "intermediate_size")
        if c.model_type == "llama4_text"
        else c.count("intermediate_size")
    )
    yield from _dense(c, at, width)


def parts(c: Config) -> Iterator[Matrix | int]:
    """Every matrix of the model; a bare number is that many weights in norms, biases and the like."""
    hidden, vocabulary = c.count("hidden_size"), c.count("vocab_size")
    yield Matrix("model.embed_tokens", vocabulary, hidden, "embedding")
    if not c.values.get("tie_word_embeddings", c.family.tied):
        yield Matrix("lm_head", vocabulary, hidden, "head")
    yield hidden
    blocks = blocks_of(c)
    for layer, kind in enumerate(layer_kinds(c)):
        at = f"backbone.layers.{layer}" if blocks else f"model.layers.{layer}"
        mixer = (
            "mixer"
            if blocks
            else {"delta": "linear_attn"}.get(c.family.states, "mamba")
            if kind == "state"
            else "self_attn"
        )
        if kind == "state":
            yield from _state(c, f"{at}.{mixer}")
        elif kind != "none":
            yield from _attention(c, f"{at}.{mixer}")
        yield c.family.norms * hidden
        if blocks is None:
            name = {"jamba": "feed_forward", "llama4_text": "feed_forward", "mixtral": "block_sparse_moe"}
            yield from _feed_forward(c, f"{at}.{name.get(c.model_type, 'mlp')}", layer)
        elif blocks[layer] == "E":
            yield from _experts(c, f"{at}.mixer")
        elif blocks[layer] == "-":
            yield from _dense(c, f"{at}.mixer", c.count("intermediate_size"))
