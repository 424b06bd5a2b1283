"""Every request of a hosted run as its vendor may bill it: failed, cut and warm-up ones too, with what usage told and when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.sent import sent_of, sent_requests
from harness.judge.summary import summarise
from harness.records import RETRIED, Load
from tests.judge.run_builder import BASE_NS, closed_loop, failed, request, run

C4 = Load(concurrency=4)
WRITES = {"cache_written_5m_tokens": 60, "cache_written_1h_tokens": 20}


def test_cache_writes_of_usage_are_in_a_run_s_usage():
    """5-minute and hour writes stand behind the four parts; a run without any has the four alone, as older ones have."""
    records = closed_loop(4, 40)
    written = [replace(r, cached_prompt_tokens=10, **WRITES) for r in records]
    assert set(summarise(run(written, C4)).usage) == {(128, 10, 8, 0, 60, 20)}
    assert set(summarise(run(records, C4)).usage) == {(128, 0, 8, 0)}


def test_every_row_of_a_hosted_run_is_there_and_none_of_ours():
    """Warm-up, failed and unsent rows are in `sent`; a server of ours bills nobody."""
    rows = [
        request(-1, 0, phase="warmup"),
        request(0, 1),
        failed(request(1, 2)),
        failed(request(2, 3), "dropped", sent=False),
    ]
    assert [s.outcome for s in summarise(run(rows, C4, kind="hosted")).sent] == ["ok", "ok", "http_error", "dropped"]
    assert summarise(run(rows, C4)).sent == ()


def test_a_row_says_what_usage_told_and_how_it_ended():
    """Usage with both of its wholes, else none; sent or not; a token seen; finished by its outcome or its finish reason; sent twice."""
    rows = [
        replace(request(0, 0), **WRITES),
        replace(request(1, 1), output_tokens=None),
        failed(request(2, 2), "dropped", sent=False),
        replace(request(3, 3), outcome="truncated", finish_reason=None),
        replace(request(4, 4), outcome="overrun"),
        replace(request(5, 5), error=RETRIED),
        replace(failed(request(6, 6), "empty_reply"), prompt_tokens=128, output_tokens=0),
    ]
    found = sent_requests(run(rows, C4, kind="hosted"))
    assert [s.usage for s in found] == [
        (128, 0, 8, 0, 60, 20), None, None, (128, 0, 8, 0), (128, 0, 8, 0), (128, 0, 8, 0), (128, 0, 0, 0)
    ]  # fmt: skip
    assert [s.sent_utc_s is None for s in found] == [False, False, True, False, False, False, False]
    assert [s.finished for s in found] == [True, True, False, False, True, True, True]
    assert [s.bore_tokens for s in found] == [True, True, False, True, True, True, False]
    assert [s.retried for s in found] == [False] * 5 + [True, False]
    assert {(s.asked_prompt_tokens, s.asked_output_tokens, s.http_status) for s in found} == {(128, 8, 200)}


def test_a_row_is_billed_alike_when_it_ends_and_when_it_is_read_back():
    """What the spend cap counts and what a bill is made of: equal but for the clock; cache writes told as 0 are told, by one life or both."""
    rows = [
        request(0, 0),
        replace(request(1, 1), cache_written_5m_tokens=0, cache_written_1h_tokens=0),
        replace(request(2, 2), cache_written_1h_tokens=20),
        replace(request(3, 3), prompt_tokens=None),
        replace(failed(request(4, 4)), error=RETRIED),
        failed(request(5, 5), "dropped", sent=False),
    ]
    stored = sent_requests(run(rows, C4, kind="hosted"))
    live = [sent_of(row) for row in rows]
    assert [s.usage for s in live[:4]] == [(128, 0, 8, 0), (128, 0, 8, 0, 0, 0), (128, 0, 8, 0, 0, 20), None]
    assert [replace(s, sent_utc_s=None, ended_utc_s=None) for s in live] == [
        replace(s, sent_utc_s=None, ended_utc_s=None) for s in stored
    ]
    assert [s.sent_utc_s is None for s in live] == [s.sent_utc_s is None for s in stored] == [False] * 5 + [True]
    assert summarise(run(rows[1:2], C4, kind="hosted")).sent[0].usage == (128, 0, 8, 0, 0, 0)


@pytest.mark.parametrize(
    ("at_s", "utc_s"), [(0.5, 1_000_000_000.5), (1.5, 1_000_000_011.5)], ids=["first", "after a step"]
)
def test_a_stamp_is_on_the_wall_clock_by_the_anchor_before_it(at_s, utc_s):
    """Offsets of 10^9 s, and of 10 s more from the second anchor on."""
    offset = 1_000_000_000 * 10**9 - BASE_NS
    drive = {"anchors": [[BASE_NS, offset, 5], [BASE_NS + 10**9, offset + 10 * 10**9, 5]]}
    (found,) = sent_requests(run([request(0, at_s)], C4, kind="hosted", drive=drive))
    assert found.sent_utc_s == pytest.approx(utc_s, abs=1e-6)


def test_without_anchors_a_request_is_of_the_moment_its_run_began():
    """A run that was killed before its load generator reported."""
    (found,) = sent_requests(run([request(0, 0)], C4, kind="hosted"))
    assert found.sent_utc_s == found.ended_utc_s == 1795519800.0
