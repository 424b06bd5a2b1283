"""Hits of the prefix cache that a run's prompts explain, and those that say that its server has seen the plan before."""

from __future__ import annotations

import json
import math
import secrets
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli.run import run as run_command
from harness.judge.columns import measured
from harness.judge.validity import Evidence
from harness.judge.validity.tokens import MAX_UNPLANNED_HITS, by_chance, planned_tokens, prefix_cache
from harness.measure.plan.prefixes import beginning
from harness.measure.plan.prompts import prompts
from harness.records import Load, PlannedRequest, RunData, ServerSample, Vocabulary
from harness.store.reader import read_run
from tests.fakes.golden_server import GoldenServer
from tests.judge.run_builder import closed_loop, edges, frame, ns, run

C4 = Load(concurrency=4)
ROWS = closed_loop(4, 40, prompt=1000)
WORDS = tuple(f"w{i}" for i in range(2000))


def evidence(rows, *, plan=None, server="clean", **vocabulary) -> Evidence:
    target = {"kind": "hosted", "vocabulary": {"words": 2000, "verified": True, **vocabulary}}
    data: RunData = run(rows, C4, target=target, server=server)
    if plan is not None:
        data = replace(data, plan=frame(plan, PlannedRequest))
    requests = measured(data.requests)
    return Evidence(data, requests, {}, None, "", requests.ok, {}, ())


def cached(rows, tokens) -> list:
    """Every row with so many cached tokens; a callable says it of each row."""
    of = tokens if callable(tokens) else lambda _: tokens
    return [replace(r, cached_prompt_tokens=of(r)) for r in rows]


def test_hits_up_to_the_limit_are_no_reason_and_one_beyond_is():
    """1 % of the prompt tokens beyond what chance explains: not yet; a token of one request more: INVALID."""
    chance = math.floor(by_chance(2000, verified=True))
    most = round(MAX_UNPLANNED_HITS * 1000 + by_chance(2000, verified=True) - 0.5)
    assert prefix_cache(evidence(cached(ROWS, most))) is None
    reason = prefix_cache(evidence(cached(ROWS, most + 1)))
    assert (reason.code, reason.severity, chance) == ("prefix_cache", "invalid", 1)


@pytest.mark.parametrize("template", [0, 7, 36, 400])
def test_the_template_is_what_usage_counts_beyond_the_words(template):
    """Prompts of 1,000 words and a template whose length nobody told: hits of all of it are by right, a tenth more is not."""
    rows = [replace(r, prompt_tokens=1000 + template) for r in ROWS]
    assert prefix_cache(evidence(cached(rows, template))) is None
    assert prefix_cache(evidence(cached(rows, template + 100))) is not None


def test_the_template_is_no_longer_than_the_least_that_any_prompt_has_beyond_its_words():
    """Words of several tokens make prompts longer, not the template: one prompt of 1,036 tokens shows that it has 36."""
    rows = [replace(r, prompt_tokens=1300 if i else 1036) for i, r in enumerate(ROWS)]
    assert prefix_cache(evidence(cached(rows, 36))) is None
    assert prefix_cache(evidence(cached(rows, 136))) is not None


def test_a_template_that_shortened_the_words_is_known_by_the_overhead():
    """Exact prompts: 964 words and 36 tokens of template are the 1,000 asked for."""
    assert prefix_cache(evidence(cached(ROWS, 36), prompt_overhead_tokens=36)) is None
    assert prefix_cache(evidence(cached(ROWS, 36), prompt_overhead_tokens=0)) is not None


def test_the_servers_own_counters_are_held_against_the_same():
    """No cached tokens in usage: hits by /metrics beyond template and chance count, hits within do not."""
    rows = [replace(r, cached_prompt_tokens=None, prompt_tokens=1036) for r in ROWS]

    def counters(hits_each: int) -> list[ServerSample]:
        samples = edges(rows)
        for name, rise in (("hits", hits_each * len(rows)), ("queries", 1036 * len(rows))):
            samples += [
                ServerSample(ns(at), edge, f"vllm:prefix_cache_{name}_total", "{}", 5.0 + value)
                for at, edge, value in ((-1, "start", 0), (1e4, "end", rise))
            ]
        return samples

    with_usage = [replace(r, prompt_tokens=1036) for r in rows]
    assert prefix_cache(evidence(with_usage, server=counters(37))) is None
    assert prefix_cache(evidence(with_usage, server=counters(60))) is not None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40), st.integers(1, 60)), min_size=2, max_size=12))
def test_what_prompts_share_is_never_more_than_the_plan_says(drawn):
    """Prompts made of the plan's pairs: the longest beginning that one has in common with another is within its planned
    tokens and chance; a prompt without any planned token begins like no other."""
    plan: list[PlannedRequest] = []
    for seq, (source, shared, length) in enumerate(drawn):
        pairs = ()
        if source < seq and shared:
            one = plan[source]
            pairs = beginning(one.prefix, one.prompt_seed, min(shared, length, one.target_prompt_tokens))
        plan.append(PlannedRequest(seq, None, length, 4, None, 1000 + seq, pairs))
    ids = [p.token_ids for p in prompts(plan, Vocabulary(WORDS, tuple(range(2000)), 0, "test"), "completions")]
    rows = [replace(r, target_prompt_tokens=p.target_prompt_tokens) for r, p in zip(ROWS, plan, strict=False)]
    rows = [replace(r, prompt_tokens=r.target_prompt_tokens) for r in rows]
    order = np.random.default_rng(len(drawn)).permutation(len(rows))
    e = evidence([rows[i] for i in order], plan=plan)
    for row, planned in zip(order, planned_tokens(e), strict=True):
        most = max(_common(ids[row], other) for i, other in enumerate(ids) if i != row)
        assert most <= planned + 2
        assert planned <= plan[row].target_prompt_tokens
        assert planned > 0 or not plan[row].prefix


def _common(one, other) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_a_plan_with_shared_prefixes_is_judged_beyond_them():
    """Half of every prompt is planned to be shared: hits of that half are by right, of three quarters they are not."""
    plan = [PlannedRequest(r.seq, None, 1000, 8, None, 100 + r.seq, (7, 500)) for r in ROWS]
    assert prefix_cache(evidence(cached(ROWS, 500), plan=plan)) is None
    assert prefix_cache(evidence(cached(ROWS, 750), plan=plan)) is not None


def test_sessions_that_go_on_from_replies_are_not_judged():
    """What later turns share is in the replies, which no plan knows."""
    plan = [PlannedRequest(r.seq, None, 1000, 8, 0, 100 + r.seq, (), r.seq - 1 or None) for r in ROWS]
    assert prefix_cache(evidence(cached(ROWS, 999), plan=plan)) is None


@pytest.mark.timing
@pytest.mark.parametrize(("kind", "tokenizes"), [("hosted", True), ("adopt", True), ("adopt", False)])
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_server_that_caches_by_token(tmp_path, monkeypatch, api, kind, tokenizes):
    """A template of 30 tokens in short chats is no reason, nor is the same plan again on the warm server, since its words are new; the
    same words again are INVALID."""
    with GoldenServer(0.001, 0.0002, caches_by_token=True, template_tokens=30, tokenizes=tokenizes) as server:
        words = ("--kind", kind, "--api", api, "--workload", "fixed:60x4", "--requests", "40")
        for name in ("first", "again"):
            assert "prefix_cache" not in _codes(measured_once(server, tmp_path / name, *words))
        assert max(read_run(tmp_path / "again").requests.cached_prompt_tokens) <= 32
        monkeypatch.setattr(
            secrets, "randbits", lambda _: read_run(tmp_path / "again").manifest.environment["prompt_salt"]
        )
        assert "prefix_cache" in _codes(measured_once(server, tmp_path / "same words", *words))


def measured_once(server: GoldenServer, out: Path, *words: str) -> dict:
    """One run at concurrency 2 from the command line, as --json tells of it."""
    target = ["--url", server.url, "--model", "golden", "--concurrency", "2", "--out", str(out), "--json"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HARNESS_LOCK_DIR", str(out.parent / "locks"))
        done = CliRunner().invoke(run_command, [*target, *words], standalone_mode=False)
    (shown,) = json.loads(done.stdout)["runs"]
    return shown


def _codes(shown: dict) -> set[str]:
    return {reason["code"] for reason in shown["reasons"]}


@pytest.mark.timing
@pytest.mark.parametrize("workload", ["fixed:60x20", "fixed:60x20?system=30"])
def test_a_server_that_tells_nothing_of_its_cache_is_valid_as_it_cannot_know_the_words(tmp_path, monkeypatch, workload):
    """It answers at once what it had before. The same plan twice gives the figures of the first, both VALID with a note that says why; sent
    without a salt the second run has another figure or none, and both are UNKNOWN."""
    words = ("--kind", "adopt", "--workload", workload, "--requests", "250")
    with GoldenServer(0.02, 0.002, answers_seen=True) as server:
        runs = [measured_once(server, tmp_path / f"salted-{n}", *words) for n in (1, 2)]
        monkeypatch.setattr(secrets, "randbits", lambda _: 0)
        unsalted = [measured_once(server, tmp_path / f"unsalted-{n}", *words) for n in (1, 2)]
    tps = [run["scalars"]["output_tps"] for run in (*runs, *unsalted)]
    assert tps[:3] == pytest.approx([tps[0]] * 3, rel=0.2), tps
    assert tps[3] is None or tps[3] > 1.5 * tps[0]
    assert [run["verdict"] for run in runs] == ["VALID"] * 2, [run["reasons"] for run in runs]
    assert all("new to the server" in " ".join(run["notes"]) for run in runs)
    assert all("prefix_cache_unseen" in _codes(run) for run in unsalted)
