"""A workload SPEC: `NAME[?key=value&..]`, where NAME is a short form, a preset, a preset file or a trace file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from harness.base.documents import exists
from harness.base.errors import ConfigError, nearest
from harness.base.files import data_dir
from harness.measure.plan.arrivals import Process
from harness.measure.plan.histograms import Histograms, is_histograms, read_histograms
from harness.measure.plan.lengths import MAX_TOKENS, SHORT_FORMS, Lengths, parse_short_form
from harness.measure.plan.preset import Preset, load_preset, presets


@dataclass(frozen=True, slots=True)
class Options:
    """What may follow the `?`. All but `system` and `think` are for traces."""

    from_s: float | None = None  # `from`, `to`: seconds of the file's time, counted from its first row
    to_s: float | None = None
    limit: int | None = None  # rows kept at most
    sample: float = 1.0  # share of the sessions (of the rows, where there are none) that is kept, whole
    scale: float = 1.0  # all lengths and blocks times this
    skip_bad: bool = False  # count bad rows instead of stopping at the first
    context: str = "drop"  # rows above the context limit: drop | truncate (the prompt)
    gaps: str = "refuse"  # a pause of more than an hour: refuse | keep
    block: int | None = None  # tokens of a hash block, where the format does not say
    tokenizer: str | None = None  # local tokenizer.json for traces of texts
    system: int = 0  # tokens of a system prompt that all requests begin with
    think: float = 1.0  # think times of sessions times this


@dataclass(frozen=True, slots=True)
class Workload:
    """Exactly one of `lengths`, `trace` and `preset.sessions` is what requests are drawn from; `histograms`: the file that
    `lengths` come from, with its rates."""

    text: str
    options: Options
    lengths: Lengths | None = None
    preset: Preset | None = None
    trace: Path | None = None
    histograms: Histograms | None = None

    def own_process(self) -> Process | None:
        """What `--arrivals preset` means; None where the workload has no arrivals of its own."""
        if self.preset is not None:
            return self.preset.process()
        if self.histograms is not None and self.histograms.rates:
            return Process("rates", (), self.histograms.rates, self.histograms.window_s)
        return None

    def own_rate_rps(self) -> float | None:
        if self.preset is not None:
            return self.preset.arrivals.mean_rate_rps
        return None if self.histograms is None else self.histograms.mean_rate_rps


_KEYS = {f.name.removesuffix("_s"): f.name for f in fields(Options)}


def with_options(workload: str, options: Mapping[str, Any]) -> str:
    """The SPEC with these keys added (None and False are left out); a key given twice keeps the new value."""
    name, _, query = workload.partition("?")
    pairs = dict(part.partition("=")[::2] for part in query.split("&") if part)
    pairs |= {
        key: "1" if value is True else str(value)
        for key, value in options.items()
        if value is not None and value is not False
    }
    return name + ("?" + "&".join(f"{key}={value}" for key, value in pairs.items()) if pairs else "")


def read_workload(text: str) -> Workload:
    """Raises ConfigError for an unknown word, naming the nearest."""
    name, _, query = text.partition("?")
    options = _options(text, query)
    forms = [form.partition(":")[0] for form in SHORT_FORMS]
    if ":" in name and name.partition(":")[0] in forms:
        workload = Workload(text, options, lengths=parse_short_form(name))
    elif name in presets():
        workload = _of_preset(text, options, load_preset(data_dir("workloads") / f"{name}.yaml"))
    elif name.endswith((".yaml", ".yml")):
        workload = _of_preset(text, options, load_preset(Path(name)))
    elif exists(name) and ("/" in name or "." in name or Path(name).is_dir()):
        if is_histograms(Path(name)):
            return _of_histograms(text, options, Path(name))
        return Workload(text, options, trace=Path(name))
    elif "/" in name or name.endswith((".csv", ".json", ".jsonl", ".gz", ".parquet")):
        raise ConfigError(
            "no such workload file", name, "give a preset (.yaml) or a trace (.csv, .jsonl, .json, .parquet)"
        )
    else:
        near = nearest(name.partition(":")[0], [*presets(), *forms], "")
        advice = (
            f"{near} presets: {', '.join(presets())}; or {', '.join(SHORT_FORMS)}; or a path to a preset or trace file"
        )
        raise ConfigError("unknown workload", name, advice.strip())
    sessions = workload.preset is not None and workload.preset.sessions is not None
    if options != Options(system=options.system, think=options.think if sessions else 1.0):
        advice = "of these options, a workload without a file takes `system`, and one of sessions `think`"
        raise ConfigError("only a trace can be sliced", text, advice)
    return workload


def _of_preset(text: str, options: Options, preset: Preset) -> Workload:
    return Workload(text, options, lengths=preset.lengths(), preset=preset)


def _of_histograms(text: str, options: Options, path: Path) -> Workload:
    if options != Options(from_s=options.from_s, to_s=options.to_s, system=options.system):
        raise ConfigError(
            "histograms are not rows", text, "of these options, a file of histograms takes from, to and system"
        )
    histograms = read_histograms(path, options.from_s, options.to_s)
    return Workload(text, options, lengths=histograms.lengths, histograms=histograms)


def _options(text: str, query: str) -> Options:
    values: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, equals, value = part.partition("=")
        if key not in _KEYS or not equals:
            advice = f"{nearest(key, _KEYS, '')} options: {', '.join(f'{k}=..' for k in _KEYS)}"
            raise ConfigError("unknown workload option", part, advice.strip())
        try:
            values[_KEYS[key]] = _value(key, value)
        except ValueError as error:
            raise ConfigError("bad workload option", f"{text}: {part}", str(error)) from None
    options = Options(**values)
    if options.from_s is not None and options.to_s is not None and options.from_s >= options.to_s:
        raise ConfigError(
            "the slice is empty", f"from {options.from_s:g} s to {options.to_s:g} s", "from must be below to"
        )
    return options


def _value(key: str, value: str) -> Any:
    match key:
        case "from" | "to" | "sample" | "scale" | "think":
            number = float(value)
            if not (math.isfinite(number) and (number > 0 or (key in ("from", "think") and number == 0))):
                raise ValueError("a number above 0 is needed")
            if key == "sample" and number > 1:
                raise ValueError("a share is at most 1")
            return number
        case "limit" | "block" | "system":
            if not 1 <= int(value) <= MAX_TOKENS:
                raise ValueError(f"a whole number from 1 to {MAX_TOKENS:,} is needed")
            return int(value)
        case "skip_bad":
            if value not in ("0", "1"):
                raise ValueError("0 or 1 is needed")
            return value == "1"
        case "context" | "gaps":
            words = ("drop", "truncate") if key == "context" else ("refuse", "keep")
            if value not in words:
                raise ValueError(f"use {' or '.join(words)}")
            return value
        case _:
            return value
