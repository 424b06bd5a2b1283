"""Whether a server has room on its boards, before it starts: NVML's memory, its processes, and the model's arithmetic."""

from __future__ import annotations

import os

import pytest

CODE = """
from harness.measure.campaign.board_room import check_room
from harness.config.target import TargetSpec
from harness.base.errors import HarnessError
import harness.measure.campaign.board_room as board_room
board_room._RELEASE_S = 0.0
said = []
try:
    check_room(TargetSpec.model_validate({spec!r}), said.append)
    print(json.dumps([None, said]))
except HarnessError as error:
    print(json.dumps([[error.what, error.value, error.advice], said]))
"""
EMPTY = ",".join(f"{board}:0" for board in range(16))


@pytest.fixture
def check(with_nvml):
    """(error's three parts or None, what was said) of a start with these flags on these boards."""

    def run(model="deepseek-ai/DeepSeek-V3", flags=None, spec=None, **settings):
        made = {"name": "own", "kind": "vllm", "model": model, "flags": flags or {}, **(spec or {})}
        return with_nvml(CODE.format(spec=made), **{"used": EMPTY, "HF_HOME": "/nowhere", **settings})

    return run


def test_deepseek_v3_on_eight_boards_of_80_gb_is_refused_with_the_sum(check):
    """671 B parameters in FP8 over 8 GPUs are more than 0.92 of a board of 85.9 GB: weights, KV and overhead stand in the words."""
    error, _ = check(flags={"tensor-parallel-size": 8}, gpus=8)
    assert error[0] == "deepseek-v3 does not fit on 8 x Fake H100"
    assert "GB of weights + " in error[1]
    assert "for 163,840 tokens + 2 GB overhead = " in error[1]
    assert "over 8 x Fake H100 with 0.92 x 85.9 = 79.0 GB each" in error[1]
    assert "tensor-parallel-size" in error[2]


def test_the_same_model_on_boards_of_141_gb_is_not_refused(check):
    """8 x H200."""
    assert check(flags={"tensor-parallel-size": 8}, gpus=8, memory_mib=143771) == [None, []]


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        ({}, True),
        ({"tensor_parallel_size": 4}, False),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, False),
    ],
    ids=["one board", "tensor parallel", "tensor and pipeline parallel"],
)
def test_weights_are_shared_out_over_the_boards(check, flags, refused):
    """Llama 3.3 70B in bfloat16, 141 GB, with 8,192 tokens of context."""
    error, _ = check("meta-llama/Llama-3.3-70B", {"max-model-len": 8192, **flags}, gpus=4)
    assert (error is not None) is refused


def test_what_fits_only_without_overhead_is_said_and_not_refused(check):
    """Llama 3.1 8B, 16.1 GB and 0.13 GB of KV, in 0.92 x 17.8 GB."""
    error, said = check("x/Llama-3.1-8B", {"max-model-len": 1000}, gpus=1, memory_mib=17000)
    assert error is None
    assert "may not fit: 16.1 GB of weights" in said[0]


@pytest.mark.parametrize(
    ("model", "flags", "why"),
    [
        ("somebody/unknown-7b", {}, "neither in the local hub cache nor in configs/models"),
        ("deepseek-ai/DeepSeek-V3", {"quantization": "fp8"}, "quantization changes what its config says"),
        ("deepseek-ai/DeepSeek-V3", {"speculative-config.model": "x"}, "speculative_config.model changes"),
        ("deepseek-ai/DeepSeek-V3", {"enable_expert_parallel": True}, "enable_expert_parallel changes"),
    ],
    ids=["unknown model", "quantised at load", "draft model", "expert parallel"],
)
def test_a_shape_that_is_not_known_refuses_nothing_and_says_so(check, model, flags, why):
    """On one board of 80 GB."""
    error, said = check(model, flags, gpus=1)
    assert error is None
    assert why in said[0]


def test_a_models_own_config_is_read(check, tmp_path):
    """A directory's config.json, here one too large for the board."""
    from harness.config.model.shape import models

    (tmp_path / "config.json").write_text(models()["deepseek-v3"].read_text())
    error, _ = check(str(tmp_path), gpus=1)
    assert "does not fit on 1 x Fake H100" in error[0]


def test_a_board_held_by_somebody_names_the_process_and_what_it_holds(check):
    """Its pid, its command and its GiB."""
    pid = os.getpid()
    error, _ = check("x/Qwen3-8B", gpus=2, used="0:30000,1:0", processes=f"0:{pid}=29000")
    assert error[0] == "a GPU has less free memory than the server will ask for"
    assert "GPU 0 (Fake H100): 50.7 of 80.0 GiB free, 0.9 of it asked for" in error[1]
    assert f"held by pid {pid} (" in error[1]
    assert "28.3 GiB" in error[1]


def test_a_holder_that_the_driver_hides_is_said_to_be_hidden(check):
    """In a container the list of processes is empty."""
    error, _ = check("x/Qwen3-8B", gpus=1, used="0:30000")
    assert "processes that the driver does not show here" in error[1]


@pytest.mark.parametrize(
    ("flags", "env"),
    [
        ({"gpu_memory_utilization": 0.5}, {}),
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"kv-cache-memory-bytes": 10**9}, {}),
    ],
    ids=["asks for less", "another board", "asks for bytes"],
)
def test_only_what_the_server_will_ask_for_must_be_free(check, flags, env):
    """50 of 80 GiB free on board 0, all of board 1."""
    error, _ = check("x/Qwen3-8B", flags, {"env": env}, gpus=2, used="0:30000,1:0")
    assert error is None


def test_gpus_of_the_target_are_the_boards_that_are_looked_at(check):
    """`gpus: [1]`."""
    assert check("x/Qwen3-8B", None, {"gpus": ["1"]}, gpus=2, used="0:30000,1:0")[0] is None
    assert check("x/Qwen3-8B", None, {"gpus": ["0"]}, gpus=2, used="0:30000,1:0")[0] is not None


def test_more_boards_asked_for_than_there_are_is_refused(check):
    """TP 8 on 4."""
    error, _ = check(flags={"tensor_parallel_size": 8}, gpus=4)
    assert error[:2] == ["the flags ask for more GPUs than there are", "8 asked for, 4 here"]


def test_of_a_board_in_mig_mode_the_slice_counts(check):
    """Qwen3-8B in bfloat16, 16 GB, fits a board of 80 GB, not a slice of 9.5 GiB; and of the slice 4.5 GiB are free."""
    fits, _ = check("x/Qwen3-8B", {"max-model-len": 4096, "gpu_memory_utilization": 0.4}, gpus=1, mig=2, slice_mib=9728)
    assert "does not fit" in fits[0]
    assert "MIG 1g.10gb" in fits[0]
    free, _ = check("x/Qwen3-8B", {"max-model-len": 4096}, gpus=1, mig=2, slice_mib=9728)
    assert "4.5 of 9.5 GiB free" in free[1]


def test_boards_of_two_kinds_are_not_judged_by_the_wrong_one(check):
    """CUDA numbers them by speed unless told otherwise, NVML by their bus."""
    more = {"gpus": 2, "used": "0:60000,1:0", "other_name": "Fake T4"}
    error, said = check("x/Qwen3-8B", **more)
    assert error is None
    assert "CUDA_DEVICE_ORDER" in said[0]
    assert check("x/Qwen3-8B", None, {"env": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}}, **more)[0] is not None


def test_without_nvml_nothing_is_checked(check):
    """A server on the CPU."""
    assert check(library=False) == [None, []]


@pytest.mark.parametrize(
    "spec",
    [{"kind": "adopt", "url": "http://127.0.0.1:1/v1"}, {"kind": "hosted", "url": "http://127.0.0.1:1/v1"}],
    ids=["adopted", "hosted"],
)
def test_a_server_that_is_not_started_is_not_checked(check, spec):
    """Its memory is held by itself."""
    assert check("x", None, spec, gpus=1, used="0:80000") == [None, []]
