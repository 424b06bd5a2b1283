"""Bytes of quantised weights from a quantization_config: every method that is known, and no silent 16 bits for one that is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.model.memory import WEIGHT_BYTES, weight_bytes
from harness.config.model.shape import load_model, model_shape, models
from tests.price.published_configs import GPT_OSS_120B, QWEN3_30B_A3B

LLAMA_70B = json.loads(models()["llama-3.3-70b"].read_text())
R1 = {k: v for k, v in json.loads(models()["deepseek-v3"].read_text()).items() if k != "quantization_config"}
LINEAR = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)  # the matrices of Llama's layers
PLAIN = 70_553_706_496 - LINEAR  # embedding, head, norms
EIGHT_BIT = {"num_bits": 8, "strategy": "channel", "symmetric": True}


def compressed(weights, ignore=("lm_head",), targets=("Linear",)):
    groups = {"group_0": {"targets": list(targets), "weights": weights}}
    return {"quant_method": "compressed-tensors", "config_groups": groups, "ignore": list(ignore)}


def four_bit(kind, group, symmetric=True):
    return {"num_bits": 4, "type": kind, "strategy": "group", "group_size": group, "symmetric": symmetric}


@pytest.mark.parametrize(
    ("given_as", "label", "bits"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8", 8),
        ({"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["lm_head.weight"]}, "fp8", 8),
        (compressed({**EIGHT_BIT, "type": "float"}), "fp8", 8),
        (compressed({**EIGHT_BIT, "type": "int"}), "int8", 8),
        (compressed(four_bit("int", 128)), "int4", 4 + 16 / 128),
        (compressed(four_bit("int", 128, symmetric=False)), "int4", 4 + 20 / 128),
        (compressed({**four_bit("float", 16), "strategy": "tensor_group"}), "nvfp4", 4.5),
        (compressed(four_bit("float", 32)), "mxfp4", 4.25),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, "fp8", 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "config_groups": {}}, "nvfp4", 4.5),
        ({"quantization": {"quant_algo": "NVFP4", "group_size": 16, "exclude_modules": ["lm_head"]}}, "nvfp4", 4.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 4.5),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, "int4", 4 + 8 / 64 + 32 / 16384),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8", 8),
        ({"quant_method": "gptq", "bits": 2, "group_size": 64}, "int2", 2 + 18 / 64),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "int3", 3 + 19 / 128),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4", 4 + 20 / 128),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 8),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}, "int4", 4 + 20 / 128),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}, "exclude": ["lm_head"]}, "fp8", 8),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}}}, "mxfp4", 4.25),
    ],
)  # fmt: skip
def test_a_70b_in_every_method(given_as, label, bits):
    """The layers' matrices at their bits with their scales; embedding, head and norms stay at 16: 72.7 GB in 8 bits, 40 in 4."""
    shape = model_shape({**LLAMA_70B, "quantization_config": given_as})
    assert weight_bytes(shape) == pytest.approx(LINEAR * bits / 8 + PLAIN * 2, rel=1e-12)
    assert shape.weight_dtype == label
    assert weight_bytes(shape) < 75e9
    assert shape.parameters == 70_553_706_496


@pytest.mark.parametrize(
    ("ignored", "left"),
    [
        (["re:.*self_attn.*"], 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024)),
        (["model.layers.*.mlp.down_proj"], 80 * 8192 * 28672),
        (["model.layers.0.mlp", "model.layers.79.mlp"], 2 * 3 * 8192 * 28672),  # 7 and 10.. are not 79
        (["model.layers.7.mlp.up_proj"], 8192 * 28672),
        (["language_model.model.layers.3.self_attn.q_proj", "vision_tower"], 8192 * 8192),
        (["k_proj"], 80 * 8192 * 1024),
        (["proj", "layers.1.ml", "re:self_attn"], 0),  # a part of a word is no name; a regular expression begins at the start
        ([f"model.layers.{n}.self_attn" for n in range(80)], 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024)),  # as fbgemm lists them
    ],
)  # fmt: skip
def test_what_an_ignore_list_leaves_alone(ignored, left):
    """Whole names, parts between dots, wildcards, regular expressions and a vision model's prefix; the rest has 8 bits."""
    for method in (
        {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ignored},
        compressed({**EIGHT_BIT, "type": "float"}, ignored),
    ):
        shape = model_shape({**LLAMA_70B, "quantization_config": method})
        assert weight_bytes(shape) == LINEAR - left + (PLAIN + left) * 2


def test_groups_with_targets_of_their_own():
    """Attention in 8 bits, feed-forward in 4: each target has its own numbers, what no target names stays at 16."""
    groups = {
        "a": {"targets": ["re:.*self_attn.*"], "weights": {**EIGHT_BIT, "type": "int"}},
        "b": {"targets": ["re:.*mlp.(gate|up)_proj"], "weights": four_bit("int", 128)},
    }
    shape = model_shape(
        {**LLAMA_70B, "quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}
    )
    attention, two, down = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024), 80 * 2 * 8192 * 28672, 80 * 8192 * 28672
    assert weight_bytes(shape) == attention + two * 4.125 / 8 + (down + PLAIN) * 2
    assert shape.weight_dtype == "int4"


def test_gptq_layers_with_bits_of_their_own():
    """`dynamic`: down_proj in 8 bits, layer 0 left alone, the rest in 4."""
    method = {
        "quant_method": "gptq", "bits": 4, "group_size": 128,
        "dynamic": {r"-:model\.layers\.0\..*": {}, r"+:.*down_proj": {"bits": 8, "group_size": 64}},
    }  # fmt: skip
    shape = model_shape({**LLAMA_70B, "quantization_config": method})
    layer, down = LINEAR // 80, 8192 * 28672
    eight, four = 79 * down, 79 * (layer - down)
    assert weight_bytes(shape) == pytest.approx(
        eight * (8 + 24 / 64) / 8 + four * (4 + 20 / 128) / 8 + (layer + PLAIN) * 2
    )


def test_deepseek_r1_in_nvfp4_has_the_published_elements():
    """nvidia/DeepSeek-R1-NVFP4 counts 396,767,013,632 elements where R1 counts 684,489,845,504: two weights and 1/8 of a scale a
    byte, so 657,652,187,136 weights are packed: the feed-forward ones, attention left alone."""
    packed = (684_489_845_504 - 396_767_013_632) / (1 - 1 / 2 - 1 / 16)
    method = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["*self_attn*", "lm_head"]}
    shape = model_shape({**R1, "quantization_config": method})
    assert shape.mlp_parameters == packed == 657_652_187_136
    assert weight_bytes(shape) == packed * 9 / 16 + (671_026_419_200 - packed) * 2


def test_mxfp4_takes_the_experts_alone():
    """gpt-oss-120b: 60.8 GiB of checkpoint (its model card, arXiv 2508.10925); routers, attention and embeddings keep 16 bits."""
    shape = model_shape(GPT_OSS_120B)
    experts = 36 * 128 * 3 * 2880 * 2880
    assert weight_bytes(shape) == experts * 4.25 / 8 + (116_829_156_672 - experts) * 2
    assert weight_bytes(shape) / 2**30 == pytest.approx(60.8, abs=0.1)
    assert shape.weight_dtype == "mxfp4"


def test_experts_are_matched_by_their_names():
    """An ignore list that names the experts of a layer leaves all of them alone; routers are never quantised."""
    every = model_shape({**QWEN3_30B_A3B, "quantization_config": {"quant_method": "fp8"}})
    kept = ["model.layers.0.mlp.experts", "model.layers.1.mlp.gate"]
    some = model_shape(
        {**QWEN3_30B_A3B, "quantization_config": {"quant_method": "fp8", "modules_to_not_convert": kept}}
    )
    assert weight_bytes(some) - weight_bytes(every) == 128 * 3 * 2048 * 768
    linear = every.attention_parameters + every.mlp_parameters
    assert weight_bytes(every) == linear + 2 * (30_532_122_624 - linear)


def test_hf_quant_config_beside_the_config(tmp_path):
    """A checkpoint whose config.json says nothing and whose hf_quant_config.json says FP8 has 8 bits, as the server loads it."""
    (tmp_path / "config.json").write_text(json.dumps(LLAMA_70B))
    assert weight_bytes(load_model(str(tmp_path))) == 2 * 70_553_706_496
    beside = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert weight_bytes(load_model(str(tmp_path))) == LINEAR + 2 * PLAIN
    old = {**LLAMA_70B, "compression_config": compressed(four_bit("int", 128))}
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert load_model(str(tmp_path)).weight_dtype == "int4"


def test_weight_dtype_asked_for_replaces_the_published_one():
    """`--weight-dtype` brings all layers to one format; every label of a published format has a size of its own or is refused."""
    shape = model_shape({**LLAMA_70B, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}})
    assert weight_bytes(shape, "bfloat16") == 2 * 70_553_706_496
    assert weight_bytes(shape, "nvfp4") == LINEAR * WEIGHT_BYTES["nvfp4"] + 2 * PLAIN
    assert weight_bytes(shape, "int4") == pytest.approx(weight_bytes(shape))


@pytest.mark.parametrize(
    ("given_as", "what"),
    [
        ({"quant_method": "aqlm"}, "aqlm"),
        ({"quant_method": "hqq", "bits": 4}, "hqq"),
        ({"quant_method": "torchao"}, "torchao"),
        ({"bits": 4}, "quant_method is missing"),
        ({"quant_method": "gptq"}, "bits of gptq"),
        ({"quant_method": "gptq", "bits": 5}, "bits of gptq is not known"),
        ({"quant_method": "awq", "bits": 3}, "bits of awq is not known"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "W4A8_AWQ"),
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "MIXED_PRECISION"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes is not clear"),
        (compressed({"num_bits": 6, "type": "int"}), "6-bit int"),
        (compressed(four_bit("float", 64)), "4-bit float, group 64"),
        ({**compressed(four_bit("int", 128)), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse-24-bitmask"),
        ({"quant_method": "compressed-tensors"}, "no config_groups"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "bfp16"}}}, "bfp16"),
        ({"quant_method": "quark", "layer_quant_config": {"*": {}}}, "layer_quant_config"),
    ],
)  # fmt: skip
def test_what_is_not_known_is_refused_by_name(given_as, what):
    """A method, an algorithm or a number that nobody taught: an error of three lines, never 16 bits without a word."""
    with pytest.raises(ConfigError, match=what) as error:
        model_shape({**LLAMA_70B, "quantization_config": given_as}, "m")
    assert len(str(error.value).splitlines()) == 3


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=16))
def test_no_word_at_all_is_taken_for_16_bits(method):
    """Any quant_method gives fewer bytes than 16 bits would take, or an error; it is never passed over."""
    try:
        shape = model_shape({**LLAMA_70B, "quantization_config": {"quant_method": method, "bits": 4}})
    except ConfigError:
        return
    assert weight_bytes(shape) < 2 * 70_553_706_496
