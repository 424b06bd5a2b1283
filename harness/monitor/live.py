"""The figures of a monitor that runs: a view for each window, made again as often as it can have changed, and the state that all faces show."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal

from harness.base import clock
from harness.base.clock import DAY_NS, HOUR_NS, NS, utc_of
from harness.base.errors import ConfigError, StoreError
from harness.config.monitor import MonitorSpec
from harness.monitor import window
from harness.monitor.adding import total
from harness.monitor.capacity import MeasuredModel, measured_apart
from harness.monitor.increase import ROW_S
from harness.monitor.paid import hardware_on, paid_servers
from harness.monitor.recent import LATE_NS, Recent
from harness.monitor.steps import Steps
from harness.monitor.view import view
from harness.monitor.watch import Watch, stop_on_signals
from harness.price.hosted import find_price
from harness.records import MonitorState, MonitorView, PriceOfPool, ServerReading, ServerUsage, ServerWatch
from harness.store import readings
from harness.store.columns import release
from harness.store.monitor_rows import Rows
from harness.store.readings import BLOCK_NS, hour_of
from harness.store.root import Root

SHORTEST_SCRAPES = 4  # a minute has as many at the usual interval; with fewer the shortest window would be noise
EVIDENCE_DAYS = 14  # what advice is seen in: two of each day of the week
LOOK_S = 30.0  # within which a dry look has asked every server twice
# How long a view stands, as long ones hardly change meanwhile: so long or this part of what it covers; and so many times as long as its
# making took of a core, which keeps all of them within a thirtieth of one, however many servers there are.
_STANDS_NS = {"1m": 0, "1h": 30 * NS, "24h": 60 * NS, "month": 60 * NS, "advice": 600 * NS}
_STANDS_SHARE = 50
_REST = {"1m": 45, "1h": 240, "24h": 480, "month": 360, "advice": 4000}
MANY_GROUPS = 50  # of one kind: from then on each has its headlines alone
_MEASURED_AGAIN_NS = HOUR_NS  # runs are read in seconds


@dataclass(frozen=True, slots=True)
class _Made:
    """A view, when it was made, and how long it stands."""

    at_ns: int
    stands_ns: int
    view: MonitorView


class Figures:
    """Makes the states of one config whose readings are stored under `root`. Not for several threads at once."""

    def __init__(self, spec: MonitorSpec, root: Root) -> None:
        self._spec, self._root = spec, root
        self._views: dict[str, _Made] = {}  # by window
        self._measured: tuple[MeasuredModel, ...] = ()
        self._measured_of: tuple[list[str], int] = ([], 0)
        self._began_ns: int | None = None
        self._first_file_ns: int | None = None
        self._history = [pool.name for pool in spec.pools if pool.prometheus]
        least_s = 2 * ROW_S if self._history else ROW_S  # a Prometheus is asked for a row a minute
        self.shortest_s = max(least_s, SHORTEST_SCRAPES * spec.interval_s)

    def state(
        self,
        now_ns: int,
        recent: Recent,
        servers: Sequence[ServerWatch],
        unstored: int = 0,
        warnings: Sequence[str] = (),
    ) -> MonitorState:
        """Raises ConfigError: a hosted price that is not known. A store that cannot be read is a warning."""
        self._began_ns = self._first(recent)
        self._measure(now_ns, recent)
        hour_ns = now_ns - HOUR_NS
        begins = {  # of the longer ones with a block, or an hour: they are summed of these
            "1m": now_ns - round(self.shortest_s * NS), "1h": hour_ns - hour_ns % BLOCK_NS, "24h": hour_of(now_ns - DAY_NS),
            "month": _month_ns(now_ns), "advice": hour_of(now_ns) - EVIDENCE_DAYS * DAY_NS,
        }  # fmt: skip
        late_ns = self._late_ns(now_ns, recent)
        views = {"1m": self._view("1m", begins.pop("1m") - late_ns, now_ns - late_ns, recent)}
        views |= {name: self._view(name, begin, now_ns, recent) for name, begin in begins.items()}
        advice = views.pop("advice").advice
        budget = self._spec.budget
        return MonitorState(
            name=self._spec.name, at_utc_ns=now_ns, views=views, servers=tuple(servers), prices=prices(self._spec, now_ns),
            advice=advice, usd_per_million_budget=_decimal(budget.usd_per_million_output_tokens),
            usd_per_month_budget=_decimal(budget.usd_per_month), unstored=unstored, warnings=(*warnings, *recent.warnings),
        )  # fmt: skip

    def _view(self, name: str, from_ns: int, now_ns: int, recent: Recent) -> MonitorView:
        """Of [from_ns, now_ns), or since the first reading there is: hours in which nobody watched would be paid for nothing."""
        made = self._views.get(name)
        if made is not None and 0 <= now_ns - made.at_ns < made.stands_ns:
            return made.view
        began_s = clock.process_cpu_s()
        from_ns = min(now_ns - NS, max(from_ns, self._began_ns or now_ns))
        shown = self.made(name, from_ns, now_ns, recent)
        release()
        if self._began_ns is not None:
            stands_ns = min(_STANDS_NS[name], (now_ns - from_ns) // _STANDS_SHARE)
            self._views[name] = _Made(
                now_ns, max(stands_ns, round(_REST[name] * (clock.process_cpu_s() - began_s) * NS)), shown
            )
        return shown

    def made(self, name: str, from_ns: int, now_ns: int, recent: Recent) -> MonitorView:
        """The view of [from_ns, now_ns), anew."""
        usages, steps, warnings = self._usages(from_ns, now_ns, recent)
        paid = paid_servers(self._spec, usages, from_ns, now_ns, steps)
        whole = 0 if name == "advice" else MANY_GROUPS
        shown = view(
            self._spec,
            usages,
            paid,
            from_ns=from_ns,
            to_ns=now_ns,
            steps=steps,
            measured=self._measured,
            most_whole=whole,
            advised=name == "advice",
        )
        return replace(shown, warnings=(*warnings, *shown.warnings))

    def _usages(
        self, from_ns: int, now_ns: int, recent: Recent
    ) -> tuple[list[ServerUsage], Sequence[ServerUsage] | Steps, tuple[str, ...]]:
        """The window's usages, the same by the hour where it has some, and what the store could not give."""
        interval_s, hour = self._spec.interval_s, hour_of(now_ns)
        if from_ns >= recent.since_ns():
            return recent.usages(from_ns, now_ns), (), ()
        now = recent.usages(hour, now_ns)
        read_ns = (
            hour_of(from_ns) if from_ns == self._began_ns else from_ns
        )  # nothing is before the first: its whole hour is in the store
        try:
            stored = window.window(self._root, read_ns, hour, interval_s)
            steps = window.hourly(self._root, read_ns, hour, interval_s, now)
        except StoreError as error:
            return total(now, from_ns, now_ns), now, (f"the store cannot be read, only this hour is in: {error.what}",)
        return total([*stored.usages, *now], from_ns, now_ns), steps, stored.warnings

    def _first(self, recent: Recent) -> int | None:
        """When the first reading was made that is there; None before any. History out of a Prometheus may come later than what is new."""
        if self._began_ns is None or self._history:
            with suppress(StoreError):
                stored = readings.first_stamp(
                    self._root
                )  # by a file's name, which may begin with its quarter of an hour
                if stored is not None and stored != self._first_file_ns:
                    rows = readings.first_after(self._root, stored)
                    self._first_file_ns = stored
                    self._began_ns = int(rows.stamps("read_utc_ns").min()) if len(rows) else stored
        return min((ns for ns in (self._began_ns, recent.first_ns()) if ns is not None), default=None)

    def _late_ns(self, now_ns: int, recent: Recent) -> int:
        """How far behind the rows out of a Prometheus are: the last minutes end with them. One that is silent for long does not count."""
        if not self._history:
            return 0
        newest = [ns for name, ns in recent.newest_ns().items() if name in self._history]
        return max((late for ns in newest if (late := now_ns - ns - 1) < LATE_NS), default=0)

    def _measure(self, now_ns: int, recent: Recent) -> None:
        """The capacities in the results, when other models are served than before, and now and then."""
        models = recent.models()
        if models != self._measured_of[0] or now_ns - self._measured_of[1] > _MEASURED_AGAIN_NS:
            self._measured = measured_apart(self._spec.results, models)
            self._measured_of = models, now_ns


def watched(spec: MonitorSpec, show: Callable[[MonitorState], bool], for_s: float | None = None) -> None:
    """Watch `spec`'s servers and `show` a state as often as they are read, until it says that is enough, `for_s` are over, Ctrl-C or
    SIGTERM; what was read is stored. `show` is called in another thread. Raises ConfigError, StoreError at the end where rows could not be
    stored, and what `show` raises."""
    _priced(spec)
    asyncio.run(_watched(Watch(spec), show, for_s))


def _priced(spec: MonitorSpec) -> None:
    """Raises ConfigError for a price that is named and not known: told before a page is read."""
    at = clock.utc_now()
    for pool in spec.pools:
        if pool.hardware is not None:
            hardware_on(pool, at)
        for ref in pool.hosted:
            find_price(ref, at)


def looked(spec: MonitorSpec) -> MonitorState:
    """What is found when every server has been asked twice, a second apart; nothing is stored. Raises ConfigError."""
    found: list[MonitorState] = []

    def show(state: MonitorState) -> bool:
        found[:] = [state]
        return bool(state.servers) and all(server.scrapes > 1 for server in state.servers)

    nowhere = f"memory://harness-monitor-{secrets.token_hex(4)}"
    watched(spec.model_copy(update={"store": nowhere, "interval_s": 1.0}), show, LOOK_S)
    return found[0]


async def _watched(watch: Watch, show: Callable[[MonitorState], bool], for_s: float | None) -> None:
    spec, loop, stop = watch.spec, asyncio.get_running_loop(), stop_on_signals()
    await asyncio.to_thread(watch.sum_what_was_left)
    recent = await asyncio.to_thread(_recent, watch)
    figures = Figures(spec, watch.root)
    # by figures that are thrown away, for these have seen no reading: what is imported late is not what a view costs
    await asyncio.to_thread(Figures(spec, watch.root).state, watch.now_ns(), recent, ())
    watching = asyncio.create_task(watch.until(stop))
    watching.add_done_callback(lambda _: stop.set())
    end_s = loop.time() + for_s if for_s is not None else math.inf

    def made(
        closed: Sequence[Rows[ServerReading]], fresh: Sequence[ServerReading], servers: Sequence[ServerWatch]
    ) -> bool:
        with watch.one_at_a_time:
            now_ns = watch.now_ns()
            recent.add(closed, fresh, now_ns, 2 * figures.shortest_s)
            state = figures.state(now_ns, recent, servers, watch.unstored, watch.warnings)
        return show(state)

    pause_s, last, asked_ns = min(1.0, spec.interval_s), None, -1
    try:
        while not stop.is_set() and loop.time() < end_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(pause_s, end_s - loop.time()))
            closed = _after(watch.recent, last)
            last = watch.recent[-1] if watch.recent else last
            fresh, asked_ns = watch.so_far(asked_ns), watch.now_ns() - 1
            if await asyncio.to_thread(made, closed, fresh, watch.servers()):
                break
            pause_s = min(5.0, spec.interval_s)
    finally:
        stop.set()
        await watching
    if lost := watch.unstored + watch.lost_rows:
        raise StoreError(
            "readings could not be stored, and are gone", f"{lost} rows", watch.store_says or "see to room"
        )


def _recent(watch: Watch) -> Recent:
    late = any(pool.prometheus for pool in watch.spec.pools)
    return Recent(watch.root, watch.now_ns(), watch.spec.interval_s, late=late)


def _after(rows: Sequence[Rows[ServerReading]], last: Rows[ServerReading] | None) -> list[Rows[ServerReading]]:
    """What came after `last`; everything where that is gone."""
    at = next((at for at in range(len(rows), 0, -1) if rows[at - 1] is last), 0)
    return list(rows[at:])


def prices(spec: MonitorSpec, at_ns: int) -> tuple[PriceOfPool, ...]:
    """What a machine of each pool costs on the day of `at_ns`, and the day that the price is of."""
    found = []
    for pool in spec.pools:
        try:
            hardware = hardware_on(pool, utc_of(at_ns))
            priced = PriceOfPool(
                pool=pool.name, price=f"{hardware.name}; {hardware.source}", usd_per_hour=Decimal(hardware.usd_per_hour),
                as_of=hardware.as_of, planned_share=pool.headroom,
            )  # fmt: skip
        except ConfigError as error:
            why = f"{error.what}: {error.value}"
            priced = PriceOfPool(pool=pool.name, price=why, usd_per_hour=None, as_of=None, planned_share=pool.headroom)
        found.append(priced)
    return tuple(found)


def _month_ns(now_ns: int) -> int:
    """Begin of the month, UTC."""
    first = utc_of(now_ns).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return int((first - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * NS


def _decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(repr(value))
