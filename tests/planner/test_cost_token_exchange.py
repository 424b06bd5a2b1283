"""Exchange rates between tokenizers: known counts, known dollars, and files that are not what they should be."""

from __future__ import annotations

import builtins
import json
from decimal import Decimal as D
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli import cli
from harness.config.price_ref import PriceRef
from harness.planner.token_exchange import (
    RequestText,
    characters_of,
    count_tokens,
    load_tokenizer,
    price_texts,
    read_requests,
)
from harness.price.hosted import find_price
from harness.price.prices import day_of

NOW = day_of("20261124T113000Z")


def words(texts):
    return [len(t.split()) for t in texts]


def letters(texts):
    return [len(t) for t in texts]


def own(usd_in, usd_out):
    return find_price(
        PriceRef(provider="h", model="m", input_usd_per_million=usd_in, output_usd_per_million=usd_out), NOW
    )


def test_ratio_and_tokens_per_1000_characters():
    """Two texts of 11 and 7 characters: 2 + 2 words; by letters 18 tokens, 4.5 times as many, 1,000 per 1,000 characters."""
    first, second = count_tokens(
        [RequestText("hello world"), RequestText("foo bar")], {"words": words, "letters": letters}
    )
    assert (first.tokens, first.ratio, second.tokens, second.ratio) == (4, 1.0, 18, 4.5)
    assert second.tokens_per_1000_characters == 1000
    assert first.tokens_per_1000_characters == pytest.approx(4 / 18 * 1000)
    assert (second.ratio_low, second.ratio_high) == (3.5, 5.5)  # of 7 / 2 and 11 / 2


def test_dollars_per_request_and_per_million_characters():
    """10 words in at $2/M and 5 out at $4/M, twice: $0.00004 a request, over 2 x 45 characters; $/M tokens is the blend 8/3."""
    texts = [RequestText("ab " * 9 + "ab", "cd " * 5 + "x" * 1)] * 2
    (count,) = count_tokens(texts, {"words": words})
    assert count.usage == ((10, 0, 6, 0),) * 2
    found = price_texts(count, own(2, 4), characters_of(texts))
    assert found.usd_per_request == D("0.000044")
    assert found.usd_per_million_characters == D("0.000088") / characters_of(texts) * 1_000_000
    assert found.usd_per_million_tokens == D("0.000088") / 32 * 1_000_000


def test_price_per_character_does_not_depend_on_how_finely_a_text_is_cut():
    """Half the price per token of twice the tokens: $/M tokens says half, $/request and $/M characters say the same."""
    texts = [RequestText("abcd " * 20)]
    coarse, fine = count_tokens(texts, {"one": lambda t: [20] * len(t), "two": lambda t: [40] * len(t)})
    a, b = price_texts(coarse, own(2, 2), characters_of(texts)), price_texts(fine, own(1, 1), characters_of(texts))
    assert (a.usd_per_request, a.usd_per_million_characters) == (b.usd_per_request, b.usd_per_million_characters)
    assert a.usd_per_million_tokens == 2 * b.usd_per_million_tokens


def test_requests_are_files_and_lines(tmp_path):
    """A text file is one request; JSONL lines are strings, prompt and completion, or messages; blank lines are none."""
    (tmp_path / "a.txt").write_text("one\ntwo")
    lines = [
        "plain",
        {"prompt": "p", "completion": "c"},
        {"messages": [{"role": "user", "content": "hi"}], "output": "o"},
    ]
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + "\n\n")
    found = read_requests([tmp_path / "a.txt", tmp_path / "b.jsonl"])
    assert found == [RequestText("one\ntwo"), RequestText("plain"), RequestText("p", "c"), RequestText("hi", "o")]


def test_prompts_alone_are_texts(tmp_path):
    """A file of prompts without any reply is counted."""
    (tmp_path / "a.txt").write_text("one two")
    assert read_requests([tmp_path / "a.txt"]) == [RequestText("one two")]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", b"", "no text to count"),
        ("a.txt", b"\xff\xfe\x00", "cannot be read"),
        ("a.jsonl", b"{", "not JSON"),
        ("a.jsonl", b"[1]", "holds no text"),
        ("a.jsonl", b'{"other": "x"}', "holds no text"),
    ],
)
def test_bad_texts_are_errors(tmp_path, name, content, says):
    """Empty, not UTF-8, not JSON, no text: an error that names the place."""
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        read_requests([path])


def test_without_the_package_the_error_has_three_lines(monkeypatch, tmp_path):
    """The optional package is missing: what, why, and what to install."""
    real = builtins.__import__

    def without(name, *rest, **more):
        if name == "tokenizers":
            raise ImportError
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError) as error:
        load_tokenizer(tmp_path)
    assert len(str(error.value).splitlines()) == 3
    assert "pip install tokenizers" in str(error.value)


def saved(path: Path, pieces: list[str]) -> Path:
    """A tokenizer of whole words and nothing else, cut to 3 tokens and padded, as some models' files are."""
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {"?": 0} | {piece: n for n, piece in enumerate(pieces, 1)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_truncation(3)
    made.enable_padding(length=16)
    made.save(str(path))
    return path


def test_a_tokenizer_file_counts_every_token(tmp_path):
    """Truncation and padding that stand in the file are not applied; a directory with tokenizer.json works as well."""
    saved(tmp_path / "tokenizer.json", ["a"])
    for path in (tmp_path / "tokenizer.json", tmp_path):
        assert load_tokenizer(path)(["a " * 40, "", "b"]) == [40, 0, 1]


def test_what_is_not_a_tokenizer_file_is_an_error(tmp_path):
    """Missing, and not a tokenizer."""
    pytest.importorskip("tokenizers")
    with pytest.raises(ConfigError, match="no tokenizer file"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="not a tokenizer file"):
        load_tokenizer(tmp_path / "x.json")


def test_the_command_prints_ratio_dollars_and_the_warning(tmp_path):
    """Two tokenizers, two prices: JSON holds counts and dollars, mixed tokenizers are flagged, unknown names are errors."""
    one = saved(tmp_path / "one.json", ["hello", "world"])
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    made.save(str(tmp_path / "two.json"))
    text = tmp_path / "t.jsonl"
    text.write_text('"hello world"\n{"prompt": "hello", "completion": "world world"}\n')
    words = ["cost", "tokens", str(text), "--tokenizer", f"one={one}", "--tokenizer", f"two={tmp_path / 'two.json'}"]
    priced = ["--price", "one=groq/llama-3.1-8b-instant", "--price", "two=openai/gpt-5-mini"]
    shown = json.loads(CliRunner().invoke(cli, [*words, *priced, "--json"]).output)
    assert (shown["requests"], shown["characters"]) == (2, 27)
    assert [t["tokens"] for t in shown["tokenizers"]] == [5, 27]
    assert D(shown["prices"][0]["usd_per_request"]) == (3 * D("0.05") + 2 * D("0.08")) / 1_000_000 / 2
    assert "mixed tokenizers" in shown["warnings"][0]
    assert "tokenizer_ratio: 5.4" in CliRunner().invoke(cli, [*words, *priced]).output
    assert "not given" in str(CliRunner().invoke(cli, [*words, "--price", "x=groq/m"]).exception)
