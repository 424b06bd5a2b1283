"""What each server, model and tenant served, with its part of the dollars and of what was idle.

A server's dollars are split among what it served in the window by their tokens: those of the prompt that were not in the cache, and
`ratio` of them for one of the output (the hosted price's own, else 4:1, as a run's report splits them). A machine's cost is joint, so any
split is a convention; no sum depends on it.

    busy    = requests / capacity                      seconds of a full server
    idle    = paid - busy                              its parts, in each step of the window, in this order:
    headroom  busy x (1 / headroom - 1)                what a planned replica leaves free
    shape     ceil(highest busy / headroom) - busy / headroom   whole replicas, for the busiest step
    spares    those that the pool keeps
    waste     the rest: needed in no step
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from harness.base.clock import NS
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor.steps import Steps
from harness.planner.fleet import replicas_needed
from harness.price.unit_cost import split_by_price_ratio
from harness.records.monitor import BOARD, CapacityOfRun, MonitorStep, PaidServer, ServerUsage

Span = tuple[int, int]
FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
PARTS = ("spares", "headroom", "shape", "waste")
LEAST_READ = 0.5  # a step that was read for less says nothing of how many replicas it needed


@dataclass(slots=True)
class Served:
    """One (server, model, tenant). `usage` None: the server is paid and was not read. `share`: its part of its server's paid time and
    dollars. `busy_s`: seconds of a full server; None where no capacity is used, and `idle_why`. `idle_usd`: by PARTS, None as well."""

    server: str
    pool: str
    model: str
    tenant: str
    usage: ServerUsage | None
    share: Decimal = Decimal(1)
    paid_s: float = 0.0
    usd: Decimal | None = None
    unpriced: str = ""
    input_usd_per_million: Decimal | None = None  # of the tokens that were not in the cache
    capacity_rps: float | None = None
    busy_s: float | None = None
    idle_usd: Mapping[str, Decimal] | None = None
    idle_why: str = ""
    hosted_usd: Decimal | None = None
    energy_j: float | None = None  # its part of its server's, or of its pool's boards
    machine: Mapping[str, float | None] = field(
        default_factory=dict
    )  # restarts, seconds: of the server, in all its rows

    def counter(self, name: str) -> float | None:
        """An increase in the window; None where the page does not say, or the server was not read."""
        return None if self.usage is None else self.usage.counters.get(name)

    def fresh_tokens(self) -> float:
        """Prompt tokens that were not found in the cache."""
        return max(0.0, (self.counter("prompt_tokens") or 0.0) - (self.counter("cached_tokens") or 0.0))


def served(
    spec: MonitorSpec,
    usages: Sequence[ServerUsage],
    paid: Sequence[PaidServer],
    ratios: Mapping[str, Decimal],
    used: Mapping[tuple[str, str], CapacityOfRun],
    steps: Sequence[MonitorStep],
) -> list[Served]:
    """Every row with its dollars. `ratios`: output over input price of a pool; `used`: capacity of a (pool, model)."""
    rows: dict[tuple[str, str], list[Served]] = {}
    for usage in (usage for usage in usages if not usage.server.startswith(BOARD)):
        told = usage if _says_something(usage) else None
        one = Served(usage.server, usage.pool, usage.model, usage.tenant, told)
        rows.setdefault((usage.pool, usage.server), []).append(one)
    stretches: dict[tuple[str, str], list[PaidServer]] = {}
    for one_paid in paid:
        stretches.setdefault((one_paid.pool, one_paid.server), []).append(one_paid)
    for key in stretches:
        rows.setdefault(key, [Served(key[1], key[0], "", "", None)])
    for key, mine in rows.items():
        _pay(mine, stretches.get(key, []), ratios[key[0]])
        _busy(mine, used)
    flat = [one for mine in rows.values() for one in mine]
    for pool in spec.pools:
        mine = [one for one in flat if one.pool == pool.name]
        _idle(pool, mine, [s for s in steps if s.pool == pool.name])
        _energy(mine, [usage for usage in usages if usage.pool == pool.name and usage.server.startswith(BOARD)])
    return flat


def _energy(rows: Sequence[Served], boards: Sequence[ServerUsage]) -> None:
    """A server's own counter, by its rows' shares; else the pool's boards, by paid time."""
    joules = [board.counters.get("energy_j") for board in boards]
    whole = None if not joules or None in joules else math.fsum(j or 0.0 for j in joules)
    paid_s = math.fsum(row.paid_s for row in rows)
    for row in rows:
        own = row.machine.get("energy_j")
        if own is not None:
            row.energy_j = own * float(row.share)
        elif whole is not None and paid_s > 0:
            row.energy_j = whole * row.paid_s / paid_s


def _says_something(usage: ServerUsage) -> bool:
    """Whether a page of it was read: one that nobody reached has no increase at all."""
    return any(value is not None for value in usage.counters.values())


def _pay(rows: Sequence[Served], stretches: Sequence[PaidServer], ratio: Decimal) -> None:
    weights = [Decimal(repr(row.fresh_tokens())) + ratio * Decimal(repr(row.counter("output_tokens") or 0.0)) for row in rows]  # fmt: skip
    total = sum(weights, Decimal(0))
    priced = [stretch.usd for stretch in stretches]
    whole = None if not priced or None in priced else sum((usd for usd in priced if usd is not None), Decimal(0))
    seconds = math.fsum(stretch.paid_s for stretch in stretches)
    why = next(
        (stretch.why for stretch in stretches if stretch.usd_per_hour is None), "the server is not paid for here"
    )
    for row, weight in zip(rows, weights, strict=True):
        row.share = weight / total if total else Decimal(1) / len(rows)
        row.paid_s = seconds * float(row.share)
        row.usd = None if whole is None else whole * row.share
        row.unpriced = why if whole is None else ""
        if row.usd is not None and row.paid_s > 0 and weight > 0:
            seconds_paid = Decimal(repr(row.paid_s))
            counts = row.fresh_tokens(), row.counter("output_tokens") or 0.0
            given, written = (Decimal(repr(n)) / seconds_paid for n in counts)
            hour = row.usd * 3600 / seconds_paid
            row.input_usd_per_million = split_by_price_ratio(hour, given, written, Decimal(1), ratio).input_usd
        row.machine = _machine(rows, seconds)


def _machine(rows: Sequence[Served], paid_s: float) -> dict[str, float | None]:
    """What is the server's, whatever it served: the largest of its rows'. One that was not read is a gap as long as it is paid."""
    read = [row.usage for row in rows if row.usage is not None]
    energies = [value for row in rows if (value := row.counter("energy_j")) is not None]
    return {
        "energy_j": max(energies, default=None),
        "restarts": max((usage.restarts for usage in read), default=None),
        "lost": max((usage.lost for usage in read), default=None),
        "covered_s": max((usage.covered_s for usage in read), default=0.0),
        "gap_s": max((usage.gap_s for usage in read), default=paid_s),
    }


def _busy(rows: Sequence[Served], used: Mapping[tuple[str, str], CapacityOfRun]) -> None:
    for row in rows:
        capacity, requests = used.get((row.pool, row.model)), row.counter("requests")
        row.capacity_rps = None if capacity is None else capacity.rps
        if row.usage is None:
            row.idle_why = f"{row.server} was not read"
        elif requests is None:
            row.idle_why = f"the pages of {row.server} do not count requests"
        elif capacity is not None:
            row.busy_s = requests / capacity.rps
        elif requests == 0:
            row.busy_s = 0.0
        else:
            row.idle_why = f"no capacity of {row.model} on the machine of pool {row.pool} was measured"


# ---------------------------------------------------------------- what is idle, and for what


def _idle(pool: PoolSpec, rows: Sequence[Served], steps: Sequence[MonitorStep]) -> None:
    """Each row's idle dollars by PARTS. A server that was busy beyond its capacity has none."""
    read = [row for row in rows if row.usage is not None]
    lacking = next((row.idle_why for row in read if row.busy_s is None), "" if read else "none of its servers was read")
    servers: dict[str, list[Served]] = {}
    for row in rows:
        row.idle_why = row.idle_why or lacking
        servers.setdefault(row.server, []).append(row)
    if lacking:
        return
    parts = _idle_parts(pool, steps)
    for mine in servers.values():
        seconds = math.fsum(row.paid_s for row in mine)
        if any(row.busy_s is None for row in mine) or seconds <= 0:
            continue
        idle = max(0.0, 1 - math.fsum(row.busy_s or 0.0 for row in mine) / seconds)
        for row in mine:
            if row.usd is not None:
                usd = row.usd * Decimal(repr(idle))
                row.idle_usd = {part: usd * share for part, share in parts.items()}
            else:
                row.idle_why = row.unpriced


def _idle_parts(pool: PoolSpec, steps: Sequence[MonitorStep]) -> dict[str, Decimal]:
    """Shares of the pool's idle time by PARTS, over the steps that were read; their sum is 1."""
    known = [s for s in steps if s.busy_replicas is not None and s.read_share >= LEAST_READ and s.paid_replicas > 0]
    peak = max((s.needed_replicas or 0.0 for s in known), default=0.0)
    sums = dict.fromkeys(PARTS, 0.0)
    for step in known:
        busy, seconds = step.busy_replicas or 0.0, (step.to_ns - step.from_ns) / NS
        left = max(0.0, step.paid_replicas - busy)
        wanted = {
            "headroom": busy * (1 / pool.headroom - 1),
            "shape": peak - busy / pool.headroom,
            "spares": float(pool.spares),
            "waste": math.inf,
        }
        for part, size in wanted.items():
            taken = min(left, max(0.0, size))
            sums[part] += taken * seconds
            left -= taken
    total = math.fsum(sums.values())
    if total <= 0:
        return {part: Decimal(part == "waste") for part in PARTS}
    shares = {part: Decimal(repr(sums[part] / total)) for part in PARTS[:-1]}
    return {**shares, "waste": max(Decimal(0), Decimal(1) - sum(shares.values(), Decimal(0)))}


def pool_steps(
    spec: MonitorSpec,
    steps: Steps,
    paid: Sequence[PaidServer],
    used: Mapping[tuple[str, str], CapacityOfRun],
) -> tuple[MonitorStep, ...]:
    """Every pool in each step."""
    spans = _grid(steps.spans())
    found: list[MonitorStep] = []
    for pool in spec.pools if spans else ():
        found += _of_pool(pool, steps, spans, [one for one in paid if one.pool == pool.name], used)
    return tuple(found)


def _grid(spans: Sequence[Span]) -> list[Span]:
    """Sorted steps, with those between them that nobody read: a gap is a step of which nothing is known."""
    found: list[Span] = []
    for start, end in spans:
        while found and (step := found[-1][1] - found[-1][0]) <= start - found[-1][1]:
            found.append((found[-1][1], found[-1][1] + step))
        found.append((start, end))
    return found


def _of_pool(
    pool: PoolSpec,
    steps: Steps,
    spans: Sequence[Span],
    paid: Sequence[PaidServer],
    used: Mapping[tuple[str, str], CapacityOfRun],
) -> list[MonitorStep]:
    starts, ends = np.array(spans, np.int64).T
    seconds = (ends - starts) / NS
    capacity = np.array([used[k[0], k[2]].rps if (k[0], k[2]) in used else np.nan for k in steps.keys], np.float64)
    sums, told = np.zeros((3, len(spans))), np.zeros(len(spans), dtype=np.bool_)
    read = _Read(steps, len(spans))
    for mine in steps.told_of(pool.name):
        at, requests = np.searchsorted(starts, steps.from_ns[mine]), steps.of("requests")[mine]
        with np.errstate(invalid="ignore"):
            busy = np.where(requests == 0, 0.0, requests / capacity[steps.key[mine]])
        weights = requests, steps.of("output_tokens")[mine], busy
        sums += [np.bincount(at, one, len(spans)) for one in weights]
        told[at] = True
        read.add(mine, at)
    sums[:, ~told] = np.nan
    paid_s, usd = _paid_of(paid, starts, ends)
    read_s = read.seconds()
    found = []
    for i, (start, end) in enumerate(spans):
        asked, written, full = (None if math.isnan(column[i]) else float(column[i]) for column in sums)
        replicas = None if full is None else full / float(seconds[i])
        found.append(
            MonitorStep(
                pool=pool.name, from_ns=start, to_ns=end, usd=None if math.isnan(usd[i]) else Decimal(repr(float(usd[i]))), requests=asked,
                output_tokens=written, paid_replicas=float(paid_s[i] / seconds[i]), busy_replicas=replicas,
                needed_replicas=None if replicas is None else float(replicas_needed(round(replicas, 9), 1, pool.headroom)),
                read_share=min(1.0, float(read_s[i] / paid_s[i])) if paid_s[i] else 0.0,
            )
        )  # fmt: skip
    return found


def _paid_of(paid: Sequence[PaidServer], starts: IntArray, ends: IntArray) -> tuple[FloatArray, FloatArray]:
    """Paid seconds and dollars (NaN: a price is missing) of each step."""
    paid_s, usd = np.zeros(len(starts)), np.zeros(len(starts))
    for one in paid:
        overlap = np.maximum(np.minimum(ends, one.to_ns) - np.maximum(starts, one.from_ns), 0)
        part_s = overlap * (one.paid_s / (one.to_ns - one.from_ns))
        paid_s += part_s
        price = math.nan if one.usd_per_hour is None else float(one.usd_per_hour)
        usd += np.where(overlap > 0, part_s * price / 3600, 0.0)
    return paid_s, usd


class _Read:
    """Seconds in which the servers of each step were read: of several models of one server, the longest."""

    def __init__(self, steps: Steps, count: int) -> None:
        servers: dict[str, int] = {}
        self._steps = steps
        self._server = np.array([servers.setdefault(key[1], len(servers)) for key in steps.keys], np.int64)
        self._longest = np.zeros((count, max(1, len(servers))))

    def add(self, mine: IntArray, at: IntArray) -> None:
        """Rows of `steps`, and the step that each is in."""
        np.maximum.at(self._longest, (at, self._server[self._steps.key[mine]]), self._steps.covered_s[mine])

    def seconds(self) -> FloatArray:
        read: FloatArray = self._longest.sum(axis=1)
        return read
