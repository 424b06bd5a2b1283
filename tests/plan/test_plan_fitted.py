"""fit: every key of the preset and every figure of the reproduction, from small logs by independent formulas."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise
from statistics import fmean, pstdev

import numpy as np
import pandas as pd
import pytest
import yaml

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import burstiness
from harness.measure.plan.drawing import draw
from harness.measure.plan.fitting import _arrivals, fit, ks_distance, rank_correlation
from harness.records import Load

PROMPT_LEVELS = [0.0, 0.01, 0.02, 0.05, *(n / 20 for n in range(2, 20)), 0.97, 0.98, 0.99, 0.995, 0.999, 1.0]
OUTPUT_LEVELS = [0.0, 0.01, 0.05, *(n / 10 for n in range(1, 10)), 0.95, 0.99, 1.0]
POWERS = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


def quantiles(values, levels):
    """The least value that at least so many of the values do not exceed."""
    ordered = sorted(values)
    return [ordered[max(math.ceil(round(level * len(ordered), 6)) - 1, 0)] for level in levels]


def drawn(data, path, load=None, requests=250):
    path.write_text(yaml.safe_dump(data))
    plan = draw(str(path), load or Load(concurrency=1), requests=requests, duration_s=None, seed=1, warmup_requests=0,
                context_limit_tokens=None)[0]  # fmt: skip
    return plan.requests


def sizes(requests):
    return [r.target_prompt_tokens for r in requests], [r.target_output_tokens for r in requests]


@pytest.fixture
def log(tmp_path):
    """250 rows, one about every second, outputs of which two lie far off."""
    rng = np.random.default_rng(5)
    prompt = rng.integers(10, 900, 250).tolist()
    output = [
        9000 if i in (3, 9) else max(1, int(n)) for i, n in enumerate(np.random.default_rng(6).lognormal(3, 0.5, 250))
    ]
    times = [i + (i * i % 7) / 10 for i in range(250)]
    lines = [
        "arrival_s,prompt_tokens,output_tokens",
        *(f"{t},{p},{o}" for t, p, o in zip(times, prompt, output, strict=True)),
    ]
    path = tmp_path / "log.csv"
    path.write_text("\n".join(lines))
    return path, prompt, output, times


def test_every_key_of_a_fitted_preset(log):
    """Quantiles of the prompt, of the output in each half of the prompts, the log's own figures, its rate and CV, its whole bins of
    10 s, and what was said of its source."""
    path, prompt, output, times = log
    data, _ = fit(str(path), name="mine", licence="CC0", cite="A. Author")
    by_prompt = [output[i] for i in sorted(range(250), key=lambda i: prompt[i])]
    gaps = [b - a for a, b in pairwise(times)]
    bins = [sum(t // 10 == i for t in times) for i in range(int(times[-1] // 10))]
    power = data.pop("output_tail_power")
    assert data == {
        "description": "mine: quantiles of 250 requests",
        "prompt_quantile_levels": pytest.approx(PROMPT_LEVELS),
        "prompt_tokens": quantiles(prompt, PROMPT_LEVELS),
        "output_given_prompt_quantile_levels": pytest.approx(OUTPUT_LEVELS),
        "output_tokens_by_prompt_bin": [
            {"prompt_rank": [0.0, 0.5], "output_tokens": quantiles(by_prompt[:125], OUTPUT_LEVELS)},
            {"prompt_rank": [0.5, 1.0], "output_tokens": quantiles(by_prompt[125:], OUTPUT_LEVELS)},
        ],
        "check": {
            "rows": 250,
            "prompt_mean": round(fmean(prompt), 1),
            "output_mean": round(fmean(output), 1),
            "prompt_p50_p90_p99": quantiles(prompt, (0.5, 0.9, 0.99)),
            "output_p50_p90_p99": quantiles(output, (0.5, 0.9, 0.99)),
        },
        "arrivals": {
            "process": "poisson",
            "mean_rate_rps": float(f"{249 / (times[-1] - times[0]):.6g}"),
            "interarrival_cv": round(pstdev(gaps) / fmean(gaps), 3),
            "requests_per_10s_bin": bins,
        },
        "source": {"name": "mine", "repository": "own log", "licence": "CC0", "cite": "A. Author"},
    }
    assert power in POWERS


def test_the_bend_of_the_tail_is_the_best_of_seven(log, tmp_path):
    """The power whose sample comes nearest to the log's mean and p99 of the output, the first of equals."""
    path, _, output, _ = log
    data, _ = fit(str(path), name="mine", licence="CC0")
    wanted = fmean(output), float(np.quantile(output, 0.99))
    errors = []
    for power in POWERS:
        got = sizes(drawn(data | {"output_tail_power": power}, tmp_path / "p.yaml"))[1]
        errors.append(abs(fmean(got) / wanted[0] - 1) + abs(float(np.quantile(got, 0.99)) / wanted[1] - 1))
    assert data["output_tail_power"] == POWERS[errors.index(min(errors))]
    assert len(set(errors)) > 4
    assert data["output_tail_power"] > 1


def test_every_figure_of_the_reproduction(log, tmp_path):
    """Rows, means, distances, rank correlations and burstiness of the log beside those of as many requests drawn with the seed."""
    path, prompt, output, times = log
    data, told = fit(str(path), name="mine", licence="CC0")
    got_prompt, got_output = sizes(drawn(data, tmp_path / "p.yaml"))
    planned = [r.scheduled_ns for r in drawn(data, tmp_path / "p.yaml", Load(arrivals="preset"))]

    def ks(one, other):
        return max(
            abs(sum(n <= x for n in one) / len(one) - sum(n <= x for n in other) / len(other)) for x in {*one, *other}
        )

    def spearman(one, other):
        return pd.Series(one).rank().corr(pd.Series(other).rank())

    assert asdict(told) == {
        "rows": 250,
        "drawn": 250,
        "prompt_ks": pytest.approx(ks(prompt, got_prompt)),
        "output_ks": pytest.approx(ks(output, got_output)),
        "log_rank_correlation": pytest.approx(spearman(prompt, output)),
        "rank_correlation": pytest.approx(spearman(got_prompt, got_output)),
        "log_mean_tokens": (pytest.approx(fmean(prompt)), pytest.approx(fmean(output))),
        "mean_tokens": (pytest.approx(fmean(got_prompt)), pytest.approx(fmean(got_output))),
        "log_burstiness": asdict(burstiness(np.array([round(t * 1e9) for t in times]))),
        "burstiness": asdict(burstiness(np.array(planned))),
    }
    assert fit(str(path), name="mine", licence="CC0", seed=1)[1] == told
    assert fit(str(path), name="mine", licence="CC0", seed=2)[1] != told


def test_ticks_of_a_log_are_spread_with_the_seed(tmp_path):
    """The burstiness told of a log in ticks is that of its replay with the same seed."""
    path = tmp_path / "log.csv"
    path.write_text(
        "Timestamp,Request tokens,Response tokens\n" + "".join(f"{i // 2},9,{i % 5 + 1}\n" for i in range(60))
    )
    told = fit(str(path), name="x", licence="y", seed=4)[1]
    plan, _ = draw(str(path), Load(arrivals="trace"), requests=None, duration_s=None, seed=4, warmup_requests=0,
                   context_limit_tokens=None)  # fmt: skip
    assert told.log_burstiness == burstiness(np.array([r.scheduled_ns for r in plan.requests]))


def test_a_sample_is_held_to_a_number(log, monkeypatch):
    """A log of millions is compared with so many requests at most."""
    monkeypatch.setattr("harness.measure.plan.fitting._MOST_DRAWN", 99)
    told = fit(str(log[0]), name="mine", licence="CC0")[1]
    assert (told.rows, told.drawn) == (250, 99)


@pytest.mark.parametrize(("rows", "bins"), [(20, 1), (199, 1), (200, 2), (999, 9), (1200, 10)])
def test_bins_hold_a_hundred_rows(tmp_path, rows, bins):
    """One bin for every hundred rows, at least one, at most ten, from rank 0 to 1 without gaps; no times, no cite."""
    path = tmp_path / "log.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{i + 1},{i % 7 + 1}\n" for i in range(rows)))
    data, told = fit(str(path), name="x", licence="y")
    assert [one["prompt_rank"] for one in data["output_tokens_by_prompt_bin"]] == [
        [round(i / bins, 6), round((i + 1) / bins, 6)] for i in range(bins)
    ]
    assert data["arrivals"] == {"note": "no times in the log"}
    assert data["source"] == {"name": "x", "repository": "own log", "licence": "y"}
    assert "prefix" not in data
    assert "assumptions" not in data
    assert (told.log_burstiness, told.burstiness) == (None, None)


def test_arrivals_of_a_log():
    """All at one time is a batch; 20 whole bins of 10 s are kept, 19 are not; a log of more than a day keeps its first day."""
    ten_s = 10_000_000_000
    assert _arrivals(np.zeros(30, np.int64)) == {"process": "batch", "note": "all requests of the log have one time"}
    poisson = {"process": "poisson", "mean_rate_rps": 0.1, "interarrival_cv": 0.0}
    assert _arrivals(np.arange(20) * ten_s) == poisson
    assert _arrivals(5 + np.arange(21) * ten_s) == poisson | {"requests_per_10s_bin": [1] * 20}
    times = np.sort(np.concatenate([np.arange(21), [3, 3, 7]])) * ten_s
    assert _arrivals(times)["requests_per_10s_bin"] == [1, 1, 1, 3, 1, 1, 1, 2, *[1] * 12]
    assert _arrivals(np.arange(8641) * ten_s) == poisson | {"requests_per_10s_bin": [1] * 8640}
    longer = poisson | {"requests_per_10s_bin": [1] * 8640, "note": "the bins are those of the log's first day"}
    assert _arrivals(np.arange(8642) * ten_s) == longer


def test_what_a_log_shares(tmp_path, monkeypatch):
    """Block size of the format or of the option, the share of tokens, quantiles of each prompt's share, and the coupling with which
    as many drawn prompts share as much: just below it they share less, just above it no less."""
    monkeypatch.setattr("harness.measure.plan.fitting._COUPLING_ROWS", 1000)
    rng = np.random.default_rng(2)
    chains, lines = [[0]], []
    for i in range(300):
        base = chains[rng.integers(max(0, len(chains) - 9), len(chains))]
        chains.append([*base[: rng.integers(0, len(base) + 1)], *range(100 * i, 100 * i + int(rng.integers(1, 6)))])
        lines.append({"timestamp": 0, "input_length": 16 * len(chains[-1]), "output_length": 3, "hash_ids": chains[-1]})
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    seen, shared = set(), []
    for chain in chains[1:]:
        heads = [tuple(chain[: n + 1]) for n in range(len(chain))]
        shared.append(sum(head in seen for head in heads))
        seen.update(heads)
    share = [n / len(chain) for n, chain in zip(shared, chains[1:], strict=True)]
    ratio = round(sum(shared) / sum(map(len, chains[1:])), 3)
    data, _ = fit(f"{path}?block=16", name="x", licence="y")
    coupling = data["prefix"].pop("rank_coupling")
    assert data["prefix"] == {
        "block_tokens": 16,
        "token_hit_ratio_unlimited_cache": ratio,
        "cached_fraction_quantile_levels": pytest.approx(OUTPUT_LEVELS),
        "cached_fraction": [round(float(q), 3) for q in np.quantile(share, OUTPUT_LEVELS)],
    }
    step = round((coupling + 1 - 1 / 512) * 256)
    assert -1 + step / 256 + 1 / 512 == pytest.approx(coupling, abs=0.0006)

    def shares(c):
        rows = drawn(data | {"prefix": data["prefix"] | {"rank_coupling": c}}, tmp_path / "p.yaml", requests=1000)
        return sum(sum(r.prefix[1::2]) for r in rows) / sum(r.target_prompt_tokens for r in rows)

    assert shares(-1 + step / 256) < ratio <= shares(-1 + (step + 1) / 256)
    assert fit(str(path), name="x", licence="y")[0]["prefix"]["block_tokens"] == 512


def test_what_is_no_log():
    """A preset and a short form are no logs: the error names what was given."""
    for text in ("chat", "fixed:1x1"):
        with pytest.raises(ConfigError, match="only a trace file") as caught:
            fit(text, name="x", licence="y")
        assert caught.value.value == text


def test_too_few_rows(tmp_path):
    """19 rows are too few, which is said with their number."""
    path = tmp_path / "log.csv"
    path.write_text("prompt_tokens,output_tokens\n" + "5,5\n" * 19)
    with pytest.raises(ConfigError, match="too few rows") as caught:
        fit(str(path), name="x", licence="y")
    assert caught.value.value == "19 rows"


def test_distances_and_correlations_of_random_lengths():
    """Against pandas and a count by hand, with many ties."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        one, other = rng.integers(1, 9, 40), rng.integers(1, 9, 40)
        assert rank_correlation(one, other) == pytest.approx(pd.Series(one).rank().corr(pd.Series(other).rank()))
        places = range(10)
        assert ks_distance(one, other[:30]) == pytest.approx(
            max(abs((one <= x).mean() - (other[:30] <= x).mean()) for x in places)
        )
    assert rank_correlation(np.array([1, 2]), np.array([3, 3])) == 0
