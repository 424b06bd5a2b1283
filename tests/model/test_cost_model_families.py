"""Parameters that are counted from a config against the model that transformers builds of it, without weights."""

from __future__ import annotations

import importlib.util
import json
import random
import subprocess
import sys

import pytest

from harness.config.model.layers import FAMILIES
from harness.config.model.shape import model_shape

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed here"),
]


def drawn(family: str, rng: random.Random) -> dict:
    """A small config of a family, its numbers and switches drawn."""

    def one(*choices):
        return rng.choice(choices)

    layers = one(4, 6, 9)
    config = {
        "model_type": family, "num_hidden_layers": layers, "hidden_size": one(64, 96), "intermediate_size": one(80, 144),
        "vocab_size": one(320, 512), "num_attention_heads": 4, "num_key_value_heads": one(1, 2, 4), "head_dim": one(16, 32),
        "tie_word_embeddings": one(True, False), "attention_bias": one(True, False), "max_position_embeddings": 4096,
        "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    experts = {
        "num_experts_per_tok": 2, "moe_intermediate_size": one(24, 40), "shared_expert_intermediate_size": one(24, 56),
        "decoder_sparse_step": one(1, 2), "first_k_dense_replace": one(0, 2), "n_shared_experts": one(1, 2), "n_group": 1, "topk_group": 1,
    }  # fmt: skip
    match family:
        case "llama":
            config["mlp_bias"] = one(True, False)
        case "phi3" | "qwen2" | "qwen2_moe" | "mistral" | "mixtral" | "jamba" | "olmo2" | "granite" | "smollm3":
            config.pop("head_dim")
            config["attention_bias"] = False
        case "gpt_oss" | "gemma" | "gemma2" | "gemma3_text" | "llama4_text":
            config["attention_bias"] = family == "gpt_oss"
    if family in {"mixtral", "gpt_oss", "llama4_text"}:
        config |= {"num_local_experts": 4, "num_experts_per_tok": 2}
    if family == "llama4_text":
        config |= {"interleave_moe_layer_step": one(1, 2, 3), "intermediate_size_mlp": one(96, 160)}
    if family in {"qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_5_moe_text"}:
        config |= {"num_experts": 4, **experts}
    if family.startswith(("qwen3_next", "qwen3_5")):
        config |= {
            "full_attention_interval": one(2, 3), "linear_num_key_heads": 2, "linear_num_value_heads": one(2, 4), "attention_bias": False,
            "linear_key_head_dim": one(16, 32), "linear_value_head_dim": one(16, 24), "linear_conv_kernel_dim": one(3, 4),
        }  # fmt: skip
    if family in {"deepseek_v2", "deepseek_v3"}:
        config |= {
            "kv_lora_rank": one(32, 48), "q_lora_rank": one(24, 40) if family == "deepseek_v3" else one(None, 24), "attention_bias": False,
            "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": one(16, 24), "n_routed_experts": 4, **experts,
        }  # fmt: skip
        config.pop("head_dim")
        config |= {"num_key_value_heads": 4, "mlp_bias": family == "deepseek_v2" and one(True, False)}
    if family == "glm4_moe":
        config |= {"n_routed_experts": 4, "use_qk_norm": one(True, False), **experts}
    if family == "jamba":
        config |= {
            "attn_layer_period": 3, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 4,
            "mamba_d_state": one(8, 16), "mamba_d_conv": one(3, 4), "mamba_expand": 2, "mamba_dt_rank": one("auto", 12),
            "mamba_conv_bias": one(True, False), "mamba_proj_bias": one(True, False),
        }  # fmt: skip
    if family == "nemotron_h":
        config |= {
            "hybrid_override_pattern": "".join(one("M", "*", "-", "E") for _ in range(layers)) + "*", "attention_bias": False,
            "mamba_num_heads": 8, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16, "conv_kernel": 4, "n_routed_experts": 4,
            "moe_shared_expert_intermediate_size": one(24, 48), "use_conv_bias": one(True, False), "mlp_bias": one(True, False),
            **experts,
        }  # fmt: skip
        config |= {
            "num_hidden_layers": layers + 1,
            "n_shared_experts": 1,
            "use_bias": False,
            "tie_word_embeddings": False,
        }
    return config


BUILD = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM

def built(config):
    words = {key: value for key, value in config.items() if key != "model_type"}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **words))
    model.tie_weights()
    biases = [b for name, b in model.named_buffers() if name.endswith("e_score_correction_bias")]
    return sum(p.numel() for p in model.parameters()) + sum(b.numel() for b in biases)

print(json.dumps([built(config) for config in json.load(sys.stdin)]))
"""  # the routers' correction biases are published weights that transformers keeps as buffers


@pytest.fixture(scope="module")
def counted() -> dict[str, list[tuple[dict, int]]]:
    """Six drawn configs of each family with the parameters of the model that is built of each, in a process of its own."""
    families = sorted(set(FAMILIES) - {"kimi_k2"})  # DeepSeek-V3 by another name; transformers does not know it
    configs = {family: [drawn(family, rng) for _ in range(6)] for family in families for rng in [random.Random(family)]}
    asked = json.dumps([config for family in families for config in configs[family]])
    child = subprocess.run([sys.executable, "-c", BUILD], input=asked, capture_output=True, text=True, check=True)
    numbers = iter(json.loads(child.stdout.splitlines()[-1]))
    return {family: [(config, next(numbers)) for config in configs[family]] for family in families}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"kimi_k2"}))
def test_every_family_has_the_parameters_that_it_is_built_with(counted, family):
    """Numbers and switches drawn: counted to the last parameter."""
    for config, parameters in counted[family]:
        assert model_shape(config).parameters == parameters, config
