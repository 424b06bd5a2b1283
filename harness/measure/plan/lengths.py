"""Prompt and output lengths: a workload's words -> a distribution -> pairs of whole tokens.

A distribution is sampled by inverting it at two independent uniform numbers: `u`, the prompt's rank, and `v`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np

from harness.base import bounds
from harness.base.errors import ConfigError
from harness.measure.plan.streams import F64, I64, interpolate

SHORT_FORMS = ("fixed:PROMPTxOUTPUT", "uniform:LO-HIxLO-HI", "lognormal:MEANxMEAN[:CV]")
MAX_TOKENS = bounds.MOST_TOKENS
_TAIL = 0.95


@dataclass(frozen=True, slots=True)
class Fixed:
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Uniform:
    """Every whole number from low to high, ends included, equally likely; prompt and output independent."""

    prompt_tokens: tuple[int, int]
    output_tokens: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Lognormal:
    """Independent lognormals with these means; `cv` is standard deviation / mean of both."""

    prompt_mean_tokens: float
    output_mean_tokens: float
    cv: float


@dataclass(frozen=True, slots=True)
class Joint:
    """Quantile tables: the prompt's, and the output's for each bin of the prompt's rank (see a preset file)."""

    prompt_levels: tuple[float, ...]
    prompt_tokens: tuple[int, ...]
    output_levels: tuple[float, ...]
    bins: tuple[tuple[float, float, tuple[int, ...]], ...]  # rank from, rank to, output tokens
    tail_power: float = 1.0  # bend of the output between the levels above _TAIL, where they lie far apart


@dataclass(frozen=True, slots=True)
class Part:
    """One client's lengths: (share of lengths up to it, tokens), rising to 1; prompt and output independent."""

    weight: float
    prompt: tuple[tuple[float, int], ...]
    output: tuple[tuple[float, int], ...]


@dataclass(frozen=True, slots=True)
class Mixture:
    """A request is of one part, by its weight; weights sum to 1."""

    parts: tuple[Part, ...]


Lengths = Fixed | Uniform | Lognormal | Joint | Mixture


def parse_short_form(text: str) -> Lengths:
    """`fixed:128x32`, `uniform:64-256x16-64`, `lognormal:512x128:0.8`. Raises ConfigError."""
    kind, _, rest = text.partition(":")
    number = r"(\d{1,8})"
    lengths: Lengths
    match kind:
        case "fixed" if m := re.fullmatch(f"{number}x{number}", rest):
            ends = [int(group) for group in m.groups()]
            lengths = Fixed(ends[0], ends[1])
        case "uniform" if m := re.fullmatch(f"{number}-{number}x{number}-{number}", rest):
            ends = [int(group) for group in m.groups()]
            lengths = Uniform((ends[0], ends[1]), (ends[2], ends[3]))
            if ends[0] > ends[1] or ends[2] > ends[3]:
                raise ConfigError("workload range runs backwards", text, "smaller length first: uniform:64-256x16-64")
        case "lognormal" if m := re.fullmatch(rf"{number}x{number}(?::(\d+(?:\.\d+)?))?", rest):
            ends = [int(m[1]), int(m[2])]
            cv = float(m[3]) if m[3] else 1.0
            lengths = Lognormal(ends[0], ends[1], cv)
            if not 0 < cv <= 10:
                raise ConfigError(
                    "workload CV out of range", text, "CV is standard deviation / mean: above 0, at most 10"
                )
        case _:
            form = next((f for f in SHORT_FORMS if f.startswith(f"{kind}:")), " or ".join(SHORT_FORMS))
            raise ConfigError("workload cannot be read", text, f"write it as {form}, lengths in whole tokens")
    if not all(1 <= end <= MAX_TOKENS for end in ends):
        raise ConfigError("workload length out of range", text, f"prompt and output need 1 to {MAX_TOKENS:,} tokens")
    return lengths


def spec(lengths: Lengths) -> dict[str, Any]:
    """The distribution as plain JSON values: the part of a plan's digest that says what was drawn from."""
    if isinstance(lengths, Mixture):  # thousands of numbers: their digest stands for them
        text = json.dumps([astuple(part) for part in lengths.parts], separators=(",", ":"))
        return {"kind": "mixture", "sha256": hashlib.sha256(text.encode()).hexdigest()}
    values = {"kind": type(lengths).__name__.lower(), **asdict(lengths)}
    if values.get("tail_power") == 1:  # as it was before there was one
        del values["tail_power"]
    return values


def smallest_total_tokens(lengths: Lengths) -> int:
    """Least prompt + output that the distribution can give."""
    match lengths:
        case Fixed(prompt, output):
            return prompt + output
        case Uniform(prompts, outputs):
            return prompts[0] + outputs[0]
        case Lognormal():
            return 2
        case Joint():
            return lengths.prompt_tokens[0] + min(tokens[0] for _, _, tokens in lengths.bins)
        case Mixture(parts):
            return min(part.prompt[0][1] + part.output[0][1] for part in parts)


def geometric(
    levels: Sequence[float], tokens: Sequence[float], tail_power: float = 1.0, parts: int = 8
) -> tuple[F64, F64]:
    """The quantile table refined so that linear interpolation of it is nearly geometric, a (b / a)^t, and above level 0.95
    a (b / a)^(t^tail_power); rounded so that the last bit of a machine's pow() does not show."""
    knots = list(zip(levels, tokens, strict=True))
    fine_levels, fine_values = [levels[0]], [float(tokens[0])]
    for (low, a), (high, b) in pairwise(knots):
        power = tail_power if low >= _TAIL else 1.0
        for k in range(1, parts + 1):
            fine_levels.append(low + (high - low) * k / parts if k < parts else high)
            fine_values.append(round(a * (b / a) ** ((k / parts) ** power), 6))
    return np.array(fine_levels), np.array(fine_values)


def _lognormal_table(mean: float, cv: float) -> tuple[F64, F64]:
    """Quantiles at standard normal z = -5 .. 5 in steps of 0.02 (6 in 10 million draws fall outside and are clamped)."""
    variance = math.log1p(cv * cv)
    mu, sigma = math.log(mean) - variance / 2, math.sqrt(variance)
    steps = [k / 50 for k in range(-250, 251)]
    levels = [round(NormalDist().cdf(z), 12) for z in steps]
    levels[0], levels[-1] = 0.0, 1.0
    return np.array(levels), np.array([round(math.exp(mu + sigma * z), 6) for z in steps])


def _whole(values: F64) -> I64:
    whole: I64 = np.maximum(np.rint(values), 1).astype(np.int64)
    return whole


def _in_range(u: F64, ends: tuple[int, int]) -> I64:
    return np.minimum(ends[0] + np.floor(u * (ends[1] - ends[0] + 1)).astype(np.int64), ends[1])


def _joint(lengths: Joint, u: F64, v: F64) -> tuple[I64, I64]:
    """Prompt lengths lie linearly between their quantiles; outputs geometrically, since their upper quantiles lie far
    apart and a straight line there puts too much mass in the tail (against the source's own p99 and mean)."""
    prompts = _whole(interpolate(u, np.array(lengths.prompt_levels), np.array(lengths.prompt_tokens)))
    outputs = np.empty(len(u), np.int64)
    for low, high, tokens in lengths.bins:
        here = (u >= low) & (u < high)
        outputs[here] = _whole(interpolate(v[here], *geometric(lengths.output_levels, tokens, lengths.tail_power)))
    return prompts, outputs


def _mixture(parts: tuple[Part, ...], u: F64, v: F64) -> tuple[I64, I64]:
    """`u` chooses the part, and what is left of it, stretched over the part, the prompt."""
    edges = np.append(0.0, np.cumsum([part.weight for part in parts]))
    chosen = np.clip(np.searchsorted(edges, u, side="right") - 1, 0, len(parts) - 1)
    left = np.clip((u - edges[chosen]) / (edges[chosen + 1] - edges[chosen]), 0.0, 1.0)
    order = np.argsort(chosen, kind="stable")
    prompts, outputs = np.empty(len(u), np.int64), np.empty(len(u), np.int64)
    ends = np.searchsorted(chosen[order], np.arange(len(parts) + 1))
    for number in np.unique(chosen).tolist():
        here = order[ends[number] : ends[number + 1]]
        prompts[here] = _step(left[here], parts[number].prompt)
        outputs[here] = _step(v[here], parts[number].output)
    return prompts, outputs


def _step(u: F64, table: tuple[tuple[float, int], ...]) -> I64:
    levels, tokens = np.array([level for level, _ in table]), np.array([n for _, n in table])
    steps: I64 = tokens[np.minimum(np.searchsorted(levels, u, side="right"), len(tokens) - 1)]
    return steps


def sample(lengths: Lengths, u: F64, v: F64) -> tuple[I64, I64]:
    """(prompt tokens, output tokens) at uniform numbers u, v in [0, 1), arrays of one length; every length >= 1."""
    match lengths:
        case Fixed(prompt, output):
            return np.full(len(u), prompt), np.full(len(u), output)
        case Uniform(prompts, outputs):
            return _in_range(u, prompts), _in_range(v, outputs)
        case Lognormal(prompt_mean, output_mean, cv):
            by_prompt, by_output = _lognormal_table(prompt_mean, cv), _lognormal_table(output_mean, cv)
            return _whole(interpolate(u, *by_prompt)), _whole(interpolate(v, *by_output))
        case Joint():
            return _joint(lengths, u, v)
        case Mixture(parts):
            return _mixture(parts, u, v)
