"""What refuses a comparison, what is only shown, and which cells are compared."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError, InvalidRunError, NotComparableError
from harness.judge.compare.comparison import compare
from harness.judge.compare.sides import side
from harness.records import Load
from tests.judge.compare_campaigns import INVALID, campaign, run

C4, C8 = Load(concurrency=4), Load(concurrency=8)
KEY = "tpot_s.p50"
VALUES = {C4: {KEY: [0.02, 0.021, 0.0205]}}
BASE = campaign(VALUES)


def gpus(*names: str, driver: str = "580.1") -> dict:
    return {"gpus": [{"name": name, "driver_version": driver} for name in names]}


DIFFERENT = {
    "model": {"server": {"model": "other"}},
    "plan": {"plan": "ffff"},
    "gpu": {"environment": gpus("NVIDIA H200")},
    "cpu": {"environment": {"cpu_model": "y"}},
    "api": {"server": {"api": "chat"}},
    "body": {"server": {"body": "plain"}},
    "driver": {"config": {"driver": "sdk"}},
    "schema": {"schema": 2},
}


@pytest.mark.parametrize("key", DIFFERENT)
def test_each_key_refuses_and_can_be_ignored(key):
    """The error names the key and both values; --ignore KEY lifts it, and the difference becomes a warning."""
    base = campaign(VALUES, environment=gpus("NVIDIA H100")) if key == "gpu" else BASE
    new = campaign(VALUES, **DIFFERENT[key])
    with pytest.raises(NotComparableError) as error:
        compare(base, new, metrics=[KEY])
    assert f"{key} differs" in error.value.what
    assert "base" in error.value.value
    assert "new" in error.value.value
    assert f"--ignore {key}" in error.value.advice
    result = compare(base, new, metrics=[KEY], ignored=[key])
    assert any(f"{key} differs and was ignored" in w for w in result.warnings)
    assert result.ignored == (key,)


def test_an_api_without_extensions_has_no_body_to_compare():
    """Plain requests to a vLLM server may be compared with a hosted API: what it was sent was no choice."""
    plain = campaign(VALUES, server={"body": "plain"})
    hosted = campaign(VALUES, server={"body": None, "vllm_extensions": False})
    assert not compare(plain, hosted, metrics=[KEY]).warnings


def boards(**facts) -> dict:
    return {"gpus": [{"name": "NVIDIA H100", "driver_version": "580.1", **facts}]}


@pytest.mark.parametrize(
    ("here", "there", "words"),
    [
        (
            {"power_limit_mw": 700_000},
            {"power_limit_mw": 500_000},
            "base power limit, mW: 700000, new power limit, mW: 500000",
        ),
        (
            {"mig_profiles": []},
            {"mig_profiles": ["1g.10gb"]},
            "base MIG profiles: whole board, new MIG profiles: 1g.10gb",
        ),
        ({"ecc_enabled": True}, {"ecc_enabled": False}, "base ECC: True, new ECC: False"),
    ],
    ids=["power limit", "MIG profile", "ECC"],
)
def test_boards_that_are_set_otherwise_are_not_compared(here, there, words):
    """Refused with both settings, lifted by --ignore gpu_setup; a run that does not know the fact is compared."""
    base, new = (campaign(VALUES, environment=boards(**facts)) for facts in (here, there))
    with pytest.raises(NotComparableError, match="gpu_setup differs") as refused:
        compare(base, new, metrics=[KEY])
    assert words in refused.value.value
    assert compare(base, new, metrics=[KEY], ignored=["gpu_setup"]).warnings
    assert not compare(base, campaign(VALUES, environment=boards()), metrics=[KEY]).warnings
    assert not compare(base, base, metrics=[KEY]).warnings


def test_where_a_board_sits_may_differ_and_is_shown():
    """PCIe width, links and NUMA node of both sides, no refusal."""
    one = {"pcie_width": 16, "pcie_generation": 5, "nvlinks_active": 18, "numa_node": 0, "sm_clock_limit_mhz": 1980}
    other = {**one, "pcie_width": 8, "numa_node": 1}
    base, new = (campaign(VALUES, environment=boards(**facts)) for facts in (one, other))
    changes = compare(base, new, metrics=[KEY]).changes
    assert ("GPU PCIe width", "16", "8") in changes
    assert ("GPU NUMA node", "0", "1") in changes
    assert not [name for name, _, _ in changes if "NVLinks" in name]


def test_the_number_of_gpus_is_part_of_the_key():
    """One H100 against two is refused, with both counts in the message."""
    new = campaign(VALUES, environment=gpus("NVIDIA H100", "NVIDIA H100"))
    with pytest.raises(NotComparableError, match="1 x NVIDIA H100, new 2 x NVIDIA H100"):
        compare(campaign(VALUES, environment=gpus("NVIDIA H100")), new, metrics=[KEY])


def test_another_gpu_driver_warns_unless_strict():
    """A warning with both versions; refused with strict."""
    base, new = (campaign(VALUES, environment=gpus("NVIDIA H100", driver=d)) for d in ("580.1", "590.2"))
    result = compare(base, new, metrics=[KEY])
    assert any("580.1" in w and "590.2" in w for w in result.warnings)
    with pytest.raises(NotComparableError, match="gpu_driver differs"):
        compare(base, new, metrics=[KEY], strict=True)


def test_versions_and_flags_may_differ_and_are_shown():
    """vLLM's version, a flag and a variable are listed with both values; a secret's value is not."""
    new = campaign(
        VALUES,
        server={"server_version": "0.33.0", "flags": {"max_num_seqs": 64}},
        config={"targets": [{"name": "a", "env": {"VLLM_X": "1", "HF_TOKEN": "hf_secret"}}]},
    )
    changed = {name: (base, value) for name, base, value in compare(BASE, new, metrics=[KEY]).changes}
    assert changed["server version"] == ("0.32.0", "0.33.0")
    assert changed["flag max_num_seqs"] == ("none", "64")
    assert changed["target variable VLLM_X"] == ("none", "1")
    assert changed["target variable HF_TOKEN"] == ("none", "***")


def test_another_machine_is_told():
    """Runs of two machines of the same kind may be compared, and the change of the machine is listed."""
    sides = [campaign(VALUES, environment={"host_sha256": host}) for host in ("aa", "bb")]
    assert ("machine", "aa", "bb") in compare(*sides, metrics=[KEY]).changes


def test_a_batch_size_in_tokens_is_a_change():
    """512 batched tokens against 8192 is another server: both values stand there; of a token the change is not even told."""
    sides = [
        campaign(VALUES, server={"flags": {"max_num_batched_tokens": n, "hf_token": f"hf_{n}"}}) for n in (512, 8192)
    ]
    changed = {name: (base, value) for name, base, value in compare(*sides, metrics=[KEY]).changes}
    assert changed == {"flag max_num_batched_tokens": ("512", "8192")}


def test_cells_of_one_side_are_named():
    """The shared cell is compared, the others are listed."""
    result = compare(
        campaign(VALUES | {C8: VALUES[C4]}), campaign(VALUES | {Load(rate_rps=2.0): VALUES[C4]}), metrics=[KEY]
    )
    assert len(result.effects) == 1
    assert result.only_base == ("a fixed:128x32 c8",)
    assert result.only_new == ("a fixed:128x32 r2",)


@pytest.mark.parametrize(
    ("other", "word"),
    [({"workload": "chat"}, "workload"), ({"target": "b"}, "target"), ({"load": C8}, "load")],
)
def test_no_shared_cell_names_what_differs(other, word):
    """Not comparable, with the part of the cell and both values."""
    cells = {other["load"]: VALUES[C4]} if "load" in other else VALUES
    new = campaign(cells, **{k: v for k, v in other.items() if k != "load"})
    with pytest.raises(NotComparableError, match=f"{word} differs"):
        compare(BASE, new, metrics=[KEY])


def test_another_workload_needs_two_words():
    """--ignore workload matches the cells, and then the plans differ: both must be lifted."""
    new = campaign(VALUES, workload="chat", plan="ffff")
    with pytest.raises(NotComparableError, match="plan differs"):
        compare(BASE, new, metrics=[KEY], ignored=["workload"])
    assert len(compare(BASE, new, metrics=[KEY], ignored=["workload", "plan"]).effects) == 1


def test_ambiguous_cells_are_refused():
    """Two workloads at one load cannot be matched without their names."""
    runs = [*BASE.runs, *campaign(VALUES, workload="chat").runs]
    with pytest.raises(ConfigError, match="several are alike"):
        compare(side("b", runs), BASE, ignored=["workload"])


def test_two_targets_of_one_campaign():
    """A chosen target on each side: names do not have to be equal, and the effect carries both."""
    base, new = campaign(VALUES, of="a"), campaign(VALUES, target="b", of="b")
    (effect,) = compare(base, new, metrics=[KEY]).effects
    assert effect.target == "a → b"


def test_no_repetition_in_common_is_a_plan_that_differs():
    """Repetitions 1-3 against 4-6 replay other plans: refused unless ignored, then unpaired."""
    new = side("n", [run({KEY: v}, k) for k, v in enumerate(VALUES[C4][KEY], 4)])
    with pytest.raises(NotComparableError, match="plan differs"):
        compare(BASE, new, metrics=[KEY])
    assert not compare(BASE, new, metrics=[KEY], ignored=["plan"]).effects[0].paired


def test_a_side_without_a_valid_run():
    """INVALID all over: exit code 7 with the runs' own reason."""
    with pytest.raises(InvalidRunError, match="client was the bottleneck") as error:
        compare(BASE, campaign(VALUES, verdict=INVALID))
    assert error.value.exit_code == 7
