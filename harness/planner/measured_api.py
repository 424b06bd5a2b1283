"""What a hosted API was seen to do under the promise: attainment of the runs against it, beside those of our own server."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from harness.config.price_ref import PriceRef
from harness.judge.repeats import POINTS, by_cell, interval, usable
from harness.price.hosted_api import is_of
from harness.records import CellInterval, Load, RunSummary

_ATTAINMENT = POINTS["attainment"]


@dataclass(frozen=True, slots=True)
class MeasuredApi:
    """Attainment of a hosted target at the load where it was lowest, of `loads` that were measured. `share`: what is promised."""

    share: float
    lowest: CellInterval
    loads: int
    runs: tuple[RunSummary, ...] = field(repr=False)

    def is_of(self, ref: PriceRef) -> bool:
        """Whether these runs were against the API that a price is of."""
        return is_of(ref, self.runs[0])

    @property
    def misses(self) -> bool:
        """The whole interval is below what is promised; of one repetition, its value is."""
        top = self.lowest.mean if self.lowest.high is None else self.lowest.high
        return top < self.share

    @property
    def words(self) -> str:
        found = self.lowest
        between = "one repetition, no interval"
        if found.low is not None and found.high is not None:
            between = f"95 %: {found.low:.2%} to {found.high:.2%}, {len(found.values)} repetitions"
        at = _load_words(found.load) + (f", the lowest of {self.loads} loads" if self.loads > 1 else "")
        unsure = found.mean < self.share and not self.misses
        more = "; the interval holds what is promised, so more repetitions would tell" if unsure else ""
        return f"measured attainment {found.mean:.2%} ({between}) at {at}, promised {self.share:.2%}{more}"


def _load_words(load: Load) -> str:
    return f"concurrency {load.concurrency}" if load.is_closed else f"{load.rate_rps:g} req/s"


def measured_apis(summaries: Sequence[RunSummary], workload: str | None = None) -> tuple[MeasuredApi, ...]:
    """One a hosted target whose runs of `workload` (None: of any) were held against a promise; INVALID runs aside."""
    targets: dict[str, list[RunSummary]] = {}
    for run in summaries:
        if run.target_kind == "hosted" and workload in (None, run.cell.workload):
            targets.setdefault(run.cell.target, []).append(run)
    found = []
    for runs in targets.values():
        cells = [one for cell, of in by_cell(runs).items() if (one := interval(cell, of, _ATTAINMENT)) is not None]
        if cells:
            share = (runs[0].config.get("slo") or {}).get("attainment")
            lowest = min(cells, key=lambda cell: cell.mean)
            found.append(MeasuredApi(0.99 if share is None else float(share), lowest, len(cells), tuple(usable(runs))))
    return tuple(found)
