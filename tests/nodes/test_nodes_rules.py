"""What is said of load from many nodes: words of a config, rows on another clock, workers by calibration, verdicts; no node is needed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError
from harness.config.experiment import parse_experiment
from harness.judge.summary import summarise
from harness.measure.calibrate import path_of
from harness.measure.nodes.agent import Agent
from harness.measure.nodes.ray_nodes import cluster, hosts_of, places
from harness.measure.nodes.senders import calibrated, together, workers_for
from harness.records import Load, Plan, RequestRecord
from harness.store.parcels import absolute_columns, on_our_clock, only, pack, records, unpack, when
from tests.judge.run_builder import open_loop, run
from tests.nodes.crews import poisson
from tests.store.store_values import request

EXPERIMENT = {
    "experiment": "x",
    "targets": [{"name": "a", "kind": "adopt", "url": "http://10.0.0.9:8000/v1", "model": "m"}],
    "workloads": ["fixed:16x16"],
    "loads": [{"rate": [10], "duration_s": 10}],
}


def test_a_config_without_nodes_is_written_as_before():
    """So that its digest, and a campaign that began with it, stay."""
    assert "load_generators" not in parse_experiment(EXPERIMENT, "x").public()
    there = parse_experiment(EXPERIMENT | {"load_generators": {"on": "ray", "nodes": 4}}, "x").public()
    assert there["load_generators"]["nodes"] == 4
    assert parse_experiment(there, "again").public() == there


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"load_generators": {"on": "rey"}}, "is no cluster"),
        ({"load_generators": {"nodes": 3}}, "add on: ray"),
        ({"load_generators": {"on": "ray", "nodes": 0}}, "nodes that send"),
        ({"max_usd": 5}, "max_usd"),
        ({"targets": [EXPERIMENT["targets"][0] | {"url": "http://localhost:8000/v1"}]}, "loopback"),
        ({"targets": [{"name": "a", "kind": "vllm", "model": "m"}]}, "loopback"),
        ({"targets": [EXPERIMENT["targets"][0] | {"limits": {"rpm": 60}}]}, "is paced"),
        ({"targets": [{"name": "a", "kind": "offline", "model": "m"}], "loads": [{"arrivals": "batch", "requests": 4}]}, "takes its load from this machine"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_nodes_is_refused(changed, said):
    with pytest.raises(ConfigError, match=said):
        parse_experiment(EXPERIMENT | {"load_generators": {"on": "ray", "nodes": 2}} | changed, "x")


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match="needs Ray") as refused, cluster("ray", lambda _: None):
        pass
    assert "vllm-cost-harness[ray]" in refused.value.advice


@pytest.mark.parametrize("on", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_where_nothing_listens_there_is_no_cluster(monkeypatch, on):
    """Said at once, by every way of naming it."""
    pytest.importorskip("ray", reason="no Ray: `make cluster` installs it")
    with pytest.raises(ConfigError, match=f"no Ray cluster at {on}"), cluster(on, lambda _: None):
        pass
    monkeypatch.setenv("RAY_ADDRESS", on)
    with pytest.raises(ConfigError, match=f"no Ray cluster at {on}"), cluster("ray", lambda _: None):
        pass


@pytest.mark.parametrize(("failures", "words"), [(0, []), (2, ["attempt 1 of 3", "attempt 2 of 3"])])
def test_a_head_that_was_crowded_is_asked_again(monkeypatch, failures, words):
    """A process for this client that did not come in time comes the next time; what went wrong is the last line of the head's traceback."""
    said: list[str] = []
    monkeypatch.setitem(sys.modules, "ray", _Head(failures))
    with cluster("ray", said.append):
        pass
    told = [line for line in said if "attempt" in line]
    assert [line.partition("client, ")[2].partition(":")[0] for line in told] == words
    assert all(line.endswith(": psutil.NoSuchProcess: process PID not found") for line in told)


def test_a_head_that_starts_no_process_is_told_in_the_end(monkeypatch):
    """Three times, and the way without; what else goes wrong is told at once."""
    monkeypatch.setitem(sys.modules, "ray", head := _Head(99))
    with pytest.raises(ConfigError, match="started no process") as refused, cluster("ray", lambda _: None):
        pass
    assert (head.asked, refused.value.value) == (3, "psutil.NoSuchProcess: process PID not found")
    monkeypatch.setitem(sys.modules, "ray", head := _Head(99, "ConnectionError: version mismatch"))
    with pytest.raises(ConfigError, match="another version"), cluster("ray", lambda _: None):
        pass
    assert head.asked == 1


class _Head:
    """As much of the module ray as connects; its head fails so many times."""

    __version__ = "2.0.0"

    def __init__(self, failures: int, words: str = "Initialization failure from server:\nTraceback\npsutil.NoSuchProcess: process PID not found\n") -> None:  # fmt: skip
        self.failures, self.words, self.asked = failures, words, 0

    def is_initialized(self) -> bool:
        return False

    def init(self, **_: object) -> None:
        self.asked += 1
        if self.asked <= self.failures:
            raise ConnectionAbortedError(self.words)

    def shutdown(self) -> None: ...


class _Ray:
    """As much of a cluster as is asked about its nodes."""

    class util:
        get_node_ip_address = staticmethod(lambda: "10.0.0.1")

    def __init__(self, cores, dead=()):
        self._cores, self._dead = cores, dead

    def nodes(self):
        return [
            {"NodeID": str(k), "NodeManagerAddress": f"10.0.0.{k}", "Alive": k not in self._dead, "Resources": {"CPU": cpus}}
            for k, cpus in self._cores.items()
        ]  # fmt: skip


def test_nodes_are_chosen_that_have_cores_live_and_are_not_the_targets():
    ray = _Ray({1: 8, 2: 8, 3: 1, 4: 8, 5: 8}, dead={5})
    assert [place.address for place in places(ray, count=2, cores=2, avoid=hosts_of("http://10.0.0.2:1/v1"))] == [
        "10.0.0.4",
        "10.0.0.1",
    ]
    with pytest.raises(ConfigError) as refused:
        places(ray, count=3, cores=2, avoid=frozenset({"10.0.0.2"}))
    assert "10.0.0.2 is the target's own" in refused.value.value
    assert "10.0.0.3 has 1 cores free, 2 are needed" in refused.value.value


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(-(2**61), 2**61)), max_size=20))
def test_a_row_on_another_clock_is_moved_as_a_whole(drawn):
    """Every stamp by the row's one offset, also in lists; everything else, and what is null, as it was."""
    rows = [request(i, chunks, scheduled_ns=None if i % 2 else 2**60 + i) for i, (chunks, _) in enumerate(drawn)]
    offsets = np.array([offset for _, offset in drawn], np.int64)
    table = unpack(pack(rows))
    assert records(table) == rows
    assert when(table).tolist() == [row.sent_ns for row in rows]
    moved = records(on_our_clock(table, offsets, lambda local: local + 3))
    for row, back, offset in zip(rows, moved, offsets.tolist(), strict=True):
        assert back.worker == row.worker + 3
        for name in absolute_columns():
            before, after = getattr(row, name), getattr(back, name)
            if before is None:
                assert after is None
            elif isinstance(before, tuple):
                assert after == tuple(stamp + offset for stamp in before)
            else:
                assert after == before + offset
        untouched = set(RequestRecord.__dataclass_fields__) - set(absolute_columns()) - {"worker"}
        assert {name: getattr(row, name) for name in untouched} == {name: getattr(back, name) for name in untouched}


def test_a_part_of_a_parcel_is_moved_as_the_whole_is():
    """Views into a larger table have lists that do not begin at its beginning."""
    rows = [request(i, 2 + i % 3) for i in range(6)]
    part = only(unpack(pack(rows)), np.array([False, True, False, True, True, False]))
    moved = records(on_our_clock(part.slice(1), np.array([10, -10], np.int64), lambda local: local))
    assert [row.chunk_ns for row in moved] == [
        tuple(stamp + 10 for stamp in rows[3].chunk_ns),
        tuple(stamp - 10 for stamp in rows[4].chunk_ns),
    ]


def _calibrated(tokens, requests=1e6, bounded=True):
    ceiling = {"error_s": 0.001, "tokens_per_s": tokens, "tokens_bounded": bounded, "requests_per_s": requests, "requests_bounded": bounded}  # fmt: skip
    return {"made_utc": "2026-11-26", "workers": 1, "load1": 0.1, "quick": False, "ceilings": [ceiling]}


@pytest.mark.parametrize(
    ("stored", "workers"),
    [
        ([{}, {}], 1),
        ([{1: _calibrated(60_000)}] * 2, 1),
        ([{1: _calibrated(40_000), 2: _calibrated(90_000)}] * 2, 2),
        ([{1: _calibrated(40_000), 2: _calibrated(90_000)}] * 3, 1),
        ([{1: _calibrated(60_000)}, {1: _calibrated(40_000), 3: _calibrated(90_000)}], 3),
        ([{1: _calibrated(60_000, 10), 2: _calibrated(60_000, 1000)}] * 2, 2),
        ([{1: _calibrated(40_000, 10, bounded=False)}] * 2, 1),
    ],
)
def test_workers_are_as_many_as_the_slowest_nodes_own_calibration_needs(stored, workers):
    """1,000 requests/s of 100 tokens: 100,000 tokens/s over the nodes. A limit that a calibration did not come to is none."""
    plan = [replace(r, scheduled_ns=(i + 1) * 1_000_000) for i, r in enumerate(poisson(1000, 1000, 100))]
    drawn = Plan(tuple(plan), (), Load(rate_rps=1000), "w", 1, "0")
    limits = {f"node-{k}": one for k, one in enumerate(stored)}
    assert workers_for(drawn, limits)[0] == workers
    assert workers_for(replace(drawn, load=Load(concurrency=8)), limits)[0] == 1


def test_a_node_that_is_calibrated_for_less_than_its_share_is_refused():
    drawn = Plan(tuple(poisson(1000, 1000, 100)), (), Load(rate_rps=1000), "w", 1, "0")
    with pytest.raises(ConfigError, match="node b is calibrated for less") as refused:
        workers_for(drawn, {"a": {1: _calibrated(1e6)}, "b": {1: _calibrated(100), 2: _calibrated(200)}})
    assert "harness calibrate --workers 3" in refused.value.advice


class _Here:
    """Two nodes that are this process."""

    def __init__(self):
        self.names, self.ended, self._came = ["a", "b"], set(), []

    def ask(self, node, method, *args):
        self._came.append((node, getattr(Agent(), method)(*args)))

    def answers(self, _):
        came, self._came = self._came, []
        return came

    def end(self, node):
        self.ended.add(node)


@pytest.mark.parametrize(("tokens", "workers"), [(0, 1), (90_000, 2)])
def test_nodes_are_asked_for_their_calibrations_and_made_anew_with_more_workers(tmp_path, monkeypatch, tokens, workers):
    """As `harness calibrate` left it on the node: two workers hold 50,000 tokens/s. Where none is stored the first crew stays."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if tokens:
        path_of(2).write_text(json.dumps(_calibrated(tokens)))
    drawn = Plan(tuple(poisson(1000, 1000, 100)), (), Load(rate_rps=1000), "w", 1, "0")
    made, said = [], []

    def crew_of(count):
        made.append((count, crew := _Here()))
        return crew

    crew, count = calibrated(crew_of, drawn, said.append)
    assert (count, crew) == made[-1]
    assert [of for of, _ in made] == [1, workers][:workers]
    assert made[0][1].ended == (set() if workers == 1 else {0, 1})
    assert crew.ended == set()
    assert said[0].startswith(f"{workers} worker(s) a node")


def test_calibrations_of_nodes_are_one_limit_by_the_least():
    both = together([_calibrated(60_000), _calibrated(40_000)])
    assert both["workers"] == 2
    assert both["ceilings"][0]["tokens_per_s"] == 80_000
    assert together([_calibrated(60_000), None]) is None


FAST = open_loop(200, 2000)


def _judged(records_, **drive):
    data = run(records_, Load(rate_rps=200))
    measured = dict(data.manifest.drive["measure"]) | drive
    manifest = replace(data.manifest, drive=dict(data.manifest.drive) | {"measure": measured})
    return {reason.code: reason.message for reason in summarise(replace(data, manifest=manifest)).verdict.reasons}


def test_how_unsure_the_clocks_are_is_added_to_the_send_lag():
    """4 ms late is allowed at 5; with 1.5 ms of uncertainty it is not, and the words say so. One machine's workers have none."""
    late = [replace(row, sent_ns=row.sent_ns + 4_000_000) for row in FAST]
    offsets = [(100, 1_500_000), (7, 1000)]
    assert "send_lag" not in _judged(late)
    assert "send_lag" not in _judged(late, clock_offsets=offsets)
    told = _judged(late, clock_offsets=offsets, nodes=[{"node": "a"}])["send_lag"]
    assert "5.5 ms" in told
    assert "1.50 ms of it is how unsure the nodes' clocks are" in told


def test_a_lost_node_makes_the_run_invalid_with_its_share():
    gone = [replace(row, outcome="lost", sent_ns=None) if i % 8 == 3 else row for i, row in enumerate(FAST)]
    facts = [{"node": "10.0.0.2", "lost": None}, {"node": "10.0.0.3", "lost": "unplugged"}]
    told = _judged(gone, stop_reason="node_lost", nodes=facts)["node_lost"]
    assert told.startswith("10.0.0.3 lost: 250 of 2000 requests (12.5%)")


def test_a_request_that_was_lost_may_be_billed():
    """Nobody knows whether it was sent: it is of those that may be, not of those that never were."""
    from harness.judge.sent import sent_of

    lost = replace(request(1), outcome="lost", sent_ns=None)
    assert sent_of(lost).sent_utc_s is not None
    assert sent_of(replace(lost, outcome="dropped")).sent_utc_s is None
    assert asdict(lost)["outcome"] == "lost"
