"""read_trace: every column and note of what is kept of a file, for each option."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.streams import Purpose, at, key, raw, uniform
from harness.measure.plan.traces.formats import Layout
from harness.measure.plan.traces.reading import Trace, _Sessions, read_trace, refuse_gaps, spread_ticks
from harness.measure.plan.workload import Options

PLAIN = Layout("plain CSV", "csv", "prompt_tokens", "output_tokens", "arrival_s", "s", "session")
ROWS = [(2.0, 10, 1, "a"), (2.5, 20, 2, "b"), (4.0, 30, 3, "a"), (6.0, 40, 4, ""), (6.0, 50, 5, "c")]


@pytest.fixture
def path(tmp_path):
    lines = ["arrival_s,prompt_tokens,output_tokens,session", *(",".join(map(str, row)) for row in ROWS)]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path / "t.csv"


def read(path, wanted=None, context_limit=None, seed=0, **options):
    found = read_trace(path, Options(**options), seed=seed, wanted=wanted, context_limit_tokens=context_limit)
    return [value.tolist() if isinstance(value, np.ndarray) else value for value in
            (found.time_ns, found.prompt, found.output, found.session, found.pairs, found.line, found.think_ns, found.notes)]  # fmt: skip


def test_a_whole_file(path):
    """All rows: times from the first, sessions numbered as they appear (a row without one is its own), lines of the file."""
    assert read_trace(path, Options(), seed=0, wanted=None, context_limit_tokens=None).layout == PLAIN
    assert read(path) == [
        [0, 500_000_000, 2_000_000_000, 4_000_000_000, 4_000_000_000],
        [10, 20, 30, 40, 50],
        [1, 2, 3, 4, 5],
        [0, 1, 0, 2, 3],
        None,
        [2, 3, 4, 5, 6],
        None,
        ("trace: plain CSV, 5 of 5 rows read",),
    ]


@pytest.mark.parametrize(
    ("options", "lines", "times_s", "read_rows"),
    [
        ({"from_s": 0.5}, [3, 4, 5, 6], [0, 1.5, 3.5, 3.5], 5),
        ({"from_s": 0.25}, [3, 4, 5, 6], [0.25, 1.75, 3.75, 3.75], 5),  # a slice begins at its edge
        ({"to_s": 2.0}, [2, 3], [0, 0.5], 3),
        ({"to_s": 2.001}, [2, 3, 4], [0, 0.5, 2], 4),
        ({"from_s": 0.0, "to_s": 4.0}, [2, 3, 4], [0, 0.5, 2], 4),
        ({"limit": 2}, [2, 3], [0, 0.5], 2),
        ({"limit": 2, "from_s": 1.0}, [4, 5], [1, 3], 4),
        ({"limit": 9}, [2, 3, 4, 5, 6], [0, 0.5, 2, 4, 4], 5),
    ],
)
def test_slices(path, options, lines, times_s, read_rows):
    """from belongs to the slice, to does not; a limit counts what is kept, and no more of the file is read."""
    time_ns, prompt, _, _, _, line, _, notes = read(path, **options)
    assert line == lines
    assert prompt == [10 * (n - 1) for n in lines]
    assert time_ns == [s * 1e9 for s in times_s]
    assert notes == (f"trace: plain CSV, {len(lines)} of {read_rows} rows read",)


def test_the_first_rows_that_are_wanted(path):
    """As many as the plan needs, or the limit; what the file does not hold is an error that says how many there are."""
    assert read(path, wanted=3)[5] == [2, 3, 4]
    assert read_trace(path, Options(limit=2), seed=0, wanted=3, context_limit_tokens=None).line.tolist() == [2, 3]
    assert read_trace(path, Options(limit=9), seed=0, wanted=5, context_limit_tokens=None).line.tolist() == [
        2,
        3,
        4,
        5,
        6,
    ]
    for options in (Options(), Options(limit=9)):
        with pytest.raises(ConfigError, match="shorter than asked") as caught:
            read_trace(path, options, seed=0, wanted=6, context_limit_tokens=None)
        assert caught.value.value == f"{path}: 5 usable rows, 6 requests asked for"


def test_a_slice_still_knows_earlier_sessions(path):
    """Numbers of sessions do not depend on where the slice begins."""
    assert read(path, from_s=1.0)[3] == [0, 2, 3]


def test_a_context_limit(path):
    """Prompt and output that just fit are kept; others are dropped, or their prompt cut to what the output leaves."""
    note = "trace: context limit {} tokens: {} longer requests dropped, {} prompts cut"
    found = read(path, context_limit=44)
    assert (found[1], found[7][1:]) == ([10, 20, 30, 40], (note.format(44, 1, 0),))
    assert found[7][0] == "trace: plain CSV, 4 of 5 rows read"
    assert read(path, context_limit=55)[7] == ("trace: plain CSV, 5 of 5 rows read",)
    found = read(path, context_limit=32, context="truncate")
    assert (found[1], found[2], found[7][1:]) == ([10, 20, 29, 28, 27], [1, 2, 3, 4, 5], (note.format(32, 0, 3),))
    found = read(path, context_limit=4, context="truncate")  # an output that leaves no prompt is dropped in any case
    assert (found[1], found[7][1:]) == ([3, 2, 1], (note.format(4, 2, 3),))
    with pytest.raises(ConfigError, match="no row of the trace is left") as caught:
        read(path, context_limit=3)
    assert caught.value.value == f"{path}: 5 rows read, 5 above the context limit, 0 bad"


def test_scaled_lengths(path):
    """Times the factor, to the nearest token, at least 1."""
    found = read(path, scale=0.25)
    assert (found[1], found[2]) == ([2, 5, 8, 10, 12], [1, 1, 1, 1, 1])
    assert found[7] == ("trace: plain CSV, 5 of 5 rows read; all lengths and blocks times 0.25",)
    assert read(path, scale=0.01)[1] == [1, 1, 1, 1, 1]
    assert (read(path, scale=3.0)[1], read(path, scale=3.0)[2]) == ([30, 60, 90, 120, 150], [3, 6, 9, 12, 15])


def test_bad_rows_are_told(tmp_path):
    """The first bad row stops the reading, unless they are skipped: then they are counted and the first is told; failed requests
    are no bad rows. A row before the one before it is bad, and the next is compared with the last good one."""
    path = tmp_path / "t.csv"
    path.write_text("Timestamp,Request tokens,Response tokens\n5,1,1\n6,0,1\n3,1,1\n5,2,0\n6,2,2\n")
    with pytest.raises(ConfigError, match="trace row cannot be used"):
        read(path)
    found = read(path, skip_bad=True)
    assert (found[1], found[0]) == ([1, 2], [0, 1_000_000_000])
    assert found[7] == (
        "trace: BurstGPT, 2 of 5 rows read",
        "trace: 1 rows of requests that failed (output 0) left out",
        f"trace: 2 bad rows skipped; the first: {path}, line 3: a request needs at least 1 token in and 1 out",
    )
    path.write_text("Timestamp,Request tokens,Response tokens\n5.5,1,1\n3,1,1\n")
    with pytest.raises(ConfigError) as caught:
        read(path)
    assert caught.value.value == f"{path}, line 3, column Timestamp: 3.0 s"
    assert caught.value.advice.startswith("times go backwards by 2.5 s; sort the file by time; ")
    path.write_text("Timestamp,Request tokens,Response tokens\n5,0,0\n6,0,1\n")
    with pytest.raises(ConfigError, match="no row") as caught:
        read(path, skip_bad=True)
    assert caught.value.value == f"{path}: 2 rows read, 0 above the context limit, 2 bad"


def test_a_share_of_the_sessions(tmp_path):
    """Session i is kept where number i of the seed's stream is below the share of 2^64; the note says of what."""
    path = tmp_path / "t.csv"
    path.write_text("prompt_tokens,output_tokens,session\n" + "".join(f"{i + 1},1,s{i // 2}\n" for i in range(400)))
    start = np.full(200, key(3, Purpose.TRACE_SAMPLE), np.uint64)
    kept = [n for n, word in enumerate(at(start, np.arange(200, dtype=np.uint64)).tolist()) if word < 0.25 * 2**64]
    sessions = _Sessions(PLAIN, 3, 0.25)
    assert [sessions._draw(n) for n in range(200)] == at(start, np.arange(200, dtype=np.uint64)).tolist()
    found = read(path, seed=3, sample=0.25)
    assert found[3] == [n for n in kept for _ in range(2)]
    assert found[1] == [2 * n + i for n in kept for i in (1, 2)]
    assert found[7][1:] == ("trace: a share of 0.25 of the sessions, whole was kept",)
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{i + 1},1\n" for i in range(200)))
    found = read(path, seed=3, sample=0.25)
    assert (found[1], found[3]) == ([n + 1 for n in kept], None)
    assert found[7][1:] == ("trace: a share of 0.25 of the rows was kept",)


def test_sessions_that_are_chains_of_parents(tmp_path):
    """A row goes on with its parent's session; -1, none and a parent that the file does not hold begin one."""
    row = {"timestamp": 1, "input_length": 30, "output_length": 5, "hash_ids": [1, 2]}
    parents = [(1, -1), (2, "-1"), (3, None), (4, 99), (5, 1), (6, 5), (7, 2), (8, 5)]
    path = tmp_path / "q.jsonl"
    path.write_text("\n".join(json.dumps(row | {"chat_id": c, "parent_chat_id": p}) for c, p in parents))
    found = read(path)
    assert found[3] == [0, 1, 2, 3, 0, 0, 1, 0]
    assert found[4] == [(), *[(0, 30)] * 7]
    assert read(path, block=8)[4] == [(), *[(0, 16)] * 7]


def test_blocks_of_hashes(tmp_path):
    """The format's block, unless the option says another; scaled with the lengths, which must leave whole tokens; unknown without."""
    path = tmp_path / "m.jsonl"
    rows = [(100, [1, 2]), (100, [1, 2]), (90, [1, 3])]
    path.write_text(
        "\n".join(json.dumps({"timestamp": 0, "input_length": n, "output_length": 4, "hash_ids": h}) for n, h in rows)
    )
    assert read(path)[4] == [(), (0, 100), (0, 90)]  # blocks of 512
    assert read(path, block=32)[4] == [(), (0, 64), (0, 32)]
    assert read(path, block=32, scale=0.25)[4] == [(), (0, 16), (0, 8)]
    assert read(path, block=4, scale=0.25)[4] == [(), (0, 2), (0, 1)]
    for block, scale, value in (
        (2, 0.25, "scale 0.25: blocks of 2 tokens become 0.5"),
        (6, 0.25, "scale 0.25: blocks of 6 tokens become 1.5"),
    ):
        with pytest.raises(ConfigError, match="does not leave whole blocks") as caught:
            read(path, block=block, scale=scale)
        assert caught.value.value == value
        assert caught.value.advice == f"choose a multiple of {1 / block:g}"
    own = tmp_path / "own.jsonl"
    own.write_text(
        '{"prompt_tokens": 9, "output_tokens": 1, "hash_ids": [1]}\n{"prompt_tokens": 9, "output_tokens": 1, "hash_ids": []}\n'
    )
    with pytest.raises(ConfigError, match="unknown size") as caught:
        read(own)
    assert caught.value.value == str(own)
    assert read(own, block=4)[4] is None  # nothing is shared
    assert read(own, block=4)[3] is None


def trace_of(time_ns, ticks=True):
    n = np.arange(len(time_ns))
    layout = Layout("x", "csv", ticks=ticks)
    return Trace(layout, np.array(time_ns, np.int64), n, n, None, None, n + 2, None, ())


def test_ticks_are_spread_to_the_next():
    """Rows of one tick lie between it and the next, at most a usual tick away, in the file's order: the seed's numbers, sorted
    inside their tick. The last tick has the usual length."""
    ticks_s = [0, 0, 0, 1, 1, 2, 9, 9, 10, 10.5]
    times = [round(s * 1e9) for s in ticks_s]
    found, notes = spread_ticks(trace_of(times), 4)
    u = uniform(raw(4, Purpose.TRACE_TICKS, 10)).tolist()
    room = {0: 1e9, 1: 1e9, 2: 1e9, 9: 1e9, 10: 5e8, 10.5: 1e9}  # the median distance is 1 s
    expected = []
    for tick in dict.fromkeys(ticks_s):
        here = sorted(u[i] for i, s in enumerate(ticks_s) if s == tick)
        expected += [round(tick * 1e9) + int(place * room[tick]) for place in here]
    assert found.tolist() == expected
    assert notes == ("trace: times stand in ticks of 1 s and were spread inside them, uniformly",)


def test_times_that_are_no_ticks_stay():
    """Ticks of less than half a second, one time, and formats that have none; half a second is a tick."""
    for times, ticks in (([0, 499_999_999], True), ([7, 7, 7], True), ([0, 10**9], False)):
        found, notes = spread_ticks(trace_of(times, ticks), 1)
        assert (found.tolist(), notes) == (times, ())
    assert spread_ticks(trace_of([0, 500_000_000]), 1)[1] == (
        "trace: times stand in ticks of 0.5 s and were spread inside them, uniformly",
    )


def test_a_pause_of_more_than_an_hour():
    """An hour is no gap, a nanosecond more is; the longest is named with its lines, and may be kept on purpose."""
    hour = 3_600_000_000_000
    line = np.array([5, 8, 9])
    refuse_gaps(np.array([0, hour, 2 * hour]), line, Options())
    refuse_gaps(np.array([0]), line, Options())
    refuse_gaps(np.array([0, 9 * hour, 9 * hour]), line, Options(gaps="keep"))
    with pytest.raises(ConfigError, match="gap of hours") as caught:
        refuse_gaps(np.array([0, hour + 1, 4 * hour]), line, Options())
    assert caught.value.value == "3.0 h without a request between lines 8 and 9"
    with pytest.raises(ConfigError, match="gap of hours"):
        refuse_gaps(np.array([0, hour + 1, hour + 2]), line, Options())
