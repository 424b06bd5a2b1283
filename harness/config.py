"""YAML -> frozen, validated specs. An unknown key is an error that names the nearest key.

The specs here are what an experiment file may say; `load_experiment` reads one. Workload short forms
(`fixed:128x32`) stay text here: `plan` reads them.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness.errors import ConfigError
from harness.records import Load, Timeouts

_ROOT = Path(__file__).resolve().parent
_NUMBER = r"\d+(?:\.\d+)?"
_ARRIVALS = re.compile(
    rf"poisson|constant|batch|preset|trace(:{_NUMBER})?|gamma:{_NUMBER}|onoff:{_NUMBER}:{_NUMBER}(:{_NUMBER})?"
    rf"|diurnal:[a-z0-9/-]+(:{_NUMBER})?|ramp(:{_NUMBER}-{_NUMBER})?|step:{_NUMBER}(,{_NUMBER})*"
)
_OWN_TIMES = ("batch", "preset", "trace")  # arrivals that need no rate


def data_dir(name: str) -> Path:
    """`workloads` or `configs`: inside the installed package, else beside it in a checkout."""
    packaged = _ROOT / "_data" / name
    return packaged if packaged.is_dir() else _ROOT.parent / name


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class HardwareSpec(_Spec):
    """Price of the machine that a target runs on, as the user declares it."""

    name: str
    usd_per_hour: float = Field(ge=0, description="whole instance, per paid hour")
    source: str = Field(description="where the price comes from")
    as_of: str = Field(description="date of the price, YYYY-MM-DD")
    gpu_model: str | None = Field(default=None, description="what the price is for: H100-SXM, A10G ..")
    gpu_count: int | None = Field(default=None, ge=0, description="GPUs that the price is for")


class PriceRef(_Spec):
    """A hosted price: provider and model id as genai-prices names them, or an own price per million tokens.

    `cached_input_tokens`, `cache_write_.._tokens`: what the API's own prompt cache does with one request, as declared.
    """

    provider: str
    model: str
    input_usd_per_million: float | None = Field(default=None, ge=0)
    output_usd_per_million: float | None = Field(default=None, ge=0)
    cached_input_usd_per_million: float | None = Field(default=None, ge=0)
    cache_write_5m_usd_per_million: float | None = Field(default=None, ge=0)
    cache_write_1h_usd_per_million: float | None = Field(default=None, ge=0)
    cached_input_tokens: int | None = Field(default=None, ge=0, description="of a prompt, read from the API's cache")
    cache_write_5m_tokens: int = Field(default=0, ge=0, description="of a prompt, written into it for 5 minutes")
    cache_write_1h_tokens: int = Field(default=0, ge=0, description="of a prompt, written into it for an hour")
    source: str | None = None
    as_of: str | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


class TargetSpec(_Spec):
    """One server. `vllm`: started by us. `adopt`: a vLLM server at `url` that somebody else started.
    `hosted`: any OpenAI-compatible API at `url`, key in the environment variable `api_key_env`.
    `offline`: `vllm.LLM` in a process of its own, given whole batches; `batch_order` and `batch_size` say how they are cut."""

    name: str
    kind: Literal["vllm", "adopt", "hosted", "offline"]
    model: str = Field(description="embedded:smollm2-135m | embedded:tiny | path | hub name; for a URL its served name")
    url: str | None = None
    api: Literal["completions", "chat"] = "completions"
    api_key_env: str | None = None
    ca_file: str | None = None
    flags: dict[str, str | int | float | bool] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    port: int | None = Field(default=None, ge=1, le=65535)
    start_timeout_s: float = Field(default=900, gt=0)
    batch_order: Literal["as_planned", "grouped_by_length", "sorted"] = "as_planned"
    batch_size: int = Field(default=256, ge=1, description="requests in a group of grouped_by_length")
    hardware: HardwareSpec | str | None = Field(
        default=None, description="a price, or an instance's name: aws/g5.12xlarge"
    )

    @model_validator(mode="after")
    def _url_where_needed(self) -> TargetSpec:
        ours = self.kind in ("vllm", "offline")
        if self.kind != "offline" and (self.batch_order, self.batch_size) != ("as_planned", 256):
            raise ValueError(f"target {self.name!r}: batch_order and batch_size belong to kind offline")
        if not ours and not self.url:
            raise ValueError(f"target {self.name!r} of kind {self.kind} needs a url")
        if ours and self.url:
            raise ValueError(f"target {self.name!r}: kind {self.kind} starts its own server; use kind adopt with url")
        return self


class CapacitySpec(_Spec):
    """A search for the highest Poisson rate whose attainment is at `slo.attainment`; rates in requests/s.

    A probe that is not clear lasts `probe_s[1]` seconds of schedule; one that passes lasts `probe_s[0]` at least.
    """

    start_rps: float = Field(
        gt=0, description="first guess, e.g. from a closed loop; a factor of 10 off costs about 4 probes"
    )
    min_rps: float | None = Field(default=None, gt=0, description="lowest rate tried; default start_rps / 64")
    max_rps: float | None = Field(default=None, gt=0, description="highest rate tried; default 64 x start_rps")
    probe_s: tuple[float, float] = Field(default=(60, 600), description="shortest and longest probe, seconds")
    probes: int = Field(default=12, ge=2, le=12)
    tolerance: float = Field(
        default=0.03, gt=0, le=0.5, description="half-width of the interval at which the search ends, share of capacity"
    )

    @property
    def lowest_rps(self) -> float:
        return self.start_rps / 64 if self.min_rps is None else self.min_rps

    @property
    def highest_rps(self) -> float:
        return self.start_rps * 64 if self.max_rps is None else self.max_rps

    @model_validator(mode="after")
    def _in_order(self) -> CapacitySpec:
        if not self.lowest_rps <= self.start_rps <= self.highest_rps:
            raise ValueError("a capacity search needs min_rps <= start_rps <= max_rps")
        if not 0 < self.probe_s[0] <= self.probe_s[1]:
            raise ValueError("probe_s is [shortest, longest] in seconds, both above 0")
        return self


class LoadSpec(_Spec):
    """Points of offered load: a list of `concurrency` (closed loop) or of `rate` in requests/s (open loop), or a search for
    the `capacity`, which chooses its rates and their durations itself."""

    concurrency: list[int] = Field(default_factory=list)
    rate: list[float] = Field(default_factory=list)
    arrivals: str = Field(
        default="poisson",
        description="poisson | constant | gamma:SHAPE | onoff:ON_S:OFF_S[:OFF_SHARE] | diurnal:NAME[:DAY_S] | ramp[:FROM-TO] | "
        "step:A,B,.. | trace[:SPEEDUP] | batch | preset",
    )
    requests: int | None = Field(default=None, ge=1, description="requests a cell; or use duration_s")
    requests_per_slot: int | None = Field(default=None, ge=1, description="closed loop: requests = this x concurrency")
    duration_s: float | None = Field(default=None, gt=0)
    capacity: CapacitySpec | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> LoadSpec:
        if self.capacity is not None:
            plain = type(self).model_fields
            others = sorted(
                k
                for k in plain
                if k != "capacity" and getattr(self, k) != plain[k].get_default(call_default_factory=True)
            )
            if others:
                raise ValueError(
                    f"capacity chooses rates and durations itself and offers Poisson arrivals; leave out {others}"
                )
            return self
        if not _ARRIVALS.fullmatch(self.arrivals):
            raise ValueError(
                f"arrivals {self.arrivals!r} are unknown: {type(self).model_fields['arrivals'].description}"
            )
        process = self.arrivals.partition(":")[0]
        timed = process in _OWN_TIMES and not self.concurrency
        if self.concurrency and self.arrivals != "poisson":
            raise ValueError("arrivals belong to an open loop; concurrency sends when a slot is free")
        if bool(self.concurrency) == bool(self.rate) and not timed:
            raise ValueError("a load needs exactly one of concurrency: [..], rate: [..] and capacity: {..}, not empty")
        if any(c < 1 for c in self.concurrency) or any(r <= 0 for r in self.rate):
            raise ValueError("concurrency must be >= 1 and rate > 0")
        given = [k for k in ("requests", "requests_per_slot", "duration_s") if getattr(self, k) is not None]
        if len(given) != 1 and not (process == "trace" and not given):  # without a number: the whole trace
            raise ValueError(
                f"a load needs exactly one of requests, requests_per_slot, duration_s; given: {given or 'none'}"
            )
        if not self.concurrency and self.requests_per_slot:
            raise ValueError("requests_per_slot belongs to concurrency; use requests or duration_s with rate")
        return self

    def points(self) -> list[Load]:
        if self.capacity is not None:
            return [Load(arrivals="capacity")]
        if not self.concurrency and not self.rate:
            return [Load(arrivals=self.arrivals)]
        return [Load(concurrency=c) for c in self.concurrency] + [
            Load(rate_rps=r, arrivals=self.arrivals) for r in self.rate
        ]


class SloSpec(_Spec):
    """Promise to users, in seconds. Requests meeting all of them are good."""

    ttft_from_schedule_s: float | None = Field(default=None, gt=0)
    ttft_s: float | None = Field(default=None, gt=0)
    ttfvt_s: float | None = Field(default=None, gt=0, description="to the first visible token, after any reasoning")
    tpot_s: float | None = Field(default=None, gt=0)
    e2el_s: float | None = Field(default=None, gt=0)
    attainment: float = Field(default=0.99, gt=0, le=1)

    @property
    def limits(self) -> dict[str, float]:
        """metric -> seconds, of those that are set."""
        return {k: v for k, v in self.model_dump(exclude={"attainment"}).items() if v is not None}


class CostSpec(_Spec):
    """What the cost stage is told: never measured, always printed."""

    utilisation: float = Field(default=1.0, gt=0, le=1, description="served load / paid capacity, declared")
    input_output_price_ratio: float | None = Field(default=None, gt=0, description="output $/token over input $/token")
    hosted: list[PriceRef] = Field(default_factory=list)


class ObserveSpec(_Spec):
    gpu: Literal["auto", "required", "off"] = "auto"
    gpu_hz: float = Field(default=10, gt=0, le=100)
    server_hz: float = Field(default=1, gt=0, le=10)
    host_hz: float = Field(default=2, gt=0, le=10)


class TimeoutSpec(_Spec):
    connect_s: float | None = Field(default=10, gt=0)
    first_token_s: float | None = Field(default=300, gt=0)
    idle_s: float | None = Field(default=120, gt=0)
    total_s: float | None = Field(default=900, gt=0)

    def record(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_token_s, self.idle_s, self.total_s)


class CoolDownSpec(_Spec):
    """Pause before a cell until the GPUs are back where they were before the campaign; without NVML there is none."""

    margin_c: float = Field(default=5, ge=0, description="degrees above the temperature before the campaign")
    margin_mhz: float = Field(default=150, ge=0, description="SM clock this far from that of the idle server")
    timeout_s: float = Field(default=120, ge=0, description="wait no longer than this; 0: never")


class NotifySpec(_Spec):
    """Who is told when a campaign ends. A notice that cannot be given is a warning."""

    webhook_env: str | None = Field(
        default=None, description="environment variable with the URL to POST the summary to"
    )
    command: list[str] = Field(default_factory=list, description="program and words; the summary as JSON on its stdin")
    mail: str | None = Field(default=None, description="address, through this machine's sendmail")


class ExperimentSpec(_Spec):
    """An experiment file: every cell of targets x workloads x loads x repetitions."""

    experiment: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    description: str = ""
    seed: int = Field(default=1, ge=0, lt=2**63)
    targets: list[TargetSpec] = Field(min_length=1)
    workloads: list[str] = Field(min_length=1)
    loads: list[LoadSpec] = Field(min_length=1)
    repetitions: int = Field(default=1, ge=1)
    warmup_requests: int = Field(default=4, ge=0)
    context_limit_tokens: int | None = Field(
        default=None, ge=2, description="prompt + output above it are redrawn and counted"
    )
    driver: Literal["wire", "sdk"] = "wire"
    workers: int = Field(default=1, ge=1, le=64)
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
    max_hours: float | None = Field(default=None, gt=0, description="whole repetitions that do not fit are dropped")
    min_free_gib: float = Field(default=1, ge=0, description="disk space that must stay free")
    notify: NotifySpec = NotifySpec()

    @field_validator("targets")
    @classmethod
    def _names_differ(cls, targets: list[TargetSpec]) -> list[TargetSpec]:
        names = [t.name for t in targets]
        if len(set(names)) != len(names):
            raise ValueError(f"target names must differ: {names}")
        return targets

    @model_validator(mode="after")
    def _batches_for_offline(self) -> ExperimentSpec:
        offline = any(target.kind == "offline" for target in self.targets)
        if offline and any(load.arrivals != "batch" or load.capacity is not None for load in self.loads):
            raise ValueError("a target of kind offline takes batches: its loads are {arrivals: batch, requests: N}")
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


def _fields_at(spec: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Names allowed where an unknown key was found, by walking the specs along pydantic's location."""
    for part in loc[:-1]:
        if isinstance(part, int):
            continue
        inner = spec.model_fields[part].annotation if part in spec.model_fields else None
        found = [a for a in (inner, *get_args(inner)) if isinstance(a, type) and issubclass(a, BaseModel)]
        if not found:
            return []
        spec = found[0]
    return list(spec.model_fields)


def config_error(source: str, error: ValidationError, spec: type[BaseModel] = ExperimentSpec) -> ConfigError:
    """The first thing wrong with `spec`'s data, an unknown key with the nearest one."""
    found = error.errors()  # an unknown key explains a missing one: report it first
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    loc = first["loc"]
    where = ".".join(str(p) for p in loc) or "(top level)"
    if first["type"] == "extra_forbidden":
        allowed = _fields_at(spec, loc)
        near = difflib.get_close_matches(str(loc[-1]), allowed, n=1, cutoff=0.5)
        advice = f"did you mean {near[0]!r}?" if near else f"keys allowed here: {', '.join(allowed)}"
        return ConfigError(f"{source}: unknown key", where, advice)
    if first["type"] == "missing":
        return ConfigError(
            f"{source}: missing key", where, "add it; README.md and configs/experiments/quickstart.yaml show every key"
        )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return ConfigError(
        f"{source}: bad value",
        f"{where} = {first.get('input')!r}"[:300],
        f"{first['msg'].removeprefix('Value error, ')}{more}",
    )


def parse_experiment(data: Any, source: str) -> ExperimentSpec:
    """Validate plain data as an experiment; `source` names it in errors. Raises ConfigError."""
    if not isinstance(data, dict):
        raise ConfigError(
            f"{source}: not an experiment",
            type(data).__name__,
            "the file must be a YAML mapping with the key 'experiment'",
        )
    try:
        return ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(source, error) from None


def load_yaml(path: Path) -> Any:
    """Read a YAML file; raises ConfigError with line and column where it does not parse."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("no such config file", path, "configs/experiments/ has examples") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("config file cannot be read", path, str(error)) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError("config file is not valid YAML", at, str(getattr(error, "problem", error))) from None


def load_experiment(path: Path) -> ExperimentSpec:
    """Read and validate an experiment file. Raises ConfigError."""
    return parse_experiment(load_yaml(path), str(path))
