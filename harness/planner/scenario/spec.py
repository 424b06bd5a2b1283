"""What a scenario file may say: workload, demand, capacity, machine, hosted prices, labour, spares, and how sure each is."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, config_error, within
from harness.base.documents import exists, load_yaml, parse_yaml
from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir
from harness.config.price_ref import PriceRef
from harness.config.target import HardwareSpec

Range = Annotated[
    list[Annotated[float, within(0, 1000, "times the base value")]],
    Field(min_length=2, max_length=2, description="times the base value: low and high"),
]


class WorkloadPart(Spec):
    """Mean request. `kind: batch`: nobody waits for an answer."""

    kind: Literal["interactive", "batch"] = "interactive"
    input_tokens: bounds.Tokens = Field(ge=1)
    output_tokens: bounds.Tokens = Field(ge=1)
    cached_input_tokens: bounds.Tokens = Field(default=0, description="of the input; of the hosted API, by its usage")
    max_tokens: bounds.Tokens | None = Field(default=None, ge=1)
    source: str

    @model_validator(mode="after")
    def _cached_is_input(self) -> WorkloadPart:
        if self.cached_input_tokens > self.input_tokens:
            raise ValueError("cached_input_tokens are part of input_tokens")
        return self


class DemandPart(Spec):
    """Requests of a month of 730.5 h, spread by a named daily shape, numbers (hourly, or each `step_s` long), or flat."""

    requests_per_month: bounds.Volume
    shape: str | list[Annotated[float, within(0, 1e12, "relative rates")]] = "flat"
    step_s: Annotated[bounds.Seconds, within(1, bounds.YEAR_S, "seconds of a step")] = Field(
        default=3600, description="of a shape given as numbers"
    )
    peak_factor: bounds.Ratio | None = Field(
        default=None, ge=1, description="highest hour of all days over the shape's own; none: as known of a named shape"
    )
    source: str

    @model_validator(mode="after")
    def _named_shapes_are_hourly(self) -> DemandPart:
        if isinstance(self.shape, str) and self.step_s != 3600:
            raise ValueError("step_s belongs to a shape of numbers: a named one is hourly")
        return self


class CapacityPart(Spec):
    """What one replica serves inside the SLO: requests/s, or total tokens/s, or a run directory's measurement."""

    requests_per_s: bounds.ServiceRate | None = None
    tokens_per_s: bounds.ServiceRate | None = Field(default=None, description="input + output")
    run: str | None = Field(default=None, description="run or experiment directory")
    workload: str | None = Field(default=None, description="which workload's runs, where the experiment has several")
    target: str | None = Field(default=None, description="which target's runs, where the experiment has several")
    source: str = ""
    as_of: bounds.Day | None = None

    @model_validator(mode="after")
    def _one(self) -> CapacityPart:
        given = [k for k in ("requests_per_s", "tokens_per_s", "run") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"capacity needs exactly one of requests_per_s, tokens_per_s, run; given: {given or 'none'}"
            )
        if self.run is None and not self.source:
            raise ValueError("a capacity that is typed in needs its source")
        return self


class MachinePart(Spec):
    """An instance of the price table, or a declared machine. A machine holds `replicas` replicas."""

    instance: str | None = None
    declared: HardwareSpec | None = None
    replicas: bounds.Count = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one(self) -> MachinePart:
        if (self.instance is None) == (self.declared is None):
            raise ValueError("a machine is either instance: or declared:")
        return self


class FleetPart(Spec):
    spares: bounds.Count = 1
    min_replicas: bounds.Count = Field(
        default=1, description="machines, without spares; 0: none when there is no demand"
    )
    headroom: bounds.Share = 0.7
    scaling: Literal["fixed", "autoscaled"] = "fixed"
    cold_start_s: bounds.SecondsOrNone = 300
    billing_s: bounds.Seconds = 1
    storage_usd_per_month: bounds.Usd = 0

    @model_validator(mode="after")
    def _fixed_has_no_minimum(self) -> FleetPart:
        if self.scaling == "fixed" and self.min_replicas > 1:
            raise ValueError("a fixed fleet is sized by its peak: count more machines as spares")
        return self


class LabourPart(Spec):
    full_time: Annotated[float, within(0, 100_000, "people")] = Field(
        description="people who keep the service running, every month"
    )
    usd_per_work_hour: bounds.UsdPerHour = 150
    one_off_usd: bounds.Usd = 0
    source: str


class LimitsPart(Spec):
    requests_per_minute: bounds.Volume | None = None
    requests_per_day: bounds.Volume | None = None
    input_tokens_per_minute: bounds.Volume | None = None
    output_tokens_per_minute: bounds.Volume | None = None
    tokens_per_minute: bounds.Volume | None = None
    tokens_per_day: bounds.Volume | None = None
    spend_usd_per_day: bounds.Usd | None = Field(default=None, gt=0)
    spend_usd_per_month: bounds.Usd | None = Field(default=None, gt=0)
    cached_input_counts: bool = True
    source: str = ""
    as_of: str = ""


class DedicatedPart(Spec):
    """A hosted endpoint of one's own: paid by the hour of a unit, no labour or spare of ours."""

    usd_per_unit_hour: bounds.UsdPerHour
    unit_requests_per_s: bounds.ServiceRate
    source: str


class HostedPart(PriceRef):
    """A hosted price and how it compares: same weights or another product, tokenizer, contract, limits."""

    same_model: bool = Field(description="the same weights as ours; false: a different product, labelled as one")
    service: str | None = Field(default=None, description="batch, flex, priority: a variant in the price data")
    tokenizer: str | None = None
    tokenizer_ratio: bounds.Ratio | None = Field(
        default=None, description="hosted tokens / own tokens of the same text"
    )
    meets_slo: bool | None = Field(
        default=None, description="as you know it; none: as runs against it beside the capacity's tell, else not known"
    )
    discount: float = Field(default=0, ge=0, lt=1)
    minimum_usd_per_month: bounds.Usd = 0
    billed_retries: Annotated[float, within(0, 100, "billed retries of a request")] = 0
    currency: str = "USD"
    limits: LimitsPart | None = None
    dedicated: DedicatedPart | None = None

    @field_validator("currency")
    @classmethod
    def _usd(cls, currency: str) -> str:
        if currency != "USD":
            raise ValueError(f"prices are in USD; convert {currency} yourself and give the date of the rate in source")
        return currency


class ConstraintsPart(Spec):
    """What money does not say. `engineers`: people who can run the service; none: not limited."""

    data_stays_inside: bool = False
    latency: str = ""
    engineers: Annotated[float, within(0, 100_000, "people")] | None = None


class ClaimPart(Spec):
    """A published statement: its own arithmetic (numbers only) beside ours (numbers and figures of the result)."""

    row: bounds.Count | None = None
    says: str
    stated: str = ""
    arithmetic: str = ""
    ours: str = ""
    unit: str = "USD per month"
    reason: str


class RangesPart(Spec):
    """Low and high of each assumption, times its base value. Ours unless the user says better, and printed."""

    demand_rps: Range = Field(default=[0.5, 2.0])
    replica_usd_per_hour: Range = Field(default=[0.8, 1.2])
    hosted_usd_per_request: Range = Field(default=[0.5, 1.3])
    headroom: Range = Field(default=[0.8, 1.2])
    fixed_usd_per_hour: Range = Field(default=[0.0, 2.0])
    tokenizer_ratio: Range = Field(default=[0.95, 1.2])
    capacity_rps: Range = Field(default=[0.9, 1.1])

    @model_validator(mode="after")
    def _around_the_base(self) -> RangesPart:
        for name in type(self).model_fields:
            low, high = getattr(self, name)
            if not 0 <= low <= 1 <= high:
                raise ValueError(f"{name}: a range is [low, high] with 0 <= low <= 1 <= high, times the base value")
        return self


class ScenarioSpec(Spec):
    """A scenario file."""

    scenario: bounds.Slug
    description: str = ""
    as_of: date = Field(description="the day prices are taken at")
    model: bounds.Word
    tokenizer: str | None = None
    workload: WorkloadPart
    demand: DemandPart
    slo: str
    capacity: CapacityPart
    machine: MachinePart
    fleet: FleetPart = FleetPart()
    labour: LabourPart
    hosted: list[HostedPart] = Field(min_length=1)
    constraints: ConstraintsPart = ConstraintsPart()
    ranges: RangesPart = RangesPart()
    claims: list[ClaimPart] = Field(default_factory=list)


def parse_scenario(data: Any, source: str) -> ScenarioSpec:
    """Validate plain data. Raises ConfigError: three lines, the key, the nearest key or what is allowed."""
    if not isinstance(data, dict):
        raise ConfigError(f"{source}: not a scenario", type(data).__name__, "a YAML mapping with the key 'scenario'")
    try:
        return ScenarioSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(source, error, ScenarioSpec, "configs/scenarios/ has examples") from None


def find_scenario(word: Path) -> Path:
    """The file itself, or a scenario of configs/scenarios/ by name."""
    if exists(word):
        return word
    named = data_dir("configs") / "scenarios" / (word.name if word.suffix else f"{word.name}.yaml")
    if exists(named):
        return named
    known = [p.stem for p in sorted((data_dir("configs") / "scenarios").glob("*.yaml"))]
    raise ConfigError("no such scenario", word, nearest(word.stem, known, f"there are: {', '.join(known)}"))


def load_scenario(path: Path, changes: tuple[str, ...] = ()) -> ScenarioSpec:
    """Read a scenario; `changes` are KEY=VALUE with dotted keys (`demand.requests_per_month=3e6`, `hosted.0.discount=0.1`)."""
    data = load_yaml(path)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals or not key:
            raise ConfigError("a change is KEY=VALUE", change, "e.g. demand.requests_per_month=3000000")
        *parents, last = key.split(".")
        at = data
        try:
            for part in parents:
                at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
            value = parse_yaml(text, change)
            if isinstance(at, list):
                at[int(last)] = value
            else:
                at[last] = value
        except (AttributeError, IndexError, TypeError, ValueError):
            raise ConfigError("no such place in the scenario", key, "dotted keys, list items by number") from None
    return parse_scenario(data, str(path))
