"""Which short words are exactly one token for a server, told by its own tokenizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx

from harness.base.errors import ConfigError, TargetError
from harness.base.files import data_dir
from harness.measure.control_request import json_of, request
from harness.measure.targets import identity
from harness.records import Endpoint, Vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

_FEWEST = 32  # with fewer one-token words than this, prompts would repeat themselves
_PARALLEL = 8
_WORDS_A_TEXT = 64


def read_words() -> tuple[str, ...]:
    """`workloads/words.txt`, one word a line. Raises ConfigError."""
    path = data_dir("workloads") / "words.txt"
    try:
        return tuple(path.read_text(encoding="ascii").split())
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            "the word list cannot be read", path, f"{type(error).__name__}; is the installation whole?"
        ) from None


_MOST_ID = 1 << 31  # of a vocabulary: more is no token


class _NoTokenizerError(Exception):
    """The server has no usable /tokenize; the text says what it answered."""


def _post(http: httpx.Client, endpoint: Endpoint, body: dict[str, object]) -> list[int]:
    url = f"{identity.root_url(endpoint.base_url)}/tokenize"
    try:
        try:
            answer = request(http, "POST", url, json={"model": endpoint.model, **body})
        except httpx.TransportError:  # the pool may close an idle connection that another thread is about to use
            answer = request(http, "POST", url, json={"model": endpoint.model, **body})
    except httpx.HTTPError as error:
        raise TargetError("the server stopped answering", url, f"{type(error).__name__}: {error}"[:200]) from None
    if answer.status_code != 200:
        raise _NoTokenizerError(f"/tokenize answers HTTP {answer.status_code}")
    try:
        tokens = [int(token) for token in json_of(answer)["tokens"]]
        if any(not 0 <= token < _MOST_ID for token in tokens):
            raise ValueError
    except (ValueError, KeyError, TypeError, OverflowError):
        raise _NoTokenizerError("/tokenize does not answer as vLLM does") from None
    return tokens


def _text(http: httpx.Client, endpoint: Endpoint, text: str) -> list[int]:
    return _post(http, endpoint, {"prompt": text, "add_special_tokens": False})


def _chat(http: httpx.Client, endpoint: Endpoint, text: str) -> list[int]:
    body = {"messages": [{"role": "user", "content": text}], "add_generation_prompt": True}
    return _post(http, endpoint, body)


def _spaced(words: Sequence[str]) -> str:
    """Words as prompts hold them: each after one space, the first too."""
    return "".join(f" {word}" for word in words)


def _one_token_words(http: httpx.Client, endpoint: Endpoint, words: Sequence[str]) -> tuple[dict[str, int], int]:
    """word -> its id, for words that are one token after a space; and the tokens that a text's leading space costs.

    The id is read after another word, not after a lone leading space: tokenizers that put a mark of their own before
    a text (SentencePiece) count that space as a token, once per text. Where the chat template trims messages, one may begin with any of
    the words: there each is to be one token at the start of a text too, which takes a request a word.
    """
    for between in words:
        lead, twice = (_text(http, endpoint, _spaced((between,) * times)) for times in (1, 2))
        if lead and twice[:-1] == lead:
            break
    else:
        return {}, 0

    def ids_of(asked: Sequence[str]) -> list[list[int]]:
        """Each word's tokens, none where they cannot be told: all in one text, with `between` before, among and behind them."""
        rest = _text(http, endpoint, _spaced((between, *(each for word in asked for each in (word, between)))))
        found: list[list[int]] = [[]]
        for token in rest[len(lead) :]:
            found += [[]] if token == twice[-1] else []
            found[-1] += [token] if token != twice[-1] else []
        if rest[: len(lead)] == lead and len(found) == len(asked) + 1 and not found[-1]:
            return found[:-1]
        if len(asked) == 1:  # another word may have the same id
            return [rest[len(lead) : -1] if len(rest) == len(lead) + 2 and rest[-1] == twice[-1] else []]
        return ids_of(asked[: len(asked) // 2]) + ids_of(asked[len(asked) // 2 :])

    with ThreadPoolExecutor(_PARALLEL) as pool:
        texts = [words[at : at + _WORDS_A_TEXT] for at in range(0, len(words), _WORDS_A_TEXT)]
        after = [ids for found in pool.map(ids_of, texts) for ids in found]
        known = {word: ids[0] for word, ids in zip(words, after, strict=True) if len(ids) == 1}
        if endpoint.api != "completions" and _chat(http, endpoint, between) == _chat(http, endpoint, f" {between}"):
            alone = pool.map(lambda word: _text(http, endpoint, word), known)
            known = {word: known[word] for word, ids in zip(tuple(known), alone, strict=True) if len(ids) == 1}
    return known, len(lead) - 1


def _as_prompt(http: httpx.Client, endpoint: Endpoint, text: str) -> list[int]:
    """As the server tokenizes a prompt of the completions API: with what it puts before every text."""
    return _post(http, endpoint, {"prompt": text})


def _overhead(http: httpx.Client, endpoint: Endpoint, words: Sequence[str]) -> tuple[int | None, str]:
    """Tokens the chat template, or the tokenizer before a plain text, adds to words; None unless it is the same for messages of
    three lengths and starts."""
    messages = (words[:1], words[1:18], words[::-1])
    tokenize, by = (_chat, "chat template") if endpoint.api != "completions" else (_as_prompt, "tokenizer")
    added = [len(tokenize(http, endpoint, _spaced(message))) - len(message) for message in messages]
    if len(set(added)) != 1:
        what = "chat" if endpoint.api != "completions" else "text"
        return None, f"{what} overhead unknown: {added} tokens at {[len(m) for m in messages]} words"
    return added[0], f"{by} adds {added[0]}, same at 3 lengths"


def _learn(http: httpx.Client, endpoint: Endpoint, words: Sequence[str]) -> Vocabulary:
    known, lead_tokens = _one_token_words(http, endpoint, words)
    if len(known) < _FEWEST:
        raise _NoTokenizerError(f"only {len(known)} of {len(words)} words are one token here")
    kept = tuple(known)
    joined = _text(http, endpoint, _spaced(kept))[lead_tokens:]
    if len(joined) != len(kept) or joined[1:] != list(known.values())[1:]:
        raise _NoTokenizerError(f"{len(kept)} one-token words joined are {len(joined)} tokens or other ones")
    source = f"/tokenize: {len(kept)} of {len(words)} words are one token each, {len(joined)} when joined"
    overhead: int | None = 0
    if endpoint.api != "completions" or endpoint.body == "plain":
        overhead, seen = _overhead(http, endpoint, kept)
        source = f"{source}; {seen}"
    return Vocabulary(kept, tuple(known.values()), overhead, source)


def vocabulary(endpoint: Endpoint, words: Sequence[str]) -> Vocabulary:
    """Ask the server which of `words` are one token, and their ids; in chat also what its template adds to a message, and for a
    plain body what its tokenizer adds to a text (Llama's begin-of-text mark).

    Each after one space, N of the words are N tokens, whichever comes first (one more per text for tokenizers that
    count its leading space; in chat that is part of the overhead). `token_ids` are those of the words after a space. Where the server tells nothing (it is not vLLM, or has no /tokenize), the words are kept, ids and
    chat overhead are None, and `source` says why. Raises TargetError if the server stops answering meanwhile.
    """
    why = "not a vLLM server"
    if endpoint.vllm_extensions:
        with identity.client_of(endpoint) as http:
            try:
                return _learn(http, endpoint, words)
            except _NoTokenizerError as error:
                why = str(error)
    overhead = 0 if endpoint.api == "completions" else None
    return Vocabulary(tuple(words), None, overhead, f"unverified, token counts are estimates: {why}")
