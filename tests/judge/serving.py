"""A serving engine whose steady state is known: the same simulation, run very long, is the truth for a short run of it.

Every reply takes a slot (or waits for one, first come first served), then its prefill, then decodes with all others at one speed: a
step takes `step_s` + `per_sequence_s` x sequences. That is the shape of continuous batching, with load-dependent TPOT and a queue.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.measure.plan.drawing import draw
from harness.records import Load
from tests.judge.run_builder import BASE_NS

COLUMNS = ("seq", "due", "sent", "first", "last", "prompt", "output")


@dataclass(frozen=True)
class Engine:
    """`slots`: sequences at once (max_num_seqs), None without a limit."""

    step_s: float = 0.02
    per_sequence_s: float = 0.0
    prefill_s_per_token: float = 0.0
    slots: int | None = None

    def capacity_rps(self, prompt_tokens: float, output_tokens: float) -> float:
        """Highest rate it can serve, for these mean lengths."""
        if self.slots is None:
            return math.inf if not self.per_sequence_s else 1 / (self.per_sequence_s * output_tokens)
        step = self.step_s + self.per_sequence_s * self.slots
        return self.slots / (prompt_tokens * self.prefill_s_per_token + output_tokens * step)


@dataclass(frozen=True)
class Offered:
    """What is offered: exactly one of `requests` and `duration_s`."""

    workload: str
    load: Load
    requests: int | None = None
    duration_s: float | None = None

    def plan(self, seed: int):
        return draw(
            self.workload, self.load, requests=self.requests, duration_s=self.duration_s, seed=seed, warmup_requests=0,
            context_limit_tokens=None,
        )[0]  # fmt: skip


def serve(engine: Engine, offered: Offered, seed: int) -> dict[str, np.ndarray]:
    """Every request sent, seconds from the start; a closed loop sends until its requests or its duration are over."""
    rows = offered.plan(seed).requests
    closed = offered.load.concurrency
    until = math.inf if closed is None or offered.duration_s is None else offered.duration_s
    due = [math.inf if r.scheduled_ns is None else r.scheduled_ns / 1e9 for r in rows]
    if closed is not None:
        due[:closed] = [0.0] * min(closed, len(rows))
    upcoming = min(closed or 0, len(rows))  # next request of a closed loop
    first, last = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
    waiting: list[int] = []
    prefilling: list[tuple[float, int]] = []
    decoding: list[tuple[float, int]] = []  # by the progress at which they end
    now = progress = 0.0
    arrive = busy = head = 0
    known = len(rows) if closed is None else upcoming
    while True:
        step = engine.step_s + engine.per_sequence_s * len(decoding)
        at_arrival = due[arrive] if arrive < known else math.inf
        at_prefill = prefilling[0][0] if prefilling else math.inf
        at_end = now + (decoding[0][0] - progress) * step if decoding else math.inf
        at = min(at_arrival, at_prefill, at_end)
        if at == math.inf:
            break
        progress += (at - now) / step
        now = at
        freed = False
        if at == at_end:
            _, i = heapq.heappop(decoding)
            last[i], freed = now, True
        elif at == at_prefill:
            _, i = heapq.heappop(prefilling)
            first[i] = now
            if rows[i].target_output_tokens == 1:
                last[i], freed = now, True
            else:
                heapq.heappush(decoding, (progress + rows[i].target_output_tokens - 1, i))
        else:
            waiting.append(arrive)
            arrive += 1
        if freed:
            busy -= 1
            if closed is not None and known < len(rows) and now < until:
                due[known] = now
                known += 1
        while head < len(waiting) and (engine.slots is None or busy < engine.slots):
            i, head, busy = waiting[head], head + 1, busy + 1
            heapq.heappush(prefilling, (now + rows[i].target_prompt_tokens * engine.prefill_s_per_token, i))
    n = known
    return {
        "due": np.array(due[:n]), "first": first[:n], "last": last[:n],
        "prompt": np.array([r.target_prompt_tokens for r in rows[:n]]),
        "output": np.array([r.target_output_tokens for r in rows[:n]]),
    }  # fmt: skip


def frame(served: dict[str, np.ndarray], load: Load) -> pd.DataFrame:
    """As the store's reader gives the rows of a run; replies in two chunks, their first token and the rest."""
    n = len(served["due"])
    stamp = {name: BASE_NS + np.round(served[name] * 1e9).astype(np.int64) for name in ("due", "first", "last")}
    output = served["output"]
    whole = {
        name: pd.array(values, dtype="Int64") for name, values in (("prompt", served["prompt"]), ("output", output))
    }
    chunk_ns, chunk_tokens = np.empty(n, object), np.empty(n, object)
    for i in range(n):
        both = output[i] > 1
        chunk_ns[i] = np.array([stamp["first"][i], stamp["last"][i]][: 1 + both])
        chunk_tokens[i] = np.array([1, output[i] - 1][: 1 + both])
    none = pd.array([None] * n, dtype="Int64")
    return pd.DataFrame(
        {
            "request_id": [f"r{i}" for i in range(n)], "seq": pd.array(range(n), dtype="Int64"), "phase": "measure",
            "session_id": none, "target_prompt_tokens": whole["prompt"], "target_output_tokens": whole["output"],
            "scheduled_ns": none if load.concurrency else pd.array(stamp["due"], dtype="Int64"),
            "due_ns": pd.array(stamp["due"], dtype="Int64"), "sent_ns": pd.array(stamp["due"], dtype="Int64"),
            "first_byte_ns": pd.array(stamp["first"], dtype="Int64"), "first_token_ns": pd.array(stamp["first"], dtype="Int64"),
            "last_token_ns": pd.array(stamp["last"], dtype="Int64"), "ended_ns": pd.array(stamp["last"], dtype="Int64"),
            "chunk_ns": chunk_ns, "chunk_tokens": chunk_tokens, "prompt_tokens": whole["prompt"],
            "cached_prompt_tokens": pd.array([0] * n, dtype="Int64"), "output_tokens": whole["output"],
            "reasoning_tokens": pd.array([0] * n, dtype="Int64"), "counted_output_tokens": whole["output"],
            "merged_reads": pd.array([0] * n, dtype="Int64"), "reads": whole["output"], "outcome": "ok",
        }
    )  # fmt: skip
