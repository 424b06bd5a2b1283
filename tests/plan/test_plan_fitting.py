"""fit: a log becomes quantiles that reproduce it, and nothing else of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli.catalogue import workloads
from harness.measure.plan.arrivals import burstiness
from harness.measure.plan.describing import describe
from harness.measure.plan.drawing import draw
from harness.measure.plan.fitting import fit, ks_distance, rank_correlation
from harness.records import Load


def log(path, rows=6000, seed=3):
    """A log with correlated lengths and bursts, and a text column that must not come out again."""
    rng = np.random.default_rng(seed)
    prompt = np.maximum(rng.lognormal(6, 1, rows), 1).astype(int)
    output = np.maximum(prompt * rng.lognormal(-1, 0.8, rows), 1).astype(int)
    rate = np.where(rng.random(rows) < 0.2, 1.0, 40.0)
    times = np.cumsum(rng.exponential(1 / rate))
    lines = ["prompt_tokens,output_tokens,arrival_s,user"]
    lines += [f"{p},{o},{t:.6f},secret-{i}" for i, (p, o, t) in enumerate(zip(prompt, output, times, strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return prompt, output, times


def test_a_fitted_preset_reproduces_its_log(tmp_path):
    """KS distance of prompt and output below 3 %, means within 2 %, rank correlation within 0.05, and dispersion over 10 s
    within a third; the figures told are those of an independent draw from the written file."""
    prompt, output, times = log(tmp_path / "log.csv")
    data, told = fit(str(tmp_path / "log.csv"), name="my log", licence="CC0")
    assert max(told.prompt_ks, told.output_ks) < 0.03
    assert told.mean_tokens == pytest.approx((prompt.mean(), output.mean()), rel=0.02)
    assert told.rank_correlation == pytest.approx(told.log_rank_correlation, abs=0.05)
    assert told.burstiness.dispersion_10s == pytest.approx(told.log_burstiness.dispersion_10s, rel=0.33)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(data))
    plan = draw(str(path), Load(arrivals="preset"), requests=6000, duration_s=None, seed=9, warmup_requests=0,
                context_limit_tokens=None)[0]  # fmt: skip
    again = np.array([r.target_output_tokens for r in plan.requests])
    assert ks_distance(output, again) < 0.03
    assert plan.load.rate_rps == pytest.approx((len(times) - 1) / (times[-1] - times[0]), rel=0.01)
    assert describe(str(path))["licence"] == "CC0"


def test_nothing_of_the_log_but_quantiles(tmp_path):
    """No text and no user of the log is in the preset, and its size does not grow with the log."""
    log(tmp_path / "log.csv")
    data, _ = fit(str(tmp_path / "log.csv"), name="my log", licence="CC0")
    text = yaml.safe_dump(data)
    assert "secret" not in text
    log(tmp_path / "long.csv", 12_000)
    more, _ = fit(str(tmp_path / "long.csv"), name="my log", licence="CC0")
    del data["arrivals"], more["arrivals"]
    assert len(yaml.safe_dump(more)) < 1.1 * len(yaml.safe_dump(data))


def test_fitted_prefixes_have_the_logs_hit_ratio(tmp_path):
    """A log with block hashes becomes a preset whose prompts share as much."""
    rng = np.random.default_rng(1)
    chains, lines, new = [[]], [], 0
    for i in range(1500):
        base = chains[rng.integers(max(0, len(chains) - 50), len(chains))] if rng.random() < 0.6 else []
        more = int(rng.integers(1, 8))
        chains.append([*base[: rng.integers(0, len(base) + 1)], *range(new, new + more)])
        new += more
        lines.append(
            {"timestamp": i * 1000, "input_length": 512 * len(chains[-1]), "output_length": 9, "hash_ids": chains[-1]}
        )
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data, _ = fit(str(path), name="x", licence="CC0")
    ratio = data["prefix"]["token_hit_ratio_unlimited_cache"]
    assert ratio > 0.1
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(data))
    _, notes = draw(str(tmp_path / "p.yaml"), Load(concurrency=1), requests=5000, duration_s=None, seed=1, warmup_requests=0,
                    context_limit_tokens=None)  # fmt: skip
    told = float(notes[-1].split("prefix reuse: ")[1].split("%")[0]) / 100
    assert told == pytest.approx(ratio, abs=0.03)


def test_what_cannot_be_fitted(tmp_path):
    """A preset, and a log of a few rows, are ConfigErrors."""
    with pytest.raises(ConfigError, match="only a trace"):
        fit("chat", name="x", licence="y")
    log(tmp_path / "log.csv", 19)
    with pytest.raises(ConfigError, match="too few rows"):
        fit(str(tmp_path / "log.csv"), name="x", licence="y")
    log(tmp_path / "few.csv", 20)
    assert len(fit(str(tmp_path / "few.csv"), name="x", licence="y")[0]["output_tokens_by_prompt_bin"]) == 1


def test_ks_and_rank_correlation_are_the_textbooks():
    """Two small cases by hand: ties, and a distance between samples of different sizes."""
    assert ks_distance(np.array([1, 2, 3, 4]), np.array([3, 4, 5])) == pytest.approx(0.5)
    assert rank_correlation(np.array([1, 2, 3]), np.array([9, 8, 7])) == pytest.approx(-1)
    assert rank_correlation(np.array([1, 2, 2, 3]), np.array([1, 3, 2, 4])) == pytest.approx(0.9486832980505138)
    assert rank_correlation(np.array([1, 1]), np.array([1, 2])) == 0


def test_commands(tmp_path):
    """list, show, sample and fit print what they promise, as text and as JSON."""
    log(tmp_path / "log.csv", 800)
    run = CliRunner().invoke
    assert "long-chat" in run(workloads, ["list"]).output.split()
    shown = run(workloads, ["show", "code"]).output
    for word in ("prompt tokens, requests by length", "█", "dispersion_10s", "CC-BY-4.0", "Splitwise"):
        assert word in shown
    assert json.loads(run(workloads, ["show", "code", "--json"]).output)["check"]["rows"] == 8819
    assert len(run(workloads, ["sample", "agent", "--n", "5"]).output.splitlines()) == 6
    out = tmp_path / "mine.yaml"
    said = run(workloads, ["fit", str(tmp_path / "log.csv"), "--out", str(out), "--name", "mine"]).output
    assert "prompt ks: 0." in said
    assert yaml.safe_load(out.read_text())["source"]["name"] == "mine"
    both = json.loads(run(workloads, ["fit", str(tmp_path / "log.csv"), "--json"]).output)
    assert both["reproduction"]["rows"] == 800


def test_burstiness_of_a_trace_is_shown(tmp_path):
    """show FILE gives the burstiness of the file's own times."""
    _, _, times = log(tmp_path / "log.csv")
    shown = describe(str(tmp_path / "log.csv"))["arrivals"]["burstiness"]
    assert shown["gap_cv"] == pytest.approx(burstiness((times * 1e9).astype(np.int64)).gap_cv, rel=1e-3)
