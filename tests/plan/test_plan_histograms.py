"""Files of distributions: ServeGen's clients and quantile tables, recognised by content and drawn as they say."""

from __future__ import annotations

import json

import numpy as np
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.describing import describe
from harness.measure.plan.drawing import draw
from harness.records import Load


def client(folder, number, windows, rates):
    """The two files of one client as ServeGen writes them: histograms as text of Python dictionaries, rates without a header."""
    data = {str(s): {"input_tokens": str(i), "output_tokens": str(o)} for s, (i, o) in windows.items()}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(data))
    lines = [f"{s},{rate},1.5,{'Gamma' if rate else ''},0.5,2.0" for s, rate in rates.items()]
    (folder / f"chunk-{number}-trace.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture
def clients(tmp_path):
    """Two clients, the second with three times the requests: one of short prompts and long outputs, one the other way."""
    client(tmp_path, 1, {0: ({10: 0.5, 20: 0.5}, {100: 1.0})}, {0: 1.0, 600: 0.0, 1200: 3.0})
    client(tmp_path, 2, {0: ({1000: 0.25, 2000: 0.75}, {3: 0.5, 5: 0.5}), 1200: ({4000: 1.0}, {7: 1.0})},
           {0: 3.0, 600: 6.0, 1200: 3.0})  # fmt: skip
    return tmp_path


def plan_of(workload, load=None, requests=40_000, **words):
    words = {"duration_s": None, "seed": 1, "warmup_requests": 2, "context_limit_tokens": None} | words
    return draw(str(workload), load or Load(concurrency=4), requests=requests, **words)


def shares(plan):
    """(prompt, output) -> share of the requests."""
    pairs = [(r.target_prompt_tokens, r.target_output_tokens) for r in plan.requests]
    return {pair: pairs.count(pair) / len(pairs) for pair in set(pairs)}


def test_a_folder_of_clients_is_a_mixture(clients):
    """Each request is of a client by its share of the requests; its lengths are that client's, from the windows by their
    requests, prompt and output independent inside a client."""
    plan, notes = plan_of(clients)
    expected = {(10, 100): 2 / 16, (20, 100): 2 / 16, (4000, 7): None, (1000, 7): None}
    got = shares(plan)
    assert got[10, 100] == pytest.approx(expected[10, 100], abs=0.01)
    assert got[20, 100] == pytest.approx(expected[20, 100], abs=0.01)
    prompt = np.array([r.target_prompt_tokens for r in plan.requests])
    output = np.array([r.target_output_tokens for r in plan.requests])
    assert (prompt == 1000).mean() == pytest.approx(9 * 0.25 / 16, abs=0.01)  # 9 of 16 requests: windows 0 and 600
    assert (prompt == 4000).mean() == pytest.approx(3 / 16, abs=0.01)
    assert (output == 5).mean() == pytest.approx(9 * 0.5 / 16, abs=0.01)
    assert set(output[prompt < 100]) == {100}
    assert "2 of 2 clients, 3 windows" in notes[0]


def test_rates_are_those_of_the_windows(clients):
    """`--arrivals preset`: the mean rate is the windows', and requests fall on them by their rates."""
    plan, _ = plan_of(clients, Load(arrivals="preset"), requests=9600)
    assert plan.load.rate_rps == pytest.approx(16 / 3)
    counts = np.bincount(np.array([r.scheduled_ns for r in plan.requests]) // 600_000_000_000)
    assert counts[:3] / counts[:3].sum() == pytest.approx([4 / 16, 6 / 16, 6 / 16], abs=0.02)


def test_a_slice_of_the_windows(clients):
    """from and to choose windows by the second they begin at; a client without requests in them is left out."""
    plan, notes = plan_of(f"{clients}?from=600&to=1200", requests=500)
    assert {r.target_prompt_tokens for r in plan.requests} == {1000, 2000}
    assert "1 of 2 clients, 1 windows" in notes[0]
    with pytest.raises(ConfigError, match="no client has requests"):
        plan_of(f"{clients}?from=5000", requests=5)


def test_one_client_alone(clients):
    """A dataset file by itself is a workload; without its trace file there are no arrivals of its own."""
    assert {r.target_output_tokens for r in plan_of(clients / "chunk-1-dataset.json", requests=50)[0].requests} == {100}
    (clients / "chunk-1-trace.csv").unlink()
    assert len(plan_of(clients / "chunk-1-dataset.json", requests=50)[0].requests) == 50
    with pytest.raises(ConfigError, match="arrivals of its own"):
        plan_of(clients / "chunk-1-dataset.json", Load(arrivals="preset"), requests=5)


def test_length_zero_is_left_out_and_counted(tmp_path):
    """Requests of 0 tokens cannot be sent: left out, their share told."""
    client(tmp_path, 1, {0: ({0: 0.2, 8: 0.8}, {4: 1.0})}, {0: 1.0, 600: 1.0})
    plan, notes = plan_of(tmp_path, requests=100)
    assert {r.target_prompt_tokens for r in plan.requests} == {8}
    assert any("20.00% of the requests have length 0" in note for note in notes)


def test_histograms_can_be_shown_and_their_digest_is_theirs(clients):
    """show works on them; another histogram is another digest."""
    assert describe(str(clients))["rows"] == 100_000
    before = plan_of(clients / "chunk-1-dataset.json", requests=3)[0]
    client(clients, 1, {0: ({10: 0.5, 20: 0.5}, {100: 0.999, 101: 0.001})}, {0: 1.0, 600: 0.0})
    after = plan_of(clients / "chunk-1-dataset.json", requests=3)[0]
    assert after.requests == before.requests
    assert after.sha256 != before.sha256


def test_a_quantile_table(tmp_path):
    """`quantile,prompt_tokens,output_tokens`: drawn lengths have these quantiles, prompt and output independent."""
    path = tmp_path / "table.csv"
    path.write_text("quantile,prompt_tokens,output_tokens\n0,10,1\n0.5,100,50\n0.9,900,60\n1,1000,80\n")
    plan, notes = plan_of(path)
    prompt = [r.target_prompt_tokens for r in plan.requests]
    output = [r.target_output_tokens for r in plan.requests]
    assert np.quantile(prompt, [0.5, 0.9]) == pytest.approx([100, 900], rel=0.03)
    assert np.quantile(output, [0.5, 0.9]) == pytest.approx([50, 60], rel=0.03)
    assert abs(np.corrcoef(prompt, output)[0, 1]) < 0.02
    assert "independently" in notes[0]


@pytest.mark.parametrize(
    ("histogram", "why"),
    [
        ({10: 0.5}, "sum to 0.5"),
        ({10: -1.0, 20: 2.0}, "no negative share"),
        ({10**9: 1.0}, "10,000,000 tokens"),
        ("{10: 1.0", "is expected"),
        ("{1: nan}", "is expected"),
    ],
)
def test_bad_histograms_name_their_place(tmp_path, histogram, why):
    """File, window and field of a histogram that cannot be used."""
    client(tmp_path, 3, {600: (histogram, {4: 1.0})}, {600: 1.0})
    text = (tmp_path / "chunk-3-dataset.json").read_text()
    assert "600" in text
    with pytest.raises(ConfigError) as caught:
        plan_of(tmp_path, requests=3)
    assert "chunk-3-dataset.json, window 600, input_tokens" in caught.value.value
    assert why in caught.value.advice


@pytest.mark.parametrize(
    "rows", ["0,5,5\n0.5,4,6\n1,9,9", "0,5,5\n0.9,6,6", "0,5,5\n1,x,9", "0,5,5\n0.5,6\n1,9,9", "0,0,1\n1,2,2"]
)
def test_bad_quantiles_are_errors(tmp_path, rows):
    """Falling, cut off, not numbers, a column short, length 0."""
    (tmp_path / "t.csv").write_text(f"quantile,prompt_tokens,output_tokens\n{rows}\n")
    with pytest.raises(ConfigError, match="quantile"):
        plan_of(tmp_path / "t.csv", requests=3)


def test_options_that_mean_rows_are_refused(clients):
    """limit, sample and the like are for rows."""
    with pytest.raises(ConfigError, match="histograms are not rows"):
        plan_of(f"{clients}?limit=3", requests=3)
    (clients / "chunk-1-trace.csv").write_text("0,fast,1,Gamma,1,1\n")
    with pytest.raises(ConfigError, match="window cannot be used") as caught:
        plan_of(clients, requests=3)
    assert "chunk-1-trace.csv, line 1: '0,fast" in caught.value.value


def test_golden_digests_of_histograms(clients):
    """A plan from histograms is the same bytes on every machine, Python and NumPy."""
    closed, opened = plan_of(clients, requests=500)[0], plan_of(clients, Load(arrivals="preset"), requests=500)[0]
    assert (closed.sha256[:16], opened.sha256[:16]) == ("67d0378fdd6de333", "69ce778f901ba616")
