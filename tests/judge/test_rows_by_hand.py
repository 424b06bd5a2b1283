"""Columns, per-request metrics and distributions of a run against plain loops over its rows."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from harness.judge.columns import Chunks, Ints, floats, ints, measured, of_records
from harness.judge.metrics import NAMES, chunk_gaps, distribution, distributions, min_count, per_request
from harness.records import Distribution, RequestRecord, Window
from tests.judge.run_builder import failed, frame, ns, request

ROWS = [
    replace(request(0, 1.0, scheduled_s=0.5, tokens=5), session_id=3, cached_prompt_tokens=7, reasoning_tokens=2, merged_reads=1),
    replace(request(1, 2.0, scheduled_s=1.5, tokens=4), chunk_tokens=(2, 1, 1, 3), output_tokens=7, first_visible_ns=ns(2.2)),
    replace(request(2, 3.0, tokens=4), chunk_tokens=None, counted_output_tokens=None, output_tokens=8),
    replace(request(3, 3.5, tokens=3), chunk_tokens=None, counted_output_tokens=None),
    replace(request(4, 4.0, tokens=3), chunk_tokens=None, counted_output_tokens=None, output_tokens=None),
    replace(request(5, 5.0, scheduled_s=4.9, tokens=6), outcome="truncated", merged_reads=2),
    failed(request(6, 6.0, scheduled_s=5.9)),
    failed(request(7, 7.0, scheduled_s=6.9), "dropped", sent=False),
    request(-1, 0.0, phase="warmup"),
    replace(request(8, 8.0, scheduled_s=7.9, tokens=1), output_tokens=2, prompt_tokens=None, target_prompt_tokens=64, target_output_tokens=9),
]  # fmt: skip
KEPT = [r for r in ROWS if r.phase == "measure"]
REQUESTS = measured(frame(ROWS, RequestRecord))
COLUMNS = {
    "sent": "sent_ns", "scheduled": "scheduled_ns", "due": "due_ns", "first_token": "first_token_ns", "last_token": "last_token_ns",
    "ended": "ended_ns", "session": "session_id", "target_prompt": "target_prompt_tokens", "target_output": "target_output_tokens",
    "prompt": "prompt_tokens", "cached": "cached_prompt_tokens", "output": "output_tokens", "reasoning": "reasoning_tokens",
    "counted": "counted_output_tokens", "first_visible": "first_visible_ns", "reasoning_chunks": "reasoning_chunks", "reasoning_hidden": "reasoning_hidden",
}  # fmt: skip


def listed(column: Ints) -> list:
    return [int(v) if there else None for v, there in zip(column.data, column.present, strict=True)]


def seconds(later_ns, earlier_ns):
    return None if None in (later_ns, earlier_ns) else (later_ns - earlier_ns) / 1e9


def flat(chunks: Chunks, name: str) -> np.ndarray:
    """One of the pieces' arrays, whole."""
    return np.concatenate([getattr(piece, name) for piece in chunks.pieces()])


def same(found, expected):
    """Element by element, NaN where None is expected."""
    return np.asarray(found, float).tolist() == pytest.approx(
        [math.nan if v is None else v for v in expected], nan_ok=True
    )


def test_records_in_memory_are_the_same_as_their_frame():
    """Every array of the rows of the phase, their chunks too."""
    found, chunks = of_records(KEPT), of_records(KEPT).chunks
    for name in ("ok", "outcome", "merged_reads", "reads"):
        np.testing.assert_array_equal(getattr(found, name), getattr(REQUESTS, name))
    for name in COLUMNS:
        assert listed(getattr(found, name)) == listed(getattr(REQUESTS, name))
    for name in ("first_tokens", "count", "exact"):
        np.testing.assert_array_equal(getattr(chunks, name), getattr(REQUESTS.chunks, name))
    for name in ("stamp_ns", "gap_ns", "is_first", "tokens", "row"):
        np.testing.assert_array_equal(flat(chunks, name), flat(REQUESTS.chunks, name))
    assert of_records([]).count == 0


def test_every_column_of_the_measured_rows():
    """Each as the rows have it, 0 where absent; outcomes, reads and merged reads."""
    for name, column in COLUMNS.items():
        assert listed(getattr(REQUESTS, name)) == [getattr(r, column) for r in KEPT], name
        assert not getattr(REQUESTS, name).data[~getattr(REQUESTS, name).present].any()
        assert getattr(REQUESTS, name).data.dtype == np.int64
    assert REQUESTS.ok.tolist() == [r.outcome == "ok" for r in KEPT]
    assert REQUESTS.outcome.tolist() == [r.outcome for r in KEPT]
    assert (REQUESTS.merged_reads, REQUESTS.reads, REQUESTS.count) == (3, sum(r.reads for r in KEPT), 9)


def test_every_chunk():
    """Its stamp, row and tokens: as told, else the usage spread evenly, else NaN; which rows are exact."""
    chunks = REQUESTS.chunks
    every = [(stamp, row) for row, r in enumerate(KEPT) for stamp in r.chunk_ns]
    assert list(zip(flat(chunks, "stamp_ns").tolist(), flat(chunks, "row").tolist(), strict=True)) == every
    tokens = [1.0] * 5 + [2.0, 1.0, 1.0, 3.0] + [2.0] * 4 + [1.0] * 3 + [None] * 3 + [1.0] * 6 + [1.0]
    assert same(flat(chunks, "tokens"), tokens)
    firsts = np.cumsum([0, *chunks.count[:-1]])
    assert same(chunks.first_tokens, [tokens[at] if n else None for at, n in zip(firsts, chunks.count, strict=True)])
    assert np.flatnonzero(flat(chunks, "is_first")).tolist() == [0, 5, 9, 13, 16, 19, 25]
    assert chunks.count.tolist() == [len(r.chunk_ns) for r in KEPT]
    assert chunks.exact.tolist() == [True, True, False, True, False, True, False, False, True]


def test_frames_that_lack_columns():
    """A column that is not there is absent everywhere; chunks without their tokens are spread or single."""
    table = frame(ROWS, RequestRecord).drop(columns=["chunk_tokens", "merged_reads", "reads", "session_id"])
    found = measured(table)
    assert (found.merged_reads, found.reads) == (0, 0)
    assert listed(found.session) == [None] * 9
    assert found.session.data.dtype == np.int64
    assert found.chunks.exact.tolist() == [True, False, False, True, False, True, False, False, False]
    assert same(flat(found.chunks, "tokens")[5:9], [7 / 4] * 4)
    assert same(floats(table, "reads"), [None] * 10)
    assert same(floats(table, "prompt_tokens"), [r.prompt_tokens for r in ROWS])
    objects = table.assign(x=np.array([None, 3] * 5, dtype=object), y="word")
    assert listed(ints(objects, "x")) == [None, 3] * 5
    assert same(floats(objects, "y"), [None] * 10)
    assert flat(measured(table.iloc[:0]).chunks, "stamp_ns").tolist() == []


def test_differences_and_windows_of_columns():
    """Seconds where both are there; stamps after the start and up to the end."""
    a = Ints(np.array([3_000_000_000, 5, 0, 0]), np.array([True, True, False, True]))
    b = Ints(np.array([1_000_000_000, 0, 7, 0]), np.array([True, False, True, True]))
    assert same(a.minus(b), [2.0, None, None, 0.0])
    assert same(b.minus(a), [-2.0, None, None, 0.0])
    assert same(a.floats(), [3e9, 5.0, None, 0.0])
    window = Window(-1, 5, "", 1, 0, 0)
    assert a.inside(window).tolist() == [False, True, False, True]
    assert a.inside(replace(window, start_ns=0)).tolist() == [False, True, False, False]
    assert a.inside(replace(window, end_ns=4)).tolist() == [False, False, False, True]


def test_metrics_of_each_request():
    """By their formulas, row by row."""
    found = per_request(REQUESTS, 0.004)
    assert set(found) == {
        "send_lag_s",
        "ttft_s",
        "ttft_less_path_s",
        "ttft_from_schedule_s",
        "ttfvt_s",
        "tpot_s",
        "e2el_s",
        "prompt_tokens",
        "output_tokens",
    }
    assert same(found["send_lag_s"], [seconds(r.sent_ns, r.scheduled_ns) for r in KEPT])
    assert same(found["ttft_s"], [seconds(r.first_token_ns, r.sent_ns) for r in KEPT])
    less = (seconds(r.first_token_ns, r.sent_ns) for r in KEPT)
    assert same(found["ttft_less_path_s"], [None if one is None else one - 0.004 for one in less])
    assert np.isnan(per_request(REQUESTS)["ttft_less_path_s"]).all()
    assert same(found["ttft_from_schedule_s"], [seconds(r.first_token_ns, r.scheduled_ns) for r in KEPT])
    assert same(found["ttfvt_s"], [seconds(r.first_visible_ns, r.sent_ns) for r in KEPT])
    assert same(found["e2el_s"], [seconds(r.last_token_ns, r.sent_ns) if r.outcome == "ok" else None for r in KEPT])
    assert same(found["prompt_tokens"], [r.prompt_tokens for r in KEPT])
    assert same(found["output_tokens"], [r.output_tokens for r in KEPT])
    # 4 gaps for the 2 of 5 tokens that were streamed after the first, 3 for the 5 after a chunk of two, 3 for 7 after the first, 2 for 2; 5 for 5; one token after none
    assert same(found["tpot_s"], [0.02, 0.03 / 5, 0.03 / 7, 0.01, None, 0.01, None, None, 0.0])


def test_a_distribution_as_a_whole():
    """Count, mean, percentiles between order statistics where five are beyond, the largest; NaN is left out; nothing is None."""
    values = np.array([math.nan, *(float(v * v) for v in range(500))])
    seen = sorted(values[1:])

    def at(p):
        low = math.floor(p * 499)
        return pytest.approx(seen[low] + (p * 499 - low) * (seen[low + 1] - seen[low]))

    assert distribution("tpot_s", values) == Distribution(
        "tpot_s", "s", 500, pytest.approx(sum(seen) / 500), at(0.5), at(0.9), at(0.95), at(0.99), 249001.0
    )
    assert distribution("output_tokens", np.array([3.0, 5.0])) == Distribution(
        "output_tokens", "tokens", 2, 4.0, None, None, None, None, 5.0
    )
    assert distribution("ttft_s", np.full(3, math.nan)) == Distribution("ttft_s", "s", 0, *[None] * 6)
    assert distribution("ttft_s", values[1:11]).p50 is not None
    assert [min_count(p) for p in (0.0, 0.25, 0.9, 0.999)] == [5, 7, 50, 5000]
    assert NAMES == (
        "send_lag_s",
        "ttft_s",
        "ttft_from_schedule_s",
        "ttft_less_path_s",
        "ttfvt_s",
        "tpot_s",
        "itl_s",
        "icl_s",
        "e2el_s",
        "prompt_tokens",
        "output_tokens",
    )


@pytest.mark.parametrize(
    ("window", "count", "one_each"),
    [
        (Window(ns(0.0), ns(1.2), "", 1, 0, 0), 4, True),
        (Window(ns(1.06), ns(1.08), "", 1, 0, 0), 2, True),  # after its start, up to its end
        (Window(ns(1.0), ns(2.3), "", 1, 0, 0), 7, False),
        (Window(ns(2.9), ns(3.3), "", 1, 0, 0), 3, False),
        (Window(ns(3.4), ns(3.9), "", 1, 0, 0), 2, True),
        (Window(ns(3.4), ns(4.5), "", 1, 0, 0), 4, False),
        (Window(ns(4.9), ns(9.0), "", 1, 0, 0), 0, True),  # a truncated reply has none
    ],
)
def test_gaps_between_chunks(window, count, one_each):
    """Of one ok request, their later stamp in the window; ITL too where each chunk of those replies held one token."""
    gaps, single = chunk_gaps(REQUESTS, window)
    expected = [
        b - a
        for r in KEPT
        if r.outcome == "ok"
        for a, b in pairwise(r.chunk_ns)
        if window.start_ns < b <= window.end_ns
    ]
    assert len(expected) == count
    assert gaps.tolist() == expected
    assert single is one_each
    few = measured(frame([request(0, 1.0, tokens=1)], RequestRecord))
    assert (chunk_gaps(few, window)[0].tolist(), chunk_gaps(few, window)[1]) == ([], False)
    two = measured(frame([request(0, 1.0, tokens=2)], RequestRecord))
    assert chunk_gaps(two, Window(ns(0), ns(9), "", 1, 0, 0)) == ([10_000_000], True)


def test_distributions_of_a_window():
    """Each metric over the population; chunks by their own stamps; no window, no chunks."""
    values, window = per_request(REQUESTS), Window(ns(0.9), ns(2.5), "", 1, 0, 0)
    population = REQUESTS.ok & REQUESTS.sent.inside(window)
    found = distributions(REQUESTS, values, window, population)
    assert tuple(found) == NAMES
    for name in values:
        assert found[name] == distribution(name, values[name][population])
    assert found["ttft_s"].count == 2
    assert (found["icl_s"].metric, found["icl_s"].count, found["itl_s"].metric, found["itl_s"].count) == (
        "icl_s",
        7,
        "itl_s",
        0,
    )
    single = distributions(REQUESTS, values, replace(window, end_ns=ns(1.5)), population)
    assert (single["itl_s"].count, single["icl_s"].count) == (4, 4)
    assert [distributions(REQUESTS, values, None, population)[name].count for name in ("icl_s", "itl_s", "ttft_s")] == [
        0,
        0,
        2,
    ]
