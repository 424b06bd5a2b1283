"""The KV cache that a real server reports against the prediction from its model's config.json."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.config import TargetSpec
from harness.cost.memory import predict_kv_blocks
from harness.cost.model_shape import model_shape
from harness.targets import embedded, open_target

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]
GIB = 2**30


def reported(target) -> tuple[int, int, int]:
    """(blocks, block size, tokens of the KV cache) by the server's own metrics and log."""
    said = re.findall(r"KV cache size: ([\d,]+) tokens", target.log_path.read_text(encoding="utf-8"))
    info = target.info.cache_config
    return int(info["num_gpu_blocks"]), int(info["block_size"]), int(said[-1].replace(",", ""))


def agrees(target, config: dict, kv_dtype: str, kv_cache_bytes: int, length: int) -> None:
    """Blocks and tokens within 2 % of what the server says."""
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


def test_blocks_of_the_shared_server(vllm_server):
    """The tiny model, its own dtype, 2,048 tokens: 1 GiB of cache is the blocks that were predicted."""
    config = json.loads((embedded.ensure("tiny", print) / "config.json").read_text())
    agrees(vllm_server, config, "auto", GIB, 2048)


def test_blocks_of_an_fp8_cache_of_a_windowed_model(tmp_path: Path):
    """An fp8 cache, 1,024 tokens, another block size, and a model whose layers have a sliding window."""
    folder = tmp_path / "windowed"
    shutil.copytree(embedded.ensure("tiny", print), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "sliding_window": 256}
    (folder / "config.json").write_text(json.dumps(config))
    spec = TargetSpec(
        name="windowed",
        kind="vllm",
        model=str(folder),
        flags={
            "load_format": "dummy",
            "enforce_eager": True,
            "max_model_len": 1024,
            "max_num_seqs": 16,
            "max_num_batched_tokens": 256,
            "kv_cache_dtype": "fp8",
            "block_size": 64,
            "kv_cache_memory_bytes": GIB // 4,
        },
        start_timeout_s=240,
    )
    with open_target(spec, tmp_path / "server.log", print) as target:
        agrees(target, config, "fp8", GIB // 4, 1024)
