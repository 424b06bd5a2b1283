"""FOCUS rows of a monitor's window: machine hours and their dollars, by day, server, model and tenant; they sum to what was paid."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal

from harness.base.clock import DAY_NS, utc_of
from harness.planner.focus import EstimatedCharge, focus_rows
from harness.records import MonitorPart, MonitorView, PaidServer

UNREAD = "(not read)"


def charges(view: MonitorView) -> list[EstimatedCharge]:
    """One a day, server, model and tenant; stretches without a price have none. Quantities are hours of the machine: a server of two on
    one machine has half an hour of it in an hour. A split by tokens stands in the split-cost columns."""
    parts: dict[tuple[str, str], list[MonitorPart]] = {}
    for part in view.parts:
        parts.setdefault((part.pool, part.server), []).append(part)
    return [
        _charge(paid, part, start, end, len(mine) > 1)
        for paid in view.paid
        if paid.usd_per_hour is not None
        for mine in [parts.get((paid.pool, paid.server), [])]
        for start, end in _days(paid.from_ns, paid.to_ns)
        for part in mine
    ]


def _days(from_ns: int, to_ns: int) -> Iterator[tuple[int, int]]:
    while from_ns < to_ns:
        end = min(to_ns, (from_ns // DAY_NS + 1) * DAY_NS)
        yield from_ns, end
        from_ns = end


def _charge(paid: PaidServer, part: MonitorPart, start: int, end: int, split: bool) -> EstimatedCharge:
    of_stretch = Decimal(end - start) / Decimal(paid.to_ns - paid.from_ns) * part.share
    hours = Decimal(repr(paid.paid_s)) / 3600 / paid.on_machine * of_stretch
    tags = {"pool": paid.pool, "server": paid.server, **({"tenant": part.tenant} if part.tenant else {})}
    return EstimatedCharge(
        model=part.model or UNREAD, phase="machine", start=utc_of(start), end=utc_of(end), tokens=hours,
        usd=(paid.usd or Decimal(0)) * of_stretch, provider="self-hosted", host=paid.machine,
        method_id="x-token-weight" if split else None, ratio=part.share if split else None, price_as_of=paid.as_of,
        price_source=paid.source, unit="Hours", tags=tags,
    )  # fmt: skip


def rows(view: MonitorView) -> list[dict[str, str]]:
    """Raises ConfigError: nothing of the window has a price."""
    return focus_rows(charges(view))
