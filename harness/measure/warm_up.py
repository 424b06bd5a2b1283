"""How a server is warmed up before it is measured: at the cell's own load, until its log stops to tell of compilations.

A closed loop gets rounds of at least 2 requests a slot, at the cell's own concurrency. An open loop has rate x E2EL requests in
flight (Little's law); its first round is the plan's few requests, and each later one as many as the one before showed to be needed.
The plan's own warm-up requests come first; those that follow have shapes of the measured plan and prompts of their own, so neither the
plan nor its digest depends on how long the warm-up took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from harness.base import clock
from harness.measure.plan.rows import prompt_seeds
from harness.measure.targets.server.jit_log import JitWatch
from harness.records import DriveReport, Load, Plan, PlannedRequest

ROUNDS = 5  # at most; a server that still compiles then is measured, and the lines in the window make the run UNKNOWN
PER_SLOT = 2
NEAR = 1.25  # an open loop's requests in flight are known this well: near its capacity each round would show a few more
MOST_IN_FLIGHT = 1024  # of an open loop: what vLLM runs at once by default on the largest GPUs
_SLOTS = 4  # of an open loop's first round, when its E2EL is not known
_HOSTED_SLOTS = 8
_SERVERS = ("vllm", "adopt")  # elsewhere a warm-up costs money, or batches are measured from end to end


@dataclass(slots=True)
class WarmUp:
    """`rounds`: requests and slots of each round. `jit_lines`: seen in each of them."""

    rounds: list[tuple[int, int]] = field(default_factory=list)
    jit_lines: list[int] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)

    def note(self, requests: int, slots: int, jit_lines: int, done: DriveReport) -> None:
        started_ns = self.report.get("started_ns", done.started_ns)
        self.rounds.append((requests, slots))
        self.jit_lines.append(jit_lines)
        self.report = asdict(replace(done, started_ns=started_ns))


def in_flight(plan: Plan, done: DriveReport, requests: int, slots: int) -> int:
    """Requests at once of the plan's load: its concurrency, else rate x E2EL by the round that just ended (E2EL = time x slots /
    requests, as slots were never empty); all that is measured where that is less, and where there is no rate (a batch)."""
    if plan.load.concurrency is not None:
        return plan.load.concurrency
    most = min(MOST_IN_FLIGHT, len(plan.requests))
    if plan.load.rate_rps is None:
        return most
    e2el_s = (done.ended_ns - done.started_ns) / clock.NS * min(slots, requests) / requests
    return min(most, max(1, math.ceil(plan.load.rate_rps * e2el_s)))


def warm_up(
    plan: Plan, kind: str, watch: JitWatch, send: Callable[[Sequence[PlannedRequest], Load], DriveReport | None]
) -> WarmUp:
    """Rounds of `send`, until one was at the cell's load and saw no JIT line, at most ROUNDS; None from `send` ends it.

    A plan without warm-up requests gets none. A target of another kind than a vLLM server gets the plan's own, once; a hosted API
    the first of them alone.
    """
    made = WarmUp()
    if not plan.warmup:
        return made
    concurrency = plan.load.concurrency
    if kind not in _SERVERS:
        slots = min(concurrency or _SLOTS, _HOSTED_SLOTS)
        alone = 1 if kind == "hosted" else 0  # a key that is refused is refused once
        for requests, at_once in ((plan.warmup[:alone], 1), (plan.warmup[alone:], slots)):
            if requests and (done := send(requests, Load(concurrency=at_once))) is not None:
                made.note(len(requests), at_once, 0, done)
        return made
    most = (
        PER_SLOT * concurrency if concurrency else len(plan.requests)
    )  # of a round; more than is measured would be no warm-up
    slots = concurrency or _SLOTS
    wanted, sent = PER_SLOT * concurrency if concurrency else 1, 0
    while len(made.rounds) < ROUNDS:
        requests = _requests(plan, sent, max(wanted, len(plan.warmup)))
        sent += len(requests)
        before = watch.look()
        if (done := send(requests, Load(concurrency=slots))) is None:
            break
        lines = watch.look() - before
        made.note(len(requests), slots, lines, done)
        needed = in_flight(plan, done, len(requests), slots)
        wanted = min(PER_SLOT * needed, most)
        enough = needed <= NEAR * slots and len(requests) >= min(wanted, PER_SLOT * slots)
        if done.stop_reason != "done" or (not lines and enough):
            break
        slots = max(slots, needed)
    return made


def _requests(plan: Plan, sent: int, count: int) -> tuple[PlannedRequest, ...]:
    """Warm-up requests number `sent` and on: the plan's own, then shapes of the measured plan, evenly spread over it."""
    own = plan.warmup[sent : sent + count]
    first = sent + len(own)
    seqs = np.arange(-1 - first, -1 - first - (count - len(own)), -1)
    seeds = prompt_seeds(plan.seed, seqs, plan.salt).tolist()
    step = max(1, len(plan.requests) // max(1, count))
    prefix = plan.warmup[0].prefix  # of a shared system prompt: that of the warm-up, not the measured one
    more = (
        PlannedRequest(seq, None, shape.target_prompt_tokens, shape.target_output_tokens, None, seed, prefix)
        for i, (seq, seed) in enumerate(zip(seqs.tolist(), seeds, strict=True))
        for shape in (plan.requests[(i * step) % len(plan.requests)],)
    )
    return (*own, *more)
