"""The verdict of a run whose server fell back to other kernels than its GPU's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import closed_loop, run

RECORDS = closed_loop(4, 400)
DISABLED = {"flashinfer": "disabled: flashinfer-cubin is not installed and nvcc is missing"}
COMPILES = {"flashinfer": "compiles its kernels: flashinfer-python 0.7.1 (flashinfer-cubin not installed)"}


def reasons(checks, *, board=None, flags=None, env=None):
    data = run(RECORDS, Load(concurrency=4))
    manifest = data.manifest
    target = {**manifest.target, "name": "t", "checks": checks, "flags": flags or {}}
    config = {**manifest.config, "targets": [{"name": "t", "env": env or {}}]}
    environment = {"gpus": [{"name": board}] if board else []}
    found = summarise(replace(data, manifest=replace(manifest, target=target, config=config, environment=environment)))
    return {reason.code: reason for reason in found.verdict.reasons}


@pytest.mark.parametrize(
    ("more", "severity", "why"),
    [
        ({"board": "NVIDIA H100 80GB HBM3"}, "unknown", "default on NVIDIA H100"),
        ({"board": "NVIDIA GH200 480GB"}, "unknown", "default on NVIDIA GH200"),
        ({"board": "NVIDIA B200"}, "unknown", "default on NVIDIA B200"),
        ({"board": "NVIDIA GeForce RTX 5090"}, "unknown", "default on NVIDIA GeForce RTX 5090"),
        ({"board": "NVIDIA A10G"}, "warning", ""),
        (
            {"board": "NVIDIA A10G", "flags": {"attention_backend": "FLASHINFER"}},
            "unknown",
            "attention_backend=FLASHINFER",
        ),
        (
            {"board": "NVIDIA A10G", "env": {"VLLM_USE_FLASHINFER_SAMPLER": "1"}},
            "unknown",
            "VLLM_USE_FLASHINFER_SAMPLER=1",
        ),
        ({"board": "NVIDIA A10G", "env": {"VLLM_USE_FLASHINFER_SAMPLER": "0"}}, "warning", ""),
        ({}, "warning", ""),
    ],
    ids=["H100", "GH200", "B200", "RTX 5090", "A10G", "flag", "variable", "variable off", "no board"],
)
def test_a_disabled_flashinfer_is_unknown_where_it_was_asked_for_or_is_the_default(more, severity, why):
    """On other boards it is a warning; both say what to install."""
    reason = reasons(DISABLED, **more)["flashinfer_disabled"]
    assert reason.severity == severity
    assert why in reason.message
    assert "vllm download-kernels" in reason.advice


def test_disabled_is_seen_beside_other_words_of_flashinfer():
    """The start may say several things of it."""
    both = {"flashinfer": f"used for sampling; {DISABLED['flashinfer']}"}
    assert reasons(both, board="NVIDIA B200")["flashinfer_disabled"].severity == "unknown"


def test_kernels_that_must_be_compiled_are_a_warning():
    """The start was longer; what is compiled in the window has a reason of its own."""
    assert {code: r.severity for code, r in reasons(COMPILES, board="NVIDIA H100").items()} == {
        "flashinfer_compiles": "warning"
    }


@pytest.mark.parametrize(
    ("said", "flags", "codes"),
    [
        ("none: skipped", {}, {"eager_fallback"}),
        ("none: eager", {"enforce_eager": True}, set()),
        ("none: skipped", {"compilation-config.cudagraph_mode": "NONE"}, set()),
        ("none: skipped", {"enforce_eager": False}, {"eager_fallback"}),
        ("captured in 3 s, 0.25 GiB", {}, set()),
    ],
    ids=["nobody asked", "asked", "asked by the compilation config", "asked for graphs", "captured"],
)
def test_a_fallback_to_eager_is_unknown_unless_a_flag_asked_for_it(said, flags, codes):
    """Small batches are slower than they need be."""
    assert set(reasons({"cuda_graphs": said}, flags=flags)) == codes


def test_what_vllm_calls_slow_itself_is_a_warning():
    """Its own words."""
    reason = reasons({"slow_path": "Using default MoE config. Performance might be sub-optimal!"})["slow_path"]
    assert (reason.severity, "default MoE config" in reason.message) == ("warning", True)


def test_an_ordinary_start_has_no_reason():
    """FlashInfer used, graphs captured."""
    clean = {
        "flashinfer": "used for sampling",
        "cuda_graphs": "captured in 3 s, 0.25 GiB",
        "attention_backend": "FLASH_ATTN",
    }
    assert reasons(clean, board="NVIDIA H100") == {}
