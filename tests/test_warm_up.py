"""Rounds of a warm-up: how many requests, at which load, and when they end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.measure import warm_up
from harness.measure.plan import drawing
from harness.measure.targets.server.jit_log import JitWatch
from harness.records import DriveReport, Load

JIT = (
    "(EngineCore pid=7) WARNING 11-26 04:40:01 [jit_monitor.py:141] Triton kernel JIT compilation during inference: _k. "
    "This causes a latency spike; consider extending warmup to cover this shape/config.\n"
)


def draw(load: Load, requests: int = 200, warmup: int = 4, workload: str = "uniform:64-256x16-64", salt: int = 0):
    drawn, _ = drawing.draw(
        workload,
        load,
        requests=requests,
        duration_s=None,
        seed=3,
        warmup_requests=warmup,
        context_limit_tokens=None,
        salt=salt,
    )
    return drawn


class Server:
    """Takes `request_s` for a request, `slots` at once; its log gains a JIT line in each of the first `compiles` rounds."""

    def __init__(self, log, request_s: float = 1.0, compiles: int = 0, stop_reason: str = "done"):
        self.log, self.request_s, self.compiles, self.stop_reason = log, request_s, compiles, stop_reason
        self.log.touch()
        self.rounds: list[tuple] = []

    def __call__(self, requests, load):
        if len(self.rounds) < self.compiles:
            with self.log.open("a") as out:
                out.write(JIT)
        self.rounds.append((tuple(requests), load))
        wall_s = -(-len(requests) // load.concurrency) * self.request_s
        return DriveReport("wire", 1, 0, int(wall_s * 1e9), "kernel", self.stop_reason, 0, 0, 0.0, None, None, 0, 0, ())


def rounds(server: Server, drawn, kind: str = "vllm") -> list[tuple[int, int]]:
    made = warm_up.warm_up(drawn, kind, JitWatch(server.log), server)
    assert made.rounds == [(len(requests), load.concurrency) for requests, load in server.rounds]
    return made.rounds


@pytest.mark.parametrize(("concurrency", "expected"), [(1, [(4, 1)]), (16, [(32, 16)]), (400, [(800, 400)])])
def test_a_closed_loop_gets_two_requests_a_slot_at_its_own_concurrency(tmp_path, concurrency, expected):
    """At least, and never fewer than the plan's own warm-up requests."""
    assert rounds(Server(tmp_path / "log"), draw(Load(concurrency=concurrency))) == expected


def test_rounds_go_on_until_one_is_without_a_jit_line(tmp_path):
    """Two rounds that compile are followed by a third, and the lines of each are counted."""
    server = Server(tmp_path / "log", compiles=2)
    made = warm_up.warm_up(draw(Load(concurrency=8)), "vllm", JitWatch(server.log), server)
    assert (made.rounds, made.jit_lines) == ([(16, 8)] * 3, [1, 1, 0])


def test_a_server_that_never_stops_compiling_is_warmed_five_times(tmp_path):
    """The bound."""
    assert len(rounds(Server(tmp_path / "log", compiles=99), draw(Load(concurrency=2)))) == 5


def test_an_open_loop_has_rate_times_e2el_in_flight(tmp_path):
    """20 requests/s of 1.5 s each: 30 at once, 60 requests, after a first round of the plan's few tells the 1.5 s."""
    assert rounds(Server(tmp_path / "log", request_s=1.5), draw(Load(rate_rps=20.0))) == [(4, 4), (60, 30)]


def test_a_slow_open_loop_needs_no_second_round(tmp_path):
    """One request in 10 s of 1 s each: one at once, the plan's four are enough."""
    assert rounds(Server(tmp_path / "log"), draw(Load(rate_rps=0.1))) == [(4, 4)]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [((1.0, 1.2), [(4, 4), (20, 10)]), ((1.0, 2.0, 2.2), [(4, 4), (20, 10), (40, 20)])],
    ids=["a fifth more", "twice as many"],
)
def test_an_open_loop_is_warmed_again_only_where_its_load_was_missed_by_more_than_a_quarter(
    tmp_path, seconds, expected
):
    """10 requests/s, whose time grows with the requests in flight."""
    server = Server(tmp_path / "log")
    times = iter(seconds)

    def send(requests, load):
        server.request_s = next(times)
        return server(requests, load)

    made = warm_up.warm_up(draw(Load(rate_rps=10.0)), "vllm", JitWatch(server.log), send)
    assert made.rounds == expected


def test_an_open_loop_is_not_warmed_with_more_than_it_measures(tmp_path):
    """500 requests/s of 10 s each would be 5,000 at once; 40 are measured."""
    assert rounds(Server(tmp_path / "log", request_s=10), draw(Load(rate_rps=500.0), 40)) == [(4, 4), (40, 40)]


@pytest.mark.parametrize(("kind", "expected"), [("hosted", [(1, 1), (3, 8)]), ("offline", [(4, 8)])])
def test_who_bills_or_takes_batches_gets_the_plans_few_once(tmp_path, kind, expected):
    """A hosted API at 400 slots is sent 4 requests, the first of them alone, 8 at once at most."""
    assert rounds(Server(tmp_path / "log", compiles=3), draw(Load(concurrency=400)), kind) == expected


def test_without_warmup_requests_there_is_no_warm_up(tmp_path):
    """warmup_requests: 0."""
    assert rounds(Server(tmp_path / "log", compiles=3), draw(Load(concurrency=4), warmup=0)) == []


def test_an_interrupted_round_is_the_last(tmp_path):
    """Ctrl-C in the warm-up."""
    assert len(rounds(Server(tmp_path / "log", compiles=9, stop_reason="interrupted"), draw(Load(concurrency=4)))) == 1


def test_no_warm_up_prompt_is_a_measured_one_or_sent_twice(tmp_path):
    """Over five rounds: every prompt seed and seq is new, so no prefix cache holds what is measured; a salt makes all of them others."""
    drawn = draw(Load(concurrency=32))
    server = Server(tmp_path / "log", compiles=9)
    rounds(server, drawn)
    other = Server(tmp_path / "other", compiles=9)
    rounds(other, draw(Load(concurrency=32), salt=7))
    assert not {r.prompt_seed for seen, _ in other.rounds for r in seen} & {
        r.prompt_seed for seen, _ in server.rounds for r in seen
    }
    sent = [request for requests, _ in server.rounds for request in requests]
    assert len(sent) == 320
    assert {request.seq for request in sent} == set(range(-320, 0))
    assert len({r.prompt_seed for r in (*sent, *drawn.requests)}) == 320 + len(drawn.requests)
    assert sent[:4] == list(drawn.warmup)


def test_warm_up_requests_have_shapes_of_the_measured_plan(tmp_path):
    """Those beyond the plan's own, spread over all of it."""
    drawn = draw(Load(concurrency=32))
    server = Server(tmp_path / "log")
    rounds(server, drawn)
    shapes = [(r.target_prompt_tokens, r.target_output_tokens) for r in server.rounds[0][0][4:]]
    measured = [(r.target_prompt_tokens, r.target_output_tokens) for r in drawn.requests]
    assert shapes == measured[: 60 * 3 : 3]


def test_the_report_spans_all_rounds(tmp_path):
    """It begins where the first round began: the forecast of the next campaign reads its seconds there."""
    server = Server(tmp_path / "log", compiles=1)
    starts = iter((5, 70))

    def send(requests, load):
        return replace(server(requests, load), started_ns=(at := next(starts)), ended_ns=at + 10)

    made = warm_up.warm_up(draw(Load(concurrency=4)), "vllm", JitWatch(server.log), send)
    assert (made.report["started_ns"], made.report["ended_ns"]) == (5, 80)
