"""`harness run quickstart`: which of the first experiments this machine gets, and which model its board is given.

A server at a URL gets `quickstart-url`, a board that NVML shows `quickstart-gpu`, everything else `quickstart`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.config.model.memory import GB, fit
from harness.config.model.shape import ModelShape, load_model
from harness.measure.observe import machine
from harness.measure.observe.boards.inventory import Board, boards
from harness.measure.targets import at_hand
from harness.price.machine_price import by_boards

NAME = "quickstart"
_CONTEXT = 4096  # max-model-len of quickstart-gpu.yaml
_SEQUENCE = 2048  # tokens that a request of it takes at most, with room to spare
_FEWEST = 8  # such sequences beside the weights: with fewer there is no ladder to climb
_DUMMY, _DUMMY_SHAPE, _SMALL = "embedded:llama-3.1-8b-dummy", "llama-3.1-8b", "embedded:smollm2-135m"
_SIZES = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Choice:
    """An experiment file, and what of its target this machine changes. `notes`: why, for the user."""

    config: Path
    model: str | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def experiment(name: str) -> Path:
    """The file of an experiment that comes with the harness."""
    return data_dir("configs") / "experiments" / f"{name}.yaml"


def choose(url: str | None, model: str | None, *, priced: bool = False) -> Choice:
    """For a server at `url`, else for this machine; `model`: the one asked for; `priced`: whether a price was given."""
    if url:
        note = "a server at a URL: its machine is not seen from here, so the ladder ends at 256 and nothing is priced"
        return Choice(experiment("quickstart-url"), model, notes=(note,))
    here = boards(visible=True)
    if not here:
        return Choice(experiment(NAME), model)
    sizes = {board.usable_bytes for board in here}
    size = here[0].usable_bytes
    board = f"{here[0].name}{' (one MIG slice)' if here[0].mig else ''}"
    if size is None:
        return Choice(experiment("quickstart-gpu"), model, notes=(f"NVML does not tell the memory of {board}",))
    name, flags, why = _model(model, size, len(here) if len(sizes) == 1 and not here[0].mig else 1)
    seen = f"{len(here)} x {board} of {size / GB:.0f} GB"
    notes = [f"NVML shows {seen}: quickstart-gpu", why, *_rest(here, flags), *([] if priced else [_price()])]
    return Choice(experiment("quickstart-gpu"), name, flags, tuple(notes))


def _price() -> str:
    """What the report will say of this machine's price."""
    all_here = boards()
    facts = {"machine": machine.virtualisation(), "container": machine.container()}
    mig = any(board.mig for board in all_here)
    found = by_boards([board.name for board in all_here], facts, clock.utc_now(), mig=mig)
    if found.hardware is None:
        return f"no price: {found.why}"
    price = f"{found.hardware.name} at ${found.hardware.usd_per_hour}/h ({found.hardware.as_of})"
    return f"price PROPOSED, not declared: {price}, {found.hardware.why}"


def _rest(here: Sequence[Board], flags: Mapping[str, Any]) -> list[str]:
    used = int(flags.get("tensor-parallel-size", 1))
    return (
        []
        if len(here) == used
        else [f"the server takes {used} of the {len(here)} boards; tensor-parallel-size takes more"]
    )


def _model(asked: str | None, size_bytes: int, count: int) -> tuple[str, dict[str, Any], str]:
    """(model, flags that it needs, why) for boards of `size_bytes` each."""
    if asked is not None:
        shape = _shape(at_hand.locate(asked, os.environ))
        if shape is None:
            return asked, {}, f"model {asked}, as asked for; its config is not at hand, so that it fits is not checked"
        sizes = [n for n in _SIZES if n <= count and shape.attention_heads % n == 0]
        wide = next((n for n in sizes if _room(shape, size_bytes, n)), None)
        if wide is None:
            return asked, _flags(shape, sizes[-1]), f"model {asked}, as asked for, although it does not seem to fit"
        return (
            asked,
            _flags(shape, wide),
            f"model {asked}, as asked for" + (f", over {wide} boards" if wide > 1 else ""),
        )
    fitting = [
        (shape.weight_bytes, found.name, shape)
        for found in at_hand.models(os.environ)
        if (shape := _shape(found.folder)) is not None and _room(shape, size_bytes, 1)
    ]
    if fitting:
        weight, name, shape = max(fitting, key=lambda one: one[:2])
        return name, _flags(shape, 1), f"model {name} ({weight / GB:.1f} GB), the largest at hand that fits one board"
    if _room(load_model(_DUMMY_SHAPE), size_bytes, 1):
        why = "no model at hand fits: Llama 3.1 8B's shape with DUMMY weights (speed is real, text is not); give MODEL="
        return _DUMMY, {}, why
    return (
        _SMALL,
        {},
        "neither a model at hand nor an 8B shape fits: SmolLM2-135M, which says little of this board; give MODEL=",
    )


def _shape(folder: Path | None) -> ModelShape | None:
    """None for a model that is not modelled: vLLM may well serve it."""
    try:
        return None if folder is None else load_model(str(folder))
    except ConfigError:
        return None


def _room(shape: ModelShape, size_bytes: int, tensor_parallel: int) -> bool:
    try:
        found = fit(shape, size_bytes, context_tokens=min(_SEQUENCE, shape.max_tokens), tensor_parallel=tensor_parallel)
    except ConfigError:
        return False
    return found.sequences >= _FEWEST


def _flags(shape: ModelShape, tensor_parallel: int) -> dict[str, Any]:
    flags: dict[str, Any] = {"tensor-parallel-size": tensor_parallel} if tensor_parallel > 1 else {}
    return flags | ({"max-model-len": shape.max_tokens} if shape.max_tokens < _CONTEXT else {})
