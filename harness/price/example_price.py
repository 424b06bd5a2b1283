"""An example price never leaves the example: it holds for the target of an experiment that comes with the harness, unchanged, on a
machine without a GPU, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from harness.base.files import data_dir
from harness.config.experiment import ExperimentSpec, load_experiment

_MARK = "(example price)"  # how experiments named such a price before there was a key for it
_SAME = ("kind", "model", "url", "api", "flags", "env")  # what makes a target the example's


def is_example(hardware: object) -> bool:
    """Whether a target's `hardware`, as written down, is an example price."""
    return isinstance(hardware, Mapping) and (
        hardware.get("example") is True or str(hardware.get("name", "")).endswith(_MARK)
    )


@cache
def _examples() -> Mapping[str, ExperimentSpec]:
    return {path.stem: load_experiment(path) for path in (data_dir("configs") / "experiments").glob("*.yaml")}


def why_not(experiment: str, target: Mapping[str, Any], boards: Sequence[str] = ()) -> str | None:
    """Why the example price of `target`, as written down, does not hold; None where it does.

    `experiment`: its experiment's name; `boards`: names of the GPUs of the machine it runs on. Raises ConfigError where an
    experiment that comes with the harness is broken.
    """
    if target.get("url"):
        return "it is not the price of a server at a URL"
    if boards:
        return f"this machine has a GPU ({boards[0]}), the example is a machine without one"
    example = _examples().get(experiment)
    if example is None:
        return f"{experiment} is not an experiment that comes with the harness"
    kept = next((one for one in example.targets if one.name == target.get("name")), None)
    if kept is None:
        return f"the {experiment} that comes with the harness has no target {target.get('name')}"
    same = kept.model_dump(mode="json")
    changed = [key for key in _SAME if target.get(key, same[key]) != same[key]]
    return f"{changed[0]} is another than in the {experiment} that comes with the harness" if changed else None
