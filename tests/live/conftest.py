"""One real vLLM server for all live tests: the tiny model, started and ended by our own target.

HARNESS_TEST_MODEL changes the model, and with it how fast the server is: `num_hidden_layers=24,dtype=float32` are keys of its
config.json with other values. The tests pass whatever it is.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.config.target import TargetSpec
from harness.measure.targets import Target, embedded, open_target
from tests.live import gateway as litellm


@pytest.fixture(scope="session")
def vllm_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the model that the server runs."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vllm is not installed here: python -m harness.measure.targets.install")
    made = embedded.ensure("tiny", print)
    changes = os.environ.get("HARNESS_TEST_MODEL")
    if not changes:
        return made
    other = tmp_path_factory.mktemp("model") / "tiny"
    shutil.copytree(made, other)
    config = json.loads((other / "config.json").read_text())
    config |= {key: yaml.safe_load(value) for key, _, value in (word.partition("=") for word in changes.split(","))}
    (other / "config.json").write_text(json.dumps(config))
    return other


@pytest.fixture(scope="session")
def vllm_server(vllm_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """The embedded tiny model (random weights, real server), up to 2,048 tokens of context, 64 sequences at once."""
    spec = TargetSpec(
        name="tiny",
        kind="vllm",
        model=str(vllm_model) if os.environ.get("HARNESS_TEST_MODEL") else "embedded:tiny",
        flags={"enforce_eager": True, "max_model_len": 2048, "max_num_seqs": 64, **embedded.flags("tiny")},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=600,
    )
    with open_target(spec, tmp_path_factory.mktemp("vllm") / "server.log", print) as target:
        yield target


@pytest.fixture(scope="session")
def gateway(vllm_server: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[litellm.Gateway]:
    """The LiteLLM proxy before that server: TLS by a CA of its own, keys with limits."""
    if not litellm.LITELLM.exists():
        pytest.skip("the LiteLLM proxy is not installed here: make gateway")
    with litellm.serve(vllm_server.endpoint.base_url, "tiny", tmp_path_factory.mktemp("gateway")) as running:
        yield running
