"""What `harness workloads show` gets: every key, from known rows and by independent formulas."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import yaml

from harness.base.files import data_dir
from harness.measure.plan.arrivals import arrivals, burstiness
from harness.measure.plan.describing import describe, histogram
from harness.measure.plan.drawing import draw
from harness.measure.plan.streams import Purpose, raw, uniform
from harness.records import Load

LEVELS = {f"p{percent}": percent / 100 for percent in (1, 5, 10, 25, 50, 75, 90, 95, 99)}
ROWS = 100_000
OF_NO_PRESET = {"prefix": None, "assumptions": None, "check": {}, "source": None, "licence": None, "cite": None}


@pytest.fixture
def few(monkeypatch):
    """Rows of a smaller sample, for what takes long to draw."""
    monkeypatch.setattr("harness.measure.plan.describing._ROWS", 4000)
    return 4000


def column(tokens):
    """Mean, ends and the least length that so many of the requests do not exceed."""
    ordered = sorted(int(n) for n in tokens)
    at = {name: max(math.ceil(round(level * len(ordered), 6)) - 1, 0) for name, level in LEVELS.items()}
    return {
        "mean": pytest.approx(sum(ordered) / len(ordered)),
        "min": ordered[0],
        "max": ordered[-1],
        "quantiles": {name: ordered[i] for name, i in at.items()},
    }


def counted(tokens, edges):
    """Requests between neighbouring edges, the last bin with its upper end."""
    last = len(edges) - 2
    return [
        (low, high, sum(low <= n < high or (i == last and n == high) for n in tokens))
        for i, (low, high) in enumerate(zip(edges, edges[1:], strict=False))
    ]


def test_all_that_is_told_of_a_trace(tmp_path):
    """Four rows by hand: means, quantiles, bins that grow by 2^(3/16), burstiness, notes; no figures of a source."""
    path = tmp_path / "t.csv"
    path.write_text("prompt_tokens,output_tokens,arrival_s\n10,1,0\n20,1,1\n40,2,3\n80,4,6\n")
    edges = [round(10 * 2 ** (3 * i / 16)) for i in range(17)]
    gap_cv = math.sqrt(2 / 3) / 2  # of 1, 2 and 3 s
    spread = dict.fromkeys(("dispersion_1s", "dispersion_10s", "dispersion_60s"))
    assert describe(str(path)) == OF_NO_PRESET | {
        "workload": str(path),
        "description": "plain CSV trace",
        "rows": 4,
        "prompt_tokens": {
            "mean": 37.5,
            "min": 10,
            "max": 80,
            "quantiles": dict.fromkeys(("p1", "p5", "p10", "p25"), 10) | {"p50": 20, "p75": 40} | dict.fromkeys(("p90", "p95", "p99"), 80),
        },
        "output_tokens": column([1, 1, 2, 4]),
        "histogram": {"prompt_tokens": counted([10, 20, 40, 80], edges), "output_tokens": [(1, 2, 2), (2, 3, 1), (3, 4, 1)]},
        "arrivals": {
            "process": "trace",
            "note": None,
            "burstiness": {"mean_rate_rps": 0.5, "gap_cv": pytest.approx(gap_cv), **spread},
        },
        "notes": ["trace: plain CSV, 4 of 4 rows read"],
    }  # fmt: skip


def test_ticks_of_a_trace_are_told(tmp_path):
    """Times in ticks are spread as a plan spreads them; the note says so. Without times there are no arrivals."""
    path = tmp_path / "t.csv"
    rows = [f"{second},9,9" for second in (0, 1, 1, 2, 4)]
    path.write_text("\n".join(["Timestamp,Request tokens,Response tokens", *rows]))
    plan, notes = draw(str(path), Load(arrivals="trace"), requests=None, duration_s=None, seed=0, warmup_requests=0,
                       context_limit_tokens=None)  # fmt: skip
    times = np.array([r.scheduled_ns for r in plan.requests])
    assert describe(str(path))["arrivals"] == {
        "process": "trace",
        "note": notes[1],
        "burstiness": asdict(burstiness(times)),
    }
    assert notes[1] == "trace: times stand in ticks of 1 s and were spread inside them, uniformly"
    path.write_text("prompt_tokens,output_tokens\n5,5\n")
    assert describe(str(path))["arrivals"] is None


def test_all_that_is_told_of_a_short_form():
    """100,000 rows with seed 0: the lengths are 1 + floor(1000 u) of the seed's numbers, in pairs."""
    u = uniform(raw(0, Purpose.LENGTHS, 2 * ROWS))
    prompt, output = 1 + np.floor(u[0::2] * 1000), 1 + np.floor(u[1::2] * 4)
    found = describe("uniform:1-1000x1-4")
    assert {key: sum(n for _, _, n in bins) for key, bins in found.pop("histogram").items()} == {
        "prompt_tokens": ROWS,
        "output_tokens": ROWS,
    }
    assert found == OF_NO_PRESET | {
        "workload": "uniform:1-1000x1-4",
        "description": "short form",
        "rows": ROWS,
        "prompt_tokens": column(prompt),
        "output_tokens": column(output),
        "arrivals": None,
        "notes": [],
    }


@pytest.mark.parametrize("name", ["chat", "long-chat", "agent", "mlperf-like", "seed-chat"])
def test_all_that_is_told_of_a_preset(name, few):
    """What its file says of source, licence, figures and assumptions, and the arrivals that it would plan: 20,000 with seed 0,
    at 1/s where the source gives no rate."""
    data = yaml.safe_load((data_dir("workloads") / f"{name}.yaml").read_text(encoding="utf-8"))
    said = data.get("arrivals", {})
    load = Load(arrivals="preset") if said.get("mean_rate_rps") else Load(rate_rps=1.0, arrivals="preset")
    if name == "agent":  # a plan's arrivals are those of sessions
        times = arrivals("poisson", 1.0, 0, 20_000, None)
    else:
        words = {"duration_s": None, "seed": 0, "warmup_requests": 0, "context_limit_tokens": None}
        plan, _ = draw(name, load, requests=20_000, **words)
        times = np.array([r.scheduled_ns for r in plan.requests])
    found = describe(name)
    prefix = data.get("prefix")
    assert {key: found[key] for key in found if key not in ("prompt_tokens", "output_tokens", "histogram")} == {
        "workload": name,
        "description": data["description"],
        "rows": few,
        "arrivals": {
            "process": "poisson with the rates of the source's 10 s bins" if "requests_per_10s_bin" in said else "poisson",
            "source_mean_rate_rps": said.get("mean_rate_rps"),
            "source_interarrival_cv": said.get("interarrival_cv"),
            "note": said.get("note"),
            "burstiness": asdict(burstiness(times)),
        },
        "prefix": prefix and {key: prefix[key] for key in ("block_tokens", "token_hit_ratio_unlimited_cache")},
        "assumptions": data.get("assumptions"),
        "check": data.get("check", {}),
        "notes": found["notes"] if name == "agent" else [],
        "source": dict.fromkeys(("path", "commit", "cite", "tokenizer")) | data["source"],
        "licence": data["source"]["licence"],
        "cite": data["source"].get("cite"),
    }  # fmt: skip


def test_sessions_are_shown_without_a_limit_of_their_calls(few):
    """The lengths told of a preset of sessions are those of the first calls of its plan with seed 0."""
    plan, notes = draw("agent", Load(concurrency=1), requests=few, duration_s=None, seed=0, warmup_requests=0,
                       context_limit_tokens=None)  # fmt: skip
    found = describe("agent")
    assert found["prompt_tokens"] == column([r.target_prompt_tokens for r in plan.requests])
    assert found["output_tokens"] == column([r.target_output_tokens for r in plan.requests])
    assert found["notes"] == [notes[0]]


def test_a_batch_has_no_burstiness():
    """All at once: the process and the source's note, nothing else."""
    assert describe("batch")["arrivals"] == {"process": "batch", "note": "everything at once"}


def test_the_preset_of_ones_own_may_say_its_process(tmp_path):
    """A process that the file names is named, and sampled at the file's rate."""
    path = tmp_path / "p.yaml"
    path.write_text("shape: 'fixed:3x2'\narrivals: {process: constant, mean_rate_rps: 4}\n"
                    "source: {name: x, repository: y, licence: CC0}\n")  # fmt: skip
    found = describe(str(path))
    assert found["description"] == ""
    assert found["arrivals"]["process"] == "constant"
    assert found["arrivals"]["burstiness"]["mean_rate_rps"] == pytest.approx(4)
    assert found["histogram"] == {"prompt_tokens": [(3, 3, ROWS)], "output_tokens": [(2, 2, ROWS)]}


def test_bins_of_lengths():
    """Edges grow geometrically in 16 steps, as far as they differ as whole numbers; the greatest length is in the last bin."""
    bins = [(1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 5, 1), (5, 6, 0), (6, 7, 0), (7, 8, 0), (8, 10, 0), (10, 11, 0),
            (11, 13, 0), (13, 16, 1)]  # fmt: skip
    assert histogram(np.array([1, 2, 3, 4, 16])) == bins
    assert histogram(np.array([5, 5, 5])) == [(5, 5, 3)]
    tokens = np.arange(1, 1025)
    assert histogram(tokens) == counted(tokens.tolist(), sorted({round(2 ** (10 * i / 16)) for i in range(17)}))
