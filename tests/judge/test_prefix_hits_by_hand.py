"""Hits of the prefix cache against plain sums: what chance, template and plan allow, and what is beyond."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from harness.judge.columns import measured
from harness.judge.validity import Evidence
from harness.judge.validity.tokens import _beyond, by_chance, planned_tokens, prefix_cache, template_tokens
from harness.records import Load, PlannedRequest, ServerSample, TokenCheck
from tests.judge.run_builder import closed_loop, failed, frame, ns, request, run

C4 = Load(concurrency=4)
ROWS = [replace(r, cached_prompt_tokens=0) for r in closed_loop(4, 10, prompt=100)]


def evidence(rows=ROWS, *, plan=None, server=None, target=None, **drive):
    data = run(rows, C4, target={"kind": "hosted", **(target or {})}, server=server, drive=drive)
    if plan is not None:
        data = replace(data, plan=frame(plan, PlannedRequest))
    requests = measured(data.requests)
    tokens = tuple(TokenCheck(kind, 0, None, None, None) for kind in ("prompt", "output"))
    return Evidence(data, requests, {}, None, "", requests.ok, {}, tokens)


def planned(*prompts):
    """(prefix, seed, tokens) of each request, seq from 0 on."""
    return [
        PlannedRequest(seq, None, tokens, 8, None, seed, prefix) for seq, (prefix, seed, tokens) in enumerate(prompts)
    ]


@pytest.mark.parametrize("words", [2, 10, 1000, 2000, 50_000, 100_000, 2_000_000])
def test_words_in_common_by_chance(words):
    """Prompts seen, a million, over words^k, at most 1 each; one token more where a word may be several."""
    expected = sum(min(1.0, 10**6 / words**k) for k in range(1, 64))
    assert by_chance(words, verified=True) == pytest.approx(expected, rel=1e-12)
    assert by_chance(words, verified=False) == pytest.approx(expected + 1, rel=1e-12)
    assert by_chance(1, verified=False) == by_chance(0, verified=True) == 0.0


def test_the_template_is_the_least_beyond_the_words():
    """Usage less the words sent, which are the target less what the template took; ok requests whose usage is known; never below 0."""
    rows = [
        replace(r, prompt_tokens=100 + more) for r, more in zip(ROWS, (9, 7, 8, 30, 7, 12, 9, 9, 9, 9), strict=True)
    ]
    assert template_tokens(evidence(rows), 0) == 7
    assert template_tokens(evidence(rows), 5) == 12
    others = [
        *rows[:-2],
        replace(rows[-2], prompt_tokens=None),
        replace(rows[-1], prompt_tokens=100, outcome="truncated"),
    ]
    assert template_tokens(evidence(others), 0) == 7
    assert template_tokens(evidence([replace(r, prompt_tokens=90) for r in rows]), 0) == 0
    assert template_tokens(evidence(rows), 200) == 106  # a word at least
    assert template_tokens(evidence([replace(r, prompt_tokens=None) for r in rows]), 3) == 3


def test_hits_beyond_what_is_allowed():
    """Request by request by usage, of ok requests that tell both; else by the server's counters less all that is allowed."""
    rows = [replace(r, cached_prompt_tokens=10 * k) for k, r in enumerate(ROWS)]
    rows[8], rows[9] = replace(rows[8], outcome="truncated"), replace(rows[9], prompt_tokens=None)
    allowed = np.full(10, 25.0)
    assert _beyond(evidence(rows), allowed) == (5.0 + 15 + 25 + 35 + 45, 800)
    silent = [replace(r, cached_prompt_tokens=None) for r in rows]
    counters = [
        ServerSample(ns(at), edge, f"vllm:prefix_cache_{name}_total", "{}", 70.0 + rise * (edge == "end"))
        for name, rise in (("hits", 500), ("queries", 1000))
        for at, edge in ((-1, "start"), (99, "end"))
    ]
    assert _beyond(evidence(silent, server=counters), allowed) == (500 - 9 * 25.0, 1000)
    assert _beyond(evidence(silent), allowed) == (-9 * 25.0, 0)


def test_tokens_that_the_plan_lets_prompts_share():
    """From the beginning on those of streams that another prompt has too, up to the first that is alone, and up to the prompt's length."""
    plan = planned(
        ((7, 30, 8, 20), 1, 100),  # 7 and 8 are shared, 1 is not
        ((7, 30, 9, 20), 2, 100),  # 2 is not
        ((8, 50), 3, 100),
        ((), 4, 100),
        ((), 4, 100),  # one prompt twice
        ((7, 130), 5, 100),  # longer than the prompt itself
        ((9, 10, 7, 20), 6, 100),
        ((10, 5, 7, 20), 11, 100),  # nothing before what is shared
        ((12, 10, 12, 10), 13, 100),  # twice in one prompt is not shared
        ((), 14, 100),
    )
    expected = [50.0, 50.0, 50.0, 100.0, 100.0, 100.0, 30.0, 0.0, 0.0, 0.0]
    found = planned_tokens(evidence(plan=plan))
    assert found.tolist() == expected
    shuffled = evidence([*ROWS[5:], replace(request(-3, 0.0), phase="warmup"), *ROWS[:5]], plan=plan)
    assert planned_tokens(shuffled).tolist() == expected[5:] + expected[:5]
    longer = [replace(r, prompt_tokens=150) if r.seq < 2 else replace(r, prompt_tokens=50) for r in ROWS]
    assert planned_tokens(evidence(longer, plan=plan)).tolist() == [75.0, 75.0, *expected[2:]]
    unknown = [replace(r, prompt_tokens=None) for r in ROWS]
    assert planned_tokens(evidence(unknown, plan=plan)).tolist() == expected
    short = [replace(r, target_prompt_tokens=40, prompt_tokens=40) for r in ROWS]
    assert planned_tokens(evidence(short, plan=plan)).tolist() == [
        40.0,
        40.0,
        40.0,
        40.0,
        40.0,
        40.0,
        30.0,
        0.0,
        0.0,
        0.0,
    ]


def test_plans_that_say_nothing_of_it():
    """None at all, without seeds, without prefixes, of other requests; of sessions that go on from replies nothing is known."""
    plan = planned(*(((), 7, 100) for _ in ROWS))
    e = evidence(plan=plan)
    assert planned_tokens(replace(e, run=replace(e.run, plan=None))).tolist() == [0.0] * 10
    assert (
        planned_tokens(replace(e, run=replace(e.run, plan=e.run.plan.drop(columns="prompt_seed")))).tolist()
        == [0.0] * 10
    )
    assert (
        planned_tokens(replace(e, run=replace(e.run, plan=e.run.plan.drop(columns=["prefix", "after_seq"])))).tolist()
        == [100.0] * 10
    )
    assert (
        planned_tokens(replace(e, run=replace(e.run, plan=e.run.plan.assign(seq=range(100, 110))))).tolist()
        == [0.0] * 10
    )
    assert planned_tokens(replace(e, run=replace(e.run, plan=e.run.plan.assign(after_seq=[None] * 9 + [3])))) is None


@pytest.mark.parametrize(
    ("vocabulary", "cached", "share"),
    [
        (None, 1, None),  # 1 % is allowed
        (None, 2, "2.0%"),
        ({"prompt_overhead_tokens": 30}, 31, None),
        ({"prompt_overhead_tokens": 30}, 33, "3.0%"),
        ({"words": 2_000_000, "verified": True}, 2, "1.5%"),  # half a word by chance
        ({"words": 2_000_000, "verified": False}, 2, None),  # and one more
        ({"words": 2_000_000}, 3, "1.5%"),
    ],
)
def test_the_reason(vocabulary, cached, share):
    """The share of the prompt tokens that is beyond, and the template; nothing up to 1 %."""
    rows = [replace(r, cached_prompt_tokens=cached) for r in ROWS]
    reason = prefix_cache(evidence(rows, target={"vocabulary": vocabulary}))
    assert (reason is None) == (share is None)
    if reason is not None:
        assert (reason.code, reason.severity) == ("prefix_cache", "invalid")
        assert reason.message.startswith(f"{share} of the prompt tokens")
        assert f" {(vocabulary or {}).get('prompt_overhead_tokens', 0)} tokens" in reason.message
        assert reason.advice


def test_a_plan_excuses_what_it_shares_and_no_more():
    """Half of each prompt planned: 51 cached tokens are within 1 %, 52 are not; of later turns nothing is said."""
    plan = planned(*(((7, 50), 100 + k, 100) for k in range(10)))
    for cached, fine in ((51, True), (52, False)):
        rows = [replace(r, cached_prompt_tokens=cached) for r in ROWS]
        reason = prefix_cache(evidence(rows, plan=plan))
        assert (reason is None) == fine
        assert fine or reason.message.startswith("2.0% of")
    e = evidence([replace(r, cached_prompt_tokens=99) for r in ROWS], plan=plan)
    assert prefix_cache(replace(e, run=replace(e.run, plan=e.run.plan.assign(after_seq=[None] * 9 + [3])))) is None
    assert prefix_cache(evidence([failed(r) for r in ROWS])) is None


def test_what_evidence_reads():
    """Kind, report, kind of loop and tokens of the run."""
    e = evidence(stop_reason="x")
    assert (
        e.kind,
        e.drive["stop_reason"],
        e.load.is_closed,
        e.tokens_of("output").kind,
        e.tokens_of("prompt").kind,
    ) == (
        "hosted",
        "x",
        True,
        "output",
        "prompt",
    )
    unwritten = replace(e, run=replace(e.run, manifest=replace(e.run.manifest, drive={})))
    assert unwritten.drive == {}
