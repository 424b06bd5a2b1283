"""One real vLLM server for all live tests: the tiny model, started and ended by our own target."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest

from harness.config import TargetSpec
from harness.targets import Target, open_target


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The embedded tiny model (random weights, real server), up to 2,048 tokens of context, 64 sequences at once."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed here: python -m harness.targets.install")
    spec = TargetSpec(
        name="tiny",
        kind="vllm",
        model="embedded:tiny",
        flags={"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 64},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=240,
    )
    with open_target(spec, tmp_path_factory.mktemp("vllm") / "server.log", print) as target:
        yield target
