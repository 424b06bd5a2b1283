"""What each engine's page calls what a monitor reads: the dated data of configs/server_series, one file an engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import get_args

from harness.base.documents import load_yaml
from harness.base.files import data_dir
from harness.config.monitor import Engine
from harness.records import HISTOGRAMS

READ = (
    "prompt_tokens", "cached_tokens", "output_tokens", "requests", "errors", "preemptions", "draft_tokens", "accepted_tokens",
    "running", "waiting", "kv_cache_use", *HISTOGRAMS,
)  # fmt: skip
LATER = ("draft_tokens", "accepted_tokens", "errors")  # there only once there is one: their lack is no fault
MEANS = ("kv_cache_use",)  # over a server's engines; all others are sums


@dataclass(frozen=True, slots=True)
class SeriesName:
    """A name on the page; `where`: label -> the values that count; `plus`: a series whose values are added to its own."""

    name: str
    source: str
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    plus: str = ""

    def holds(self, name: str, labels: Mapping[str, str]) -> bool:
        right = all(labels.get(label) in values for label, values in self.where.items())
        return name in (self.name, self.plus) and right


@dataclass(frozen=True, slots=True)
class EngineSeries:
    """Meaning (of READ) -> its names, newest first; `model_label`: which label names the served model, "" where none does."""

    engine: str
    series: Mapping[str, tuple[SeriesName, ...]]
    model_label: str

    @property
    def names(self) -> frozenset[str]:
        """Every name that is read."""
        found = {word for names in self.series.values() for one in names for word in (one.name, one.plus) if word}
        return frozenset(found)


@cache
def engine_series(engine: str) -> EngineSeries:
    """The names of one engine. Raises ConfigError: its file cannot be read."""
    document = load_yaml(data_dir("configs") / "server_series" / f"{engine}.yaml")
    series = {
        meaning: tuple(
            SeriesName(
                one["name"],
                one["source"],
                {label: tuple(values) for label, values in one.get("where", {}).items()},
                one.get("plus", ""),
            )
            for one in names
            if one["unit"] != "blocks"  # of a size that the page does not tell
        )
        for meaning, names in document.items()
        if meaning in READ
    }
    model = document.get("model")
    return EngineSeries(engine, series, model[0]["name"] if model else "")


def engine_of(names: frozenset[str]) -> str | None:
    """The engine whose series these are, where they are one's."""
    counts = {engine: len(engine_series(engine).names & names) for engine in get_args(Engine)}
    best = max(counts, key=lambda engine: counts[engine])
    return best if counts[best] else None
