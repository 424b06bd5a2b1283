"""Which cells of two campaigns are compared, keys that must be equal, and facts that may differ."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from harness.base.errors import ConfigError, InvalidRunError, NotComparableError
from harness.judge.compare.comparison import compare
from harness.judge.compare.keys import KEYS, changes, check_comparable, check_names, match_cells
from harness.judge.compare.sides import side
from harness.records import Load
from tests.judge.compare_campaigns import INVALID, campaign, run

C4, C8 = Load(concurrency=4), Load(concurrency=8)
KEY = "tpot_s.p50"
VALUES = {C4: {KEY: [0.02, 0.021, 0.0205]}}


# ---------------------------------------------------------------- cells and keys


def test_which_keys_there_are():
    """All may be ignored by name, no other word."""
    assert KEYS == (
        "workload",
        "model",
        "plan",
        "gpu",
        "cpu",
        "api",
        "body",
        "driver",
        "schema",
        "gpu_setup",
        "gpu_driver",
        "box",
    )
    check_names(KEYS)
    with pytest.raises(ConfigError) as error:
        check_names(["plan", "gpus"])
    assert error.value.value == "gpus"


def test_matched_cells_by_name():
    """Target, workload and load; without the target where one was chosen on each side, without the workload where it is ignored."""
    base, new = campaign(VALUES | {C8: VALUES[C4]}), campaign(VALUES | {Load(rate_rps=2.0): VALUES[C4]})
    matched, only_base, only_new = match_cells(base, new, ())
    assert matched == [("a fixed:128x32 c4", list(base.runs[:3]), list(new.runs[:3]))]
    assert (only_base, only_new) == (["a fixed:128x32 c8"], ["a fixed:128x32 r2"])
    chosen = campaign(VALUES, of="a"), campaign(VALUES, target="b", workload="chat", of="b")
    assert [name for name, _, _ in match_cells(*chosen, ["workload"])[0]] == ["c4"]
    with pytest.raises(NotComparableError, match="target differs"):
        match_cells(chosen[0], campaign(VALUES, target="b"), ())
    with pytest.raises(NotComparableError, match="target differs"):
        match_cells(campaign(VALUES, target="b"), chosen[0], ())


def test_what_no_cell_shares():
    """The first part that differs, with both sides' own; where every part is somewhere on both, the directories."""
    base, new = campaign(VALUES | {C8: VALUES[C4]}), campaign({Load(rate_rps=2.0): VALUES[C4]})
    with pytest.raises(NotComparableError) as error:
        match_cells(base, new, ())
    assert (error.value.what, error.value.value) == ("not comparable: load differs", "base ['c4', 'c8'], new ['r2']")
    crossed = [
        side(name, [*campaign(VALUES, workload=one).runs, *campaign({C8: VALUES[C4]}, workload=other).runs])
        for name, one, other in (("x", "chat", "rag"), ("y", "rag", "chat"))
    ]
    with pytest.raises(NotComparableError) as error:
        match_cells(*crossed, ())
    assert (error.value.what, error.value.value) == ("not comparable: no cell is in both", "base x, new y")
    for kw, ignored, said in (
        ({"workload": "chat"}, (), "workload"),
        ({"target": "b"}, (), "target"),
        ({"workload": "chat", "target": "b"}, ["workload"], "target"),
    ):
        with pytest.raises(NotComparableError) as error:
            match_cells(campaign(VALUES), campaign(VALUES, **kw), ignored)
        assert error.value.what == f"not comparable: {said} differs"
        assert ("--base-target" in error.value.advice) == (said == "target")


def gpus(*names, driver="580.1"):
    return {"gpus": [{"name": name, "driver_version": driver} for name in names]}


@pytest.mark.parametrize(
    ("base", "new", "key", "here", "there"),
    [
        ({"environment": gpus("B", "A", "B")}, {"environment": gpus("A")}, "gpu", "1 x A + 2 x B", "1 x A"),
        ({"environment": gpus("A")}, {}, "gpu", "1 x A", "none"),
        ({"environment": {"cpu_model": "x", "cores": {"usable": 8}}}, {}, "cpu", "x, 8 cores", "x, 2 cores"),
        ({"server": {"model": "n"}}, {}, "model", "n", "m"),
        ({"server": {"api": None}}, {}, "api", "none", "completions"),
        ({"config": {"driver": "sdk"}}, {}, "driver", "sdk", "wire"),
        ({"schema": 3}, {}, "schema", "3", "1"),
        (
            {"plan": "0123456789abcdef"},
            {"plan": "fedcba9876543210"},
            "plan",
            "repetition 1 0123456789ab",
            "repetition 1 fedcba987654",
        ),
    ],
)
def test_each_key_with_both_values(base, new, key, here, there):
    """The error names the cell and both; each can be ignored and is told then, with advice of its own."""
    matched = match_cells(campaign(VALUES, **base), campaign(VALUES, **new), ())[0]
    with pytest.raises(NotComparableError) as error:
        check_comparable(matched, (), strict=False)
    text = f"a fixed:128x32 c4: base {here}, new {there}"
    assert (error.value.what, error.value.value) == (f"not comparable: {key} differs", text)
    assert error.value.advice.endswith(f"; or --ignore {key}")
    assert "None" not in error.value.advice
    said = check_comparable(matched, [key, "gpu_driver", "cpu"], strict=True)
    assert f"{key} differs and was ignored: {text}" in said


def test_the_workload_is_a_key_once_it_is_not_matched_by():
    """Ignored, it is told with both values."""
    base, new = campaign(VALUES), campaign(VALUES, workload="chat", plan="ffff")
    matched = match_cells(base, new, ["workload"])[0]
    assert (
        check_comparable(matched, ["workload", "plan"], strict=False)[0]
        == "workload differs and was ignored: a c4: base fixed:128x32, new chat"
    )


def test_a_gpu_driver_is_warned_of_once():
    """Over two cells; none on one side is said as such; strict refuses and can be lifted."""
    values = VALUES | {C8: VALUES[C4]}
    base, new = (campaign(values, environment=gpus("A", driver=d)) for d in ("580.1", None))
    matched = match_cells(base, new, ())[0]
    assert check_comparable(matched, (), strict=False) == ["the GPU driver differs: base 580.1, new none"]
    assert check_comparable(match_cells(new, base, ())[0], (), strict=False) == [
        "the GPU driver differs: base none, new 580.1"
    ]
    with pytest.raises(NotComparableError, match="gpu_driver differs"):
        check_comparable(matched, (), strict=True)


def test_a_machine_is_a_key_only_of_a_server_of_ours_on_the_cpu():
    """Another CPU behind an adopted server, or beside GPUs, is no other key."""
    for kind, more in (("adopt", {}), ("vllm", gpus("A"))):
        sides = [campaign(VALUES, environment={"cpu_model": model, **more}, server={"kind": kind}) for model in "xy"]
        assert check_comparable(match_cells(*sides, ())[0], (), strict=True) == []


def test_repetitions_of_different_numbers():
    """No repetition on both sides: the plans differ, with the numbers of each."""
    new = side("n", [run({KEY: 0.02}, k) for k in (4, 5)])
    matched = match_cells(campaign(VALUES), new, ())[0]
    said = check_comparable(matched, ["plan"], strict=False)
    assert said == [
        "plan differs and was ignored: a fixed:128x32 c4: base repetitions [1, 2, 3], new repetitions [4, 5]"
    ]
    later = side("n", [run({KEY: 0.02}, k, plan="f" * 20 if k == 3 else None) for k in (2, 3, 4)])
    said = check_comparable(match_cells(campaign(VALUES), later, ())[0], ["plan"], strict=False)
    assert said == [
        "plan differs and was ignored: a fixed:128x32 c4: base repetition 3 03c4, new repetition 3 ffffffffffff"
    ]


# ---------------------------------------------------------------- what may differ


def test_an_installed_harness_has_no_commit():
    """Outside a checkout there is none to tell: on one side it is none, on both it is no fact."""
    installed, checkout = (campaign(VALUES, environment={"git": git}) for git in (None, {"commit": "ffff"}))
    assert changes([("c", installed.runs, checkout.runs)]) == (("harness commit", "none", "ffff"),)
    assert changes([("c", installed.runs, installed.runs)]) == ()


def test_every_fact_that_differs_is_listed():
    """In the order of the facts, then those of new alone; runs that differ among themselves have all values; secrets none."""
    told = {
        "environment": {
            "git": {"commit": "0123456789abcdef", "dirty": True}, "kernel": "6.1", "host_sha256": "aa", "packages": {"numpy": "2.0", "same": "1"},
            "variables": {"OMP": "2"}, **gpus("A"),
        },
        "server": {"kind": "adopt", "flags": {"seed": 1, "api_key": "k1"}},
        "config": {"targets": [{"name": "z", "env": {"NO": "1"}}, {"name": "a", "env": {"X": "1"}}]},
    }  # fmt: skip
    other = {
        "environment": {
            "git": {"commit": "ffff"},
            "packages": {"numpy": "2.1", "same": "1", "torch": "3"},
            **gpus("A", driver="590"),
        },
        "server": {"server_version": "0.33.0", "flags": {"seed": 2, "api_key": "k2"}},
        "config": {"targets": [{"name": "a", "env": {"X": "2"}}]},
    }
    base, new = campaign(VALUES, **told), campaign(VALUES, **other)
    runs = [replace(r, manifest=replace(r.manifest, harness_version=f"0.{k}")) for k, r in enumerate(new.runs)]
    matched = [("c", base.runs, runs)]
    assert changes(matched) == (
        ("server version", "0.32.0", "0.33.0"),
        ("target kind", "adopt", "vllm"),
        ("harness version", "0", "0.0, 0.1, 0.2"),
        ("harness commit", "0123456789ab with changes", "ffff"),
        ("GPU driver", "580.1", "590"),
        ("kernel", "6.1", "none"),
        ("machine", "aa", "none"),
        ("package numpy", "2.0", "2.1"),
        ("flag seed", "1", "2"),
        ("variable OMP", "2", "none"),
        ("target variable X", "1", "2"),
        ("package torch", "none", "3"),
    )
    assert changes([("c", base.runs, base.runs)]) == ()
    assert changes([("c", base.runs[:1], base.runs[:1]), ("d", base.runs[1:], runs)])[2] == (
        "harness version",
        "0",
        "0, 0.0, 0.1, 0.2",
    )


def test_a_comparison_carries_cells_changes_and_what_was_ignored():
    """As match_cells, changes and the words say."""
    base, new = (
        campaign(VALUES | {C8: VALUES[C4]}),
        campaign(VALUES | {Load(rate_rps=2.0): VALUES[C4]}, server={"server_version": "1", "model": "n"}),
    )
    found = compare(base, new, metrics=[KEY], ignored=["model"])
    assert (found.only_base, found.only_new, found.ignored) == (
        ("a fixed:128x32 c8",),
        ("a fixed:128x32 r2",),
        ("model",),
    )
    assert found.changes == (("server version", "0.32.0", "1"),)
    with pytest.raises(InvalidRunError, match="no run of BASE"):
        compare(campaign(VALUES, verdict=INVALID), new)
    assert json.dumps(found.warnings) == '["model differs and was ignored: a fixed:128x32 c4: base m, new n"]'
