"""Modelled sides for a replay: a server that batches, and an API whose latencies are those of a recording."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from harness.routing.router import Served
from harness.routing.state import RouteRequest

NEVER = float("inf")


class ModelledSide(Protocol):
    """A side of a replay; time only goes forward."""

    def admit(self, request: RouteRequest, now_s: float) -> None:
        """A request arrives."""

    def next_s(self) -> float:
        """When something happens next; NEVER."""

    def ended(self, now_s: float) -> list[Served]:
        """Requests that ended up to now, with TTFT from their arrival."""

    def unfinished(self) -> float | None:
        """Requests running and waiting, as its /metrics would say; None where it has none."""

    def waiting(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Batching:
    """A server that runs up to `slots` requests at once, each a token every `step_s + step_per_request_s x running` seconds; the others
    wait in order. `first_s + prefill_s x prompt`: to the first token on an idle server, in which the others are held up as by tokens.
    """

    slots: int
    step_s: float
    step_per_request_s: float
    first_s: float
    prefill_s: float

    def highest_rps(self, prompt_tokens: float, output_tokens: float) -> float:
        """Requests/s with every slot busy; latency is without bound there."""
        work = (self.first_s + self.prefill_s * prompt_tokens) / (self.step_s + self.step_per_request_s) + output_tokens
        return self.slots / (work * (self.step_s + self.step_per_request_s * self.slots))


@dataclass(slots=True)
class _Running:
    request: RouteRequest
    arrived_s: float
    first_s: float | None = None


class _Replica:
    """Equal shares: every running request is at the same token rate, so one count of tokens, `done`, orders all of their ends."""

    def __init__(self, model: Batching) -> None:
        self._model = model
        self._now_s = self._done = 0.0
        self._events: list[tuple[float, int, int]] = []  # done at which, 0 first token or 1 end, seq
        self._running: dict[int, _Running] = {}
        self._queue: deque[_Running] = deque()

    @property
    def unfinished(self) -> int:
        return len(self._running) + len(self._queue)

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def _pace_s(self) -> float:
        """Seconds a token."""
        return self._model.step_s + self._model.step_per_request_s * len(self._running)

    def next_s(self) -> float:
        return self._now_s + (self._events[0][0] - self._done) * self._pace_s() if self._events else NEVER

    def admit(self, request: RouteRequest, now_s: float) -> None:
        if self._running:
            self._done += (now_s - self._now_s) / self._pace_s()
        self._now_s = now_s
        self._queue.append(_Running(request, now_s))
        self._fill()

    def _fill(self) -> None:
        model = self._model
        alone_s = model.step_s + model.step_per_request_s
        while self._queue and len(self._running) < model.slots:
            one = self._queue.popleft()
            seq, request = one.request.seq, one.request
            first = self._done + (model.first_s + model.prefill_s * request.prompt_tokens) / alone_s
            self._running[seq] = one
            heapq.heappush(self._events, (first, 0, seq))
            heapq.heappush(self._events, (first + max(0, request.output_tokens - 1), 1, seq))

    def step(self) -> Served | None:
        """The next event, which is due: a first token gives nothing, an end what it came to."""
        self._now_s = self.next_s()
        self._done, is_end, seq = heapq.heappop(self._events)
        if not is_end:
            self._running[seq].first_s = self._now_s
            return None
        one = self._running.pop(seq)
        self._fill()
        first_s = self._now_s if one.first_s is None else one.first_s
        gaps = one.request.output_tokens - 1
        tpot_s = (self._now_s - first_s) / gaps if gaps > 0 else None
        return Served(seq, ok=True, ttft_s=first_s - one.arrived_s, tpot_s=tpot_s)


class Servers:
    """So many replicas of a batching server, the one with the fewest requests first."""

    def __init__(self, model: Batching, replicas: int) -> None:
        self._replicas = [_Replica(model) for _ in range(replicas)]

    def admit(self, request: RouteRequest, now_s: float) -> None:
        min(self._replicas, key=lambda one: one.unfinished).admit(request, now_s)

    def next_s(self) -> float:
        return min((one.next_s() for one in self._replicas), default=NEVER)

    def ended(self, now_s: float) -> list[Served]:
        found = []
        for one in self._replicas:
            while one.next_s() <= now_s:
                if (served := one.step()) is not None:
                    found.append(served)
        return found

    def unfinished(self) -> float | None:
        return float(sum(one.unfinished for one in self._replicas))

    def waiting(self) -> float | None:
        return float(sum(one.waiting for one in self._replicas))


@dataclass(slots=True)
class Recorded:
    """A side that takes any load: its (TTFT, TPOT) in seconds are drawn from those that were recorded there."""

    latencies: Sequence[tuple[float, float]]
    seed: int
    _ends: list[tuple[float, int, float, float]] = field(default_factory=list)
    _random: Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = Random(self.seed)  # noqa: S311 - latencies to replay, not a secret

    def admit(self, request: RouteRequest, now_s: float) -> None:
        ttft_s, tpot_s = self._random.choice(self.latencies)
        end_s = now_s + ttft_s + tpot_s * max(0, request.output_tokens - 1)
        heapq.heappush(self._ends, (end_s, request.seq, ttft_s, tpot_s))

    def next_s(self) -> float:
        return self._ends[0][0] if self._ends else NEVER

    def ended(self, now_s: float) -> list[Served]:
        found = []
        while self._ends and self._ends[0][0] <= now_s:
            _, seq, ttft_s, tpot_s = heapq.heappop(self._ends)
            found.append(Served(seq, ok=True, ttft_s=ttft_s, tpot_s=tpot_s))
        return found

    def unfinished(self) -> float | None:
        return None

    def waiting(self) -> float | None:
        return None
