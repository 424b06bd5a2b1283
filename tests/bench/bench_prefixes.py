"""Prefix hit ratios on a real server: `HARNESS_TRACES=FOLDER python -m tests.bench.bench_prompts --prefixes`.

Traces and presets that share prefixes are sent in the plan's order, each prompt for one output token, with the server's prefix
cache on and off. Beside each other: the ratio that the trace's own hashes give (counted here from the file, without the
harness's readers), the ratio asked of the prompts, the one achievable in whole blocks of the server, and the one by the server's
counters (vllm:prefix_cache_hits_total / vllm:prefix_cache_queries_total). Nothing may be evicted: the KV cache holds more tokens
than all cases have together.
"""

from __future__ import annotations

import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness.base import clock
from harness.measure.plan.drawing import draw
from harness.measure.plan.prefixes import hit_ratio
from harness.measure.plan.prompts import prompts
from harness.measure.targets import Target, open_target
from harness.records import Load, PlannedRequest
from tests.bench import bench_prompts

CONTEXT_TOKENS = 24_576
BLOCK_TOKENS = 32  # the least that vLLM's CPU attention takes; traces are scaled so that theirs become it
WITHIN = 0.01  # of the trace's own ratio


@dataclass(frozen=True, slots=True)
class Case:
    """`own`: token hit ratio by the source itself; None where it gives none."""

    name: str
    workload: str
    own: float | None
    requests: int | None  # None: the whole trace
    concurrency: int = 1


def own_ratio(rows: Iterable[tuple[int, list[int]]], block_tokens: int) -> float:
    """Share of the prompt tokens whose blocks stood at the beginning of an earlier row: from (prompt tokens, chained
    block hashes), in order, for a cache without limits."""
    seen: set[int] = set()
    hit = total = 0
    for prompt_tokens, hashes in rows:
        known = next((i for i, one in enumerate(hashes) if one not in seen), len(hashes))
        seen.update(hashes)
        hit += min(known * block_tokens, prompt_tokens)
        total += prompt_tokens
    return hit / total


def mooncake_rows(path: Path) -> list[tuple[int, list[int]]]:
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [(row["input_length"], row["hash_ids"]) for row in lines]


def session_rows(folder: Path) -> list[tuple[int, list[int]]]:
    """All calls, session after session: hashes are local to a file."""
    rows: list[tuple[int, list[int]]] = []
    for number, file in enumerate(sorted(folder.glob("*.json"))):
        for call in json.loads(file.read_text())["requests"]:
            rows.append((call["in"], [(number << 40) + one for one in call["hash_ids"]]))
    return rows


def write_bailian(path: Path, chats: int, seed: int) -> list[tuple[int, list[int]]]:
    """A made-up file in the format of Qwen-Bailian (its own is fetched by users): conversations that resend their whole
    context, in blocks of 16 tokens; (prompt tokens, hashes) of its rows."""
    rnd = random.Random(seed)
    open_chats: list[tuple[int, int, list[int], int]] = []  # chat, tokens so far, hashes of whole blocks, turn
    rows: list[tuple[int, list[int]]] = []
    fresh = 0
    with path.open("w") as out:
        for chat in range(chats):
            parent, context, blocks, turn = -1, 0, [], 1
            if open_chats and rnd.random() < 0.65:
                parent, context, blocks, turn = open_chats.pop(rnd.randrange(len(open_chats)))
            prompt = min(context + rnd.randint(20, 700), 8192)
            hashes = list(blocks[: prompt // 16])
            while len(hashes) < -(-prompt // 16):
                fresh += 1
                hashes.append(fresh)
            output = rnd.randint(5, 300)
            row = {"chat_id": chat, "parent_chat_id": parent, "timestamp": chat * 0.5, "input_length": prompt,
                   "output_length": output, "type": "text", "turn": turn, "hash_ids": hashes}  # fmt: skip
            out.write(json.dumps(row) + "\n")
            rows.append((prompt, hashes))
            open_chats.append((chat, prompt + output, hashes[: prompt // 16], turn + 1))
    return rows


def cases(scratch: Path, traces: Path | None) -> list[Case]:
    bailian = scratch / "bailian.jsonl"
    own = own_ratio(write_bailian(bailian, 250, 7), 16)
    found = [
        Case("Bailian's format, made up, tokens x 2", f"{bailian}?scale=2", own, None),
        Case("system prompt of 256, lengths of chat", "chat?system=256", None, 200),
        Case("long-chat (source: 0.374 unlimited)", "long-chat", None, 120),
        Case("agent, sessions in order", "agent", None, 40),
    ]
    if traces is not None:
        mooncake, weka = traces / "mooncake_conversation_first600s.jsonl", traces / "weka"
        ratio = own_ratio(mooncake_rows(mooncake), 512)
        scaled = f"{mooncake}?scale={1 / 16}"
        found = [
            Case("Mooncake 600 s, all tokens / 16", scaled, ratio, None),
            Case("Mooncake 600 s, all tokens / 16", scaled, ratio, None, 4),
            Case("sessions (WEKA), all tokens / 2", f"{weka}?scale={1 / 2}", own_ratio(session_rows(weka), 64), None),
            *found,
        ]
    return found


def requests_of(case: Case, seed: int) -> tuple[tuple[PlannedRequest, ...], int]:
    """(requests in order, each for one output token; prompts cut to the context)."""
    if case.requests is None:
        load, count = Load(arrivals="trace"), None
    else:
        load, count = Load(concurrency=1), case.requests
    limit = CONTEXT_TOKENS if case.workload in bench_prompts.SESSION_PRESETS else None
    drawn, _ = draw(case.workload, load, requests=count, duration_s=None, seed=seed, warmup_requests=0,
                         context_limit_tokens=limit)  # fmt: skip
    fit, cut, _ = bench_prompts.fitted([bench_prompts.one_token(r) for r in drawn.requests], CONTEXT_TOKENS - 1, 1)
    return fit, cut


def counters(target: Target) -> dict[str, float]:
    """The server's prefix-cache and preemption counters, summed over its engines; absent ones are 0."""
    assert target.info.metrics_url is not None
    clock.sleep(1.0)  # it counts a moment after it answered
    text = httpx.get(target.info.metrics_url, timeout=30).raise_for_status().text
    names = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total", "vllm:num_preemptions_total")
    found = dict.fromkeys(names, 0.0)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in found:
                found[sample.name] += sample.value
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    hits: float
    queries: float
    preemptions: float
    seconds: float


def measured(target: Target, case: Case, requests: tuple[PlannedRequest, ...], run_id: str) -> Measured:
    """Sends the case and reads what the server's counters gained. Every request must have been answered."""
    made = prompts(requests, target.vocabulary, "completions")
    before, began = counters(target), clock.monotonic_ns()
    rows = bench_prompts.send(target, requests, list(made), case.concurrency, run_id)
    seconds = (clock.monotonic_ns() - began) / clock.NS
    bad = [row for row in rows if row.outcome != "ok" or row.prompt_tokens != row.target_prompt_tokens]
    if bad or len(rows) != len(requests):
        raise SystemExit(f"{case.name}: {len(rows)} of {len(requests)} answered; first bad: {bad[:1]}")
    after = counters(target)
    gained = [after[name] - before[name] for name in after]
    return Measured(gained[0], gained[1], gained[2], seconds)


def main(seed: int, say: Callable[[str], None]) -> int:
    folder = os.environ.get("HARNESS_TRACES")
    failed = 0
    if not folder:
        say("HARNESS_TRACES does not name a folder of native trace files: only what can be made here")
    with tempfile.TemporaryDirectory() as scratch:
        listed = cases(Path(scratch), Path(folder) if folder else None)
        for cached in (True, False):
            spec = bench_prompts.server(CONTEXT_TOKENS, cached=cached, block_tokens=BLOCK_TOKENS, kv_gib=4)
            with open_target(spec, Path(scratch) / "server.log", lambda _: None) as target:
                failed += _table(target, listed, seed, say, cached=cached)
    return 1 if failed else 0


def _table(target: Target, listed: list[Case], seed: int, say: Callable[[str], None], *, cached: bool) -> int:
    info = target.info.cache_config
    block = int(info["block_size"])
    capacity = int(info["num_gpu_blocks"]) * block
    say(f"prefix cache {'on' if cached else 'off'}: vLLM {target.info.server_version}, embedded:tiny, "
        f"{info['num_gpu_blocks']} blocks of {block} tokens = {capacity:,} tokens of KV cache")  # fmt: skip
    say(f"{'case':<38} {'conc':>4} {'rows':>5} {'tokens':>9} {'cut':>4} {'own':>7} {'asked':>7} {'possible':>8} {'server':>7} "
        f"{'points off':>10} {'s':>6}")  # fmt: skip
    total = failed = 0
    for number, case in enumerate(listed):
        if case.concurrency > 1 and not cached:
            continue
        requests, cut = requests_of(case, seed + number)  # another seed each: cases must not know each other's prompts
        tokens = sum(r.target_prompt_tokens for r in requests)
        ratio = hit_ratio(requests, block)
        got = measured(target, case, requests, f"prefix-{number}-{int(cached)}")
        total += tokens
        server = got.hits / got.queries if got.queries else 0.0
        reference = ratio.by_block if case.own is None else case.own
        off = abs(server - (reference if cached else 0.0))
        failed += off > WITHIN or bool(got.preemptions) or (cached and got.queries != tokens)
        own = "-" if case.own is None else f"{case.own:.4f}"
        say(f"{case.name:<38} {case.concurrency:>4} {len(requests):>5,} {tokens:>9,} {cut:>4} {own:>7} {ratio.by_token:>7.4f} "
            f"{ratio.by_block:>8.4f} {server:>7.4f} {off * 100:>10.2f} {got.seconds:>6.1f}")  # fmt: skip
    room = "nothing was evicted" if total < capacity else "MORE THAN IT HOLDS: blocks may have been evicted"
    say(f"{total:,} prompt tokens in all, KV cache {capacity:,}: {room if cached else 'not used for prefixes'}")
    return failed + (cached and total >= capacity)
