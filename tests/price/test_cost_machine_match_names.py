"""How GPUs of a run are counted and named, and what a mismatch says, whole."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.price.machine_match import RanOn, boards_of, gpus_used, price_mismatch, ran_on, same_gpu, unchecked
from harness.records import Hardware
from tests.price.cost_summaries import summary


def run(flags=None, boards=None, kind="adopt", **environment):
    server = {} if flags is None else {"server": {"flags": flags}}
    gpus = {} if boards is None else {"gpus": [{"name": name} for name in boards]}
    return replace(summary(kind=kind), environment={**server, **gpus, **environment})


def box(model="L4", count=1):
    return Hardware("box", "1", "s", "2026-11-01", model, count)


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ({"tensor_parallel_size": 2}, (2, "tensor 2 parallel")),
        ({"tp": "2", "pp": 3, "--data-parallel-size": 4}, (24, "tensor 2 x pipeline 3 x data 4 parallel")),
        ({"--pipeline-parallel-size": 2, "dp": 1}, (2, "pipeline 2 parallel")),
        ({"data_parallel_size": 1}, (1, "one, by its flags")),
        ({"tensor_parallel_size": "auto"}, None),
        ({"tp": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_gpus_by_the_flags_of_any_server(flags, found):
    """Long and short names, with dashes or underscores; a size that is no number says nothing."""
    assert gpus_used(run(flags)) == found


@pytest.mark.parametrize("kind", ["vllm", "offline"])
def test_a_server_of_ours_has_one_gpu_unless_told(kind):
    """All its flags are known; another's are not, and its boards count."""
    assert gpus_used(run({}, kind=kind)) == gpus_used(run(None, ["a", "b"], kind=kind)) == (1, "one, by its flags")
    assert gpus_used(run({}, ["a", "b"])) == (2, "boards that NVML watched")
    assert gpus_used(run({}, [], kind="hosted")) is None
    assert gpus_used(run(server=None, gpus=None)) is None
    assert gpus_used(run(server={"flags": None})) is None


def test_what_a_run_was_on():
    """Count, how it is known and the boards' names; a board without a name is an empty one."""
    assert ran_on(run({"tp": 2}, ["A", "B"])) == RanOn(2, "tensor 2 parallel", ("A", "B"))
    assert ran_on(run()) == RanOn(None, "not known", ())
    assert boards_of(run(gpus=[{}, {"name": None}, {"name": "A"}])) == ("", "", "A")


@pytest.mark.parametrize(
    ("priced", "board", "same"),
    [
        ("A100-80-PCIe", "NVIDIA A100 80GB PCIe", True),
        ("A100", "NVIDIA A100-SXM4-40GB", True),  # memory and form of one name only
        ("A100-80-SXM", "NVIDIA A100", True),
        ("A100-40-SXM", "NVIDIA A100-SXM4-80GB", False),
        ("A100-80-SXM", "NVIDIA A100 80GB PCIe", False),
        ("H100-80GB-SXM", "NVIDIA H100 80GB HBM3", True),
        ("H100-NVL", "NVIDIA H100 80GB HBM3", False),
        ("H100-PCIe", "NVIDIA H100 NVL", False),
        ("GH200-480", "NVIDIA GH200 480GB", True),
        ("GH200-96", "NVIDIA GH200 480GB", False),
        ("A10", "NVIDIA A10G", False),
        ("rtx 4090", "NVIDIA GeForce RTX 4090", True),
        ("GeForce RTX 4090", "NVIDIA GeForce RTX 4090", True),
        ("GeForce RTX 4090", "NVIDIA GeForce RTX 4080", False),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3", True),  # a price that is named as NVML does
        ("NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", False),
        ("Tesla T4", "Tesla T4", True),
        ("Tesla T4", "Tesla P4", False),
        ("RTXPRO6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", True),
        ("RTX6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", False),
        ("80-A100", "NVIDIA A100 80GB PCIe", False),
        ("", "NVIDIA A10G", False),
        ("--", "NVIDIA A10G", False),
    ],
)
def test_names_of_one_gpu(priced, board, same):
    """The model must be in the board's name; memory and form only where both say one."""
    assert same_gpu(priced, board) is same


def test_a_mismatch_in_words():
    """Count, model, or both, with the factor; replicas multiply what one server used; what is not known is not held against it."""
    two = RanOn(2, "tensor 2 parallel", ("NVIDIA L4", "NVIDIA L4"))
    assert price_mismatch(box(count=2), two) is None
    assert price_mismatch(box(count=1), two) == (
        "the price is for 1 GPU and the run used 2 (tensor 2 parallel): a token here carries 0.5 x the GPUs that made it"
    )
    assert price_mismatch(box(count=8), two, 4) is None
    assert price_mismatch(box("A10G", 8), two, 3) == (
        "the price is for 8 GPUs and 3 replicas of it use 6 (tensor 2 parallel): a token here carries 1.33 x the GPUs that made it; "
        "the price is for A10G and the run was on NVIDIA L4"
    )
    mixed = RanOn(None, "not known", ("NVIDIA T4", "NVIDIA L4", "NVIDIA A10G"))
    assert price_mismatch(box(), mixed) == "the price is for L4 and the run was on NVIDIA A10G, NVIDIA T4"
    for unknown in (box(None, None), replace(box(), gpu_count=None)):
        assert price_mismatch(unknown, two) is None
    assert price_mismatch(box(count=0), two).startswith("the price is for 0 GPUs")


def test_what_is_not_checked_says_why():
    """The telemetry's own words, else that there is none; the count alone where the price names no model."""
    told = "that the run was on the machine priced ({}) is not checked: GPU telemetry {}"
    assert unchecked(box(), run(telemetry={"gpu": "off"})) == told.format("1 x L4", "off")
    assert unchecked(box(None, 2), run()) == told.format("2 x GPU", "not recorded")
    assert unchecked(box(), run(telemetry=None)) == told.format("1 x L4", "not recorded")
    for silent in (box(count=None), box(count=0)):
        assert unchecked(silent, run()) is None
    assert unchecked(box(), run(boards=["A"])) is None
