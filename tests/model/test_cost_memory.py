"""Memory of a model: known parameter counts and cache sizes, and the claims that it corrects."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.cli.machines import memory_command as command
from harness.config.model.memory import (
    GB,
    fit,
    kv_bytes_per_token,
    predict_kv_blocks,
    sequence_kv_bytes,
    weight_bytes,
)
from harness.config.model.shape import load_model, model_shape, models


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("llama-2-70b", 68_976_648_192),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.3-70b", 70_553_706_496),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mixtral-8x7b", 46_702_792_704),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-32b", 32_762_123_264),
        ("gemma-3-27b", 27_009_346_304),
        ("gpt-oss-20b", 20_914_757_184),
        ("deepseek-v3", 671_026_419_200),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_parameters_are_the_published_count(name, parameters):
    """Counted from the config's numbers, to the last parameter; every config names its source."""
    assert load_model(name).parameters == parameters
    assert json.loads(models()[name].read_text())["_source"]


def test_every_config_is_tested():
    """No config stands in the folder without its count above."""
    assert len(models()) == 11


def test_parameters_that_one_token_uses():
    """Mixtral uses 12.9 B of 46.7 less its embedding, DeepSeek-V3 36.6 B as its README says."""
    assert load_model("deepseek-v3").active_parameters / 1e9 == pytest.approx(36.6, abs=0.05)
    tied, apart = load_model("smollm2-135m"), load_model("llama-3.1-8b")
    assert tied.active_parameters == tied.parameters  # the embedding is the output head too
    assert apart.active_parameters == apart.parameters - 128256 * 4096
    mixtral = load_model("mixtral-8x7b")
    assert (mixtral.active_parameters + 32000 * 4096) / 1e9 == pytest.approx(12.9, abs=0.05)


@pytest.mark.parametrize(
    ("name", "kv_dtype", "tp", "size"),
    [
        ("llama-2-70b", "auto", 1, 327_680),
        ("llama-2-70b", "fp8", 1, 163_840),
        ("llama-2-70b", "auto", 8, 40_960),
        ("llama-2-70b", "auto", 16, 40_960),  # 8 heads over 16 GPUs: each holds one, twice over
        ("llama-3.1-8b", "auto", 1, 131_072),
        ("qwen3-8b", "auto", 1, 147_456),
        ("deepseek-v3", "auto", 1, 61 * 576 * 2),
        ("deepseek-v3", "auto", 8, 61 * 576 * 2),  # the latent is whole on every GPU
        ("smollm2-135m", "float32", 1, 30 * 2 * 3 * 64 * 4),
    ],
)
def test_kv_bytes_per_token(name, kv_dtype, tp, size):
    """Grouped heads, latent attention, a quantised cache and tensor parallel, in bytes per token and GPU."""
    assert kv_bytes_per_token(load_model(name), kv_dtype, tp) == size


def test_sliding_window_layers_stop_growing():
    """Half of gpt-oss's layers keep 128 tokens: beyond that a token costs half; before it, all."""
    model = load_model("gpt-oss-20b")
    per_token = kv_bytes_per_token(model)
    assert sequence_kv_bytes(model, 64) == 64 * per_token
    grown = sequence_kv_bytes(model, 65536) - sequence_kv_bytes(model, 32768)
    assert grown == 32768 * per_token // 2
    whole = load_model("mistral-7b-v0.1")
    assert sequence_kv_bytes(whole, 30000) == sequence_kv_bytes(whole, 20000)
    assert load_model("gemma-3-27b").window_layers == 52
    assert load_model("qwen3-8b").window is None


@pytest.mark.parametrize(
    ("tokens", "blocks"), [(16, 1), (112, 7), (113, 8), (128, 8), (129, 9), (144, 9), (145, 9), (4096, 9)]
)
def test_a_window_of_128_tokens_holds_at_most_9_blocks_of_16(tokens, blocks):
    """Eight blocks hold 128 tokens; where the window begins inside a block it needs a ninth, and never a tenth."""
    windows = replace(load_model("gpt-oss-20b"), full_layers=0, window_layers=1)
    assert sequence_kv_bytes(windows, tokens, block_tokens=16) == blocks * 16 * 2048


@given(st.integers(1, 600), st.integers(1, 64), st.integers(1, 300))
def test_a_window_fits_the_blocks_that_are_kept_for_it_wherever_it_begins(tokens, block, window):
    """The blocks that the last `window` of the tokens lie in, counted one token at a time, at every length up to this one."""
    model = replace(load_model("gpt-oss-20b"), full_layers=0, window_layers=1, window=window)
    most = max(len({t // block for t in range(max(0, n - window), n)}) for n in range(1, tokens + 1))
    kept = sequence_kv_bytes(model, tokens, block_tokens=block) // (block * 2048)
    assert most <= kept <= most + 1


@given(st.integers(1, 600), st.integers(1, 300))
def test_a_chunk_fits_the_blocks_that_are_kept_for_it(tokens, chunk):
    """Layers of chunks keep the tokens since the last multiple of the chunk: never more blocks than the longest chunk has."""
    model = replace(load_model("gpt-oss-20b"), full_layers=0, window_layers=1, window=chunk, chunked=True)
    longest = max((n - 1) % chunk + 1 for n in range(1, tokens + 1))
    assert sequence_kv_bytes(model, tokens, block_tokens=1) == longest * 2048


@given(st.integers(1, 100_000), st.integers(1, 256))
def test_blocks_round_up_by_less_than_a_block(tokens, block):
    """A sequence's blocks hold its tokens with less than one block to spare."""
    model = load_model("smollm2-135m")
    slack = sequence_kv_bytes(model, tokens, block_tokens=block) - tokens * kv_bytes_per_token(model)
    assert 0 <= slack < block * kv_bytes_per_token(model)


def test_weight_bytes():
    """Quantisation takes the layers' matrices; embeddings and norms stay at 2 bytes. gpt-oss-20b is 13.8 GB as published."""
    model = load_model("llama-3.1-8b")
    assert weight_bytes(model) == 2 * model.parameters
    assert weight_bytes(model, "fp8") == 2 * model.parameters - model.attention_parameters - model.mlp_parameters
    assert weight_bytes(model, "int4") / GB == pytest.approx(5.7, abs=0.05)
    assert weight_bytes(load_model("gpt-oss-20b")) / GB == pytest.approx(13.8, abs=0.1)
    assert weight_bytes(load_model("llama-2-70b"), "float32") == 4 * load_model("llama-2-70b").parameters


def test_what_fits_where():
    """70B in BF16 fits no single 80 GB GPU and four of them; an fp8 cache holds twice the sequences; none is 0, not less."""
    model = load_model("llama-3.3-70b")
    assert fit(model, 80 * GB, context_tokens=4096).sequences == 0
    four = fit(model, 80 * GB, context_tokens=4096, tensor_parallel=4)
    assert four.sequences == int((72 - 2 - model.parameters * 2 / 4 / GB) * GB // (4096 * 81_920))
    fp8 = fit(model, 80 * GB, context_tokens=4096, tensor_parallel=4, kv_dtype="fp8")
    assert fp8.sequences in {2 * four.sequences, 2 * four.sequences + 1}


def test_blocks_by_vllms_rule():
    """bytes // (layers x block x token bytes); full and window layers in equal groups, as vLLM's own function groups them."""
    tiny = replace(load_model("smollm2-135m"), full_layers=2, kv_heads=2, head_dim=32)
    blocks = predict_kv_blocks(tiny, 2**30, 128, max_model_len=2048)
    assert (blocks.num_blocks, blocks.size_tokens, blocks.max_concurrency) == (16384, 2_097_152, 1024.0)
    # what vllm.v1.core.kv_cache_utils makes of these counts: (layers per group, full groups, window groups)
    for full, window, size, full_groups, window_groups in (
        (12, 12, 12, 1, 1),
        (10, 52, 10, 1, 6),
        (13, 12, 13, 1, 1),
        (10, 20, 10, 1, 2),
        (5, 20, 5, 1, 4),
        (7, 10, 10, 1, 1),
        (24, 12, 12, 2, 1),
        (12, 18, 12, 1, 2),  # one and a half times as many is not padded; a layer fewer is
        (12, 17, 17, 1, 1),
    ):
        model = replace(load_model("gpt-oss-20b"), full_layers=full, window_layers=window)
        found = predict_kv_blocks(model, 10**9, 16, max_model_len=4096, max_in_flight_tokens=1024)
        assert found.bytes_per_block == size * 16 * 2048
        needed = full_groups * 256 + window_groups * ((127 + 1024 + 15) // 16 + 1)
        assert found.max_concurrency == pytest.approx(10**9 // found.bytes_per_block / needed)


@pytest.mark.parametrize(("window", "blocks"), [(129, 72), (130, 73)])
def test_a_window_keeps_the_tokens_before_the_newest(window, blocks):
    """What a windowed layer needs is window - 1 tokens and those in flight: the token that fills a block asks for no other."""
    model = replace(load_model("gpt-oss-20b"), full_layers=0, window_layers=1, window=window)
    found = predict_kv_blocks(model, 10**9, 16, max_model_len=4096, max_in_flight_tokens=1024)
    assert found.max_concurrency == pytest.approx(10**9 // found.bytes_per_block / (blocks + 1))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"num_hidden_layers": None}, "num_hidden_layers"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"layer_types": ["linear_attention"] * 32}, "not modelled"),
        ({"layer_types": ["conv"] * 32}, "not modelled"),
        ({"layer_types": ["full_attention"] * 31}, "31 for 32 layers"),
        ({"model_type": "falcon_h1"}, "falcon_h1"),
        ({"model_type": "mamba2"}, "mamba2"),
        ({"model_type": None}, "missing"),
        ({"torch_dtype": "float8_e5m2"}, "dtype is not known"),
    ],
)
def test_bad_configs_are_refused(change, what):
    """A missing, impossible or unmodelled part is named; nothing is made up for it."""
    config = json.loads(models()["llama-3.1-8b"].read_text()) | change
    with pytest.raises(ConfigError, match=what):
        model_shape(config)


def test_bad_words_are_refused(tmp_path):
    """Unknown model, dtype or split over GPUs: the nearest names or what to do."""
    with pytest.raises(ConfigError, match=r"llama-3\.1-8b"):
        load_model("llama-3.1-8")
    model = load_model("llama-3.1-8b")
    with pytest.raises(ConfigError, match="KV cache dtype"):
        kv_bytes_per_token(model, "int2")
    with pytest.raises(ConfigError, match="weight dtype"):
        weight_bytes(model, "int3")
    with pytest.raises(ConfigError, match="divide"):
        kv_bytes_per_token(model, "auto", 3)
    with pytest.raises(ConfigError):
        fit(model, 0, context_tokens=10)
    with pytest.raises(ConfigError):
        fit(model, 80 * GB, context_tokens=10, memory_share=1.1)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigError, match="not a mapping"):
        load_model(str(tmp_path))


def test_command(tmp_path):
    """A model by name or by its config.json; the cache's blocks when its size is given."""
    said = CliRunner().invoke(command, ["llama-2-70b", "--gpu-memory-gb", "80"], catch_exceptions=False).output
    assert "327,680 bytes per token" in said
    assert "does not fit" in said
    (tmp_path / "config.json").write_text(models()["qwen3-8b"].read_text())
    words = [str(tmp_path), "--context", "4096", "--kv-cache-gb", "10", "--json"]
    shown = json.loads(CliRunner().invoke(command, words, catch_exceptions=False).output)
    assert shown["kv_blocks"]["num_blocks"] == 10 * GB // (147_456 * 16)
    assert shown["fits"]["H100-SXM"]["sequences"] > shown["fits"]["A10G"]["sequences"] > 0
