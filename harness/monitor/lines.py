"""The figures of a group of rows, each with its formula. A sum with a part that is not known is not known, and says whose part it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from harness.config.experiment import SloSpec
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor import quantiles
from harness.monitor.hosted import Distance, HostedOffer
from harness.monitor.served import PARTS, Served
from harness.price.unit_cost import MILLION, short, usd_per_served
from harness.records.monitor import HISTOGRAMS, Histogram, MonitorGroup, MonitorLine

_COUNTED = {
    "prompt_tokens": ("prompt tokens, cached ones in", "tokens"),
    "cached_tokens": ("prompt tokens from the prefix cache", "tokens"),
    "output_tokens": ("output tokens", "tokens"),
    "requests": ("requests that ended", "requests"),
    "errors": ("requests that failed", "requests"),
    "preemptions": ("preemptions for lack of KV cache", "preemptions"),
}
_LATENCY = {"ttft": "TTFT", "tpot": "TPOT", "queue": "time in the queue", "e2el": "E2EL"}
_IDLE = {
    "spares": "idle: spares",
    "headroom": "idle: headroom",
    "shape": "idle: whole replicas, for the busiest step",
    "waste": "idle: needed at no time of the window",
}
_LIMITS = {"ttft_s": "ttft", "ttft_from_schedule_s": "ttft", "tpot_s": "tpot", "e2el_s": "e2el"}

Known = tuple[float | None, str]  # a value and its formula, or None and why not


@dataclass(slots=True)
class Group:
    """Rows of one kind and name, over a window of `seconds`. `offers`, `distance`: of the one pool that all rows are of."""

    kind: str
    name: str
    rows: list[Served]
    spec: MonitorSpec
    seconds: float
    offers: Sequence[HostedOffer] = ()
    distance: Distance | None = None
    hosted_why: str = ""
    lines: list[MonitorLine] = field(default_factory=list)
    _totals: dict[str, Known] = field(default_factory=dict)
    _histograms: dict[str, Histogram] = field(default_factory=dict)

    def add(self, name: str, label: str, unit: str, known: Known) -> float | None:
        value, formula = known
        self.lines.append(MonitorLine(name=name, label=label, value=value, unit=unit, formula=formula))
        return value

    def total(self, name: str) -> Known:
        """A counter's increase over all rows that were read."""
        if name not in self._totals:
            self._totals[name] = self._total(name)
        return self._totals[name]

    def _total(self, name: str) -> Known:
        read = [row for row in self.rows if row.usage is not None]
        if not read:
            return None, "not known: no page of it was read in this window"
        if (lacking := next((row.server for row in read if row.counter(name) is None), None)) is not None:
            return None, f"not known: the pages of {lacking} do not say"
        return math.fsum(row.counter(name) or 0.0 for row in read), "increase of the servers' counters in the window"

    def histogram(self, name: str) -> Histogram:
        """One of HISTOGRAMS, of all rows that have it."""
        if name not in self._histograms:
            usages = [row.usage for row in self.rows if row.usage]
            self._histograms[name] = quantiles.merged(
                [one.histograms[name] for one in usages if name in one.histograms]
            )
        return self._histograms[name]

    def usd(self, of: Callable[[Served], Decimal | None], why: Callable[[Served], str]) -> tuple[Decimal | None, str]:
        parts = [(of(row), row) for row in self.rows]
        lacking = next((row for usd, row in parts if usd is None), None)
        if lacking is not None:
            return None, f"not known: {why(lacking) or lacking.server}"
        return sum((usd for usd, _ in parts if usd is not None), Decimal(0)), ""

    def servers(self) -> dict[tuple[str, str], Served]:
        """One row of each server."""
        return {(row.pool, row.server): row for row in self.rows}


def group_of(group: Group, *, brief: bool = False) -> MonitorGroup:
    """Every line that a group has, known or not. `brief`: what was served, dollars, utilisation, the promise and the worst percent of the
    first token and the next ones, for one of very many."""
    _served(group)
    usd = _money(group)
    _idle(group, usd, brief=brief)
    if brief:
        _latencies(group, ("ttft", "tpot"), (99,))
        _promise(group)
    else:
        _cache(group)
        _latencies(group)
        _promise(group)
        _energy(group)
        _hosted(group)
    _watch(group)
    return MonitorGroup(kind=group.kind, name=group.name, lines=tuple(group.lines))


def _over(value: Known, divisor: Known, words: str) -> Known:
    if value[0] is None or divisor[0] is None:
        return None, value[1] if value[0] is None else divisor[1]
    if divisor[0] <= 0:
        return None, f"not computed: {words} over 0"
    return value[0] / divisor[0], f"{words}: {value[0]:.6g} / {divisor[0]:.6g}"


def _served(group: Group) -> None:
    for name, (label, unit) in _COUNTED.items():
        group.add(name, label, unit, group.total(name))
    seconds: Known = group.seconds, ""
    for name, counter, label, unit in (
        ("input_tps", "prompt_tokens", "prompt tokens/s", "tokens/s"),
        ("output_tps", "output_tokens", "output tokens/s", "tokens/s"),
        ("request_rps", "requests", "requests/s", "requests/s"),
    ):
        group.add(name, label, unit, _over(group.total(counter), seconds, f"{counter} / seconds of the window"))


def _money(group: Group) -> Decimal | None:
    usd, why = group.usd(lambda row: row.usd, lambda row: row.unpriced)
    paid_s = math.fsum(row.paid_s for row in group.rows)
    hours = f"{paid_s / 3600:.6g} paid server-hours at their prices"
    group.add("usd", "paid for machines", "USD", (None, why) if usd is None else (float(usd), hours))
    per_hour = None if usd is None else usd * 3600 / Decimal(repr(group.seconds))
    told = why if per_hour is None else f"{short(usd or Decimal(0))} $ / {group.seconds / 3600:.6g} h of the window"
    group.add("usd_per_hour", "paid an hour", "USD/h", (None if per_hour is None else float(per_hour), told))
    both = group.total("prompt_tokens"), group.total("output_tokens")
    every: Known = _sum(both[0], both[1])
    for name, label, unit, counted, units in (
        ("usd_per_million_output_tokens", "per million output tokens, all cost on output", "USD/M tokens", both[1], MILLION),
        ("usd_per_million_total_tokens", "per million tokens (input + output)", "USD/M tokens", every, MILLION),
        ("usd_per_1000_requests", "per 1,000 requests", "USD/1,000 requests", group.total("requests"), Decimal(1000)),
    ):  # fmt: skip
        group.add(name, label, unit, _unit_cost(usd, why, paid_s, counted, units))
    return usd


def _sum(a: Known, b: Known) -> Known:
    return (None, a[1] if a[0] is None else b[1]) if a[0] is None or b[0] is None else (a[0] + b[0], a[1])


def _unit_cost(usd: Decimal | None, why: str, paid_s: float, served: Known, units: Decimal) -> Known:
    """`price/unit_cost.usd_per_served`, the code of a run's cost: here over the paid time itself, so at a utilisation of 1."""
    value, told = served
    if usd is None or value is None:
        return None, why or told
    if value <= 0 or paid_s <= 0:
        return None, "not computed: nothing was served in this window"
    hour, rate = usd * 3600 / Decimal(repr(paid_s)), Decimal(repr(value)) / Decimal(repr(paid_s))
    cost = usd_per_served(hour, rate, Decimal(1), units)
    return float(cost), f"{short(hour)} $ a paid hour / ({short(rate)} a paid second x 3600 s/h) x {units}"


def _idle(group: Group, usd: Decimal | None, *, brief: bool) -> None:
    lacking = next((row for row in group.rows if row.busy_s is None and row.usage is not None), None)
    busy_s = math.fsum(row.busy_s or 0.0 for row in group.rows)
    paid_s = math.fsum(row.paid_s for row in group.rows)
    capacity = math.fsum((row.capacity_rps or 0.0) * row.paid_s for row in group.rows) / group.seconds
    if lacking is not None or not any(row.usage for row in group.rows):
        used: Known = None, f"not known: {lacking.idle_why if lacking else 'no page of it was read in this window'}"
        most: Known = used
    else:
        used = _over((busy_s, ""), (paid_s, ""), "requests / capacity in s, of the paid s")
        most = (capacity, "measured capacity x paid time / window") if capacity else (None, "not known: no capacity was measured")  # fmt: skip
    group.add("utilisation", "served load over paid capacity", "share", used)
    if brief:
        return
    group.add("capacity_rps", "measured capacity of what is paid", "requests/s", most)
    idle = [group.usd(lambda row, part=part: (row.idle_usd or {}).get(part), lambda row: row.idle_why or row.unpriced) for part in PARTS]  # type: ignore[misc]  # fmt: skip
    why = next((told for value, told in idle if value is None), "")
    whole = None if why else sum((value for value, _ in idle if value is not None), Decimal(0))
    share = f"{short(usd)} $ x (1 - utilisation) of each server" if usd is not None else why
    group.add("idle_usd", "paid and not used", "USD", (None if whole is None else float(whole), why or share))
    for part, (value, _) in zip(PARTS, idle, strict=True):
        known: Known = (
            (None, why)
            if why or value is None
            else (float(value), "its part of idle_usd, by the replicas of each step")
        )
        group.add(f"idle_{part}_usd", _IDLE[part], "USD", known)


def _cache(group: Group) -> None:
    prompt, cached, output = (group.total(name) for name in ("prompt_tokens", "cached_tokens", "output_tokens"))
    group.add("prefix_hit_share", "prompt tokens found in the prefix cache", "share", _over(cached, prompt, "cached / prompt tokens"))  # fmt: skip
    saved, why = Decimal(0), "" if cached[0] is not None else cached[1]
    for row in group.rows:
        tokens = row.counter("cached_tokens") or 0.0
        if tokens and row.input_usd_per_million is None:
            why = why or f"not known: {row.unpriced or 'nothing was computed of the prompts'}"
        elif tokens:
            saved += Decimal(repr(tokens)) * (row.input_usd_per_million or 0) / MILLION
    told = "cached tokens x what a computed prompt token costs here (its part by the output:input price ratio)"
    group.add("prefix_saved_usd", "prompt work that the prefix cache saved", "USD", (None, why) if why else (float(saved), told))  # fmt: skip
    accepted, drafted = group.total("accepted_tokens"), group.total("draft_tokens")
    group.add("draft_acceptance", "speculative tokens accepted", "share", _over(accepted, drafted, "accepted / draft tokens"))  # fmt: skip
    group.add("preemption_share", "tokens computed again after preemptions", "share", _preempted(prompt, cached, output, group))  # fmt: skip


def _preempted(prompt: Known, cached: Known, output: Known, group: Group) -> Known:
    preemptions, requests = group.total("preemptions"), group.total("requests")
    values = [known[0] for known in (prompt, output, preemptions, requests)]
    if any(value is None for value in values):
        return None, next(known[1] for known in (prompt, output, preemptions, requests) if known[0] is None)
    given, written, again, ended = (value or 0.0 for value in values)
    if ended <= 0:
        return None, "not computed: no request ended"
    tokens = again * (given + written / 2) / ended
    done = max(0.0, given - (cached[0] or 0.0)) + written + tokens
    if done <= 0:
        return None, "not computed: no token was computed"
    return tokens / done, f"{again:.0f} preemptions x (mean prompt + half a mean reply) of all tokens computed"


def _latencies(group: Group, names: Sequence[str] = HISTOGRAMS, percents: Sequence[int] = (50, 90, 99)) -> None:
    for name in names:
        found = group.histogram(name)
        for q in percents:
            band = quantiles.band(found, q / 100)
            told = (
                "not known: its pages have no such histogram, or nothing was counted"
                if band is None
                else f"bounds of the bucket of the {q}th percentile of {quantiles.count(found):.0f}, as the server saw them"
            )
            for end in ("low", "high"):
                value = None if band is None else band.low_s if end == "low" else band.high_s
                word = "at least" if end == "low" else "at most"
                group.add(f"{name}_p{q}_{end}_s", f"{_LATENCY[name]} p{q}, {word}", "s", (value, told))


def slo_of(pools: Sequence[PoolSpec]) -> SloSpec | None:
    """The one promise of these pools; None where they differ or there is none."""
    promises = {pool.slo.model_dump_json() if pool.slo else "" for pool in pools}
    return pools[0].slo if len(promises) == 1 and pools else None


def _promise(group: Group) -> None:
    pools = [pool for pool in group.spec.pools if pool.name in {row.pool for row in group.rows}]
    slo = slo_of(pools)
    found: tuple[float, float] | str
    if slo is None:
        found = "no promise is declared, or several: see the pools" if any(p.slo for p in pools) else "no promise is declared: slo of the pool"  # fmt: skip
    elif "ttfvt_s" in slo.limits:
        found = "pages do not tell the first visible token"
    else:
        limits: dict[str, float] = {}
        for name, limit_s in slo.limits.items():
            limits[_LIMITS[name]] = min(limit_s, limits.get(_LIMITS[name], math.inf))
        histograms = {name: group.histogram(name) for name in limits}
        found = quantiles.attainment(histograms, limits, group.total("requests")[0], group.total("errors")[0])
    burnt = None if isinstance(found, str) or slo is None else quantiles.burn(found, slo.attainment)
    told = f"not known: {found}" if isinstance(found, str) else "requests inside every limit of those offered, by the buckets around it; as the server saw them"  # fmt: skip
    for at, end in enumerate(("low", "high")):
        word = "at least" if end == "low" else "at most"
        value = None if isinstance(found, str) else found[at]
        group.add(f"attainment_{end}", f"requests inside the promise, {word}", "share", (value, told))
    for at, end in enumerate(("low", "high")):
        word = "at least" if end == "low" else "at most"
        said = told if burnt is None or slo is None else f"(1 - attainment) / (1 - {slo.attainment:g})"
        group.add(f"budget_burn_{end}", f"use of the error budget, {word}", "x", (None if burnt is None else burnt[at], said))  # fmt: skip


def _energy(group: Group) -> None:
    energies = [row.energy_j for row in group.rows]
    energy: Known = None, "not known: no energy counter of its boards: telemetry_url or nvml of the pool"
    if energies and None not in energies:
        energy = math.fsum(joule or 0.0 for joule in energies), "energy of the boards"
    group.add("j_per_output_token", "energy of the boards per output token", "J", _over(energy, group.total("output_tokens"), "J / output tokens"))  # fmt: skip
    kwh = group.spec.usd_per_kwh
    if energy[0] is None or kwh is None:
        power: Known = None, energy[1] if energy[0] is None else "not known: usd_per_kwh is not declared"
    else:
        power = energy[0] / 3.6e6 * kwh, f"{energy[0] / 3.6e6:.6g} kWh x {kwh:g} $/kWh: beside usd, not in it"
    group.add("energy_usd", "power of the boards, beside the machines", "USD", power)


def _hosted(group: Group) -> None:
    """Servers that were not read add nothing, as in the counters."""
    bills = [row.hosted_usd for row in group.rows if row.usage]
    usd = None if not bills or None in bills else sum((bill for bill in bills if bill is not None), Decimal(0))
    told = group.hosted_why or "sum of its pools, each at its cheapest hosted price"
    if usd is not None and group.offers:
        named = [f"{o.ref.name} {short(o.usd)} $ ({short(o.cached_usd)} $ if it cached as ours did)" for o in reversed(group.offers)]  # fmt: skip
        told = f"{', '.join(named)}; {group.offers[0].assumption}"
    known: Known = (None, f"not known: {group.hosted_why or 'a pool has no hosted price'}") if usd is None else (float(usd), told)  # fmt: skip
    group.add("hosted_usd", "the same tokens hosted, at the cheapest price named", "USD", known)
    distance = group.distance or Distance(None, f"not known: {group.hosted_why or 'of each pool'}")
    group.add("break_even_rps", "rate from which own machines stay cheaper", "requests/s", (distance.rps, distance.words))  # fmt: skip


def _watch(group: Group) -> None:
    machines: list[Mapping[str, float | None]] = [row.machine for row in group.servers().values()]
    for name, key, label, unit in (
        ("watched_s", "covered_s", "server-seconds between two readings", "s"),
        ("gap_s", "gap_s", "server-seconds without a reading", "s"),
        ("restarts", "restarts", "restarts", "restarts"),
        ("lost_restarts", "lost", "restarts whose last counts were not read", "restarts"),
    ):
        values = [value for one in machines if (value := one.get(key)) is not None]
        known: Known = (math.fsum(values), "over its servers") if values else (None, "not known: no page was read")
        group.add(name, label, unit, known)
