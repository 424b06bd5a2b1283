"""Plans from traces: recorded times, other arrivals, sessions in closed loop, warm-up; rows and notes whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import arrivals, burstiness
from harness.measure.plan.drawing import draw
from harness.measure.plan.streams import Purpose, raw, uniform
from harness.records import Load

TIMES = [0.0, 1.0, 1.5, 4.0, 8.0]
NO_TIMES = "trace: {} rows offered in the file's order, its times not used"


@pytest.fixture
def path(tmp_path):
    """Five rows of two sessions at known times, the first not at 0."""
    lines = [f"{10 + t},{10 * (i + 1)},{i + 1},{'ab'[i % 2]}" for i, t in enumerate(TIMES)]
    (tmp_path / "t.csv").write_text("\n".join(["arrival_s,prompt_tokens,output_tokens,session", *lines]))
    return tmp_path / "t.csv"


def plan_of(workload, load, requests=None, **words):
    words = {"duration_s": None, "seed": 1, "warmup_requests": 2, "context_limit_tokens": None} | words
    return draw(str(workload), load, requests=requests, **words)


def rows(plan):
    return [(r.scheduled_ns, r.target_prompt_tokens, r.target_output_tokens, r.session_id) for r in plan.requests]


def expected(times_s, count=None):
    return [(None if t is None else round(t * 1e9), 10 * (i + 1), i + 1, i % 2) for i, t in enumerate(times_s)][:count]


def planned(kind, times_s):
    return f"planned arrivals ({kind}): {burstiness(np.array([round(t * 1e9) for t in times_s])).words()}"


def test_recorded_times(path):
    """At their own times, the mean rate that of the rows; no more is said than what was read and how it is sent."""
    plan, notes = plan_of(path, Load(arrivals="trace"))
    assert rows(plan) == expected(TIMES)
    assert plan.load == Load(rate_rps=4 / 8, arrivals="trace")
    assert notes == ("trace: plain CSV, 5 of 5 rows read", planned("trace", TIMES))


def test_recorded_times_sped_up(path):
    """Divided by the factor, or by the one that gives the rate asked for, which is the plan's."""
    faster = [t / 4 for t in TIMES]
    plan, notes = plan_of(path, Load(arrivals="trace:4"))
    assert (rows(plan), plan.load) == (expected(faster), Load(rate_rps=2.0, arrivals="trace:4"))
    assert notes == (
        "trace: plain CSV, 5 of 5 rows read",
        "trace: recorded times divided by 4",
        planned("trace:4", faster),
    )
    plan, notes = plan_of(path, Load(rate_rps=2.0, arrivals="trace"))
    assert (rows(plan), plan.load) == (expected(faster), Load(rate_rps=2.0, arrivals="trace"))
    assert notes[1] == "trace: recorded times divided by 4"
    plan, notes = plan_of(path, Load(rate_rps=0.5, arrivals="trace"))  # the rate it has
    assert (rows(plan), len(notes)) == (expected(TIMES), 2)
    slower, notes = plan_of(path, Load(arrivals="trace:0.5"))
    assert rows(slower) == expected([2 * t for t in TIMES])
    assert notes[1] == "trace: recorded times divided by 0.5"


def test_a_rate_and_a_speed_up_exclude_each_other(path):
    """And rows of one time have no rate that could be changed."""
    with pytest.raises(ConfigError, match="cannot be brought to a rate") as caught:
        plan_of(path, Load(rate_rps=2.0, arrivals="trace:4"))
    assert caught.value.value == "rate 2/s and trace:4, 8 s recorded"
    with pytest.raises(ConfigError, match="cannot be brought to a rate") as caught:
        plan_of(f"{path}?limit=1", Load(rate_rps=2.0, arrivals="trace"))
    assert caught.value.value == "rate 2/s and trace, 0 s recorded"
    plan, notes = plan_of(f"{path}?limit=1", Load(arrivals="trace"))
    assert (plan.load.rate_rps, notes[-1]) == (1.0, "planned arrivals (trace): 1 at once")


@pytest.mark.parametrize(
    ("load", "query", "duration_s", "count", "read"),
    [
        (Load(arrivals="trace"), "", 4.0, 3, 4),  # the row at the duration's end is read, and not sent
        (Load(arrivals="trace"), "", 4.001, 4, 5),
        (Load(arrivals="trace"), "?to=4", 9.0, 3, 4),
        (Load(arrivals="trace"), "?to=9", 4.0, 3, 4),
        (Load(arrivals="trace:2"), "", 2.0, 3, 4),
        (Load(rate_rps=1.0, arrivals="trace"), "", 2.0, 3, 5),  # a rate is that of the whole file
    ],
)
def test_a_duration_of_recorded_times(path, load, query, duration_s, count, read):
    """Rows before the duration's end, or the slice's, whichever comes first; no more of the file is read than that takes."""
    plan, notes = plan_of(f"{path}{query}", load, duration_s=duration_s)
    factor = 2 if load.rate_rps or load.arrivals == "trace:2" else 1
    assert rows(plan) == expected([t / factor for t in TIMES], count)
    kept = 5 if load.rate_rps else count
    assert notes[0] == f"trace: plain CSV, {kept} of {read} rows read"


def test_a_duration_counts_from_the_slices_beginning(path):
    """from 1 s for 3 s is what the file has from 1 to 4 s."""
    plan, _ = plan_of(f"{path}?from=1", Load(arrivals="trace"), duration_s=3.0)
    assert [(r.scheduled_ns, r.target_prompt_tokens) for r in plan.requests] == [(0, 20), (500_000_000, 30)]
    with pytest.raises(ConfigError, match="no request would be sent") as caught:
        plan_of(f"{path}?from=2", Load(rate_rps=1000.0, arrivals="trace"), duration_s=0.0001)
    assert caught.value.value == "0.0001 s of the trace"


def test_other_arrivals_for_the_rows_of_a_file(path):
    """Rows in their order at drawn times, as many as are asked for or the duration holds; in closed loop without times."""
    for words in ({"requests": 3}, {"duration_s": 3.0}):
        plan, notes = plan_of(path, Load(rate_rps=1.0), **words)
        times = arrivals("poisson", 1.0, 1, words.get("requests"), words.get("duration_s"))
        assert rows(plan) == expected((times / 1e9).tolist())
        count = len(times)
        assert notes[:2] == (f"trace: plain CSV, {count} of {count} rows read", NO_TIMES.format(count))
        assert plan.load == Load(rate_rps=1.0)
    plan, notes = plan_of(path, Load(concurrency=3), 4)
    assert (rows(plan), plan.load) == (expected([None] * 4), Load(concurrency=3))
    assert notes == ("trace: plain CSV, 4 of 4 rows read", NO_TIMES.format(4))
    plan, _ = plan_of(path, Load(concurrency=3), None, duration_s=5.0)
    assert rows(plan) == expected([None] * 5)


def test_warm_up_takes_lengths_of_the_file(path):
    """Rows chosen at random by the seed's own stream, without sessions."""
    plan, _ = plan_of(path, Load(arrivals="trace"), warmup_requests=50, seed=9)
    chosen = np.floor(uniform(raw(9, Purpose.WARMUP_TRACE, 50)) * 5).astype(int).tolist()
    assert [(r.target_prompt_tokens, r.target_output_tokens, r.session_id) for r in plan.warmup] == [
        (10 * (i + 1), i + 1, None) for i in chosen
    ]


CALLS = [  # file, t, in, out, hashes, think time
    ("a", 0.0, 100, 5, [1, 2], 0.5),
    ("b", 0.0, 128, 2, [1, 2], 9.0),
    ("a", 7.5, 190, 6, [1, 3, 4], 5.0),
    ("b", 8.0, 150, 3, [1, 2, 5], -1.0),
    ("a", 20.0, 250, 7, [1, 3, 4, 5], 2.25),
]


def recorded(folder, *, think=True):
    for name in "ab":
        requests = [
            {"t": t, "in": i, "out": o, "hash_ids": h} | ({"think_time": s} if think else {})
            for file, t, i, o, h, s in CALLS
            if file == name
        ]
        (folder / f"{name}.json").write_text(json.dumps({"requests": requests}))
    return folder


@pytest.mark.parametrize("think", [True, False])
def test_recorded_sessions_in_closed_loop(tmp_path, think):
    """Session after session, each call after the one before it and its think time (0 where it is negative or not recorded); what
    prompts share is what their hashes say."""
    plan, notes = plan_of(recorded(tmp_path, think=think), Load(concurrency=2), 5)
    seeds = [r.prompt_seed for r in plan.requests]
    s = 1_000_000_000
    pauses = {1: 5 * s, 2: round(2.25 * s), 4: 0} if think else {1: 0, 2: 0, 4: 0}
    assert [(r.seq, r.session_id, r.target_prompt_tokens, r.target_output_tokens, r.after_seq, r.think_ns, r.prefix, r.scheduled_ns) for r in plan.requests] == [
        (0, 0, 100, 5, None, None, (), None),
        (1, 0, 190, 6, 0, pauses[1], (seeds[0], 64), None),
        (2, 0, 250, 7, 1, pauses[2], (seeds[0], 64, seeds[1], 128), None),
        (3, 1, 128, 2, None, None, (), None),
        (4, 1, 150, 3, 3, pauses[4], (seeds[3], 128), None),
    ]  # fmt: skip
    assert len(set(seeds)) == 5
    assert notes[0] == "trace: Claude Code sessions (WEKA), 5 of 5 rows read"
    assert notes[1].startswith("sessions: closed loop; ")
    assert notes[2].startswith("prefix reuse: ")
    assert len(notes) == 3


def test_recorded_sessions_without_hashes(tmp_path):
    """Nothing is known to be shared: prompts of their own, and no note of reuse."""
    calls = [{"t": t, "in": 9, "out": 1} for t in (0, 1)]
    (tmp_path / "a.json").write_text(json.dumps({"requests": calls}))
    plan, notes = plan_of(tmp_path, Load(concurrency=1), 2)
    assert [(r.target_prompt_tokens, r.after_seq, r.think_ns, r.prefix) for r in plan.requests] == [
        (9, None, None, ()),
        (9, 0, 0, ()),
    ]
    assert len(notes) == 2


def test_recorded_sessions_at_their_times(tmp_path):
    """Rows merged by time, replayed open loop, which a note says; the first rows are the first in time."""
    plan, notes = plan_of(recorded(tmp_path), Load(arrivals="trace"), duration_s=8.0)
    assert [(r.scheduled_ns, r.session_id, r.target_prompt_tokens, r.after_seq, r.think_ns) for r in plan.requests] == [
        (0, 0, 100, None, None), (0, 1, 128, None, None), (7_500_000_000, 0, 190, None, None)
    ]  # fmt: skip
    assert plan.requests[2].prefix == (plan.requests[0].prompt_seed, 64)
    assert (
        notes[1] == "sessions: replayed open loop at their recorded times, all beginning together; no reply is awaited"
    )
    with pytest.raises(ConfigError, match="own order") as caught:
        plan_of(tmp_path, Load(rate_rps=3.0), 3)
    assert caught.value.value == "poisson"
    with pytest.raises(ConfigError, match="exclude each other") as caught:
        plan_of(f"{tmp_path}?system=3", Load(concurrency=1), 3)
    assert caught.value.value == f"{tmp_path}?system=3"


def test_hashes_of_all_files_are_one_where_they_say_so(tmp_path):
    """`hash_id_scope: global`: equal hashes of different files are equal tokens."""
    for name in "ab":
        call = {"t": 0 if name == "a" else 1, "in": 100, "out": 1, "hash_ids": [1, 2]}
        (tmp_path / f"{name}.json").write_text(json.dumps({"hash_id_scope": "global", "requests": [call]}))
    plan, _ = plan_of(tmp_path, Load(arrivals="trace"))
    assert [r.prefix for r in plan.requests] == [(), (plan.requests[0].prompt_seed, 100)]


@pytest.mark.filterwarnings("error")
def test_think_times_of_recorded_sessions_can_be_changed(tmp_path):
    """`?think=2`: every pause is twice as long, a session's first call still waits for none."""
    plan, _ = plan_of(f"{recorded(tmp_path)}?think=2", Load(concurrency=2), 5)
    assert [r.think_ns for r in plan.requests] == [None, 10_000_000_000, 4_500_000_000, None, 0]
