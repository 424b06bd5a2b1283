"""Sessions: later turns go out after the replies they wait for, with those replies in their context."""

from __future__ import annotations

import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest

from harness.measure.drive.driver import drive
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, Timeouts
from tests.drive.offering import Watching
from tests.fakes.golden_server import GoldenServer
from tests.waiting import Machine

pytestmark = pytest.mark.timing
THINK_NS = 30_000_000
LENGTHS = (40, 70, 90)  # each prompt goes on from the one before: 8 tokens of reply, then new ones
REPLY = 8


def sessions(count, *, load_rate=None, think_ns=THINK_NS, lengths=LENGTHS):
    """`count` chains of turns, one plan row after the other; the prompts of a chain begin alike."""
    rows = []
    for session in range(count):
        for turn, length in enumerate(lengths):
            first = turn == 0
            at = round(session * 1e9 / load_rate) if first and load_rate else None
            after = None if first else len(rows) - 1
            rows.append(
                PlannedRequest(len(rows), at, length, REPLY, session, 0, (), after, None if first else think_ns)
            )
    return rows


def ids(request):
    """Token ids of a planned prompt: the session's stream, from the start."""
    return tuple(1_000 * (request.session_id + 1) + i for i in range(request.target_prompt_tokens))


def words(request):
    return "".join(f" w{i}" for i in ids(request))


def offer(server, rows, load, *, api="completions", as_text=False, driver="wire", workers=1, stop=lambda: None):
    got = []
    prompts = [Prompt(r.seq, words(r), None if as_text or api == "chat" else ids(r)) for r in rows]
    with tempfile.TemporaryDirectory() as folder:
        report = drive(
            Job(rows, prompts, load, Phase.MEASURE, "run", Path(folder)),
            Watching(got.extend, should_stop=stop),
            Endpoint(server.url, "golden", api, vllm_extensions=True),
            driver=driver,
            workers=workers,
            timeouts=Timeouts(30, 60, 60, 120),
        )
        assert list(Path(folder).iterdir()) == []
    return sorted(got, key=lambda row: row.seq), report


def body_of(server, seq):
    return server.log[f"run-m{seq}"].body


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_turns_go_out_in_order_after_reply_and_think_time(driver):
    """Each turn is sent one think time after the reply before it, never before and typically at most 25 ms later than what this machine is
    late; all rows are ok."""
    with GoldenServer(ttft_s=0.005, itl_s=0.001) as server, Machine() as machine:
        rows, report = offer(server, sessions(3), Load(concurrency=2), driver=driver)
    assert [row.outcome for row in rows] == ["ok"] * 9
    assert report.stop_reason == "done"
    late_ns = []
    for one, two in pairwise(rows):
        if one.session_id == two.session_id:
            late_ns.append(two.sent_ns - one.ended_ns - THINK_NS)
            assert two.due_ns == one.ended_ns + THINK_NS
    assert min(late_ns) >= 0
    assert statistics.median(late_ns) < 25_000_000 + 4 * machine.worst_ns
    assert server.max_in_flight <= 2


def test_the_real_reply_stands_in_the_context():
    """Token ids: a turn is exactly as long as planned, begins with the prompt before it and goes on with the ids that the
    server sent, then with the plan's own."""
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        plan = sessions(1, think_ns=0)
        rows, _ = offer(server, plan, Load(concurrency=1))
    first, second, third = (body_of(server, seq)["prompt"] for seq in range(3))
    assert [len(first), len(second), len(third)] == list(LENGTHS)
    assert [row.prompt_tokens for row in rows] == list(LENGTHS)
    reply_1, reply_2 = (list(range(n * 10_000, n * 10_000 + REPLY)) for n in (1, 2))
    planned = list(ids(plan[2]))
    assert first == planned[:40]
    assert second == planned[:40] + reply_1 + planned[48:70]
    assert third == planned[:40] + reply_1 + planned[48:70] + reply_2 + planned[78:90]


def test_a_chat_session_is_a_conversation():
    """Chat: the earlier turns are messages of user and assistant, the assistant's as the server wrote them."""
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        plan = sessions(1, think_ns=0)
        offer(server, plan, Load(concurrency=1), api="chat")
    messages = body_of(server, 2)["messages"]
    assert [m["role"] for m in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[0]["content"] == body_of(server, 0)["messages"][0]["content"] == words(plan[0])
    assert messages[1]["content"] == messages[3]["content"] == " tok" * REPLY
    assert messages[4]["content"].startswith(f" w{1_000 + 78}")


def test_text_prompts_hold_the_replys_text():
    """Completions without token ids: the reply's text stands where the plan has as many words."""
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        plan = sessions(1, think_ns=0)
        rows, _ = offer(server, plan, Load(concurrency=1), as_text=True)
    assert body_of(server, 1)["prompt"] == words(plan[0]) + " tok" * REPLY + "".join(f" w{i}" for i in ids(plan[1])[48:])  # fmt: skip
    assert [row.prompt_tokens for row in rows] == list(LENGTHS)


def test_a_slot_holds_a_whole_session():
    """Closed loop of one: the second session begins after the last reply of the first, think times included."""
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, _ = offer(server, sessions(2), Load(concurrency=1))
    assert rows[3].sent_ns >= rows[2].ended_ns
    assert server.max_in_flight == 1


def test_open_loop_sessions_begin_on_time_and_keep_to_their_worker():
    """Arrivals are those of sessions, whatever the replies do; two workers share the sessions, none is split."""
    with GoldenServer(ttft_s=0.01, itl_s=0.001) as server, Machine() as machine:
        rows, report = offer(server, sessions(6, load_rate=100), Load(rate_rps=100, arrivals="constant"), workers=2)
    firsts = [row for row in rows if row.seq % 3 == 0]
    for row in firsts:
        assert row.scheduled_ns == report.started_ns + row.session_id * 10_000_000
    late_ns = [row.sent_ns - row.scheduled_ns for row in firsts]
    assert min(late_ns) >= 0
    assert statistics.median(late_ns) < 50_000_000 + 4 * machine.worst_ns
    assert {row.worker for row in rows} == {0, 1}
    for session in range(6):
        assert len({row.worker for row in rows if row.session_id == session}) == 1


def test_parallel_turns_wait_for_the_same_reply():
    """Two turns after one reply (sub-agents) both go out; the session ends with the last of them."""
    plan = [
        PlannedRequest(0, None, 20, REPLY, 0, 0),
        PlannedRequest(1, None, 40, REPLY, 0, 0, (), 0, 0),
        PlannedRequest(2, None, 50, REPLY, 0, 0, (), 0, 0),
        PlannedRequest(3, None, 20, REPLY, 1, 0),
    ]
    with GoldenServer(ttft_s=0.01, itl_s=0.001) as server:
        server.hold = lambda served: served.number == 2 and server.in_flight < 2
        rows, _ = offer(server, plan, Load(concurrency=1))
    assert [row.outcome for row in rows] == ["ok"] * 4
    assert rows[2].sent_ns < rows[1].ended_ns
    assert rows[1].sent_ns < rows[2].ended_ns
    assert rows[3].sent_ns >= max(rows[1].ended_ns, rows[2].ended_ns)


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_a_failed_reply_ends_its_session_in_rows(driver):
    """After an error the later turns are `dropped` rows that name the reason; other sessions go on."""
    plan = sessions(2, think_ns=0)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005, api_keys=("k",)) as server:
        rows, report = offer(server, plan, Load(concurrency=1), driver=driver)
    assert [row.outcome for row in rows] == ["http_error", "dropped", "dropped"] * 2
    assert "request 0 came to http_error" in rows[1].error
    assert rows[1].sent_ns is None
    assert report.stop_reason == "done"


@pytest.mark.parametrize("driver", ["wire", "sdk"])
def test_a_drain_ends_sessions_between_turns(driver):
    """A stop lets the turn in flight end and sends no other; turns never sent make no row."""
    asked = []

    def stop() -> str | None:
        if server.log:
            asked.append("drain")
        return "drain" if server.log else None

    with GoldenServer(ttft_s=0.05, itl_s=0.01) as server:
        server.hold = lambda _: not asked
        plan = sessions(1, think_ns=5_000_000_000)
        rows, report = offer(server, plan, Load(concurrency=1), driver=driver, stop=stop)
    assert [row.outcome for row in rows] == ["ok"]
    assert report.stop_reason == "interrupted"
