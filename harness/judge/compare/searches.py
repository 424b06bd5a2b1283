"""What capacity searches, held against each other, can show: their own errors, and bounds in the place of capacities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist

from harness.records import CapacityResult

CLEAR = ("regressed", "unchanged", "improved")
_NORMAL_95 = NormalDist().inv_cdf(0.975)


def taken_rps(search: CapacityResult) -> float | None:
    """The capacity, or the bound that stands for it."""
    taken = {"found": search.capacity_rps, "censored_above": search.low_rps, "censored_below": search.high_rps}
    return taken.get(search.state)


def variance_floor(sides: Iterable[Sequence[CapacityResult]]) -> float:
    """Variance of a ratio of capacities, in logarithms, by the 95 % intervals of the searches: few that happen to agree are no proof."""
    floor = 0.0
    for searches in sides:
        widths = [math.log(s.high_rps / s.low_rps) for s in searches if s.state == "found" and s.high_rps and s.low_rps]
        floor += sum((width / 2 / _NORMAL_95) ** 2 for width in widths) / max(1, len(searches)) ** 2
    return floor


def told_by(base: Sequence[CapacityResult], new: Sequence[CapacityResult]) -> list[str]:
    """Verdicts that are sure of searches some of which know a bound alone: base at least as high and new at most as high as taken show a
    regression, the other way round an improvement."""
    (at_least, at_most), (new_at_least, new_at_most) = (
        [any(search.state == state for search in side) for state in ("censored_above", "censored_below")]
        for side in (base, new)
    )
    sure = {"regressed": not (at_most or new_at_least), "improved": not (at_least or new_at_most)}
    return [verdict for verdict in CLEAR if sure.get(verdict, all(sure.values()))]
