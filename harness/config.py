"""YAML -> frozen, validated specs. An unknown key is an error that names the nearest key.

The specs here are what an experiment file may say; `load_experiment` reads one. Workload short forms
(`fixed:128x32`) stay text here: `plan` reads them.
"""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from harness import bounds, redaction
from harness.bounds import within
from harness.documents import load_yaml
from harness.errors import ConfigError, StoreError
from harness.records import Load, Timeouts

_S = TypeVar("_S", bound=BaseModel)
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

    name: bounds.Word
    usd_per_hour: bounds.UsdPerHour = Field(description="whole instance, per paid hour")
    source: bounds.Word = Field(description="where the price comes from")
    as_of: bounds.Day = Field(description="date of the price, YYYY-MM-DD")
    gpu_model: str | None = Field(default=None, description="what the price is for: H100-SXM, A10G ..")
    gpu_count: bounds.Count | None = Field(default=None, description="GPUs that the price is for")


class PriceRef(_Spec):
    """A hosted price: provider and model id as genai-prices names them, or an own price per million tokens.

    `cached_input_tokens`, `cache_write_.._tokens`: what the API's own prompt cache does with one request, as declared.
    """

    provider: bounds.Word
    model: bounds.Word
    input_usd_per_million: bounds.UsdPerMillion | None = None
    output_usd_per_million: bounds.UsdPerMillion | None = None
    cached_input_usd_per_million: bounds.UsdPerMillion | None = None
    cache_write_5m_usd_per_million: bounds.UsdPerMillion | None = None
    cache_write_1h_usd_per_million: bounds.UsdPerMillion | None = None
    cached_input_tokens: bounds.Tokens | None = Field(
        default=None, description="of a prompt, read from the API's cache"
    )
    cache_write_5m_tokens: bounds.Tokens = Field(default=0, description="of a prompt, written into it for 5 minutes")
    cache_write_1h_tokens: bounds.Tokens = Field(default=0, description="of a prompt, written into it for an hour")
    source: str | None = None
    as_of: bounds.Day | None = None

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


class TargetSpec(_Spec):
    """One server. `vllm`: started by us. `adopt`: a vLLM server at `url` that somebody else started.
    `hosted`: any OpenAI-compatible API at `url`, key in the environment variable `api_key_env`.
    `offline`: `vllm.LLM` in a process of its own, given whole batches; `batch_order` and `batch_size` say how they are cut."""

    name: bounds.Name
    kind: Literal["vllm", "adopt", "hosted", "offline"]
    model: bounds.Word = Field(
        description="embedded:smollm2-135m | embedded:tiny | path | hub name; for a URL its served name"
    )
    url: str | None = None
    api: Literal["completions", "chat"] = "completions"
    api_key_env: str | None = None
    ca_file: str | None = None
    flags: dict[str, str | int | float | bool] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    port: int | None = Field(default=None, ge=1, le=65535)
    start_timeout_s: bounds.Seconds = 900
    batch_order: Literal["as_planned", "grouped_by_length", "sorted"] = "as_planned"
    batch_size: bounds.Requests = Field(default=256, description="requests in a group of grouped_by_length")
    hardware: HardwareSpec | str | None = Field(
        default=None, description="a price, or an instance's name: aws/g5.12xlarge"
    )

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        if url is not None and (what := redaction.url_secret(url)):
            raise ValueError(f"it carries {what}: put the key into an environment variable, name that in api_key_env")
        return url

    @field_validator("api_key_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("give the name of the environment variable that holds the key, not the key")
        return name

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

    start_rps: bounds.Rate = Field(
        description="first guess, e.g. from a closed loop; a factor of 10 off costs about 4 probes"
    )
    min_rps: bounds.Rate | None = Field(default=None, description="lowest rate tried; default start_rps / 64")
    max_rps: bounds.Rate | None = Field(default=None, description="highest rate tried; default 64 x start_rps")
    probe_s: tuple[bounds.SecondsOrNone, bounds.SecondsOrNone] = Field(
        default=(60, 600), description="shortest and longest probe, seconds"
    )
    probes: int = Field(default=12, ge=2, le=12)
    tolerance: Annotated[float, within(1e-3, 0.5, "half an interval as a share of the capacity")] = Field(
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

    concurrency: list[int] = Field(default_factory=list, max_length=1000)
    rate: list[float] = Field(default_factory=list, max_length=1000)
    arrivals: Annotated[str, Field(max_length=1000)] = Field(
        default="poisson",
        description="poisson | constant | gamma:SHAPE | onoff:ON_S:OFF_S[:OFF_SHARE] | diurnal:NAME[:DAY_S] | ramp[:FROM-TO] | "
        "step:A,B,.. | trace[:SPEEDUP] | batch | preset",
    )
    requests: bounds.Requests | None = Field(default=None, description="requests a cell; or use duration_s")
    requests_per_slot: bounds.Requests | None = Field(
        default=None, description="closed loop: requests = this x concurrency"
    )
    duration_s: bounds.Seconds | None = None
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
        most = bounds.MOST_IN_FLIGHT
        bad = [*(c for c in self.concurrency if not 1 <= c <= most), *(r for r in self.rate if not 1e-5 <= r <= 1e6)]
        if bad:
            advice = "concurrency must be >= 1 and rate > 0; at most {:,} in flight, 0.00001 to 1,000,000 requests/s"
            raise ValueError(f"{bad[0]!r}: {advice.format(most)}")
        if (self.requests_per_slot or 0) * max(self.concurrency, default=0) > bounds.MOST_REQUESTS:
            raise ValueError(f"requests_per_slot x concurrency: at most {bounds.MOST_REQUESTS:,} requests a cell")
        given = [k for k in ("requests", "requests_per_slot", "duration_s") if getattr(self, k) is not None]
        if len(given) != 1 and not (process == "trace" and not given):  # without a number: the whole trace
            raise ValueError(
                f"a load needs exactly one of requests, requests_per_slot, duration_s; given: {given or 'none'}"
            )
        if not self.concurrency and self.requests_per_slot:
            raise ValueError("requests_per_slot belongs to concurrency; use requests or duration_s with rate")
        return self

    def size(self) -> int:
        """How many points."""
        return max(1, len(self.concurrency) + len(self.rate))

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


class CostSpec(_Spec):
    """What the cost stage is told: never measured, always printed."""

    utilisation: bounds.Share = Field(default=1.0, description="served load / paid capacity, declared")
    input_output_price_ratio: bounds.Ratio | None = Field(default=None, description="output $/token over input $/token")
    hosted: list[PriceRef] = Field(default_factory=list)


class ObserveSpec(_Spec):
    gpu: Literal["auto", "required", "off"] = "auto"
    gpu_hz: bounds.Hertz = 10
    server_hz: bounds.Hertz = Field(default=1, le=10)
    host_hz: bounds.Hertz = Field(default=2, le=10)


class TimeoutSpec(_Spec):
    connect_s: bounds.Seconds | None = 10
    first_token_s: bounds.Seconds | None = 300
    idle_s: bounds.Seconds | None = 120
    total_s: bounds.Seconds | None = 900

    def record(self) -> Timeouts:
        return Timeouts(self.connect_s, self.first_token_s, self.idle_s, self.total_s)


class CoolDownSpec(_Spec):
    """Pause before a cell until the GPUs are back where they were before the campaign; without NVML there is none."""

    margin_c: Annotated[float, within(0, 200, "degrees")] = Field(
        default=5, description="degrees above the temperature before the campaign"
    )
    margin_mhz: Annotated[float, within(0, 10_000, "MHz")] = Field(
        default=150, description="SM clock this far from that of the idle server"
    )
    timeout_s: bounds.SecondsOrNone = Field(default=120, description="wait no longer than this; 0: never")


class NotifySpec(_Spec):
    """Who is told when a campaign ends. A notice that cannot be given is a warning."""

    webhook_env: str | None = Field(
        default=None, description="environment variable with the URL to POST the summary to"
    )
    command: list[str] = Field(default_factory=list, description="program and words; the summary as JSON on its stdin")
    mail: str | None = Field(default=None, description="address, through this machine's sendmail")


class ExperimentSpec(_Spec):
    """An experiment file: every cell of targets x workloads x loads x repetitions."""

    experiment: bounds.Slug
    description: str = ""
    seed: int = Field(default=1, ge=0, lt=2**63)
    targets: list[TargetSpec] = Field(min_length=1, max_length=1000)
    workloads: list[bounds.Word] = Field(min_length=1, max_length=1000)
    loads: list[LoadSpec] = Field(min_length=1, max_length=1000)
    repetitions: int = Field(default=1, ge=1)
    warmup_requests: bounds.Count = 4
    context_limit_tokens: bounds.Tokens | None = Field(
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
    max_hours: Annotated[float, within(1e-3, 24 * 366, "hours, at most a year")] | None = Field(
        default=None, gt=0, description="whole repetitions that do not fit are dropped"
    )
    min_free_gib: Annotated[float, within(0, 1e6, "GiB")] = Field(
        default=1, ge=0, description="disk space that must stay free"
    )
    notify: NotifySpec = NotifySpec()

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


_MAY_BE_SECRET = (("url",), ("api_key_env",))


def config_error(source: str, error: ValidationError, spec: type[BaseModel] = ExperimentSpec) -> ConfigError:
    """The first thing wrong with `spec`'s data, an unknown key with the nearest one. Of a mapping, and of what may be a credential,
    only the place is told."""
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
    given = first.get("input")
    untold = isinstance(given, dict | list) or loc[-1:] in _MAY_BE_SECRET or any(map(redaction.is_secret, loc))
    return ConfigError(
        f"{source}: bad value",
        where if untold else redaction.text(f"{where} = {given!r}")[:300],
        f"{first['msg'].removeprefix('Value error, ')}{more}",
    )


def of_run(spec: type[_S], data: Any, run_id: str) -> _S:
    """Part of the config that a stored run was made with. Raises StoreError."""
    try:
        return spec.model_validate(data)
    except ValidationError as error:
        found = config_error(f"config of run {run_id}", error, spec)
        raise StoreError(found.what, found.value, f"{found.advice}; its manifest.json is damaged") from None


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
        return ExperimentSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(source, error) from None


def load_experiment(path: Path) -> ExperimentSpec:
    """Read and validate an experiment file. Raises ConfigError."""
    return parse_experiment(load_yaml(path), str(path))
