"""Rows -> Arrow -> pandas keeps every value."""

from __future__ import annotations

import typing
from dataclasses import fields

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_values import T0, request

from harness.base.errors import StoreError
from harness.store.columns import to_table
from harness.store.parts import write_file
from harness.store.reader import frame_of
from harness.store.schema import TABLES

INT64 = st.integers(-(2**63), 2**63 - 1)
BY_HINT = {
    int: INT64,
    float: st.floats(allow_nan=False),
    bool: st.booleans(),
    str: st.text(st.characters(exclude_categories=("Cs",)), max_size=5),
    tuple[int, ...]: st.lists(INT64, max_size=4).map(tuple),
}


def _values(hint):
    if hint in BY_HINT:
        return BY_HINT[hint]
    return st.none() | BY_HINT[next(a for a in typing.get_args(hint) if a is not type(None))]


def rows_of(record):
    hints = typing.get_type_hints(record)
    return st.lists(st.builds(record, **{f.name: _values(hints[f.name]) for f in fields(record)}), max_size=4)


def _same(seen, given) -> bool:
    if given is None:
        return seen is None or seen is pd.NA
    if isinstance(given, tuple):
        return isinstance(seen, np.ndarray) and seen.dtype == np.int64 and tuple(seen.tolist()) == given
    return seen == given and (not isinstance(given, int) or isinstance(given, bool) or int(seen) == given)


@pytest.mark.parametrize("table", TABLES)
def test_round_trip_is_exact(table, tmp_path_factory):
    """Any storable records come back from Parquet value for value, by our reader's frame and by plain pandas."""
    path = tmp_path_factory.mktemp("columns") / f"{table}.parquet"

    @settings(max_examples=15, deadline=None)
    @given(rows=rows_of(TABLES[table]))
    def check(rows: list) -> None:
        write_file(path, table, to_table(table, rows))
        for frame in (frame_of(table, rows), pd.read_parquet(path)):
            assert len(frame) == len(rows)
            for f in fields(TABLES[table]):
                wanted = [getattr(row, f.name) for row in rows]
                assert all(_same(a, b) for a, b in zip(frame[f.name].tolist(), wanted, strict=True)), f.name

    check()


def test_nullable_nanoseconds_stay_integers():
    """A null in a column of stamps does not round the others to floats."""
    frame = frame_of("requests", [request(0), request(1, sent_ns=None)])
    assert str(frame["sent_ns"].dtype) == "Int64"
    assert frame["sent_ns"][0] == T0 + 1
    assert frame["sent_ns"][1] is pd.NA


def test_empty_list_and_null_list_differ():
    """No chunks and unknown chunk sizes are different things."""
    frame = frame_of("requests", [request(0, chunks=0), request(1, chunk_tokens=None)])
    assert len(frame["chunk_tokens"][0]) == 0
    assert frame["chunk_tokens"][1] is None
    assert len(frame["chunk_ns"][1]) == 3


def test_what_a_hostile_server_sends_is_stored_as_a_row():
    """A lone surrogate and a usage count beyond int64 cost the value, which the row's error names, and no other row."""
    rows = [
        request(0),
        request(1, finish_reason="\ud800x", prompt_tokens=10**30),
        request(2, output_tokens="3", error="e"),
    ]
    frame = frame_of("requests", rows)
    assert frame["seq"].tolist() == [0, 1, 2]
    assert frame["finish_reason"][1] == "?x"
    assert frame["prompt_tokens"].tolist() == [10, pd.NA, 10]
    assert frame["error"][1].startswith("prompt_tokens not storable: 10000")
    assert frame["error"][2] == "e; output_tokens not storable: '3'"


@pytest.mark.parametrize("bad", [{"seq": None}, {"seq": 2**63}, {"chunk_ns": None}, {"outcome": None}, {"reads": "x"}])
def test_impossible_values_that_may_not_be_null_are_refused(bad):
    """A value that can be neither stored nor null is a StoreError naming its column."""
    with pytest.raises(StoreError) as caught:
        to_table("requests", [request(0), request(1, **bad)])
    assert next(iter(bad)) in caught.value.value
