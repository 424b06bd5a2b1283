"""Whole shapes of small configs, worked out by hand, and the files that they are read from."""

from __future__ import annotations

import json

import pytest

from harness.base.errors import ConfigError
from harness.config.model.shape import ModelShape, load_model, model_shape, models
from tests.model.matrix_lists import BASE, BLOCKS, DELTA, EXPERTS, LATENT

LLAMA = {**BASE, "model_type": "llama", "num_hidden_layers": 2}
LAYER = (20 + 10 + 10 + 20) * 24, 3 * 7 * 24  # attention, feed-forward


def shape_of(model_type, **change):
    return model_shape({**BASE, "model_type": model_type, **change}, "m")


def test_a_plain_model():
    """Two layers of full attention, 16 bits where nothing says otherwise; the embedding is looked up, the head is used."""
    embedding, (attention, mlp), other = 11 * 24, LAYER, 24 + 2 * 48
    assert model_shape(LLAMA) == ModelShape(
        name="model", layers=2, full_layers=2, window_layers=0, window=None, chunked=False, state_layers=0, state_bytes=0,
        state_blocks=2, kv_heads=2, head_dim=5, latent_dim=None, qk_dim=5, v_dim=5, decode_qk_dim=5, decode_v_dim=5,
        attention_heads=4, max_tokens=2048, dtype="bfloat16", weight_dtype="bfloat16",
        weight_bytes=2.0 * (2 * embedding + 2 * attention + 2 * mlp + other), embedding_parameters=2 * embedding,
        attention_parameters=2 * attention, mlp_parameters=2 * mlp, other_parameters=other,
        active_parameters=embedding + 2 * attention + 2 * mlp + other,
    )  # fmt: skip
    assert model_shape(LLAMA).parameters == 2 * embedding + 2 * attention + 2 * mlp + other


def test_a_model_with_a_latent_and_experts():
    """DeepSeek-V3: one KV head of latent and position, 2 of 6 experts used, in prefill heads of 3 + 2 and 5, in decoding 8 and 6."""
    found = shape_of(
        "deepseek_v3", **LATENT, n_routed_experts=6, moe_intermediate_size=9, tie_word_embeddings=True, dtype="float32",
        max_position_embeddings=99,
    )  # fmt: skip
    attention = (20 + 8) * 24 + 32 * 6 + 24 * 20
    expert, other = 3 * 9 * 24, 6 * 24 + 24 + 48 + 6 + 6
    assert found == ModelShape(
        name="m", layers=1, full_layers=1, window_layers=0, window=None, chunked=False, state_layers=0, state_bytes=0,
        state_blocks=2, kv_heads=1, head_dim=8, latent_dim=8, qk_dim=5, v_dim=5, decode_qk_dim=8, decode_v_dim=6,
        attention_heads=4, max_tokens=99, dtype="float32", weight_dtype="float32",
        weight_bytes=4.0 * (11 * 24 + attention + 6 * expert + other), embedding_parameters=11 * 24,
        attention_parameters=attention, mlp_parameters=6 * expert, other_parameters=other,
        active_parameters=11 * 24 + attention + 2 * expert + other,  # the embedding is the head
    )  # fmt: skip


def test_a_model_with_states_in_8_bits():
    """Qwen3-Next: a state layer and a full one; routers, norms and embeddings keep 16 bits, and most weights are FP8."""
    found = shape_of(
        "qwen3_next", num_hidden_layers=2, **DELTA, **EXPERTS, torch_dtype="torch.float16",
        quantization_config={"quant_method": "fp8"},
    )  # fmt: skip
    attention = (52 + 8 + 20) * 24 + (40 + 10 + 10 + 20) * 24
    expert, routers = 3 * 9 * 24, 2 * 7 * 24  # a row a layer for the gate of the shared expert, which is not there
    other = routers + 24 + 4 * 24 + (32 * 4 + 2 * 4 + 5) + 2 * 5
    assert found == ModelShape(
        name="m", layers=2, full_layers=1, window_layers=0, window=None, chunked=False, state_layers=1,
        state_bytes=(3 * 32 + 60) * 2, state_blocks=2, kv_heads=2, head_dim=5, latent_dim=None, qk_dim=5, v_dim=5,
        decode_qk_dim=5, decode_v_dim=5, attention_heads=4, max_tokens=2048, dtype="float16", weight_dtype="fp8",
        weight_bytes=attention + 12.0 * expert + 2 * (other + 2 * 11 * 24), embedding_parameters=2 * 11 * 24,
        attention_parameters=attention, mlp_parameters=12 * expert, other_parameters=other,
        active_parameters=11 * 24 + attention + 4 * expert + other,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model_type", "change", "windows"),
    [
        ("mistral", {"sliding_window": 9}, (0, 3, 9, False)),
        ("gpt_oss", {"sliding_window": 9}, (1, 2, 9, False)),
        ("llama4", {"attention_chunk_size": 9, "no_rope_layer_interval": 3, "sliding_window": 8}, (1, 2, 9, True)),
        ("llama", {"sliding_window": 9}, (3, 0, None, False)),
        ("mistral", {}, (3, 0, None, False)),
    ],
)
def test_windows_and_chunks(model_type, change, windows):
    """(full layers, layers with a window or chunk, its tokens, whether chunks)"""
    found = shape_of(model_type, num_hidden_layers=3, **change)
    assert (found.full_layers, found.window_layers, found.window, found.chunked) == windows


@pytest.mark.parametrize(
    ("model_type", "change", "size"),
    [
        ("qwen3_next", {}, 96 * 2 + 60 * 2),
        ("qwen3_next", {"dtype": "float32"}, 96 * 4 + 60 * 4),
        ("qwen3_next", {"mamba_ssm_dtype": "float32"}, 96 * 2 + 60 * 4),
        ("qwen3_next", {"mamba_ssm_dtype": "float32", "mamba_ssm_cache_dtype": "float16", "dtype": "float32"}, 96 * 4 + 60 * 2),
        ("nemotron_h", {}, 3 * 78 * 2 + 90 * 4),  # float32 where it does not say
        ("nemotron_h", {"mamba_ssm_dtype": "bfloat16"}, 3 * 78 * 2 + 90 * 2),
    ],
)  # fmt: skip
def test_bytes_of_a_state(model_type, change, size):
    """The convolution's inputs in the model's dtype, the state in its own."""
    layers = (
        {"hybrid_override_pattern": "M*", **BLOCKS} if model_type == "nemotron_h" else {**DELTA, "num_hidden_layers": 2}
    )
    found = shape_of(model_type, **layers, **change)
    assert (found.state_layers, found.state_bytes) == (1, size)
    assert found.state_blocks == (3 if model_type == "nemotron_h" else 2)


@pytest.mark.parametrize(
    ("given", "dtype", "each"),
    [
        ({}, "bfloat16", 2),
        ({"dtype": None, "torch_dtype": None}, "bfloat16", 2),
        ({"torch_dtype": "float32"}, "float32", 4),
        ({"dtype": "float16", "torch_dtype": "float32"}, "float16", 2),
        ({"dtype": "torch.float32"}, "float32", 4),
        ({"dtype": "bfloat16"}, "bfloat16", 2),
    ],
)
def test_the_dtype_of_a_model(given, dtype, each):
    """dtype before torch_dtype, with or without its package's name."""
    found = model_shape({**LLAMA, **given})
    assert (found.dtype, found.weight_dtype, found.weight_bytes) == (dtype, dtype, each * found.parameters)


def test_the_older_name_of_a_quantisation():
    """compression_config, where quantization_config is not given; what most weights have is the label, not the first."""
    old = {"compression_config": {"quant_method": "fp8"}}
    assert model_shape({**LLAMA, **old}).weight_dtype == "fp8"
    assert model_shape({**LLAMA, **old, "quantization_config": {"load_in_8bit": True}}).weight_dtype == "int8"
    assert model_shape({**LLAMA, **old, "vocab_size": 1000}).weight_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("model_type", "change", "what", "value"),
    [
        ("llama", {"dtype": "int8"}, "dtype is not known", "int8"),
        ("qwen3_next", {**DELTA, "num_hidden_layers": 2, "mamba_ssm_dtype": "int4"}, "dtype is not known", "int4"),
        ("llama", {"layer_types": ["mlp"]}, "no attention layers", "llama"),
        ("llama4", {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "chunked_attention"], "sliding_window": 8},
         "layers that are not modelled", "windows and chunks"),
        ("llama4", {"layer_types": ["chunked_attention"]}, "config has no attention_chunk_size", "missing"),
        ("llama", {"max_position_embeddings": -1}, "max_position_embeddings is not a whole number of at least 1", "-1"),
        ("llama", {"quantization_config": {"quant_method": "x"}}, "quantisation is not known", "x"),
    ],
)  # fmt: skip
def test_what_is_refused(model_type, change, what, value):
    """By the model's name."""
    with pytest.raises(ConfigError) as error:
        shape_of(model_type, **change)
    assert (error.value.what, error.value.value) == (f"model m: {what}", value)


@pytest.mark.parametrize(("given", "tokens"), [(None, 2048), (0, 2048), (1, 1), (4096, 4096)])
def test_the_longest_context(given, tokens):
    """As the config says, else 2,048."""
    assert model_shape({**LLAMA, "max_position_embeddings": given}).max_tokens == tokens


# ---------------------------------------------------------------- files


def test_a_model_by_name_file_or_directory(tmp_path):
    """A config that comes along, by its name; any file by its own, and config.json by its directory's."""
    known = models()
    assert list(known) == sorted(known)
    assert known["qwen3-8b"].name == "qwen3-8b.json"
    assert load_model("qwen3-8b") == model_shape(json.loads(known["qwen3-8b"].read_text()), "qwen3-8b")
    folder = tmp_path / "my-model"
    folder.mkdir()
    for path in (folder / "config.json", folder / "small.json"):
        path.write_text(json.dumps(LLAMA | {"model_type": "qwen2", "_by": "Zoë"}, ensure_ascii=False), encoding="utf-8")
    right = model_shape(LLAMA | {"model_type": "qwen2"}, "my-model")
    assert load_model(str(folder)) == load_model(str(folder / "config.json")) == right
    assert load_model(str(folder / "small.json")) == model_shape(LLAMA | {"model_type": "qwen2"}, "small")


def test_a_config_in_the_working_directory_has_no_other_name(tmp_path, monkeypatch):
    """config.json by itself is called that."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.chdir(tmp_path)
    assert load_model("config.json").name == "config.json"


def test_what_lies_beside_a_config(tmp_path):
    """hf_quant_config.json counts beside config.json alone, and where the config itself says nothing."""
    for name in ("config.json", "other.json"):
        (tmp_path / name).write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "FP8"}}))
    assert load_model(str(tmp_path)).weight_dtype == "fp8"
    assert load_model(str(tmp_path / "other.json")).weight_dtype == "bfloat16"
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "quantization_config": {"load_in_8bit": True}}))
    assert load_model(str(tmp_path)).weight_dtype == "int8"
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="quantisation of modelopt is not known"):  # never 16 bits without a word
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "what"), [("{", "model config cannot be read"), ("[]", "model config is not a mapping")]
)
def test_a_file_that_is_no_config(tmp_path, text, what):
    """The file is named."""
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_model(str(tmp_path))
    assert (error.value.what, error.value.value) == (what, str(path))


@pytest.mark.parametrize(
    ("name", "advice"), [("qwen3-8", "did you mean qwen3-8b"), ("zzz", "a config.json, or one of deepseek-v3, ")]
)
def test_a_model_that_is_not_there(name, advice):
    """The nearest names, or all of them."""
    with pytest.raises(ConfigError) as error:
        load_model(name)
    assert (error.value.what, error.value.value) == ("no such model", name)
    assert advice in error.value.advice


def test_a_directory_without_a_config(tmp_path):
    """The file that is missing is named."""
    with pytest.raises(ConfigError) as error:
        load_model(str(tmp_path))
    assert error.value.value == str(tmp_path / "config.json")
