"""`harness compare`: every cell and metric of a campaign against another, with one false-alarm rate for all of them.

A regression is a change for the worse whose corrected interval excludes "no change" and whose size is above the smallest that
counts. The correction (Holm) is over all comparisons of the call, so that two campaigns of the same thing give any regression with
probability at most alpha. What repetitions do not show it cannot see either: a machine that is slower the whole second night,
by more than the smallest effect, is a change.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.base.errors import ConfigError
from harness.base.stats import FloatArray
from harness.judge.compare.keys import Matched, box_words, boxes_of, changes, check_comparable, check_names, match_cells
from harness.judge.compare.searches import CLEAR, taken_rps, told_by, variance_floor
from harness.judge.compare.sides import ComparedRun, Side, require_valid
from harness.judge.compare.significance import (
    Contrast,
    blocked_t,
    holm,
    holm_levels,
    is_paired,
    paired_t,
    welch_t,
)
from harness.judge.repeats import Point, points, usable
from harness.records import Comparison, Effect, Load

ALPHA = 0.05
MIN_EFFECT = 0.02
PAIRING = ("auto", "paired", "unpaired")
_WORST_FIRST = ("regressed", "unclear", "unchanged", "improved")


@dataclass(frozen=True, slots=True)
class _Pair:
    """One metric of one cell: repetition -> value on each side, on the tested scale through `scaled`."""

    target: str
    workload: str
    load: Load
    point: Point
    base: Mapping[int, float]
    new: Mapping[int, float]
    log: bool
    floor: float  # the smallest variance of the effect that is believed
    shared: tuple[int, ...]  # repetitions that may be paired
    tells: Collection[str] = CLEAR  # verdicts that its values can bear: bounds in the place of some bear fewer
    boxes: tuple[Mapping[int, str], Mapping[int, str]] | None = None  # of base and new, where there are several

    def scaled(self, side: Mapping[int, float], repetitions: Iterable[int] | None = None) -> FloatArray:
        values = np.array([side[k] for k in (side if repetitions is None else repetitions)], np.float64)
        return np.log(values) if self.log else values

    def means(self) -> tuple[float, float]:
        """Of all repetitions of each side: geometric where the scale is the logarithm."""
        sides = (float(self.scaled(side).mean()) for side in (self.base, self.new))
        base, new = (math.exp(m) if self.log else m for m in sides)
        return base, new

    def change(self, effect: float) -> float | None:
        """An effect on the tested scale as a share of base; points for attainment. None where base is 0."""
        if self.log:
            return math.expm1(min(effect, 700.0))
        if self.point.is_share:
            return effect
        base, _ = self.means()
        return effect / base if base > 0 else None


def compare(
    base: Side,
    new: Side,
    *,
    metrics: Iterable[str] = (),
    min_effect: float = MIN_EFFECT,
    alpha: float = ALPHA,
    ignored: Collection[str] = (),
    strict: bool = False,
    pairing: str = "auto",
) -> Comparison:
    """Compare `new` with `base`. `metrics`: keys of repeats.POINTS, the default ones if empty.

    Raises ConfigError (unknown metric or key), NotComparableError (a key that must be equal differs), InvalidRunError (a side
    has no run that may be used).
    """
    wanted = points(metrics)
    check_names(ignored)
    if pairing not in PAIRING:
        raise ConfigError("no such pairing", pairing, f"one of: {', '.join(PAIRING)}")
    require_valid("BASE", base)
    require_valid("NEW", new)
    matched, only_base, only_new = match_cells(base, new, ignored)
    warnings = check_comparable(matched, ignored, strict=strict)
    pairs = [pair for cell in matched for point in wanted if (pair := pair_of(cell, point, ignored)) is not None]
    kept, left_out = _same_promise(matched, pairs)
    effects = _effects(kept, min_effect, alpha, pairing)
    return Comparison(
        base=base.record,
        new=new.record,
        effects=tuple(sorted(effects, key=_worst_first)),
        changes=changes(matched),
        warnings=(*warnings, *left_out, *box_words(matched, ignored), *base.problems, *new.problems),
        only_base=tuple(only_base),
        only_new=tuple(only_new),
        ignored=tuple(ignored),
        alpha=alpha,
        min_effect=min_effect,
        tests=sum(effect.p is not None for effect in effects),
    )


def pair_of(cell: Matched, point: Point, ignored: Collection[str]) -> _Pair | None:
    """The metric's values in one cell; None where a side has none."""
    _, base_runs, new_runs = cell
    kept = [usable(runs) for runs in (base_runs, new_runs)]
    base, new = (_values(runs, point) for runs in kept)
    if not base or not new:
        return None
    targets = [runs[0].cell.target for runs in (base_runs, new_runs)]
    boxes = boxes_of(base_runs, new_runs) if "box" not in ignored else None
    shared = tuple(k for k in base if k in new and (boxes is None or boxes[0][k] == boxes[1][k]))
    searches = [[run.search for run in runs if run.search is not None] for runs in kept]
    pairable = "plan" not in ignored and _order(base_runs, shared, boxes) == _order(new_runs, shared, boxes)
    return _Pair(
        target=targets[0] if targets[0] == targets[1] else f"{targets[0]} → {targets[1]}",
        workload=base_runs[0].cell.workload,
        load=base_runs[0].cell.load,
        point=point,
        base=base,
        new=new,
        log=not point.is_share and min(*base.values(), *new.values()) > 0,
        floor=_binomial_floor(kept[0], kept[1], base, new) if point.is_share else variance_floor(searches),
        shared=shared if pairable and len(shared) >= 2 else (),
        boxes=boxes,
        tells=told_by(*searches),
    )


def _values(runs: Sequence[ComparedRun], point: Point) -> dict[int, float]:
    def of(run: ComparedRun) -> float | None:
        if run.search is not None and point.metric == "capacity_rps":
            return taken_rps(run.search)
        return point.of(run.summary)

    return {run.cell.repetition: value for run in runs if (value := of(run)) is not None}


def _order(
    runs: Sequence[ComparedRun],
    repetitions: Collection[int],
    boxes: tuple[Mapping[int, str], Mapping[int, str]] | None,
) -> list[int]:
    """Repetitions in the order they were measured, on each box for itself; `repetitions` are on equal boxes."""
    measured = usable(run for run in runs if run.cell.repetition in repetitions)

    def at(run: ComparedRun) -> tuple[str, str, int]:
        return boxes[0][run.cell.repetition] if boxes else "", run.created_utc, run.cell.repetition

    return [run.cell.repetition for run in sorted(measured, key=at)]


def _binomial_floor(
    base_runs: Sequence[ComparedRun],
    new_runs: Sequence[ComparedRun],
    base: Mapping[int, float],
    new: Mapping[int, float],
) -> float:
    """Variance that a share of n requests has at least: p (1 - p) / n, with p as if two more had been seen, one of them good.

    Without it three repetitions of 100 % against three of 99 % would have no spread and be certain.
    """
    sent = [sum(sum(run.summary.outcomes.values()) for run in runs) for runs in (base_runs, new_runs)]
    if not all(sent):
        return 0.0
    good = sum(float(np.mean(list(v.values()))) * n for v, n in zip((base, new), sent, strict=True))
    p = (good + 1) / (sum(sent) + 2)
    return p * (1 - p) * sum(1 / n for n in sent)


def _same_promise(matched: Sequence[Matched], pairs: Sequence[_Pair]) -> tuple[list[_Pair], list[str]]:
    """Without goodput, attainment and capacity where the SLO differs: they are of other promises on each side."""
    base = {str(run.manifest.config.get("slo")) for _, runs, _ in matched for run in runs}
    new = {str(run.manifest.config.get("slo")) for _, _, runs in matched for run in runs}
    promised = [pair for pair in pairs if pair.point.metric in ("goodput_rps", "attainment", "capacity_rps")]
    if base == new or not promised:
        return list(pairs), []
    names = ", ".join(sorted({pair.point.label for pair in promised}))
    return [pair for pair in pairs if pair not in promised], [f"the SLO differs, so these are not compared: {names}"]


def _effects(pairs: Sequence[_Pair], min_effect: float, alpha: float, pairing: str) -> list[Effect]:
    """Test every pair, correct over all that have a test, judge."""
    many = len([pair for pair in pairs if min(len(pair.base), len(pair.new)) > 1])
    together = _paired_metrics(pairs, many, alpha, pairing)
    tested = [_test(pair, paired=pair.point.key in together) for pair in pairs]
    p = [test.p for test in tested if test is not None]
    corrected = iter(zip(holm(p), holm_levels(p, alpha), strict=True))
    return [
        _without_test(pair) if test is None else _effect(pair, test, *next(corrected), min_effect, alpha)
        for pair, test in zip(pairs, tested, strict=True)
    ]


def _paired_metrics(pairs: Sequence[_Pair], many: int, alpha: float, pairing: str) -> set[str]:
    """Keys of the metrics that are tested in pairs."""
    together: dict[str, list[tuple[FloatArray, FloatArray]]] = {}
    for pair in pairs:
        if pair.shared:
            sides = (pair.scaled(pair.base, pair.shared), pair.scaled(pair.new, pair.shared))
            together.setdefault(pair.point.key, []).append(sides)
    if pairing != "auto":
        return set(together) if pairing == "paired" else set()
    return {key for key, sides in together.items() if is_paired(sides, many, alpha)}


def _test(pair: _Pair, *, paired: bool) -> Contrast | None:
    if paired and pair.shared:
        return paired_t(pair.scaled(pair.base, pair.shared), pair.scaled(pair.new, pair.shared), pair.floor)
    if pair.boxes is not None:
        blocks = [pair.boxes[0][k] for k in pair.base], [pair.boxes[1][k] for k in pair.new]
        return blocked_t(pair.scaled(pair.base), pair.scaled(pair.new), blocks, pair.floor)
    return welch_t(pair.scaled(pair.base), pair.scaled(pair.new), pair.floor)


def _without_test(pair: _Pair) -> Effect:
    """A change that nothing can be said about, and why."""
    few = min(len(pair.base), len(pair.new)) < 2
    note = "one repetition: its spread is not known" if few else "repetitions are equal to the last digit: no spread"
    if pair.boxes is not None and not few:
        note = "no spread within a box: too few repetitions of both sides on one box"
    base, new = pair.means()
    effect = math.log(new / base) if pair.log else new - base
    return _record(pair, pair.change(effect), verdict="unclear", note=note)


def _effect(pair: _Pair, test: Contrast, p_corrected: float, level: float, min_effect: float, alpha: float) -> Effect:
    change = pair.change(test.effect)
    low, high = (pair.change(edge) for edge in test.between(1 - alpha))
    corrected = [pair.change(edge) for edge in test.between(level)]
    if change is None or low is None or high is None:
        return _record(pair, None, verdict="unclear", note="0 in base: there is no ratio to it")
    if p_corrected <= alpha and abs(change) > min_effect:
        verdict = "improved" if (change > 0) == pair.point.higher_is_better else "regressed"
    elif -min_effect <= low and high <= min_effect:
        verdict = "unchanged"
    else:
        verdict = "unclear"
    note = "" if pair.boxes is None else "within boxes"
    if len(pair.tells) < len(CLEAR):  # an interval of bounds is none
        told = verdict in pair.tells
        words = f"{'at least that: ' * told}every rate of a search passed, or every one failed"
        return _record(
            pair, change, p_corrected=p_corrected, test=test, verdict=verdict if told else "unclear", note=words
        )
    return _record(
        pair, change, low=low, high=high, corrected=corrected, p_corrected=p_corrected, test=test, verdict=verdict,
        note=note,
    )  # fmt: skip


def _record(
    pair: _Pair,
    change: float | None,
    *,
    low: float | None = None,
    high: float | None = None,
    corrected: Sequence[float | None] = (None, None),
    p_corrected: float | None = None,
    test: Contrast | None = None,
    verdict: str,
    note: str = "",
) -> Effect:
    base, new = pair.means()
    paired = test is not None and test.paired
    return Effect(
        target=pair.target,
        workload=pair.workload,
        load=pair.load,
        metric=pair.point.key,
        label=pair.point.label,
        unit=pair.point.unit,
        higher_is_better=pair.point.higher_is_better,
        base=base,
        new=new,
        base_count=len(pair.shared if paired else pair.base),
        new_count=len(pair.shared if paired else pair.new),
        change=change,
        low=low,
        high=high,
        corrected_low=corrected[0],
        corrected_high=corrected[1],
        p=None if test is None else test.p,
        p_corrected=p_corrected,
        paired=paired,
        df=None if test is None else test.df,
        verdict=verdict,
        note=note,
    )


def _worst_first(effect: Effect) -> tuple[int, float]:
    """Order of the table: by verdict, within it the largest change for the worse first."""
    worse = 0.0 if effect.change is None else -effect.change if effect.higher_is_better else effect.change
    return _WORST_FIRST.index(effect.verdict), -worse
