"""What the matrices of a small model are written as in tests: lines of name, outputs x inputs, kind, and how many copies are used."""

from __future__ import annotations

from harness.config.model.layers import read_config
from harness.config.model.matrices import Matrix, parts

BASE = {
    "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 5, "intermediate_size": 7, "vocab_size": 11,
    "num_hidden_layers": 1,
}  # fmt: skip
EMBEDDING, HEAD = "model.embed_tokens 11x24 embedding", "lm_head 11x24 head"
EXPERTS = {"num_experts": 6, "moe_intermediate_size": 9}
DELTA = {
    "full_attention_interval": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 3, "linear_num_value_heads": 4,
    "linear_value_head_dim": 5,
}  # fmt: skip
LATENT = {"kv_lora_rank": 6, "qk_rope_head_dim": 2, "qk_nope_head_dim": 3, "v_head_dim": 5}
BLOCKS = {"mamba_num_heads": 6, "mamba_head_dim": 5, "ssm_state_size": 3}
NEMOTRON = {**BLOCKS, "n_routed_experts": 6, "moe_intermediate_size": 9}


def attention(at, q=20):
    """Queries of 4 heads of 5 (twice as many with a gate), keys and values of 2, and what leads back to 24."""
    sizes = {"q": f"{q}x24", "k": "10x24", "v": "10x24", "o": "24x20"}
    return [f"{at}.{name}_proj {size} attention" for name, size in sizes.items()]


def block(at, width=7, how="mlp"):
    """Gate, up and down."""
    sizes = {"gate": f"{width}x24", "up": f"{width}x24", "down": f"24x{width}"}
    return [f"{at}.{name}_proj {size} {how}" for name, size in sizes.items()]


def found(model_type, **change):
    """(the matrices as text, how many weights are in none)"""
    every = list(parts(read_config({**BASE, "model_type": model_type, **change}, "m")))
    text = [
        f"{m.name} {m.outputs}x{m.inputs} {m.kind}"
        + (f" {m.used} of {m.copies}" if (m.used, m.copies) != (1, 1) else "")
        for m in every
        if isinstance(m, Matrix)
    ]
    return text, sum(m for m in every if not isinstance(m, Matrix))
