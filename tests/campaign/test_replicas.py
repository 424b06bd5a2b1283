"""Targets of several replicas: requests in turn or through a router, each row's replica where it is known, and what the report makes of it."""

from __future__ import annotations

import asyncio
from itertools import cycle
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from campaign_values import run, spec, states
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError, TargetError
from harness.cli import cli
from harness.config.experiment import parse_experiment
from harness.config.target import TargetSpec
from harness.judge.replicas import imbalance
from harness.judge.runs import analyse
from harness.measure.drive.driver import _workers
from harness.measure.drive.places import replica_in
from harness.measure.targets import open_target
from harness.records import Load, ReplicaOfRun
from harness.report.run.cells import rows
from harness.report.run.replicas import _parts, replica_tables
from harness.store.reader import read_run
from tests.bench.slow_proxy import SlowProxy
from tests.fakes.golden_server import GoldenServer


class Router(SlowProxy):
    """Of three completions one to the first server and two to the second; a head names the server where it `says` so."""

    def __init__(self, urls: list[str], *, says: bool) -> None:
        super().__init__(urls[0], slots=100, delay_s=0.02)
        self._says = says
        self._turn = cycle([urlsplit(urls[index]) for index in (0, 1, 1)])

    async def _relay(self, request: bytes, back: asyncio.StreamWriter) -> None:
        if b"/completions " in request.split(b"\r\n", 1)[0]:
            self._to = next(self._turn)
        says = f"x-litellm-model-api-base: http://{self._to.netloc}/v1\r\n" if self._says else ""
        await super()._relay(request, _With(back, f"connection: close\r\n{says}"))


class _With:
    """A reply with more lines in its head."""

    def __init__(self, back: asyncio.StreamWriter, lines: str) -> None:
        self._back, self._lines, self.drain = back, f"\r\n{lines}".encode(), back.drain

    def write(self, data: bytes) -> None:
        self._back.write(data.replace(b"\r\n", self._lines, 1))
        self._lines = b"\r\n"


@pytest.mark.timing
def test_rows_and_counters_tell_which_replica_served(tmp_path):
    """Two golden servers, 24 requests: in turn (12 each), through a router whose heads name the server (8 and 16) and through one that says
    nothing (its replicas' counters do). Rows have the server that the servers' own logs have; the report tells the router's cost."""
    with GoldenServer(0.01, 0.001) as first, GoldenServer(0.03, 0.001) as second:
        urls = [first.url, second.url]
        with Router(urls, says=True) as named, Router(urls, says=False) as silent:
            common = {"kind": "adopt", "model": "golden", "replicas": urls}
            targets = [
                {"name": "turn", **common},
                {"name": "named", "url": named.url, **common},
                {"name": "silent", "url": silent.url, **common},
            ]
            loads = [{"concurrency": [2], "requests": 24}]
            made = spec(
                targets=targets,
                workloads=["fixed:16x4"],
                loads=loads,
                repetitions=1,
                observe={"gpu": "off", "network": "off"},
            )
            out = tmp_path / "out"
            run(made, out)
        assert set(states(out).values()) == {"complete"}
        summaries = {summary.cell.target: summary for summary in analyse(out).summaries}
        names = [urlsplit(url).netloc for url in urls]
        parts = {name: summary.replicas for name, summary in summaries.items()}
        assert {name: [part.requests for part in found] for name, found in parts.items()} == {
            "turn": [12, 12], "named": [8, 16], "silent": [8, 16],
        }  # fmt: skip
        assert {name: found[0].source for name, found in parts.items()} == {"turn": "rows", "named": "rows", "silent": "counters"}  # fmt: skip
        assert all(
            [part.output_tokens for part in found] == [4 * part.requests for part in found] for found in parts.values()
        )
        assert parts["turn"][0].ttft_s < parts["turn"][1].ttft_s
        for name in ("turn", "named"):
            frame = read_run(next(out.glob(f"*_{name}_*"))).requests
            for server, where in zip((first, second), names, strict=True):
                assert all(request_id in server.log for request_id in frame[frame["served_by"] == where]["request_id"])
        assert read_run(next(out.glob("*_silent_*"))).requests["served_by"].isna().all()
    (table,) = replica_tables(rows(list(summaries.values()), []))
    words = "\n".join(table.words)
    assert "turn: the most loaded replica had 1.00 x the mean's requests" in words
    assert "named: the most loaded replica had 1.33 x the mean's requests" in words
    assert "the router of named, against turn with the same plan: " in words
    shown = CliRunner().invoke(cli, ["analyse", str(out)])
    assert "replicas: fixed:16x4" in shown.output
    assert "through " in shown.output


@pytest.mark.timing
def test_a_replica_with_another_model_is_refused(tmp_path):
    """One of two replicas serves something else: TargetError that names it."""
    with GoldenServer() as first, GoldenServer(model="other") as second:
        made = TargetSpec(name="t", kind="adopt", model="golden", replicas=[first.url, second.url])
        with pytest.raises(TargetError) as error:
            open_target(made, tmp_path / "log", print)
    assert second.url in error.value.what


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"replicas": ["http://a:1/v1"]}, "two or more"),
        ({"replicas": ["http://a:1/v1", "http://a:1"]}, "named twice"),
        ({"replicas": ["http://a:1/v1", "http://u:p@b:1/v1"]}, "it carries"),
        ({"kind": "hosted", "url": "http://c:1/v1", "replicas": ["http://a:1/v1", "http://b:1/v1"]}, "kind adopt"),
    ],
)
def test_replicas_that_cannot_be_meant_are_refused(changes, words):
    """One alone, one twice, a password, another kind: ConfigError that says so."""
    target = {"name": "t", "kind": "adopt", "model": "m"} | changes
    with pytest.raises(ConfigError) as error:
        parse_experiment(spec().model_dump(mode="json") | {"targets": [target]}, "x")
    assert words in str(error.value)


def test_replicas_have_their_pages_and_their_first_stands_for_all():
    """Without a router the first URL is asked; with one the router is. Pages are those of the replicas, unless others are named."""
    urls = ["http://a:1/v1", "http://b:1"]
    made = TargetSpec(name="t", kind="adopt", model="m", replicas=urls)
    assert (made.url, made.in_turn) == ("http://a:1/v1", True)
    assert made.metrics_urls == ["http://a:1/metrics", "http://b:1/metrics"]
    routed = TargetSpec(
        name="t", kind="adopt", model="m", url="http://r:1/v1", replicas=urls, metrics_urls=["http://x:1/metrics"]
    )
    assert (routed.in_turn, routed.metrics_urls) == (False, ["http://x:1/metrics"])
    assert TargetSpec.model_validate(made.model_dump(mode="json")) == made


@given(wanted=st.integers(1, 64), most=st.integers(1, 200), replicas=st.integers(0, 9))
def test_every_replica_has_as_many_workers(wanted, most, replicas):
    """At least one worker and never more than there is work for; of several replicas each has the same number, unless there are fewer
    requests or slots than replicas."""
    count = _workers(wanted, most, replicas)
    assert 1 <= count <= most
    if replicas and most >= replicas:
        assert count % replicas == 0
        assert count >= min(wanted, most // replicas * replicas)
    if not replicas:
        assert count == min(wanted, most)


def test_a_head_names_one_replica_or_none():
    """A router's header with the address, whole: no address that another begins with, and not two of them."""
    names = ("10.0.0.1:80", "10.0.0.1:8000", "b:1")
    assert replica_in({"x-litellm-model-api-base": "http://10.0.0.1:8000/v1", "server": "u"}, names) == "10.0.0.1:8000"
    assert replica_in({"x-upstream": "b:1"}, names) == "b:1"
    assert replica_in({"x-upstream": "b:1, 10.0.0.1:80"}, names) is None
    assert replica_in({"x-upstream": "c:1"}, names) is None


def test_the_whole_is_held_against_its_parts_at_their_share_of_the_load():
    """10 tok/s of two replicas that serve 6 each alone at half the load: 83.3 %. Without one of them at that load nothing is said."""

    def row(url, tps, concurrency, replicas=()):
        config = {"url": url, "replicas": list(replicas)}
        parts = tuple(ReplicaOfRun("x", "rows", 1, 1, None) for _ in replicas)
        run_of = SimpleNamespace(target_config=config, replicas=parts, scalars={"output_tps": tps}, distributions={})
        return SimpleNamespace(
            target="t", workload="w", campaign_id="c", load=Load(concurrency=concurrency), used=(run_of,)
        )

    urls = ["http://a:1/v1", "http://b:1/v1"]
    whole, first, second = row(urls[0], 10.0, 4, urls), row(urls[0], 6.0, 2), row(urls[1], 6.0, 2)
    assert "83.3% of the 12" in _parts(whole, [whole, first, second])
    assert _parts(whole, [whole, first, row(urls[1], 6.0, 4)]) is None
    assert _parts(whole, [whole, first]) is None


@given(values=st.lists(st.integers(0, 10**6), min_size=2, max_size=9))
def test_imbalance_is_between_even_and_all_on_one(values):
    """1 where all have as many, the number of replicas where one has all; None where nothing was served or one does not tell."""
    parts = [ReplicaOfRun(str(k), "rows", value, None, None) for k, value in enumerate(values)]
    found = imbalance(parts, "requests")
    assert (found is None) == (sum(values) == 0)
    assert found is None or 1 <= found <= len(values) + 1e-9
    assert imbalance(parts, "output_tokens") is None
