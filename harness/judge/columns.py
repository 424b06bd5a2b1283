"""The requests frame as numpy arrays: what every number of a run is computed on.

Only rows of the measured phase. A nullable column becomes `Ints`: int64 values beside a mask, because a float cannot
hold a nanosecond stamp of a machine that has been up for more than 104 days.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.records import Outcome, Phase, RequestRecord, Window

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

NS = 1e9


@dataclass(frozen=True, slots=True)
class Ints:
    """A nullable integer column: `data` is 0 where `present` is False."""

    data: IntArray
    present: BoolArray

    def minus(self, other: Ints) -> FloatArray:
        """(self - other) in seconds, NaN where either is absent. Both must be ns."""
        return np.where(self.present & other.present, (self.data - other.data) / NS, np.nan)

    def floats(self) -> FloatArray:
        """As floats, NaN where absent. For counts, not for stamps."""
        return np.where(self.present, self.data.astype(np.float64), np.nan)

    def inside(self, window: Window) -> BoolArray:
        """Stamps with start < stamp <= end; absent ones are outside."""
        return self.present & (self.data > window.start_ns) & (self.data <= window.end_ns)


@dataclass(frozen=True, slots=True)
class Chunks:
    """All token-bearing chunks, flat, in row order.

    `stamp_ns[i]` and `tokens[i]` belong to row `row[i]`; `tokens` is NaN where no source tells. `first[r]` is the
    index of row r's first chunk and `count[r]` how many it has. `exact[r]`: the tokens of each of its chunks are
    known; otherwise usage was spread evenly over them, or they are NaN.
    """

    stamp_ns: IntArray
    tokens: FloatArray
    row: IntArray
    first: IntArray
    count: IntArray
    exact: BoolArray


@dataclass(frozen=True, slots=True)
class Requests:
    """The measured phase, one array entry a request. Names are the columns of RequestRecord."""

    ok: BoolArray
    outcome: npt.NDArray[np.object_]
    sent: Ints
    scheduled: Ints
    due: Ints
    first_token: Ints
    last_token: Ints
    ended: Ints
    released: Ints
    connect_started: Ints
    status: Ints
    session: Ints
    target_prompt: Ints
    target_output: Ints
    prompt: Ints
    cached: Ints
    output: Ints
    reasoning: Ints
    written_5m: Ints
    written_1h: Ints
    counted: Ints
    first_visible: Ints
    reasoning_chunks: Ints
    reasoning_hidden: Ints
    merged_reads: int
    reads: int
    chunks: Chunks

    @property
    def count(self) -> int:
        return len(self.ok)

    @property
    def is_closed(self) -> bool:
        """As Load.is_closed: nothing was scheduled."""
        return not self.scheduled.present.any()


def ints(frame: Any, name: str) -> Ints:
    """A column of nullable integers or truths; a column that is not there is absent everywhere."""
    if name not in frame:
        return Ints(np.zeros(len(frame), dtype=np.int64), np.zeros(len(frame), dtype=np.bool_))
    column = frame[name]
    if column.dtype in (object, "boolean"):  # an all-None column, Python integers, truths
        column = column.astype("Int64")
    present = column.notna().to_numpy(dtype=np.bool_)
    return Ints(column.fillna(0).to_numpy(dtype=np.int64), present)


def floats(frame: Any, name: str) -> FloatArray:
    """A column as floats, NaN where null; all NaN where the column is not there."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    return np.asarray(pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan))


def _lengths(column: Any) -> IntArray:
    """Length of each list, -1 where there is none."""
    sized = (len(c) if isinstance(c, np.ndarray | list | tuple) else -1 for c in column)
    return np.fromiter(sized, dtype=np.int64, count=len(column))


def _flat(column: Any) -> IntArray:
    lists = [c for c in column if isinstance(c, np.ndarray | list | tuple) and len(c)]
    return np.concatenate(lists).astype(np.int64, copy=False) if lists else np.zeros(0, dtype=np.int64)


def _chunks(stamps: Sequence[Any], tokens_of: Sequence[Any], output: Ints) -> Chunks:
    """`stamps` and `tokens_of`: the chunk_ns and chunk_tokens of each row."""
    n = len(stamps)
    count = np.maximum(_lengths(stamps), 0)
    known = (_lengths(tokens_of) == count) & (count > 0)
    # every token-bearing chunk holds at least one: as many chunks as tokens means one each
    singles = ~known & output.present & (output.data == count)
    each = np.full(n, np.nan)
    np.divide(output.data, count, out=each, where=output.present & (count > 0) & ~known)
    tokens = np.repeat(each, count)
    tokens[np.repeat(known, count)] = _flat([one for one, is_known in zip(tokens_of, known, strict=True) if is_known])
    first = np.cumsum(count) - count
    row = np.repeat(np.arange(n, dtype=np.int64), count)
    return Chunks(_flat(stamps), tokens, row, first, count, known | singles)


def measured(frame: Any) -> Requests:
    """The rows of `frame` (a DataFrame with the columns of RequestRecord) that belong to the measured phase."""
    rows = frame[frame["phase"] == Phase.MEASURE.value]
    stamps = rows["chunk_ns"].to_numpy(dtype=object)
    tokens_of = rows["chunk_tokens"].to_numpy(dtype=object) if "chunk_tokens" in rows else [None] * len(rows)
    return _requests(rows["outcome"].to_numpy(dtype=object), stamps, tokens_of, lambda name: ints(rows, name))


def of_records(rows: Sequence[RequestRecord]) -> Requests:
    """Records in memory, of any phase."""

    def column(name: str) -> Ints:
        values = [getattr(row, name) for row in rows]
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return Ints(np.array([value or 0 for value in values], dtype=np.int64), present)

    outcome = np.array([str(row.outcome) for row in rows], dtype=object)
    return _requests(outcome, [row.chunk_ns for row in rows], [row.chunk_tokens for row in rows], column)


def _requests(
    outcome: npt.NDArray[np.object_], stamps: Sequence[Any], tokens_of: Sequence[Any], column: Callable[[str], Ints]
) -> Requests:
    columns = {
        field: column(name)
        for field, name in (
            ("sent", "sent_ns"),
            ("scheduled", "scheduled_ns"),
            ("due", "due_ns"),
            ("first_token", "first_token_ns"),
            ("last_token", "last_token_ns"),
            ("ended", "ended_ns"),
            ("released", "released_ns"),
            ("connect_started", "connect_started_ns"),
            ("status", "http_status"),
            ("session", "session_id"),
            ("target_prompt", "target_prompt_tokens"),
            ("target_output", "target_output_tokens"),
            ("prompt", "prompt_tokens"),
            ("cached", "cached_prompt_tokens"),
            ("output", "output_tokens"),
            ("reasoning", "reasoning_tokens"),
            ("written_5m", "cache_written_5m_tokens"),
            ("written_1h", "cache_written_1h_tokens"),
            ("counted", "counted_output_tokens"),
            ("first_visible", "first_visible_ns"),
            ("reasoning_chunks", "reasoning_chunks"),
            ("reasoning_hidden", "reasoning_hidden"),
        )
    }
    return Requests(
        ok=outcome == Outcome.OK.value,
        outcome=outcome,
        merged_reads=int(column("merged_reads").data.sum()),
        reads=int(column("reads").data.sum()),
        chunks=_chunks(stamps, tokens_of, columns["output"]),
        **columns,
    )
