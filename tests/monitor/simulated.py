"""Servers whose counters are known at every moment, and monitors that read them as badly as monitors do."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from harness.base.clock import NS
from harness.records import COUNTERS, GAUGES, HISTOGRAMS, ServerReading

BOUNDS = ((0.1, 0.5, 1.0, float("inf")), (0.25, 0.5, 2.0, 5.0, float("inf")))


@dataclass
class Life:
    """One start of a server: from `begin_s` to `end_s`; `steps[model]` are (time, tokens, time to first token) of its requests."""

    begin_s: float
    end_s: float
    bounds: tuple[float, ...]
    steps: dict[tuple[str, str], list[tuple[float, int, float]]]

    def page(self, at_s: float) -> dict[tuple[str, str], tuple[float, float, tuple[float, ...]]]:
        """(model, tenant) -> output tokens, requests, buckets as they stand; a tenant is on it from its first request on."""
        found = {}
        for key, steps in self.steps.items():
            done = [step for step in steps if step[0] <= at_s]
            if done or not key[1]:
                counts = tuple(float(sum(s[2] <= le for s in done)) for le in self.bounds)
                found[key] = float(sum(s[1] for s in done)), float(len(done)), counts
        return found


@dataclass
class Server:
    name: str
    lives: list[Life]
    tells_start: bool

    def at(self, at_s: float) -> tuple[int, Life] | None:
        return next(((i, life) for i, life in enumerate(self.lives) if life.begin_s <= at_s < life.end_s), None)


@dataclass
class Monitor:
    """Reads every `interval_s`; `away`: spans in which it is not running; `skew_s`: its clock less the true one, by true time."""

    name: str
    phase_s: float
    skew_s: float
    away: list[tuple[float, float]] = field(default_factory=list)
    missed: set[tuple[str, int]] = field(default_factory=set)


def made(
    rng: random.Random, name: str, *, begin_s: float, end_s: float, restarts: int, tells_start: bool, tenants=("",)
) -> Server:
    """A server with so many restarts at random times, at least 150 s apart."""
    span = end_s - begin_s
    cuts = sorted(rng.sample(range(1, max(2, int(span // 150))), restarts))
    edges = [begin_s, *(begin_s + cut * 150 + rng.uniform(0, 20) for cut in cuts), end_s]
    lives = []
    for i, (edge, last) in enumerate(zip(edges, edges[1:], strict=False)):
        first = edge + (rng.uniform(2, 25) if i else 0)
        steps = {}
        for tenant in tenants:
            times, t = [], first
            while (t := t + rng.expovariate(0.3)) < last:
                times.append((t, rng.randint(1, 300), rng.choice((0.05, 0.3, 0.7, 3.0, 9.0))))
            steps["m", tenant] = times
        lives.append(Life(first, last, rng.choice(BOUNDS), steps))
    return Server(name, lives, tells_start)


def read(
    servers: list[Server], monitor: Monitor, begin_s: float, end_s: float, interval_s: float, t0_ns: int
) -> list[ServerReading]:
    """A monitor's rows: the last page of each minute and start, its own count of drops."""
    rows: list[ServerReading] = []
    for server in servers:
        count, last = 0, {}
        pending: dict[tuple[int, int, tuple[str, str]], ServerReading] = {}
        for tick in range(int((end_s - begin_s) / interval_s)):
            at_s = begin_s + monitor.phase_s + tick * interval_s
            found = server.at(at_s)
            if (server.name, tick) in monitor.missed or any(a <= at_s < b for a, b in monitor.away) or found is None:
                continue
            _, life = found
            page = life.page(at_s)
            if any(value[0] < last[key][0] or value[1] < last[key][1] for key, value in page.items() if key in last):
                count, last = count + 1, {}
            last |= page
            stamp = t0_ns + round((at_s + monitor.skew_s) * NS)
            for key, (tokens, requests, counts) in page.items():
                values = dict.fromkeys((*COUNTERS, *GAUGES)) | {
                    "output_tokens": tokens,
                    "requests": requests,
                    "running": 1.0,
                }
                lists = {f"{n}_{part}": () for n in HISTOGRAMS for part in ("le_s", "counts")}
                started = t0_ns + round(life.begin_s * NS) if server.tells_start else None
                pending[stamp // (60 * NS), count, key] = ServerReading(
                    read_utc_ns=stamp,
                    server=server.name,
                    model=key[0],
                    tenant=key[1],
                    pool="p",
                    monitor=monitor.name,
                    engine="vllm",
                    incarnation=count,
                    started_utc_ns=started,
                    scrapes=4,
                    missed=0,
                    **values,
                    **(lists | {"ttft_le_s": life.bounds, "ttft_counts": counts}),
                )
        rows += pending.values()
    return rows


def truth(
    server: Server, rows: list[ServerReading], t0_ns: int, skews: dict[str, float], *, zero_based: bool
) -> tuple[int, int]:
    """(tokens, requests): over its starts, the most that was read of each less what the first reading of all had."""
    best: dict[tuple[int, str], tuple[float, float]] = {}
    mine = sorted((r for r in rows if r.server == server.name), key=lambda r: r.read_utc_ns - skews[r.monitor] * NS)
    base: dict[str, tuple[float, float]] = {}
    first: tuple[int, int] | None = None
    for row in mine:
        at_s = (row.read_utc_ns - t0_ns) / NS - skews[row.monitor]
        found = server.at(at_s)
        assert found is not None
        life = found[0]
        if first is None:
            first = life, row.read_utc_ns
        if (life, row.tenant) not in best and life == first[0] and row.read_utc_ns == first[1] and not zero_based:
            base[row.tenant] = row.output_tokens or 0.0, row.requests or 0.0
        had = best.get((life, row.tenant), (0.0, 0.0))
        best[life, row.tenant] = max(had[0], row.output_tokens or 0.0), max(had[1], row.requests or 0.0)
    tokens = sum(v[0] for v in best.values()) - sum(v[0] for v in base.values())
    return round(tokens), round(sum(v[1] for v in best.values()) - sum(v[1] for v in base.values()))
