"""What a config may say of a target: how its server is started or reached, what is sent to it, which boards and price are its own;
and what the flags of a vLLM server ask for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from harness.base import bounds, redaction
from harness.base.bounds import Spec, within
from harness.config.limits import LimitsSpec
from harness.config.policy import PolicySpec
from harness.config.preset import KEY_SOURCES, Api, Auth, OutputLimit, PresetUse, with_preset
from harness.config.price_ref import PriceRef
from harness.records import target_config

Flag = str | int | float | bool | Annotated[list[str | int | float], Field(min_length=1)]


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


_LATER = frozenset(  # keys that older campaigns do not have
    (
        "auth",
        "headers",
        "request",
        "output_limit",
        "price",
        "preset",
        "api_key_file",
        "api_key_command",
        "limits",
        "connections",
        "proxy_env",
        "region",
        "sides",
        "policy",
        "resources",
        "replicas",
    )
)
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110


class TargetSpec(Spec):
    """One server. `vllm`: started by us. `adopt`: a vLLM server at `url` that somebody else started.
    `hosted`: any API at `url`, its key in the environment variable `api_key_env`, the file `api_key_file`, or what `api_key_command`
    prints. `preset`: a provider's values for what is not said here (see preset.py).
    `offline`: `vllm.LLM` in a process of its own, given whole batches; `batch_order` and `batch_size` say how they are cut.
    `hybrid`: two other targets of the experiment, `sides: [own, hosted]`; `policy` chooses one for each request."""

    name: bounds.Name
    preset: PresetUse | None = Field(default=None, description="name of a file in configs/targets, or a file's path")
    kind: Literal["vllm", "adopt", "hosted", "offline", "hybrid"]
    model: bounds.Word = Field(
        description="embedded:smollm2-135m | embedded:tiny | path | hub name; for a URL its served name"
    )
    url: str | None = None
    api: Api = "completions"
    body: Literal["exact", "plain"] = Field(
        default="exact",
        description="what is asked of a vLLM server beside prompt, max_tokens and ignore_eos: exact: token ids, min_tokens and "
        "usage in every chunk; plain: text and usage at the end, as other tools send it",
    )
    api_key_env: str | None = None
    api_key_file: bounds.Word | None = Field(
        default=None, description="file with the key alone; nobody else may read it (chmod 600)"
    )
    api_key_command: list[bounds.Word] | None = Field(
        default=None, min_length=1, max_length=64, description="prints the key: a keyring's, a password store's"
    )
    auth: Auth = Field(
        default="bearer", description="header that the key goes in: Authorization: Bearer KEY, or one of that name"
    )
    headers: dict[str, str] = Field(
        default_factory=dict, max_length=32, description="sent with every request beside our own; no secrets"
    )
    request: dict[str, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="of every request's body beside our own: service_tier, reasoning_effort ..; null leaves one of ours out",
    )
    output_limit: OutputLimit | None = Field(
        default=None, description="the field that bounds a reply; None: what the API's documentation says"
    )
    price: PriceRef | None = Field(default=None, description="what a hosted API asks for its tokens")
    ca_file: str | None = None
    limits: LimitsSpec | None = Field(default=None, description="what the account may send, and whether we keep to it")
    connections: Literal["kept", "fresh"] = Field(
        default="kept", description="fresh: every request on a connection of its own, its set-up before each send"
    )
    proxy_env: str | None = Field(
        default=None,
        description="variable with the URL of the proxy to this target, loopback too; None: HTTPS_PROXY and its like, none for loopback",
    )
    region: bounds.Word | None = Field(default=None, description="where the API answers from, as its provider names it")
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
        description="boards that the server computes on: indices of nvidia-smi, GPU or MIG UUIDs; one of ours is shown no others",
    )
    telemetry_url: str | None = Field(
        default=None, description="a DCGM exporter's /metrics on the server's machine; gpus says which of its boards"
    )
    metrics_urls: list[str] = Field(
        default_factory=list, max_length=256, description="/metrics of every rank or replica behind the URL; summed"
    )
    replicas: list[str] = Field(
        default_factory=list,
        max_length=256,
        description="the servers behind a router at `url`; without a url our requests go to them in turn",
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
    resources: dict[bounds.Word, Annotated[float, within(1e-4, 1e6, "of a Ray resource")]] = Field(
        default_factory=dict, max_length=16, description="what a box of the fleet must have for it: {H100: 8}"
    )
    sides: list[bounds.Name] = Field(
        default_factory=list,
        max_length=2,
        description="of a hybrid: the target that is paid by the hour, and the hosted one",
    )
    policy: PolicySpec | None = Field(default=None, description="of a hybrid: which side a request is sent to")

    @model_validator(mode="before")
    @classmethod
    def _models_of_its_sides(cls, data: Any) -> Any:
        """A hybrid names no model: its sides do."""
        if not isinstance(data, dict) or data.get("kind") != "hybrid" or not isinstance(data.get("sides"), list):
            return data
        return {"model": f"those of {' and '.join(map(str, data['sides']))}"} | data

    @model_validator(mode="before")
    @classmethod
    def _own_boards_alone(cls, data: Any) -> Any:
        """A server of ours computes on the boards that `gpus` names: it is shown no others, numbered as nvidia-smi does."""
        if not isinstance(data, dict) or data.get("kind") not in ("vllm", "offline") or not data.get("gpus"):
            return data
        gpus, env = data["gpus"], data.get("env") or {}
        if not isinstance(env, dict):
            return data
        shown = ",".join(str(word).strip() for word in (gpus if isinstance(gpus, list) else [gpus]))
        if env.get("CUDA_VISIBLE_DEVICES", shown) != shown:
            raise ValueError("gpus and env CUDA_VISIBLE_DEVICES name different boards: leave the second out")
        return data | {"env": {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"} | env | {"CUDA_VISIBLE_DEVICES": shown}}

    @model_validator(mode="before")
    @classmethod
    def _of_its_preset(cls, data: Any) -> Any:
        return with_preset(data) if isinstance(data, dict) else data

    @model_validator(mode="before")
    @classmethod
    def _of_its_replicas(cls, data: Any) -> Any:
        """Their pages are scraped, and without a router the first stands for all where one is asked what it is."""
        replicas = data.get("replicas") if isinstance(data, dict) else None
        if not isinstance(replicas, list) or not all(isinstance(url, str) for url in replicas) or not replicas:
            return data
        pages = [f"{url.rstrip('/').removesuffix('/v1')}/metrics" for url in replicas]
        return {"url": replicas[0], "metrics_urls": pages} | {k: v for k, v in data.items() if v not in (None, [])}

    @field_validator("headers")
    @classmethod
    def _no_secret_header(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f"{name!r:.60} is no name of a header")
            if redaction.is_secret(name):
                raise ValueError(f"{name} holds a key: name its variable in api_key_env, and the header in auth")
            if not re.fullmatch(r"[\x20-\x7e]{0,1000}", value):
                raise ValueError(
                    f"the value of {name} cannot stand in a header: printable ASCII, at most 1,000 characters"
                )
        return headers

    @field_validator("url", "telemetry_url", "metrics_urls", "replicas")
    @classmethod
    def _no_credentials(cls, urls: str | list[str] | None) -> str | list[str] | None:
        for url in urls if isinstance(urls, list) else [urls]:
            if url is not None and (what := redaction.url_secret(url)):
                raise ValueError(
                    f"it carries {what}: put the key into an environment variable, name that in api_key_env"
                )
        return urls

    @field_validator("telemetry_url", "metrics_urls")
    @classmethod
    def _is_a_page(cls, words: str | list[str] | None) -> str | list[str] | None:
        urls = words if isinstance(words, list) else [words]
        if any(url is not None and not re.match(r"https?://[^/\s]+/\S*$", url) for url in urls):
            raise ValueError("write the whole address of a metrics page: http://HOST:PORT/metrics")
        if len(set(urls)) != len(urls):
            raise ValueError("a page is named twice, and would count twice")
        return words

    @field_validator("gpus", mode="before")
    @classmethod
    def _boards(cls, gpus: Any) -> Any:
        """An index may be written as a number, and one board without a list."""
        listed = gpus if isinstance(gpus, list) else [gpus]
        words = [
            str(word).strip() if isinstance(word, int | str) and not isinstance(word, bool) else word for word in listed
        ]
        for word in words:
            if not isinstance(word, str) or not re.fullmatch(r"\d{1,4}|(GPU|MIG)-[\w/-]+", word):
                raise ValueError(f"{word!r:.60} is no board: an index (0), a GPU UUID (GPU-..) or a MIG UUID (MIG-..)")
        return words

    @field_validator("api_key_env", "proxy_env")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise ValueError("give the name of the environment variable that holds it, not the value")
        return name

    @field_validator("api_key_file")
    @classmethod
    def _is_a_path(cls, path: str | None) -> str | None:
        if path is not None and not redaction.is_path(path):
            raise ValueError("write the path of the file that holds the key, not the key: it begins with / or ~/ or ./")
        return path

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what came later and is not used: the config of a campaign that began before such a key was known stays the same."""
        written: dict[str, Any] = write(self)
        fields = type(self).model_fields
        return {
            k: v
            for k, v in written.items()
            if k not in _LATER or getattr(self, k) != fields[k].get_default(call_default_factory=True)
        }

    @model_validator(mode="after")
    def _url_where_needed(self) -> TargetSpec:
        if self.kind == "hybrid":
            return self._of_two_sides()
        if self.sides or self.policy is not None:
            raise ValueError(f"target {self.name!r}: sides and policy belong to kind hybrid")
        ours = self.kind in ("vllm", "offline")
        if self.kind != "offline" and (self.batch_order, self.batch_size) != ("as_planned", 256):
            raise ValueError(f"target {self.name!r}: batch_order and batch_size belong to kind offline")
        if self.kind == "offline" and (
            named := [key for key in ("headers", "request", "output_limit") if getattr(self, key)]
        ):
            raise ValueError(f"target {self.name!r}: {named[0]} is sent to a server; kind offline has none")
        if self.replicas and self.kind != "adopt":
            raise ValueError(f"target {self.name!r}: replicas belong to kind adopt: servers that somebody else started")
        if self.replicas and (
            len(self.replicas) < 2 or len({replica_name(url) for url in self.replicas}) != len(self.replicas)
        ):
            raise ValueError(
                f"target {self.name!r}: replicas are two or more servers, each named once: {self.replicas}"
            )
        own = {"python": self.python, "image": self.image, "container": self.container}
        if self.kind != "vllm" and (named := [key for key, value in own.items() if value is not None]):
            raise ValueError(f"target {self.name!r}: {named[0]} belongs to kind vllm")
        if ours and (self.limits or self.proxy_env or self.region or self.connections != "kept"):
            raise ValueError(
                f"target {self.name!r}: limits, connections, proxy_env and region belong to kinds adopt and hosted"
            )
        if self.body == "plain" and self.kind not in ("vllm", "adopt"):
            raise ValueError(f"target {self.name!r}: body belongs to kinds vllm and adopt; others have only one")
        if self.python is not None and self.image is not None:
            raise ValueError(f"target {self.name!r}: give python or image, not both")
        sources = [key for key in KEY_SOURCES if getattr(self, key) is not None]
        if len(sources) > 1:
            raise ValueError(f"target {self.name!r}: give one of {' and '.join(sources)}")
        if ours and (named := [key for key in (*KEY_SOURCES[1:], "preset") if getattr(self, key) is not None]):
            raise ValueError(f"target {self.name!r}: {named[0]} belongs to kinds hosted and adopt")
        if self.container is not None and self.image is None:
            raise ValueError(f"target {self.name!r}: container is the engine that runs an image: give image too")
        if not ours and not self.url:
            raise ValueError(f"target {self.name!r} of kind {self.kind} needs a url")
        if ours and self.url:
            raise ValueError(f"target {self.name!r}: kind {self.kind} starts its own server; use kind adopt with url")
        return self

    @property
    def in_turn(self) -> bool:
        """Requests go to the replicas themselves, with no router before them."""
        return self.url in self.replicas

    def _of_two_sides(self) -> TargetSpec:
        if len(set(self.sides)) != 2:
            raise ValueError(f"target {self.name!r} of kind hybrid needs sides: [OWN, HOSTED], two targets' names")
        if self.policy is None:
            raise ValueError(f"target {self.name!r} of kind hybrid needs a policy, e.g. policy: {{rule: slo}}")
        fields = type(self).model_fields
        given = [key for key in fields if getattr(self, key) != fields[key].get_default(call_default_factory=True)]
        if others := [key for key in given if key not in ("name", "kind", "model", "sides", "policy")]:
            raise ValueError(f"target {self.name!r}: {others[0]} belongs to one of its sides: a hybrid only chooses")
        return self


def replica_name(url: str) -> str:
    """host:port, as telemetry and rows name a replica."""
    return urlsplit(url).netloc


def own_of(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The target of that name as a run's config writes it down; of a hybrid its own side. Empty where there is none."""
    found = target_config(config, name)
    return target_config(config, found["sides"][0]) if found.get("kind") == "hybrid" and found.get("sides") else found


def place_of(spec: TargetSpec) -> str | None:
    """Where the key is, in words for a message; None where the target names none."""
    if spec.api_key_env is not None:
        return f"the key in {spec.api_key_env}"
    if spec.api_key_file is not None:
        return f"the key in {spec.api_key_file}"
    return "the key of api_key_command" if spec.api_key_command is not None else None


# ---------------------------------------------------------------- flags of a vLLM server

_SIZES = {  # of two names that are given the first counts
    "tensor_parallel_size": ("tensor_parallel_size", "tp"),
    "pipeline_parallel_size": ("pipeline_parallel_size", "pp"),
    "data_parallel_size": ("data_parallel_size", "dp"),
}
_LOCAL = ("data_parallel_size_local", "dpl")  # ranks on this machine, where a server has some elsewhere


def flags_by_name(flags: Mapping[str, Any]) -> dict[str, Any]:
    """`--max-model-len` and `max_model_len` are one flag, under the second name."""
    return {str(name).lstrip("-").replace("-", "_"): value for name, value in flags.items()}


def parallel_sizes(flags: Mapping[str, Any], *, here: bool = False) -> dict[str, int]:
    """The sizes that `flags` name, under vLLM's long names; their product is the GPUs of all machines, with `here` of this one."""
    named, sizes = flags_by_name(flags), {}
    for size, names in _SIZES.items():
        ordered = (*_LOCAL, *names) if here and size == "data_parallel_size" else names
        value = next((named[name] for name in ordered if str(named.get(name)).isdigit()), None)
        if value is not None:
            sizes[size] = int(value)
    return sizes
