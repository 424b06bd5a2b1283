"""Planned requests -> prompts of exactly the planned length, made of words that are one token each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.streams import at, mix64
from harness.records import PlannedRequest, Prompt, Vocabulary

_BATCH_TOKENS = 65_536  # bounds memory; prompts do not depend on it


def _counts(batch: list[PlannedRequest], overhead_tokens: int) -> list[int]:
    """Words for each prompt; at least one, even where the chat template alone is longer than the prompt asked for."""
    return [max(1, request.target_prompt_tokens - overhead_tokens) for request in batch]


def _pieces(batch: list[PlannedRequest], counts: list[int]) -> tuple[list[int], list[int]]:
    """(seeds, lengths) of what the batch's prompts consist of, one after the other: the pairs of `prefix`, as far as the
    prompt goes, then the prompt's own stream."""
    seeds: list[int] = []
    lengths: list[int] = []
    for request, count in zip(batch, counts, strict=True):
        left = count
        for seed, tokens in zip(request.prefix[0::2], request.prefix[1::2], strict=True):
            taken = min(tokens, left)
            seeds.append(seed)
            lengths.append(taken)
            left -= taken
        seeds.append(request.prompt_seed)
        lengths.append(left)
    return seeds, lengths


def _choices(batch: list[PlannedRequest], counts: list[int], words: int) -> list[int]:
    """Word numbers of all prompts of the batch, one after the other: word j of a piece is element j of the splitmix64
    stream that begins at the mixed seed of the piece, brought to 0 .. words - 1 by its upper half."""
    seeds, piece_lengths = _pieces(batch, counts)
    starts = mix64(np.array(seeds, np.int64).astype(np.uint64))
    lengths = np.array(piece_lengths)
    ends = np.cumsum(lengths)
    position = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    drawn = at(np.repeat(starts, lengths), position.astype(np.uint64))
    chosen: list[int] = (((drawn >> np.uint64(32)) * np.uint64(words)) >> np.uint64(32)).tolist()
    return chosen


def _batches(requests: Iterable[PlannedRequest]) -> Iterator[list[PlannedRequest]]:
    batch: list[PlannedRequest] = []
    tokens = 0
    for request in requests:
        batch.append(request)
        tokens += request.target_prompt_tokens
        if tokens >= _BATCH_TOKENS:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def prompts(
    requests: Iterable[PlannedRequest], vocabulary: Vocabulary, api: str, body: str = "exact"
) -> Iterator[Prompt]:
    """One Prompt per request, in order, made as they are asked for.

    `api` completions with `vocabulary.token_ids` and an exact `body`: exactly `target_prompt_tokens` ids. Otherwise text: that many
    words less `prompt_overhead_tokens` (0 where unknown), each after one space, as the vocabulary was verified.
    The same seed, prefix and length give the same prompt; a longer prompt of the same seed begins with the shorter one, and
    prompts whose `prefix` begins alike begin alike. Other prompts have distinct seeds, and two prompts of different seeds agree in their first k tokens with probability V^-k for V
    words: with 2,000 words and a million prompts, some pair shares a prefix of 16 tokens with probability below 1e-40.
    Raises ConfigError if the vocabulary is empty.
    """
    if not vocabulary.words or (vocabulary.token_ids is not None and not vocabulary.token_ids):
        raise ConfigError(
            "no word is one token for this target",
            vocabulary.source,
            "its tokenizer could not be used for exact prompts",
        )
    ids = vocabulary.token_ids if api == "completions" and body == "exact" else None
    spaced = [f" {word}" for word in vocabulary.words]
    overhead_tokens = 0 if ids is not None else vocabulary.prompt_overhead_tokens or 0
    for batch in _batches(requests):
        counts = _counts(batch, overhead_tokens)
        chosen = _choices(batch, counts, len(spaced) if ids is None else len(ids))
        end = 0
        for request, count in zip(batch, counts, strict=True):
            start, end = end, end + count
            if ids is not None:
                yield Prompt(request.seq, None, tuple(map(ids.__getitem__, chosen[start:end])))
            else:
                yield Prompt(request.seq, "".join(map(spaced.__getitem__, chosen[start:end])), None)
