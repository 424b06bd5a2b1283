"""The experiment files that ship: each loads, can be planned within its servers' context, and is what its comment says."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import pytest

from harness.base.documents import load_yaml
from harness.base.files import data_dir
from harness.config.experiment import ExperimentSpec, load_experiment
from harness.config.target import TargetSpec
from harness.measure.campaign.campaign import foresee
from harness.measure.campaign.order import cells_of
from harness.measure.cell_plan import draw_plan
from harness.measure.targets import command
from harness.price.prices import instance_price

FILES = sorted(data_dir("configs").joinpath("experiments").glob("*.yaml"))
CELL_OVERHEAD_S = 7.0  # warm-up, draining (4.4 s for 16 replies of 32 tokens at 115 tok/s), edges
START_S = {"embedded:smollm2-135m": 45.0, "embedded:tiny": 25.0}  # quiet two-core machine


def load(path: Path | str) -> ExperimentSpec:
    if isinstance(path, str):
        path = data_dir("configs") / "experiments" / f"{path}.yaml"
    kinds = get_args(TargetSpec.model_fields["kind"].annotation)
    if "kind: offline" in path.read_text() and "offline" not in kinds:
        pytest.skip("config does not know kind: offline")
    return load_experiment(path)


def flags(target: TargetSpec) -> dict[str, object]:
    """A target's flags by normal name, as they reach the server."""
    return dict(command.flags(target, command.Model("m", "m", {})))


def estimate_s(spec: ExperimentSpec) -> float:
    """Seconds that a campaign of several targets takes: each starts in every block. Loads must end by time."""
    cells = [load_spec.duration_s + CELL_OVERHEAD_S for _, load_spec in cells_of(spec, "t")]
    return len(spec.targets) * sum(cells) + spec.repetitions * sum(START_S[t.model] for t in spec.targets)


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_preset_loads_under_its_own_name(path):
    """Every file is a valid experiment, named as its file, so that results/NAME tells which one was run."""
    assert load(path).experiment == path.stem


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_preset_can_be_planned_and_fits_its_servers(path):
    """The first repetition's plan of every cell is drawn, is not empty, and no request is longer than max-model-len."""
    spec = load(path)
    contexts = [int(limit) for t in spec.targets if (limit := flags(t).get("max_model_len"))]
    for cell, load_spec in cells_of(spec, spec.targets[0].name):
        if cell.repetition > 1:
            continue
        drawn, _ = draw_plan(spec, cell, load_spec)
        assert drawn.requests
        longest = max(r.target_prompt_tokens + r.target_output_tokens for r in drawn.requests)
        assert longest <= min(contexts, default=longest), f"{cell.name} has a request of {longest} tokens"


@pytest.mark.parametrize(
    ("name", "cells", "minutes"), [("nightly", 36, 25), ("nightly-tiny", 12, 6), ("ab-threads", 10, 8)]
)
def test_a_nightly_preset_has_its_cells_and_its_time(name, cells, minutes):
    """As many cells as its comment says, and an estimate below the time it may take."""
    spec = load(name)
    assert len(spec.targets) * len(cells_of(spec, "t")) == cells
    assert estimate_s(spec) <= minutes * 60


def test_the_nightly_matrix_has_its_axes():
    """2 flag sets x 2 workloads x 3 loads x 3 repetitions."""
    spec = load("nightly")
    loads = [point for load_spec in spec.loads for point in load_spec.points()]
    assert (len(spec.targets), len(spec.workloads), len(loads), spec.repetitions) == (2, 2, 3, 3)


def test_the_a_a_preset_has_two_equal_targets():
    """Nothing but the name differs, else its false alarms would not be false."""
    a, b = load("nightly-tiny").targets
    assert a.model_dump(exclude={"name"}) == b.model_dump(exclude={"name"})


def test_the_a_b_preset_differs_in_one_flag():
    """Only max-num-seqs differs, by an eighth of the slots that are offered."""
    spec = load("ab-threads")
    base, slower = (flags(t) for t in spec.targets)
    assert {k for k in base if base[k] != slower[k]} == {"max_num_seqs"}
    assert (base["max_num_seqs"], slower["max_num_seqs"]) == (16, 14)
    assert spec.loads[0].concurrency == [16]


@pytest.mark.parametrize("name", ["batching-knobs", "gpu-knobs"])
def test_knobs_are_turned_one_at_a_time(name):
    """Each target differs from the first in one flag; a prompt that is not chunked needs its step budget with it, and
    fp8-both is the sum of two."""
    base, *others = load(name).targets
    for other in others:
        mine, theirs = flags(other), flags(base)
        changed = {k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k)}
        if other.name == "unchunked":
            assert changed == {"enable_chunked_prefill", "max_num_batched_tokens"}
            assert mine["max_num_batched_tokens"] >= mine["max_model_len"]
        else:
            assert len(changed) == (2 if other.name == "fp8-both" else 1), other.name
    assert len({tuple(sorted(flags(t).items())) for t in (base, *others)}) == 1 + len(others)


def test_the_gpu_knobs_are_priced_promised_and_climb_to_1024():
    """Every target has a dated price of one GPU, the promise is the shipped chat's, the ladder climbs from 1 to 1,024 within the
    server's sequences, and the estimate holds a pause before each cell."""
    spec = load("gpu-knobs")
    for target in spec.targets:
        priced = instance_price(target.hardware, datetime(2026, 11, 26, tzinfo=UTC))
        assert (priced.gpu_count, priced.as_of[:4]) == (1, "2026")
        assert flags(target)["max_num_seqs"] == 1024
    chat = load_yaml(data_dir("configs") / "slo" / "interactive.yaml")
    assert {k: v for k, v in spec.slo.model_dump().items() if v is not None} == chat
    slots = [load.concurrency for load_spec in spec.loads for load in load_spec.points()]
    assert (slots[0], slots[-1], slots) == (1, 1024, sorted(slots))
    coming = foresee(spec, Path("/nowhere/at/all"))
    assert coming.cool_down_s == spec.cool_down.timeout_s * len(coming.cells) > 0
    assert f"{len(coming.cells)} cells" in (data_dir("configs") / "experiments" / "gpu-knobs.yaml").read_text()


def test_the_posts_settings_are_the_posts():
    """The four numbers of the post's Python, and the memory share of its manifest, as flags."""
    post, manifest, _ = (flags(t) for t in load("seed-settings").targets)
    said = {"tensor_parallel_size": 4, "max_num_batched_tokens": 2048, "max_num_seqs": 256}
    assert said.items() <= post.items()
    assert said.items() <= manifest.items()
    assert (post["gpu_memory_utilization"], manifest["gpu_memory_utilization"]) == (0.85, 0.9)
    assert {k: v for k, v in said.items() if k != "tensor_parallel_size"}.items() <= flags(
        load("seed-settings-cpu").targets[0]
    ).items()


def test_the_grouping_preset_differs_in_the_order_only():
    """Same engine, three ways to cut the batch."""
    spec = load("offline-grouping")
    assert [t.batch_order for t in spec.targets] == ["as_planned", "sorted", "grouped_by_length"]
    same = [t.model_dump(exclude={"name", "batch_order", "batch_size"}) for t in spec.targets]
    assert same[0] == same[1] == same[2]
    assert spec.repetitions >= 3
