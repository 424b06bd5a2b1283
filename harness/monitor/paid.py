"""What the servers' machines cost: paid hours, not busy ones, each at the price that was in force on its day.

A server that a config lists is paid for the whole window, read or not; one that was discovered as long as it was there, from its first
to its last reading, gaps in.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from urllib.parse import urlsplit

import numpy as np

from harness.base.clock import DAY_NS, NS, utc_of
from harness.base.errors import ConfigError
from harness.config.monitor import MonitorSpec, PoolSpec
from harness.monitor.steps import Steps, steps_of
from harness.price.prices import DECLARE, declared, instance_price, machine_staleness
from harness.records import Hardware
from harness.records.monitor import BOARD, PaidServer, ServerUsage

Span = tuple[int, int]


def days(from_ns: int, to_ns: int) -> Iterator[Span]:
    """[from_ns, to_ns) cut at every midnight of UTC."""
    while from_ns < to_ns:
        end = min(to_ns, (from_ns // DAY_NS + 1) * DAY_NS)
        yield from_ns, end
        from_ns = end


def server_of(url: str) -> str:
    """`host:port` of a metrics page, as readings name their server."""
    return urlsplit(url if "//" in url else f"//{url}").netloc.rpartition("@")[2]


@lru_cache(maxsize=4096)
def _instance_on(name: str, day: str) -> Hardware:
    return instance_price(name, datetime.fromisoformat(day).replace(tzinfo=UTC))


def hardware_on(pool: PoolSpec, at: datetime) -> Hardware:
    """The price of a machine of the pool in force on the day of `at`. Raises ConfigError: none is declared, or not for such a machine."""
    if pool.hardware is None:
        raise ConfigError("no price of the machine is declared", pool.name, f"{DECLARE}: hardware: of the pool")
    if isinstance(pool.hardware, str):
        return _instance_on(pool.hardware, at.astimezone(UTC).date().isoformat())
    return declared(pool.hardware)


def paid_servers(
    spec: MonitorSpec,
    usages: Sequence[ServerUsage],
    from_ns: int,
    to_ns: int,
    steps: Sequence[ServerUsage] | Steps = (),
) -> tuple[PaidServer, ...]:
    """Every server's paid stretches in [from_ns, to_ns), each at one price.

    `steps`: the same usage cut into steps, which say when a discovered server was there; without them only how long it was is known. A
    price that cannot be found is None, and `why`.
    """
    cut = steps_of(steps or usages)
    found: list[PaidServer] = []
    for pool in spec.pools:
        listed = dict.fromkeys(server_of(url) for url in pool.servers)
        sharing = _sharing(list(listed), pool.servers_per_machine)
        whole = {(from_ns, to_ns): (to_ns - from_ns) / NS}
        alike = {on: _stretches(pool, "", whole, on) for on in set(sharing.values())}  # paid for all the time
        found += [replace(one, server=server) for server in listed for one in alike[sharing[server]]]
        seen = {key[1] for key in cut.keys if key[0] == pool.name and not key[1].startswith(BOARD)}
        for server, pieces in _there(pool.name, seen - set(listed), cut).items():
            found += _stretches(pool, server, pieces, pool.servers_per_machine)
    return tuple(found)


def _there(pool: str, servers: Collection[str], steps: Steps) -> dict[str, dict[Span, float]]:
    """When each of these servers of a pool was there: steps that follow each other in a day are one piece, with the seconds that it was there."""
    found: dict[str, dict[Span, float]] = {}
    codes = [at for at, key in enumerate(steps.keys) if key[0] == pool and key[1] in servers]
    mine = np.flatnonzero(np.isin(steps.key, codes))
    order = mine[np.lexsort((-steps.there_s[mine], steps.from_ns[mine]))]
    last: dict[str, Span] = {}
    for key, start, end, there_s in zip(
        steps.key[order].tolist(), steps.from_ns[order].tolist(), steps.to_ns[order].tolist(), steps.there_s[order].tolist(), strict=True
    ):  # fmt: skip
        server = steps.keys[key][1]
        before = last.get(server)
        if there_s <= 0 or (before is not None and start < before[1]):
            continue  # another model of the same server in this step
        pieces = found.setdefault(server, {})
        if before is not None and before[1] == start and before[0] // DAY_NS == start // DAY_NS:
            there_s += pieces.pop(before)  # noqa: PLW2901
            start = before[0]  # noqa: PLW2901
        last[server] = start, end
        pieces[last[server]] = there_s
    return found


def _sharing(listed: Sequence[str], each: int) -> dict[str, int]:
    """Servers on the machine of each listed one: those beside each other in the list; the last machine may have fewer."""
    groups = (listed[at : at + each] for at in range(0, len(listed), each))
    return {server: len(group) for group in groups for server in group}


def _stretches(pool: PoolSpec, server: str, pieces: Mapping[Span, float], on_machine: int) -> list[PaidServer]:
    """Pieces of time, in which it was there for so many seconds; those that follow each other at one price are one stretch."""
    found: list[PaidServer] = []
    for (start, end), there_s in sorted(pieces.items()):
        for day_start, day_end in days(start, end) if there_s > 0 else ():
            share = (day_end - day_start) / (end - start)
            one = _priced(pool, server, (day_start, day_end), there_s * share, on_machine)
            last = found[-1] if found else None
            if last and (last.to_ns, last.usd_per_hour, last.price, last.why) == (day_start, one.usd_per_hour, one.price, one.why):  # fmt: skip
                found[-1] = replace(last, to_ns=day_end, paid_s=last.paid_s + one.paid_s)
            else:
                found.append(one)
    return found


def _priced(pool: PoolSpec, server: str, span: Span, paid_s: float, on_machine: int) -> PaidServer:
    free = PaidServer(
        server=server, pool=pool.name, paid_s=paid_s, usd_per_hour=None, price="", from_ns=span[0], to_ns=span[1],
        on_machine=on_machine,
    )  # fmt: skip
    try:
        hardware = hardware_on(pool, utc_of(span[0]))
    except ConfigError as error:
        return replace(free, why=f"{error.what}: {error.value}; {error.advice}")
    shared = f", shared by {on_machine} servers" if on_machine > 1 else ""
    return replace(
        free,
        usd_per_hour=Decimal(hardware.usd_per_hour) / on_machine,
        price=f"{hardware.name} at {hardware.usd_per_hour} $/h{shared}; {hardware.source}, {hardware.as_of}",
        machine=hardware.name,
        source=hardware.source,
        as_of=hardware.as_of,
    )


def price_warnings(spec: MonitorSpec, at: datetime) -> list[str]:
    """A line for each pool whose machine's price is too old on the day of `at`, or later than it."""
    found = []
    for pool in spec.pools:
        try:
            stale = machine_staleness(hardware_on(pool, at), at)
        except ConfigError:
            continue  # told where the dollars are missing
        if stale:
            found.append(f"pool {pool.name}: {stale.replace('the run', 'the window')}")
    return found
