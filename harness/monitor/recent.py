"""The last hour in memory: what was served in blocks of five minutes, and the readings since the last of them that is over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from harness.base.clock import HOUR_NS, MINUTE_NS, NS
from harness.base.errors import StoreError
from harness.monitor import window
from harness.monitor.adding import total
from harness.monitor.increase import usage
from harness.records import HourUsage, ServerReading, ServerUsage
from harness.store import readings
from harness.store.monitor_rows import Rows, empty, hours_of, joined, readings_of
from harness.store.readings import BLOCK_NS, hour_of
from harness.store.root import Root

LATE_NS = 300 * NS  # rows out of a Prometheus come so late, or they are history
_AGAIN_NS = MINUTE_NS  # history comes in for minutes


class Recent:
    """A monitor's own rows as they come, over what the store had of anybody's when it began. Rows of a block that is over, which history
    out of a Prometheus has, are taken from the store a minute later."""

    def __init__(self, root: Root, now_ns: int, interval_s: float, *, late: bool = False) -> None:
        """From the store, so that a monitor that was started again knows its hour. One that cannot be read is empty. `late`: rows come out of
        a Prometheus."""
        self._root, self._interval_s = root, interval_s
        # a block is over when what tells whether its end is a gap has been read
        self._wait_ns = 2 * MINUTE_NS + round(4 * interval_s * NS) + (LATE_NS if late else 0)
        self._fresh: list[Rows[ServerReading]] = []
        self.warnings: tuple[str, ...] = ()  # files of its hour that could not be read
        self._old_ns = -1  # when the first row came that was too late
        self._begin(now_ns)

    def _begin(self, now_ns: int) -> None:
        self._blocks: list[tuple[int, Rows[HourUsage]]] = []
        self._last: Rows[ServerReading] = empty("readings")
        self._open_ns = self._over_ns(now_ns)
        self._rows: list[Rows[ServerReading]] = []
        warnings: dict[str, None] = {}
        try:
            begin = hour_of(now_ns - HOUR_NS - BLOCK_NS)
            for at, found, last in window.pieces(self._root, begin, self._open_ns, BLOCK_NS, self._interval_s):
                self._close(at, found)
                self._last = last
                warnings |= dict.fromkeys(last.warnings)
            self._rows = [readings.read(self._root, self._open_ns, now_ns + HOUR_NS)]
            warnings |= dict.fromkeys(self._rows[0].warnings)
        except StoreError:
            pass
        self.warnings = tuple(warnings)
        self._forget(now_ns)

    def _over_ns(self, now_ns: int) -> int:
        at = now_ns - self._wait_ns
        return at - at % BLOCK_NS

    def _close(self, at_ns: int, found: Sequence[ServerUsage]) -> None:
        self._blocks.append((at_ns, hours_of([window.hour_row(one) for one in found])))

    def _forget(self, now_ns: int) -> None:
        since_ns = now_ns - HOUR_NS - BLOCK_NS
        self._blocks = [(at, rows) for at, rows in self._blocks if at + BLOCK_NS > since_ns]

    def add(
        self, closed: Iterable[Rows[ServerReading]], fresh: Sequence[ServerReading], now_ns: int, keep_s: float
    ) -> None:
        """`closed`: rows of minutes that are over and were not added yet; `fresh`: those of the minute that goes on, kept for `keep_s`."""
        for rows in closed:
            old = rows.stamps("read_utc_ns") < self._open_ns
            if old.any():
                self._old_ns = self._old_ns if self._old_ns >= 0 else now_ns
                rows = rows.where(~old)  # noqa: PLW2901
            self._rows += [rows] if len(rows) else []
        since_ns = now_ns - round(keep_s * NS)
        self._fresh = [one for one in self._fresh if one.stamps("read_utc_ns").max() >= since_ns]
        self._fresh += [readings_of(fresh)] if fresh else []
        if 0 <= self._old_ns <= now_ns - _AGAIN_NS:
            self._old_ns = -1
            self._begin(now_ns)
        while self._open_ns < self._over_ns(now_ns):
            end = self._open_ns + BLOCK_NS
            found, self._last = window.advanced(
                self._last, joined([empty("readings"), *self._rows]), self._open_ns, end, self._interval_s
            )
            self._close(self._open_ns, found)
            self._rows = [part for rows in self._rows if len(part := rows.where(rows.stamps("read_utc_ns") >= end))]
            self._open_ns = end
        self._forget(now_ns)

    def since_ns(self) -> int:
        """From when on it knows everything."""
        return self._blocks[0][0] if self._blocks else self._open_ns

    def usages(self, from_ns: int, to_ns: int) -> list[ServerUsage]:
        """What was served in [from_ns, to_ns). A begin before the blocks' end is that of a block, or of all."""
        rows = joined([self._last, *self._rows, *self._fresh])
        now = usage(rows, max(from_ns, self._open_ns), to_ns, self._interval_s, self._last.began_ns)
        blocks = [block for at, block in self._blocks if at + BLOCK_NS > from_ns]
        if not blocks:
            return now
        return total([*window.total_of_hours(joined(blocks), from_ns, self._open_ns), *now], from_ns, to_ns)

    def models(self) -> list[str]:
        """Names of the models that it has rows of."""
        return [name for name in joined([self._last, *self._rows, *self._fresh]).words("model")[1] if name]

    def first_ns(self) -> int | None:
        """Stamp of the first reading it has; None of none."""
        stamps = [
            int(rows.stamps("read_utc_ns").min()) for rows in (self._last, *self._rows, *self._fresh) if len(rows)
        ]
        return min(stamps, default=None)

    def newest_ns(self) -> Mapping[str, int]:
        """Stamp of each pool's last reading."""
        rows = joined([self._last, *self._rows, *self._fresh])
        stamps, (pools, names) = rows.stamps("read_utc_ns"), rows.words("pool")
        return {name: int(stamps[pools == at].max()) for at, name in enumerate(names)}
