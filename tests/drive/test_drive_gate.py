"""A gate in front of a drive: what it lets out, holds back, leaves out and ends, in both drivers and both kinds of load."""

from __future__ import annotations

import json
import tempfile
import threading
from pathlib import Path

import pytest

from harness.base import clock
from harness.measure.drive.driver import drive
from harness.measure.gate import Answer, Asked, CommonStart, Gates
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, Prompt, Timeouts
from tests.drive.offering import Watching, offer
from tests.drive.test_drive_retries import Scripted
from tests.drive.test_drive_sessions import sessions, words
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing
DRIVERS = pytest.mark.parametrize("driver", ["wire", "sdk"])
LOADS = pytest.mark.parametrize("load", [{"concurrency": 4}, {"gap_s": 0.004}], ids=["closed", "open"])
WORKERS = pytest.mark.parametrize("workers", [1, 3], ids=["1worker", "3workers"])


def every_pair(closed, opened):
    """Of a driver, a number of workers and a kind of load: each pair of two of them."""
    ways = {
        "wire-1worker-closed": ("wire", 1, closed),
        "wire-3workers-open": ("wire", 3, opened),
        "sdk-1worker-open": ("sdk", 1, opened),
        "sdk-2workers-closed": ("sdk", 2, closed),  # two: each imports the SDK for a second
    }
    return pytest.mark.parametrize(("driver", "workers", "load"), ways.values(), ids=ways)


class Rule:
    """A gate made of a function of what is asked; keeps what it was told."""

    stop_reason = "no_more"

    def __init__(self, answer, *, lead_ns=0, ahead=0):
        self.answer, self.lead_ns, self.ahead = answer, lead_ns, ahead
        self.asked: list[Asked] = []
        self.sent: list[int] = []
        self.withdrawn: list[int] = []
        self.rows: list[int] = []
        self.ends = 0

    def ask(self, asked):
        self.asked.append(asked)
        answer = self.answer(asked)
        if answer is Answer.SEND:
            self.sent.append(asked.request.seq)
        return answer

    def withdraw(self, asked):
        self.withdrawn.append(asked.request.seq)
        self.sent.remove(asked.request.seq)

    def over(self, rows):
        self.rows += [row.seq for row in rows]

    def ended(self):
        self.ends += 1


def seqs(rows):
    return sorted(row.seq for row in rows)


@every_pair({"concurrency": 4}, {"gap_s": 0.004})
def test_what_is_skipped_has_no_row_and_blocks_nothing(driver, load, workers):
    """Every third request is another drive's, the first and the last among them: the others all have their rows, the drive is done."""
    gate = Rule(lambda asked: Answer.SKIP if asked.request.seq % 3 == 0 else Answer.SEND)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, report = offer(server.url, 40, driver=driver, workers=workers, gate=gate, **load)
        served = len(server.log)
    assert seqs(rows) == [seq for seq in range(40) if seq % 3]
    assert {row.outcome for row in rows} == {"ok"}
    assert (report.stop_reason, served, gate.ends) == ("done", len(rows), 1)
    assert sorted(gate.rows) == sorted(gate.sent) == seqs(rows)


@every_pair({"concurrency": 4}, {"gap_s": 0.004})
def test_all_skipped_is_an_empty_drive(driver, load, workers):
    """Where nothing of the plan is this drive's it ends by itself, without a row."""
    with GoldenServer() as server:
        rows, report = offer(server.url, 30, driver=driver, workers=workers, gate=Rule(lambda _: Answer.SKIP), **load)
    assert (rows, report.stop_reason) == ([], "done")


@DRIVERS
@LOADS
def test_stop_drains(driver, load):
    """After STOP nothing more goes out, what is in flight ends well, and the report has the gate's reason."""
    gate = Rule(lambda asked: Answer.STOP if asked.request.seq == 12 else Answer.SEND)
    with GoldenServer(ttft_s=0.005, itl_s=0.001) as server:
        rows, report = offer(server.url, 40, driver=driver, workers=2, gate=gate, **load)
    assert report.stop_reason == "no_more"
    assert {row.outcome for row in rows} <= {"ok"}
    assert set(seqs(rows)) <= set(gate.sent)
    assert gate.asked[-1].request.seq == 12
    assert gate.ends == 1


@DRIVERS
@LOADS
def test_later_holds_back_until_it_says_send(driver, load):
    """A request that the gate holds back goes out when it is let, late by its row, and those behind it after it."""
    let = [0]

    def answer(asked):
        if asked.request.seq == 8 and let[0] < 20:
            let[0] += 1
            return Answer.LATER
        return Answer.SEND

    gate = Rule(answer)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, report = offer(server.url, 20, driver=driver, gate=gate, **load)
    assert seqs(rows) == list(range(20))
    assert report.stop_reason == "done"
    held = next(row for row in rows if row.seq == 8)
    behind = [row for row in rows if row.seq > 8]
    assert all(row.sent_ns >= held.sent_ns for row in behind)
    assert let[0] == 20
    if "gap_s" in load:
        assert held.due_ns == held.scheduled_ns
        assert held.sent_ns - held.due_ns > 19 * 1_000_000  # twenty questions, 2 ms apart


@DRIVERS
def test_a_drive_ends_by_its_duration_while_its_gate_holds_back(driver):
    """A gate that never lets the fifth out keeps no drive from its end: duration, four rows."""
    gate = Rule(lambda asked: Answer.LATER if asked.request.seq >= 4 else Answer.SEND)
    with GoldenServer(ttft_s=0.001, itl_s=0.0005) as server:
        rows, report = offer(server.url, 20, concurrency=4, driver=driver, duration_s=0.6, gate=gate)
    assert (seqs(rows), report.stop_reason) == ([0, 1, 2, 3], "duration")


@DRIVERS
def test_a_user_stops_a_drive_that_its_gate_holds_back(driver):
    """Ctrl-C drains it."""
    gate = Rule(lambda asked: Answer.LATER if asked.request.seq >= 4 else Answer.SEND)
    with GoldenServer(ttft_s=0.001, itl_s=0.0005) as server:
        rows, report = offer(
            server.url, 20, concurrency=4, driver=driver, gate=gate,
            should_stop=lambda: "drain" if len(gate.rows) == 4 else None,
        )  # fmt: skip
    assert (seqs(rows), report.stop_reason) == ([0, 1, 2, 3], "interrupted")


def test_an_open_loop_is_asked_no_earlier_than_its_lead():
    """Each request is asked about in the order of the plan, at most `lead_ns` before it is due, with the size of its bytes."""
    at = []
    gate = Rule(lambda asked: (at.append(clock.monotonic_ns()), Answer.SEND)[1], lead_ns=10_000_000)
    with GoldenServer(ttft_s=0.001, itl_s=0.0005) as server:
        rows, _ = offer(server.url, 30, gap_s=0.01, gate=gate)
        bodies = [len(json.dumps(server.log[f"run-m{seq}"].body, separators=(",", ":"))) for seq in range(30)]
    assert [asked.request.seq for asked in gate.asked] == list(range(30))
    assert [asked.due_ns for asked in gate.asked] == [row.due_ns for row in sorted(rows, key=lambda row: row.seq)]
    assert all(asked.due_ns - when <= 10_000_000 for asked, when in zip(gate.asked, at, strict=True))
    assert all(0 < asked.body_bytes - bodies[asked.request.seq] < 100 for asked in gate.asked)


@WORKERS
def test_a_closed_loop_has_no_more_admitted_than_its_slots_and_what_is_ahead(workers):
    """Of 6 slots and 2 ahead a worker, never more than 6 + 2 x workers are admitted and not over."""
    most = [0]

    def answer(_):
        most[0] = max(most[0], len(gate.sent) + 1 - len(gate.rows))
        return Answer.SEND

    gate = Rule(answer, ahead=2)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, _ = offer(server.url, 90, concurrency=6, workers=workers, gate=gate)
    assert seqs(rows) == list(range(90))
    assert most[0] <= 6 + 2 * workers


def test_gates_compose():
    """All must say SEND; the earlier ones get back what they gave when a later one does not; the reason is of who said STOP."""
    first = Rule(lambda _: Answer.SEND, lead_ns=5, ahead=7)
    second = Rule(lambda asked: {1: Answer.SKIP, 2: Answer.STOP}.get(asked.position, Answer.SEND), lead_ns=9, ahead=3)
    second.stop_reason = "second"
    both = Gates(first, second)
    requests = sessions(1)
    answers = [both.ask(Asked(i, requests[i], None, 10)) for i in range(3)]
    assert answers == [Answer.SEND, Answer.SKIP, Answer.STOP]
    assert (first.withdrawn, first.sent, second.withdrawn, second.sent) == ([1, 2], [0], [], [0])
    assert (both.stop_reason, both.lead_ns, both.ahead) == ("second", 5, 3)


# ---------------------------------------------------------------- sessions


def offer_sessions(server, rows, load, gate, *, driver="wire", workers=1):
    got = []
    with tempfile.TemporaryDirectory() as folder:
        report = drive(
            Job(
                rows,
                [Prompt(r.seq, words(r), None) for r in rows],
                load,
                Phase.MEASURE,
                "run",
                Path(folder),
                None,
                gate,
            ),
            Watching(got.extend),
            Endpoint(server.url, "golden", "completions", vllm_extensions=True),
            driver=driver,
            workers=workers,
            timeouts=Timeouts(30, 60, 60, 120),
        )
        assert list(Path(folder).iterdir()) == []
    return sorted(got, key=lambda row: row.seq), report


@every_pair(Load(concurrency=2), Load(rate_rps=50.0))
def test_later_turns_are_asked_about_when_their_reply_is_there(driver, workers, load):
    """Every turn of nine sessions is asked about once, after the row before it, with the size that it has by then; all are sent."""
    gate = Rule(lambda _: Answer.SEND)
    plan = sessions(9, load_rate=load.rate_rps, think_ns=2_000_000)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, report = offer_sessions(server, plan, load, gate, driver=driver, workers=workers)
    assert [row.outcome for row in rows] == ["ok"] * 27
    assert report.stop_reason == "done"
    assert sorted(asked.position for asked in gate.asked) == list(range(27))
    due = {row.seq: row.due_ns for row in rows}
    turns = [asked for asked in gate.asked if asked.request.after_seq is not None]
    assert [asked.due_ns for asked in turns] == [due[asked.request.seq] for asked in turns]


@every_pair(Load(concurrency=2), Load(rate_rps=50.0))
def test_a_session_is_left_out_from_a_turn_on(driver, workers, load):
    """Sessions whose first is skipped have no row, those whose second is have one: the rest of the plan goes on."""

    def answer(asked):
        session, turn = divmod(asked.request.seq, 3)
        return Answer.SKIP if (session % 3 == 0 and turn == 0) or (session % 3 == 1 and turn == 1) else Answer.SEND

    plan = sessions(9, load_rate=load.rate_rps, think_ns=1_000_000)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, report = offer_sessions(server, plan, load, Rule(answer), driver=driver, workers=workers)
    expected = [3 * s + t for s in range(9) for t in range({0: 0, 1: 1, 2: 3}[s % 3])]
    assert ([row.seq for row in rows], report.stop_reason) == (expected, "done")


@DRIVERS
def test_a_stop_at_a_later_turn_drains(driver):
    """STOP at the second turn of a session: what was sent has its rows, nothing more goes out."""
    gate = Rule(lambda asked: Answer.STOP if asked.request.after_seq is not None else Answer.SEND)
    with GoldenServer(ttft_s=0.002, itl_s=0.0005) as server:
        rows, report = offer_sessions(server, sessions(5, think_ns=0), Load(concurrency=1), gate, driver=driver)
    assert ([row.seq for row in rows], report.stop_reason) == ([0], "no_more")


# ---------------------------------------------------------------- two drives over one plan


@LOADS
def test_two_drives_share_a_plan_and_a_start(load):
    """Two threads, each with the gate of its side: every request has one row in all, and both began at one instant."""
    servers = [GoldenServer(ttft_s=0.002, itl_s=0.0005) for _ in range(2)]
    start, out = CommonStart(2), {}

    def side(number):
        gate = Rule(lambda asked: Answer.SEND if asked.request.seq % 2 == number else Answer.SKIP)
        out[number] = offer(servers[number].url, 40, gate=gate, start=start, **load)

    with servers[0], servers[1]:
        threads = [threading.Thread(target=side, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [seqs(out[number][0]) for number in range(2)] == [list(range(0, 40, 2)), list(range(1, 40, 2))]
    assert out[0][1].started_ns == out[1][1].started_ns


def test_a_drive_that_will_not_start_is_not_waited_for():
    """Who gives up frees the other, which raises."""
    start = CommonStart(2)
    start.give_up()
    with GoldenServer() as server, pytest.raises(threading.BrokenBarrierError):
        offer(server.url, 4, concurrency=1, start=start)


# ---------------------------------------------------------------- no send behind the gate's back


def test_a_gated_drive_sends_nothing_twice():
    """A kept-alive connection that its server closes before any reply: with a gate that is the request's end, not a second send."""
    gate = Rule(lambda _: Answer.SEND)
    with Scripted() as server:
        rows, _ = offer(server.url, 2, concurrency=1, gate=gate)
        assert [connection for connection, _ in server.got] == [1, 1]
    assert [row.outcome for row in sorted(rows, key=lambda row: row.seq)] == ["ok", "truncated"]
