"""The machine that is priced against the one that ran: number of GPUs, model, and where it is said."""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.config.experiment import CostSpec
from harness.config.target import HardwareSpec
from harness.planner.measured import Measured, measured_capacity
from harness.planner.scenario.run import run_scenario
from harness.price.machine_match import RanOn, gpus_used, price_mismatch, ran_on, same_gpu, unchecked
from harness.price.prices import day_of, declared, instance_price, instances
from harness.price.run_cost import cost_run
from harness.records import Hardware
from harness.report.run import tables
from harness.report.run.answer import find_answer
from tests.planner.scenario_values import scenario
from tests.price.cost_summaries import summary

NOW = day_of("20261124T113000Z")
BOARDS = {  # as NVML names them
    "T4": "Tesla T4", "A10G": "NVIDIA A10G", "A10": "NVIDIA A10", "L4": "NVIDIA L4", "L40S": "NVIDIA L40S",
    "RTXPRO6000-SE": "NVIDIA RTX PRO 6000 Blackwell Server Edition", "A100-40-SXM": "NVIDIA A100-SXM4-40GB",
    "A100-80-SXM": "NVIDIA A100-SXM4-80GB", "A100-80-PCIe": "NVIDIA A100 80GB PCIe", "H100-SXM": "NVIDIA H100 80GB HBM3",
    "H100-NVL": "NVIDIA H100 NVL", "H100-PCIe": "NVIDIA H100 PCIe", "H200-SXM": "NVIDIA H200", "B200-SXM": "NVIDIA B200",
    "GB200": "NVIDIA GB200", "GH200": "NVIDIA GH200 480GB", "RTX4090": "NVIDIA GeForce RTX 4090",
}  # fmt: skip


def measured(boards=(), kind="vllm", **flags):
    environment = {"gpus": [{"name": name} for name in boards], "server": {"flags": {"model": "m", **flags}}}
    return replace(summary(kind=kind), environment=environment)


def box(count, model="H100-SXM"):
    return Hardware("box", "27.52", "quote", "2026-11-01", model, count)


@given(
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 16),
    st.sampled_from(["vllm", "offline", "adopt"]),
)
def test_gpus_are_the_product_of_the_parallel_sizes(tensor, pipeline, data, priced, kind):
    """Tensor x pipeline x data, spelled in any way; a mismatch is told exactly where the price is for another number."""
    run = measured(kind=kind, **{"tensor-parallel-size": tensor, "--pipeline_parallel_size": str(pipeline), "dp": data})
    assert gpus_used(run)[0] == tensor * pipeline * data
    told = price_mismatch(box(priced), ran_on(run))
    assert (told is None) == (priced == tensor * pipeline * data)
    if told is not None:
        assert f"for {priced} GPU" in told
        assert f"used {tensor * pipeline * data}" in told
        assert f"carries {priced / (tensor * pipeline * data):.3g} x" in told


def test_where_the_number_of_gpus_comes_from():
    """Flags of a server of ours leave out what is 1; a server that somebody else started is known by its flags, else by NVML's boards."""
    two = ["NVIDIA H100 80GB HBM3"] * 2
    assert gpus_used(measured()) == (1, "one, by its flags")
    assert gpus_used(measured(two))[0] == 1
    assert gpus_used(measured(two, kind="adopt")) == (2, "boards that NVML watched")
    assert gpus_used(measured(two, kind="adopt", tensor_parallel_size=4)) == (4, "tensor 4 parallel")
    assert gpus_used(measured(kind="adopt")) is None
    assert gpus_used(measured(kind="hosted")) is None


def test_every_gpu_of_the_price_table_is_recognised_and_no_other():
    """NVML's name of each model in the table matches that model, and of the others none."""
    priced = {i.gpu_model for i in instances(NOW)} - {"MI300X", "B300-SXM"}
    assert priced == set(BOARDS)
    for model, other in itertools.product(BOARDS, BOARDS):
        assert same_gpu(model, BOARDS[other]) == (model == other), (model, other)


def test_an_eight_gpu_price_on_a_one_gpu_run_is_said_in_the_sentence():
    """8 x H100 at $55.04/h priced, 1 used: the warning, the answer and --json say 8 x; with 8 used nothing is said."""
    run = measured([BOARDS["H100-SXM"]])
    dear = cost_run(run, instance_price("aws/p5.48xlarge", NOW), CostSpec())
    assert (
        "the price is for 8 GPUs and the run used 1 (one, by its flags): a token here carries 8 x"
        in dear.price_mismatch
    )
    assert dear.price_mismatch in dear.warnings
    found = find_answer([run], [dear])
    assert f"NOT THE MACHINE PRICED: {dear.price_mismatch}." in found.text
    assert tables.as_json([run], [dear])["costs"][0]["price_mismatch"] == dear.price_mismatch
    whole = cost_run(
        measured([BOARDS["H100-SXM"]] * 8, tensor_parallel_size=8), instance_price("aws/p5.48xlarge", NOW), CostSpec()
    )
    assert whole.price_mismatch is None
    assert "NOT THE MACHINE" not in find_answer([run], [whole]).text


def test_another_model_is_said():
    """An H100 price on an A100 run; of one board among several that differs, too; equal models are silent."""
    told = price_mismatch(box(1), ran_on(measured([BOARDS["A100-80-SXM"]])))
    assert told == "the price is for H100-SXM and the run was on NVIDIA A100-SXM4-80GB"
    assert "A10G" in price_mismatch(
        box(2), ran_on(measured([BOARDS["H100-SXM"], BOARDS["A10G"]], tensor_parallel_size=2))
    )
    assert price_mismatch(box(1), ran_on(measured([BOARDS["H100-SXM"]]))) is None


def test_what_cannot_be_checked_is_said_as_that():
    """A price that names GPUs and a run without NVML: a warning, no mismatch; a price that names none: silence."""
    run = measured()
    assert price_mismatch(box(1), ran_on(run)) is None
    assert "(1 x H100-SXM) is not checked: GPU telemetry not recorded" in unchecked(box(1), run)
    assert any("is not checked" in w for w in cost_run(run, box(1), CostSpec()).warnings)
    for silent in (Hardware("box", "1", "s", "2026-11-01"), box(0)):
        assert unchecked(silent, run) is None
    assert unchecked(box(1), measured([BOARDS["H100-SXM"]])) is None
    assert (
        price_mismatch(Hardware("box", "1", "s", "2026-11-01"), ran_on(measured(["x"], tensor_parallel_size=3))) is None
    )


def test_a_declared_machine_may_say_its_gpus():
    """gpu_model and gpu_count of the experiment's hardware arrive at the check."""
    spec = HardwareSpec(name="x", usd_per_hour=4, source="s", as_of="2026-11-01", gpu_model="L4", gpu_count=4)
    assert "for 4 GPUs" in price_mismatch(declared(spec), ran_on(measured([BOARDS["L4"]])))


@pytest.mark.parametrize("priced", [1, 2, 8])
def test_the_dollars_themselves_are_those_of_the_price(priced):
    """A mismatch is told, and the figures stay those of the whole price."""
    own = {line.name: line for line in cost_run(measured(), box(priced), CostSpec()).own}
    assert D(own["self_usd_window"].usd) == pytest.approx(D("27.52") / 36, rel=D("1e-11"))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(1, 8))
def test_a_scenario_holds_its_machine_against_the_measured_server(priced, gpus, replicas):
    """Replicas x GPUs of the measured server are those of the priced machine, or the verdict says that they are not."""
    machine = {"name": "box", "usd_per_hour": 4, "source": "quote", "as_of": "2026-11-01", "gpu_count": priced}
    spec = scenario(machine={"declared": machine, "replicas": replicas}, capacity={"requests_per_s": None, "run": "r"})
    seen = Measured(
        10.0,
        10.0,
        None,
        ((800, 0, 200, 0),),
        ("r",),
        ("m",),
        "20261120T000000Z",
        "measured",
        (),
        ran_on=RanOn(gpus, "its flags", ()),
    )
    result = run_scenario(spec, seen)
    told = [w for w in result.warnings if "the price is for" in w]
    assert len(told) == (priced != gpus * replicas)
    assert ("NOT THE MACHINE PRICED" in result.verdict) == (priced != gpus * replicas)


def test_a_measured_capacity_knows_what_it_ran_on():
    """Flags and boards of the runs arrive with the capacity."""
    runs = [
        replace(measured([BOARDS["L4"]] * 2, tensor_parallel_size=2), config={}, scalars={"request_rps": 10.0})
        for _ in range(3)
    ]
    assert measured_capacity(runs).ran_on == RanOn(2, "tensor 2 parallel", (BOARDS["L4"],) * 2)
