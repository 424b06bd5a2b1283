"""A published throughput table as a file: where it comes from, what each row says, and which cell of ours it maps to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from harness.base import bounds
from harness.base.bounds import Spec, config_error
from harness.base.documents import exists, load_yaml
from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.config.experiment import ExperimentSpec
from harness.config.load import LoadSpec
from harness.config.model.shape import ModelShape, foreign_shape, load_model
from harness.config.target import Flag, TargetSpec
from harness.records.metrics import METRICS

# Unit of a published figure -> (unit of the metric in harness.records.metrics, factor from that to it). "/GPU" divides by the GPUs.
UNITS: dict[str, tuple[str, float]] = {
    "tokens/s": ("tokens/s", 1.0),
    "tokens/s/GPU": ("tokens/s", 1.0),
    "requests/s": ("1/s", 1.0),
    "s": ("s", 1.0),
    "ms": ("s", 1000.0),
}
STREAM_TPS = "stream_tps"  # 1 / TPOT: how fast one reply's tokens come; not a metric of a run, but what tables print
STREAM_FORMULA = "1 / TPOT of a request"


class Source(Spec):
    """Where the table was published. `date` is the publication's own; null where it says none."""

    name: str
    url: str
    date: str | None = None
    licence: str | None = None
    note: str = ""


class PublishedSetup(Spec):
    """What the source says of its measurement; null is "not stated", never a guess. A row's own words win over the table's."""

    hardware: str | None = None
    model: str | None = None
    weights: str | None = None
    vllm: str | None = None
    shape: str | None = None
    load: str | None = None
    flags: str | None = None
    requests: str | None = Field(default=None, description="what the source's client asked of the server")
    definition: str | None = Field(default=None, description="how the source defines its metric")
    repetitions: str | None = None


class Figure(Spec):
    """One published number. `column`: of one stream (one request as its user sees it), or of the server as a whole.

    `value` is null where the source gives the settings and no number. `column_stated` is false where the source does not say
    which of the two it means: it is then compared in both, in rows of their own.
    """

    metric: str
    statistic: Literal["mean", "p50", "p90", "p95", "p99"] | None = None
    column: Literal["single_stream", "aggregate"]
    value: bounds.Volume | None = None
    unit: str
    column_stated: bool = True
    definition: str | None = None

    @model_validator(mode="after")
    def _known(self) -> Figure:
        metric = METRICS.get(self.metric)
        if metric is None and self.metric != STREAM_TPS:
            raise ValueError(f"metric {self.metric!r} is unknown: {', '.join([*METRICS, STREAM_TPS])}")
        unit = metric.unit if metric else "tokens/s"
        if UNITS.get(self.unit, ("",))[0] != unit:
            fits = [name for name, (of, _) in UNITS.items() if of == unit]
            raise ValueError(f"{self.metric} is in {unit}: the unit {self.unit!r} does not fit, use one of {fits}")
        if (metric is None or metric.per != "run") and self.statistic is None:
            raise ValueError(f"{self.metric} is a distribution: say which statistic (mean, p50, ..)")
        if metric and metric.per == "run" and self.statistic:
            raise ValueError(f"{self.metric} is one number a run: it has no statistic")
        return self


class TableTarget(Spec):
    """How the table's server is started here. `gpus`: how many it needs, 0 where it runs on a CPU too.

    `shape`: the model's config, by name (configs/models) or written out, so that its memory is known where its files are not.
    """

    label: bounds.Word
    model: bounds.Word
    gpus: bounds.Count = 0
    shape: str | dict[str, Any] | None = None
    context_tokens: bounds.Tokens | None = Field(default=None, ge=1)
    flags: dict[str, Flag] = Field(default_factory=dict)
    env: dict[str, str] = Field(default_factory=dict)
    body: Literal["exact", "plain"] = "exact"
    start_timeout_s: bounds.Seconds | None = None

    def spec(self, name: str) -> TargetSpec:
        return TargetSpec(
            name=name,
            kind="vllm",
            model=self.model,
            flags=self.flags,
            env=self.env,
            body=self.body,
            start_timeout_s=self.start_timeout_s,
        )

    def model_shape(self) -> ModelShape | None:
        """Raises ConfigError where the config is not one of a model that is modelled."""
        match self.shape:
            case None:
                return None
            case str():
                return load_model(self.shape)
            case _:
                return foreign_shape(self.shape, self.label)


class Row(Spec):
    """One row of the table, and the one cell of ours that stands for it."""

    name: bounds.Slug
    target: bounds.Word
    workload: bounds.Word
    load: LoadSpec
    published: PublishedSetup = PublishedSetup()
    figures: list[Figure] = Field(min_length=1)
    note: str = ""

    @model_validator(mode="after")
    def _one_cell(self) -> Row:
        if len(self.load.points()) != 1:
            raise ValueError(f"row {self.name!r} must be one cell: its load has {len(self.load.points())} points")
        return self


class PublishedTable(Spec):
    """A file of configs/experiments/tables. Targets by name; rows in the order they are printed."""

    table: bounds.Slug
    title: bounds.Word
    source: Source
    published: PublishedSetup = PublishedSetup()
    seed: int = Field(default=1, ge=0, lt=2**63)
    repetitions: Annotated[int, bounds.within(1, 1000, "repetitions of every row")] = 1
    warmup_requests: bounds.Count = 4
    targets: dict[bounds.Name, TableTarget] = Field(min_length=1)
    rows: list[Row] = Field(min_length=1, max_length=1000)

    @model_validator(mode="after")
    def _rows_fit(self) -> PublishedTable:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"row names must differ: {sorted({n for n in names if names.count(n) > 1})} twice")
        for row in self.rows:
            if row.target not in self.targets:
                raise ValueError(f"row {row.name!r}: no target {row.target!r}; there are {list(self.targets)}")
        cells = [(row.target, row.workload, row.load.points()[0].name) for row in self.rows]
        if len(set(cells)) != len(cells):
            raise ValueError("two rows are the same cell (target, workload, load): put their figures into one row")
        return self

    def experiment(self, rows: list[Row]) -> ExperimentSpec:
        """The experiment of rows that share target and workload: one server, one cell a row and repetition."""
        first = rows[0]
        return ExperimentSpec(
            experiment=f"reproduce-{self.table}",
            description=f"{self.title}: {self.source.name}",
            seed=self.seed,
            targets=[self.targets[first.target].spec(first.target)],
            workloads=[first.workload],
            loads=[row.load for row in rows],
            repetitions=self.repetitions,
            warmup_requests=self.warmup_requests,
        )

    def setup(self, row: Row) -> PublishedSetup:
        """What the source says of this row: the row's own words over the table's."""
        own = {k: v for k, v in row.published.model_dump().items() if v is not None}
        return self.published.model_copy(update=own)


def tables() -> dict[str, Path]:
    """The tables that come with the harness, by name."""
    return {path.stem: path for path in sorted((data_dir("configs") / "experiments" / "tables").glob("*.yaml"))}


def load_table(name: str) -> PublishedTable:
    """A table by path, or by the name of one that comes with the harness. Raises ConfigError."""
    path = tables().get(name, Path(name))
    if not exists(path):
        raise ConfigError("no such table", name, f"give a file, or one of {', '.join(tables()) or 'none here'}")
    data = load_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}: not a table", type(data).__name__, "the file must be a mapping with the key 'table'"
        )
    try:
        return PublishedTable.model_validate(data)
    except ValidationError as error:
        raise config_error(str(path), error, PublishedTable, "configs/experiments/tables/ has examples") from None
