"""Adopted and hosted servers: what is read back, and each way to be refused (a stand-in server on loopback)."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from harness.base.errors import ConfigError, TargetError
from harness.base.loopback import is_loopback
from harness.config.target import TargetSpec
from harness.measure.targets import identity, open_target
from harness.measure.targets.vocabulary import read_words
from tests.fakes.fake_vllm import Fake, serve

pytestmark = pytest.mark.timing
KEY = "sk-secret-0123456789"


def spec(kind: str, url: str, **more) -> TargetSpec:
    return TargetSpec.model_validate({"name": "t", "kind": kind, "model": "tiny", "url": url} | more)


def opened(kind: str, url: str, **more):
    said: list[str] = []
    return open_target(spec(kind, url, **more), Path("unused.log"), said.append), said


@pytest.fixture(autouse=True)
def _few_words(monkeypatch):
    """Adopting asks the tokenizer for 60 words here, not for all."""
    monkeypatch.setattr("harness.measure.targets.adopt.read_words", lambda: read_words()[:60])


@pytest.fixture
def key(monkeypatch):
    """The key in the environment variable MY_KEY."""
    monkeypatch.setenv("MY_KEY", KEY)
    return KEY


def test_adopt_reads_back_who_answers():
    """Model, version, context length, cache settings, metrics URL and vocabulary come from the server."""
    with serve(Fake(models=("other", "tiny"), max_model_len=777)) as root:
        target, _ = opened("adopt", root)
        info = target.info
        assert (info.base_url, info.metrics_url) == (f"{root}/v1", f"{root}/metrics")
        assert (info.max_model_len, info.server_version) == (777, "0.0.fake")
        assert info.cache_config == {"block_size": "16", "enable_prefix_caching": "True"}
        assert info.checks["model_root"] == "/models/tiny"
        assert target.vocabulary.token_ids
        assert target.endpoint.vllm_extensions
        assert (info.pids, info.startup, target.died()) == ((), None, None)
        target.close()


def test_adopt_without_version_and_metrics_says_they_are_absent():
    """A server behind a gateway that hides /version and /metrics is taken, with both recorded as absent."""
    with serve(Fake(absent=("/version", "/metrics"))) as root:
        target, _ = opened("adopt", f"{root}/v1/")
        assert (target.info.server_version, target.info.metrics_url) == (None, None)
        assert target.info.checks["version"] == target.info.checks["metrics"] == "absent (HTTP 404)"


def test_adopt_does_not_take_another_exporters_metrics():
    """Prometheus text without vllm: series gives no metrics URL."""
    with serve(Fake(metrics="process_cpu_seconds_total 1.0\n")) as root:
        assert opened("adopt", root)[0].info.metrics_url is None


def test_adopt_of_another_model_lists_what_is_served():
    """The wrong name is an error that names the right ones."""
    with serve(Fake(models=("alpha", "beta"))) as root, pytest.raises(TargetError, match=r"(?s)tiny.*alpha, beta"):
        opened("adopt", root)


@pytest.mark.parametrize(
    ("fake", "words"),
    [
        (Fake(absent=("/v1/models",)), "HTTP 404"),
        (Fake(models_body=b'{"hello": 1}'), "not an OpenAI API's"),
        (Fake(models_body=b"<html>"), "not an OpenAI API's"),
        (Fake(key=KEY), "api_key_env"),
        (Fake(status={"/v1/models": 503}), "HTTP 503"),
    ],
)
def test_adopt_refuses_what_does_not_identify_itself(fake, words):
    """No list of models, a page of something else, a wanted key or a failure: TargetError with the reason."""
    with serve(fake) as root, pytest.raises(TargetError, match=words):
        opened("adopt", root)


def test_adopt_sends_the_key_everywhere(key):
    """A server that wants a key gets it on every route, the tokenizer's included."""
    fake = Fake(key=key)
    with serve(fake) as root:
        target, _ = opened("adopt", root, api_key_env="MY_KEY")
    assert target.vocabulary.token_ids
    assert {header for _, header in fake.seen} == {f"Bearer {key}"}


def test_hosted_asks_for_models_only(key):
    """One GET /models with the key: no generation, no vLLM route; words stay unverified, extensions off."""
    fake = Fake(key=key)
    with serve(fake) as root:
        target, _ = opened("hosted", f"{root}/v1", api_key_env="MY_KEY", api="chat")
    assert fake.seen == [("/v1/models", f"Bearer {key}")]
    assert not target.endpoint.vllm_extensions
    assert target.endpoint.api_key == key
    assert (target.vocabulary.token_ids, target.vocabulary.prompt_overhead_tokens) == (None, None)
    assert len(target.vocabulary.words) > 300
    assert "unverified" in target.vocabulary.source
    assert (target.info.metrics_url, target.info.server_version) == (None, None)


@pytest.mark.parametrize("status", [404, 405])
def test_hosted_without_a_list_of_models_is_taken(status):
    """404 and 405 on /models are noted, not refused."""
    with serve(Fake(status={"/v1/models": status})) as root:
        target, _ = opened("hosted", root)
    assert target.info.checks["model"] == f"not checked: /models answers HTTP {status}"


def test_hosted_with_an_unlisted_model_says_so():
    """A model that the API does not list is noted and said, since many APIs take aliases."""
    with serve(Fake(models=("alpha",))) as root:
        target, said = opened("hosted", root)
    assert target.info.checks["model"] == "not among the 1 that /models lists"
    assert any("tiny is not listed" in line and "alpha" in line for line in said)


@pytest.mark.parametrize("status", [401, 403])
def test_hosted_key_refused(key, status):
    """401 and 403 name the variable that holds the key, and never the key."""
    with serve(Fake(status={"/v1/models": status})) as root, pytest.raises(TargetError) as error:
        opened("hosted", root, api_key_env="MY_KEY")
    assert f"HTTP {status}" in str(error.value)
    assert "MY_KEY" in str(error.value)
    assert key not in str(error.value)


def test_a_missing_key_names_its_variable(monkeypatch):
    """An unset or empty variable is a ConfigError with its name."""
    monkeypatch.setenv("MY_KEY", "  ")
    with pytest.raises(ConfigError, match="MY_KEY"):
        opened("hosted", "http://127.0.0.1:9/v1", api_key_env="MY_KEY")


def test_a_key_with_a_line_break_is_refused_without_showing_it(monkeypatch):
    """A key that cannot stand in a header is a ConfigError; its characters appear nowhere."""
    monkeypatch.setenv("MY_KEY", f"{KEY}\nx")
    with pytest.raises(ConfigError) as error:
        opened("hosted", "http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    assert KEY not in repr(error.value) + str(error.value)


def test_the_key_is_in_no_repr(key):
    """repr of the target holds no key."""
    with serve(Fake()) as root:
        target, said = opened("hosted", root, api_key_env="MY_KEY")
    assert key not in repr(target) + "".join(said)


@pytest.mark.parametrize("kind", ["adopt", "hosted"], ids=["to_adopt", "by_key"])
def test_an_unreachable_server_is_named(kind):
    """Nothing listens: TargetError with the URL, at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        with pytest.raises(TargetError, match=url):
            opened(kind, url)


@pytest.mark.parametrize(
    "bad",
    ["http://me:hunter2@host/v1", "https://hunter2@host/v1", "https://host/v1?key=hunter2", "https://host/v1#hunter2"],
)
def test_a_secret_in_the_url_is_refused_and_not_repeated(bad):
    """User, password, query and fragment are refused; the error does not hold them."""
    with pytest.raises(ConfigError) as error:
        identity.base_url(bad, vllm=False)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "bad", ["host:8000", "ftp://host/v1", "http://", "http://h:port/v1", "http://h/v1/chat/completions"]
)
def test_a_url_that_is_no_base_is_refused(bad):
    """No scheme, another scheme, no host, no port number, or one endpoint instead of the base."""
    with pytest.raises(ConfigError):
        identity.base_url(bad, vllm=False)


@pytest.mark.parametrize(
    ("raw", "vllm", "base"),
    [
        ("http://h:8000", True, "http://h:8000/v1"),
        ("http://h:8000/v1/", True, "http://h:8000/v1"),
        ("http://h/gateway", True, "http://h/gateway/v1"),
        ("https://h/openai/v1", False, "https://h/openai/v1"),
        ("https://h/v1beta/openai/", False, "https://h/v1beta/openai"),
        ("https://h", False, "https://h/v1"),
        ("http://[::1]:80/v1", True, "http://[::1]:80/v1"),
    ],
)
def test_base_urls(raw, vllm, base):
    """A vLLM base ends in /v1; a hosted one keeps the path it was given."""
    assert identity.base_url(raw, vllm=vllm) == base


def test_proxies_of_the_environment_are_not_used_for_loopback(monkeypatch):
    """With HTTP_PROXY set to a dead port a loopback server is still reached, and a remote one would use the proxy."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    with serve(Fake()) as root:
        assert opened("adopt", root)[0].info.server_version == "0.0.fake"
    assert [is_loopback(f"http://{h}/v1") for h in ("localhost", "127.1.2.3", "[::1]", "10.0.0.1", "h")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_ca_file_that_is_none_is_a_config_error(tmp_path):
    """A missing file and a file without certificates are refused by name."""
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "absent.pem"):
        with pytest.raises(ConfigError, match=name):
            opened("hosted", "https://127.0.0.1:9/v1", ca_file=str(tmp_path / name))
