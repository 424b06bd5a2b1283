"""A machine's price where nobody declared one: proposed, listed or none, and how each report says so."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from test_cost_machine_match import BOARDS

from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.measure.campaign.ending import line, summarise_campaign
from harness.planner.focus import charges_of_run
from harness.price.machine_match import same_gpu
from harness.price.machine_price import by_boards, propose
from harness.price.prices import day_of, instances
from harness.price.run_cost import cost_run, price_runs
from harness.report.run import document, tables
from harness.report.run.answer import find_answer
from tests.price.cost_summaries import summary

AT = day_of("20261124T113000Z")
TABLE = instances(AT)


def ran(*names, kind="vllm", watched=None, mig=None, **facts):
    """A run on a machine with these boards, of which `watched` were the target's (all, unless told otherwise)."""
    gpus = [{"name": name, "mig_enabled": mig} for name in names][:watched]
    return replace(summary(kind=kind), environment={"gpus": gpus, "machine_boards": list(names), **facts})


@given(st.sampled_from(sorted(BOARDS)), st.integers(1, 8))
def test_one_match_is_proposed_several_are_listed_none_is_none(model, count):
    """Against the whole table: exactly the rows of that model and number with a price, and a proposal only where it is one."""
    rows = [
        r for r in TABLE if same_gpu(r.gpu_model, BOARDS[model]) and r.gpu_count == count and r.usd_per_hour is not None
    ]
    found = propose(ran(*[BOARDS[model]] * count), AT)
    if len(rows) == 1:
        assert found.hardware.name.startswith(f"{rows[0].full_name} ({count} x {rows[0].gpu_model}")
        assert (found.hardware.basis, found.hardware.as_of) == ("proposed", rows[0].as_of)
        assert (found.hardware.gpu_model, found.hardware.gpu_count) == (model, count)
    else:
        assert found.hardware is None
        assert all(row.full_name in found.why for row in rows[:8] if len(rows) <= 8)
        assert found.why.count("/h (") == min(len(rows), 8)
        assert "declare one: --instance" in found.why


@pytest.mark.parametrize(("model", "count"), list(product(("H100-SXM", "A10G", "L40S"), (1, 8))))
def test_a_providers_firmware_leaves_its_own_machines(model, count):
    """On Google's only Google's rows count."""
    found = by_boards([BOARDS[model]] * count, {"machine": "Google Google Compute Engine"}, AT)
    own = [r for r in TABLE if r.provider == "gcp" and same_gpu(r.gpu_model, BOARDS[model]) and r.gpu_count == count]
    assert (found.hardware is not None) == (len(own) == 1)
    if own:
        assert found.hardware.name.startswith(own[0].full_name)
        assert "the only machine of gcp in the price table" in found.hardware.why


def test_boards_of_two_models_are_no_machine_of_the_table():
    """Nothing sells them together."""
    found = propose(ran(BOARDS["H100-SXM"], BOARDS["A10G"]), AT)
    assert found.hardware is None
    assert "no machine of the price table has NVIDIA H100 80GB HBM3, NVIDIA A10G" in found.why


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (summary(), "no price of the machine is declared"),
        (ran(*[BOARDS["A10G"]] * 4, watched=0), "no price of the machine is declared"),
        (
            replace(summary(), environment={"gpus": [{"name": BOARDS["A10G"]}] * 4}),
            "no price of the machine is declared",
        ),
        (summary(kind="hosted"), "the machine behind a hosted API is not ours to price"),
        (ran(*[BOARDS["A10G"]] * 4, kind="adopt"), "the machine behind the URL is not seen from here"),
        (ran(*[BOARDS["A10G"]] * 4, mig=True), "on a MIG slice of NVIDIA A10G"),
    ],
    ids=["no board", "not the target's", "an older run", "hosted", "by url", "mig"],
)
def test_where_the_machine_is_not_known_nothing_is_proposed(run, why):
    """Four A10G are one match, but not where they may be somebody else's, or a part of them."""
    found = propose(run, AT)
    assert found.hardware is None
    assert found.why.startswith(why)


@pytest.mark.parametrize(
    ("facts", "proposed"),
    [
        ({"source": "NVML", "certain": True}, True),
        ({"source": "NVML", "certain": False}, False),
        ({"source": "DCGM", "certain": True}, False),
    ],
    ids=["surely", "perhaps", "elsewhere"],
)
def test_a_server_by_url_on_boards_that_are_surely_its_own(facts, proposed):
    """Somebody else's server on this machine: proposed where NVML shows its processes on the boards, else not."""
    found = propose(ran(*[BOARDS["A10G"]] * 4, kind="adopt", telemetry={"gpu_facts": facts}), AT)
    assert (found.hardware is not None) == proposed


def test_a_proposal_is_marked_wherever_its_dollars_are():
    """Sentence, warning, inputs, page, JSON, the campaign's last line and the FOCUS rows: none reads as if it were declared."""
    run = ran(*[BOARDS["A10G"]] * 4)
    run = replace(run, environment={**run.environment, "server": {"flags": {"tensor_parallel_size": 4}}})
    [cost] = price_runs([run])
    text = find_answer([run], [cost]).text
    assert "$5.672/h (price of 2026-07-20, 127 days old, STALE (limit 120)). PROPOSED, not declared:" in text
    assert "aws/karpenter-provider-aws" in text
    assert any("is PROPOSED, not declared: aws/g5.12xlarge" in w and "2026-07-20" in w for w in cost.warnings)
    assert all(line.inputs["price is"] == "proposed" for line in cost.own)
    for page in (document.html("t", [run], [cost]), document.markdown("t", [run], [cost])):
        assert "PROPOSED from the price table, not declared" in page
    assert tables.as_json([run], [cost])["costs"][0]["hardware"]["basis"] == "proposed"
    ended = summarise_campaign("e", "c", "finished", 1, 1.0, [run], [cost], report=None)
    assert "/M tokens (proposed price)" in line(ended)
    own = [charge for charge in charges_of_run(run, cost) if charge.provider == "self-hosted"]
    assert own
    assert all(charge.price_source.endswith("(proposed, not declared)") for charge in own)


def test_no_dollars_is_a_result():
    """Without a price: throughput in sentence and table, hosted bills in dollars, and in each report what to declare."""
    run = ran(BOARDS["H100-SXM"])
    spec = CostSpec(hosted=[PriceRef(provider="groq", model="llama-3.1-8b-instant")])
    [cost] = price_runs([run], spec)
    assert (cost.hardware, cost.unpriced) == (None, None)
    assert {line.usd for line in cost.own} == {None}
    assert all(line.usd for line in cost.hosted["groq/llama-3.1-8b-instant"])
    text = find_answer([run], [cost]).text
    assert "2,000 output tok/s" in text
    assert "no own price per token: not computed: 7 machines of the price table have 1 x NVIDIA H100 80GB HBM3" in text
    console = Console(width=200, record=True, file=io.StringIO())
    tables.render_costs(console, [cost])
    pages = (
        console.export_text(),
        document.html("t", [run], [cost]),
        document.markdown("t", [run], [cost]),
        json.dumps(tables.as_json([run], [cost])),
    )
    for page in (*pages, text):
        assert "--instance PROVIDER/NAME" in page.replace("\\-", "-").replace("\\_", "_")
        assert "runpod/community" in page.replace("\\_", "_")


def test_why_there_is_no_price_is_said_without_one_to_say():
    """cost_run alone, of a machine that nobody looked up."""
    assert (
        cost_run(summary(), None, CostSpec()).no_price
        == "no price of the machine is declared (hardware: in the experiment)"
    )
    assert cost_run(summary(), None, CostSpec(), no_price="look there").no_price == "look there"
