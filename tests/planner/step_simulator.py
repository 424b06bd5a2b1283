"""A serving engine whose step costs are known: continuous batching, chunked prefill, Poisson arrivals, vLLM's log lines."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

T0, PREFILL, DECODE, KV = 6e-3, 22e-6, 40e-6, 16e-9  # seconds: step, prefill token, decode sequence, KV token
CACHE_TOKENS = 400_000
BUDGET, MAX_SEQS = 2048, 256


@dataclass
class Simulated:
    """What the engine did, its true costs, and its log."""

    lines: list[str] = field(default_factory=list)
    steps: int = 0
    prefill_tokens: int = 0
    decode_seqs: int = 0
    kv_tokens: int = 0
    busy_s: float = 0.0
    wall_s: float = 0.0
    requests: list[tuple[int, int]] = field(default_factory=list)
    decode_time_per_token_sum: float = 0.0  # what OpenCost v1 takes for decode time: a mean per request, summed
    prefill_time_sum: float = 0.0

    @property
    def direct_input_share(self) -> float:
        given = PREFILL * self.prefill_tokens
        return given / (given + DECODE * self.decode_seqs + KV * self.kv_tokens)

    @property
    def incremental_input_share(self) -> float:
        return PREFILL * self.prefill_tokens / self.busy_s


def simulate(prompt, output, rps, *, requests=300, seed=1, printed="step", noise=0.02) -> Simulated:
    """Serve `requests` of prompt/output lengths spread +-50 %. `printed`: step | handed_over (async scheduling)."""
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rps, requests))
    lengths = [(int(prompt * a), max(2, int(output * b))) for a, b in rng.uniform(0.5, 1.5, (requests, 2))]
    s = Simulated(requests=lengths)
    s.lines.append(
        f"(EngineCore pid=1) INFO 11-24 12:00:00 [kv_cache_utils.py:2327] GPU KV cache size: {CACHE_TOKENS:,} tokens, Maximum .."
    )
    now, nxt, running = 0.0, 0, []  # running: [prompt left, prompt, output done, output, arrived, first token]
    while nxt < requests or running:
        if not running and arrivals[nxt] > now:
            now = arrivals[nxt]
        while nxt < requests and arrivals[nxt] <= now and len(running) < MAX_SEQS:
            running.append([lengths[nxt][0], lengths[nxt][0], 0, lengths[nxt][1], arrivals[nxt], None])
            nxt += 1
        decoding = [r for r in running if r[0] == 0]
        budget, prefill, contexts, prefilled = BUDGET - len(decoding), 0, 0, []
        for r in running:
            if r[0] and budget > 0:
                chunk = min(r[0], budget)
                r[0] -= chunk
                budget, prefill, contexts = budget - chunk, prefill + chunk, contexts + 1
                prefilled.append(r)
        kv = sum(r[1] + r[2] for r in decoding)
        used = kv + sum(r[1] - r[0] for r in running if r not in decoding)
        took = T0 + PREFILL * prefill + DECODE * len(decoding) + KV * kv
        measured = took * (1 + noise * rng.standard_normal())
        now += took
        for r in decoding:
            r[2] += 1
        for r in prefilled:
            if r[0] == 0:  # the prompt's last chunk makes the first token
                r[2], r[5] = 1, now
                s.prefill_time_sum += now - r[4]
        for r in running:
            if r[2] >= r[3]:
                s.decode_time_per_token_sum += (now - r[5]) / (r[3] - 1)
        running = [r for r in running if r[2] < r[3]]
        s.steps, s.prefill_tokens, s.decode_seqs = (
            s.steps + 1,
            s.prefill_tokens + prefill,
            s.decode_seqs + len(decoding),
        )
        s.kv_tokens, s.busy_s = s.kv_tokens + kv, s.busy_s + took
        ms = measured * 1000 if printed == "step" else 0.03
        stamp = f"{12 + int(now) // 3600:02}:{int(now) // 60 % 60:02}:{int(now) % 60:02}"
        if printed == "handed_over_ms":
            stamp += f".{int(now * 1000) % 1000:03}"
        s.lines.append(
            f"(APIServer pid=9) INFO 11-24 {stamp} [loggers.py:199] Engine 000: Iteration({s.steps}): {contexts} context requests, "
            f"{prefill} context tokens, {len(decoding)} generation requests, {len(decoding)} generation tokens, "
            f"iteration elapsed time: {ms:.2f} ms, GPU KV cache usage: {100 * used / CACHE_TOKENS:.1f}%"
        )
    s.wall_s = now
    return s
