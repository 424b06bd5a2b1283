"""What a monitor keeps of one server between its pages: the minute's last page, its restarts, the labels that have rows of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.base.clock import MINUTE_NS, NS
from harness.monitor.page import PAGE_COUNTERS, PAGE_GAUGES, Buckets, Key, Page
from harness.records import BOARD, HISTOGRAMS, OTHER, ServerReading, ServerWatch

SAME_START_NS = NS
Numbers = tuple[float | None, ...]
_COUNTERS = len(PAGE_COUNTERS)
_NO_BUCKETS: tuple[Buckets, ...] = (((), ()),) * len(HISTOGRAMS)


class _Minutes:
    """Rows a minute of what is read: those of minutes that are over wait until they are taken."""

    def __init__(self) -> None:
        self._rows: list[ServerReading] = []
        self._minute = self._newest_ns = -1

    @property
    def waiting_rows(self) -> int:
        """Rows that nobody has taken yet."""
        return len(self._rows)

    def drain(self, now_ns: int | None = None) -> list[ServerReading]:
        """Rows of the minutes that are over at `now_ns`; of the one that goes on too without it."""
        if now_ns is None or now_ns // MINUTE_NS != self._minute:
            self._close()
        rows, self._rows = self._rows, []
        return rows

    def so_far(self, after_ns: int = -1) -> list[ServerReading]:
        """Rows of the minute that goes on, as if it were over now; it goes on all the same. None where nothing came after `after_ns`."""
        if self._newest_ns <= after_ns:
            return []
        before, self._rows = self._rows, []
        self._add_rows()
        rows, self._rows = self._rows, before
        return rows

    def _turn(self, at_ns: int) -> None:
        self._newest_ns = at_ns
        if at_ns // MINUTE_NS != self._minute:
            self._close()
            self._minute = at_ns // MINUTE_NS

    def _close(self) -> None:
        self._add_rows()
        self._clear()

    def _add_rows(self) -> None:
        raise NotImplementedError

    def _clear(self) -> None:
        raise NotImplementedError


class Watched(_Minutes):
    """A server, or a board's row. Not for several threads at once."""

    def __init__(self, server: str, pool: str, engine: str, monitor: str, most_rows: int) -> None:
        super().__init__()
        self.server, self.pool, self.engine, self._monitor = server, pool, engine, monitor
        self._most_named = max(most_rows - 1, 1)
        self._named: dict[Key, None] = {}
        self.overflowed = 0  # labels without a row of their own
        self.incarnation = 0
        self._started: int | None = None
        self._last: dict[Key, Numbers] = {}
        self._begun = False
        self._page: Page | None = None
        self._clear()
        self.scrapes_ever = self.missed_ever = 0
        self.read_utc_ns: int | None = None
        self.says, self.up = "not read yet", False

    def _clear(self) -> None:
        self._page, self._page_ns, self._scrapes, self._missed, self._missed_ns = None, 0, 0, 0, 0
        self._gauges: dict[Key, list[list[float]]] = {}

    def resume(self, incarnation: int, started_utc_ns: int | None, last: Mapping[Key, Numbers]) -> None:
        """Go on where this monitor stopped: `last` are PAGE_COUNTERS of the last rows."""
        self.incarnation, self._started, self._last, self._begun = incarnation, started_utc_ns, dict(last), True
        self._named = dict.fromkeys(key for key in last if key != (OTHER, OTHER))

    def take(self, page: Page, at_ns: int) -> None:
        """A page that came at `at_ns`."""
        self._turn(at_ns)
        numbers = {key: page.numbers(key) for key in page.keys}
        if self._restarted(page, numbers):
            self._close()
            self.incarnation, self._last = self.incarnation + 1, {}
        for key, values in numbers.items():
            self._last[key] = values[:_COUNTERS]
            sums = self._gauges.setdefault(key, [[0.0, 0.0] for _ in PAGE_GAUGES])
            for pair, value in zip(sums, values[_COUNTERS:], strict=True):
                if value is not None:
                    pair[0] += value
                    pair[1] += 1
        self._started = page.started_utc_ns or self._started
        self._page, self._page_ns = page, at_ns
        self._scrapes += 1
        self.scrapes_ever += 1
        self.read_utc_ns, self.up = at_ns, True
        self.says = f"its page lacks {', '.join(page.missing)}" if page.missing else ""
        if not self._begun:  # what all increases begin at: the minute's last page would hide what came after it
            self._close()
        self._begun = True

    def miss(self, at_ns: int, why: str) -> None:
        """A page that was asked for and did not come."""
        self._turn(at_ns)
        self._missed, self._missed_ns = self._missed + 1, at_ns
        self.scrapes_ever, self.missed_ever = self.scrapes_ever + 1, self.missed_ever + 1
        self.up, self.says = False, why

    def _restarted(self, page: Page, numbers: Mapping[Key, Numbers]) -> bool:
        if (
            page.started_utc_ns is not None
            and self._started is not None
            and page.started_utc_ns - self._started > SAME_START_NS
        ):
            return True
        for key, values in numbers.items():
            before = self._last.get(key)
            if before is not None:
                for now, then in zip(values, before, strict=False):
                    if now is not None and then is not None and now < then:
                        return True
        return False

    def _add_rows(self) -> None:
        page = self._page
        if page is None and self._missed:
            self._rows.append(
                self._row(("", ""), (None,) * _COUNTERS, (None,) * len(PAGE_GAUGES), _NO_BUCKETS, self._missed_ns)
            )
        elif page is not None:
            for key in page.keys:
                if key not in self._named and len(self._named) < self._most_named:
                    self._named[key] = None
            named = [key for key in page.keys if key in self._named]
            for key in named:
                means = tuple(total / count if count else None for total, count in self._gauges[key])
                self._row_of(key, page.numbers(key), means, page.histograms(key))
            self.overflowed = len(page.keys) - len(named)
            if self.overflowed:
                numbers, histograms = page.whole(page.keys)
                self._row_of((OTHER, OTHER), numbers, numbers[_COUNTERS:], histograms)

    def _row_of(self, key: Key, numbers: Numbers, gauges: Numbers, histograms: Sequence[Buckets]) -> None:
        self._rows.append(self._row(key, numbers[:_COUNTERS], gauges, histograms, self._page_ns))

    def _row(
        self, key: Key, counters: Numbers, gauges: Numbers, histograms: Sequence[Buckets], at_ns: int
    ) -> ServerReading:
        values: dict[str, Any] = dict(zip(PAGE_COUNTERS, counters, strict=True)) | dict(
            zip(PAGE_GAUGES, gauges, strict=True)
        )
        for name, (le, counts) in zip(HISTOGRAMS, histograms, strict=True):
            values |= {f"{name}_le_s": le, f"{name}_counts": counts}
        return ServerReading(
            read_utc_ns=at_ns, server=self.server, model=key[0], tenant=key[1], pool=self.pool, monitor=self._monitor,
            engine=self.engine, incarnation=self.incarnation, started_utc_ns=self._started if self._page else None,
            scrapes=self._scrapes, missed=self._missed, energy_j=None, power_w=None, sm_util_pct=None, **values,
        )  # fmt: skip

    def state(self) -> ServerWatch:
        says = self.says
        if self.up and self.overflowed:
            more = (
                f"{self.overflowed} of its labels are one row, {OTHER}: raise most_rows_per_server to tell them apart"
            )
            says = f"{more}; {says}" if says else more
        return ServerWatch(
            server=self.server, pool=self.pool, engine=self.engine, up=self.up, scrapes=self.scrapes_ever, missed=self.missed_ever,
            read_utc_ns=self.read_utc_ns, says=says,
        )  # fmt: skip


class WatchedBoard(_Minutes):
    """A board's energy, power and use of a minute."""

    def __init__(self, uuid: str, pool: str, engine: str, monitor: str) -> None:
        super().__init__()
        self._text: dict[str, Any] = {
            "server": f"{BOARD}{uuid}",
            "pool": pool,
            "engine": engine,
            "monitor": monitor,
            "model": "",
            "tenant": "",
        }
        self._incarnation = 0
        self._energy: float | None = None
        self._power: list[float] = []
        self._use: list[float] = []
        self._at_ns = self._scrapes = 0

    def take(self, energy_j: float | None, power_w: float | None, sm_util_pct: float | None, at_ns: int) -> None:
        self._turn(at_ns)
        if energy_j is not None and self._energy is not None and energy_j < self._energy:
            self._close()
            self._incarnation += 1
        self._energy = energy_j if energy_j is not None else self._energy
        self._power += [] if power_w is None else [power_w]
        self._use += [] if sm_util_pct is None else [sm_util_pct]
        self._at_ns, self._scrapes = at_ns, self._scrapes + 1

    def _clear(self) -> None:
        self._power, self._use, self._scrapes = [], [], 0

    def _add_rows(self) -> None:
        if self._scrapes:
            nothing: dict[str, Any] = dict.fromkeys((*PAGE_COUNTERS, *PAGE_GAUGES))
            nothing |= {f"{name}_{part}": () for name in HISTOGRAMS for part in ("le_s", "counts")}
            self._rows.append(
                ServerReading(
                    read_utc_ns=self._at_ns, incarnation=self._incarnation, started_utc_ns=None, scrapes=self._scrapes, missed=0,
                    energy_j=self._energy, power_w=_mean(self._power), sm_util_pct=_mean(self._use), **self._text, **nothing,
                )
            )  # fmt: skip


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
