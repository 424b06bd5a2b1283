"""Workload presets: YAML files of quantile tables, shapes or sessions, with their source."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, config_error
from harness.base.documents import load_yaml
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.arrivals import Process, parse
from harness.measure.plan.lengths import Joint, Lengths, parse_short_form

_BIN_S = 10.0
_Length = Annotated[float, Field(le=bounds.MOST_TOKENS)]


class Source(Spec):
    """Where a preset's figures come from."""

    name: str
    repository: str
    path: str | None = None
    commit: str | None = None
    licence: str
    cite: str | None = None
    tokenizer: str | None = None


class ArrivalSpec(Spec):
    """Arrivals as the source has them; what `--arrivals preset` replays: the counts of the 10 s bins as rates where there
    are some, else `process`."""

    process: str | None = None
    mean_rate_rps: Annotated[float, bounds.within(1e-9, 1e6, "requests/s")] | None = Field(default=None, gt=0)
    interarrival_cv: Annotated[float, bounds.within(0, 1e6, "a standard deviation over a mean")] | None = Field(
        default=None, ge=0
    )
    requests_per_10s_bin: list[bounds.Count] | None = Field(default=None, min_length=1)
    note: str | None = None


class PrefixSpec(Spec):
    """Share of each prompt that an unlimited prefix cache holds, as quantiles over requests. `rank_coupling` c: for a part
    |c| of the requests the share's rank is the prompt's (c > 0) or 1 - the prompt's (c < 0), else they are independent."""

    block_tokens: bounds.Tokens = Field(ge=1)
    token_hit_ratio_unlimited_cache: float = Field(ge=0, le=1)
    cached_fraction_quantile_levels: list[float]
    cached_fraction: list[float]
    rank_coupling: float = Field(default=0, ge=-1, le=1)

    @model_validator(mode="after")
    def _table_fits(self) -> PrefixSpec:
        if not _is_table(self.cached_fraction_quantile_levels, self.cached_fraction, 0):
            raise ValueError("cached_fraction: levels must rise from 0 to 1, with as many fractions, not falling")
        if self.cached_fraction[-1] > 1:
            raise ValueError("a cached fraction is at most 1")
        return self


class SessionSpec(Spec):
    """Sessions as quantiles, each drawn independently of the others; all tables share `quantile_levels`.
    `compaction_keeps_tokens`: of the prompt before it, where a call would not fit the context otherwise."""

    context_limit_tokens: bounds.Tokens = Field(ge=2)
    sessions: Annotated[int, bounds.within(1, 1e9, "sessions")] | None = None
    quantile_levels: list[float]
    calls_per_session: list[Annotated[float, Field(le=1_000_000)]]
    first_prompt_tokens: list[_Length]
    new_prompt_tokens_per_later_call: list[_Length]
    output_tokens: list[_Length]
    think_time_s: list[Annotated[float, Field(le=bounds.YEAR_S)]]
    token_hit_ratio_previous_call: Annotated[float, bounds.within(0, 1, "a share")] | None = None
    compaction_keeps_tokens: bounds.Tokens = 0

    @model_validator(mode="after")
    def _tables_fit(self) -> SessionSpec:
        for name, least in (
            ("calls_per_session", 1),
            ("first_prompt_tokens", 1),
            ("new_prompt_tokens_per_later_call", 1),
            ("output_tokens", 0),
            ("think_time_s", 0),
        ):
            if not _is_table(self.quantile_levels, getattr(self, name), least):
                raise ValueError(
                    f"{name}: levels must rise from 0 to 1, with as many values, not falling, from {least} up"
                )
        return self


class _Bin(Spec):
    prompt_rank: tuple[float, float]
    output_tokens: list[Annotated[int, Field(le=bounds.MOST_TOKENS)]]


def _is_table(levels: list[float], values: list[Any], least: float = 1) -> bool:
    rising = all(a < b for a, b in pairwise(levels)) and all(a <= b for a, b in pairwise(values))
    return len(levels) == len(values) >= 2 and levels[0] == 0 and levels[-1] == 1 and rising and values[0] >= least


class Preset(Spec):
    """A preset file: `shape`, or `sessions`, or the tables. `check` holds figures of the source that a sample must
    reproduce."""

    description: str = ""
    assumptions: str | None = None
    filter: str | None = None
    shape: str | None = None
    sessions: SessionSpec | None = None
    prompt_quantile_levels: list[float] | None = None
    prompt_tokens: list[Annotated[int, Field(le=bounds.MOST_TOKENS)]] | None = None
    output_given_prompt_quantile_levels: list[float] | None = None
    output_tail_power: float = Field(default=1, ge=0.1, le=10)
    output_tokens_by_prompt_bin: list[_Bin] | None = Field(default=None, min_length=1)
    check: dict[str, Any] = Field(default_factory=dict)
    requests_per_month: Annotated[int, bounds.within(1, 1e15, "requests")] | None = None
    prefix: PrefixSpec | None = None
    arrivals: ArrivalSpec = ArrivalSpec()
    source: Source

    @model_validator(mode="after")
    def _one_kind(self) -> Preset:
        tables = (
            self.prompt_quantile_levels,
            self.prompt_tokens,
            self.output_given_prompt_quantile_levels,
            self.output_tokens_by_prompt_bin,
        )
        kinds = [self.shape is not None, self.sessions is not None, any(table is not None for table in tables)]
        if sum(kinds) != 1:
            raise ValueError("a preset has exactly one of shape, sessions and the tables of prompt and output tokens")
        if kinds[2]:
            if any(table is None for table in tables):
                raise ValueError(
                    "the tables are prompt_quantile_levels, prompt_tokens, output_given_.., output_tokens_by_.."
                )
            _check_tables(self)
        if not any(self.arrivals.requests_per_10s_bin or [1]):
            raise ValueError("requests_per_10s_bin: at least one bin must not be empty")
        if self.arrivals.process is not None:
            _parsed(self.arrivals.process)
        if self.shape is not None:
            _parsed(self.shape, shape=True)
        return self

    def lengths(self) -> Lengths | None:
        """None for sessions."""
        if self.shape is not None:
            return parse_short_form(self.shape)
        if self.sessions is not None:
            return None
        bins = self.output_tokens_by_prompt_bin or []
        return Joint(
            tuple(self.prompt_quantile_levels or ()),
            tuple(self.prompt_tokens or ()),
            tuple(self.output_given_prompt_quantile_levels or ()),
            tuple((*b.prompt_rank, tuple(b.output_tokens)) for b in bins),
            self.output_tail_power,
        )

    def process(self) -> Process:
        """What `--arrivals preset` means."""
        if self.arrivals.requests_per_10s_bin:
            return Process("rates", (), _rates(self.arrivals.requests_per_10s_bin), _BIN_S)
        return parse(self.arrivals.process or "poisson")


def _rates(counts: list[int]) -> tuple[float, ...]:
    """Rates of which a Poisson process gives counts as scattered as these: what chance alone explains of the scatter
    of the bins that are not empty, a variance equal to the mean, is taken out of them, since drawing puts it back."""
    busy = [n for n in counts if n]
    mean = sum(busy) / len(busy)
    variance = sum((n - mean) ** 2 for n in busy) / len(busy)
    left = round(max(0.0, 1 - mean / variance) ** 0.5, 9) if variance else 0.0
    return tuple(mean + (n - mean) * left if n else 0.0 for n in counts)


def _parsed(text: str, *, shape: bool = False) -> None:
    try:
        parse_short_form(text) if shape else parse(text)
    except ConfigError as error:
        raise ValueError(f"{error.what}: {error.value}; {error.advice}") from None


def _check_tables(preset: Preset) -> None:
    if not _is_table(preset.prompt_quantile_levels or [], preset.prompt_tokens or []):
        raise ValueError("prompt: levels must rise from 0 to 1, with as many tokens, not falling, from 1 up")
    bins = preset.output_tokens_by_prompt_bin or []
    edges = [edge for b in bins for edge in b.prompt_rank]
    if (
        not edges
        or edges[0] != 0
        or edges[-1] != 1
        or edges[1:-1:2] != edges[2:-1:2]
        or any(a >= b for a, b in (x.prompt_rank for x in bins))
    ):
        raise ValueError("prompt_rank bins must follow each other from 0 to 1 without gaps")
    for b in bins:
        if not _is_table(preset.output_given_prompt_quantile_levels or [], b.output_tokens):
            raise ValueError(
                f"output of bin {b.prompt_rank}: levels must rise from 0 to 1, with as many tokens, not falling, from 1 up"
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
        raise config_error(str(path), error, Preset, "workloads/chat.yaml is an example") from None
