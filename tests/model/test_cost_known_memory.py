"""Ten models on real cards, computed here by plain arithmetic that shares nothing with the package but the numbers of a config.

Sizes of the cards are the vendors' (decimal GB); figures that somebody published stand beside the case with where they are from.
"""

from __future__ import annotations

import json
from math import ceil, floor

import pytest

from harness.config.model.memory import fit, kv_bytes_per_token, predict_kv_blocks, weight_bytes
from harness.config.model.shape import model_shape, models
from tests.price.published_configs import (
    DEEPSEEK_V2_LITE,
    GEMMA_3_12B,
    GPT_OSS_120B,
    JAMBA,
    LLAMA_4_MAVERICK,
    NEMOTRON_NANO_9B,
    QWEN3_8_27B,
    QWEN3_NEXT,
)

OVERHEAD, SHARE = 2e9, 0.9  # set aside for activations; the server's share of the card


def config_of(name):
    return json.loads(models()[name].read_text())


def left(card_gb, weights, gpus=1):
    return card_gb * 1e9 * SHARE - weights / gpus - OVERHEAD


def check(shape, *, card_gb, tokens, weights, per_token, one, gpus=1, **words):
    """Weights, bytes of a token and sequences that fit, as counted by hand."""
    found = fit(shape, card_gb * 10**9, context_tokens=tokens, tensor_parallel=gpus, **words)
    assert weight_bytes(shape) == pytest.approx(weights, rel=1e-9)
    assert kv_bytes_per_token(shape, words.get("kv_dtype", "auto"), gpus) == per_token
    assert found.kv_per_gpu == pytest.approx(max(0.0, left(card_gb, weights, gpus)), rel=1e-9)
    assert found.sequences == floor(max(0.0, left(card_gb, weights, gpus)) / one)
    return found.sequences


def test_case_01_llama_70b_on_four_h100():
    """141.1 GB in 16 bits; 320 KiB a token (Llama's published grouped heads: 8 of 128, 80 layers), a quarter on each GPU."""
    token = 80 * 2 * 8 * 128 * 2
    assert token == 327_680
    count = check(
        model_shape(config_of("llama-3.3-70b")), card_gb=80, gpus=4, tokens=8192, weights=70_553_706_496 * 2,
        per_token=token // 4, one=8192 * token / 4,
    )  # fmt: skip
    assert count == 51


def test_case_02_llama_70b_w4a16_on_one_h100():
    """Four-bit matrices with a 16-bit scale per 128, the rest in 16 bits: 39.5 GB, so one card is enough."""
    linear = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
    weights = linear * (4 + 16 / 128) / 8 + (70_553_706_496 - linear) * 2
    scheme = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128, "symmetric": True}
    method = {
        "quant_method": "compressed-tensors", "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": scheme}},
    }  # fmt: skip
    shape = model_shape({**config_of("llama-3.3-70b"), "quantization_config": method})
    assert weights / 1e9 == pytest.approx(39.5, abs=0.05)
    assert check(shape, card_gb=80, tokens=4096, weights=weights, per_token=327_680, one=4096 * 327_680) == 22


def test_case_03_deepseek_v2_lite_with_its_latent():
    """Latent of 512 + 64 in 27 layers: 31,104 bytes a token; 15.7 B parameters (its model card: 16 B, one 40 GB GPU)."""
    token = 27 * (512 + 64) * 2
    count = check(
        model_shape(DEEPSEEK_V2_LITE), card_gb=40, tokens=32768, weights=15_706_484_224 * 2, per_token=token,
        one=32768 * token,
    )  # fmt: skip
    assert (token, count) == (31_104, 2)


def test_case_04_gpt_oss_120b_on_one_h100():
    """Its card: 117 B parameters, one 80 GB GPU. Half of 36 layers keep 128 tokens, in 9 blocks of 16."""
    experts = 36 * 128 * 3 * 2880 * 2880
    weights = experts * (4 + 8 / 32) / 8 + (116_829_156_672 - experts) * 2
    layer = 2 * 8 * 64 * 2
    one = layer * (18 * 16384 + 18 * 9 * 16)
    count = check(model_shape(GPT_OSS_120B), card_gb=80, tokens=16384, weights=weights, per_token=36 * layer, one=one)
    assert weights / 2**30 == pytest.approx(60.8, abs=0.1)  # the checkpoint's size in its model card, arXiv 2508.10925
    assert count == 7


def test_case_05_gemma_3_12b_on_an_l40s():
    """Five of six layers keep 1,024 tokens: 65 blocks of 16 at most; 8 of 48 keep everything."""
    text = GEMMA_3_12B["text_config"]
    per_layer = 3840 * 256 * (2 * 16 + 2 * 8) + 3 * 3840 * 15360 + 2 * 256 + 4 * 3840
    parameters = 262208 * 3840 + 48 * per_layer + 3840
    layer = 2 * text["num_key_value_heads"] * 256 * 2
    one = layer * (8 * 32768 + 40 * 65 * 16)
    check(
        model_shape(GEMMA_3_12B), card_gb=48, tokens=32768, weights=parameters * 2, per_token=48 * layer, one=one
    )  # fmt: skip


def test_case_06_qwen3_next_on_four_h100():
    """24,576 bytes a token, from 12 of 48 layers; 36 hold a state of 1,097,728 bytes, in a block of 544 tokens of 2,048 bytes."""
    token = 12 * 2 * 2 * 256 * 2
    state = 3 * (2 * 16 * 128 + 32 * 128) * 2 + 32 * 128 * 128 * 2
    block = ceil(state / (16 * 2048)) * 16
    assert (token, state, block) == (24_576, 1_097_728, 544)
    shape = model_shape(QWEN3_NEXT)
    assert kv_bytes_per_token(shape) == token
    # 2 heads over 4 GPUs: each holds one, twice over; states are shared out
    page = ceil(state / 4 / (16 * 1024)) * 16 * 1024
    one = 12 * ceil(65536 / (page // 1024)) * page + 36 * 2 * page  # a state, and the one it was resumed from
    weights = 79_674_391_296 * 2
    assert floor(left(80, weights, 4) / one) == fit(shape, 80e9, context_tokens=65536, tensor_parallel=4).sequences


def test_case_07_jamba_at_140_000_tokens_on_one_80_gb_card():
    """Its paper: 4 GB of KV cache at 256K tokens in 16 bits, where attention in every layer takes 32 GB; 16,384 bytes a token."""
    token = 4 * 2 * 8 * 128 * 2
    shape = model_shape(JAMBA)
    assert kv_bytes_per_token(shape) == token == 16_384
    assert 256 * 1024 * token / 2**30 == 4.0
    state = 3 * 8192 * 2 + 8192 * 16 * 2
    block = ceil(state / (16 * 4096)) * 16
    one = 4 * ceil(140_000 / block) * block * 4096 + 28 * 2 * block * 4096
    found = fit(shape, 141e9, context_tokens=140_000)  # 103 GB in 16 bits: an H200
    assert found.sequences == floor(left(141, 51_570_323_328 * 2) / one)


def test_case_08_nemotron_nano_9b_on_an_l4():
    """4 of 56 layers attend, 27 hold a state (float32 but its convolution); 8,888,227,328 parameters."""
    token = 4 * 2 * 8 * 128 * 2
    state = 3 * (128 * 80 + 2 * 8 * 128) * 2 + 128 * 80 * 128 * 4
    block = ceil(state / (16 * 4096)) * 16
    one = (4 * ceil(16384 / block) + 27 * 3) * block * 4096
    check(
        model_shape(NEMOTRON_NANO_9B), card_gb=24, tokens=16384, weights=8_888_227_328 * 2, per_token=token, one=one
    )  # fmt: skip


def test_case_09_llama_4_maverick_in_fp8_on_eight_h200():
    """400.7 B of text parameters, FP8 but embedding, head, routers and norms; 36 of 48 layers keep a chunk of 8,192 tokens."""
    plain = 2 * 202048 * 5120 + 24 * 128 * 5120 + 48 * 2 * 5120 + 5120
    weights = (401_583_781_376 - 871_932_416 - plain) + 2 * plain
    config = {**LLAMA_4_MAVERICK, "quantization_config": {"quant_method": "fp8"}}
    layer = 2 * 1 * 128 * 1  # one of 8 heads on each GPU, 8 bits
    one = layer * (12 * 131072 + 36 * 8192)
    check(
        model_shape(config), card_gb=141, gpus=8, tokens=131072, weights=weights, per_token=48 * layer, one=one,
        kv_dtype="fp8",
    )  # fmt: skip


def test_case_10_blocks_of_qwen3_8_27b():
    """784-token blocks as its server logs; 16 full and 48 state layers in four groups of 16, each a share of one pool."""
    state = 3 * (2 * 16 * 128 + 48 * 128) * 2 + 48 * 128 * 128 * 4
    block = ceil(state / (16 * 4096)) * 16
    assert block == 784
    pool = 20 * 2**30
    blocks = pool // (16 * block * 4096)
    cached = predict_kv_blocks(model_shape(QWEN3_8_27B), pool, 16, max_model_len=32768)
    assert cached.num_blocks == blocks
    assert cached.max_concurrency == pytest.approx(
        blocks / (ceil(32768 / block) + 3 * 2)
    )  # a state, and one to resume from
    plain = predict_kv_blocks(model_shape(QWEN3_8_27B), pool, 16, max_model_len=32768, prefix_caching=False)
    assert plain.max_concurrency == pytest.approx(blocks / (ceil(32768 / block) + 3))
