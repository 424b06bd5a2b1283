"""Load from many nodes without a cluster: agents in processes of this machine, called through pipes."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.base import clock
from harness.base.errors import ConfigError, TargetError
from harness.base.files import cache_dir
from harness.measure.drive.golden.server import MODEL, GoldenProcess, build
from harness.measure.drive.golden.truth import compare
from harness.measure.nodes import agent, drive_nodes, echo, muster
from harness.records import DriveProgress, Endpoint, Load, Phase, PlannedRequest
from tests.nodes.crews import LIMITS, WORDS, Seen, offer, poisson
from tests.nodes.local_crew import LocalCrew
from tests.waiting import Machine, until

pytestmark = pytest.mark.timing


@pytest.fixture
def server(tmp_path):
    with GoldenProcess(build(cache_dir("golden")), 0.01, 0.004, tmp_path) as up:
        yield up


def test_four_nodes_send_every_planned_request_once_and_the_server_sees_one_poisson_process(server):
    """Every request a row, and one request at the server, none before it was due. Of each node the promptest of a hundred came there when it was due:
    they began together, and what the rest came later is this machine's. Gaps of what they send together are exponential, counts disperse as
    Poisson's."""
    plan, seen = poisson(400, 150, 10), Seen()
    with LocalCrew(4) as crew, Machine() as machine:
        report = offer(crew, server.url, plan, Load(rate_rps=150), seen)
    served = server.stop()
    assert sorted(row.seq for row in seen.rows_seen) == list(range(400))
    assert len(served) == 400
    assert {row.outcome for row in seen.rows_seen} == {"ok"}
    assert {row.worker for row in seen.rows_seen} == {0, 1, 2, 3}
    assert report.stop_reason == "done"
    assert (report.workers, len(report.clock_offsets), len(report.nodes)) == (4, 4, 4)
    assert seen.was_ended
    behind_ns = {worker: [] for worker in range(4)}
    for row in seen.rows_seen:
        assert row.scheduled_ns <= row.sent_ns
        behind_ns[row.worker].append(served[row.request_id].received_ns - row.scheduled_ns)
    assert all(0 <= min(of_node) < 1e9 / 150 / 2 for of_node in behind_ns.values()), behind_ns
    assert all(np.median(of_node) < 10_000_000 + machine.worst_ns for of_node in behind_ns.values()), behind_ns
    arrived = np.sort([row.scheduled_ns + min(behind_ns[row.worker]) for row in seen.rows_seen]) / 1e9
    assert stats.kstest(np.diff(arrived), "expon", args=(0, 1 / 150)).pvalue > 0.001
    counts = np.histogram(arrived, np.arange(arrived[0], arrived[-1], 0.1))[0]
    assert 0.5 < counts.var() / counts.mean() < 1.6
    seen_by_us = compare(seen.rows_seen, served, server, 10)
    assert seen_by_us.whole == 400


def test_a_closed_loop_is_divided_among_nodes_and_workers(server):
    """Five slots over two nodes of two workers: so many connections, every request once, worker numbers of the whole run."""
    plan = [PlannedRequest(i, None, 16, 5, None, i) for i in range(60)]
    seen = Seen()
    with LocalCrew(2) as crew:
        report = offer(crew, server.url, plan, Load(concurrency=5), seen, workers=2)
    assert sorted(row.seq for row in seen.rows_seen) == list(range(60))
    assert sum(not row.connection_reused for row in seen.rows_seen) == 5
    assert {row.worker for row in seen.rows_seen} == {0, 1, 2, 3}
    assert [node["requests"] for node in report.nodes] == [36, 24]
    assert all(row.scheduled_ns is None for row in seen.rows_seen)


def test_more_nodes_than_slots_leaves_some_idle(server):
    plan = [PlannedRequest(i, None, 16, 2, None, i) for i in range(6)]
    seen = Seen()
    with LocalCrew(3) as crew:
        report = offer(crew, server.url, plan, Load(concurrency=2), seen)
    assert sorted(row.seq for row in seen.rows_seen) == list(range(6))
    assert len(report.nodes) == 2


def test_a_node_that_dies_loses_its_own_requests_alone_and_nothing_is_left_running(server):
    """Killed in the middle: the others' rows are all there; of its requests those that were due are `lost`, later ones `dropped`; none twice."""
    plan = poisson(301, 100, 10, late_s=60)
    with LocalCrew(3) as crew:

        def kill_one(progress: DriveProgress) -> None:
            if progress.done >= 60 and not crew.started:
                crew.kill(1)

        seen = Seen(on_progress=kill_one)
        report = offer(crew, server.url, plan, Load(rate_rps=100), seen)
        workers = crew.started[1]
        assert workers
        until(lambda: not any(worker.is_running() for worker in workers), "its workers to end")
    rows = {row.seq: row for row in seen.rows_seen}
    assert len(rows) == len(seen.rows_seen) == 302
    assert report.stop_reason == "node_lost"
    assert [bool(node["lost"]) for node in report.nodes] == [False, True, False]
    others = [row for row in seen.rows_seen if row.seq % 3 != 1]
    assert {row.outcome for row in others} == {"ok"}
    its = sorted((row for row in seen.rows_seen if row.seq % 3 == 1), key=lambda row: row.seq)
    assert {row.outcome for row in its} == {"ok", "lost", "dropped"}
    lost = [row.scheduled_ns for row in its if row.outcome == "lost"]
    dropped = [row.scheduled_ns for row in its if row.outcome == "dropped"]
    assert max(lost) < min(dropped)
    assert all("local-1 was lost" in row.error for row in its if row.outcome != "ok")


def test_a_node_that_is_not_heard_of_is_lost_and_its_late_answer_is_nothing(server, monkeypatch):
    """Its parcels that come after it was given up are not stored: no row twice."""
    monkeypatch.setattr(drive_nodes, "LOST_S", 2.0)
    plan = poisson(200, 100, 5, late_s=60)
    with LocalCrew(2, lingers=True) as crew:

        def deafen(progress: DriveProgress) -> None:
            if 0 in crew.ended:
                crew.deaf.discard(0)
            elif progress.done >= 40:
                crew.deaf.add(0)

        seen = Seen(on_progress=deafen)
        report = offer(crew, server.url, plan, Load(rate_rps=100), seen)
    assert sorted(row.seq for row in seen.rows_seen) == list(range(201))
    assert report.stop_reason == "node_lost"
    assert {row.outcome for row in seen.rows_seen if row.seq % 2} == {"ok"}


@pytest.mark.parametrize(
    ("word", "reason"), [("drain", "interrupted"), ("abort", "interrupted"), ("probe_decided", "probe_decided")]
)
def test_a_word_of_the_watcher_stops_all_nodes(server, word, reason):
    """What was sent has rows, what was not has none."""
    plan = poisson(4000, 100, 5)
    done = [0]
    with LocalCrew(2) as crew:
        seen = Seen(
            on_progress=lambda progress: done.append(progress.done), stop=lambda: word if done[-1] > 30 else None
        )
        report = offer(crew, server.url, plan, Load(rate_rps=100), seen)
    assert report.stop_reason == reason
    assert 30 < len(seen.rows_seen) < 4000
    assert len({row.seq for row in seen.rows_seen}) == len(seen.rows_seen)
    outcomes = {row.outcome for row in seen.rows_seen}
    assert outcomes <= ({"ok"} if word == "drain" else {"ok", "cancelled"})


def test_a_worker_that_is_killed_ends_its_node_and_the_run_says_so(server):
    plan = poisson(300, 100, 10, late_s=60)
    killed = []
    with LocalCrew(2) as crew:

        def kill_worker(progress: DriveProgress) -> None:
            if progress.done >= 40 and not killed:
                killed.append(crew.workers(0)[0].pid)
                os.kill(killed[0], signal.SIGKILL)

        seen = Seen(on_progress=kill_worker)
        report = offer(crew, server.url, plan, Load(rate_rps=100), seen)
    assert report.stop_reason == "worker_died"
    assert sorted(row.seq for row in seen.rows_seen) == list(range(301))
    assert {row.outcome for row in seen.rows_seen if row.seq % 2} == {"ok"}


def test_a_node_with_other_code_is_refused_before_the_first_send(server, monkeypatch):
    monkeypatch.setattr("harness.measure.nodes.muster.source_digest", lambda: "another")
    with LocalCrew(1) as crew, pytest.raises(ConfigError, match="node local-0 differs"):
        offer(crew, server.url, poisson(5, 100, 2), Load(rate_rps=100), Seen())
    assert server.stop() == {}


def test_a_node_that_was_given_another_plan_is_refused_before_the_first_send(server, monkeypatch):
    """The digest that comes back is not that of what was sent."""
    monkeypatch.setattr(agent.Share, "sha256", "of another plan")
    with LocalCrew(1) as crew, pytest.raises(TargetError, match="node local-0 has no share") as refused:
        offer(crew, server.url, poisson(5, 100, 2), Load(rate_rps=100), Seen())
    assert "another plan" in refused.value.value
    assert server.stop() == {}


def test_a_node_whose_clock_cannot_be_asked_is_refused_before_the_first_send(server, monkeypatch):
    monkeypatch.setattr(muster, "Asker", lambda echoes, secret: echo.Asker([("127.0.0.1", 9) for _ in echoes], secret))
    with LocalCrew(1) as crew, pytest.raises(TargetError, match="clock of local-0 cannot be asked"):
        offer(crew, server.url, poisson(5, 100, 2), Load(rate_rps=100), Seen())
    assert server.stop() == {}


def test_a_straggler_is_named_and_nobody_begins(server, monkeypatch):
    """A start that lies in the past when it is heard of is refused, by every node."""
    monkeypatch.setattr(drive_nodes, "LEAD_S", -5.0)
    with LocalCrew(2) as crew, pytest.raises(TargetError, match="heard of the start too late"):
        offer(crew, server.url, poisson(5, 100, 2), Load(rate_rps=100), Seen())
    assert server.stop() == {}


class _Mute(LocalCrew):
    """The second node's answer to the start does not come."""

    def ask(self, node, method, *args):
        if (node, method) == (1, "start"):
            self.deaf.add(node)
        super().ask(node, method, *args)


def test_those_that_heard_of_the_start_are_called_back_where_one_did_not(server, monkeypatch):
    monkeypatch.setattr(muster, "CLOSE_S", 1.0)  # the mute one is waited for in vain
    monkeypatch.setattr(drive_nodes, "LEAD_S", 4.0)  # a machine that stands still in between calls back in time
    with _Mute(2) as crew, pytest.raises(TargetError, match="node local-1 heard of the start too late"):
        offer(crew, server.url, poisson(5, 100, 2), Load(rate_rps=100), Seen())
    assert server.stop() == {}


def test_the_key_of_an_api_is_in_no_text_of_what_is_handed_over():
    """Not in the repr of a share, of a parcel or of an agent's trouble."""
    endpoint = Endpoint("http://10.0.0.1:1/v1", "m", "chat", api_key="top-secret-key-77")
    assert "top-secret" not in repr(endpoint)
    assert "top-secret" not in repr(replace(endpoint, model="n"))
    one = agent.Agent()
    assert "top-secret" not in repr(one)


def test_an_agent_whose_parent_is_gone_stops_sending_and_leaves_nothing(server, monkeypatch):
    """Nobody asks it any more: it aborts by itself, and its files are gone."""
    monkeypatch.setattr(agent, "SILENCE_S", 1.0)
    one = agent.Agent()
    share = agent.Share(
        poisson(5000, 100, 5), Load(rate_rps=100), Phase.MEASURE, "gone", None, WORDS, "wire", 1, LIMITS
    )
    one.prepare(share, Endpoint(server.url, MODEL, "completions", vllm_extensions=True))
    until(lambda: one.poll(0, None).ready, "it to be ready")
    assert one.start(clock.monotonic_ns() + 200_000_000) > 0
    until(lambda: one.poll(0, None).parcels, "rows")
    until(lambda: not one._thread.is_alive(), "it to stop")
    assert not one._scratch.exists()
    assert one._report.stop_reason == agent.GONE
    assert len(server.stop()) < 5000
