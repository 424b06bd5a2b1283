"""The watch itself: finds servers, reads them, and stores what was read, until it is told to end. Nothing is ever sent to be served."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from harness.base import clock
from harness.base.clock import DAY_NS, HOUR_NS, MINUTE_NS, NS
from harness.base.errors import HarnessError, StoreError
from harness.base.files import lock_dir, open_lock, try_lock
from harness.config.monitor import MonitorSpec
from harness.monitor import window
from harness.monitor.discover import ACCOUNT
from harness.monitor.pool import MOST_WAITING, STORE_S, Means, PoolWatch
from harness.records import ServerReading, ServerWatch
from harness.store import hour_rows, readings
from harness.store.monitor_rows import Rows, joined, readings_of
from harness.store.readings import QUARTER_NS
from harness.store.root import Root, open_root

KEPT_NS = 10 * MINUTE_NS  # rows that stay in memory, for who shows the last minutes
MOST_UNSTORED = 40_000  # rows that wait for room on a full disk: 60 MB
MOST_HOURS_LEFT = 6
DAY_KEPT_NS = 2 * HOUR_NS  # after midnight: till then rows of the day before may come
STEP_TOLD_NS = 2 * NS


class Watch:
    """A monitor at work. `recent`: rows of the last minutes, as they were stored; `warnings`: what is wrong now; `unstored`, `store_says`: rows that could not
    be written, and why."""

    def __init__(self, spec: MonitorSpec, monitor: str = "", account: Path = ACCOUNT) -> None:
        """Raises ConfigError: a store whose filesystem is not here."""
        self.spec, self.root = spec, open_root(spec.store)
        self.monitor = monitor or _own_name()
        self._clock = clock.SteadyUtc()
        means = Means(
            self.monitor, spec.interval_s, spec.most_rows_per_server, self.now_ns, ssl.create_default_context(), account
        )
        self._pools = [PoolWatch(pool, means) for pool in spec.pools]
        self.recent: list[Rows[ServerReading]] = []
        self._pending: list[Rows[ServerReading]] = []
        self.unstored, self.lost_rows, self.store_says = 0, 0, ""
        self._store_warnings: tuple[str, ...] = ()
        self._kept_day = self._rolled_hour = self._merged_quarter = -1
        self._keeping: asyncio.Task[None] | None = None
        self.one_at_a_time = threading.Lock()  # what takes memory: figures, and what is put together

    # ---- what is known now

    def servers(self) -> tuple[ServerWatch, ...]:
        return tuple(watched.state() for pool in self._pools for watched in pool.watched().values())

    @property
    def warnings(self) -> tuple[str, ...]:
        found = [pool.says for pool in self._pools if pool.says]
        if self._clock.stepped_ns > STEP_TOLD_NS:
            found.append(
                f"the clock was set back by up to {self._clock.stepped_ns / NS:.0f} s: stamps run at half speed until it has caught up"
            )
        if self.store_says:
            found.append(f"{self.unstored} rows are not stored ({self.lost_rows} given up): {self.store_says}")
        return (*found, *self._store_warnings)

    def so_far(self, after_ns: int = -1) -> list[ServerReading]:
        """Rows of the minute that goes on: what was read last of every server that was read after `after_ns`."""
        return [row for pool in self._pools for row in pool.so_far(after_ns)]

    def now_ns(self) -> int:
        """The stamp clock."""
        return self._clock.now_ns()

    # ---- the loop

    def run(self, each_minute: Callable[[], None] = lambda: None, ready: Callable[[], None] = lambda: None) -> None:
        """Watch until Ctrl-C or SIGTERM; what was read by then is stored. `each_minute` is called after each store."""

        async def watching() -> None:
            await self.until(stop_on_signals(), each_minute, ready)

        asyncio.run(watching())

    async def until(
        self,
        stop: asyncio.Event,
        each_minute: Callable[[], None] = lambda: None,
        ready: Callable[[], None] = lambda: None,
    ) -> None:
        """As `run`, until `stop` is set."""
        await asyncio.to_thread(self._resume)
        tasks = [asyncio.create_task(pool.follow()) for pool in self._pools]
        tasks += [asyncio.create_task(pool.boards()) for pool in self._pools if pool.has_boards]
        ready()
        try:
            while not stop.is_set():
                await self._minute_or_many(stop)
                await self._store(self.now_ns())
                if self._keeping is None or self._keeping.done():
                    self._keeping = asyncio.create_task(asyncio.to_thread(self._keep, self.now_ns()))
                each_minute()
                for task in tasks:
                    if task.done() and not task.cancelled():
                        task.result()  # an error that was not foreseen ends the watch, once what it read is stored
        finally:
            for task in tasks:
                task.cancel()
            for pool in self._pools:
                await pool.close()
            await self._store(None)

    async def _minute_or_many(self, stop: asyncio.Event) -> None:
        """Until the minute is over, or there are many rows to store (history), or it is to end."""
        end_ns = self.now_ns() + MINUTE_NS - self.now_ns() % MINUTE_NS + NS // 2
        while not stop.is_set() and (left_ns := end_ns - self.now_ns()) > 0:
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), min(left_ns / NS, 2 * STORE_S))
            if sum(pool.waiting_rows() for pool in self._pools) > MOST_WAITING // 4:
                return

    async def _store(self, now_ns: int | None) -> None:
        """Rows of the minutes that are over (None: all) go to the store."""
        drained = [row for pool in self._pools for row in pool.drain(now_ns)]
        if drained:
            rows = await asyncio.to_thread(readings_of, drained)
            del drained
            stamps = rows.stamps("read_utc_ns")
            since_ns = int(stamps.max()) - KEPT_NS
            self.recent = [some for some in self.recent if some.stamps("read_utc_ns").max() >= since_ns]
            self.recent.append(rows.where(stamps >= since_ns) if stamps.min() < since_ns else rows)
            self._pending.append(rows)
        if self._pending:
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        try:
            readings.write(self.root, joined(self._pending))
        except HarnessError as error:
            while len(self._pending) > 1 and sum(map(len, self._pending)) > MOST_UNSTORED:
                self.lost_rows += len(self._pending.pop(0))
            self.unstored = sum(map(len, self._pending))
            self.store_says = f"{error.what}: {error.value}; {error.advice}"
        else:
            self._pending, self.unstored, self.store_says = [], 0, ""

    def _keep(self, now_ns: int) -> None:
        """What is over is put together: a quarter of an hour, an hour, a day; and days that are too old go."""
        if self._pending:
            return  # no room
        try:
            quarter_ns = now_ns - now_ns % QUARTER_NS - QUARTER_NS
            if quarter_ns != self._merged_quarter and now_ns % QUARTER_NS > MINUTE_NS:
                with self.one_at_a_time:
                    readings.compact_own(self.root, self.monitor, quarter_ns, QUARTER_NS)
                self._merged_quarter = quarter_ns
            read_ns = min(pool.read_until_ns(now_ns) for pool in self._pools)
            whole_ns = min(now_ns, read_ns + window.LATE_NS)
            if whole_ns // HOUR_NS != self._rolled_hour and whole_ns % HOUR_NS > window.LATE_NS:
                while self._sum_an_hour(whole_ns):
                    pass
                self._rolled_hour = whole_ns // HOUR_NS
            if now_ns // DAY_NS != self._kept_day and now_ns % DAY_NS > DAY_KEPT_NS:
                with self.one_at_a_time:
                    self._store_warnings = tuple(keep_days(self.root, now_ns, self.spec.retention_days))
                self._kept_day = now_ns // DAY_NS
        except StoreError as error:
            self._store_warnings = (f"{error.what}: {error.value}; {error.advice}",)

    def _sum_an_hour(self, now_ns: int) -> bool:
        with self.one_at_a_time:
            return bool(window.roll_up(self.root, now_ns, self.spec.interval_s, most_hours=1))

    # ---- going on where it stopped

    def sum_what_was_left(self) -> None:
        """Hours that another start left, before figures are made: of readings they would cost each view many times as much. Some at most; what
        comes out of a Prometheus may not be there yet."""
        with suppress(StoreError):  # told when something is stored
            for _ in range(0 if any(pool.spec.prometheus for pool in self._pools) else MOST_HOURS_LEFT):
                if not self._sum_an_hour(self.now_ns()):
                    return

    def _resume(self) -> None:
        """The last rows of this monitor: its count of restarts, its counters, and a clock that does not begin before them."""
        now_ns = self.now_ns()
        try:
            rows = last_rows(self.root, self.monitor, now_ns)
        except StoreError as error:
            self._store_warnings = (f"{error.what}: {error.value}; {error.advice}",)
            return
        last_ns = max((row.read_utc_ns for row in rows), default=0)
        self._clock = clock.SteadyUtc(min(last_ns, now_ns + HOUR_NS))
        for pool in self._pools:
            pool.resume([row for row in rows if row.pool == pool.spec.name])


def stop_on_signals() -> asyncio.Event:
    """Set by Ctrl-C and SIGTERM, where this is the main thread; elsewhere who runs it sets it."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(ValueError, NotImplementedError, RuntimeError):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


def last_rows(root: Root, monitor: str, now_ns: int) -> list[ServerReading]:
    """The last row of one monitor for each of its servers' rows, as far as two days back. Raises StoreError."""
    hour = readings.hour_of(now_ns)
    for begin in range(hour, hour - 2 * DAY_NS, -HOUR_NS):
        last = hour_rows.last_before(root, begin)
        if last is not None:
            mine = [row for row in last if row.monitor == monitor]
            return [*mine, *readings.newest_of(root, monitor, begin, now_ns + HOUR_NS)]
    return list(readings.newest_of(root, monitor, hour - 2 * HOUR_NS, now_ns + HOUR_NS))


def keep_days(root: Root, now_ns: int, retention_days: int) -> list[str]:
    """Merge what is left in pieces of the days that are over, and let go of those that are too old. Returns warnings. Raises StoreError."""
    readings.retain(root, retention_days, now_ns)
    warnings = []
    for day_ns in readings.days_in_pieces(root, now_ns - now_ns % DAY_NS):
        warnings += readings.compact(root, day_ns)
        hour_rows.compact_hours(root, day_ns)
        window.roll_day(root, day_ns)
    return warnings


def _own_name() -> str:
    """This host's name; with a number where another monitor of this host has it. The lock is held until this process ends."""
    host = os.uname().nodename
    for number in range(1, 100):
        name = host if number == 1 else f"{host}-{number}"
        if try_lock(open_lock(lock_dir() / f"monitor-{name}.lock")):
            return name
    return f"{host}-{os.getpid()}"
