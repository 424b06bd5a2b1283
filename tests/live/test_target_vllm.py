"""Our own start of a real vLLM server: what it says of itself, its tokenizer, and its end."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import httpx
import pytest

from harness.config.target import TargetSpec
from harness.measure.targets import open_target
from harness.measure.targets.server import proc
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Endpoint

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timing,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]


def ask(url: str, body: dict) -> dict:
    with httpx.Client(trust_env=False, timeout=240) as http:
        answer = http.post(url, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_real_server_is_read_back(vllm_server):
    """Version, context length, cache settings, processes and start-up times are the real server's."""
    info = vllm_server.info
    assert info.server_version
    assert (info.model, info.max_model_len) == ("tiny", 2048)
    assert info.checks["max_model_len"] == "asked 2048, server says 2048"
    assert int(info.cache_config["num_gpu_blocks"]) > 0
    assert info.metrics_url
    assert info.flags["load_format"] == "dummy"
    assert info.server_version in info.checks["python"]
    assert info.checks["cuda_graphs"] == "none: eager"
    assert "non-default args: {'model_tag':" in vllm_server.server.log(), "it was started as vllm serve"
    assert len(info.pids) >= 2, "the API server and its engine"
    assert all(proc.read(pid) for pid in info.pids)
    assert 0 < info.startup.process_s < info.startup.ready_s < info.startup.first_token_s
    assert vllm_server.died() is None


def test_prompts_of_the_vocabulary_have_exactly_the_planned_tokens(vllm_server):
    """Ids sent as a prompt, and the same words as text, are counted by the server's usage as exactly N tokens."""
    vocabulary_ = vllm_server.vocabulary
    url = f"{vllm_server.endpoint.base_url}/completions"
    assert len(vocabulary_.words) > 300
    for count in (1, 3, 200):
        ids = list(vocabulary_.token_ids[-count:])
        text = "".join(f" {word}" for word in vocabulary_.words[-count:])
        for prompt in (ids, text):
            usage = ask(url, {"model": "tiny", "prompt": prompt, "max_tokens": 1})["usage"]
            assert usage["prompt_tokens"] == count


def test_the_chat_overhead_is_what_usage_counts(vllm_server):
    """A chat message of N words costs N + overhead prompt tokens by the server's usage."""
    base = vllm_server.endpoint.base_url
    chat = vocabulary(Endpoint(base, "tiny", "chat", None, vllm_extensions=True), read_words())
    assert chat.prompt_overhead_tokens == 30, "SmolLM2's template adds its system prompt and five marks"
    for count in (1, 7, 300):
        message = {"role": "user", "content": "".join(f" {word}" for word in chat.words[-count:])}
        usage = ask(f"{base}/chat/completions", {"model": "tiny", "messages": [message], "max_tokens": 1})["usage"]
        assert usage["prompt_tokens"] == count + chat.prompt_overhead_tokens


def test_cached_prompt_tokens_are_reported(vllm_server):
    """--enable-prompt-tokens-details is on: a repeated prompt's cached tokens are in the usage."""
    body = {"model": "tiny", "prompt": list(vllm_server.vocabulary.token_ids[:300]), "max_tokens": 1}
    url = f"{vllm_server.endpoint.base_url}/completions"
    ask(url, body)
    assert ask(url, body)["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_our_server_can_be_adopted(vllm_server):
    """Reached as somebody else's server it tells the same of itself, and is still there afterwards."""
    url = vllm_server.info.base_url
    with open_target(TargetSpec(name="a", kind="adopt", model="tiny", url=url), Path("unused"), str) as adopted:
        assert adopted.info.server_version == vllm_server.info.server_version
        assert adopted.info.max_model_len == 2048
        assert adopted.vocabulary == vllm_server.vocabulary
    assert vllm_server.died() is None
