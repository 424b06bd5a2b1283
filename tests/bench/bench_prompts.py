"""Exact prompts and shared prefixes on a real server: `python -m tests.bench.bench_prompts [--prefixes]`.

Without `--prefixes`: prompts of every preset, as token ids, as text and through the chat API, each sent for one output token
to a real tiny vLLM server without a prefix cache; the planned prompt length must be the one that the server's usage says, and
the one that its /tokenize counts. With `--prefixes`: traces and presets that share prefixes, sent in the plan's order, with
the server's prefix cache on and off; what its own counters say against what the trace's hashes say.
Only lengths above the server's context are cut (said in the table); outputs are one token each, since prefill is what counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import httpx

from harness.base import clock
from harness.config.target import TargetSpec
from harness.measure.drive.driver import drive
from harness.measure.job import Job
from harness.measure.plan.drawing import draw
from harness.measure.plan.preset import presets
from harness.measure.plan.prompts import prompts
from harness.measure.targets import Target, open_target
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Load, Phase, PlannedRequest, Prompt, RequestRecord, Timeouts
from tests.drive.offering import Watching

NATIVE_CONTEXT = 8192  # of embedded:tiny; above it its position table is made longer (its weights are random anyway)
MODES = ("ids", "text", "chat")
SESSION_PRESETS = ("agent", "agent-128k")
LONG_TOKENS = 4096  # presets of longer prompts (on average) get a quarter of the others' number: a CPU computes them


def server(context_tokens: int, *, cached: bool, block_tokens: int | None = None, kv_gib: int = 1) -> TargetSpec:
    """The tiny model with that context, with or without a prefix cache, and 2,097,152 tokens of KV cache a GiB."""
    flags: dict[str, str | int | float | bool] = {
        "enforce_eager": True,
        "max_model_len": context_tokens,
        "max_num_seqs": 32,
        "max_num_batched_tokens": 8192,
        ("enable_prefix_caching" if cached else "no_enable_prefix_caching"): True,
    }
    if context_tokens > NATIVE_CONTEXT:
        flags["hf_overrides"] = json.dumps({"max_position_embeddings": context_tokens})
    if block_tokens is not None:
        flags["block_size"] = block_tokens
    env = {"VLLM_CPU_KVCACHE_SPACE": str(kv_gib)}
    return TargetSpec(name="tiny", kind="vllm", model="embedded:tiny", flags=flags, env=env, start_timeout_s=400)


def in_mode(target: Target, mode: str) -> Target:
    """The same server asked by token ids, by text, or through the chat API."""
    match mode:
        case "ids":
            return target
        case "text":
            return replace(target, vocabulary=replace(target.vocabulary, token_ids=None))
        case _:
            endpoint = replace(target.endpoint, api="chat")
            return replace(target, endpoint=endpoint, vocabulary=vocabulary(endpoint, read_words()))


def planned(workload: str, count: int, seed: int, context_tokens: int | None) -> tuple[PlannedRequest, ...]:
    """Measured requests of the plan, each for one output token."""
    drawn, _ = draw(
        workload, Load(concurrency=4), requests=count, duration_s=None, seed=seed, warmup_requests=0,
        context_limit_tokens=context_tokens,
    )  # fmt: skip
    return tuple(one_token(r) for r in drawn.requests)


def one_token(request: PlannedRequest) -> PlannedRequest:
    """For one output token and without its place in a session: what is sent is the same prompt."""
    return replace(request, target_output_tokens=1, scheduled_ns=None, after_seq=None, think_ns=None, session_id=None)


def fitted(
    requests: Sequence[PlannedRequest], longest: int, shortest: int
) -> tuple[tuple[PlannedRequest, ...], int, int]:
    """Prompts above `longest` cut to it and those below `shortest` raised to it; how many of each."""
    cut = sum(r.target_prompt_tokens > longest for r in requests)
    raised = sum(r.target_prompt_tokens < shortest for r in requests)
    fit = (replace(r, target_prompt_tokens=min(max(r.target_prompt_tokens, shortest), longest)) for r in requests)
    return tuple(fit), cut, raised


def send(
    target: Target, requests: Sequence[PlannedRequest], made: Sequence[Prompt], concurrency: int, run_id: str
) -> list[RequestRecord]:
    """All requests by the wire driver, in order, `concurrency` at a time; one row each."""
    rows: list[RequestRecord] = []
    with tempfile.TemporaryDirectory() as scratch:
        drive(
            Job(requests, made, Load(concurrency=concurrency), Phase.MEASURE, run_id, Path(scratch)),
            Watching(rows.extend),
            target.endpoint,
            driver="wire",
            workers=1,
            timeouts=Timeouts(),
        )
    return sorted(rows, key=lambda row: row.seq)


def tokenized(target: Target, made: Sequence[Prompt]) -> list[int]:
    """Tokens of each prompt by the server's /tokenize. Prompts of ids are sent as the words that the ids stand for, and
    must come back as those very ids (else -1)."""
    url = target.info.base_url.removesuffix("/v1") + "/tokenize"
    words = dict(zip(target.vocabulary.token_ids or (), target.vocabulary.words, strict=False))

    def count(http: httpx.Client, prompt: Prompt) -> int:
        body: dict[str, object] = {"model": target.info.model}
        if target.endpoint.api == "chat":
            body |= {"messages": [{"role": "user", "content": prompt.text}], "add_generation_prompt": True}
        else:
            text = prompt.text or "".join(f" {words[i]}" for i in prompt.token_ids or ())
            body |= {"prompt": text}
        answer = http.post(url, json=body).raise_for_status().json()
        if prompt.token_ids is not None and tuple(answer["tokens"]) != prompt.token_ids:
            return -1
        return int(answer["count"])

    with httpx.Client(timeout=120) as http, ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda prompt: count(http, prompt), made))


@dataclass(frozen=True, slots=True)
class Exactness:
    """Prompts of one preset in one mode: how many have the planned length by usage and by /tokenize."""

    preset: str
    mode: str
    prompts: int
    by_usage: int
    by_tokenize: int
    tokens: int
    longest: int
    cut: int
    raised: int
    seconds: float


def exactness(target: Target, preset: str, mode: str, count: int, seed: int, context_tokens: int) -> Exactness:
    """Sends `count` prompts of the preset and compares. `target` must be in that mode already."""
    overhead = target.vocabulary.prompt_overhead_tokens or 0 if mode == "chat" else 0
    whole = planned(preset, count, seed, context_tokens if preset in SESSION_PRESETS else None)
    requests, cut, raised = fitted(whole, context_tokens - 1, overhead + 1)
    made = list(prompts(requests, target.vocabulary, target.endpoint.api))
    before = clock.monotonic_ns()
    rows = send(target, requests, made, 8, f"exact-{preset}-{mode}")
    seconds = (clock.monotonic_ns() - before) / clock.NS
    asked = [r.target_prompt_tokens for r in requests]
    usage = sum(r.outcome == "ok" and r.prompt_tokens == r.target_prompt_tokens for r in rows)
    counted = sum(a == b for a, b in zip(asked, tokenized(target, made), strict=True))
    return Exactness(
        preset, mode, len(requests), usage, counted, sum(asked), max(asked), cut, raised, seconds
    )  # fmt: skip


def numbers(total: int, context_tokens: int) -> dict[str, int]:
    """Prompts of each preset and mode, `total` in all or a few more."""
    weight: dict[str, float] = {}
    for name in presets():
        limit = context_tokens if name in SESSION_PRESETS else None
        sample = [min(r.target_prompt_tokens, context_tokens) for r in planned(name, 256, 1, limit)]
        weight[name] = 0.25 if sum(sample) > LONG_TOKENS * len(sample) else 1.0
    unit = total / len(MODES) / sum(weight.values())
    return {name: math.ceil(unit * w) for name, w in weight.items()}


def exactness_table(total: int, context_tokens: int, seed: int, say: Callable[[str], None]) -> list[Exactness]:
    """`total` prompts over all presets and modes."""
    each = numbers(total, context_tokens)
    found: list[Exactness] = []
    with tempfile.TemporaryDirectory() as folder:
        spec = server(context_tokens, cached=False)
        with open_target(spec, Path(folder) / "server.log", lambda _: None) as target:
            modes = [(mode, in_mode(target, mode)) for mode in MODES]
            say(
                f"vLLM {target.info.server_version}, embedded:tiny, max_model_len {target.info.max_model_len}, no prefix cache, "
                f"one output token each"
            )
            say(f"{'preset':<16} {'sent as':<7} {'prompts':>7} {'usage =':>8} {'tokenize =':>10} {'tokens':>11} {'longest':>8} "
                f"{'cut':>5} {'raised':>6} {'s':>7}")  # fmt: skip
            for number, (name, count) in enumerate(each.items()):
                for place, (mode, there) in enumerate(modes):
                    row = exactness(there, name, mode, count, seed + 3 * number + place, context_tokens)
                    found.append(row)
                    say(f"{row.preset:<16} {row.mode:<7} {row.prompts:>7,} {row.by_usage:>8,} {row.by_tokenize:>10,} "
                        f"{row.tokens:>11,} {row.longest:>8,} {row.cut:>5,} {row.raised:>6,} {row.seconds:>7.1f}")  # fmt: skip
    return found


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.bench_prompts", description=__doc__)
    parser.add_argument("--prompts", type=int, default=10_000, help="prompts in all")
    parser.add_argument("--context", type=int, default=NATIVE_CONTEXT, help="the server's max_model_len")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--prefixes", action="store_true", help="prefix hit ratios instead (traces: HARNESS_TRACES)")
    given = parser.parse_args(argv)

    def say(line: str) -> None:
        print(line, flush=True)

    if given.prefixes:
        from tests.bench import bench_prefixes

        return bench_prefixes.main(given.seed, say)
    begun = clock.monotonic_ns()
    rows = exactness_table(given.prompts, given.context, given.seed, say)
    total = sum(r.prompts for r in rows)
    usage, counted = sum(r.by_usage for r in rows), sum(r.by_tokenize for r in rows)
    say(f"{total:,} prompts, {sum(r.tokens for r in rows):,} tokens: {usage:,} exact by usage, {counted:,} by /tokenize; "
        f"cut to the context {sum(r.cut for r in rows):,}, raised to what the chat template takes "
        f"{sum(r.raised for r in rows):,}; {(clock.monotonic_ns() - begun) / clock.NS:.0f} s in all")  # fmt: skip
    return 0 if usage == counted == total else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
