"""A month of a monitor's store as the monitor leaves it, and what is asked of it.

`python -m tests.bench.bench_monitor_month [--servers N] [--days D] [--keep DIR]`: makes the store (every server a row a minute: 21.6 million
of 500 servers and 30 days), then times every view, the report with its files, and queries over all rows through `harness history sql`.

The days are written by the monitor's own writers, a row group a quarter of an hour, from arrays instead of records, which is what makes it
fast. That they are what the monitor leaves is looked at first: a day of few servers is made both ways, the other one a file a minute,
merged, rolled up and compacted by the monitor, and both must hold the same.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.base.clock import DAY_NS, HOUR_NS, MINUTE_NS, NS
from harness.config.monitor import MonitorSpec
from harness.monitor.live import Figures
from harness.monitor.period import period
from harness.monitor.recent import Recent
from harness.monitor.watch import keep_days
from harness.monitor.window import roll_day, roll_up
from harness.records import COUNTERS, HISTOGRAMS
from harness.report.monitor import page
from harness.store import history, hour_rows, readings
from harness.store.monitor_rows import Rows
from harness.store.root import open_root
from harness.store.schema import schema_of

BOUNDS = np.array(
    [0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, np.inf]
)  # fmt: skip
TEXT = {"model": "llama-3.1-8b", "tenant": "", "pool": "chat", "monitor": os.uname().nodename, "engine": "vllm"}
UNTOLD = ("draft_tokens", "accepted_tokens", "energy_j", "power_w", "sm_util_pct")
MEDIAN_S = {"ttft": 0.3, "tpot": 0.03, "queue": 0.02, "e2el": 6.0}
RESTARTING = 0.02  # of the servers, each day
INTERVAL_S = 15.0
HARDWARE = {"name": "box", "usd_per_hour": 4.0, "source": "a quote", "as_of": "2026-11-01"}
HOSTED = {"provider": "them", "model": "llama-3.1-8b", "input_usd_per_million": 0.2, "output_usd_per_million": 0.6, "source": "their page", "as_of": "2026-11-01"}  # fmt: skip


def config(servers: Sequence[str], folder: str) -> MonitorSpec:
    """One pool with a price, a promise and a hosted API: everything that a view can have."""
    pool = {
        "name": TEXT["pool"], "servers": [f"http://{name}/metrics" for name in servers], "hardware": HARDWARE, "hosted": [HOSTED],
        "slo": {"ttft_s": 0.5, "attainment": 0.9},
    }  # fmt: skip
    return MonitorSpec.model_validate({"name": "bench", "interval_s": INTERVAL_S, "store": f"{folder}/monitor", "results": f"{folder}/results", "pools": [pool]})  # fmt: skip


# ---------------------------------------------------------------- what the servers counted


@dataclass
class Hour:
    """An hour of all servers: tables of readings, one a quarter of an hour, made when they are asked for; the increases; the last rows at its end."""

    begin_ns: int
    count: int
    quarter: Callable[[int], pa.Table]
    hour: pa.Table
    last: pa.Table

    @property
    def quarters(self) -> list[pa.Table]:
        return [self.quarter(at) for at in range(0, 60, 15)]


class Fleet:
    """Servers with a load of their own, which follows the hour of the day; some restart each day. Rows by time."""

    def __init__(self, names: Sequence[str], begin_ns: int, seed: int = 1) -> None:
        phase_ns = np.array([zlib.crc32(name.encode()) % 1000 * 15 * NS // 1000 for name in names])
        order = np.lexsort((np.array(names), phase_ns))
        self.names, self.phase_ns = [names[i] for i in order], phase_ns[order]
        self._rng = np.random.default_rng(seed)
        self._begin_ns, n = begin_ns, len(names)
        self._rate = self._rng.uniform(2, 30, n)  # requests a minute
        spread = self._rng.uniform(0.5, 2.0, n)
        self._share = {  # of the requests of each server that took at most each bound
            name: np.clip(0.5 + 0.5 * np.tanh(np.log(BOUNDS[None, :] / (median * spread[:, None]))), 0, 1) for name, median in MEDIAN_S.items()
        }  # fmt: skip
        self._counted = {name: np.zeros(n) for name in COUNTERS if name not in UNTOLD}
        self._incarnation = np.zeros(n, np.int64)
        self.started = np.full(n, begin_ns - DAY_NS, np.int64)
        self._before: dict[str, np.ndarray] | None = None  # what was read last: counters and buckets

    def hours(self, count: int) -> Iterator[Hour]:
        for hour in range(count):
            yield self._hour(self._begin_ns + hour * HOUR_NS)

    def _hour(self, begin_ns: int) -> Hour:
        n, day_share = len(self.names), 1 + 0.6 * np.sin((begin_ns % DAY_NS) / DAY_NS * 2 * np.pi)
        requests = self._rng.poisson(self._rate * day_share, (60, n)).astype(float)
        more = {
            "requests": requests, "prompt_tokens": np.floor(requests * self._rng.uniform(500, 700, (60, n))),
            "output_tokens": np.floor(requests * self._rng.uniform(90, 160, (60, n))), "errors": self._rng.poisson(0.02, (60, n)).astype(float),
            "preemptions": self._rng.poisson(0.05, (60, n)).astype(float),
        }  # fmt: skip
        more["cached_tokens"] = np.floor(more["prompt_tokens"] * self._rng.uniform(0.1, 0.3, (60, n)))
        starts = np.full(n, 60)
        if self._before is not None:
            restart = self._rng.random(n) < RESTARTING / 24
            starts[restart] = self._rng.integers(1, 59, restart.sum())
        after = np.arange(60)[:, None] >= starts
        stamps = begin_ns + np.arange(60)[:, None] * MINUTE_NS + 45 * NS + self.phase_ns
        counted = {}
        for name, rises in more.items():
            whole = self._counted[name] + np.cumsum(rises, axis=0)
            restarted = np.cumsum(np.where(after, rises, 0.0), axis=0)
            counted[name] = np.where(after, restarted, whole)
            self._counted[name] = counted[name][-1]
        values: dict[str, np.ndarray] = dict(counted)
        for name in HISTOGRAMS:
            values[name] = np.floor(counted["requests"][:, :, None] * self._share[name])
        values["incarnation"] = self._incarnation + after
        values["started_utc_ns"] = np.where(after, begin_ns + starts * MINUTE_NS + NS, self.started)
        values |= {name: self._rng.integers(0, 9, (60, n)) / 4 for name in ("running", "waiting")}
        values["kv_cache_use"] = np.round(self._rng.random((60, n)), 3)
        self._incarnation, self.started = values["incarnation"][-1], values["started_utc_ns"][-1]

        def quarter(at: int) -> pa.Table:
            return self._readings(stamps[at : at + 15], {k: v[at : at + 15] for k, v in values.items()})

        hour = self._increases(begin_ns, stamps, values, after)
        return Hour(
            begin_ns, stamps.size, quarter, hour, self._readings(stamps[-1:], {k: v[-1:] for k, v in values.items()})
        )

    def _readings(self, stamps: np.ndarray, values: dict[str, np.ndarray]) -> pa.Table:
        n = stamps.size
        columns = {"read_utc_ns": stamps.reshape(-1), "scrapes": np.full(n, 4), "missed": np.zeros(n, np.int64)}
        return self._table("readings", n, columns | {k: v.reshape(n, -1).squeeze(-1) if k not in HISTOGRAMS else v.reshape(n, -1) for k, v in values.items()})  # fmt: skip

    def _increases(
        self, begin_ns: int, stamps: np.ndarray, values: dict[str, np.ndarray], after: np.ndarray
    ) -> pa.Table:
        n = len(self.names)
        told = [name for name in (*COUNTERS, *HISTOGRAMS) if name in values]
        before = self._before or {name: values[name][0] for name in told}
        first_ns = stamps[0] if self._before is None else np.full(n, begin_ns)
        again = np.diff(after.astype(int), axis=0, prepend=0).astype(bool)  # minutes whose counters begin at 0
        columns: dict[str, np.ndarray] = {
            "from_utc_ns": np.full(n, begin_ns), "covered_s": (begin_ns + HOUR_NS - first_ns) / NS, "gap_s": np.zeros(n),
            "restarts": again.sum(axis=0),
        }  # fmt: skip
        for name in told:
            rises = np.diff(values[name], axis=0, prepend=before[name][None])
            mask = again if name in COUNTERS else again[:, :, None]
            columns[name] = np.where(mask, values[name], rises).sum(axis=0)
        busy = (values["running"] > 0) | (values["waiting"] > 0)
        columns["lost"] = (again[1:] & busy[:-1]).sum(axis=0)
        covered = np.full((12, n), 300.0)
        covered[0] = (begin_ns + readings.BLOCK_NS - first_ns) / NS
        for name in ("running", "waiting", "kv_cache_use"):  # as the monitor adds them: blocks by the time they cover
            means = values[name].reshape(12, 5, n).mean(axis=1)
            columns[name] = (means * covered).sum(axis=0) / covered.sum(axis=0)
        self._before = {name: values[name][-1] for name in told}
        order = np.argsort(np.array(self.names))
        return self._table("hours", n, {k: v[order] for k, v in columns.items()}, order)

    def _table(self, kind: str, n: int, columns: dict[str, np.ndarray], order: np.ndarray | None = None) -> pa.Table:
        names, of = pa.array(self.names), np.arange(len(self.names)) if order is None else order
        arrays = []
        for field in schema_of(kind):
            if field.name == "server":
                codes = np.tile(of, n // len(self.names)).astype(np.int32)
                arrays.append(pa.DictionaryArray.from_arrays(codes, names).cast(pa.string()))
            elif field.name in TEXT:
                arrays.append(
                    pa.DictionaryArray.from_arrays(np.zeros(n, np.int32), pa.array([TEXT[field.name]])).cast(
                        pa.string()
                    )
                )
            elif field.name in UNTOLD:
                arrays.append(pa.nulls(n, field.type))
            elif pa.types.is_list(field.type):
                counts = (
                    columns[field.name.rpartition("_counts")[0]].reshape(-1)
                    if field.name.endswith("_counts")
                    else np.tile(BOUNDS, n)
                )
                offsets = pa.array(np.arange(n + 1, dtype=np.int32) * len(BOUNDS))
                arrays.append(pa.ListArray.from_arrays(offsets, pa.array(counts.astype(float)), type=field.type))
            else:
                arrays.append(pa.array(columns[field.name]).cast(field.type))
        return pa.Table.from_arrays(arrays, schema=schema_of(kind))


# ---------------------------------------------------------------- the store


def make_month(folder: str, fleet: Fleet, begin_ns: int, now_ns: int, *, leave: int = 0) -> int:
    """The store of [begin_ns, now_ns) in `folder`: days that are over merged, today's quarters too, its last minutes a file each. `leave`: the
    last so many hours are not rolled up, yesterday is left in pieces, days before it have sums alone, and the last quarter is a file a minute. Returns the rows."""
    root, count = open_root(folder), 0
    today = now_ns - now_ns % DAY_NS
    began = {TEXT["pool"]: begin_ns + 45 * NS + int(fleet.phase_ns.min())}
    hours = fleet.hours((now_ns - begin_ns) // HOUR_NS + 1)
    for day_ns in range(begin_ns, today + 1, DAY_NS):
        over = day_ns < today - (DAY_NS if leave else 0)
        with readings.merged_file(root, day_ns, DAY_NS, "day") if over and not leave else nullcontext(None) as add:
            for _, hour in zip(range(24 if day_ns < today else (now_ns - today) // HOUR_NS + 1), hours, strict=False):
                count += hour.count
                for quarter in hour.quarters if add else ():
                    add(quarter)
                if not over:
                    _in_pieces(root, hour.quarters, now_ns, now_ns - (readings.QUARTER_NS if leave else 0))
                if hour.begin_ns + HOUR_NS <= now_ns - leave * HOUR_NS:
                    hour_rows.put_last(root, hour.begin_ns + HOUR_NS, hour.last, began)
                    readings.put(root, hour_rows.hour_path(root, "hours", hour.begin_ns), hour.hour, "hours")
        if over:
            hour_rows.compact_hours(root, day_ns)
            roll_day(root, day_ns)
    return count


def _in_pieces(root, quarters: Sequence[pa.Table], now_ns: int, merged_ns: int) -> None:
    """A file a quarter of an hour that is over at `merged_ns`, then one a minute."""
    for quarter in quarters:
        stamps = quarter.column("read_utc_ns").to_numpy()
        begin = int(stamps[0] - stamps[0] % readings.QUARTER_NS)
        if begin + readings.QUARTER_NS <= merged_ns:
            with readings.merged_file(root, begin, readings.QUARTER_NS, TEXT["monitor"]) as add:
                for at in range(begin, begin + readings.QUARTER_NS, readings.BLOCK_NS):
                    add(quarter.filter(pa.array((stamps >= at) & (stamps < at + readings.BLOCK_NS))))
            continue
        for minute in range(begin, min(begin + readings.QUARTER_NS, now_ns - now_ns % MINUTE_NS), MINUTE_NS):
            some = quarter.filter(pa.array((stamps >= minute) & (stamps < minute + MINUTE_NS)))
            readings.write_table(root, readings.day_of(minute), some)


def same_as_the_monitors(servers: int = 4) -> None:
    """A day of a few servers made here, and by the monitor out of records: the same files with the same rows."""
    names, begin = [f"10.0.0.{i}:8000" for i in range(servers)], 1_795_651_200 * NS
    end = begin + DAY_NS + HOUR_NS + 1200 * NS
    with tempfile.TemporaryDirectory() as ours, tempfile.TemporaryDirectory() as theirs:
        make_month(ours, Fleet(names, begin), begin, end)
        root = open_root(theirs)
        for hour in Fleet(names, begin).hours(26):
            for quarter in hour.quarters:
                stamps = quarter.column("read_utc_ns").to_numpy()
                first = int(stamps[0] - stamps[0] % readings.QUARTER_NS)
                for minute in range(first, min(first + readings.QUARTER_NS, end), MINUTE_NS):
                    mask = pa.array((stamps >= minute) & (stamps < minute + MINUTE_NS))
                    readings.write(root, list(Rows(quarter.filter(mask), "readings")))
                if first + readings.QUARTER_NS <= end:
                    readings.compact_own(root, TEXT["monitor"], first, readings.QUARTER_NS)
        while roll_up(root, end, INTERVAL_S):
            pass
        assert keep_days(root, end, 400) == []
        _equal(Path(ours), Path(theirs))


def _equal(a: Path, b: Path) -> None:
    def files(folder: Path) -> dict[str, Path]:
        return {str(p.relative_to(folder)).rpartition("-")[0] if "readings" in str(p) else str(p.relative_to(folder)): p for p in sorted(folder.rglob("*.parquet"))}  # fmt: skip

    one, other = files(a), files(b)
    assert one.keys() == other.keys(), sorted(one.keys() ^ other.keys())
    for name, path in one.items():
        mine, theirs = pq.ParquetFile(path), pq.ParquetFile(other[name])
        groups = [[file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] for file in (mine, theirs)]
        assert groups[0] == groups[1], name
        rows, others = mine.read(), theirs.read()
        keys = [
            ("read_utc_ns" if "readings" in name or "last" in name else "from_utc_ns", "ascending"),
            ("server", "ascending"),
        ]
        rows, others = rows.sort_by(keys), others.sort_by(keys)
        for field in rows.schema:
            left, right = rows.column(field.name), others.column(field.name)
            if pa.types.is_floating(field.type):
                assert np.allclose(left.to_numpy(), right.to_numpy(), equal_nan=True), (name, field.name)
            else:
                assert left.equals(right), (name, field.name)
        assert rows.schema.metadata == others.schema.metadata, name
    print(f"a day of few servers: {len(one)} files the same as the monitor's own", flush=True)


# ---------------------------------------------------------------- what is asked of it

SQL = {
    "tokens of all by the hour": "SELECT date_trunc('hour', from_utc) AS hour, sum(output_tokens) FROM hours GROUP BY ALL ORDER BY 1",
    "the dearest servers of the month": "SELECT server, sum(output_tokens) AS tokens FROM hours GROUP BY ALL ORDER BY 2 LIMIT 20",
    "one server by the minute": "SELECT read_utc, output_tokens, running FROM readings WHERE server = '{server}' ORDER BY 1",
    "requests queued, by the hour, of all rows": "SELECT date_trunc('hour', read_utc), avg(waiting), max(kv_cache_use) FROM readings GROUP BY ALL",
}


def ask(folder: str, names: Sequence[str], begin_ns: int, now_ns: int) -> None:
    """Every window's figures as the monitor makes them, SQL, and the report with its files."""
    spec, root = config(names, folder), open_root(f"{folder}/monitor")
    recent = Recent(root, now_ns, INTERVAL_S)
    for name, from_ns in (
        ("1m", now_ns - MINUTE_NS),
        ("1h", now_ns - HOUR_NS),
        ("24h", now_ns - DAY_NS),
        ("month", begin_ns),
    ):
        figures = Figures(spec, root)
        with timed(f"figures of {name}"):
            figures.made(name, from_ns, now_ns, recent)
    for what, text in SQL.items():
        with timed(what):
            history.sql(f"{folder}/results", text.format(server=names[0]), f"{folder}/monitor")
    with timed("the report of the month, figures"):
        seen = period(spec, begin_ns, now_ns)
    with tempfile.TemporaryDirectory() as out, timed("  its files"):
        page.write(seen, Path(out))


@contextmanager
def timed(what: str) -> Iterator[None]:
    began, cpu_s = time.monotonic(), time.process_time()
    yield
    print(f"  {what}: {time.monotonic() - began:.2f} s, {time.process_time() - cpu_s:.2f} s of CPU", flush=True)


def month(servers: int, days: int, keep: str | None) -> None:
    """What is asked of a month: of the store in `keep`, or of one that is made there."""
    names = [f"10.0.{i // 250}.{i % 250}:8000" for i in range(servers)]
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(keep) as folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        span = Path(folder) / "span.json"
        if not span.is_file():
            same_as_the_monitors()
            now = time.time_ns() // MINUTE_NS * MINUTE_NS
            begin = now - now % DAY_NS - days * DAY_NS
            rows = make_month(f"{folder}/monitor", Fleet(names, begin), begin, now)
            span.write_text(json.dumps([begin, now, rows]))
        begin, now, rows = json.loads(span.read_text())
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        print(f"{servers} servers, {rows / 1e6:.1f} million rows, {size / 2**30:.2f} GiB", flush=True)
        ask(folder, names, begin, now)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--servers", type=int, default=500)
    words.add_argument("--days", type=int, default=30)
    words.add_argument("--keep", help="make the store here and leave it; one that is there is asked again")
    given = words.parse_args()
    month(given.servers, given.days, given.keep)


if __name__ == "__main__":
    main()
