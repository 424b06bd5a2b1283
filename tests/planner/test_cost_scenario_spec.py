"""What a scenario file may say: every default, every bound at its value and just beyond it, and how a bad file is told."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
import yaml

from harness.base.errors import ConfigError
from harness.config.target import HardwareSpec
from harness.planner.scenario.spec import (
    DedicatedPart,
    DemandPart,
    FleetPart,
    HostedPart,
    LimitsPart,
    MachinePart,
    RangesPart,
    ScenarioSpec,
    find_scenario,
    load_scenario,
    parse_scenario,
)
from tests.planner.scenario_values import hosted, scenario

LEAST = {
    "scenario": "s", "as_of": "2026-11-24", "model": "m", "slo": "none",
    "workload": {"input_tokens": 1, "output_tokens": 1, "source": "w"},
    "demand": {"requests_per_month": 5, "source": "d"},
    "capacity": {"run": "r"},
    "machine": {"instance": "aws/g5.12xlarge"},
    "labour": {"full_time": 0, "source": "l"},
    "hosted": [{"provider": "p", "model": "m", "same_model": True, "limits": {}}],
    "claims": [{"says": "x", "reason": "y"}],
}  # fmt: skip


def test_what_is_not_said_has_its_default():
    """The least that a scenario must say, and every other value that it then has."""
    limits = {
        "requests_per_minute": None, "requests_per_day": None, "input_tokens_per_minute": None, "output_tokens_per_minute": None,
        "tokens_per_minute": None, "tokens_per_day": None, "spend_usd_per_day": None, "spend_usd_per_month": None, "cached_input_counts": True,
        "source": "", "as_of": "",
    }  # fmt: skip
    price = {
        "provider": "p", "model": "m", "input_usd_per_million": None, "output_usd_per_million": None,
        "cached_input_usd_per_million": None, "cache_write_5m_usd_per_million": None, "cache_write_1h_usd_per_million": None,
        "cached_input_tokens": None, "cache_write_5m_tokens": 0, "cache_write_1h_tokens": 0, "source": None, "as_of": None,
    }  # fmt: skip
    assert parse_scenario(LEAST, "x").model_dump() == {
        "scenario": "s", "description": "", "as_of": date(2026, 11, 24), "model": "m", "tokenizer": None,
        "workload": {
            "kind": "interactive", "input_tokens": 1, "output_tokens": 1, "cached_input_tokens": 0, "max_tokens": None, "source": "w",
        },
        "demand": {"requests_per_month": 5.0, "shape": "flat", "step_s": 3600, "peak_factor": None, "source": "d"},
        "slo": "none",
        "capacity": {
            "requests_per_s": None, "tokens_per_s": None, "run": "r", "workload": None, "target": None, "source": "", "as_of": None,
        },
        "machine": {"instance": "aws/g5.12xlarge", "declared": None, "replicas": 1},
        "fleet": {
            "spares": 1, "min_replicas": 1, "headroom": 0.7, "scaling": "fixed", "cold_start_s": 300, "billing_s": 1,
            "storage_usd_per_month": 0,
        },
        "labour": {"full_time": 0.0, "usd_per_work_hour": 150, "one_off_usd": 0, "source": "l"},
        "hosted": [
            {
                **price, "same_model": True, "service": None, "tokenizer": None, "tokenizer_ratio": None, "meets_slo": None,
                "discount": 0, "minimum_usd_per_month": 0, "billed_retries": 0, "currency": "USD", "limits": limits, "dedicated": None,
            }
        ],
        "constraints": {"data_stays_inside": False, "latency": "", "engineers": None},
        "ranges": {
            "demand_rps": [0.5, 2.0], "replica_usd_per_hour": [0.8, 1.2], "hosted_usd_per_request": [0.5, 1.3],
            "headroom": [0.8, 1.2], "fixed_usd_per_hour": [0.0, 2.0], "tokenizer_ratio": [0.95, 1.2], "capacity_rps": [0.9, 1.1],
        },
        "claims": [
            {"row": None, "says": "x", "stated": "", "arithmetic": "", "ours": "", "unit": "USD per month", "reason": "y"}
        ],
    }  # fmt: skip
    assert parse_scenario({k: v for k, v in LEAST.items() if k != "claims"}, "x").claims == []


DEDICATED = {"usd_per_unit_hour": 1, "unit_requests_per_s": 1, "source": "s"}
EDGES = [  # key, the last value that is good, the next that is not
    ("workload.input_tokens", 1, 0),
    ("workload.output_tokens", 1, 0),
    ("workload.cached_input_tokens", 0, -1),
    ("workload.cached_input_tokens", 800, 801),
    ("workload.max_tokens", 1, 0),
    ("demand.requests_per_month", 0.001, 0),
    ("demand.peak_factor", 1, 0.999),
    ("capacity.requests_per_s", 0.001, 0),
    ("machine.replicas", 1, 0),
    ("fleet.spares", 0, -1),
    ("fleet.min_replicas", 0, -1),
    ("fleet.min_replicas", 1, 2),  # a fixed fleet
    ("fleet.headroom", 0.001, 0),
    ("fleet.headroom", 1, 1.001),
    ("fleet.cold_start_s", 0, -0.001),
    ("fleet.billing_s", 0.001, 0),
    ("fleet.storage_usd_per_month", 0, -0.001),
    ("labour.full_time", 0, -0.001),
    ("labour.usd_per_work_hour", 0, -0.001),
    ("labour.one_off_usd", 0, -0.001),
    *((f"hosted.0.limits.{name}", 0.001, 0) for name in LimitsPart.model_fields if "_per_" in name),
    ("hosted.0.dedicated.usd_per_unit_hour", 0, -0.001),
    ("hosted.0.dedicated.unit_requests_per_s", 0.001, 0),
    ("hosted.0.tokenizer_ratio", 0.001, 0),
    ("hosted.0.discount", 0, -0.001),
    ("hosted.0.discount", 0.999, 1),
    ("hosted.0.minimum_usd_per_month", 0, -0.001),
    ("hosted.0.billed_retries", 0, -0.001),
    ("hosted.0.currency", "USD", "usd"),
    ("constraints.engineers", 0, -0.001),
    ("ranges.headroom", [0, 1], [-0.001, 1]),
    ("ranges.headroom", [1, 1], [1.001, 1.1]),
    ("ranges.demand_rps", [1, 1000], [1, 1000.1]),
    ("ranges.headroom", [0.9, 1], [0.9, 0.999]),
    ("ranges.headroom", [0.9, 1], [0.9]),
    ("ranges.headroom", [0.9, 1], [0.9, 1, 1]),
    ("scenario", "7a.b_c-D", ".a"),
    ("scenario", "a", "a b"),
    ("hosted", [hosted()], []),
]


def with_value(key: str, value) -> ScenarioSpec:
    data = {**scenario().model_dump(mode="json"), "hosted": [hosted(limits={}, dedicated=dict(DEDICATED))]}
    *parents, last = key.split(".")
    at = data
    for part in parents:
        at = at[0] if part == "0" else at[part]
    at[last] = value
    return parse_scenario(data, "x")


@pytest.mark.parametrize(("key", "good", "bad"), EDGES)
def test_every_bound_holds_at_its_value_and_not_beyond(key, good, bad):
    """The last good value is taken, the next one refused, with its key."""
    with_value(key, good)
    with pytest.raises(ConfigError, match="bad value") as error:
        with_value(key, bad)
    assert key.rpartition(".0.")[2].split(".")[0] in error.value.value


@pytest.mark.parametrize(
    "part",
    ["workload", "demand", "capacity", "machine", "fleet", "labour", "hosted.0", "hosted.0.limits", "hosted.0.dedicated",
     "constraints", "ranges", "claims.0"],
)  # fmt: skip
def test_no_part_takes_a_key_it_does_not_know(part):
    """An unknown key in any part is refused with its place, and the keys allowed there are named."""
    data = {**scenario().model_dump(mode="json"), "claims": [{"says": "x", "reason": "y"}]}
    data["hosted"] = [hosted(limits={}, dedicated=dict(DEDICATED))]
    at = data
    for key in part.split("."):
        at = at[0] if key == "0" else at[key]
    at["zzzzzzzz"] = 1
    with pytest.raises(ConfigError, match="unknown key") as error:
        parse_scenario(data, "x")
    assert error.value.value == f"{part}.zzzzzzzz"
    known = {"hosted.0": HostedPart, "hosted.0.limits": LimitsPart, "hosted.0.dedicated": DedicatedPart,
             "demand": DemandPart, "fleet": FleetPart, "machine": MachinePart, "ranges": RangesPart}  # fmt: skip
    if part in known:
        assert error.value.advice == f"keys allowed here: {', '.join(known[part].model_fields)}"


def test_an_unknown_key_is_told_first_with_the_nearest_one():
    """Deep in the file too, and before a key that is missing; at the top of the file the nearest is of the top."""
    near = hosted(limits={"requests_per_minut": 5})
    with pytest.raises(ConfigError) as error:
        scenario(hosted=[near])
    assert error.value.value == "hosted.0.limits.requests_per_minut"
    assert error.value.advice == "did you mean requests_per_minute, requests_per_day, tokens_per_minute?"
    with pytest.raises(ConfigError) as error:
        parse_scenario({"modle": "m"}, "file.yaml")
    assert (error.value.what, error.value.value) == ("file.yaml: unknown key", "modle")
    assert error.value.advice == "did you mean model?"
    declared = {"name": "box", "usd_per_hour": 4, "source": "quote", "as_of": "2026-11-01", "zzzzzzzz": 1}
    with pytest.raises(ConfigError) as error:
        scenario(machine={"declared": declared})
    assert error.value.advice == f"keys allowed here: {', '.join(HardwareSpec.model_fields)}"


def test_missing_and_bad_values_are_told_with_key_and_value():
    """A missing key by its place; a bad value as it was given, at most 300 characters of it, a list by its place, and in one line."""
    with pytest.raises(ConfigError) as error:
        parse_scenario({**LEAST, "labour": {"full_time": 1}}, "f")
    assert (error.value.what, error.value.value) == ("f: missing key", "labour.source")
    assert error.value.advice == "add it; configs/scenarios/ has examples"
    with pytest.raises(ConfigError) as error:
        scenario(demand={"requests_per_month": 0})
    assert (error.value.what, error.value.value) == ("test: bad value", "demand.requests_per_month = 0")
    with pytest.raises(ConfigError) as error:
        scenario(workload={"cached_input_tokens": 900})
    assert error.value.advice == "cached_input_tokens are part of input_tokens"
    assert error.value.value == "workload"
    with pytest.raises(ConfigError) as error:
        scenario(demand={"requests_per_month": "x" * 400})
    assert error.value.value == f"demand.requests_per_month = '{'x' * 400}"[:300]
    with pytest.raises(ConfigError) as error:
        scenario(hosted=[hosted(currency="E\nUR")])
    assert "are in USD; convert E UR yourself" in error.value.advice


@pytest.mark.parametrize("key", ["requests_per_s", "tokens_per_s", "run"])
def test_a_capacity_is_one_of_three_and_the_typed_ones_need_a_source(key):
    """Each alone is enough, with its source unless it is a run; two of them, or none, are not."""
    value = "r" if key == "run" else 5
    given = {"requests_per_s": None, key: value}
    assert getattr(scenario(capacity=given).capacity, key) == value
    for more in ({"requests_per_s": 1}, {"tokens_per_s": 1}, {"run": "r"}):
        if key not in more:
            with pytest.raises(ConfigError, match="exactly one of"):
                scenario(capacity={**given, **more})
    with pytest.raises(ConfigError, match="exactly one of"):
        scenario(capacity={"requests_per_s": None})
    if key == "run":
        scenario(capacity={**given, "source": ""})
    else:
        with pytest.raises(ConfigError, match="needs its source"):
            scenario(capacity={**given, "source": ""})
        assert scenario(capacity={**given, key: 0.001}).capacity.run is None
        with pytest.raises(ConfigError, match="bad value"):
            scenario(capacity={**given, key: 0})


def test_a_machine_is_one_of_two():
    """An instance or a declared one: neither and both are refused."""
    scenario(machine={"declared": None, "instance": "x"})
    for machine in ({"declared": None}, {"instance": "x"}):
        with pytest.raises(ConfigError, match="either instance"):
            scenario(machine=machine)


def test_parts_belong_together():
    """More machines at least only where they come and go; a step only of a shape of numbers; no infinite number anywhere."""
    assert scenario(fleet={"scaling": "autoscaled", "min_replicas": 2}).fleet.min_replicas == 2
    assert scenario(demand={"shape": [1.0, 2.0], "step_s": 1}).demand.step_s == 1
    with pytest.raises(ConfigError, match="step_s"):
        scenario(demand={"shape": "flat", "step_s": 3599})
    with pytest.raises(ConfigError, match="step_s"):
        scenario(demand={"shape": [1.0, 2.0], "step_s": 0.999})
    for part in ({"labour": {"full_time": float("inf")}}, {"hosted": [hosted(minimum_usd_per_month=float("inf"))]}):
        with pytest.raises(ConfigError, match="bad value"):
            scenario(**part)
    for kind in (ScenarioSpec, HostedPart, FleetPart):  # of a number without bounds of its own, too
        assert kind.model_config["allow_inf_nan"] is False


def test_a_scenario_does_not_change_once_read():
    """Every part is frozen."""
    spec = scenario()
    for part, name in ((spec, "model"), (spec.fleet, "spares"), (spec.hosted[0], "discount")):
        with pytest.raises(ValueError, match="frozen"):
            setattr(part, name, "x")


# ---------------------------------------------------------------- files


def test_a_scenario_is_found_as_a_file_or_by_name(tmp_path):
    """A file that is there, a name of configs/scenarios/ with or without its ending; else the nearest names, or all."""
    file = tmp_path / "seed-chat"
    file.write_text("x")
    assert find_scenario(file) == file
    assert find_scenario(Path("seed-chat")) == find_scenario(Path("seed-chat.yaml"))
    assert find_scenario(Path("seed-chat")).name == "seed-chat.yaml"
    with pytest.raises(ConfigError, match="no such scenario") as error:
        find_scenario(Path("some/where/seed-chta.yaml"))
    assert error.value.advice == "did you mean seed-chat, seed-codegen?"
    with pytest.raises(ConfigError) as error:
        find_scenario(Path("qqqqqq"))
    names = sorted(p.stem for p in find_scenario(Path("seed-chat")).parent.glob("*.yaml"))
    assert error.value.advice == f"there are: {', '.join(names)}"


def test_changes_reach_every_place(tmp_path):
    """Dotted keys, items of lists, parts that the file leaves out, an equals sign in the value, numbers as YAML reads them or not."""
    file = tmp_path / "s.yaml"
    file.write_text(yaml.safe_dump(LEAST))
    changes = (
        "description=a=b", "ranges.headroom=[0.9, 1.1]", "ranges.headroom.1=1.15", "constraints.latency=p99", "demand.requests_per_month=3e6",
        "hosted.0.discount=0.25", "labour.full_time=2",
    )  # fmt: skip
    changed = load_scenario(file, changes).model_dump()
    want = parse_scenario(LEAST, "x").model_dump()
    want["description"], want["ranges"]["headroom"], want["constraints"]["latency"] = "a=b", [0.9, 1.15], "p99"
    want["demand"]["requests_per_month"], want["hosted"][0]["discount"], want["labour"]["full_time"] = 3e6, 0.25, 2
    assert changed == want
    for bad in (
        "demand",
        "=5",
        "hosted.x.discount=1",
        "hosted.1=1",
        "scenario.x=1",
        "model=[",
        "hosted.0.discount.x=1",
    ):
        with pytest.raises(ConfigError):
            load_scenario(file, (bad,))
    with pytest.raises(ConfigError) as error:
        load_scenario(file, ("zzzzzzzz=1",))
    assert error.value.what == f"{file}: unknown key"
