"""`harness probe` on the real vLLM server: what is found is what the server is known to do."""

from __future__ import annotations

import importlib.util

import pytest
import yaml

from harness.base.documents import dump_yaml
from harness.base.errors import RefusedError
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.measure.inquiry import GENERATIONS, OUTPUT_TOKENS, Inquiry

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timing,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]


@pytest.fixture(scope="module")
def inquiry(vllm_server):
    """Of the tiny model's server, as a hosted API."""
    spec = TargetSpec(name="p", kind="hosted", url=vllm_server.endpoint.base_url, model="?")
    asked = Inquiry(spec, print)
    asked.ask(asked.open(None))
    print("\n".join(f"{what}: {value}" for what, value in asked.findings.rows()))
    return asked


def test_vllm_serves_all_four_dialects(inquiry):
    """Chat and one more replied; the paths of the others answer."""
    apis = inquiry.findings.apis
    assert set(apis) == {"chat", "completions", "responses", "messages"}
    assert "no" not in apis.values()
    assert apis["chat"] == "replied"


def test_vllm_takes_both_fields_that_bound_a_reply_and_ignore_eos(inquiry):
    """No field of ours is refused, and no reply is longer than was asked for."""
    found = inquiry.findings
    assert found.refused == {}
    assert set(found.limits_taken) == {"max_completion_tokens", "max_tokens"}
    assert found.ignore_eos in ("honoured", "taken")
    assert found.second.output_tokens in (None, OUTPUT_TOKENS)
    assert found.first.output_tokens <= OUTPUT_TOKENS


def test_vllm_says_usage_where_it_is_asked_to(inquiry):
    """With stream_options in chat."""
    assert inquiry.findings.usage_comes == "asked"
    assert inquiry.findings.generations == GENERATIONS


def test_the_preset_of_vllm_is_taken_back(inquiry, tmp_path):
    """By the config's loader, as a hosted target at the same URL and model."""
    path = tmp_path / "own.yaml"
    path.write_text(dump_yaml(inquiry.findings.preset(inquiry._spec, None)))
    assert yaml.safe_load(path.read_text())["read"] == "inquiry"
    target = {"name": "a", "preset": str(path), "model": "tiny"}
    data = {
        "experiment": "t",
        "targets": [target],
        "workloads": ["fixed:8x4"],
        "loads": [{"concurrency": [1], "requests": 2}],
    }
    (spec,) = parse_experiment(data, "x").targets
    assert (spec.kind, spec.url, spec.api) == ("hosted", inquiry.findings.url, "chat")


def test_litellm_before_vllm_is_found_out_over_tls_with_a_key_in_a_file(gateway, vllm_server, tmp_path):
    """Chat is served and streams, the key's file is read, three replies at most were made by the server behind it."""
    path = tmp_path / "key"
    path.write_text(gateway.keys["free"])
    path.chmod(0o600)
    spec = TargetSpec.model_validate(
        {
            "name": "p",
            "kind": "hosted",
            "url": gateway.url,
            "model": "?",
            "ca_file": str(gateway.ca_file),
            "api_key_file": str(path),
        }
    )
    asked = Inquiry(spec, print)
    found = asked.ask(asked.open("tiny"))
    print("\n".join(f"{what}: {value}" for what, value in found.rows()))
    print(dump_yaml(found.preset(spec, None), sort_keys=False))
    assert found.generations <= GENERATIONS
    assert found.api == "chat"
    assert found.first.streamed
    assert found.first.output_tokens <= OUTPUT_TOKENS
    assert found.usage_comes in ("asked", "always")
    assert gateway.keys["free"] not in dump_yaml(found.preset(spec, None))


def test_litellm_refuses_a_wrong_key_before_anything_is_generated(gateway, monkeypatch):
    """By its list of models, or the first question."""
    monkeypatch.setenv("WRONG_KEY", "sk-wrong-0123456789abcdef0123456789abcdef")
    spec = TargetSpec.model_validate(
        {
            "name": "p",
            "kind": "hosted",
            "url": gateway.url,
            "model": "tiny",
            "ca_file": str(gateway.ca_file),
            "api_key_env": "WRONG_KEY",
        }
    )
    before = gateway.posts()
    asked = Inquiry(spec, print)
    with pytest.raises(RefusedError, match="WRONG_KEY"):
        asked.open("tiny")
    assert gateway.posts() - before <= 1
