"""What each layer of a published config is, and how many parameters it has."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.model.memory import block_tokens_of, kv_bytes_per_token, predict_kv_blocks, sequence_kv_bytes
from harness.config.model.shape import model_shape
from tests.price.published_configs import (
    DEEPSEEK_V2_LITE,
    GEMMA_2_27B,
    GEMMA_3_12B,
    GPT_OSS_120B,
    JAMBA,
    LLAMA_4_MAVERICK,
    LLAMA_4_SCOUT,
    NEMOTRON_H_8B,
    NEMOTRON_NANO_9B,
    PHI_4,
    QWEN2_5_72B,
    QWEN3_8_27B,
    QWEN3_30B_A3B,
    QWEN3_NEXT,
)


@pytest.mark.parametrize(
    ("config", "parameters"),
    [  # safetensors metadata of the hub's model pages
        (QWEN2_5_72B, 72_706_203_648),
        (QWEN3_30B_A3B, 30_532_122_624),
        (PHI_4, 14_659_507_200),
        (GEMMA_2_27B, 27_227_128_320),
        (GPT_OSS_120B, 116_829_156_672),
        (DEEPSEEK_V2_LITE, 15_706_484_224),
        (NEMOTRON_NANO_9B, 8_888_227_328),
        # less what is not the text model: 871,932,416 of the vision tower and projector, the same in both
        (LLAMA_4_SCOUT, 108_641_793_536 - 871_932_416),
        (LLAMA_4_MAVERICK, 401_583_781_376 - 871_932_416),
    ],
)
def test_parameters_are_the_published_count(config, parameters):
    """Counted from the config's numbers, to the last parameter."""
    assert model_shape(config).parameters == parameters


def test_a_prediction_head_is_all_that_qwen3_next_lacks():
    """81,324,862,720 are published with one multi-token-prediction layer: a full layer more, its projection and three norms."""
    whole, one_more = model_shape(QWEN3_NEXT), model_shape({**QWEN3_NEXT, "full_attention_interval": 1})
    per_layer = (one_more.parameters - 2 * 151936 * 2048 - 2048) // 48
    assert whole.parameters + per_layer + 2 * 2048 * 2048 + 3 * 2048 == 81_324_862_720


@pytest.mark.parametrize(
    ("config", "billions"),
    [(JAMBA, 52), (LLAMA_4_MAVERICK, 400), (LLAMA_4_SCOUT, 109), (NEMOTRON_H_8B, 8), (QWEN3_8_27B, 27)],
)
def test_the_name_on_the_card(config, billions):
    """Within 2 % of what the model's card says it is; Jamba-v0.1: 52 B, 12 B of them used by a token."""
    assert model_shape(config).parameters / 1e9 == pytest.approx(billions, rel=0.02)


@pytest.mark.parametrize(
    ("config", "billions"), [(JAMBA, 12), (LLAMA_4_MAVERICK, 17), (GPT_OSS_120B, 5.1), (QWEN3_30B_A3B, 3.3)]
)
def test_what_one_token_uses(config, billions):
    """Active parameters as published, the looked-up embedding counted with them, within 5 %."""
    shape = model_shape(config)
    text = config.get("text_config", config)
    unread = 0 if config is GPT_OSS_120B else text["vocab_size"] * text["hidden_size"]
    assert (shape.active_parameters + unread) / 1e9 == pytest.approx(billions, rel=0.05)


@pytest.mark.parametrize(
    ("config", "full", "windows", "states", "per_token"),
    [
        (QWEN3_NEXT, 12, 0, 36, 24_576),  # every fourth layer: 12 x 2 x 2 heads x 256 x 2 bytes
        (QWEN3_8_27B, 16, 0, 48, 16 * 2 * 4 * 256 * 2),
        (JAMBA, 4, 0, 28, 4 * 2 * 8 * 128 * 2),
        (NEMOTRON_NANO_9B, 4, 0, 27, 4 * 2 * 8 * 128 * 2),
        (NEMOTRON_H_8B, 4, 0, 24, 4 * 2 * 8 * 128 * 2),
        (GEMMA_2_27B, 23, 23, 0, 46 * 2 * 16 * 128 * 2),
        (GEMMA_3_12B, 8, 40, 0, 48 * 2 * 8 * 256 * 2),
        (LLAMA_4_SCOUT, 12, 36, 0, 48 * 2 * 8 * 128 * 2),
        (GPT_OSS_120B, 18, 18, 0, 36 * 2 * 8 * 64 * 2),
        (QWEN2_5_72B, 80, 0, 0, 80 * 2 * 8 * 128 * 2),  # it names a window and does not use it
    ],
)
def test_what_the_layers_are(config, full, windows, states, per_token):
    """Layers that cache everything, a window or chunk, and a state; KV bytes of one more token while no window is full."""
    shape = model_shape(config)
    assert (shape.full_layers, shape.window_layers, shape.state_layers) == (full, windows, states)
    assert kv_bytes_per_token(shape) == per_token


@pytest.mark.parametrize(
    ("config", "full", "windows"),
    [
        ({**GEMMA_2_27B, "num_hidden_layers": 5}, 2, 3),  # the first layer has the window, every other after it
        ({**GPT_OSS_120B, "num_hidden_layers": 5}, 2, 3),
        ({**GEMMA_3_12B["text_config"], "num_hidden_layers": 7}, 1, 6),  # the sixth has not
        ({**GEMMA_3_12B["text_config"], "num_hidden_layers": 7, "sliding_window_pattern": 2}, 3, 4),
        ({**QWEN2_5_72B, "use_sliding_window": True, "max_window_layers": 60}, 60, 20),  # from that layer on
        ({**QWEN2_5_72B, "use_sliding_window": False, "layer_types": ["sliding_attention"] * 80}, 80, 0),
        ({**QWEN2_5_72B, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 80}, 0, 80),
        (
            {**LLAMA_4_SCOUT["text_config"], "no_rope_layers": [1] * 40 + [0] * 8},
            8,
            40,
        ),  # 1: it has positions, and a chunk
        ({**LLAMA_4_SCOUT["text_config"], "attention_chunk_size": None}, 48, 0),
        ({**JAMBA, "num_hidden_layers": 5}, 1, 0),  # the fifth attends
    ],
)
def test_which_layers_have_the_window(config, full, windows):
    """Rules that a config leaves to its family, at a number of layers where one layer more or less shows."""
    shape = model_shape(config)
    assert (shape.full_layers, shape.window_layers) == (full, windows)


def test_only_a_token_of_the_full_layers_grows_a_long_sequence():
    """Beyond window and chunk one more block costs the full layers alone; a state never grows."""
    for config, long in ((GEMMA_2_27B, 8192), (LLAMA_4_SCOUT, 65536), (QWEN3_NEXT, 65536), (JAMBA, 65536)):
        shape = model_shape(config)
        block = block_tokens_of(shape, 16)
        grown = sequence_kv_bytes(shape, 2 * long * block) - sequence_kv_bytes(shape, long * block)
        assert grown == shape.full_layers * long * block * kv_bytes_per_token(shape) // (
            shape.full_layers + shape.window_layers
        )


@pytest.mark.parametrize(
    ("config", "kv_dtype", "state_dtype", "block"),
    [  # "Setting attention block size to N tokens": start-up logs of real vLLM servers
        (QWEN3_8_27B, "auto", None, 784),  # "Padding mamba page size by 0.13%"
        (
            NEMOTRON_NANO_9B,
            "auto",
            "bfloat16",
            672,
        ),  # vllm-project/vllm#24280, before the state's default became float32
        ({**QWEN3_8_27B, "linear_num_value_heads": 32}, "auto", None, 528),  # Qwen3.5-9B: the same heads, 32 of values
        ({**QWEN3_8_27B, "linear_num_value_heads": 32}, "fp8", None, 1056),
    ],
)
def test_a_block_holds_a_state(config, kv_dtype, state_dtype, block):
    """Tokens of a block, in steps of 16, so that the attention page is at least the state's: as servers logged them."""
    shape = model_shape(config if state_dtype is None else {**config, "mamba_ssm_cache_dtype": state_dtype})
    assert block_tokens_of(shape, 16, kv_dtype) == block


_NARROW = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 49152}


@pytest.mark.parametrize(
    ("config", "block", "tokens"),
    [  # start-up logs of vLLM 0.32 (CPU build, 1 GiB of cache, blocks of 32, 4,096 tokens, 256 in a batch) for narrow models
        (
            {**JAMBA, **_NARROW, "num_hidden_layers": 8, "attn_layer_period": 4, "attn_layer_offset": 1, "mamba_dt_rank": 8,
             "mamba_ssm_dtype": "float32"},  # that build keeps it in float32
            96, 1_826_063,
        ),
        (
            {**NEMOTRON_H_8B, **_NARROW, "hybrid_override_pattern": "M-M-M-*-M-*-", "mamba_num_heads": 8, "mamba_head_dim": 32,
             "n_groups": 2, "ssm_state_size": 64},
            288, 1_420_141,
        ),
    ],
)  # fmt: skip
def test_the_cache_of_a_model_with_states_is_what_its_server_logs(config, block, tokens):
    """Tokens of the KV cache and of a block, to the token: groups of attention and states out of one pool."""
    shape = model_shape(config)
    assert block_tokens_of(shape, 32) == block
    found = predict_kv_blocks(shape, 2**30, 32, max_model_len=4096, max_in_flight_tokens=256)
    assert found.size_tokens == tokens


@given(st.integers(1, 96), st.integers(1, 12))
def test_layer_types_and_the_interval_say_the_same(layers, every):
    """Qwen3-Next's layers by full_attention_interval are those that layer_types lists."""
    kinds = ["full_attention" if (n + 1) % every == 0 else "linear_attention" for n in range(layers)]
    short = {**QWEN3_NEXT, "num_hidden_layers": layers, "full_attention_interval": every}
    if "full_attention" not in kinds:
        with pytest.raises(ConfigError, match="no attention layers"):
            model_shape(short)
        return
    assert model_shape(short) == model_shape({**short, "layer_types": kinds})


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({**NEMOTRON_H_8B, "hybrid_override_pattern": "MMMM"}, "no attention layers"),
        ({**NEMOTRON_H_8B, "hybrid_override_pattern": "M*X-"}, "X"),
        ({**GEMMA_2_27B, "layer_types": ["sliding_attention", "chunked_attention"] * 23}, "windows and chunks"),
        ({**JAMBA, "mamba_expand": 1.5}, "mamba_expand"),
        ({**QWEN3_NEXT, "linear_num_value_heads": None}, "linear_num_value_heads"),
        ({**GEMMA_2_27B, "model_type": "gemma3n_text"}, "gemma3n_text"),
        ({"model_type": "falcon_mamba", "hidden_size": 8}, "falcon_mamba"),
        ({"model_type": "deepseek_v32", "hidden_size": 8}, "deepseek_v32"),
        ({"model_type": "t5", "hidden_size": 8}, "model_type"),
    ],
)
def test_the_rest_is_refused_by_name(config, what):
    """States alone, unknown layers and unknown families: an error of three lines that names them."""
    with pytest.raises(ConfigError, match=what) as error:
        model_shape(config, "m")
    assert len(str(error.value).splitlines()) == 3
