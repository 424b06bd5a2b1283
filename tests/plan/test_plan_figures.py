"""Every figure of `harness workloads check`: what is compared, in which unit, and from which rows of the plan it is."""

from __future__ import annotations

import math
from dataclasses import astuple
from itertools import pairwise
from statistics import fmean, median, pstdev, pvariance

import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.checking import Figure, check
from harness.measure.plan.drawing import draw
from harness.measure.plan.streams import Purpose, raw, uniform
from harness.records import Load

SOURCE = "source: {name: x, repository: y, licence: CC0}\n"
ROWS = 2000


def written(tmp_path, *lines):
    path = tmp_path / "p.yaml"
    path.write_text("\n".join(lines) + "\n" + SOURCE)
    return str(path)


def planned(path, requests, load=None, seed=0):
    return draw(path, load or Load(concurrency=1), requests=requests, duration_s=None, seed=seed, warmup_requests=0,
                context_limit_tokens=None)[0].requests  # fmt: skip


def quantile(values, level):
    """The least value that at least `level` of the values do not exceed."""
    return sorted(values)[max(math.ceil(round(level * len(values), 6)) - 1, 0)]


def told(found):
    """The figures as tuples: quantity, unit, source, drawn."""
    return [astuple(one) for one in found]


TABLES = (
    "prompt_quantile_levels: [0, 0.5, 0.9, 1]",
    "prompt_tokens: [100, 200, 300, 400]",
    "output_given_prompt_quantile_levels: [0, 0.5, 0.9, 0.99, 1]",
)


def test_figures_of_lengths(tmp_path):
    """Means and p50, p90, p99 against `check`, of which what it leaves out is the table's own (here p50 and p90 of the prompt);
    then the median output of each bin of the prompt's rank."""
    path = written(
        tmp_path, *TABLES, "output_tokens_by_prompt_bin:",
        "- {prompt_rank: [0, 0.25], output_tokens: [5, 10, 20, 30, 40]}",
        "- {prompt_rank: [0.25, 1], output_tokens: [50, 100, 200, 300, 400]}",
        "check: {prompt_mean: 210, output_mean: 80.5, output_p50_p90_p99: [90, 190, 290]}",
    )  # fmt: skip
    rows = planned(path, ROWS, seed=3)
    prompt, output = [r.target_prompt_tokens for r in rows], [r.target_output_tokens for r in rows]
    rank = uniform(raw(3, Purpose.LENGTHS, 2 * ROWS))[0::2].tolist()
    by_rank = [output[i] for i in sorted(range(ROWS), key=rank.__getitem__)]
    assert told(check(path, ROWS, 3)) == [
        ("prompt mean", "tokens", 210, pytest.approx(fmean(prompt))),
        ("prompt p50", "tokens", 200, quantile(prompt, 0.5)),
        ("prompt p90", "tokens", 300, quantile(prompt, 0.9)),
        ("output mean", "tokens", 80.5, pytest.approx(fmean(output))),
        ("output p50", "tokens", 90, quantile(output, 0.5)),
        ("output p90", "tokens", 190, quantile(output, 0.9)),
        ("output p99", "tokens", 290, quantile(output, 0.99)),
        ("output p50 in prompt ranks 0-0.25", "tokens", 10, median(by_rank[:500])),
        ("output p50 in prompt ranks 0.25-1", "tokens", 100, median(by_rank[500:])),
    ]
    assert all(type(one.source) is float and type(one.drawn) is float for one in check(path, ROWS, 3))


def test_figures_of_one_bin(tmp_path):
    """One bin is the marginal of the output: its own p50, p90 and p99, and no median a second time."""
    path = written(tmp_path, *TABLES, "output_tokens_by_prompt_bin:",
                   "- {prompt_rank: [0, 1], output_tokens: [5, 10, 20, 30, 40]}")  # fmt: skip
    rows = planned(path, ROWS)
    output = [r.target_output_tokens for r in rows]
    assert told(check(path, ROWS))[2:] == [
        ("output p50", "tokens", 10, quantile(output, 0.5)),
        ("output p90", "tokens", 20, quantile(output, 0.9)),
        ("output p99", "tokens", 30, quantile(output, 0.99)),
    ]
    assert [one.quantity for one in check(path, ROWS)][:2] == ["prompt p50", "prompt p90"]


def test_figures_of_shared_prefixes_and_arrivals(tmp_path):
    """Shares of the prompts' tokens that the plan's prefixes cover; rate, CV and dispersion of as many arrivals as the source's
    10 s bins hold."""
    bins = [10, 30, 20, 0, 15, 60, 22, 30, 8, 41, 20, 19]
    path = written(
        tmp_path, *TABLES, "output_tokens_by_prompt_bin:", "- {prompt_rank: [0, 1], output_tokens: [5, 10, 20, 30, 40]}",
        "prefix: {block_tokens: 16, token_hit_ratio_unlimited_cache: 0.4, cached_fraction_quantile_levels: [0, 0.5, 0.9, 1],",
        "  cached_fraction: [0, 0.3, 0.8, 1]}",
        f"arrivals: {{mean_rate_rps: 2.5, interarrival_cv: 1.5, requests_per_10s_bin: {bins}}}",
    )  # fmt: skip
    rows = planned(path, ROWS, seed=5)
    shared = [sum(r.prefix[1::2]) for r in rows]
    share = [n / r.target_prompt_tokens for n, r in zip(shared, rows, strict=True)]
    times = [r.scheduled_ns for r in planned(path, sum(bins), Load(arrivals="preset"), seed=5)]
    gaps = [b - a for a, b in pairwise(times)]
    last = (times[-1] - times[0]) // 10_000_000_000
    per_10s = [sum((t - times[0]) // 10_000_000_000 == i for t in times) for i in range(last)]
    assert told(check(path, ROWS, 5))[5:] == [
        ("prompt tokens in an unlimited prefix cache", "share", 0.4,
         pytest.approx(sum(shared) / sum(r.target_prompt_tokens for r in rows))),
        ("cached share of a prompt p50", "share", 0.3, pytest.approx(quantile(share, 0.5))),
        ("cached share of a prompt p90", "share", 0.8, pytest.approx(quantile(share, 0.9))),
        ("arrivals mean rate", "1/s", 2.5, pytest.approx((len(times) - 1) * 1e9 / (times[-1] - times[0]))),
        ("arrivals CV of gaps", "", 1.5, pytest.approx(pstdev(gaps) / fmean(gaps))),
        ("arrivals index of dispersion at 10 s", "", pytest.approx(pvariance(bins) / fmean(bins)),
         pytest.approx(pvariance(per_10s) / fmean(per_10s))),
    ]  # fmt: skip


def test_figures_of_arrivals_without_bins(tmp_path):
    """A source that gives a rate and a CV: those of 20,000 arrivals, and no dispersion; one without a rate, and a batch: none."""
    path = written(
        tmp_path, "shape: 'fixed:3x2'", "arrivals: {process: 'gamma:4', mean_rate_rps: 3, interarrival_cv: 0.5}"
    )
    times = [r.scheduled_ns for r in planned(path, 20_000, Load(arrivals="preset"), seed=2)]
    gaps = [b - a for a, b in pairwise(times)]
    assert told(check(path, 50, 2)) == [
        ("arrivals mean rate", "1/s", 3.0, pytest.approx(19_999e9 / (times[-1] - times[0]))),
        ("arrivals CV of gaps", "", 0.5, pytest.approx(pstdev(gaps) / fmean(gaps))),
    ]
    assert check(written(tmp_path, "shape: 'fixed:3x2'", "arrivals: {process: poisson, interarrival_cv: 1}")) == []
    assert check(written(tmp_path, "shape: 'fixed:3x2'", "arrivals: {process: batch, mean_rate_rps: 1}")) == []
    only_rate = check(written(tmp_path, "shape: 'fixed:3x2'", "arrivals: {process: constant, mean_rate_rps: 2}"))
    assert told(only_rate) == [("arrivals mean rate", "1/s", 2.0, pytest.approx(2))]


SESSIONS = (
    "sessions:", "  context_limit_tokens: 450", "  quantile_levels: [0, 0.5, 0.9, 0.99, 1]",
    "  calls_per_session: [1, 3, 5, 6, 6]", "  first_prompt_tokens: [40, 60, 100, 150, 160]",
    "  new_prompt_tokens_per_later_call: [20, 90, 200, 300, 310]", "  output_tokens: [3, 8, 40, 90, 99]",
    "  think_time_s: [0, 1, 4.5, 9, 10]", "  compaction_keeps_tokens: 70",
)  # fmt: skip


def test_figures_of_sessions(tmp_path):
    """Of the plan's whole sessions: calls, first prompts, what a later call adds to the call before it or to what a compaction
    kept of that, outputs, think times; and the share of prompt tokens that the call before holds."""
    path = written(tmp_path, *SESSIONS, "  token_hit_ratio_previous_call: 0.6")
    rows = planned(path, ROWS, seed=4)
    rows = rows[: max(i for i, r in enumerate(rows) if r.after_seq is None)]
    held = [0 if two.after_seq is None
            else one.target_prompt_tokens if one.prompt_seed == two.prompt_seed else sum(two.prefix[1::2])
            for one, two in pairwise((rows[0], *rows))]  # fmt: skip
    assert any(two.after_seq == one.seq and two.prompt_seed != one.prompt_seed for one, two in pairwise(rows))
    first = [r.after_seq is None for r in rows]
    new = [r.target_prompt_tokens - h for r, h in zip(rows, held, strict=True)]
    calls = [sum(r.session_id == s for r in rows) for s in range(rows[-1].session_id + 1)]
    asked = {
        "calls per session": ("", (3, 5, 6), calls),
        "first prompt": ("tokens", (60, 100, 150), [n for n, is_first in zip(new, first, strict=True) if is_first]),
        "new prompt tokens per later call": ("tokens", (90, 200, 300), [n for n, f in zip(new, first, strict=True) if not f]),
        "output": ("tokens", (8, 40, 90), [r.target_output_tokens for r in rows]),
        "think time": ("s", (1, 4.5, 9), [r.think_ns / 1e9 for r in rows if r.after_seq is not None]),
    }  # fmt: skip
    expected = [
        (f"{what} p{percent}", unit, source, quantile(values, percent / 100))
        for what, (unit, sources, values) in asked.items()
        for percent, source in zip((50, 90, 99), sources, strict=True)
    ]
    share = sum(held) / sum(r.target_prompt_tokens for r in rows)
    found = told(check(path, ROWS, 4))
    assert found[:-1] == expected
    assert found[-1] == ("prompt tokens that the call before holds", "share", 0.6, pytest.approx(share))
    assert len(check(written(tmp_path, *SESSIONS), ROWS, 4)) == len(expected)


def test_a_deviation_is_relative_but_of_shares():
    """12 against 10 tokens is 20 % more; 0.5 against 0.4 of a share is 0.1; of a source of 0 nothing can be said."""
    assert Figure("x", "tokens", 10.0, 12.0).deviation == pytest.approx(0.2)
    assert Figure("x", "share", 0.4, 0.5).deviation == pytest.approx(0.1)
    assert Figure("x", "share", 0.0, 0.5).deviation == 0.5
    assert Figure("x", "tokens", 0.0, 3.0).deviation is None


def test_a_sample_is_of_a_hundred_thousand_rows_with_seed_0():
    """Unless told otherwise; only a preset can be checked, and the error names what was given."""
    assert check("code") == check("code", 100_000, 0)
    with pytest.raises(ConfigError) as caught:
        check("fixed:1x1")
    assert caught.value.value == "fixed:1x1"
