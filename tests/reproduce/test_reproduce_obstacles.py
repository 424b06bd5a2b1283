"""Which rows of a published table can run on a machine, and why the others cannot."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.base.errors import ConfigError
from harness.measure.reproduce.obstacles import obstacles
from harness.measure.reproduce.rows import dry_run, place_models
from tests.reproduce.published_values import A10GX4, CPU, GIB, H100X4, parsed, row


def test_a_row_without_its_gpus_is_refused_with_numbers():
    """70B of weights on a machine without a GPU: both reasons are given, the files' and the GPUs'."""
    found = parsed()
    reasons = obstacles(found.targets["big"], found.rows[1], CPU)
    assert any("org/big" in reason for reason in reasons)
    assert "needs 2 GPUs for 141.1 GB of weights, this machine has none" in reasons


def test_memory_is_judged_by_the_cost_models_arithmetic(tmp_path):
    """141 GB over 2 GPUs: 70.6 GB each do not fit an A10G's 24 GiB, and do not fit 90 % of 80 GiB with a sequence of 40,000."""
    (tmp_path / "config.json").write_text("{}")
    big = parsed().targets["big"].model_copy(update={"model": str(tmp_path)})
    row_ = parsed().rows[1]
    assert "does not fit: 70.6 GB" in obstacles(big, row_, A10GX4)[0]
    assert obstacles(big, row_, H100X4) == []
    long = big.model_copy(update={"context_tokens": 40_000})
    assert "one sequence of 40000 tokens" in obstacles(long, row_, H100X4)[0]


def test_a_cpu_model_that_does_not_fit_memory_is_refused():
    """16.1 GB of weights and 1 GiB of KV cache in a cgroup of 8 GiB: refused with both numbers; 24 GiB are enough."""
    target = (
        parsed().targets["small"].model_copy(update={"shape": "llama-3.1-8b", "env": {"VLLM_CPU_KVCACHE_SPACE": "1"}})
    )
    row_ = parsed().rows[0]
    assert obstacles(target, row_, CPU) == []
    said = obstacles(target, row_, replace(CPU, memory_bytes=8 * GIB))
    assert said == ["needs 17.1 GB of memory (weights and KV cache), this machine has 8.6 GB"]


def test_a_workload_file_that_is_not_there_is_a_reason():
    """A row whose trace is missing is skipped by name, not failed in the middle of a night."""
    found = parsed(rows=[row("a", "small", workload="ShareGPT.json?limit=5")])
    assert "ShareGPT.json" in obstacles(found.targets["small"], found.rows[0], CPU)[0]


def test_without_vllm_nothing_can_run():
    """A machine without vLLM says so for every row."""
    found = dry_run(parsed(), replace(CPU, vllm=False))
    assert all(r.state == "skipped" and "vLLM is not installed" in r.reasons[0] for r in found.rows)


def test_dry_run_counts_only_what_would_run():
    """One row of 20 requests (no time known) and one of 30 s: seconds are given only where every row has them."""
    assert dry_run(parsed(), CPU).seconds is None
    timed = parsed(rows=[row("a", "small", load={"concurrency": [1], "duration_s": 30})], repetitions=3)
    assert dry_run(timed, CPU).seconds == 90


def test_a_models_place_can_be_given_and_an_unknown_target_is_refused():
    """--model big=PATH replaces the model; --model bug=.. is exit 2 with the targets' names."""
    assert place_models(parsed(), {"big": "/m"}).targets["big"].model == "/m"
    with pytest.raises(ConfigError) as caught:
        place_models(parsed(), {"bug": "/m"})
    assert "big" in caught.value.advice
