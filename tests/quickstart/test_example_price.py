"""An example price stays with its example, whatever config, URL, model, boards and price come together."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.base.documents import dump_yaml, load_yaml
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.cli import quickstart, shape
from harness.cli.run import run
from harness.config.experiment import parse_experiment
from harness.config.target import HardwareSpec
from harness.measure.observe.boards.inventory import Board
from harness.price.machine_price import is_example, machine_price, why_no_example
from harness.price.run_cost import price_runs
from tests.price.cost_summaries import summary

EXPERIMENTS = data_dir("configs") / "experiments"
EXAMPLES = ("quickstart", "nightly", "attribution")  # those that come with an example price
H100 = "NVIDIA H100 80GB HBM3"
BOXES = {
    "none": (), "one": (Board(H100, 80 << 30),), "eight": (Board(H100, 80 << 30),) * 8,
    "mig": (Board(H100, 80 << 30, mig=True, slices_bytes=(20 << 30,)),), "unknown": (Board("Fake Board", None),),
    "mixed": (Board(H100, 80 << 30), Board("NVIDIA A10G", 24 << 30)),
}  # fmt: skip
MODELS = (None, "embedded:smollm2-135m", "/models/other")
URLS = (None, "http://127.0.0.1:8000/v1", "http://gpu-box:8000/v1")


def copies(folder):
    """Configs of a user's own, made of the quickstart: name -> whether it is still the very example."""
    data = load_yaml(EXPERIMENTS / "quickstart.yaml")
    other = {**data, "experiment": "mine"}
    flags = {**data, "targets": [{**data["targets"][0], "flags": {"max-model-len": 1024}}]}
    unmarked = {k: v for k, v in data["targets"][0]["hardware"].items() if k != "example"}
    old = {**other, "targets": [{**data["targets"][0], "hardware": unmarked}]}
    renamed = {**data, "targets": [{**data["targets"][0], "name": "other"}]}
    made = {"same": data, "mine": other, "flags": flags, "old": old, "renamed": renamed}
    for name, content in made.items():
        (folder / f"{name}.yaml").write_text(dump_yaml(content))
    return {str(folder / f"{name}.yaml"): name == "same" for name in made}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """What may be given as CONFIG -> whether it is an example as it came."""
    shipped = {str(EXPERIMENTS / f"{name}.yaml"): True for name in EXAMPLES}
    others = {str(EXPERIMENTS / f"{name}.yaml"): False for name in ("quickstart-gpu", "quickstart-url", "gpu-knobs")}
    return {"quickstart": True, **shipped, **others, **copies(tmp_path_factory.mktemp("configs"))}


@contextmanager
def on(boards):
    """A machine with these boards, all of them visible."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quickstart, "boards", lambda **_: boards)
        patch.setattr(quickstart.at_hand, "models", lambda _: ())
        patch.setattr(shape, "_say", lambda _: None)
        yield


def runs_of(words, boards, *, watched):
    """A run of each target of what `harness run WORDS` would run on this machine."""
    with on(boards):
        spec = shape.spec_of(run.make_context("run", words).params)
    names = [board.name for board in boards]
    gpus = [{"name": board.name, "mig_enabled": board.mig} for board in boards] if watched else []
    facts = {"machine_boards": names, "gpus": gpus}
    for target in spec.targets:
        made = summary(kind=target.kind)
        cell = replace(made.cell, target=target.name)
        yield (
            spec,
            target,
            replace(made, experiment=spec.experiment, cell=cell, environment=facts, config=spec.public()),
        )


@settings(max_examples=150)
@given(data=st.data())
def test_no_result_that_is_not_the_example_carries_its_price(configs, data):
    """Over CONFIG x URL x MODEL x boards (watched or not) x --usd-per-hour x --instance: the example's price is there exactly where
    nothing but the example runs on a machine without a GPU, and is called an example there."""
    config, url, model = (data.draw(st.sampled_from(some)) for some in (list(configs), URLS, MODELS))
    box, watched = data.draw(st.sampled_from(list(BOXES))), data.draw(st.booleans())
    price = data.draw(st.sampled_from([[], [], ["--usd-per-hour", "7"], ["--instance", "aws/g5.12xlarge"]]))
    words = [config, *(["--url", url] if url else []), *(["--model", model] if model else []), *price]
    example = configs[config] and not url and model in MODELS[:2] and not BOXES[box] and not price
    for _, target, one in runs_of(words, BOXES[box], watched=watched):
        [cost] = price_runs([one])
        found = cost.hardware
        if example:
            assert (found.basis, found.usd_per_hour) == ("example", "0.1")
            assert any("EXAMPLE" in warning for warning in cost.warnings)
        elif found is not None:
            assert found.basis != "example"
            assert Decimal(found.usd_per_hour) != Decimal("0.1"), (words, target.name)
        else:
            assert cost.no_price
            assert {line.usd for line in cost.own} == {None}
        if price:
            assert (found.basis, found.usd_per_hour) == ("declared", "7.0" if "7" in price else "5.672")


@pytest.mark.parametrize("name", [*EXAMPLES, "own-and-hosted"])
def test_the_examples_are_marked(name):
    """Every example price that comes with the harness has the key, and nothing else has."""
    marked = {
        path.stem
        for path in EXPERIMENTS.glob("*.yaml")
        for target in load_yaml(path)["targets"]
        if isinstance(target.get("hardware"), dict) and target["hardware"].get("example")
    }
    assert marked == {*EXAMPLES, "own-and-hosted"}
    hardware = load_yaml(EXPERIMENTS / f"{name}.yaml")["targets"][0]["hardware"]
    assert is_example(hardware)
    assert is_example({k: v for k, v in hardware.items() if k != "example"}), "an older run's, by its name"


def test_an_example_of_a_gpu_is_refused():
    """A price that says which GPU it is for is no example."""
    data = load_yaml(EXPERIMENTS / "quickstart.yaml")
    data["targets"][0]["hardware"]["gpu_model"] = "H100-SXM"
    with pytest.raises(ConfigError) as error:
        parse_experiment(data, "e.yaml")
    assert "an example price names no GPU" in error.value.advice


def test_a_declared_price_is_written_down_as_before():
    """Without `example` the config of a campaign that began earlier has the same digest: the key is not in it."""
    plain = {"name": "box", "usd_per_hour": 2.0, "source": "quote", "as_of": "2026-11-01"}
    assert HardwareSpec(**plain).model_dump(mode="json") == {**plain, "gpu_model": None, "gpu_count": None}
    assert HardwareSpec(**plain, example=True).model_dump(mode="json")["example"] is True


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": "http://h/v1"}, "it is not the price of a server at a URL"),
        ({"model": "m"}, "model is another than in the quickstart"),
        ({"kind": "offline"}, "kind is another"),
        ({"flags": {}}, "flags is another"),
        ({"env": {"A": "b"}}, "env is another"),
        ({"name": "x"}, "has no target x"),
    ],
    ids=["url", "model", "kind", "flags", "env", "name"],
)
def test_why_an_example_price_does_not_hold(change, why):
    """What differs is named."""
    target = parse_experiment(load_yaml(EXPERIMENTS / "quickstart.yaml"), "q").model_dump(mode="json")["targets"][0]
    assert why_no_example("quickstart", target) is None
    assert why in why_no_example("quickstart", target | change)
    assert "mine is not an experiment that comes with" in why_no_example("mine", target)
    assert "this machine has a GPU (NVIDIA L4)" in why_no_example("quickstart", target, ["NVIDIA L4"])


def test_a_run_from_before_the_machines_boards_were_recorded():
    """The boards that NVML watched are enough to know that it was not the example's machine."""
    [(_, _, one)] = runs_of(["quickstart"], (), watched=False)
    assert machine_price(one).hardware.basis == "example"
    older = replace(one, environment={"gpus": [{"name": H100}]})
    assert machine_price(older).hardware is None
    assert "the example price is left out: this machine has a GPU" in machine_price(older).why
