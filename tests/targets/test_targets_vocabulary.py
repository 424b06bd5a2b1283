"""The vocabulary: which words are one token, told by the server (a stand-in tokenizer on loopback)."""

from __future__ import annotations

import pytest

from harness.base.errors import TargetError
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Endpoint
from tests.fakes.fake_vllm import CHAT_OVERHEAD, Fake, serve, tokens
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
WORDS = (*read_words()[:60], "something", "understanding")


def learn(fake: Fake, api: str = "completions", words=WORDS, body: str = "exact"):
    with serve(fake) as root:
        return vocabulary(Endpoint(f"{root}/v1", "tiny", api, None, vllm_extensions=True, body=body), words)


def test_words_of_several_tokens_are_left_out_and_ids_are_those_after_a_space():
    """Kept words are one token; the id is the one in the middle of a text, not the one at its start."""
    found = learn(Fake())
    kept = tuple(word for word in WORDS if len(word) <= 7)
    assert found.words == kept
    assert found.token_ids == tuple(tokens(f"a {word}")[1] for word in kept)
    assert found.prompt_overhead_tokens == 0
    assert "60 of 62 words" in found.source or f"{len(kept)} of {len(WORDS)} words" in found.source


def test_the_chat_templates_tokens_are_counted():
    """In chat the overhead is what the template adds to a message, the same at three lengths."""
    assert learn(Fake(), "chat").prompt_overhead_tokens == CHAT_OVERHEAD


@pytest.mark.parametrize(("body", "overhead"), [("plain", 1), ("exact", 0)])
def test_what_the_tokenizer_puts_before_a_plain_text_is_counted(body, overhead):
    """A begin-of-text mark is part of a plain prompt's length; with token ids the server adds none."""
    assert learn(Fake(begins=1), body=body).prompt_overhead_tokens == overhead


def test_few_questions_are_asked():
    """Of hundreds of words, some of two tokens: a few texts tell all."""
    fake, words = Fake(), read_words()
    found = learn(fake, words=words)
    assert found.words == tuple(word for word in words if len(word) <= 7)
    assert len(fake.seen) < 25


@pytest.mark.parametrize(("api", "trims", "kept"), [("completions", True, True), ("chat", False, True), ("chat", True, False)])  # fmt: skip
def test_a_word_of_two_tokens_at_the_start_of_a_text(api, trims, kept):
    """It is left out where a message may begin with it: in chat, by a template that trims."""
    split = WORDS[5]
    found = learn(Fake(trims=trims, splits_first=(split,)), api)
    assert (split in found.words) is kept
    assert found.prompt_overhead_tokens == (0 if api == "completions" else CHAT_OVERHEAD + (not trims))


def test_words_of_the_same_id_are_kept():
    """The golden server's ids are sums of letters: one that is another's anagram has its id, and stands beside it."""
    words = ("ab", "ba", *WORDS[:60])
    with GoldenServer() as server:
        found = vocabulary(Endpoint(server.url, "golden", "completions", None, vllm_extensions=True), words)
    assert found.words == words
    assert found.token_ids[:2] == (100 + ord("a") + ord("b"),) * 2


def test_an_overhead_that_changes_with_length_is_unknown():
    """Where the template's tokens differ between lengths (after two questions: does it trim) the overhead is None, and the source says so."""
    found = learn(Fake(chat_overheads=(9, 9, 9, 9, 11)), "chat")
    assert found.prompt_overhead_tokens is None
    assert "chat overhead unknown: [9, 9, 11]" in found.source
    assert found.token_ids


def test_words_that_merge_when_joined_are_not_called_verified():
    """If N words joined are not N tokens, ids are None and the source says why."""
    found = learn(Fake(merges=True))
    assert (found.words, found.token_ids) == (WORDS, None)
    assert "joined are" in found.source


@pytest.mark.parametrize(("api", "overhead"), [("completions", 0), ("chat", None)])
def test_without_a_tokenizer_words_are_unverified(api, overhead):
    """No /tokenize: all words, no ids, and an overhead only where it is 0 by definition."""
    found = learn(Fake(absent=("/tokenize",)), api)
    assert (found.words, found.token_ids, found.prompt_overhead_tokens) == (WORDS, None, overhead)
    assert "unverified" in found.source
    assert "HTTP 404" in found.source


def test_too_few_one_token_words_are_not_enough():
    """A tokenizer that splits nearly every word leaves the words unverified."""
    found = learn(Fake(), words=("something", "understanding", "cat"))
    assert found.token_ids is None
    assert "only 1 of 3" in found.source


def test_a_server_that_stops_answering_is_an_error():
    """A connection that breaks while words are asked is a TargetError, not an unverified vocabulary."""
    with serve(Fake()) as root:
        gone = root
    with pytest.raises(TargetError, match=gone):
        vocabulary(Endpoint(f"{gone}/v1", "tiny", "completions", None, vllm_extensions=True), WORDS)


def test_the_word_list_holds_short_distinct_lower_case_words():
    """workloads/words.txt: some 450 distinct words of 2 to 8 letters."""
    words = read_words()
    assert 400 <= len(words) == len(set(words))
    assert all(word.isalpha() and word.islower() and 2 <= len(word) <= 8 for word in words)
