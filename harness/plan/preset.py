"""Workload presets: YAML files of quantile tables with their source."""

from __future__ import annotations

import difflib
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.config import data_dir, load_yaml
from harness.errors import ConfigError
from harness.plan.lengths import SHORT_FORMS, Joint, Lengths, parse_short_form, sample
from harness.plan.streams import Purpose, raw, uniform

_DESCRIBE_ROWS = 100_000
_DESCRIBE_LEVELS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Source(_Strict):
    """Where a preset's figures come from."""

    name: str
    repository: str
    path: str | None = None
    commit: str | None = None
    licence: str
    cite: str | None = None
    tokenizer: str | None = None


class _Bin(_Strict):
    prompt_rank: tuple[float, float]
    output_tokens: list[int]


def _is_table(levels: list[float], tokens: list[int]) -> bool:
    rising = all(a < b for a, b in pairwise(levels)) and all(a <= b for a, b in pairwise(tokens))
    return len(levels) == len(tokens) >= 2 and levels[0] == 0 and levels[-1] == 1 and rising and tokens[0] >= 1


class Preset(_Strict):
    """A preset file. `check` holds figures of the source that a sample must reproduce."""

    description: str = ""
    prompt_quantile_levels: list[float]
    prompt_tokens: list[int]
    output_given_prompt_quantile_levels: list[float]
    output_tokens_by_prompt_bin: list[_Bin] = Field(min_length=1)
    check: dict[str, Any] = Field(default_factory=dict)
    arrivals: dict[str, Any] = Field(default_factory=dict)
    source: Source

    @model_validator(mode="after")
    def _tables_fit(self) -> Preset:
        if not _is_table(self.prompt_quantile_levels, self.prompt_tokens):
            raise ValueError("prompt: levels must rise from 0 to 1, with as many tokens, not falling, from 1 up")
        bins = self.output_tokens_by_prompt_bin
        edges = [edge for b in bins for edge in b.prompt_rank]
        if (
            edges[0] != 0
            or edges[-1] != 1
            or edges[1:-1:2] != edges[2:-1:2]
            or any(a >= b for a, b in (x.prompt_rank for x in bins))
        ):
            raise ValueError("prompt_rank bins must follow each other from 0 to 1 without gaps")
        for b in bins:
            if not _is_table(self.output_given_prompt_quantile_levels, b.output_tokens):
                raise ValueError(
                    f"output of bin {b.prompt_rank}: levels must rise from 0 to 1, with as many tokens, not falling, from 1 up"
                )
        return self

    def lengths(self) -> Joint:
        return Joint(
            tuple(self.prompt_quantile_levels),
            tuple(self.prompt_tokens),
            tuple(self.output_given_prompt_quantile_levels),
            tuple((*b.prompt_rank, tuple(b.output_tokens)) for b in self.output_tokens_by_prompt_bin),
        )


def presets() -> list[str]:
    """Names of the presets that come with the harness, sorted."""
    return sorted(path.stem for path in data_dir("workloads").glob("*.yaml"))


def load_preset(path: Path) -> Preset:
    """Read and validate a preset file. Raises ConfigError."""
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a workload preset", type(data).__name__, "compare with workloads/chat.yaml")
    try:
        return Preset.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "(file)"
        near = difflib.get_close_matches(where, Preset.model_fields, n=1)
        advice = (
            f"did you mean {near[0]!r}?"
            if first["type"] == "extra_forbidden" and near
            else first["msg"].removeprefix("Value error, ")
        )
        raise ConfigError(f"{path}: bad workload preset", where, advice) from None


def _preset_of(workload: str) -> Preset | None:
    """The preset that a name or path means; None for a short form. Raises ConfigError for an unknown word."""
    forms = [form.partition(":")[0] for form in SHORT_FORMS]
    if workload.partition(":")[0] in forms and ":" in workload:
        return None
    if workload in presets():
        return load_preset(data_dir("workloads") / f"{workload}.yaml")
    if "/" in workload or workload.endswith((".yaml", ".yml")):
        return load_preset(Path(workload))
    near = difflib.get_close_matches(workload.partition(":")[0], [*presets(), *forms], n=1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}? " if near else ""
    advice = f"{hint}presets: {', '.join(presets())}; or {', '.join(SHORT_FORMS)}; or a path to a .yaml file"
    raise ConfigError("unknown workload", workload, advice)


def lengths_of(workload: str) -> Lengths:
    """Distribution of a short form, a preset's name or a preset file's path. Raises ConfigError."""
    preset = _preset_of(workload)
    return parse_short_form(workload) if preset is None else preset.lengths()


def _column(tokens: Any) -> dict[str, Any]:
    quantiles = np.quantile(tokens, _DESCRIBE_LEVELS, method="inverted_cdf")
    return {
        "mean": float(np.mean(tokens)),
        "min": int(np.min(tokens)),
        "max": int(np.max(tokens)),
        "quantiles": {f"p{round(level * 100)}": int(q) for level, q in zip(_DESCRIBE_LEVELS, quantiles, strict=True)},
    }


def describe(workload: str) -> dict[str, Any]:
    """A workload in numbers, from a sample of 100,000 with seed 0; plain JSON values.

    Keys: workload, description, rows, prompt_tokens and output_tokens (each mean, min, max, quantiles), source,
    licence, cite (null for short forms). Raises ConfigError.
    """
    preset = _preset_of(workload)
    words = uniform(raw(0, Purpose.LENGTHS, 2 * _DESCRIBE_ROWS))
    prompt_tokens, output_tokens = sample(lengths_of(workload), words[0::2], words[1::2])
    return {
        "workload": workload,
        "description": preset.description if preset else "short form",
        "rows": _DESCRIBE_ROWS,
        "prompt_tokens": _column(prompt_tokens),
        "output_tokens": _column(output_tokens),
        "source": preset.source.model_dump() if preset else None,
        "licence": preset.source.licence if preset else None,
        "cite": preset.source.cite if preset else None,
    }
