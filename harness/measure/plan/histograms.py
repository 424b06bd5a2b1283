"""Files that hold distributions, not requests: ServeGen's client files, and tables of quantiles.

ServeGen (Xiang et al., arXiv 2505.09999) publishes one pair of files per client: `chunk-N-dataset.json`, for windows that begin at
a second of the day, histograms {tokens: probability} of `input_tokens` and `output_tokens` as text; and `chunk-N-trace.csv`,
lines `second,rate,cv,pattern,parameter,parameter` without a header, the pattern empty where the client was silent. A folder
of them is one workload: a request is of a client by its share of the requests, its lengths from that client's histograms.
"""

from __future__ import annotations

import ast
import csv
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.base.documents import parse_json
from harness.base.errors import ConfigError
from harness.measure.plan.lengths import MAX_TOKENS, Joint, Lengths, Mixture, Part
from harness.measure.plan.traces.formats import open_text

_HEAD_CHARS = 4096
_DATASET = re.compile(r'\s*\{\s*"\d+"\s*:\s*\{\s*"\w+"\s*:\s*(?:"\s*)?\{')
_QUANTILES = ("quantile", "prompt_tokens", "output_tokens")
_SUM_WITHIN = 0.001
_MOST_WINDOWS = 1_000_000
_MOST_S = 1e9  # 30 years
Windows = dict[float, float]  # second it begins -> requests/s


@dataclass(frozen=True, slots=True)
class Histograms:
    """`rates`: requests/s of all clients, window after window of `window_s`; empty where no file says so."""

    lengths: Lengths
    rates: tuple[float, ...]
    window_s: float
    notes: tuple[str, ...]

    @property
    def mean_rate_rps(self) -> float | None:
        return sum(self.rates) / len(self.rates) if any(self.rates) else None


def is_histograms(path: Path) -> bool:
    """By content: a client file or a folder that holds some, or a CSV whose header begins with `quantile`."""
    if path.is_dir():
        return bool(_datasets(path))
    try:
        with path.open("rb") as raw:
            binary = raw.read(4) == b"PAR1"
    except OSError:
        return False
    return not binary and (_is_dataset(path) or _is_quantiles(path))


def read_histograms(path: Path, from_s: float | None, to_s: float | None) -> Histograms:
    """Clients of the windows that begin in [from_s, to_s). Raises ConfigError naming file, window, field and value."""
    if path.is_file() and _is_quantiles(path):
        return Histograms(_quantile_table(path), (), 0, ("quantile table: prompt and output are drawn independently",))
    span = (from_s or 0.0, math.inf if to_s is None else to_s)
    parts: list[Part] = []
    total: Windows = {}
    dropped = 0.0
    others: set[str] = set()
    files = _datasets(path) if path.is_dir() else [path]
    for file in files:
        windows = _rates_of(file, span)
        part, lost = _client(file, windows, span, others)
        dropped += lost
        if part is not None:
            parts.append(part)
        for second, rate in (windows or {}).items():
            total[second] = total.get(second, 0.0) + rate
    if not parts:
        raise ConfigError("no client has requests in these windows", path, "widen from and to")
    weight = sum(part.weight for part in parts)
    lengths = Mixture(tuple(replace(part, weight=part.weight / weight) for part in parts))
    seconds = sorted(total)
    window_s = min((b - a for a, b in pairwise(seconds)), default=0.0)
    whose = (
        f"histograms: {len(parts):,} of {len(files):,} clients, {len(seconds):,} windows; prompt and output of one client are drawn "
        "independently, arrivals with the rates of the windows (the clients' own burstiness is not replayed)"
    )
    notes = [whose]
    if dropped:
        notes.append(f"histograms: {dropped / (weight + dropped):.2%} of the requests have length 0 and were left out")
    if others:
        notes.append(f"histograms: not used: {', '.join(sorted(others))}")
    return Histograms(lengths, _every_window(total, seconds, window_s) if window_s else (), window_s, tuple(notes))


def _every_window(total: Windows, seconds: list[float], window_s: float) -> tuple[float, ...]:
    """Rates of windows that follow each other, 0 where no file has one. Raises ConfigError if they do not stand in step."""
    count = (seconds[-1] - seconds[0]) / window_s + 1
    rates = [0.0] * round(min(count, _MOST_WINDOWS))
    for second in seconds:
        place = (second - seconds[0]) / window_s
        if count > _MOST_WINDOWS or place != round(place):
            value = f"windows of {window_s:g} s, and one at {second:g} s"
            raise ConfigError(
                "the windows of the trace files do not follow each other", value, "slice with from and to"
            )
        rates[round(place)] = total[second]
    return tuple(rates)


# ---------------------------------------------------------------- what a file is


def _head(path: Path) -> str:
    with open_text(path) as text:
        return text.read(_HEAD_CHARS)


def _is_dataset(path: Path) -> bool:
    head = _head(path)
    return bool(_DATASET.match(head)) and "_tokens" in head


def _is_quantiles(path: Path) -> bool:
    names = [name.strip().lower() for name in _head(path).partition("\n")[0].split(",")]
    return tuple(names[:3]) == _QUANTILES


def _datasets(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("*-dataset.json")) if _is_dataset(file)]


# ---------------------------------------------------------------- ServeGen


def _rates_of(dataset: Path, span: tuple[float, float]) -> Windows | None:
    """Of the trace file beside a dataset; None where there is none."""
    path = dataset.with_name(dataset.name.removesuffix("-dataset.json") + "-trace.csv")
    if path == dataset or not path.is_file():
        return None
    windows: Windows = {}
    with open_text(path) as text:
        for line, fields in enumerate(csv.reader(text), 1):
            try:
                second, rate, pattern = float(fields[0]), float(fields[1] or 0), fields[3]
                if not (0 <= rate < math.inf and 0 <= second < _MOST_S):
                    raise ValueError(rate)
            except (ValueError, IndexError):
                value = f"{path}, line {line}: {','.join(fields)!r:.80}"
                advice = "second,rate,cv,pattern,parameter,parameter is expected"
                raise ConfigError("window cannot be used", value, advice) from None
            if span[0] <= second < span[1]:
                windows[second] = rate if pattern else 0.0
    return windows


def _client(
    path: Path, rates: Windows | None, span: tuple[float, float], others: set[str]
) -> tuple[Part | None, float]:
    """(a client's histograms over its windows, each by its requests; requests of length 0 left out). Without rates all
    windows count alike."""
    data = _windows(path)
    begins = sorted(data)
    weights: dict[float, float] = {}
    for second, rate in ({s: 1.0 for s in begins if span[0] <= s < span[1]} if rates is None else rates).items():
        known = [s for s in begins if s <= second]
        if known and rate > 0:
            weights[known[-1]] = weights.get(known[-1], 0.0) + rate
    prompt: dict[int, float] = {}
    output: dict[int, float] = {}
    for second, weight in weights.items():
        others |= data[second].keys() - {"input_tokens", "output_tokens"}
        for field, into in (("input_tokens", prompt), ("output_tokens", output)):
            for tokens, share in _histogram(path, second, field, data[second].get(field)).items():
                into[tokens] = into.get(tokens, 0.0) + share * weight
    whole = sum(weights.values())
    kept = whole * math.prod(1 - table.pop(0, 0.0) / whole for table in (prompt, output)) if whole else 0.0
    if kept <= 0:
        return None, whole
    return Part(kept, _levels(prompt), _levels(output)), whole - kept


def _levels(table: Mapping[int, float]) -> tuple[tuple[float, int], ...]:
    """(share of lengths up to it, tokens), rising to 1."""
    total = math.fsum(table.values())
    reached = 0.0
    levels: list[tuple[float, int]] = []
    for tokens in sorted(table):
        if table[tokens] > 0:
            reached += table[tokens] / total
            levels.append((reached, tokens))
    levels[-1] = (1.0, levels[-1][1])
    return tuple(levels)


def _windows(path: Path) -> dict[float, dict[str, Any]]:
    """Windows with histograms; a window in which one is empty says nothing."""
    with open_text(path) as text:
        try:
            data = parse_json(text.read())
            windows = {float(second): fields for second, fields in data.items()}
            if not all(0 <= second < _MOST_S for second in windows):
                raise ValueError("a window begins at a second of the day")
        except (ValueError, AttributeError) as error:
            raise ConfigError("client file is not JSON", path, str(error)) from None
    return {s: f for s, f in windows.items() if isinstance(f, dict) and all(_parsed(v) != {} for v in f.values())}


def _parsed(value: Any) -> Any:
    """A histogram, which ServeGen writes as the text of a Python dictionary; None where it is none."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _histogram(path: Path, second: float, field: str, value: Any) -> dict[int, float]:
    where = f"{path}, window {second:g}, {field}"
    table = _parsed(value)
    if not isinstance(table, dict):
        raise ConfigError(
            "histogram cannot be read", f"{where}: {value!r:.60}", "{tokens: probability, ..} is expected"
        )
    try:
        shares = {int(tokens): float(share) for tokens, share in table.items()}
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigError("histogram cannot be used", where, str(error)) from None
    bad = next((f"{t}: {p}" for t, p in shares.items() if not (0 <= t <= MAX_TOKENS and 0 <= p < math.inf)), None)
    if bad is not None:
        raise ConfigError(
            "histogram cannot be used", f"{where}: {bad}", f"0 to {MAX_TOKENS:,} tokens, no negative share"
        )
    total = math.fsum(shares.values())
    if abs(total - 1) > _SUM_WITHIN:
        raise ConfigError("histogram cannot be used", where, f"its probabilities sum to {total:g}, not 1")
    return {tokens: share / total for tokens, share in shares.items()}


# ---------------------------------------------------------------- quantiles


def _quantile_table(path: Path) -> Joint:
    """`quantile,prompt_tokens,output_tokens`, quantiles rising from 0 to 1."""
    with open_text(path) as text:
        reader = csv.reader(text)
        rows = [(reader.line_num, row) for row in reader if row][1:]
    levels: list[float] = []
    tokens: list[tuple[int, int]] = []
    for line, row in rows:
        try:
            level, prompt, output = float(row[0]), int(row[1]), int(row[2])
        except (ValueError, IndexError):
            raise ConfigError("quantile cannot be used", f"{path}, line {line}: {','.join(row)!r:.80}", "numbers are needed") from None  # fmt: skip
        before = (levels[-1], *tokens[-1]) if levels else (-1.0, 1, 1)
        if not level > before[0] or prompt < before[1] or output < before[2] or max(prompt, output) > MAX_TOKENS:
            advice = "quantiles rise from 0 to 1, lengths do not fall and are 1 or more"
            raise ConfigError("quantile cannot be used", f"{path}, line {line}: {','.join(row)!r:.80}", advice)
        levels.append(level)
        tokens.append((prompt, output))
    if len(levels) < 2 or levels[0] != 0 or levels[-1] != 1:
        raise ConfigError("quantile table is not whole", f"{path}: quantiles {levels}", "it must go from 0 to 1")
    prompts, outputs = zip(*tokens, strict=True)
    return Joint(tuple(levels), prompts, tuple(levels), ((0.0, 1.0, outputs),))
