"""Label and bits of a weight by every method and its defaults, and which matrices a method leaves alone: one matrix at a time."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.config.model.matrices import Matrix
from harness.config.model.quantisation import FP8, INT8, MXFP4, NVFP4, Scheme, quantisation

UP = Matrix("model.layers.0.mlp.up_proj", 8, 8, "mlp")
GATE = Matrix("model.layers.0.mlp.gate_proj", 8, 8, "mlp")
QUERY = Matrix("model.layers.1.self_attn.q_proj", 8, 8, "attention")
EXPERT = Matrix("model.layers.0.mlp.experts.0.up_proj", 8, 8, "expert", 4, 2)
FOUR = {"num_bits": 4, "type": "int", "group_size": 64}


def groups(*each):
    return {"quant_method": "compressed-tensors", "config_groups": {f"group_{n}": g for n, g in enumerate(each)}}


def numbers(**weights):
    return groups({"targets": ["Linear"], "weights": weights})


def quark(**weight):
    return {"quant_method": "quark", "global_quant_config": {"weight": weight}}


def test_formats_with_scales_of_8_bits():
    """NVFP4 has one for 16 weights, MXFP4 for 32; a scale per tensor or channel is nothing a weight."""
    assert (Scheme("fp8", 8), Scheme("int8", 8)) == (FP8, INT8)
    assert (Scheme("nvfp4", 4.5), Scheme("mxfp4", 4.25)) == (NVFP4, MXFP4)


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        ({"quant_method": "FP8"}, FP8),
        ({"quant_method": "gptq", "bits": 4}, Scheme("int4", 4 + 20 / 128)),
        ({"quant_method": "gptq", "bits": 3}, Scheme("int3", 3 + 19 / 128)),
        ({"quant_method": "GPTQ_marlin", "bits": 2, "group_size": None}, Scheme("int2", 2)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 1}, Scheme("int4", 4 + 20)),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, Scheme("int4", 4)),
        ({"quant_method": "awq"}, Scheme("int4", 4 + 20 / 128)),
        ({"quant_method": "awq", "w_bit": 8, "q_group_size": 64}, Scheme("int8", 8 + 24 / 64)),
        ({"quant_method": "awq", "bits": 8, "w_bit": 4, "group_size": 32, "q_group_size": 64}, Scheme("int8", 8 + 24 / 32)),
        ({"quant_method": "awq_marlin", "zero_point": False}, Scheme("int4", 4 + 16 / 128)),
        ({"load_in_4bit": True}, Scheme("int4", 4 + 32 / 64)),
        ({"load_in_8bit": True}, INT8),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "bnb_4bit_use_double_quant": True}, INT8),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, Scheme("int4", 4 + 8 / 64 + 32 / (64 * 256))),
        (numbers(num_bits=8), INT8),  # whole numbers, symmetric and a scale a channel, where it does not say
        (numbers(num_bits=8, group_size=64), Scheme("int8", 8 + 16 / 64)),
        (numbers(num_bits=8, group_size=64, symmetric=False), Scheme("int8", 8 + 24 / 64)),
        (numbers(num_bits=8, group_size=64, strategy="tensor"), INT8),
        (numbers(num_bits=8, group_size=64, strategy="channel"), INT8),
        (numbers(num_bits=8, type="float", group_size=64, strategy="block"), FP8),
        (numbers(num_bits=8, type="float", group_size=64, strategy="group"), Scheme("fp8", 8 + 8 / 64)),
        (numbers(num_bits=8, type="float"), FP8),
        (numbers(num_bits=8, type="float", group_size=0), FP8),
        (numbers(num_bits=8, type="float", group_size=1), Scheme("fp8", 16)),
        (numbers(num_bits=4, type="float", group_size=16), NVFP4),
        (numbers(num_bits=4, type="float", group_size=32), MXFP4),
        (numbers(**FOUR), Scheme("int4", 4 + 16 / 64)),
        (groups({"targets": None, "weights": FOUR}), Scheme("int4", 4 + 16 / 64)),  # every matrix
        (groups({"weights": None}, {"weights": FOUR}), Scheme("int4", 4 + 16 / 64)),  # one of activations alone
        (groups({"weights": FOUR}) | {"sparsity_config": {"format": None}}, Scheme("int4", 4 + 16 / 64)),
        (groups({"weights": FOUR}) | {"sparsity_config": {"format": "dense"}}, Scheme("int4", 4 + 16 / 64)),
        ({"quant_algo": "FP8"}, FP8),
        ({"quantization": {"quant_algo": "FP8"}}, FP8),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, FP8),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PB_WO"}, FP8),
        ({"quant_method": "modelopt_fp4", "quant_algo": "NVFP4", "group_size": None}, NVFP4),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "NVFP4", "group_size": 32}}, Scheme("nvfp4", 4 + 8 / 32)),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 1}, Scheme("nvfp4", 4 + 8)),
        (quark(dtype="fp8_e4m3"), FP8),
        (quark(dtype="int8"), INT8),
        (quark(dtype="fp4", group_size=32), MXFP4),
        (quark(dtype="int4", group_size=64), Scheme("int4", 4 + 16 / 64)),
        (quark(dtype="uint4", group_size=64), Scheme("int4", 4 + 20 / 64)),
        (quark(dtype="uint4"), Scheme("int4", 4)),
    ],
)  # fmt: skip
def test_a_scheme(given, scheme):
    """The numbers of a weight with its share of a 16-bit scale and a zero point as wide as the weight; nothing for one a channel."""
    found = quantisation(given, "m")
    assert found.scheme(UP) == scheme
    assert found.scheme(QUERY) == scheme
    assert found.scheme(EXPERT) == scheme


@pytest.mark.parametrize("kind", ["embedding", "head", "router"])
def test_what_no_method_takes(kind):
    """Embedding, head and router stay at the model's dtype, whatever the method says."""
    assert quantisation({"quant_method": "fp8"}, "m").scheme(Matrix("model.any", 8, 8, kind)) is None


@pytest.mark.parametrize("method", ["mxfp4", "gpt_oss_mxfp4"])
def test_mxfp4_is_of_experts(method):
    """Attention and ordinary blocks stay."""
    found = quantisation({"quant_method": method}, "m")
    assert [found.scheme(m) for m in (EXPERT, UP, QUERY)] == [MXFP4, None, None]


LEFT = ["model.layers.0.mlp.up_proj"]


@pytest.mark.parametrize(
    ("given", "scheme"),
    [
        *(({"quant_method": "fp8", key: LEFT}, FP8) for key in ("modules_to_not_convert", "ignored_layers", "ignore", "exclude_modules")),
        ({"quant_method": "fbgemm_fp8", "ignore": ["lm_head"], "modules_to_not_convert": LEFT}, FP8),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "modules_to_not_convert": LEFT}, INT8),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1, "dynamic": {r"-:.*up_proj": {}}}, INT8),
        ({"quant_method": "awq", "bits": 8, "group_size": -1, "modules_to_not_convert": LEFT}, INT8),
        ({"load_in_8bit": True, "llm_int8_skip_modules": LEFT}, INT8),
        ({"load_in_8bit": True, "llm_int8_skip_modules": ["lm_head"], "ignore": LEFT}, INT8),
        ({"load_in_4bit": True, "llm_int8_skip_modules": LEFT}, Scheme("int4", 4.5)),
        (numbers(num_bits=8) | {"ignore": LEFT}, INT8),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "exclude_modules": LEFT}, FP8),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": LEFT}}, FP8),
        ({"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "ignore": LEFT}}, FP8),
        ({"quant_method": "modelopt", "ignore": LEFT, "quantization": {"quant_algo": "FP8"}}, FP8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": LEFT}, NVFP4),
        (quark(dtype="int8") | {"exclude": LEFT}, INT8),
    ],
)  # fmt: skip
def test_what_a_method_leaves_alone(given, scheme):
    """Each under the keys by which it says so; the matrix beside it is taken."""
    found = quantisation(given, "m")
    assert [found.scheme(m) for m in (UP, GATE)] == [None, scheme]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("re:.*up_proj", True),
        ("re:up_proj", False),  # from the start
        ("re:model.language", False),
        ("model.layers.*.up_proj", True),
        ("model.layers.*.mlp", True),  # what is inside it
        ("model.layers.*.m", False),
        ("language_model.model.layers.0.mlp", True),
        ("model.language_model.layers.0", True),
        ("up_proj", True),
        ("layers.0", True),
        ("layers.0.ml", False),
        ("odel.layers.0", False),
    ],
)
def test_entries_of_an_ignore_list(pattern, left):
    """A regular expression, a wildcard, or a name or a part of it between dots; a vision model's prefix is passed over."""
    found = quantisation({"quant_method": "fp8", "ignore": [pattern]}, "m")
    assert found.scheme(UP) == (None if left else FP8)


def test_dynamic_rules_of_gptq():
    """The first that fits, with bits and group of its own or the method's; what one leaves alone no other takes."""
    found = quantisation(
        {
            "quant_method": "gptq", "bits": 4, "group_size": 64,
            "dynamic": {
                "-:.*gate_proj": {}, "+:.*up_proj": {"bits": 8}, ".*q_proj": {"group_size": 32}, ".*gate_proj": {"bits": 2},
                ".*k_proj": {"bits": 2, "group_size": 16}, ".*self_attn.*": {"bits": 3},
            },
        },
        "m",
    )  # fmt: skip
    of = lambda name: found.scheme(Matrix(f"model.layers.0.{name}", 8, 8, "mlp"))  # noqa: E731
    assert of("mlp.gate_proj") is None
    assert of("mlp.up_proj") == Scheme("int8", 8 + 24 / 64)
    assert of("self_attn.q_proj") == Scheme("int4", 4 + 20 / 32)
    assert of("self_attn.k_proj") == Scheme("int2", 2 + 18 / 16)
    assert of("self_attn.v_proj") == Scheme("int3", 3 + 19 / 64)
    assert of("mlp.down_proj") == Scheme("int4", 4 + 20 / 64)


def test_targets_of_compressed_tensors():
    """Names beside Linear, which is every matrix; the first group that fits counts; an ignore list is before all of them."""
    eight, four = {"targets": ["re:.*up_proj", "gate_proj"], "weights": {"num_bits": 8}}, {"weights": FOUR}
    found = quantisation(groups(eight, four) | {"ignore": ["q_proj"]}, "m")
    assert [found.scheme(m) for m in (UP, GATE, EXPERT, QUERY)] == [INT8, INT8, INT8, None]
    alone = quantisation(groups({**eight, "targets": ["gate_proj"]}), "m")
    assert [alone.scheme(m) for m in (UP, GATE)] == [None, INT8]


SPARSE = {**groups({"weights": FOUR}), "sparsity_config": {"format": "sparse-24"}}


@pytest.mark.parametrize(
    ("given", "what", "value"),
    [
        ({}, "quantisation is not known", "quant_method is missing"),
        ({"quant_method": "HQQ"}, "quantisation is not known", "hqq"),
        ({"quantization": ["quant_algo"]}, "quantisation is not known", "quant_method is missing"),
        ({"load_in_4bit": False, "load_in_8bit": False}, "quantisation is not known", "quant_method is missing"),
        ({"quant_method": "gptq", "bits": 5}, "bits of gptq is not known", "5"),
        ({"quant_method": "gptq", "bits": 0}, "bits of gptq is not a whole number of at least 1", "0"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -2}, "group_size is not a whole number of at least -1", "-2"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"bits": 5}}}, "bits of gptq for x is not known", "5"),
        ({"quant_method": "gptq", "bits": 4, "dynamic": {"x": {"group_size": -2}}}, "group_size is not a whole number of at least -1", "-2"),
        ({"quant_method": "awq", "bits": 2}, "bits of awq is not known", "2"),
        ({"quant_method": "awq", "group_size": -2}, "group_size is not a whole number of at least -1", "-2"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes is not clear", "neither load_in_4bit nor load_in_8bit"),
        ({"quant_method": "modelopt", "quant_algo": "W4"}, "quantisation of modelopt is not known", "W4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": -1}, "group_size is not a whole number of at least 1", "-1"),
        (SPARSE, "sparsity of compressed-tensors is not modelled", "sparse-24"),
        (groups({"weights": None}), "compressed-tensors without weights", "no config_groups"),
        (numbers(num_bits=6), "group_0 of compressed-tensors is not known", "6-bit int, group -1"),
        (numbers(num_bits=4, type="float", group_size=64), "group_0 of compressed-tensors is not known", "4-bit float, group 64"),
        (numbers(num_bits=4, group_size=-2), "group_0 of compressed-tensors: group_size is not a whole number of at least -1", "-2"),
        (quark(dtype="fp4", group_size=16), "numbers of quark are not known", "fp4"),
        (quark(dtype="int4", group_size=-2), "group_size is not a whole number of at least -1", "-2"),
        ({"quant_method": "quark"}, "numbers of quark are not known", "None"),
        (quark(dtype="int8") | {"layer_quant_config": {"*": {}}}, "layers of quark with numbers of their own", "layer_quant_config"),
    ],
)  # fmt: skip
def test_what_is_refused(given, what, value):
    """By the name of the model, what it is, and the value."""
    with pytest.raises(ConfigError) as error:
        quantisation(given, "m")
    assert (error.value.what, error.value.value) == (f"model m: {what}", value)
