"""Presets of hosted APIs: each is taken as it stands, own keys win, what is wrong with one is told, and stored runs never ask them again."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.experiment import ExperimentSpec, of_run, parse_experiment
from harness.config.preset import load_preset, presets
from harness.config.target import TargetSpec
from harness.measure.targets import identity

NAMES = (
    "anthropic", "azure-openai", "deepinfra", "fireworks", "google", "groq", "mistral", "openai", "openrouter", "own-gateway", "together",
)  # fmt: skip
OWN_URL = "https://host.example/openai/v1"


def experiment(**target):
    """An experiment of one target, read as from a file."""
    data = {
        "experiment": "t",
        "targets": [{"name": "a"} | target],
        "workloads": ["fixed:8x4"],
        "loads": [{"concurrency": [1], "requests": 2}],
    }
    return parse_experiment(data, "x.yaml")


def of_preset(name, **more):
    url = {} if load_preset(name).target.url else {"url": OWN_URL}
    return experiment(preset=name, model="m", **{**url, **more}).targets[0]


def written(folder, **change):
    """A preset's file: openai's with changes."""
    data = load_preset("openai").model_dump(exclude_none=True) | {"preset": "mine"} | change
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def test_the_presets_that_the_map_promises_are_there():
    """One file a provider, named as it is."""
    assert presets() == sorted(NAMES)
    assert [load_preset(name).preset for name in presets()] == presets()


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_gives_its_target_kind_url_dialect_key_and_limit(name):
    """A name and a model are enough, with the URL where each user has one."""
    preset, target = load_preset(name), of_preset(name)
    assert target.kind == "hosted"
    assert target.url == (preset.target.url or OWN_URL)
    assert target.api == preset.target.api
    assert target.api_key_env == preset.target.api_key_env
    assert target.preset.model_dump() == {"name": name, "as_of": preset.as_of}
    assert identity.base_url(target.url, vllm=False) == target.url


@pytest.mark.parametrize("name", NAMES)
def test_a_price_is_found_by_the_provider_and_the_targets_model(name):
    """Where the price book has the provider; an own price stands."""
    provider = load_preset(name).price_provider
    target = of_preset(name)
    assert (target.price and target.price.name) == (provider and f"{provider}/m")
    own = {"provider": "p", "model": "q", "input_usd_per_million": 1, "output_usd_per_million": 2}
    assert of_preset(name, price=own).price.name == "p/q"


@pytest.mark.parametrize("name", NAMES)
def test_a_presets_price_provider_is_one_of_the_price_book(name):
    """By the id that genai-prices has."""
    from genai_prices.data_snapshot import find_provider_by_id, get_snapshot

    provider = load_preset(name).price_provider
    assert provider is None or find_provider_by_id(get_snapshot().providers, provider).id == provider


def test_a_model_is_priced_by_the_name_that_the_price_book_has():
    """Fireworks' models have a path, the book has their last word."""
    from harness.price.hosted import book_model

    target = experiment(preset="fireworks", model="accounts/fireworks/models/deepseek-v3p2").targets[0]
    assert target.model == "accounts/fireworks/models/deepseek-v3p2"
    assert book_model(target.price)[1].id == "deepseek-v3p2"


OWN_KEYS = {
    "api": st.sampled_from(["completions", "chat", "responses", "messages"]),
    "auth": st.sampled_from(["bearer", "x-api-key", "api-key"]),
    "api_key_env": st.sampled_from(["OTHER_KEY", "K"]),
    "output_limit": st.sampled_from(["max_tokens", "max_completion_tokens", "max_output_tokens"]),
    "url": st.just("http://127.0.0.1:9/v1"),
    "kind": st.sampled_from(["hosted", "adopt"]),
}


@given(st.sampled_from(NAMES), st.fixed_dictionaries({}, optional=OWN_KEYS))
def test_own_keys_win_and_the_rest_is_the_presets(name, own):
    """Whichever of the keys a target gives itself."""
    preset = load_preset(name).target.model_dump()
    target = of_preset(name, **own)
    for key, value in own.items():
        assert getattr(target, key) == value
    for key in {"api", "auth", "api_key_env", "output_limit"} - set(own):
        assert getattr(target, key) == preset[key]


def test_headers_and_fields_of_the_body_are_merged_by_name(tmp_path):
    """Own ones win, null stands, the preset's others stay."""
    given_ = load_preset("openai").target.model_dump(exclude_none=True) | {
        "headers": {"x-a": "1", "x-b": "2"},
        "request": {"temperature": None, "service_tier": "auto"},
    }
    path = written(tmp_path, target=given_)
    target = experiment(
        preset=str(path), model="m", headers={"x-b": "3"}, request={"service_tier": None, "n": 1}
    ).targets[0]
    assert target.headers == {"x-a": "1", "x-b": "3"}
    assert target.request == {"temperature": None, "service_tier": None, "n": 1}


def test_another_place_of_the_key_takes_the_place_of_the_presets_variable():
    """One place is named in the end."""
    target = of_preset("openai", api_key_file="/run/secrets/openai")
    assert (target.api_key_env, target.api_key_file) == (None, "/run/secrets/openai")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"targte": {}}, ("unknown key", "targte", "target")),
        ({"target": {"url": "https://h/v1", "api_key": "K"}}, ("unknown key", "target.api_key", "api_key_env")),
        ({"usage": {"comes": "always", "cached_field": "a"}}, ("unknown key", "usage.cached_field", "cached")),
        ({"permits": {"apis": ["grpc"]}}, ("bad value", "permits.apis", "chat")),
        ({"as_of": "soon"}, ("bad value", "as_of", "YYYY-MM-DD")),
        ({"sources": []}, ("bad value", "sources", "at least 1")),
        ({"target": {"api": "chat"}}, ("bad value", "(top level)", "url_form")),
        ({"target": {"url": "https://h/v1", "api": "messages"}}, ("bad value", "(top level)", "permits.apis")),
    ],
    ids=["key", "key-of-target", "key-of-usage", "dialect", "day", "no-source", "no-url", "dialect-not-served"],
)
def test_a_field_that_is_not_there_is_named(tmp_path, change, words):
    """Three lines: the file, the place, what may stand there."""
    path = written(tmp_path, **change)
    with pytest.raises(ConfigError) as caught:
        experiment(preset=str(path), model="m")
    said = str(caught.value).splitlines()
    assert len(said) == 3
    assert said[0].startswith(str(path))
    for word, line in zip(words, said, strict=True):
        assert word in line


def test_a_field_that_is_gone_is_missed(tmp_path):
    """A preset without its date is none."""
    path = written(tmp_path)
    path.write_text(path.read_text().replace("as_of", "asof"))
    with pytest.raises(ConfigError, match=r"unknown key\nasof\ndid you mean as_of"):
        experiment(preset=str(path), model="m")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ({"preset": "opneai", "model": "m"}, ("no such preset", "opneai", "did you mean openai")),
        ({"preset": "x/y.yaml", "model": "m"}, ("no such config file", "x/y.yaml", "")),
        ({"preset": "azure-openai", "model": "m"}, ("needs your own url", "azure-openai", "https://YOUR-RESOURCE.")),
        ({"preset": "openai", "kind": "vllm", "url": None, "model": "m"}, ("bad value", "targets.0", "belongs to kinds")),
        ({"preset": "openai"}, ("missing key", "targets.0.model", "add it")),
    ],
    ids=["name", "file", "url", "kind", "model"],
)  # fmt: skip
def test_a_target_that_cannot_take_its_preset_is_refused(target, words):
    """Three lines, exit code 2."""
    with pytest.raises(ConfigError) as caught:
        experiment(**target)
    for word, line in zip(words, str(caught.value).splitlines(), strict=True):
        assert word in line
    assert caught.value.exit_code == 2


def test_a_stored_config_never_asks_the_preset_again(tmp_path):
    """The file may change or go: what was sent is written down, and read back the same."""
    path = written(tmp_path)
    spec = experiment(preset=str(path), model="m", request={"n": 1})
    path.unlink()
    stored = spec.public()
    assert of_run(ExperimentSpec, stored, "r1") == spec
    assert parse_experiment(stored, "again") == spec


def test_a_target_without_preset_is_stored_as_before():
    """The config of an older campaign has none of the later keys, so its digest stays."""
    target = TargetSpec(name="a", kind="hosted", url="https://h/v1", model="m")
    assert {"preset", "api_key_file", "api_key_command", "headers", "auth"}.isdisjoint(target.model_dump())


@pytest.mark.parametrize(
    ("headers", "word"),
    [
        ({"authorization": "Bearer hunter-2-hunter"}, "holds a key"),
        ({"X-Api-Key": "hunter-2-hunter"}, "holds a key"),
        ({"x a": "b"}, "no name of a header"),
        ({"x-a": "b\r\nx-b: c"}, "cannot stand in a header"),
    ],
    ids=["authorization", "x-api-key", "name", "line-end"],
)
def test_a_header_that_is_a_secret_or_none_is_refused_unshown(headers, word):
    """Keys go where they are kept safe, and a line end would begin another header."""
    with pytest.raises(ConfigError, match=word) as caught:
        of_preset("openai", headers=headers)
    assert "hunter" not in str(caught.value)


@pytest.mark.parametrize(
    ("preset", "model", "other", "price"),
    [
        ("openai", "gpt-5-mini", "gpt-5", "openai/gpt-5"),
        ("fireworks", "accounts/fireworks/models/a", "accounts/fireworks/models/b", "fireworks/b"),
    ],
    ids=["plain", "path"],
)
def test_another_model_of_the_command_line_is_priced_as_that_model(preset, model, other, price, tmp_path):
    """`--model` replaces the model that the price was found for."""
    import click

    from harness.cli.shape import shape_options, spec_of

    seen = {}
    command = click.command()(shape_options(lambda **words: seen.update(words)))
    path = tmp_path / "x.yaml"
    data = {"experiment": "t", "targets": [{"name": "a", "preset": preset, "model": model}],
            "workloads": ["fixed:8x4"], "loads": [{"concurrency": [1], "requests": 2}]}  # fmt: skip
    path.write_text(yaml.safe_dump(data))
    command([str(path), "--model", other], standalone_mode=False)
    (target,) = spec_of(seen).targets
    assert (target.model, target.price.name) == (other, price)


REST = ("--workload", "fixed:8x4", "--concurrency", "1", "--requests", "2")


def of_words(*words: str):
    """The target that `harness run` takes from the command line."""
    import click

    from harness.cli.shape import shape_options, spec_of

    seen = {}
    click.command()(shape_options(lambda **given: seen.update(given)))([*words, *REST], standalone_mode=False)
    return spec_of(seen).targets[0]


def test_a_preset_and_a_model_are_enough_on_the_command_line():
    """URL, dialect and key come from the preset; words win."""
    target = of_words("--preset", "anthropic", "--model", "m")
    assert (target.kind, target.api, target.auth, target.api_key_env) == (
        "hosted",
        "messages",
        "x-api-key",
        "ANTHROPIC_API_KEY",
    )
    other = of_words(
        "--preset",
        "anthropic",
        "--model",
        "m",
        "--api",
        "chat",
        "--api-key-file",
        "/k",
        "--url",
        "http://127.0.0.1:9/v1",
    )
    assert (other.api, other.api_key_file, other.api_key_env, other.url) == (
        "chat",
        "/k",
        None,
        "http://127.0.0.1:9/v1",
    )


def test_a_preset_without_a_model_is_refused_on_the_command_line():
    """Also one beside a config."""
    with pytest.raises(ConfigError, match="--model NAME"):
        of_words("--preset", "openai")
    with pytest.raises(ConfigError, match="config says itself"):
        of_words("quickstart", "--preset", "openai")


def test_without_a_preset_the_words_are_as_before():
    """A URL alone is a vLLM server's, with a key a hosted API's, by completions."""
    plain, keyed = (
        of_words("--url", "http://127.0.0.1:9/v1"),
        of_words("--url", "http://127.0.0.1:9/v1", "--api-key-file", "/k"),
    )
    assert [(t.kind, t.api, t.model) for t in (plain, keyed)] == [
        ("adopt", "completions", "default"),
        ("hosted", "completions", "default"),
    ]
