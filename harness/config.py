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

from pydantic import (
    BaseModel,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from harness import bounds, redaction
from harness.bounds import Spec, within
from harness.documents import load_yaml
from harness.errors import ConfigError, StoreError
from harness.load_spec import LoadSpec
from harness.records import Timeouts

_S = TypeVar("_S", bound=BaseModel)
_ROOT = Path(__file__).resolve().parent


def data_dir(name: str) -> Path:
    """`workloads` or `configs`: inside the installed package, else beside it in a checkout."""
    packaged = _ROOT / "_data" / name
    return packaged if packaged.is_dir() else _ROOT.parent / name


class HardwareSpec(Spec):
    """Price of the machine that a target runs on, as the user declares it."""

    name: bounds.Word
    usd_per_hour: bounds.UsdPerHour = Field(description="whole instance, per paid hour")
    source: bounds.Word = Field(description="where the price comes from")
    as_of: bounds.Day = Field(description="date of the price, YYYY-MM-DD")
    gpu_model: str | None = Field(default=None, description="what the price is for: H100-SXM, A10G ..")
    gpu_count: bounds.Count | None = Field(default=None, description="GPUs that the price is for")
    example: bool = Field(
        default=False,
        description="made up for an experiment that comes with the harness: it is dropped wherever anything else runs",
    )

    @model_validator(mode="after")
    def _example_of_no_gpu(self) -> HardwareSpec:
        if self.example and (self.gpu_model or self.gpu_count):
            raise ValueError(
                "an example price names no GPU: a real machine's price is no example, leave out one of the two"
            )
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `example` where it is not one: the config of a campaign that began before the key was known stays the same."""
        written: dict[str, Any] = write(self)
        return written if self.example else {k: v for k, v in written.items() if k != "example"}


class PriceRef(Spec):
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


Flag = str | int | float | bool | Annotated[list[str | int | float], Field(min_length=1)]


class TargetSpec(Spec):
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
    body: Literal["exact", "plain"] = Field(
        default="exact",
        description="what is asked of a vLLM server beside prompt, max_tokens and ignore_eos: exact: token ids, min_tokens and "
        "usage in every chunk; plain: text and usage at the end, as other tools send it",
    )
    api_key_env: str | None = None
    ca_file: str | None = None
    flags: dict[str, Flag] = Field(
        default_factory=dict, description="of `vllm serve`; a list where it takes several values"
    )
    env: dict[str, str] = Field(default_factory=dict)
    python: bounds.Word | None = Field(default=None, description="interpreter whose vLLM is started; None: ours")
    image: bounds.Word | None = Field(default=None, description="container image whose `vllm serve` is started")
    container: Literal["docker", "podman"] | None = Field(
        default=None, description="engine of `image`; None: the first there is"
    )
    port: int | None = Field(default=None, ge=1, le=65535)
    gpus: list[str] = Field(
        default_factory=list,
        max_length=1024,
        description="boards that the server computes on: indices of nvidia-smi, GPU or MIG UUIDs",
    )
    telemetry_url: str | None = Field(
        default=None, description="a DCGM exporter's /metrics on the server's machine; gpus says which of its boards"
    )
    metrics_urls: list[str] = Field(
        default_factory=list, max_length=256, description="/metrics of every rank or replica behind the URL; summed"
    )
    reset_prefix_cache: bool = Field(
        default=False, description="POST /reset_prefix_cache before a cell; vLLM has it in development mode only"
    )
    ready_silence_s: bounds.Seconds = Field(
        default=600, description="a start whose log says nothing new for so long has failed"
    )
    start_timeout_s: bounds.Seconds | None = Field(
        default=None, description="a start that takes longer has failed; None: no limit"
    )
    batch_order: Literal["as_planned", "grouped_by_length", "sorted"] = "as_planned"
    batch_size: bounds.Requests = Field(default=256, description="requests in a group of grouped_by_length")
    hardware: HardwareSpec | str | None = Field(
        default=None, description="a price, or an instance's name: aws/g5.12xlarge"
    )

    @field_validator("url", "telemetry_url", "metrics_urls")
    @classmethod
    def _no_credentials(cls, given: str | list[str] | None) -> str | list[str] | None:
        for url in given if isinstance(given, list) else [given]:
            if url is not None and (what := redaction.url_secret(url)):
                raise ValueError(
                    f"it carries {what}: put the key into an environment variable, name that in api_key_env"
                )
        return given

    @field_validator("telemetry_url", "metrics_urls")
    @classmethod
    def _is_a_page(cls, given: str | list[str] | None) -> str | list[str] | None:
        urls = given if isinstance(given, list) else [given]
        if any(url is not None and not re.match(r"https?://[^/\s]+/\S*$", url) for url in urls):
            raise ValueError("write the whole address of a metrics page: http://HOST:PORT/metrics")
        if len(set(urls)) != len(urls):
            raise ValueError("a page is named twice, and would count twice")
        return given

    @field_validator("gpus", mode="before")
    @classmethod
    def _boards(cls, gpus: Any) -> Any:
        """An index may be written as a number, and one board without a list."""
        given = gpus if isinstance(gpus, list) else [gpus]
        words = [
            str(word).strip() if isinstance(word, int | str) and not isinstance(word, bool) else word for word in given
        ]
        for word in words:
            if not isinstance(word, str) or not re.fullmatch(r"\d{1,4}|(GPU|MIG)-[\w/-]+", word):
                raise ValueError("a board is an index (0), a GPU UUID (GPU-..) or a MIG UUID (MIG-..)")
        return words

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
        own = {"python": self.python, "image": self.image, "container": self.container}
        if self.kind != "vllm" and (named := [key for key, value in own.items() if value is not None]):
            raise ValueError(f"target {self.name!r}: {named[0]} belongs to kind vllm")
        if self.body == "plain" and self.kind not in ("vllm", "adopt"):
            raise ValueError(f"target {self.name!r}: body belongs to kinds vllm and adopt; others have only one")
        if self.python is not None and self.image is not None:
            raise ValueError(f"target {self.name!r}: give python or image, not both")
        if self.container is not None and self.image is None:
            raise ValueError(f"target {self.name!r}: container is the engine that runs an image: give image too")
        if not ours and not self.url:
            raise ValueError(f"target {self.name!r} of kind {self.kind} needs a url")
        if ours and self.url:
            raise ValueError(f"target {self.name!r}: kind {self.kind} starts its own server; use kind adopt with url")
        return self


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

    @property
    def attainment(self) -> float:
        """Share of requests that are to be within the promise."""
        return self.slo.attainment if self.slo else 0.99

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


_MAY_BE_SECRET = (("url",), ("api_key_env",), ("telemetry_url",), ("metrics_urls",))


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
