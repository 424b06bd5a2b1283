"""Readings' usages and paid hours as one view: every figure of everything, each pool, model, server and tenant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from harness.base.clock import NS, utc_of
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor import capacity as capacity_of
from harness.monitor import hosted
from harness.monitor.advice import advices
from harness.monitor.evidence import Evidence
from harness.monitor.lines import Group, group_of, slo_of
from harness.monitor.paid import price_warnings
from harness.monitor.served import Served, pool_steps, served
from harness.monitor.steps import Steps, steps_of
from harness.records.monitor import (
    CapacityOfRun,
    MonitorGroup,
    MonitorPart,
    MonitorStep,
    MonitorView,
    PaidServer,
    ServerUsage,
)

UNREAD = "(not read)"
_MOST_NAMED = 5


def view(
    spec: MonitorSpec,
    usages: Sequence[ServerUsage],
    paid: Sequence[PaidServer],
    *,
    from_ns: int,
    to_ns: int,
    steps: Sequence[ServerUsage] | Steps = (),
    measured: Sequence[capacity_of.MeasuredModel] = (),
    most_whole: int | None = None,
    advised: bool = True,
) -> MonitorView:
    """What a window came to. `steps`: the same usage cut into equal steps (hours), for what is idle when and for advice; without it the
    window is one step. `measured`: from `capacity.measured_models`. `most_whole`: a kind of which there are more groups has headlines alone;
    with 0 there are no groups. `advised`: whether it has advice. Raises ConfigError: a hosted price that is not known."""
    at = utc_of(to_ns)
    capacities = capacity_of.capacities(spec, usages, measured, at)
    used = capacity_of.used(capacities)
    columns = steps_of(steps or usages)
    cut = pool_steps(spec, columns, paid, used)
    ratios = {pool.name: hosted.ratio_of(pool, at) for pool in spec.pools}
    rows = served(spec, usages, paid, ratios, used, cut)
    seconds = (to_ns - from_ns) / NS
    pools = {pool.name: _of_pool(pool, rows, cut, used, seconds, at) for pool in spec.pools}
    groups = _lines(_groups(spec, rows, seconds, pools), most_whole)
    offers = {name: one.offers for name, one in pools.items()}
    seen = Evidence(spec, rows, columns, cut, used, offers, from_ns, to_ns) if advised else None
    promise = slo_of(spec.pools)
    return MonitorView(
        name=spec.name,
        from_ns=from_ns,
        to_ns=to_ns,
        groups=groups,
        paid=tuple(paid),
        capacities=capacities,
        advice=advices(seen) if seen else (),
        slo={} if promise is None else {**promise.limits, "attainment": promise.attainment},
        warnings=tuple(_warnings(spec, rows, capacities, measured, at)),
        steps=cut,
        parts=tuple(
            MonitorPart(server=row.server, pool=row.pool, model=row.model, tenant=row.tenant, share=row.share)
            for row in rows
        ),
    )


def _lines(groups: Sequence[Group], most_whole: int | None) -> tuple[MonitorGroup, ...]:
    if most_whole is None:
        return tuple(group_of(group) for group in groups)
    counts = Counter(group.kind for group in groups)
    return tuple(group_of(group, brief=counts[group.kind] > most_whole) for group in groups if most_whole)


@dataclass(frozen=True, slots=True)
class _Pool:
    """What hosted APIs ask for a pool's tokens, the cheapest first, and how far it is from break-even; or why that is not known."""

    offers: Sequence[hosted.HostedOffer] = ()
    distance: hosted.Distance | None = None
    why: str = ""


def _of_pool(
    pool: PoolSpec,
    rows: Sequence[Served],
    steps: Sequence[MonitorStep],
    used: Mapping[tuple[str, str], CapacityOfRun],
    seconds: float,
    at: datetime,
) -> _Pool:
    """Each row is billed at the pool's cheapest offer."""
    if not pool.hosted:
        return _Pool(why=f"pool {pool.name} names no hosted API")
    mine = [row for row in rows if row.pool == pool.name]
    of = hosted.totals(mine)
    if isinstance(of, str):
        return _Pool(why=of.removeprefix("not known: "))
    offers = hosted.offers(pool, of, at)
    for row in mine:
        own = hosted.totals([row])
        row.hosted_usd = Decimal(0) if isinstance(own, str) else hosted.offers(pool, own, at, only=offers[0].ref)[0].usd
    usd = [row.usd for row in mine]
    if not of.requests or None in usd:
        why = "no request ended" if not of.requests else next(row.unpriced for row in mine if row.usd is None)
        return _Pool(offers, hosted.Distance(None, f"not known: {why}"))
    whole, paid_s = sum((u for u in usd if u is not None), Decimal(0)), sum(row.paid_s for row in mine)
    models = {row.model for row in mine if row.counter("requests")}
    capacity = used.get((pool.name, next(iter(models)))) if len(models) == 1 else None
    return _Pool(
        offers,
        hosted.break_even(
            pool,
            offers[0].usd / of.requests,
            whole * 3600 / Decimal(repr(paid_s)),
            of.requests / seconds,
            whole * 3600 / Decimal(repr(seconds)),
            capacity,
            steps,
        ),
    )


def _groups(spec: MonitorSpec, rows: Sequence[Served], seconds: float, pools: Mapping[str, _Pool]) -> list[Group]:
    """All, then each pool, model, server and, where there is one, tenant, by name."""
    keys: dict[str, dict[str, list[Served]]] = {
        "all": {"all": list(rows)}, "pool": {}, "model": {}, "server": {}, "tenant": {},
    }  # fmt: skip
    tenants = any(row.tenant for row in rows)
    for row in rows:
        nobody = UNREAD if row.usage is None else ""
        keys["pool"].setdefault(row.pool, []).append(row)
        keys["model"].setdefault(row.model or nobody or "(unnamed)", []).append(row)
        keys["server"].setdefault(row.server, []).append(row)
        if tenants:
            keys["tenant"].setdefault(row.tenant or nobody or "(none)", []).append(row)
    found = []
    for kind, names in keys.items():
        for name, mine in sorted(names.items()):
            of = {row.pool for row in mine}
            pool = pools[next(iter(of))] if len(of) == 1 else _Pool(why="see its pools")
            whole = kind == "pool" or (kind == "all" and len(of) == 1)
            lacking = next((pools[name].why for name in sorted(of) if pools[name].why), "")
            found.append(
                Group(kind, name, mine, spec, seconds, offers=pool.offers if whole else (), distance=pool.distance if whole else None, hosted_why=lacking)
            )  # fmt: skip
    return found


def _warnings(
    spec: MonitorSpec,
    rows: Sequence[Served],
    capacities: Sequence[CapacityOfRun],
    measured: Sequence[capacity_of.MeasuredModel],
    at: datetime,
) -> list[str]:
    found = price_warnings(spec, at)
    unread = sorted({row.server for row in rows if row.usage is None})
    if unread:
        found.append(
            f"paid and not read in this window: {_named(unread)}: their dollars are in, what they served is not known"
        )
    lost = {row.server: row.machine.get("lost") or 0 for row in rows}
    if any(lost.values()):
        told = _named(sorted(name for name, count in lost.items() if count))
        found.append(
            f"restarts whose last counts were not read ({told}): what was served between the last reading and the restart is missing"
        )
    for pool in spec.pools:
        models = sorted({row.model for row in rows if row.pool == pool.name and row.counter("requests")})
        for model in models:
            mine = [one for one in capacities if (one.pool, one.model) == (pool.name, model)]
            if any(one.used for one in mine):
                continue
            tried = next((one.problems for one in measured if one.model == model), ())
            why = [f"{_named(one.run_ids)}: {one.rps:.4g} requests/s, not used: {one.why}" for one in mine] or list(
                tried
            )
            told = "; ".join(why[:_MOST_NAMED]) or "no run or search of it is in the results"
            found.append(f"no capacity of {model} in pool {pool.name}: {told}")
    return found


def _named(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
