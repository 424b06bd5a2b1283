"""Prefixes that prompts share: hash-block chains and reuse quantiles -> pairs (row, tokens); and the hit ratio they allow.

A prompt is a list of pairs (row, tokens): the first `tokens` tokens of that row's stream; what is left comes from the
prompt's own stream. Rows become seeds in `drawing`. A row's stream holds only what is new in its prompt, so that pairs
stay few: a prompt has one for each earlier prompt that it took something new from.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.measure.plan.preset import PrefixSpec
from harness.measure.plan.streams import F64, I64, Purpose, at, interpolate, key, raw, uniform
from harness.records import PlannedRequest

Pairs = tuple[int, ...]
_REUSE_WINDOW = 1024
_REUSE_TRIES = 16


class Chains:
    """Chains of block hashes, as a tree of runs: a row adds one run, its blocks that no earlier row had in that place.

    Two chains that begin with equal hashes give prompts that begin with equal tokens. Memory: 8 bytes a new block and
    one dictionary entry a row.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self._runs: list[array[int]] = []
        self._rows: list[int] = []
        self._next: dict[tuple[int, int, int], int] = {}

    def pairs(self, row: int, hashes: Sequence[int | str], prompt_tokens: int, scope: int = 0) -> Pairs:
        """What the row's prompt begins with; remembers the rest. Chains of different scopes share nothing."""
        ids = _integers(hashes)
        shared: list[int] = []
        node, position, i, left = -1 - scope, 0, 0, prompt_tokens
        while i < len(ids):
            run = self._next.get((node, position, ids[i]))
            if run is None:
                self._next[node, position, ids[i]] = len(self._runs)
                self._runs.append(ids[i:])
                self._rows.append(row)
                break
            same = _common(self._runs[run], ids, i)
            tokens = min(same * self.block_tokens, left)
            shared += (self._rows[run], tokens)
            left -= tokens
            node, position, i = run, same, i + same
        return tuple(shared)


def _integers(hashes: Sequence[int | str]) -> array[int]:
    try:
        return array("q", hashes)  # type: ignore[arg-type]
    except (TypeError, OverflowError):
        digests = (hashlib.blake2b(str(h).encode(), digest_size=8).digest() for h in hashes)
        return array("q", [int.from_bytes(d, signed=True) for d in digests])


def _common(run: array[int], ids: array[int], start: int) -> int:
    """How many of ids[start:] the run begins with; at least 1, since the first was looked up."""
    low, high = 1, min(len(run), len(ids) - start)
    if run[:high] == ids[start : start + high]:
        return high
    while low < high:  # the first `low` are equal, not all of `high` are
        middle = (low + high) // 2
        if run[low : middle + 1] == ids[start + low : start + middle + 1]:
            low = middle + 1
        else:
            high = middle
    return low


def reuse(spec: PrefixSpec, prompt: I64, rank: F64, seed: int) -> list[Pairs]:
    """Pairs for prompts of which a drawn share was sent before: each takes the beginning of one of the 1,024 prompts
    before it, chosen at random among those that are long enough (16 tries, then as much as there is)."""
    count = len(prompt)
    words = uniform(raw(seed, Purpose.SHARED, 2 * count))
    coupled = words[0::2] < abs(spec.rank_coupling)
    to = rank if spec.rank_coupling > 0 else 1 - rank
    table = np.array(spec.cached_fraction_quantile_levels), np.array(spec.cached_fraction)
    share = interpolate(np.where(coupled, to, words[1::2]), *table)
    wanted = np.floor(share * prompt).astype(np.int64)
    row = np.arange(count)
    source = np.full(count, -1)
    pending = row[1:]
    start = at(np.full(count, key(seed, Purpose.SHARED), np.uint64), row.astype(np.uint64))
    for attempt in range(_REUSE_TRIES):
        u = uniform(at(start[pending], np.full(len(pending), attempt, np.uint64)))
        tried = pending - 1 - np.floor(u * np.minimum(pending, _REUSE_WINDOW)).astype(np.int64)
        longer = (source[pending] < 0) | (prompt[tried] > prompt[source[pending]])
        source[pending[longer]] = tried[longer]
        pending = pending[prompt[source[pending]] < wanted[pending]]
    pairs: list[Pairs] = []
    lengths = prompt.tolist()
    for origin, tokens in zip(source.tolist(), wanted.tolist(), strict=True):
        pairs.append(beginning(pairs[origin], origin, min(tokens, lengths[origin])) if origin >= 0 else ())
    return pairs


def beginning(pairs: Pairs, row: int, tokens: int) -> Pairs:
    """The first `tokens` of the prompt that begins with `pairs` and goes on with its own row's stream."""
    taken: list[int] = []
    for origin, available in zip(pairs[0::2], pairs[1::2], strict=True):
        if tokens <= 0:
            break
        taken += (origin, min(tokens, available))
        tokens -= available
    if tokens > 0:
        taken += (row, tokens)
    return tuple(taken)


@dataclass(frozen=True, slots=True)
class HitRatio:
    """Share of the prompt tokens that a prefix cache without limits holds when the requests come one after another."""

    by_token: float
    by_block: float  # in whole blocks, and never the last token, which a server must compute
    block_tokens: int


def hit_ratio(requests: Iterable[PlannedRequest], block_tokens: int) -> HitRatio:
    """`by_block` follows vLLM: whole blocks of at most prompt - 1 tokens.

    Requests are taken in the plan's order, each seeing what all before it sent.
    """
    seen: dict[tuple[int, int], int] = {}
    nodes: dict[tuple[int, int, int], int] = {}
    total = by_token = by_block = 0
    for request in requests:
        left, node, matching, shared = request.target_prompt_tokens, 0, True, 0
        pieces = [*zip(request.prefix[0::2], request.prefix[1::2], strict=True), (request.prompt_seed, left)]
        for seed, available in pieces:
            tokens = min(available, left)
            if tokens <= 0:
                break
            known = seen.get((node, seed), 0)
            if matching:
                shared += min(tokens, known)
                matching = known >= tokens
            if tokens > known:
                seen[node, seed] = tokens
            left -= tokens
            if left > 0:
                node = nodes.setdefault((node, seed, tokens), len(nodes) + 1)
        total += request.target_prompt_tokens
        by_token += shared
        by_block += min(shared, request.target_prompt_tokens - 1) // block_tokens * block_tokens
    return HitRatio(by_token / total, by_block / total, block_tokens) if total else HitRatio(0.0, 0.0, block_tokens)
