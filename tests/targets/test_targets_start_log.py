"""What recorded starts of four vLLM versions say of their kernels. The logs are written by those versions' format strings."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.measure.targets.server.vllm_log import start_facts

LOGS = Path(__file__).with_name("logs")
EXPECTED = {
    "vllm-0.24-h100": {
        "attention_backend": "FLASH_ATTN, of ['FLASH_ATTN', 'FLASHINFER', 'TRITON_ATTN', 'FLEX_ATTENTION']",
        "flashinfer": "used for sampling",
        "cuda_graphs": "captured in 4 s, 0.62 GiB",
    },
    "vllm-0.28-v100-moe": {
        "attention_backend": "TRITON_ATTN",
        "flashinfer": "not used for sampling: unsupported compute capability 7.0",
        "cuda_graphs": "captured in 9 s, 1.07 GiB",
        "slow_path": "Using default MoE config. Performance might be sub-optimal! Config file not found at "
        "/site/vllm/configs/E=128,N=768,device_name=Tesla_V100-SXM2-32GB.json",
    },
    "vllm-0.32-h100-without-kernels": {
        "attention_backend": "FLASH_ATTN, of ['FLASH_ATTN', 'TRITON_ATTN']",
        "flashinfer": "disabled: flashinfer-cubin is not installed and nvcc (CUDA_HOME, CUDA_PATH, PATH or /usr/local/cuda) or ninja "
        "(PATH) is missing",
        "cuda_graphs": "captured in 6 s, 0.71 GiB",
    },
    "vllm-0.33-b200-eager": {
        "attention_backend": "FLASHINFER, of ['FLASHINFER', 'FLASH_ATTN', 'TRITON_ATTN', 'FLEX_ATTENTION']",
        "flashinfer": "compiles its kernels: flashinfer-python 0.7.1 (flashinfer-cubin not installed, flashinfer-jit-cache not installed)",
        "cuda_graphs": "none: CUDAGraphMode.FULL_AND_PIECEWISE is not supported with FlashInferMetadataBuilder backend (support: "
        "AttentionCGSupport.NEVER); setting cudagraph_mode=NONE because attention is not compiled piecewise",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_recorded_start_tells_its_kernels(name):
    """Attention backend, FlashInfer, CUDA graphs, and what vLLM itself calls slow."""
    assert start_facts((LOGS / f"{name}.log").read_text()) == EXPECTED[name]


def test_every_recorded_log_is_looked_at():
    """A log that nobody reads proves nothing."""
    assert {path.stem for path in LOGS.glob("*.log")} == set(EXPECTED)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("INFO 11-26 04:40:00 [vllm.py:1704] Enforce eager set, disabling torch.compile, CUDAGraphs, and JIT kernel warmup.", "none: eager"),
        ("INFO 11-26 04:40:00 [vllm.py:1929] Cudagraph is disabled under eager mode", "none: eager"),
        ("WARNING 11-26 04:40:00 [model.py:1479] CUDA graph is not supported for x on ROCm yet, fallback to eager mode.", "none: fell back to eager mode"),
        ("WARNING 11-26 04:40:00 [gpu_model_runner.py:6485] Skipping CUDA graph capture. To turn on CUDA graph capture, ensure x", "none: skipped"),
    ],
    ids=["flag", "config", "ROCm", "skipped"],
)  # fmt: skip
def test_a_start_without_graphs_says_why(line, said):
    """The first reason is kept."""
    assert start_facts(line)["cuda_graphs"] == said


def test_a_log_that_says_nothing_has_no_facts():
    """The CPU build."""
    assert start_facts("INFO 11-26 04:40:00 [x.py:1] Application startup complete.\n") == {}
