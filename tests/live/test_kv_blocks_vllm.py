"""The KV cache that a real server reports against the prediction from its model's config.json.

`HARNESS_LONG=1 pytest -s tests/live/test_kv_blocks_vllm.py` starts a server for each row of CASES, one after the other, and prints
the table; without it only the shared server is checked.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from pathlib import Path

import pytest

from harness.config.model.memory import KvBlocks, block_tokens_of, predict_kv_blocks
from harness.config.model.shape import model_shape
from harness.config.target import TargetSpec
from harness.measure.targets import Target, embedded, open_target

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timing,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]
long = pytest.mark.skipif(not os.environ.get("HARNESS_LONG"), reason="a server start a row: HARNESS_LONG=1")
GIB = 2**30
MIB = 2**20

CASES = [  # model, --dtype, --kv-cache-dtype, --max-model-len, --block-size (None: the server's own), bytes of KV cache
    ("tiny", "auto", "auto", 512, None, GIB // 4),
    ("tiny", "auto", "auto", 4096, 32, 100 * MIB),
    ("tiny", "float16", "auto", 2048, None, 333 * MIB),
    ("tiny", "float32", "auto", 1024, None, GIB // 4),
    ("tiny", "bfloat16", "fp8", 2048, 64, GIB // 4),
    ("smollm2-135m", "auto", "auto", 1024, None, GIB // 2),
    ("smollm2-135m", "bfloat16", "bfloat16", 8192, None, GIB),
    ("smollm2-135m", "float16", "float16", 2048, 64, 777 * MIB),
    ("smollm2-135m", "float32", "auto", 2048, None, GIB),
    ("smollm2-135m", "auto", "fp8", 4096, None, GIB // 2),
    ("tiny with a window of 256", "auto", "fp8", 1024, 64, GIB // 4),
    ("tiny as gemma2", "bfloat16", "auto", 4096, 32, GIB // 4),
    ("tiny as gemma3_text", "bfloat16", "auto", 4096, 32, GIB // 4),
    ("tiny as llama4_text", "bfloat16", "auto", 4096, 32, GIB // 4),
    ("tiny as qwen3_next", "bfloat16", "auto", 4096, 32, GIB // 4),
    ("tiny as deepseek_v2", "bfloat16", "auto", 4096, 16, GIB // 4),
]

_SIZES = {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "tie_word_embeddings": True, "hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh", "torch_dtype": "bfloat16",
    "max_position_embeddings": 8192, "rope_theta": 10000.0, "rms_norm_eps": 1e-6,
}  # fmt: skip
SHRUNK = {  # the layers of published models, a few narrow ones of each
    "gemma2": {"architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 6, "sliding_window": 512},
    "gemma3_text": {
        "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 8, "sliding_window": 512, "sliding_window_pattern": 4,
    },
    "llama4_text": {
        "architectures": ["Llama4ForCausalLM"], "num_hidden_layers": 8, "attention_chunk_size": 1024, "num_local_experts": 4,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 256, "attention_bias": False,
        "tie_word_embeddings": False,
    },
    "qwen3_next": {
        "architectures": ["Qwen3NextForCausalLM"], "num_hidden_layers": 8, "full_attention_interval": 4, "num_experts": 4,
        "num_experts_per_tok": 2, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64, "decoder_sparse_step": 1,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 64, "linear_value_head_dim": 64,
        "linear_conv_kernel_dim": 4, "mlp_only_layers": [], "norm_topk_prob": True,
        "mamba_ssm_dtype": "float32",  # what the CPU build's kernels keep, whatever is asked
    },
    "deepseek_v2": {
        "architectures": ["DeepseekV2ForCausalLM"], "num_hidden_layers": 4, "kv_lora_rank": 512, "q_lora_rank": None,
        "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "n_routed_experts": 4, "num_experts_per_tok": 2,
        "n_shared_experts": 1, "moe_intermediate_size": 64, "first_k_dense_replace": 1, "moe_layer_freq": 1, "n_group": 1,
        "topk_group": 1, "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
        "routed_scaling_factor": 1.0, "num_key_value_heads": 4,
    },
}  # fmt: skip


def reported(target: Target) -> tuple[int, int, int]:
    """(blocks, block size, tokens of the KV cache) by the server's own metrics and log."""
    assert target.log_path is not None
    said = re.findall(r"KV cache size: ([\d,]+) tokens", target.log_path.read_text(encoding="utf-8"))
    info = target.info.cache_config
    return int(info["num_gpu_blocks"]), int(info["block_size"]), int(said[-1].replace(",", ""))


def agrees(target: Target, config: dict, kv_dtype: str, kv_cache_bytes: int, length: int) -> tuple[KvBlocks, int, int]:
    """Blocks and tokens within 2 % of what the server says; the prediction and what was said."""
    blocks, block_tokens, tokens = reported(target)
    predicted = predict_kv_blocks(
        model_shape(config),
        kv_cache_bytes,
        block_tokens,
        kv_dtype,
        max_model_len=length,
        max_in_flight_tokens=int(target.info.flags.get("max_num_batched_tokens", 2048)),
    )

    assert abs(predicted.num_blocks - blocks) <= 0.02 * blocks
    assert abs(predicted.size_tokens - tokens) <= 0.02 * tokens
    return predicted, blocks, tokens


def test_blocks_of_the_shared_server(vllm_server, vllm_model):
    """The tiny model, its own dtype, 2,048 tokens: 1 GiB of cache is the blocks that were predicted."""
    config = json.loads((vllm_model / "config.json").read_text())
    agrees(vllm_server, config, "auto", GIB, 2048)


def prepared(name: str, folder: Path) -> tuple[str, dict]:
    """(model for the target, its config): the tiny model itself, as a Mistral with a window, or as a shrunk other model."""
    base = name.split(maxsplit=1)[0]
    config = json.loads((embedded.ensure(base, print) / "config.json").read_text())
    if base == name:
        return f"embedded:{name}", config
    shutil.copytree(embedded.ensure(base, print), folder)
    if name.startswith("tiny as "):
        kind = name.removeprefix("tiny as ")
        config = {"model_type": kind, "vocab_size": config["vocab_size"], **_SIZES, **SHRUNK[kind]}
    else:
        config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 256}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder), config


@long
@pytest.mark.parametrize(("name", "dtype", "kv_dtype", "length", "block", "kv_bytes"), CASES)
def test_blocks_of_a_server_of_its_own(tmp_path, name, dtype, kv_dtype, length, block, kv_bytes):
    """Model, dtype, KV dtype, length, block size and cache size as asked: blocks and tokens within 2 %."""
    model, config = prepared(name, tmp_path / "windowed")
    flags = {
        "enforce_eager": True, "dtype": dtype, "kv_cache_dtype": kv_dtype, "max_model_len": length, "max_num_seqs": 16,
        "max_num_batched_tokens": 256, "kv_cache_memory_bytes": kv_bytes,
    }  # fmt: skip
    flags |= {} if block is None else {"block_size": block}
    flags |= {} if model.startswith("embedded:") else {"load_format": "dummy"}
    stored = kv_dtype if kv_dtype != "auto" else ("auto" if dtype == "auto" else dtype)
    spec = TargetSpec(name="kv", kind="vllm", model=model, flags=flags, start_timeout_s=300)
    with open_target(spec, tmp_path / "server.log", lambda _: None) as target:
        predicted, blocks, tokens = agrees(target, config, stored, kv_bytes, length)
        block_tokens = int(target.info.cache_config["block_size"])
    if block is not None:
        assert block_tokens == block_tokens_of(model_shape(config), block, stored)
    print(
        f"\nKV | {name} | {dtype} | {kv_dtype} | {length} | {block_tokens} | {kv_bytes / MIB:g} | {predicted.num_blocks} | "
        f"{blocks} | {predicted.num_blocks / blocks - 1:+.3%} | {predicted.size_tokens} | {tokens} | {predicted.size_tokens / tokens - 1:+.3%} |"
    )
