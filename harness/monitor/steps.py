"""Usages cut into equal steps, a column at a time: a month of 500 servers is 360,000 rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.base.clock import HOUR_NS
from harness.records import HourUsage, ServerUsage
from harness.store.monitor_rows import Rows

COUNTED = ("requests", "prompt_tokens", "cached_tokens", "output_tokens", "preemptions")
COLUMNS = ("from_utc_ns", "pool", "server", "model", "tenant", "covered_s", "gap_s", *COUNTED)  # of an hour's row
Key = tuple[str, str, str, str]  # pool, server, model, tenant

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Steps:
    """Rows in no order. `key`: index into `keys`. `counters`: rows x COUNTED, NaN where a page does not say. `there_s`: covered and gap."""

    keys: tuple[Key, ...]
    key: IntArray
    from_ns: IntArray
    to_ns: IntArray
    covered_s: FloatArray
    there_s: FloatArray
    counters: FloatArray

    def __len__(self) -> int:
        return len(self.key)

    def of(self, name: str) -> FloatArray:
        """A counter's increases."""
        column: FloatArray = self.counters[:, COUNTED.index(name)]
        return column

    def told(self) -> npt.NDArray[np.bool_]:
        """Rows of servers of which a page was read."""
        return np.asarray(~np.isnan(self.counters).all(axis=1), np.bool_)

    def pools(self) -> npt.NDArray[np.object_]:
        """The pool of each row."""
        return np.array([key[0] for key in self.keys] or [""], dtype=object)[self.key]


def steps_of(usages: Sequence[ServerUsage] | Steps) -> Steps:
    """Usages as columns, if they are not yet."""
    if isinstance(usages, Steps):
        return usages
    codes: dict[Key, int] = {}
    key = [codes.setdefault((u.pool, u.server, u.model, u.tenant), len(codes)) for u in usages]
    numbers = [[np.nan if (v := u.counters.get(name)) is None else v for name in COUNTED] for u in usages]
    return Steps(
        tuple(codes),
        np.array(key, np.int64),
        np.array([u.from_ns for u in usages], np.int64),
        np.array([u.to_ns for u in usages], np.int64),
        np.array([u.covered_s for u in usages], np.float64),
        np.array([u.covered_s + u.gap_s for u in usages], np.float64),
        np.array(numbers, np.float64).reshape(len(usages), len(COUNTED)),
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
        key.reshape(-1).astype(np.int64),
        begin,
        begin + HOUR_NS,
        covered,
        covered + rows.numbers("gap_s"),
        np.column_stack([rows.numbers(name) for name in COUNTED]),
    )


def joined_steps(parts: Sequence[Steps]) -> Steps:
    """All rows of several."""
    codes: dict[Key, int] = {}
    keys = []
    for part in parts:
        place = np.array([codes.setdefault(key, len(codes)) for key in part.keys], np.int64)
        keys.append(place[part.key] if len(part) else part.key)
    if not parts:
        return steps_of([])
    columns = [
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("from_ns", "to_ns", "covered_s", "there_s", "counters")
    ]
    return Steps(tuple(codes), np.concatenate(keys), *columns)
