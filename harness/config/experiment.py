"""YAML -> frozen, validated specs. An unknown key is an error that names the nearest key.

The specs here are what an experiment file may say; `load_experiment` reads one. Workload short forms
(`fixed:128x32`) stay text here: `plan` reads them.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from harness.base import bounds, redaction
from harness.base.bounds import Spec, config_error, within
from harness.base.documents import load_yaml
from harness.base.errors import ConfigError, StoreError
from harness.base.loopback import is_loopback
from harness.config.fleet import FleetSpec
from harness.config.load import LoadSpec
from harness.config.load_generators import LoadGeneratorsSpec
from harness.config.price_ref import PriceRef
from harness.config.share import ShareSpec
from harness.config.spend import MaxUsd
from harness.config.target import TargetSpec
from harness.records import Timeouts

_EVERY_KEY = "README.md and configs/experiments/quickstart.yaml show every key"
_S = TypeVar("_S", bound=BaseModel)


class SloSpec(Spec):
    """Promise to users, in seconds. Requests meeting all of them are good."""

    ttft_from_schedule_s: bounds.Seconds | None = None
    ttft_s: bounds.Seconds | None = None
    ttfvt_s: bounds.Seconds | None = Field(default=None, description="to the first visible token, after any reasoning")
    tpot_s: bounds.Seconds | None = None
    e2el_s: bounds.Seconds | None = None
    attainment: bounds.Share = 0.99

    @property
    def limits(self) -> dict[str, float]:
        """metric -> seconds, of those that are set."""
        return {k: v for k, v in self.model_dump(exclude={"attainment"}).items() if v is not None}


class CostSpec(Spec):
    """What the cost stage is told: never measured, always printed."""

    utilisation: bounds.Share = Field(default=1.0, description="served load / paid capacity, declared")
    input_output_price_ratio: bounds.Ratio | None = Field(default=None, description="output $/token over input $/token")
    hosted: list[PriceRef] = Field(default_factory=list)


class ObserveSpec(Spec):
    gpu: Literal["auto", "required", "off"] = "auto"
    gpu_hz: bounds.Hertz = 10
    server_hz: bounds.Hertz = Field(default=1, le=10)
    host_hz: bounds.Hertz = Field(default=2, le=10)
    network: Literal["auto", "off"] = Field(
        default="auto", description="round trips to a target at a URL, beside the load and not billed"
    )
    network_s: Annotated[float, within(0.2, 3600, "seconds from one round trip to the next")] = 5

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without the keys that came later and are as they were: an older campaign's config stays the same."""
        written: dict[str, Any] = write(self)
        later = {"network": "auto", "network_s": 5}
        return {k: v for k, v in written.items() if k not in later or v != later[k]}


class TimeoutSpec(Spec):
    connect_s: bounds.Seconds | None = 10
    first_token_s: bounds.Seconds | None = 300
    idle_s: bounds.Seconds | None = 120
    total_s: bounds.Seconds | None = 900

    def record(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_token_s, self.idle_s, self.total_s)


class CoolDownSpec(Spec):
    """Pause before a cell until the server's GPUs are back where they were when it stood idle; without NVML there is none."""

    margin_c: Annotated[float, within(0, 200, "degrees")] = Field(
        default=5, description="degrees above the temperature beside the idle server"
    )
    margin_mhz: Annotated[float, within(0, 10_000, "MHz")] = Field(
        default=150, description="SM clock this far below that of the idle server"
    )
    timeout_s: bounds.SecondsOrNone = Field(default=120, description="wait no longer than this; 0: never")


class NotifySpec(Spec):
    """Who is told when a campaign ends. A notice that cannot be given is a warning."""

    webhook_env: str | None = Field(
        default=None, description="environment variable with the URL to POST the summary to"
    )
    command: list[str] = Field(default_factory=list, description="program and words; the summary as JSON on its stdin")
    mail: str | None = Field(default=None, description="address, through this machine's sendmail")


class ExperimentSpec(Spec):
    """An experiment file: every cell of targets x workloads x loads x repetitions."""

    experiment: bounds.Slug
    description: str = ""
    seed: int = Field(default=1, ge=0, lt=2**63)
    targets: list[TargetSpec] = Field(min_length=1, max_length=1000)
    workloads: list[bounds.Word] = Field(min_length=1, max_length=1000)
    loads: list[LoadSpec] = Field(min_length=1, max_length=1000)
    repetitions: int = Field(default=1, ge=1)
    warmup_requests: bounds.Count = Field(
        default=4,
        description="at least; a vLLM server gets 2 a slot, in rounds until its log tells of no compilation; 0: none",
    )
    context_limit_tokens: bounds.Tokens | None = Field(
        default=None, ge=2, description="prompt + output above it are redrawn and counted"
    )
    driver: Literal["wire", "sdk"] = "wire"
    workers: int = Field(default=1, ge=1, le=64)
    load_generators: LoadGeneratorsSpec = LoadGeneratorsSpec()
    timeouts: TimeoutSpec = TimeoutSpec()
    observe: ObserveSpec = ObserveSpec()
    slo: SloSpec | None = None
    cost: CostSpec = CostSpec()
    order: Literal["blocked-random", "as-written"] = Field(
        default="blocked-random",
        description="a block is one repetition; in it targets, and each target's cells, are shuffled",
    )
    restart: Literal["never", "each_repetition"] = Field(
        default="never",
        description="of a single target's server; several targets take turns, so theirs start every block",
    )
    cool_down: CoolDownSpec = CoolDownSpec()
    max_hours: Annotated[float, within(1e-3, 24 * 366, "hours, at most a year")] | None = Field(
        default=None, gt=0, description="whole repetitions that do not fit are dropped"
    )
    spread_hours: Annotated[float, within(1e-4, 24 * 31, "hours, at most a month")] | None = Field(
        default=None,
        description="repetitions are spread over so long: the k-th begins no sooner than (k - 1) / repetitions of it",
    )
    max_usd: MaxUsd | None = Field(
        default=None, description="dollars that hosted targets may cost: a number for the campaign, or {run, day, key}"
    )
    min_free_gib: Annotated[float, within(0, 1e6, "GiB")] = Field(
        default=1, ge=0, description="disk space that must stay free"
    )
    notify: NotifySpec = NotifySpec()
    fleet: FleetSpec | None = Field(
        default=None, description="boxes of a Ray cluster that share the repetitions; None: this machine runs them all"
    )

    share: ShareSpec | None = Field(
        default=None, description="of a single cell: what this load generator sends of its plan; None: all of it"
    )

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a key that came later and is not used: the config of a campaign that began before it was known stays the same."""
        written: dict[str, Any] = write(self)
        if self.load_generators.is_local:
            written.pop("load_generators", None)
        return {
            k: v for k, v in written.items() if k not in ("max_usd", "spread_hours", "fleet", "share") or v is not None
        }

    @property
    def attainment(self) -> float:
        """Share of requests that are to be within the promise."""
        return self.slo.attainment if self.slo else 0.99

    def sides_of(self, target: TargetSpec) -> tuple[TargetSpec, ...]:
        """The two sides of a hybrid, the own one first; of any other target itself."""
        by_name = {one.name: one for one in self.targets}
        return tuple(by_name[name] for name in target.sides) or (target,)

    def public(self) -> dict[str, Any]:
        """As plain JSON values without secrets: what is written down."""
        plain: dict[str, Any] = redaction.data(self.model_dump(mode="json"))
        return plain

    @field_validator("targets")
    @classmethod
    def _names_differ(cls, targets: list[TargetSpec]) -> list[TargetSpec]:
        names = [t.name for t in targets]
        if len(set(names)) != len(names):
            raise ValueError(f"target names must differ: {names}")
        return targets

    @model_validator(mode="after")
    def _not_for_ever(self) -> ExperimentSpec:
        cells = len(self.targets) * len(self.workloads) * sum(load.size() for load in self.loads) * self.repetitions
        if cells > bounds.MOST_CELLS:
            raise ValueError(
                f"{cells:,} cells (targets x workloads x load points x repetitions = {self.repetitions:,}), at most {bounds.MOST_CELLS:,}: lower repetitions, or write two experiments"
            )
        return self

    @model_validator(mode="after")
    def _batches_for_offline(self) -> ExperimentSpec:
        offline = any(target.kind == "offline" for target in self.targets)
        if offline and any(load.arrivals != "batch" or load.capacity is not None for load in self.loads):
            raise ValueError("a target of kind offline takes batches: its loads are {arrivals: batch, requests: N}")
        return self

    @model_validator(mode="after")
    def _hybrids_of_targets(self) -> ExperimentSpec:
        kinds = {target.name: target.kind for target in self.targets}
        for hybrid in (target for target in self.targets if target.kind == "hybrid"):
            for name, allowed in zip(hybrid.sides, (("vllm", "adopt", "hosted"), ("hosted",)), strict=True):
                if kinds.get(name) not in allowed:
                    what = f"{name!r} is {'no target' if name not in kinds else 'of kind ' + kinds[name]}"
                    raise ValueError(
                        f"a side of {hybrid.name!r}: {what}; sides are [OWN, HOSTED], this one {' or '.join(allowed)}"
                    )
            if any(load.concurrency for load in self.loads):
                raise ValueError(
                    f"{hybrid.name!r} takes open loops (rate:): in a closed one a side that is slow would be offered less"
                )
            if hybrid.policy and hybrid.policy.rule in ("slo", "cost") and not (self.slo and self.slo.limits):
                raise ValueError(f"rule {hybrid.policy.rule} of {hybrid.name!r} needs slo: {{..}} with a limit")
        return self

    @model_validator(mode="after")
    def _targets_of_a_fleet(self) -> ExperimentSpec:
        """Boxes work at the same time, so that each needs a server of its own."""
        if self.fleet is None:
            labelled = [target.name for target in self.targets if target.resources]
            if labelled:
                raise ValueError(
                    f"resources of {labelled[0]!r} choose among the boxes of a fleet: give fleet: {{on: ray}}"
                )
            return self
        if not self.load_generators.is_local:
            raise ValueError("a fleet's box sends its own load: leave out load_generators (or --on)")
        for target in self.targets:
            if target.kind == "hybrid":
                raise ValueError(
                    f"hybrid {target.name!r} has a side on a box and one that the campaign's own machine pays for: measure it in an experiment without fleet:"
                )
            if target.resources and self.is_shared(target):
                raise ValueError(
                    f"resources of {target.name!r} choose among boxes: it is no box's own, and is measured from here"
                )
        if all(map(self.is_shared, self.targets)):
            raise ValueError("no target is a box's own: leave out fleet:, all are measured from here")
        return self

    @staticmethod
    def is_shared(target: TargetSpec) -> bool:
        """Whether all boxes of a fleet would load it at once: a hosted API, a server at an address. The campaign's own machine measures it,
        after the boxes, under one cap."""
        urls = (target.url, *target.replicas)
        return target.kind == "hosted" or any(url is not None and not is_loopback(url) for url in urls)

    @model_validator(mode="after")
    def _share_of_one_cell(self) -> ExperimentSpec:
        """Shares that know nothing of each other cannot keep a campaign's cells together, nor stop a probe."""
        cells = len(self.targets) * len(self.workloads) * sum(load.size() for load in self.loads) * self.repetitions
        if self.share is not None and (cells > 1 or any(load.capacity is not None for load in self.loads)):
            raise ValueError("a share is of one cell, which is no capacity search: share the cell of a --url")
        return self

    @model_validator(mode="after")
    def _targets_of_nodes(self) -> ExperimentSpec:
        """Nodes reach a target at its URL, and nobody asks the parent before each send."""
        if self.load_generators.is_local:
            return self
        if self.max_usd is not None:
            raise ValueError(
                "load_generators on nodes and max_usd: what a run may spend is watched where it is sent from; use on: local"
            )
        if self.share is not None:
            raise ValueError("a share is sent by one load generator that knows of no other: leave out --share, or --on")
        for target in self.targets:
            if target.kind in ("hybrid", "offline"):
                raise ValueError(
                    f"target {target.name!r} of kind {target.kind} takes its load from this machine: use load_generators: {{on: local}}"
                )
            if target.limits is not None and target.limits.pace:
                raise ValueError(
                    f"target {target.name!r} is paced, and a pace is kept where it is sent from: use on: local, or limits with pace: false"
                )
            if target.kind == "vllm" or (target.url is not None and is_loopback(target.url)):
                raise ValueError(
                    f"target {target.name!r} listens on this machine's loopback, which nodes do not reach: give kind: adopt and a url that they do"
                )
        return self

    @model_validator(mode="after")
    def _capacity_unpaced(self) -> ExperimentSpec:
        paced = [target.name for target in self.targets if target.limits is not None and target.limits.pace]
        if paced and any(load.capacity is not None for load in self.loads):
            raise ValueError(
                f"a capacity search of the paced target {paced[0]!r} would find the pacing: give its limits pace: false"
            )
        return self

    @model_validator(mode="after")
    def _capacity_of_a_promise(self) -> ExperimentSpec:
        limits = self.slo.limits if self.slo is not None else {}
        if any(load.capacity is not None for load in self.loads) and not limits:
            raise ValueError("a capacity search needs slo: {..} with a limit, e.g. ttft_from_schedule_s")
        if any(load.capacity is not None for load in self.loads) and self.slo is not None and self.slo.attainment >= 1:
            raise ValueError(
                "a capacity search needs slo.attainment below 1: that all requests are good is shown by no number of them"
            )
        return self


def of_run(spec: type[_S], data: Any, run_id: str) -> _S:
    """Part of the config that a stored run was made with. Raises StoreError."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        refusal = config_error(f"config of run {run_id}", error, spec)
        raise StoreError(refusal.what, refusal.value, f"{refusal.advice}; its manifest.json is damaged") from None


def parse_experiment(data: Any, source: str) -> ExperimentSpec:
    """Validate plain data as an experiment; `source` names it in errors. From here on the secrets in it are known, those of the
    variables that it names, and those that a server of ours inherits. Raises ConfigError."""
    redaction.learn_data(data, os.environ)
    redaction.learn_data(dict(os.environ))
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: not an experiment",
            type(data).__name__,
            "the file must be a YAML mapping with the key 'experiment'",
        )
    try:
        spec = ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(source, error, ExperimentSpec, _EVERY_KEY) from None
    redaction.learn_data([target.model_dump() for target in spec.targets if target.preset], os.environ)
    return spec


def load_experiment(path: Path) -> ExperimentSpec:
    """Read and validate an experiment file. Raises ConfigError."""
    return parse_experiment(load_yaml(path), str(path))
