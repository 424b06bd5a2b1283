"""What a monitor's config says: which servers it reads, what their machines cost, and what was promised to their users."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from harness.base import bounds, redaction
from harness.base.bounds import Spec, config_error, within
from harness.base.documents import load_yaml
from harness.config.experiment import SloSpec
from harness.config.price_ref import PriceRef
from harness.config.target import HardwareSpec


def _without_secret(url: str) -> str:
    if what := redaction.url_secret(url):
        raise ValueError(f"it carries {what}: a metrics page is read without; put a proxy that asks for none before it")
    return url


PageUrl = Annotated[bounds.Word, AfterValidator(_without_secret)]
Engine = Literal["vllm", "sglang", "tgi", "llamacpp", "dynamo"]


class KubernetesSpec(Spec):
    """Pods by label, asked of the API server with the pod's own service account (read-only: list pods)."""

    namespace: bounds.Word
    selector: bounds.Word = Field(description="label selector: app=vllm")
    port: Annotated[int, within(1, 65_535, "a TCP port")] = 8000
    path: str = "/metrics"


class PrometheusSpec(Spec):
    """A Prometheus server that scrapes the servers already: nothing is scraped twice, and its history is there from the first minute."""

    url: PageUrl
    selector: str = Field(default="", description='PromQL label matchers: job="vllm", namespace="chat"')
    history_s: bounds.Seconds = Field(default=86_400, description="how far back is read at the start")


class PoolSpec(Spec):
    """Servers that serve the same thing at the same price. One of servers, dns, kubernetes and prometheus says where they are."""

    name: bounds.Name
    engine: Engine = "vllm"
    servers: list[PageUrl] = Field(default_factory=list, max_length=10_000, description="URLs of their metrics pages")
    dns: str | None = Field(default=None, description="host:port; every address of it is a server, read at /metrics")
    kubernetes: KubernetesSpec | None = None
    prometheus: PrometheusSpec | None = None
    hardware: HardwareSpec | str | None = Field(
        default=None, description="price of a machine, or an instance's name: aws/g5.12xlarge"
    )
    servers_per_machine: Annotated[int, within(1, 1000, "servers that share one machine's price")] = 1
    telemetry_url: PageUrl | None = Field(default=None, description="page of a DCGM exporter with this pool's boards")
    nvml: bool = Field(default=False, description="this machine's boards are the pool's, read through NVML")
    tenant_label: str | None = Field(default=None, description="label of the series that names who is served")
    slo: SloSpec | None = None
    hosted: list[PriceRef] = Field(default_factory=list, description="hosted APIs that could serve the same")
    headroom: bounds.Share = Field(default=0.7, description="share of the capacity that a replica is planned to carry")
    spares: Annotated[int, within(0, 1000, "replicas kept beside those that are needed")] = 1

    @model_validator(mode="after")
    def _one_place(self) -> PoolSpec:
        named = [key for key in ("servers", "dns", "kubernetes", "prometheus") if getattr(self, key)]
        if len(named) != 1:
            raise ValueError("say where its servers are by one of servers, dns, kubernetes and prometheus")
        return self

    @model_validator(mode="after")
    def _prices_are_dated(self) -> PoolSpec:
        for ref in self.hosted:
            if ref.input_usd_per_million is not None and ref.as_of is None:
                raise ValueError(f"the price of {ref.name} has no date: add as_of, the day it was looked up")
        if isinstance(self.hardware, HardwareSpec) and self.hardware.example:
            raise ValueError("an example price is nobody's quote: declare what this machine costs")
        return self


class BudgetSpec(Spec):
    """What may be spent; alerts and advice are held against it."""

    usd_per_million_output_tokens: bounds.UsdPerHour | None = None
    usd_per_month: bounds.UsdPerHour | None = None


class MonitorSpec(Spec):
    """A monitor: pools of servers, how often they are read, and where the readings are kept."""

    name: bounds.Name
    pools: list[PoolSpec] = Field(min_length=1, max_length=1000)
    interval_s: Annotated[float, within(1, 300, "seconds from one scrape of a server to the next")] = 15
    store: bounds.Word = Field(default="results/monitor", description="a folder, or an fsspec URL: s3://bucket/monitor")
    results: bounds.Word = Field(default="results", description="measured capacities come from the runs here")
    retention_days: Annotated[int, within(32, 3660, "days that readings are kept, a whole month at least")] = 400
    most_rows_per_server: Annotated[int, within(1, 10_000, "(model, tenant) rows a server a minute")] = 100
    budget: BudgetSpec = BudgetSpec()
    usd_per_kwh: bounds.UsdPerHour | None = Field(default=None, description="where power is paid beside the machine")

    @model_validator(mode="after")
    def _names_once(self) -> MonitorSpec:
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise ValueError("two pools have one name")
        listed = Counter(url.partition("//")[2] or url for pool in self.pools for url in pool.servers)
        if twice := next((url for url, count in listed.items() if count > 1), None):
            raise ValueError(f"{twice} is listed twice, and would count twice")
        return self


def load_monitor(path: Path) -> MonitorSpec:
    """The monitor that the YAML file says. Raises ConfigError: what, which value, what to try."""
    data = load_yaml(path)
    try:
        return MonitorSpec.model_validate(data)
    except ValidationError as error:
        raise config_error(str(path), error, MonitorSpec) from None
