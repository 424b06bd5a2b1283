"""Usages cut into equal steps, a column at a time: a month of 500 servers is 360,000 rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.base.clock import HOUR_NS
from harness.records import HourUsage, ServerUsage
from harness.store.monitor_rows import Rows

COUNTED = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "preemptions")
COLUMNS = ("from_utc_ns", "pool", "server", "model", "tenant", "covered_s", "gap_s", *COUNTED)  # of an hour's row
_COLUMNS = ("key", "from_ns", "to_ns", "covered_s", "there_s")
_ROWS_AT_ONCE = 50_000
Key = tuple[str, str, str, str]  # pool, server, model, tenant

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Steps:
    """Rows, by time where they are of a store. `key`: index into `keys`. `counters`: a column of each of COUNTED, NaN where a page does not say. `there_s`: covered and gap."""

    keys: tuple[Key, ...]
    key: npt.NDArray[np.int32]
    from_ns: IntArray
    to_ns: IntArray
    covered_s: FloatArray
    there_s: FloatArray
    counters: Mapping[str, FloatArray]

    def __len__(self) -> int:
        return len(self.key)

    def of(self, name: str) -> FloatArray:
        """A counter's increases."""
        return self.counters[name]

    def told(self) -> npt.NDArray[np.bool_]:
        """Rows of servers of which a page was read."""
        return self._told(slice(None))

    def _told(self, some: slice) -> npt.NDArray[np.bool_]:
        unknown = np.logical_and.reduce([np.isnan(column[some]) for column in self.counters.values()])
        return np.asarray(~unknown, np.bool_)

    def told_of(self, pool: str) -> Iterator[IntArray]:
        """Those of a pool, by their places, some thousands at a time."""
        of_pool = np.array([key[0] == pool for key in self.keys], np.bool_)
        for at in range(0, len(self), _ROWS_AT_ONCE):
            some = slice(at, at + _ROWS_AT_ONCE)
            yield at + np.flatnonzero(of_pool[self.key[some]] & self._told(some))

    def spans(self) -> list[tuple[int, int]]:
        """Begin and end of every step that there is a row of, each once."""
        order = np.flatnonzero(
            np.diff(self.from_ns, prepend=-1) | np.diff(self.to_ns, prepend=-1)
        )  # neighbours are alike
        return sorted(set(zip(self.from_ns[order].tolist(), self.to_ns[order].tolist(), strict=True)))


def steps_of(usages: Sequence[ServerUsage] | Steps) -> Steps:
    """Usages as columns, if they are not yet."""
    if isinstance(usages, Steps):
        return usages
    codes: dict[Key, int] = {}
    key = [codes.setdefault((u.pool, u.server, u.model, u.tenant), len(codes)) for u in usages]
    numbers = {name: [np.nan if (v := u.counters.get(name)) is None else v for u in usages] for name in COUNTED}
    return Steps(
        tuple(codes),
        np.array(key, np.int32),
        np.array([u.from_ns for u in usages], np.int64),
        np.array([u.to_ns for u in usages], np.int64),
        np.array([u.covered_s for u in usages], np.float64),
        np.array([u.covered_s + u.gap_s for u in usages], np.float64),
        {name: np.array(column, np.float64) for name, column in numbers.items()},
    )


def steps_of_hours(rows: Rows[HourUsage]) -> Steps:
    """Whole hours out of a store, of which COLUMNS are enough."""
    if not len(rows):
        return steps_of([])
    texts = [rows.words(name) for name in ("pool", "server", "model", "tenant")]
    sizes = [len(names) for _, names in texts]
    together = np.ravel_multi_index([codes for codes, _ in texts], sizes)
    unique, key = np.unique(together, return_inverse=True)
    places = zip(*(column.tolist() for column in np.unravel_index(unique, sizes)), strict=True)
    names = [[names[code] for (_, names), code in zip(texts, one, strict=True)] for one in places]
    begin = rows.stamps("from_utc_ns")
    covered = rows.numbers("covered_s")
    return Steps(
        tuple((pool, server, model, tenant) for pool, server, model, tenant in names),
        key.reshape(-1).astype(np.int32),
        begin,
        begin + HOUR_NS,
        covered,
        covered + rows.numbers("gap_s"),
        {name: rows.numbers(name) for name in COUNTED},
    )


def joined_steps(parts: list[Steps]) -> Steps:
    """All rows of several. `parts` are gone then: a month of them is not to be in memory twice."""
    codes: dict[Key, int] = {}
    columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *COUNTED)}
    parts = parts or [steps_of([])]
    while parts:
        part = parts.pop(0)
        place = np.array([codes.setdefault(key, len(codes)) for key in part.keys], np.int32)
        columns["key"].append(place[part.key] if len(part) else part.key)
        for name in _COLUMNS[1:]:
            columns[name].append(getattr(part, name))
        for name in COUNTED:
            columns[name].append(part.counters[name])
        del part
    whole = {name: np.concatenate(columns.pop(name)) for name in list(columns)}
    return Steps(tuple(codes), counters={name: whole.pop(name) for name in COUNTED}, **whole)
