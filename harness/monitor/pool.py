"""One pool of a monitor: where its servers are found, how they and its boards are read, and the rows that come of it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from harness.base.clock import NS
from harness.config.monitor import PoolSpec
from harness.measure.observe.boards import dcgm, nvml
from harness.measure.observe.boards.gpus import Gpus
from harness.monitor.discover import servers_of
from harness.monitor.page import PAGE_COUNTERS, PageError, PageReader
from harness.monitor.prometheus import PrometheusServers
from harness.monitor.scrape import Scraper, fetch, open_client
from harness.monitor.watched import Watched, WatchedBoard
from harness.records import GpuSample, ServerReading

FIND_S = 30.0  # how often it is asked where servers are
MOST_WAITING = 20_000  # rows of history that are not stored yet: more are not asked for before they are
STORE_S = 1.0


@dataclass(frozen=True, slots=True)
class Means:
    """What all pools of a monitor share. `monitor`: its name; `now_ns`: its clock; `verify`: of TLS; `account`: of Kubernetes."""

    monitor: str
    interval_s: float
    most_rows: int
    now_ns: Callable[[], int]
    verify: ssl.SSLContext
    account: Path


class PoolWatch:
    """One pool's servers and boards."""

    def __init__(self, spec: PoolSpec, of: Means) -> None:
        self.spec, self._of = spec, of
        self.says = ""
        self._resumed: dict[str, list[ServerReading]] = {}
        self._reader = PageReader(spec.engine, spec.tenant_label, unnamed=spec.name)
        self._scraper: Scraper | None = None
        self._prometheus: PrometheusServers | None = None
        self._boards: dict[str, WatchedBoard] = {}
        self._gpus: Gpus | None = None

    @property
    def has_boards(self) -> bool:
        return self.spec.nvml or self.spec.telemetry_url is not None

    def watched(self) -> dict[str, Watched]:
        of = self._scraper or self._prometheus
        return of.watched if of is not None else {}

    def resume(self, rows: Sequence[ServerReading]) -> None:
        for row in sorted(rows, key=lambda row: row.read_utc_ns):
            self._resumed.setdefault(row.server, []).append(row)

    def _made(self, server: str) -> Watched:
        made = Watched(server, self.spec.name, self.spec.engine, self._of.monitor, self._of.most_rows)
        if rows := self._resumed.pop(server, None):
            newest = rows[-1]
            last = {
                (row.model, row.tenant): tuple(getattr(row, name) for name in PAGE_COUNTERS)
                for row in rows
                if row.incarnation == newest.incarnation
            }
            made.resume(newest.incarnation, newest.started_utc_ns, last)
        return made

    async def follow(self) -> None:
        if self.spec.prometheus is not None:
            await self._follow_prometheus()
            return
        self._scraper = Scraper(self._reader, self._of.interval_s, self._of.now_ns, self._made, self._of.verify)
        while True:
            try:
                self._scraper.follow(await servers_of(self.spec, self._of.account))
                self.says = "" if self._scraper.watched else f"pool {self.spec.name}: no server was found"
            except PageError as error:
                self.says = f"pool {self.spec.name}: {error}"
            if self.spec.servers:
                return  # a list does not change
            await asyncio.sleep(FIND_S)

    async def _follow_prometheus(self) -> None:
        spec = self.spec.prometheus
        assert spec is not None
        last_ns = max((row.read_utc_ns for rows in self._resumed.values() for row in rows), default=0)
        since_ns = max(last_ns, self._of.now_ns() - round(spec.history_s * NS))
        self._prometheus = PrometheusServers(spec, self.spec.engine, self._reader, self._made, since_ns)
        async with open_client(spec.url, self._of.verify) as client:
            while True:
                if self.waiting_rows() > MOST_WAITING:
                    await asyncio.sleep(STORE_S)
                    continue
                more = False
                try:
                    more = await self._prometheus.read(client, self._of.now_ns())
                    self.says = (
                        ""
                        if self._prometheus.watched or more
                        else f"pool {self.spec.name}: Prometheus has no series of it"
                    )
                except PageError as error:
                    self.says = f"pool {self.spec.name}: {error}"
                await asyncio.sleep(0 if more else self._of.interval_s)

    async def boards(self) -> None:
        """Energy, power and use of the pool's boards, once an interval."""
        url = self.spec.telemetry_url
        if self.spec.nvml:
            gpus = await asyncio.to_thread(nvml.open_gpus)
            if isinstance(gpus, str):
                self.says = f"pool {self.spec.name}: no boards: {gpus}"
                return
            self._gpus = gpus
        client = open_client(url, self._of.verify) if url else None
        try:
            while True:
                try:
                    samples = await self._samples(client)
                    self._take("nvml" if self.spec.nvml else "dcgm", samples)
                except (PageError, dcgm.ExporterError) as error:
                    self.says = f"pool {self.spec.name}: boards: {error}"
                await asyncio.sleep(self._of.interval_s)
        finally:
            if client is not None:
                await client.aclose()

    async def _samples(self, client: httpx.AsyncClient | None) -> list[tuple[str, dict[str, int | None]]]:
        if self._gpus is not None:
            rows: list[GpuSample] = await asyncio.to_thread(self._gpus.sample, (), processes=False)
            return [
                (row.gpu_uuid, {"energy_mj": row.energy_mj, "power_mw": row.power_mw, "sm_util_pct": row.sm_util_pct})
                for row in rows
                if row.error is None
            ]
        assert client is not None
        assert self.spec.telemetry_url is not None
        text = await fetch(client, self.spec.telemetry_url, min(10.0, self._of.interval_s))
        return [(uuid, board.values) for uuid, board in dcgm.parse(text).items()]

    def _take(self, engine: str, samples: Sequence[tuple[str, dict[str, int | None]]]) -> None:
        at_ns = self._of.now_ns()
        for uuid, values in samples:
            if uuid not in self._boards:
                self._boards[uuid] = WatchedBoard(uuid, self.spec.name, engine, self._of.monitor)
            energy, power, use = values.get("energy_mj"), values.get("power_mw"), values.get("sm_util_pct")
            self._boards[uuid].take(
                None if energy is None else energy / 1000, None if power is None else power / 1000, use, at_ns
            )

    def read_until_ns(self, now_ns: int) -> int:
        """All before it has been read, as far as it can be: what a Prometheus has is read later than it happened."""
        if self.spec.prometheus is None:
            return now_ns
        return 0 if self._prometheus is None else min(self._prometheus.read_until_ns, now_ns)

    def waiting_rows(self) -> int:
        return sum(watched.waiting_rows for watched in self.watched().values())

    def drain(self, now_ns: int | None) -> list[ServerReading]:
        """Rows of minutes that are over. History out of Prometheus is complete as soon as it was taken, but for its last minute."""
        gone = self._scraper.gone if self._scraper is not None else []
        rows = [row for watched in gone for row in watched.drain()]
        gone.clear()
        rows += [row for watched in self.watched().values() for row in watched.drain(now_ns)]
        return rows + [row for board in self._boards.values() for row in board.drain(now_ns)]

    def so_far(self, after_ns: int) -> list[ServerReading]:
        """Rows of the minute that goes on, of what was read after `after_ns`."""
        every = [*self.watched().values(), *self._boards.values()]
        return [row for one in every for row in one.so_far(after_ns)]

    async def close(self) -> None:
        if self._scraper is not None:
            await self._scraper.close()
        if self._gpus is not None:
            self._gpus.close()
