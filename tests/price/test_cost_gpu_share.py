"""A price for N GPUs on a run of M: the share beside the whole box, in lines, sentence and reports."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.experiment import CostSpec
from harness.price.machine_match import RanOn, Share, share_of
from harness.price.run_cost import cost_run
from harness.records import Hardware
from harness.report.run import document
from harness.report.run.answer import find_answer
from tests.price.cost_summaries import summary

H100 = "NVIDIA H100 80GB HBM3"
SHARED = ("total_tokens", "input_tokens", "output_tokens", "1000_requests", "1000_good_requests")


def box(count, model="H100-SXM"):
    return Hardware("box", "55.04", "quote", "2026-11-01", model, count)


def measured(parallel=1, board=H100):
    flags = {"tensor_parallel_size": parallel}
    return replace(summary(), environment={"gpus": [{"name": board}] * parallel, "server": {"flags": flags}})


@given(st.integers(1, 16), st.integers(1, 16))
def test_the_share_of_every_line_is_used_over_priced(priced, used):
    """Each unit cost is there twice, at the whole price and at used/priced of it; with equal numbers once."""
    own = {line.name: line for line in cost_run(measured(used), box(priced), CostSpec()).own}
    shares = {name.removeprefix("self_share_"): line for name, line in own.items() if name.startswith("self_share_")}
    if used == priced:
        assert not shares
        return
    assert {name.removeprefix("usd_per_million_").removeprefix("usd_per_") for name in shares} == set(SHARED)
    for name, line in shares.items():
        assert D(line.usd) == pytest.approx(D(own[f"self_{name}"].usd) * used / priced, rel=D("1e-10"))
        assert line.label.startswith(own[f"self_{name}"].label)
        assert line.inputs["price"] == "55.04 USD per hour"
        assert "price taken" in line.inputs


def test_both_figures_stand_in_the_sentence_with_the_mismatch():
    """8 priced, 1 used: the whole box's price per token, that it is of 8 times the GPUs, and the share of 1 of the 8."""
    run = measured()
    cost = cost_run(run, box(8), CostSpec())
    text = find_answer([run], [cost]).text
    own = {line.name: line for line in cost.own}
    whole, share = (D(own[f"{kind}_usd_per_million_total_tokens"].usd) for kind in ("self", "self_share"))
    assert (round(whole, 4), round(share, 4)) == (D("1.2741"), D("0.1593"))
    assert "$1.27 per million input + output" in text
    assert "NOT THE MACHINE PRICED: the price is for 8 GPUs and the run used 1" in text
    assert "That is the whole price; share of 1 of the 8 GPUs priced: $" in text
    assert "$0.159 per million input + output" in text
    page = document.html("t", [run], [cost])
    assert page.count("share of 1 of the 8 GPUs priced") > 5
    assert "share of 1 of the 8 GPUs priced" in document.markdown("t", [run], [cost])


def test_a_price_for_fewer_gpus_than_used_is_multiplied():
    """1 priced, 8 used: eight times the price, called that."""
    cost = cost_run(measured(8), box(1), CostSpec())
    own = {line.name: line for line in cost.own}
    assert D(own["self_share_usd_per_1000_requests"].usd) == pytest.approx(D(own["self_usd_per_1000_requests"].usd) * 8)
    assert "That is the whole price; 8 GPUs at the price of 1: $" in find_answer([measured(8)], [cost]).text


def test_another_model_has_no_share():
    """An eighth of an A100's price is no H100's: the mismatch of the model is told, in the sentence too, and there is no share."""
    run = measured()
    cost = cost_run(run, box(8, "A100-80-SXM"), CostSpec())
    assert not [line for line in cost.own if "share" in line.name]
    text = find_answer([run], [cost]).text
    assert "the price is for A100-80-SXM and the run was on NVIDIA H100 80GB HBM3" in text
    assert "share of" not in text


@pytest.mark.parametrize(
    ("hardware", "ran"),
    [
        (box(None), RanOn(1, "", ())),
        (box(0), RanOn(1, "", ())),
        (box(8), RanOn(None, "", ())),
        (box(2), RanOn(2, "", ())),
    ],
    ids=["price of no number", "price of no GPU", "run not known", "equal"],
)
def test_what_is_not_known_or_equal_has_no_share(hardware, ran):
    """Without both numbers nothing is divided."""
    assert share_of(hardware, ran) is None
    assert share_of(box(8), RanOn(2, "", ())) == Share(2, 8)
