"""What each layer is, family by family and rule by rule, and how a config.json is read."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from harness.base.errors import ConfigError
from harness.config.model.layers import FAMILIES, Family, layer_kinds, read_config

SHORT = {"full": "f", "window": "w", "chunk": "c", "state": "s", "none": "-"}
WINDOW = {"sliding_window": 8, "use_sliding_window": True}


def kinds(model_type, layers=7, **change):
    """A letter a layer."""
    config = {"model_type": model_type, "num_hidden_layers": layers, **change}
    return "".join(SHORT[kind] for kind in layer_kinds(read_config(config, "m")))


ATTEND = (
    "llama",
    "granite",
    "smollm3",
    "gemma",
    "olmo2",
    "glm4_moe",
    "deepseek_v2",
    "deepseek_v3",
    "kimi_k2",
    "llama4_text",
)
BY_FAMILY = {
    "fffffff": ATTEND,
    "wwwwwww": ("mistral", "mixtral", "phi3"),
    "fffffww": ("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),  # from max_window_layers on
    "wfwfwfw": ("gemma2", "gpt_oss"),
    "wwwwwfw": ("gemma3_text",),  # the sixth has not
    "sssfsss": ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text"),
    "ssssfss": ("jamba",),
}


@pytest.mark.parametrize("layers", BY_FAMILY)
def test_layers_of_a_family_whose_config_lists_none(layers):
    """Windows, states and full attention where each family has them; the config names a window, of which only some make use."""
    families = BY_FAMILY[layers]
    assert {kinds(name, **WINDOW, max_window_layers=5) for name in families} == {layers}


def test_every_family_is_in_the_table_above():
    """But Nemotron-H, whose config says what its layers are."""
    assert set(FAMILIES) == {"nemotron_h", *(name for names in BY_FAMILY.values() for name in names)}


def test_what_a_family_is_beside_its_layers():
    """Biases, norms, gates, routers and embeddings as their code in transformers has them; a family is two norms a layer and nothing
    else unless it says so."""
    plain = {
        "qkv_bias": False, "head_norms": False, "full_norms": False, "norms": 2, "windows": "", "states": "", "gated_attention": False,
        "shared_gate": False, "corrected_router": False, "tied": False,
    }  # fmt: skip
    delta = {"head_norms": True, "states": "delta", "gated_attention": True}
    assert asdict(Family()) == plain
    said = {
        name: {k: v for k, v in asdict(f).items() if v != plain[k] and k != "windows"} for name, f in FAMILIES.items()
    }
    assert {name: words for name, words in said.items() if words} == {
        "qwen2": {"qkv_bias": True}, "qwen2_moe": {"qkv_bias": True, "shared_gate": True},
        "qwen3": {"head_norms": True}, "qwen3_moe": {"head_norms": True},
        "qwen3_next": {**delta, "shared_gate": True}, "qwen3_5_text": delta, "qwen3_5_moe_text": {**delta, "shared_gate": True},
        "gemma": {"tied": True}, "gemma2": {"norms": 4, "tied": True}, "gemma3_text": {"norms": 4, "tied": True, "head_norms": True},
        "olmo2": {"full_norms": True}, "jamba": {"states": "mamba"},
        "glm4_moe": {"corrected_router": True}, "deepseek_v3": {"corrected_router": True}, "kimi_k2": {"corrected_router": True},
        "nemotron_h": {"norms": 1, "states": "mamba2", "corrected_router": True},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "family"),
    [("gemma3", "gemma3_text"), ("llama4", "llama4_text"), ("qwen3_5", "qwen3_5_text"), ("qwen3_5_moe", "qwen3_5_moe_text")],
)  # fmt: skip
def test_a_model_with_a_vision_tower_is_its_text_family(name, family):
    """The model_type of the whole where the text part has none of its own."""
    found = read_config({"model_type": name}, "m")
    assert (found.model_type, found.family) == (family, FAMILIES[family])


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, "f" * 30),  # no window
        ({"sliding_window": 0, "use_sliding_window": True}, "f" * 30),
        ({"sliding_window": 8, "use_sliding_window": False}, "f" * 30),
        ({"sliding_window": 8}, "f" * 30),  # not said to be used: no layer is late
        ({"sliding_window": 8, "use_sliding_window": True}, "f" * 28 + "ww"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, "w" * 30),
    ],
)
def test_late_windows(change, layers):
    """Qwen's: from max_window_layers on, 28 where that is not given."""
    assert kinds("qwen2", 30, **change) == layers


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({}, "f" * 7),
        ({"sliding_window": 8}, "wwwwwfw"),
        ({"sliding_window": 8, "sliding_window_pattern": 2}, "wfwfwfw"),
        ({"sliding_window": 8, "sliding_window_pattern": 1}, "f" * 7),
    ],
)
def test_windows_in_a_pattern(change, layers):
    """Gemma 3: all but every sixth."""
    assert kinds("gemma3_text", **change) == layers


@pytest.mark.parametrize(
    ("model_type", "change", "layers"),
    [
        ("qwen3_next", {"full_attention_interval": 2}, "sfsfsfs"),
        ("qwen3_next", {"full_attention_interval": 1}, "fffffff"),
        ("jamba", {"layers": 14}, "ssssfsssssssfs"),
        ("jamba", {"attn_layer_period": 3}, "sssssss"),  # the offset stays 4
        ("jamba", {"attn_layer_period": 3, "attn_layer_offset": 0}, "fssfssf"),
        ("jamba", {"attn_layer_period": 1, "attn_layer_offset": 0}, "fffffff"),
        ("llama4", {"attention_chunk_size": 8}, "cccfccc"),
        ("llama4", {"attention_chunk_size": 8, "no_rope_layer_interval": 2}, "cfcfcfc"),
        ("llama4", {"attention_chunk_size": 8, "no_rope_layer_interval": 1}, "fffffff"),
        ("llama4", {"attention_chunk_size": 8, "no_rope_layers": [1, 0, 0, 1, 1, 1, 0]}, "cffcccf"),
        ("llama4", {"attention_chunk_size": None, "no_rope_layers": [1, 0, 0, 1, 1, 1, 0]}, "fffffff"),
        ("llama4", {"attention_chunk_size": 8, "no_rope_layers": []}, "cccfccc"),
    ],
)
def test_intervals_and_offsets(model_type, change, layers):
    """Which layers attend, or attend to everything."""
    assert kinds(model_type, **change) == layers


LISTED = [
    "full_attention", "attention", "sliding_attention", "chunked_attention", "linear_attention", "mamba", "mlp", "moe",
]  # fmt: skip


@pytest.mark.parametrize("key", ["layer_types", "layers_block_type"])
@pytest.mark.parametrize(
    ("change", "layers"),
    [({}, "fffcss--"), ({"sliding_window": 8}, "ffwcss--"), ({"sliding_window": 8, "use_sliding_window": False}, "fffcss--")],
)  # fmt: skip
def test_layers_that_a_config_lists(key, change, layers):
    """Every word that is known; a window that is not used is full attention."""
    assert kinds("jamba", 8, **{key: LISTED}, **change) == layers


@pytest.mark.parametrize(
    ("change", "layers"),
    [
        ({"hybrid_override_pattern": "M*-E"}, "sf--"),
        ({"layers_block_type": ["mamba", "linear_attention", "attention", "full_attention", "mlp", "moe"]}, "ssff--"),
        ({"layer_types": ["mamba", "full_attention", "E", "*"]}, "sf-f"),
        ({"layer_types": ["mamba"], "layers_block_type": ["attention"], "hybrid_override_pattern": "-"}, "f"),
    ],
)
def test_blocks_that_a_config_lists(change, layers):
    """Nemotron-H: letters or words, as many as there are; num_hidden_layers is not asked."""
    assert kinds("nemotron_h", **change) == layers


@pytest.mark.parametrize(
    ("model_type", "change", "what", "value"),
    [
        ("nemotron_h", {}, "model m: hybrid_override_pattern", "missing"),
        ("nemotron_h", {"hybrid_override_pattern": "M*XY"}, "model m: hybrid_override_pattern", "X"),
        ("jamba", {"layer_types": ["conv", "rwkv"]}, "model m: layers that are not modelled", "conv"),
        ("jamba", {"layer_types": ["mamba"] * 6}, "model m: layer_types", "6 for 7 layers"),
        ("llama", {"layer_types": ["attention"] * 5 + ["mamba", "linear_attention"]}, "model m: layers that are not modelled", "mamba"),
        ("llama", {"num_hidden_layers": 0}, "model m: num_hidden_layers is not a whole number of at least 1", "0"),
        ("llama", {"num_hidden_layers": None}, "model m: config has no num_hidden_layers", "missing"),
        ("jamba", {"attn_layer_period": 0}, "model m: attn_layer_period is not a whole number of at least 1", "0"),
        ("jamba", {"attn_layer_offset": -1}, "model m: attn_layer_offset is not a whole number of at least 0", "-1"),
        ("qwen3_next", {"full_attention_interval": 0}, "model m: full_attention_interval is not a whole number of at least 1", "0"),
        ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 0}, "model m: sliding_window_pattern is not a whole number of at least 1", "0"),
        ("llama4", {"attention_chunk_size": 8, "no_rope_layer_interval": 0}, "model m: no_rope_layer_interval is not a whole number of at least 1", "0"),
    ],
)  # fmt: skip
def test_layers_that_are_refused(model_type, change, what, value):
    """What is wrong and the value that is: nothing is made up for it."""
    with pytest.raises(ConfigError) as error:
        kinds(model_type, **change)
    assert (error.value.what, error.value.value) == (what, value)


def test_the_text_part_is_read_and_the_rest_of_the_model_says_what_it_does_not():
    """Of what stands outside text_config only how weights are stored, tied and named counts, and only where the text says nothing."""
    outside = {
        "quantization_config": {"a": 1}, "compression_config": {"b": 1}, "torch_dtype": "float16", "dtype": "float32",
        "tie_word_embeddings": True, "model_type": "gemma3",
    }  # fmt: skip
    text = {"hidden_size": 8}
    found = read_config({**outside, "text_config": text, "hidden_size": 9, "vision_config": {}}, "m")
    assert (found.values, found.name, found.model_type, found.family) == (
        {**outside, **text}, "m", "gemma3_text", FAMILIES["gemma3_text"],
    )  # fmt: skip
    inside = {"torch_dtype": "bfloat16", "model_type": "llama", "tie_word_embeddings": False}
    assert read_config({**outside, "text_config": inside}, "m").values == {**outside, **inside}
    assert read_config({"text_config": None, "model_type": "llama"}, "m").model_type == "llama"


def test_numbers_of_a_config():
    """The first key that is there; a default where none is; a number that is too small is refused."""
    config = read_config({"model_type": "llama", "a": None, "b": 2, "c": 0}, "m")
    assert (config.count("a", "b"), config.count("b"), config.of("a", 7), config.of("b", 7), config.of("c", 7)) == (
        2,
        2,
        7,
        2,
        0,
    )
    assert (config.count("c", least=0), config.of("b", 7, 2)) == (0, 2)
    for ask in (lambda: config.count("c"), lambda: config.of("c", 7, 1), lambda: config.of("b", 7, 3)):
        with pytest.raises(ConfigError, match="is not a whole number of at least"):
            ask()
    with pytest.raises(ConfigError, match="config has no a") as error:
        config.count("a")
    assert error.value.value == "missing"


@pytest.mark.parametrize(
    ("model_type", "value", "advice"),
    [("qwen3_nex", "qwen3_nex", "did you mean qwen3_next"), ("zzz", "zzz", "known: llama, granite"), (None, "missing", "known: llama, ")],
)  # fmt: skip
def test_a_family_that_is_not_modelled(model_type, value, advice):
    """Refused by its name, with the nearest known ones, or all."""
    with pytest.raises(ConfigError) as error:
        read_config({"model_type": model_type}, "m")
    assert (error.value.what, error.value.value) == ("model m: model_type is not modelled", value)
    assert advice in str(error.value)
