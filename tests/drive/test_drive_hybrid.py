"""Two drives of one plan: what is learned of a row, one report of two, and an end to both when one breaks."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from harness.config.policy import PolicySpec
from harness.judge.server_state import series
from harness.measure.drive.hybrid import Dispatcher, SideDrive, SideGate, drive_both, served_of
from harness.measure.gate import Answer, Asked, CommonStart
from harness.measure.hybrid import hear
from harness.measure.job import Job
from harness.records import DriveProgress, DriveReport, Load, Phase, PlannedRequest, ServerSample
from harness.routing.router import Router, SideFacts
from harness.routing.state import HOSTED, OWN
from tests.judge.run_builder import failed, request

pytestmark = pytest.mark.timing
LIMIT_S = 60  # against hanging only


def planned(seq, **words):
    return PlannedRequest(seq, seq * 1000, 100, 10, words.pop("session", None), 1, (), **words)


def asked(seq, **words):
    return Asked(seq, planned(seq, **words), 10**9 + seq * 1000, 100)


def dispatcher(**policy):
    spec = PolicySpec(**(policy or {"rule": "share", "hosted_share": 0.5}))
    return Dispatcher(Router(spec, SideFacts("own"), SideFacts("api"), {"ttft_s": 1.0}), lambda prompt, output: 0.001)


@pytest.mark.parametrize(
    ("row", "ok", "is_failure"),
    [
        (request(0, 1.0), True, False),
        (failed(request(0, 1.0), "connect_error"), False, True),
        (failed(request(0, 1.0), "reset"), False, True),
        (failed(request(0, 1.0), "timeout_first_token"), False, True),
        (replace(failed(request(0, 1.0), "http_error"), http_status=503), False, True),
        (replace(failed(request(0, 1.0), "http_error"), http_status=429), False, True),
        (replace(failed(request(0, 1.0), "http_error"), http_status=400), False, False),
        (failed(request(0, 1.0), "cancelled"), False, False),
        (failed(request(0, 1.0), "dropped"), False, False),
    ],
    ids=["ok", "refused", "reset", "silent", "503", "429", "400", "cancelled", "dropped"],
)
def test_which_rows_are_a_sides_failure(row, ok, is_failure):
    """No connection, a reset, silence, 5xx and 429 are; what was wrong with the request, or ended by us, is not."""
    served = served_of(row)
    assert (served.ok, served.is_failure) == (ok, is_failure)


def test_latency_is_from_the_schedule_and_over_the_gaps():
    """A request that went out 0.1 s late, with a first token 0.05 s after that, took 0.15 s; its gaps are 0.01 s."""
    served = served_of(request(0, 1.1, scheduled_s=1.0, ttft_s=0.05, gap_s=0.01))
    assert (served.ttft_s, served.tpot_s) == (pytest.approx(0.15), pytest.approx(0.01))


def test_every_request_is_sent_by_one_gate_and_skipped_by_the_other():
    """Whichever asks first, and however often."""
    shared = dispatcher()
    gates = {OWN: SideGate(shared, OWN), HOSTED: SideGate(shared, HOSTED)}
    for seq in range(50):
        order = (OWN, HOSTED) if seq % 3 else (HOSTED, OWN, HOSTED)
        answers = {which: gates[which].ask(asked(seq)) for which in order}
        assert sorted(answer.value for answer in answers.values()) == ["send", "skip"]


def test_threads_that_ask_at_once_get_one_answer():
    """A thousand requests asked about by both drives at the same time: each is one side's."""
    shared = dispatcher(rule="concurrency", own_in_flight=3)
    found = {OWN: [], HOSTED: []}

    def drive(which):
        gate = SideGate(shared, which)
        found[which] = [gate.ask(asked(seq)) for seq in range(1000)]

    threads = [threading.Thread(target=drive, args=(which,)) for which in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    assert all({one, other} == {Answer.SEND, Answer.SKIP} for one, other in zip(found[OWN], found[HOSTED], strict=True))


@pytest.mark.parametrize("name", [one.name for one in series()["kv_cache_use"]])
def test_the_own_side_is_heard_under_the_names_of_every_version(name):
    """Requests of all engines and the KV cache of the fullest, which closes the side; a page that lacks a series says nothing of it."""
    ours = dispatcher(rule="slo")

    def own():
        side = ours._router.state(ours._request(planned(9)), 0.0).side(OWN)
        return side.load, side.waiting, side.kv_usage

    def page(engine, used):
        values = {"vllm:num_requests_running": 2.0, "vllm:num_requests_waiting": 1.0, name: used}
        return [
            ServerSample(1, None, metric, json.dumps({"engine": engine}), value) for metric, value in values.items()
        ]

    assert own() == (0.0, None, None)
    hear(ours, [*page("0", 0.2), *page("1", 0.97)])
    assert own() == (6.0, 2.0, 0.97)
    choice = ours.choose(asked(0))
    assert choice.side == HOSTED
    assert "own: KV cache 97% full" in choice.why
    hear(ours, [ServerSample(2, None, "vllm:other", "{}", 1.0)])
    assert own() == (0.0, None, None)


def test_a_turn_goes_where_the_one_before_it_went():
    """Whatever the share says: its context is there."""
    shared = dispatcher(rule="share", hosted_share=0.5, sticky=False)
    first = {seq: SideGate(shared, OWN).ask(asked(seq)) for seq in range(4)}
    later = {seq: SideGate(shared, OWN).ask(asked(10 + seq, after_seq=seq)) for seq in range(4)}
    assert later == first
    assert set(first.values()) == {Answer.SEND, Answer.SKIP}


class Taught:
    """Stands for the router: what it is taught."""

    own = SideFacts("own")

    def __init__(self):
        self.learned = []

    def learn(self, which, load, prompt_tokens, ttft_s, tpot_s):
        self.learned.append((which, load, prompt_tokens, round(ttft_s, 6), round(tpot_s, 6)))


def test_a_warm_up_is_learned_from_at_the_load_that_it_had():
    """Four one after the other within a reply: 0 to 3 others; one much later was alone; what failed teaches nothing."""
    taught = Taught()
    rows = [request(-1 - n, 1.0 + n * 1e-3, ttft_s=0.4) for n in range(4)] + [request(-9, 9.0, ttft_s=0.1)]
    Dispatcher(taught, lambda prompt, output: 0.0).learn("own", [*rows, failed(request(-10, 12.0))])
    assert taught.learned == [(OWN, n, 128, 0.4, 0.01) for n in range(4)] + [(OWN, 0, 128, 0.1, 0.01)]


# ---------------------------------------------------------------- both drives


class Watching:
    def __init__(self):
        self.seen, self.told, self.over = [], [], 0

    def rows(self, rows):
        self.seen += rows

    def progress(self, progress):
        self.told.append(progress)

    def should_stop(self):
        return None

    def ended(self):
        self.over += 1


def report(**words):
    base = DriveReport(
        "wire", 1, 100, 200, "kernel", "done", 10, 1, 0.5, 0.1, 0.01, 2, 5, [], [(0, 1)], 900, ["a note"]
    )
    return replace(base, **words)


def job(tmp_path, start):
    return Job([planned(0), planned(1)], [], Load(rate_rps=1.0), Phase.MEASURE, "r", tmp_path, start=start)


def test_two_reports_are_one(tmp_path):
    """Sums, extremes, and whose note is whose; the row says which side, and its worker is not the other's."""
    start, watching = CommonStart(2), Watching()

    def drive(name, made, row):
        def run(_job, watcher):
            start.wait()
            watcher.progress(DriveProgress(1, 2, 3, 0, 8, 1.0))
            watcher.rows([row])
            watcher.ended()
            return made

        return SideDrive(name, job(tmp_path, start), run)

    both = [
        drive("own", report(), request(0, 1.0)),
        drive("api", report(started_ns=90, stop_reason="interrupted", stamp_source="user", largest_clock_step_ns=-7), request(1, 1.0)),
    ]  # fmt: skip
    made = drive_both(both, watching, lambda seq: f"why {seq}", workers=2)
    assert (made.workers, made.started_ns, made.ended_ns, made.reads, made.late_sends) == (2, 90, 200, 20, 4)
    assert (made.stop_reason, made.stamp_source, made.largest_clock_step_ns) == ("interrupted", "user", -7)
    assert list(made.notes) == ["own: a note", "api: a note"]
    assert {(row.served_by, row.routed_why, row.worker) for row in watching.seen} == {
        ("own", "why 0", 0),
        ("api", "why 1", 2),
    }
    assert watching.told[-1].in_flight == 6
    assert watching.over == 2


@pytest.mark.parametrize("before_start", [True, False], ids=["before", "after"])
def test_a_drive_that_breaks_ends_the_other(tmp_path, before_start):
    """Its error is what comes out; the other is told to abort, or waits no longer at the start."""
    start = CommonStart(2)

    def breaks(_job, _watcher):
        if not before_start:
            start.wait()
        raise OSError("no room")

    def goes_on(_job, watcher):
        start.wait()
        ends = threading.Event()
        while watcher.should_stop() != "abort":
            assert not ends.wait(0.01)
        return report(stop_reason="interrupted")

    sides = [SideDrive("own", job(tmp_path, start), breaks), SideDrive("api", job(tmp_path, start), goes_on)]
    with pytest.raises(OSError, match="no room"):
        drive_both(sides, Watching(), lambda seq: None, workers=1)
