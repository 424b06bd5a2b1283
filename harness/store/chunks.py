"""The stamps of chunks as they are judged: of some rows together, flat, in 4 bytes a chunk.

A list of Python or NumPy objects a reply is 60 bytes a token and more; a run of 10^9 tokens has to fit into the machine that judges it. Nothing
is rounded: a stamp is its reply's first stamp and the whole nanoseconds between chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

_NONE = -1  # length of a list that is null

Ints = npt.NDArray[Any]  # of the width that its values need


@dataclass(frozen=True, slots=True)
class ChunkRows:
    """The chunks of rows that follow each other, `count` of each row.

    `gaps_ns`: of each chunk, since the chunk before it in its row, 0 for a row's first, whose stamp is `first_ns`. `tokens`: of each chunk of the
    rows where they are `known`, as the server told them.
    """

    count: npt.NDArray[np.int64]
    first_ns: npt.NDArray[np.int64]
    gaps_ns: Ints
    known: npt.NDArray[np.bool_]
    tokens: Ints

    def stamps_ns(self) -> npt.NDArray[np.int64]:
        """Of each chunk."""
        since = np.cumsum(self.gaps_ns, dtype=np.int64)
        has = self.count > 0
        before = np.zeros(len(self.count), np.int64)
        before[has] = since[(np.cumsum(self.count) - self.count)[has]]
        return since + np.repeat(self.first_ns - before, self.count)


def from_columns(stamps: Any, tokens: Any) -> ChunkRows:
    """Of the columns chunk_ns and chunk_tokens, as pyarrow.ListArrays."""
    return _rows(_lengths(stamps), _flat(stamps), _lengths(tokens), _flat(tokens))


def from_values(stamps: Sequence[Any], tokens: Sequence[Any]) -> ChunkRows:
    """Of lists, tuples or arrays, one a row; whatever else stands there is none."""
    return _rows(*_lists(stamps), *_lists(tokens))


def _lengths(column: Any) -> Any:
    return pc.fill_null(pc.list_value_length(column), _NONE).to_numpy(zero_copy_only=False).astype(np.int64)


def _flat(column: Any) -> Any:
    return column.flatten().to_numpy(zero_copy_only=False)


def _lists(column: Sequence[Any]) -> tuple[Any, Any]:
    """(length of each, _NONE where there is none; all values in a row)."""
    lists = [c if isinstance(c, np.ndarray | list | tuple) else None for c in column]
    lengths = np.fromiter((_NONE if c is None else len(c) for c in lists), np.int64, len(lists))
    full = [c for c in lists if c is not None and len(c)]
    return lengths, np.concatenate(full).astype(np.int64, copy=False) if full else np.zeros(0, np.int64)


def _rows(count: Any, stamps: Any, told: Any, tokens: Any) -> ChunkRows:
    """`told`: how many chunks of each row the server gave tokens of, _NONE where it gave none."""
    count = np.maximum(count, 0)
    known = (told == count) & (count > 0)
    has, at = count > 0, np.cumsum(count) - count
    first = np.zeros(len(count), np.int64)
    first[has] = stamps[at[has]]
    gaps = np.diff(stamps, prepend=stamps[:1])
    gaps[at[has]] = 0
    if not known.all():
        tokens = tokens[np.repeat(known, np.maximum(told, 0))]
    return ChunkRows(count, first, _narrow(gaps, np.int32), known, _narrow(tokens, np.uint8))


def _narrow(values: Any, kind: type[np.integer[Any]]) -> Ints:
    """As `kind` where that holds them all; one value in memory where they are all the same, as tokens of a chunk mostly are."""
    if not len(values):
        return np.zeros(0, kind)
    least, most, limits = values.min(), values.max(), np.iinfo(kind)
    fits = limits.min <= least and most <= limits.max
    if least == most:
        return np.broadcast_to(np.asarray(least, kind if fits else np.int64), len(values))
    return np.asarray(values, kind if fits else np.int64)
