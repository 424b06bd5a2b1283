"""Prompt tokens that came from the server's prefix cache, against those that may: what is beyond was prefilled before the run.

A cache holds by right how every prompt of this server begins (its chat template), what the plan lets prompts share, and a word
or two by chance.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from harness.judge.columns import FloatArray
from harness.judge.evidence import Evidence, invalid, unknown
from harness.judge.server_state import missing, prefix_cache_off, rise_tokens
from harness.records import Phase, Reason

MAX_UNPLANNED_HITS = 0.01  # of the prompt tokens
_COUNTED = ("vllm", "adopt")  # kinds that are vLLM servers with a metrics page
_MEANINGS = ("prefix_hits", "prefix_queries")
_SEEN_PROMPTS = 1_000_000  # as many as a server may still hold of earlier runs


def prefix_cache(e: Evidence) -> Reason | None:
    """More hits than can be explained: this server has seen the plan before."""
    if (unseen := _unseen(e)) is not None:
        return unseen
    vocabulary = e.run.manifest.target.get("vocabulary") or {}
    template = template_tokens(e, int(vocabulary.get("prompt_overhead_tokens") or 0))
    chance = by_chance(int(vocabulary.get("words") or 0), verified=bool(vocabulary.get("verified")))
    allowed = np.full(e.requests.count, template + chance)
    beyond, of = _beyond(e, allowed)
    if beyond <= MAX_UNPLANNED_HITS * of:
        return None
    planned = planned_tokens(e)
    if planned is None:
        return None
    beyond, of = _beyond(e, allowed + planned)
    if beyond <= MAX_UNPLANNED_HITS * of:
        return None
    return invalid(
        "prefix_cache",
        f"{beyond / of:.1%} of the prompt tokens came from the prefix cache, beyond what the plan lets prompts share and the "
        f"{template} tokens of a prompt that are not its own words",
        "the server has seen these prompts before: restart it, or draw others with another --seed",
    )


def _beyond(e: Evidence, allowed: FloatArray) -> tuple[float, int]:
    """Cached prompt tokens beyond those that are `allowed` to each request, of how many; of ok requests."""
    r = e.requests
    known = r.ok & r.cached.present & r.prompt.present
    of = int(r.prompt.data[known].sum())
    if of:
        return float(np.maximum(r.cached.data - allowed, 0)[known].sum()), of
    # no such field in usage: the server's own counters, which tell of all requests together
    hits, queries = (rise_tokens(e.run.server, f"prefix_{name}", e.run.manifest) for name in ("hits", "queries"))
    return (hits or 0) - float(allowed[r.ok].sum()), round(queries or 0)


def _unseen(e: Evidence) -> Reason | None:
    """UNKNOWN where neither usage nor the counters of a vLLM server tell of hits: 0 of 0 is no pass."""
    r = e.requests
    if e.kind not in _COUNTED or not r.ok.any() or (r.ok & r.cached.present).any() or prefix_cache_off(e.run.manifest):
        return None
    if all(rise_tokens(e.run.server, meaning, e.run.manifest) is not None for meaning in _MEANINGS):
        return None
    lacking = missing(e.run.server, e.run.manifest.target.get("server_version"), *_MEANINGS)
    return unknown(
        "prefix_cache_unseen",
        "whether the server had seen these prompts before cannot be told: no cached tokens in its usage, and "
        + (
            f"its metrics lack {lacking}"
            if lacking
            else "its counters are not at both edges, or in blocks of an unknown size"
        ),
        "start the server with --enable-prompt-tokens-details, or give metrics_urls; a drawn --seed of its own is not proof",
    )


def template_tokens(e: Evidence, overhead_tokens: int) -> int:
    """The most tokens that can stand before every prompt's own words: the least, over the requests, of prompt tokens by usage
    less words sent, each of which is a token at least. `overhead_tokens`: what the words were shortened by for the template."""
    r = e.requests
    known = r.ok & r.prompt.present
    if not known.any():
        return overhead_tokens
    words = np.maximum(r.target_prompt.data - overhead_tokens, 1)
    return max(0, int((r.prompt.data - words)[known].min()))


def by_chance(words: int, *, verified: bool) -> float:
    """First words that a prompt has in common with one of `_SEEN_PROMPTS` earlier ones, expected: sum over k of
    min(1, prompts / words^k). A token more where words may be several of them, whose first ones are more alike."""
    if words < 2:
        return 0.0
    expected = math.fsum(min(1.0, _SEEN_PROMPTS * float(words) ** -k) for k in range(1, 64))
    return expected if verified else expected + 1


def planned_tokens(e: Evidence) -> FloatArray | None:
    """Of each request: the tokens from its beginning on that come from streams which other prompts of the plan have too.
    None where sessions go on from real replies: those are shared as well, and no plan knows them."""
    plan, r = e.run.plan, e.requests
    found = np.zeros(r.count)
    if plan is None or "prompt_seed" not in plan:
        return found
    if "after_seq" in plan and plan["after_seq"].notna().any():
        return None
    prefixes = plan["prefix"] if "prefix" in plan else [()] * len(plan)
    rows = zip(plan["seq"], prefixes, plan["prompt_seed"], plan["target_prompt_tokens"], strict=True)
    pieces = {
        seq: [*zip(prefix[0::2], prefix[1::2], strict=True), (seed, tokens)] for seq, prefix, seed, tokens in rows
    }
    users = Counter(seed for prompt in pieces.values() for seed in {seed for seed, _ in prompt})
    measured = e.run.requests[e.run.requests["phase"] == Phase.MEASURE.value]
    for row, seq in enumerate(measured["seq"]):
        left = int(r.target_prompt.data[row])
        for seed, tokens in pieces.get(seq, ()):
            if users[seed] < 2 or left <= 0:
                break
            found[row] += min(int(tokens), left)
            left -= int(tokens)
    longer = np.ones(r.count)  # where words are several tokens
    np.divide(r.prompt.data, r.target_prompt.data, out=longer, where=r.prompt.present & (r.target_prompt.data > 0))
    planned: FloatArray = found * np.maximum(longer, 1)
    return planned
