"""How well a preset reproduces its source: the source's own figures beside those of a sample, for `harness workloads check`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from harness.base.errors import ConfigError
from harness.measure.plan.arrivals import arrivals, burstiness
from harness.measure.plan.drafts import MEASURED, Draft, of_lengths
from harness.measure.plan.prefixes import reuse
from harness.measure.plan.preset import Preset, SessionSpec
from harness.measure.plan.rows import NULL
from harness.measure.plan.sessions import of_sessions
from harness.measure.plan.streams import F64, I64, Purpose
from harness.measure.plan.workload import read_workload

ROWS = 100_000
_LEVELS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Figure:
    """`source`: as the preset's file has it; `drawn`: of the sample. `deviation`: drawn / source - 1 where `unit` is not a
    share, else the difference; None where the source's figure is 0."""

    quantity: str
    unit: str
    source: float
    drawn: float

    @property
    def deviation(self) -> float | None:
        if self.unit == "share":
            return self.drawn - self.source
        return self.drawn / self.source - 1 if self.source else None


def check(name: str, rows: int = ROWS, seed: int = 0) -> list[Figure]:
    """Figures of a preset from a sample of `rows` requests. Empty for a shape, of which there is nothing to check.
    Raises ConfigError for what is no preset."""
    preset = read_workload(name).preset
    if preset is None:
        raise ConfigError("only a preset has a source to compare with", name, "give a preset's name or file")
    if preset.sessions is not None:
        return list(_of_sessions(preset.sessions, of_sessions(preset.sessions, seed, rows, None, Purpose.SESSIONS)))
    lengths = preset.lengths()
    if lengths is None or preset.output_tokens_by_prompt_bin is None:
        return list(_of_arrivals(preset, seed))
    draft = of_lengths(lengths, seed, rows, None, MEASURED)
    return [*_of_lengths(preset, draft), *_of_prefix(preset, draft, seed), *_of_arrivals(preset, seed)]


def _of_lengths(preset: Preset, draft: Draft) -> Iterator[Figure]:
    published = preset.check
    for what, tokens in (("prompt", draft.prompt), ("output", draft.output)):
        if f"{what}_mean" in published:
            yield Figure(f"{what} mean", "tokens", float(published[f"{what}_mean"]), float(tokens.mean()))
        table = published.get(f"{what}_p50_p90_p99")
        for level, source in zip(_LEVELS, table or _of_table(preset, what), strict=False):
            yield Figure(f"{what} {_p(level)}", "tokens", float(source), _quantile(tokens, level))
    bins = preset.output_tokens_by_prompt_bin or []
    middle = (preset.output_given_prompt_quantile_levels or []).index(0.5)
    edges = [round(one.prompt_rank[1] * len(draft.prompt)) for one in bins[:-1]]
    parts = np.split(
        draft.output[np.argsort(draft.rank, kind="stable")] if draft.rank is not None else draft.output, edges
    )
    medians = [
        Figure(f"output p50 in prompt ranks {one.prompt_rank[0]:g}-{one.prompt_rank[1]:g}", "tokens",
               float(one.output_tokens[middle]), float(np.median(part)))
        for one, part in zip(bins, parts, strict=True)
    ]  # fmt: skip
    if len(medians) > 1:
        yield from medians


def _of_table(preset: Preset, what: str) -> tuple[int, ...]:
    """The table's own p50, p90 and p99, where it is a marginal."""
    bins = preset.output_tokens_by_prompt_bin or []
    levels, values = preset.prompt_quantile_levels or [], preset.prompt_tokens or []
    if what == "output":
        levels, values = preset.output_given_prompt_quantile_levels or [], bins[0].output_tokens
        if len(bins) > 1:
            return ()
    return tuple(values[levels.index(level)] for level in _LEVELS if level in levels)


def _of_prefix(preset: Preset, draft: Draft, seed: int) -> Iterator[Figure]:
    if preset.prefix is None or draft.rank is None:
        return
    pairs = reuse(preset.prefix, draft.prompt, draft.rank, seed)
    shared = np.array([sum(one[1::2]) for one in pairs])
    source = preset.prefix.token_hit_ratio_unlimited_cache
    yield Figure(
        "prompt tokens in an unlimited prefix cache", "share", source, float(shared.sum() / draft.prompt.sum())
    )
    share = shared / draft.prompt
    for level in (0.5, 0.9):
        at = preset.prefix.cached_fraction_quantile_levels.index(level)
        yield Figure(
            f"cached share of a prompt {_p(level)}", "share", preset.prefix.cached_fraction[at], _quantile(share, level)
        )


def _of_arrivals(preset: Preset, seed: int) -> Iterator[Figure]:
    """Of a Poisson process a rate is all there is to compare; bursts only where the source's counts are known."""
    source = preset.arrivals
    process = preset.process()
    if source.mean_rate_rps is None or process.kind == "batch":
        return
    bins = np.array(source.requests_per_10s_bin or [])
    times = arrivals(process, source.mean_rate_rps, seed, int(bins.sum()) or 20_000, None)
    drawn = burstiness(times)
    if drawn.mean_rate_rps is not None:
        yield Figure("arrivals mean rate", "1/s", source.mean_rate_rps, drawn.mean_rate_rps)
    if source.interarrival_cv is not None and drawn.gap_cv is not None:
        yield Figure("arrivals CV of gaps", "", source.interarrival_cv, drawn.gap_cv)
    if len(bins) and drawn.dispersion_10s is not None:
        yield Figure("arrivals index of dispersion at 10 s", "", float(bins.var() / bins.mean()), drawn.dispersion_10s)


def _of_sessions(spec: SessionSpec, draft: Draft) -> Iterator[Figure]:
    """Over whole sessions."""
    assert draft.session is not None
    assert draft.after is not None
    assert draft.stream is not None
    assert draft.think_ns is not None
    row = np.arange(len(draft.prompt))
    own = draft.stream == row  # begins a session, or follows a compaction
    kept = np.array([sum(one[1::2]) for one in draft.pairs or [()] * len(row)])
    before = np.where(own, kept, np.roll(draft.prompt, 1))
    first = draft.after == NULL
    before[first] = 0
    end = int(row[first][-1]) or len(row)
    later = ~first[:end]
    columns: dict[str, F64 | I64] = {
        "calls_per_session": np.bincount(draft.session[:end]),
        "first_prompt_tokens": draft.prompt[:end][~later],
        "new_prompt_tokens_per_later_call": (draft.prompt - before)[:end][later],
        "output_tokens": draft.output[:end],
        "think_time_s": draft.think_ns[:end][later] / 1e9,
    }
    for table, values in columns.items():
        unit = "s" if table.endswith("_s") else "" if table.startswith("calls") else "tokens"
        for level in _LEVELS:
            source = float(getattr(spec, table)[spec.quantile_levels.index(level)])
            yield Figure(f"{table.removesuffix('_s').removesuffix('_tokens').replace('_', ' ')} {_p(level)}", unit, source,
                         _quantile(values, level))  # fmt: skip
    if spec.token_hit_ratio_previous_call is not None:
        ratio = float(before[:end].sum() / draft.prompt[:end].sum())
        yield Figure("prompt tokens that the call before holds", "share", spec.token_hit_ratio_previous_call, ratio)


def _quantile(values: F64 | I64, level: float) -> float:
    return float(np.quantile(values, level, method="inverted_cdf"))


def _p(level: float) -> str:
    return f"p{round(level * 100)}"
