"""The requests frame as numpy arrays: what every number of a run is computed on.

Only rows of the measured phase. A nullable column becomes `Ints`: int64 values beside a mask, because a float cannot
hold a nanosecond stamp of a machine that has been up for more than 104 days.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from harness.records import Outcome, Phase, RequestRecord, RunData, Window
from harness.store.chunks import ChunkRows, from_values

IntArray = npt.NDArray[np.int64]
GapArray = npt.NDArray[Any]  # whole ns in 4 bytes each, in 8 where one does not fit
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
class Piece:
    """The chunks of some rows, flat, in row order: `stamp_ns[i]`, `gap_ns[i]` and `tokens[i]` belong to row `row[i]`.

    `gap_ns` is 0 for a row's first chunk, which `is_first` says; `tokens` is NaN where no source tells.
    """

    stamp_ns: IntArray
    gap_ns: GapArray
    is_first: BoolArray
    tokens: FloatArray
    row: IntArray


class Chunks:
    """All token-bearing chunks, made a piece at a time: all at once, in 64 bits, they would be most of a judge's memory.

    `count[r]`: how many chunks row r has. `exact[r]`: the tokens of each of them are known; otherwise usage was spread evenly over them, or they
    are NaN. `first_tokens[r]`: those of the first chunk, NaN where unknown or there is none.
    """

    def __init__(self, stored: Sequence[ChunkRows], use: BoolArray, output: Ints) -> None:
        """`use`: which of the stored rows are ours; `output` of those."""
        self._stored = stored
        at = np.cumsum([0, *(len(rows.count) for rows in stored)])
        self._use = [use[low:high] for low, high in zip(at, at[1:], strict=False)]
        self.count = _joined([rows.count[mine] for rows, mine in self._each()], np.int64)
        known = _joined([rows.known[mine] for rows, mine in self._each()], np.bool_)
        # every token-bearing chunk holds at least one: as many chunks as tokens means one each
        singles = ~known & output.present & (output.data == self.count)
        self._spread = np.full(len(self.count), np.nan)
        np.divide(output.data, self.count, out=self._spread, where=output.present & (self.count > 0) & ~known)
        self.exact: BoolArray = known | singles
        self.first_tokens = self._spread.copy()
        self.first_tokens[known] = np.concatenate(
            [np.zeros(0), *(_first_told(rows)[mine[rows.known]] for rows, mine in self._each())]
        )

    def _each(self) -> Iterator[tuple[ChunkRows, BoolArray]]:
        return zip(self._stored, self._use, strict=True)

    @property
    def total(self) -> int:
        return int(self.count.sum())

    def pieces(self) -> Iterator[Piece]:
        """Rows are whole in a piece."""
        before = 0
        for rows, mine in self._each():
            numbers = np.arange(before, before + int(mine.sum()), dtype=np.int64)
            before += len(numbers)
            yield _piece(rows, mine, numbers, self._spread[numbers])


def _joined(parts: Sequence[Any], kind: Any) -> Any:
    return np.concatenate([np.zeros(0, kind), *parts])


def _first_told(rows: ChunkRows) -> FloatArray:
    """Tokens of the first chunk of each row where they are known."""
    counts = rows.count[rows.known]
    told: FloatArray = rows.tokens[np.cumsum(counts) - counts].astype(np.float64)
    return told


def _piece(rows: ChunkRows, mine: BoolArray, numbers: IntArray, spread: FloatArray) -> Piece:
    each = np.zeros(len(mine))
    each[mine] = spread
    tokens = np.repeat(each, rows.count)
    tokens[np.repeat(rows.known, rows.count)] = rows.tokens
    number = np.zeros(len(mine), np.int64)
    number[mine] = numbers
    row, stamps = np.repeat(number, rows.count), rows.stamps_ns()
    first = np.zeros(len(row), np.bool_)
    first[(np.cumsum(rows.count) - rows.count)[rows.count > 0]] = True
    if mine.all():
        return Piece(stamps, rows.gaps_ns, first, tokens, row)
    keep = np.repeat(mine, rows.count)
    return Piece(stamps[keep], rows.gaps_ns[keep], first[keep], tokens[keep], row[keep])


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


def measured(frame: Any, chunks: Sequence[ChunkRows] | None = None) -> Requests:
    """The rows of `frame` (a DataFrame with the columns of RequestRecord) that belong to the measured phase. `chunks`: of the rows of the
    whole table, to whose places the frame's index points; without them the frame has chunk_ns."""
    rows = frame[frame["phase"] == Phase.MEASURE.value]
    if chunks is None or "chunk_ns" in rows:
        tokens_of = rows["chunk_tokens"].to_numpy(dtype=object) if "chunk_tokens" in rows else [None] * len(rows)
        chunks, use = [from_values(rows["chunk_ns"].to_numpy(dtype=object), tokens_of)], np.ones(len(rows), np.bool_)
    else:
        use = np.zeros(sum(len(piece.count) for piece in chunks), np.bool_)
        use[rows.index.to_numpy()] = True
    return _requests(_texts(rows["outcome"]), chunks, use, lambda name: ints(rows, name))


def measured_of(run: RunData) -> Requests:
    """The measured phase of a run, however it was read."""
    return measured(run.requests, run.chunks)


def _texts(column: Any) -> npt.NDArray[np.object_]:
    """A column of few different words, each of them one object."""
    codes, words = pd.factorize(column)
    each: npt.NDArray[np.object_] = np.asarray(words, dtype=object)[codes]
    return each


def of_records(rows: Sequence[RequestRecord]) -> Requests:
    """Records in memory, of any phase."""

    def column(name: str) -> Ints:
        values = [getattr(row, name) for row in rows]
        present = np.array([value is not None for value in values], dtype=np.bool_)
        return Ints(np.array([value or 0 for value in values], dtype=np.int64), present)

    outcome = np.array([str(row.outcome) for row in rows], dtype=object)
    chunks = [from_values([row.chunk_ns for row in rows], [row.chunk_tokens for row in rows])]
    return _requests(outcome, chunks, np.ones(len(rows), np.bool_), column)


def _requests(
    outcome: npt.NDArray[np.object_], chunks: Sequence[ChunkRows], use: BoolArray, column: Callable[[str], Ints]
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
        chunks=Chunks(chunks, use, columns["output"]),
        **columns,
    )
