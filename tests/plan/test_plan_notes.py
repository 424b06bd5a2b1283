"""draw: the ends of what its words may be, every note that it gives, and plans worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import burstiness
from harness.measure.plan.drawing import draw
from harness.measure.plan.lengths import Fixed, parse_short_form
from harness.measure.plan.prefixes import hit_ratio
from harness.measure.plan.rows import prompt_seeds
from harness.measure.plan.sources import _pool
from harness.measure.plan.streams import Purpose, key, raw, uniform
from harness.records import Load, PlannedRequest

CLOSED = Load(concurrency=2)


def plan_of(workload="fixed:3x2", load=CLOSED, requests=3, **words):
    words = {"duration_s": None, "seed": 1, "warmup_requests": 2, "context_limit_tokens": None} | words
    return draw(str(workload), load, requests=requests, **words)


def test_a_plan_by_hand():
    """Three requests at 4/s and two of warm-up: every field of every row, the load, the words, the note."""
    plan, notes = plan_of(load=Load(rate_rps=4.0, arrivals="constant"), seed=7)
    seeds = prompt_seeds(7, np.array([0, 1, 2, -1, -2])).tolist()
    times = [0, 250_000_000, 500_000_000]
    assert plan.requests == tuple(PlannedRequest(i, times[i], 3, 2, None, seeds[i], (), None, None) for i in range(3))
    assert plan.warmup == tuple(
        PlannedRequest(-1 - i, None, 3, 2, None, seeds[3 + i], (), None, None) for i in range(2)
    )
    assert (plan.load, plan.workload, plan.seed) == (Load(rate_rps=4.0, arrivals="constant"), "fixed:3x2", 7)
    (note,) = notes
    assert note == (
        "planned arrivals (constant): mean rate 4/s, CV of gaps 0.00, index of dispersion at 1 s -, index of dispersion at 10 s -, "
        "index of dispersion at 60 s -"
    )
    assert len(set(seeds)) == 5
    base = key(7, Purpose.PROMPTS)
    assert seeds == [(base + i * 0x9E3779B97F4A7C15) % 2**63 for i in (0, 1, 2, -1, -2)]


@pytest.mark.parametrize(
    "words",
    [
        {"requests": 1},
        {"load": Load(concurrency=1)},
        {"seed": 0},
        {"seed": 2**63 - 1},
        {"warmup_requests": 0},
        {"load": Load(rate_rps=1e-6)},
        {"load": Load(rate_rps=2000.0), "requests": None, "duration_s": 0.01},
        {"requests": None, "duration_s": 0.001},
        {"load": Load(arrivals="batch")},
    ],
)
def test_the_ends_of_the_words(words):
    """The least and the greatest of each word make a plan."""
    assert plan_of(**words)[0].requests


@pytest.mark.parametrize(
    ("words", "what", "value"),
    [
        ({"load": Load(concurrency=1, rate_rps=1.0, arrivals="batch")}, "closed or open", repr(Load(1, 1.0, "batch"))),
        ({"load": Load(arrivals="poisson")}, "closed or open", repr(Load(None, None, "poisson"))),
        ({"load": Load(rate_rps=2.0, arrivals="batch")}, "batch has no rate", "2/s"),
        ({"load": Load(rate_rps=2.0, arrivals="preset")}, "arrivals of its own", "preset"),
        ({"load": Load(rate_rps=2.0, arrivals="trace")}, "need a trace", "trace"),
        ({"load": Load(arrivals="preset"), "workload": "mlperf-like"}, "need a rate", "preset"),
        ({"load": Load(arrivals="trace"), "workload": "agent"}, "need a trace", "trace"),
        ({"load": Load(concurrency=0)}, "load out of range", repr(Load(0))),
        ({"load": Load(rate_rps=-1.0)}, "load out of range", repr(Load(None, -1.0))),
        ({"requests": 0}, "plan size out of range", "requests 0, duration None"),
        ({"requests": 10_000_001}, "plan size out of range", "requests 10000001, duration None"),
        ({"requests": None, "duration_s": 0.0}, "plan size out of range", "requests None, duration 0.0"),
        ({"requests": None, "duration_s": math.inf}, "plan size out of range", "requests None, duration inf"),
        ({"requests": None}, "number of requests or a time", "requests None, duration None"),
        ({"duration_s": 1.0}, "number of requests or a time", "requests 3, duration 1.0"),
        ({"load": Load(arrivals="batch"), "requests": None}, "number of requests or a time", "requests None, duration None"),
        ({"load": Load(arrivals="batch"), "requests": None, "duration_s": 2.0}, "batch has no duration", "2 s"),
        ({"seed": -1}, "seed or warm-up", "seed -1, warm-up 2"),
        ({"warmup_requests": 10_000_001}, "seed or warm-up", "seed 1, warm-up 10000001"),
        ({"workload": "agent", "requests": None, "duration_s": 9.0}, "depends on the server", "duration 9.0 s"),
        ({"workload": "long-chat?system=9"}, "exclude each other", "long-chat?system=9"),
    ],
)  # fmt: skip
def test_words_that_do_not_go_together(words, what, value):
    """Each is refused with what was given."""
    with pytest.raises(ConfigError, match=what) as caught:
        plan_of(**words)
    assert caught.value.value == value


def test_rates_of_arrivals_that_bring_their_own():
    """A preset's rate is the plan's; a rate given is kept; a batch has none."""
    assert plan_of("long-chat", Load(arrivals="preset"))[0].load == Load(rate_rps=3.401, arrivals="preset")
    assert plan_of("long-chat", Load(rate_rps=2.0, arrivals="preset"))[0].load == Load(rate_rps=2.0, arrivals="preset")
    plan, notes = plan_of(load=Load(arrivals="batch"))
    assert (plan.load, notes) == (Load(arrivals="batch"), ("planned arrivals (batch): 3 at once",))
    assert [r.scheduled_ns for r in plan.requests] == [0, 0, 0]


def test_the_note_of_a_pool():
    """(1 + ceil(duration / (5 ms + 0.5 ms a token))) requests a slot, at most a million, or one for each slot."""
    pool = "closed loop for {} s: a pool of {} requests was drawn{} (every slot finishing one in {} ms); not all need be sent, and a run that uses them up ends early"
    assert plan_of("fixed:3x90", requests=None, duration_s=1.24)[1] == (pool.format("1.24", "52", "", "50.0"),)
    assert plan_of("fixed:3x90", Load(concurrency=3), None, duration_s=0.04)[1][0] == pool.format(
        "0.04", "6", "", "50.0"
    )
    assert "every slot finishing one in 5000.0 ms" in _pool(Fixed(3, 9990), 1, 1, 9.0, None)[1]
    held = ", held to that where the rule asks for 1,000,500"
    assert _pool(Fixed(3, 90), 500, 1, 99.99, None) == (1_000_000, pool.format("99.99", "1,000,000", held, "50.0"))
    assert _pool(Fixed(3, 90), 500, 1, 99.94, None) == (1_000_000, pool.format("99.94", "1,000,000", "", "50.0"))
    assert _pool(Fixed(3, 90), 1_200_000, 1, 0.01, None)[0] == 1_200_000


@pytest.mark.parametrize("limit", [None, 50])
def test_a_pool_is_of_the_mean_output(limit):
    """Of the first 4,096 requests, under the same context limit."""
    lengths = parse_short_form("uniform:1-5x1-99")
    first = plan_of("uniform:1-5x1-99", requests=4096, context_limit_tokens=limit)[0].requests
    request_s = 0.005 + 0.0005 * sum(r.target_output_tokens for r in first) / 4096
    assert _pool(lengths, 1, 1, 15_000.0, limit)[0] == 1 + math.ceil(15_000 / request_s)
    plan, _ = plan_of("uniform:1-5x1-99", Load(concurrency=4), None, duration_s=3.0, context_limit_tokens=limit)
    assert len(plan.requests) == 4 * (1 + math.ceil(3 / request_s))


def test_the_note_of_shared_prefixes(monkeypatch):
    """The ratio of the plan itself, by its tokens and by blocks of 16; of the first so many requests where there are more."""
    plan, notes = plan_of("fixed:40x1?system=20", requests=10)
    ratio = hit_ratio(plan.requests, 16)
    assert (ratio.by_token, ratio.by_block) == (9 * 20 / 400, 9 * 16 / 400)
    words = (
        "prefix reuse: {}{} of the prompt tokens stand at the beginning of an earlier prompt; in blocks of 16 tokens, a cache without "
        "limits can serve {}"
    )
    assert notes == (words.format("", "45.0%", "36.0%"),)
    monkeypatch.setattr("harness.measure.plan.drawing._RATIO_ROWS", 10)
    assert plan_of("fixed:40x1?system=20", requests=10)[1] == notes
    assert plan_of("fixed:40x1?system=20", requests=30)[1] == (
        words.format("of the first 10 requests, ", "45.0%", "36.0%"),
    )
    _, notes = plan_of("long-chat", requests=100)
    assert notes[0] == "prefix reuse: the preset's source has a token hit ratio of 37.4% (cache without limits)"
    assert len(notes) == 2


def test_a_system_prompt_of_measured_and_of_warm_up():
    """One seed for all measured prompts, the next for warm-up, as many tokens as the prompt has."""
    plan, _ = plan_of("uniform:10-30x1-1?system=20", requests=20, seed=5)
    seed = key(5, Purpose.SYSTEM_PROMPT) % 2**63
    assert [r.prefix for r in plan.requests] == [(seed, min(20, r.target_prompt_tokens)) for r in plan.requests]
    assert [r.prefix for r in plan.warmup] == [
        ((seed + 1) % 2**63, min(20, r.target_prompt_tokens)) for r in plan.warmup
    ]


def test_the_note_of_a_context_limit():
    """How many requests were drawn again, their share, and both means before and after; the rank stays with its row."""
    free, limited = plan_of("uniform:1-100x1-10", requests=1000)[0], None
    limited, notes = plan_of("uniform:1-100x1-10", requests=1000, context_limit_tokens=80)
    over = sum(r.target_prompt_tokens + r.target_output_tokens > 80 for r in free.requests)
    means = [
        np.mean([getattr(r, f"target_{what}_tokens") for r in p.requests])
        for what in ("prompt", "output")
        for p in (free, limited)
    ]
    (note,) = notes
    assert note == (
        f"context limit 80 tokens: {over:,} of 1,000 requests ({over / 1000:.1%}) were redrawn because prompt + output was above it; "
        f"mean prompt {means[0]:.1f} -> {means[1]:.1f} tokens, mean output {means[2]:.1f} -> {means[3]:.1f} tokens"
    )
    assert max(r.target_prompt_tokens + r.target_output_tokens for r in limited.requests) == 80
    assert len(plan_of("fixed:70x10", context_limit_tokens=80, warmup_requests=0)[0].requests) == 3
    with pytest.raises(ConfigError, match="context limit leaves almost nothing") as caught:
        plan_of("fixed:70x11", context_limit_tokens=80)
    assert caught.value.value == "context limit 80 tokens; least prompt + output of the workload: 81 tokens"
    with pytest.raises(ConfigError) as caught:
        plan_of("uniform:1-999x1-1", context_limit_tokens=3, requests=2000)
    mean = 1 + np.floor(uniform(raw(1, Purpose.LENGTHS, 4000))[0::2] * 999).mean() + 1
    assert caught.value.value == f"context limit 3 tokens; mean prompt + output of the workload: {mean:.0f} tokens"


@pytest.mark.parametrize(("workload", "least"), [("uniform:5-9x3-4", 8), ("lognormal:9x9", 2)])
def test_the_least_that_a_workload_can_be(workload, least):
    """A limit of the least prompt and output together leaves something; one below it nothing, which is said."""
    with pytest.raises(ConfigError, match="almost nothing") as caught:
        plan_of(workload, context_limit_tokens=least - 1)
    assert (
        caught.value.value == f"context limit {least - 1} tokens; least prompt + output of the workload: {least} tokens"
    )


def test_the_least_that_tables_can_be(tmp_path):
    """Of tables, the least prompt with the least output of any bin; of histograms, of any client."""
    path = tmp_path / "p.yaml"
    path.write_text(
        "prompt_quantile_levels: [0, 1]\nprompt_tokens: [10, 90]\noutput_given_prompt_quantile_levels: [0, 1]\noutput_tokens_by_prompt_bin:\n"
        "- {prompt_rank: [0, 0.5], output_tokens: [7, 9]}\n- {prompt_rank: [0.5, 1], output_tokens: [4, 9]}\n"
        "source: {name: x, repository: y, licence: CC0}\n"
    )
    folder = tmp_path / "clients"
    folder.mkdir()
    for n, (prompts, outputs) in enumerate([({5: 0.5, 30: 0.5}, {9: 1.0}), ({20: 1.0}, {3: 0.5, 8: 0.5})]):
        window = {"0": {"input_tokens": str(prompts), "output_tokens": str(outputs)}}
        (folder / f"chunk-{n}-dataset.json").write_text(json.dumps(window))
    for workload in (path, folder):
        with pytest.raises(ConfigError, match="almost nothing") as caught:
            plan_of(workload, context_limit_tokens=12)
        assert caught.value.value == "context limit 12 tokens; least prompt + output of the workload: 14 tokens"


def test_the_note_of_sessions():
    """How many sessions, how many calls were compacted, how many sessions ended early; then how sessions are sent, and when they
    are planned to start."""
    plan, notes = plan_of("agent", Load(rate_rps=2.0, arrivals="constant"), requests=400)
    starts = [r for r in plan.requests if r.after_seq is None]
    compacted = sum(
        b.after_seq == a.seq and b.prompt_seed != a.prompt_seed
        for a, b in zip(plan.requests, plan.requests[1:], strict=False)
    )
    assert notes[0] == (
        f"sessions: {len(starts)}; the context of {compacted} calls was compacted to fit 32,768 tokens, 0 sessions end before a call that would not fit"
    )
    assert notes[1] == (
        "sessions: closed loop; in a closed loop a slot takes a whole session, with arrivals each is the start of a session, and a later call "
        "goes out think_ns after the reply to after_seq"
    )
    times = np.array([r.scheduled_ns for r in starts])
    assert notes[2] == f"planned sessions (constant): {burstiness(times).words()}"
    assert times.tolist() == [round(i * 5e8) for i in range(len(starts))]
    assert notes[3].startswith("prefix reuse: ")
    assert plan.load == Load(rate_rps=2.0, arrivals="constant")
