"""Token counts and prices as whole records, and every way that a line may hold a text."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.config.price_ref import PriceRef
from harness.planner.token_exchange import (
    RequestText,
    TextPrice,
    TokenCount,
    characters_of,
    count_tokens,
    load_tokenizer,
    price_texts,
    read_requests,
    same_tokenizer,
)
from harness.price.hosted import find_price


def letters(texts):
    return [len(text) for text in texts]


def halves(texts):
    return [-(-len(text) // 2) for text in texts]


def test_counts_of_two_tokenizers():
    """Letters, and pairs of them: 5 + 1, 0 + 2 and 4 + 0 of 12 characters; ratios are over the first one, text by text."""
    texts = [RequestText("abcde", "f"), RequestText("", "gh"), RequestText("ijkl")]
    pairs, single = count_tokens(texts, {"pairs": halves, "single": letters})
    assert characters_of(texts) == 12
    assert pairs == TokenCount("pairs", ((3, 0, 1, 0), (0, 0, 1, 0), (2, 0, 0, 0)), 7, 7 / 12 * 1000, 1.0, 1.0, 1.0)
    assert single == TokenCount(
        "single", ((5, 0, 1, 0), (0, 0, 2, 0), (4, 0, 0, 0)), 12, pytest.approx(1000), 12 / 7, 6 / 4, 2.0
    )  # fmt: skip


@pytest.mark.parametrize(("count", "low", "high"), [(20, 1, 20), (21, 2, 20), (40, 2, 39), (41, 3, 39)])
def test_percentiles_of_the_ratio(count, low, high):
    """Texts of ratios 1, 2, 3 ..: the 5th and the 95th percentile leave out a twentieth at each end."""
    texts = [RequestText("x" * n) for n in range(count, 0, -1)]
    one, many = count_tokens(texts, {"one": lambda t: [1 if x else 0 for x in t], "many": letters})
    assert (one.ratio_low, one.ratio_high, many.ratio_low, many.ratio_high) == (1, 1, low, high)
    assert many.ratio == (count + 1) / 2


def test_texts_of_which_the_first_tokenizer_makes_nothing():
    """No ratio is taken over them; where there is none at all it is 1."""
    texts = [RequestText("a"), RequestText("bb")]
    first, second = count_tokens(texts, {"first": lambda t: [0 if x == "a" else len(x) for x in t], "second": letters})
    assert (first.ratio_low, second.ratio, second.ratio_low, second.ratio_high) == (1, 3 / 2, 1, 1)
    apart = count_tokens(texts, {"a": lambda t: [int(x == "a") for x in t], "b": lambda t: [int(x == "bb") for x in t]})
    assert (apart[1].ratio, apart[1].ratio_low, apart[1].ratio_high) == (1, 0, 0)


def test_a_tokenizer_that_makes_nothing():
    """Is refused by its name."""
    with pytest.raises(ConfigError) as error:
        count_tokens([RequestText("a")], {"good": letters, "bad": lambda t: [0 for _ in t]})
    assert (error.value.what, error.value.value) == ("tokenizer makes no token of these texts", "bad")


def test_special_tokens_are_not_counted(tmp_path):
    """A tokenizer that begins every text with a token of its own: one word is one token."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0, "[CLS]": 1}, unk_token="?"))
    made.post_processor = tokenizers.processors.TemplateProcessing(single="[CLS] $A", special_tokens=[("[CLS]", 1)])
    made.save(str(tmp_path / "t.json"))
    assert load_tokenizer(tmp_path / "t.json")(["word", "word"]) == [1, 1]


def test_a_price_of_texts():
    """15 tokens in at $2 a million and 5 out at $4: 50 millionths of a dollar, over 2 requests, 40 characters and 20 tokens."""
    day = datetime(2026, 11, 24, tzinfo=UTC)
    price = find_price(PriceRef(provider="h", model="m", input_usd_per_million=2, output_usd_per_million=4), day)
    count = TokenCount("t", ((10, 0, 3, 0), (5, 0, 2, 0)), 20, 0.0, 1.0, 1.0, 1.0)
    usd = D(15 * 2 + 5 * 4)  # millionths
    assert price_texts(count, price, 40) == TextPrice(
        "t", price.name, usd / 1_000_000 / 2, usd / 40, usd / 20, price.inputs
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain", RequestText("plain", "")),
        ({"prompt": "p"}, RequestText("p", "")),
        ({"text": "t", "output": "o"}, RequestText("t", "o")),
        ({"input": "i", "completion": "c"}, RequestText("i", "c")),
        ({"input": "i", "text": "t", "prompt": "p", "response": "r"}, RequestText("p", "r")),
        ({"input": "i", "text": "t", "response": "r", "completion": "c", "output": "o"}, RequestText("t", "o")),
        ({"prompt": ["no text"], "input": "i", "output": 5, "response": "r"}, RequestText("i", "r")),
        ({"prompt": "", "input": "i", "output": "o"}, RequestText("", "o")),
        ({"messages": [{"content": "a"}, {"content": ["part"]}, "b", {"role": "x"}, {"content": "c"}]}, RequestText("a\nc", "")),
        ({"messages": [{"content": "a"}], "prompt": "p"}, RequestText("p", "")),
    ],
)  # fmt: skip
def test_what_a_line_holds(tmp_path, line, text):
    """A string; or the first of prompt, text and input that is a text, else messages; and the first of output, completion, response."""
    path = tmp_path / "a.jsonl"
    path.write_text('"first"\n\n  \n' + json.dumps(line), encoding="utf-8")
    assert read_requests([path]) == [RequestText("first", ""), text]
    assert asdict(text) == {"prompt": text.prompt, "reply": text.reply}


def test_lines_end_where_lines_of_json_do(tmp_path):
    """A separator of lines inside a text is a part of it; other files are texts as they are."""
    path = tmp_path / "a.jsonl"
    path.write_text('"one\u2028two"\n"three"', encoding="utf-8")
    (tmp_path / "b.json").write_text('"x"\n')
    assert read_requests([path, tmp_path / "b.json"]) == [
        RequestText("one\u2028two"),
        RequestText("three"),
        RequestText('"x"\n'),
    ]


def test_replies_alone_are_texts(tmp_path):
    """Of a file with an empty prompt the reply is counted."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "", "output": "o"}')
    assert read_requests([path]) == [RequestText("", "o")]


@pytest.mark.parametrize(
    ("lines", "what", "place"),
    [
        ('"a"\n\n{', "line is not JSON", "3"),
        ('"a"\n[1]', "line holds no text", "2"),
        ('{"messages": "a"}', "line holds no text", "1"),
        ('{"output": "a"}', "line holds no text", "1"),
    ],
)
def test_lines_that_are_refused(tmp_path, lines, what, place):
    """By file and number, the first is 1."""
    path = tmp_path / "a.jsonl"
    path.write_text(lines)
    with pytest.raises(ConfigError) as error:
        read_requests([path])
    assert (error.value.what, error.value.value) == (what, f"{path}:{place}")


def test_files_without_text(tmp_path):
    """Are named, all of them; no file at all too, and one that is not there."""
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path in paths:
        path.write_text("")
    for given, value in ((paths, f"{paths[0]}, {paths[1]}"), ([], "no file")):
        with pytest.raises(ConfigError) as error:
            read_requests(given)
        assert (error.value.what, error.value.value) == ("no text to count", value)
    with pytest.raises(ConfigError) as error:
        read_requests([tmp_path / "none.txt"])
    assert (error.value.what, error.value.value) == ("text cannot be read", str(tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("own", "hosted", "ratio", "found"),
    [("a", "a", None, 1), ("a", "b", 1.5, D("1.5")), ("a", "a", "0.5", D("0.5")), (None, None, 2, 2)],
)
def test_the_exchange_rate_of_two_tokenizers(own, hosted, ratio, found):
    """As measured, else 1 where they are the same."""
    assert same_tokenizer(own, hosted, ratio) == found


@pytest.mark.parametrize(
    ("own", "hosted", "ratio", "what", "value"),
    [
        ("a", "b", None, "mixed tokenizers without an exchange rate", "a and b"),
        (None, None, None, "mixed tokenizers without an exchange rate", "not given and not given"),
        ("a", None, None, "mixed tokenizers without an exchange rate", "a and not given"),
        ("a", "a", 0, "tokenizer ratio is 0", "0"),
        ("a", "a", "x", "tokenizer ratio is not a number", "x"),
    ],
)
def test_no_exchange_rate(own, hosted, ratio, what, value):
    """Two names that are not known to be one are refused."""
    with pytest.raises(ConfigError) as error:
        same_tokenizer(own, hosted, ratio)
    assert (error.value.what, error.value.value) == (what, value)
