"""A view of any period, out of a monitor's store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.base.clock import HOUR_NS, NS, utc_of
from harness.base.errors import StoreError
from harness.config.monitor import MonitorSpec
from harness.monitor.capacity import MeasuredModel, measured_models
from harness.monitor.paid import paid_servers
from harness.monitor.view import view
from harness.monitor.window import hourly, window
from harness.records import MonitorView
from harness.store import readings
from harness.store.readings import hour_of
from harness.store.root import open_root

_AT = "%Y-%m-%dT%H:%M:%SZ"
_LATE_NS = 300 * NS  # a first reading so long after the begin is no gap


def period(
    spec: MonitorSpec,
    from_ns: int,
    to_ns: int,
    measured: Sequence[MeasuredModel] | None = None,
    *,
    since_first: bool = False,
) -> MonitorView:
    """What [from_ns, to_ns) came to, by the hour. `measured`: capacities that are known already, else those of the runs in spec.results.
    `since_first`: not before the first reading there is; else what is paid before it is in, and that is said.

    Raises StoreError: nothing was read in this period, or the store cannot be listed; ConfigError: a price that is not known.
    """
    root = open_root(spec.store)
    first = readings.first_stamp(root)
    late = first is not None and first - from_ns > _LATE_NS
    if since_first and first is not None and late:
        from_ns = min(first, to_ns)
    read_ns = (
        hour_of(from_ns) if first is not None and hour_of(from_ns) == hour_of(first) else from_ns
    )  # nothing is before the first
    whole = window(root, read_ns, to_ns, spec.interval_s)
    if not whole.usages:
        told = f"{root.shown}: {utc_of(from_ns):{_AT}} to {utc_of(to_ns):{_AT}}"
        since = "there is no reading at all" if first is None else f"the first reading is of {utc_of(first):{_AT}}"
        raise StoreError("nothing was read in this period", told, f"{since}; `harness monitor CONFIG` stores them")
    steps = hourly(root, read_ns, to_ns, spec.interval_s)
    known = measured_models(spec.results, [usage.model for usage in whole.usages]) if measured is None else measured
    paid = paid_servers(spec, whole.usages, from_ns, to_ns, steps)
    seen = view(spec, whole.usages, paid, from_ns=from_ns, to_ns=to_ns, steps=steps, measured=known)
    before = [_unread(from_ns, first)] if first is not None and late and not since_first else []
    return replace(seen, warnings=tuple(dict.fromkeys((*before, *whole.warnings, *seen.warnings))))


def _unread(from_ns: int, first: int) -> str:
    return (
        f"nothing was read before {utc_of(first):{_AT}}: what was served in the first {(first - from_ns) / HOUR_NS:.4g} h of this period is not "
        "known, what listed servers cost in them is in; begin with the first reading for dollars a token"
    )
