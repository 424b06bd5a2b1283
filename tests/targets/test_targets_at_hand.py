"""Models that are on the machine already: whole ones only, under the name that vLLM takes."""

from __future__ import annotations

import json

import pytest

from harness.measure.targets.at_hand import LocalModel, hub_folder, is_whole, locate, models


@pytest.fixture
def whole(tmp_path):
    """Make a whole model in a folder: one weight file, a tokenizer, a config of a model that writes."""

    def make(folder):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
        (folder / "tokenizer.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"")
        return folder

    return make


def in_hub(whole, hub, name, revision="abc"):
    folder = hub / f"models--{name.replace('/', '--')}"
    made = whole(folder / "snapshots" / revision)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(revision)
    return made


@pytest.mark.parametrize(
    "harm", ["config.json", "tokenizer.json", "model.safetensors", "architecture", "shard", "broken config"]
)
def test_what_is_not_whole_is_no_model(whole, tmp_path, harm):
    """Without its config, tokenizer or weights, with a shard of the index missing, or of a kind that writes no text."""
    folder = whole(tmp_path / "m")
    assert is_whole(folder)
    match harm:
        case "architecture":
            (folder / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
        case "shard":
            shards = {"weight_map": {"a": "model.safetensors", "b": "other.safetensors"}}
            (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
        case "broken config":
            (folder / "config.json").write_text("{")
        case name:
            (folder / name).unlink()
    assert not is_whole(folder)


def test_every_shard_of_the_index(whole, tmp_path):
    """All there: whole."""
    folder = whole(tmp_path / "m")
    (folder / "other.safetensors").write_bytes(b"")
    shards = {"weight_map": {"a": "model.safetensors", "b": "other.safetensors", "c": "other.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert is_whole(folder)


def test_the_hub_cache_and_a_folder_of_models(whole, tmp_path):
    """Hub copies by their hub name at the revision of main, a folder's by their path; what has no main is none."""
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    in_hub(whole, tmp_path / "hub", "org/a")
    whole(tmp_path / "hub" / "models--org--no-main" / "snapshots" / "abc")
    path = whole(tmp_path / "models" / "b")
    (tmp_path / "models" / "empty").mkdir()
    found = models(env, tmp_path / "models")
    assert found == (
        LocalModel("org/a", tmp_path / "hub" / "models--org--a" / "snapshots" / "abc"),
        LocalModel(str(path), path),
    )
    assert models({"HF_HUB_CACHE": str(tmp_path / "none")}, tmp_path / "none") == ()


def test_where_the_hub_cache_is(tmp_path, monkeypatch):
    """HF_HUB_CACHE before HF_HOME before the home directory, as huggingface_hub reads them."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub_folder({}) == tmp_path / ".cache" / "huggingface" / "hub"
    assert hub_folder({"HF_HOME": "/x"}).as_posix() == "/x/hub"
    assert hub_folder({"HF_HOME": "/x", "HF_HUB_CACHE": "/y"}).as_posix() == "/y"


def test_a_model_is_located_by_path_or_hub_name(whole, tmp_path):
    """Its folder, or None where it is neither."""
    env = {"HF_HUB_CACHE": str(tmp_path / "hub")}
    made = in_hub(whole, tmp_path / "hub", "org/a")
    assert locate("org/a", env) == made
    assert locate(str(made), env) == made
    assert locate("org/b", env) is None


@pytest.mark.parametrize("word", ["é" * 300, "~nobody-of-that-name/m", "a\0b"], ids=["long", "nobody", "zero"])
def test_a_word_that_is_no_path_is_no_model(word, whole, tmp_path):
    """As the model asked for, and as a shard of an index: not there, and no traceback."""
    assert locate(word, {"HF_HUB_CACHE": str(tmp_path / "hub")}) is None
    folder = whole(tmp_path / "m")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": word}}))
    assert not is_whole(folder)
