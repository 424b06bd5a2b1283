"""Did the server do the work that was asked for? Tokens by the plan, by its usage, by its chunks and by its own counters.

A prefix cache holds by right how every prompt of this server begins (its chat template), what the plan lets prompts share, and a word or
two by chance. What came from it beyond that was prefilled before the run. Words that are a run's own (its salt) cannot have been.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from harness.judge.columns import BoolArray, FloatArray
from harness.judge.server_state import missing, names_in, prefix_cache_off, rise_tokens
from harness.judge.validity import Evidence, invalid, unknown, warning
from harness.records import Phase, Reason

MAX_LENGTH_MISMATCH = 0.01  # of ok requests whose length is another than asked for
MAX_UNPLANNED_HITS = 0.01  # of the prompt tokens
_COUNTED = ("vllm", "adopt")  # kinds that are vLLM servers with a metrics page
_MEANINGS = ("prefix_hits", "prefix_queries")
_SEEN_PROMPTS = 1_000_000  # as many as a server may still hold of earlier runs

_OURS = ("vllm", "adopt", "offline")  # vLLM servers: lengths can be forced and prompts given as token ids


def _off(e: Evidence, length: Any, target: Any) -> tuple[int, int]:
    """How many ok requests with usage have another length than asked for, of how many."""
    known: BoolArray = e.requests.ok & length.present & target.present
    return int((length.data != target.data)[known].sum()), int(known.sum())


def _plain(e: Evidence) -> bool:
    return bool(e.run.manifest.target.get("body") == "plain")


def _api(e: Evidence) -> str:
    return str(e.run.manifest.target.get("api", "completions"))


def output_length(e: Evidence) -> Reason | None:
    off, of = _off(e, e.requests.output, e.requests.target_output)
    if off <= MAX_LENGTH_MISMATCH * of:
        return None
    message = f"{off} of {of} replies have another length than asked for"
    if e.kind not in _OURS or _api(e) == "messages":  # vLLM's Messages take no ignore_eos
        return warning(
            "output_length",
            f"{message}: this API cannot be made to write a given number of tokens",
            "compare per token or per request of the measured lengths, not of the planned ones",
        )
    forced = "ignore_eos forces" if _plain(e) or _api(e) == "responses" else "ignore_eos and min_tokens force"
    return invalid(
        "output_length",
        f"{message}, though {forced} it",
        "check max-model-len against the workload and that the server is vLLM",
    )


def prompt_length(e: Evidence) -> Reason | None:
    off, of = _off(e, e.requests.prompt, e.requests.target_prompt)
    if off <= MAX_LENGTH_MISMATCH * of:
        return None
    message = f"{off} of {of} prompts have another length by the server's usage than planned"
    plan = e.run.plan
    as_text = _api(e) != "completions" or _plain(e)
    if as_text and plan is not None and plan["after_seq"].notna().any():
        return warning(
            "prompt_length",
            f"{message}: later turns hold the text of real replies, whose tokens the template and the tokenizer count anew",
            "compare by the measured prompt tokens, or replay sessions over the completions API with body exact, where lengths are exact",
        )
    vocabulary = str(
        (e.run.manifest.target.get("checks") or {}).get("vocabulary", "" if e.kind in _OURS else "unverified")
    )
    if vocabulary.startswith("unverified"):
        return warning(
            "prompt_length",
            f"{message}: the words of the prompts could not be verified with this server's tokenizer",
            "compare by the measured prompt tokens",
        )
    return invalid(
        "prompt_length",
        message,
        "the tokenizer behind the prompts is another than the server's: check the model and the chat template",
    )


def _usage_against_server(e: Evidence, kind: str) -> Reason | None:
    check = e.tokens_of(kind)
    usage, server = check.usage, check.server_counter
    if usage is None or server is None or usage == server or e.kind not in _OURS:
        return None
    failed = ~e.requests.ok
    target = e.requests.target_prompt if kind == "prompt" else e.requests.target_output
    if 0 < server - usage <= int(target.data[failed].sum()):
        return None  # the server also counts what it did for requests that did not succeed
    message = f"{kind} tokens: usage says {usage}, the server's counter rose by {server}"
    if e.kind == "adopt" and server > usage:
        return unknown(
            "foreign_traffic",
            f"{message}: {server - usage} were somebody else's",
            "measure when nobody else uses the server",
        )
    return invalid(
        "token_mismatch",
        message,
        "check that /metrics belongs to the server that answers, and that no request was retried",
    )


def prompt_against_server(e: Evidence) -> Reason | None:
    return _usage_against_server(e, "prompt")


def output_against_server(e: Evidence) -> Reason | None:
    return _usage_against_server(e, "output")


def counted_against_usage(e: Evidence) -> Reason | None:
    """Request by request: two errors must not cancel in the sum."""
    r = e.requests
    both = r.ok & r.counted.present & r.output.present
    off = int((r.counted.data != r.output.data)[both].sum())
    if not off:
        return None
    message = f"{off} of {int(both.sum())} replies have another number of tokens in their chunks than in their usage"
    if e.kind not in _OURS:
        return warning(
            "token_mismatch",
            f"{message}: this API may bill tokens that it does not send (reasoning)",
            "usage is what it bills, and what the cost uses",
        )
    return invalid(
        "token_mismatch",
        message,
        "compare counted_output_tokens and output_tokens in requests.parquet, and report one such reply",
    )


def usage_missing(e: Evidence) -> Reason | None:
    r = e.requests
    lacking = int((r.ok & ~(r.output.present & r.prompt.present)).sum())
    if not lacking:
        return None
    return unknown(
        "usage_missing",
        f"{lacking} of {int(r.ok.sum())} ok requests came without usage: tokens, throughput and cost are not known",
        "the API must answer stream_options.include_usage",
    )


def server_counters_missing(e: Evidence) -> Reason | None:
    should = e.kind == "vllm" or (e.kind == "adopt" and e.run.manifest.target.get("metrics_url"))
    if not should or all(t.server_counter is not None for t in e.tokens):
        return None
    why = e.run.manifest.telemetry.get("server", "not recorded")
    version = e.run.manifest.target.get("server_version")
    lacking = missing(e.run.server, version, "prompt_tokens", "output_tokens") if names_in(e.run.server) else ""
    return unknown(
        "server_counters_missing",
        f"no server counters at both edges of the measured phase ({why}{f'; missing {lacking}' if lacking else ''}): tokens "
        "cannot be checked against the server",
        "look at /metrics of the server; it must not run with --disable-log-stats",
    )


# ---------------------------------------------------------------- the prefix cache


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
        "the words are this run's own, so that the server cannot have seen them: its cache, or what it reports of it, is not of these prompts alone"
        if e.run.manifest.environment.get("prompt_salt")
        else "the server has seen these prompts before: restart it, or have its cache emptied before each cell (reset_prefix_cache: true in its target)",
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
    """UNKNOWN where prompts may have been sent before, and neither usage nor the counters of a vLLM server tell of hits: 0 of 0 is no pass."""
    r = e.requests
    if e.kind not in _COUNTED or e.run.manifest.environment.get("prompt_salt") or not r.ok.any():
        return None
    if (r.ok & r.cached.present).any() or prefix_cache_off(e.run.manifest):
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
        "start the server with --enable-prompt-tokens-details, or give metrics_urls; shares of a plan have new words where they have a --start-at",
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
    shared = np.zeros(r.count)
    if plan is None or "prompt_seed" not in plan:
        return shared
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
            shared[row] += min(int(tokens), left)
            left -= int(tokens)
    longer = np.ones(r.count)  # where words are several tokens
    np.divide(r.prompt.data, r.target_prompt.data, out=longer, where=r.prompt.present & (r.target_prompt.data > 0))
    planned: FloatArray = shared * np.maximum(longer, 1)
    return planned


TOKEN_CHECKS = (
    output_length,
    prompt_length,
    prefix_cache,
    counted_against_usage,
    prompt_against_server,
    output_against_server,
    usage_missing,
    server_counters_missing,
)
