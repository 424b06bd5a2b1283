"""Own and hosted targets of one experiment beside each other: which holds a promise on the first token, and at what price a good request.

The promise's limit on the first token walks over a grid of preferred numbers (R10 of ISO 3: 1, 1.25, 1.6, 2 .. 8 and so on); its other
limits and the share of requests to be kept stay as declared. At each limit a side offers its cheapest cell whose median attainment is
that share at least:

    $ per 1,000 good requests = what was paid for the window / requests of the window that are good at the limit x 1000

paid: the machine's time for an own target, the bill of its own requests for a hosted one. Both with the 95 % interval over repetitions
(from three on); where two intervals overlap neither side is called cheaper.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import groupby

from harness.records import CostReport, RunSummary
from harness.report import formats
from harness.report.run.cells import Row, Spread, rows, slo_target, spread_of

_R10 = (1.0, 1.25, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)
_WINDOW = "usd_window"  # the end of a cost line's name, after self_ or hosted_
SIDES = ("own", "hosted")


@dataclass(frozen=True, slots=True)
class Arm:
    """A cell of either side. `usd`: what was paid for the window of each of its used runs; () and `unpriced` says why not.

    A hosted target whose own API has no price and whose machine has one (our server behind a gateway) is own.
    """

    side: str  # own | hosted
    row: Row
    usd: tuple[Decimal, ...]
    unpriced: str = ""

    def attainment(self, limit_s: float) -> Spread | None:
        """Share of good requests over the repetitions, were the first token promised within `limit_s`."""
        shares = [run.first_tokens.attainment(limit_s) for run in self.row.used if run.first_tokens is not None]
        known = [share for share in shares if share is not None]
        return spread_of(known, share=True) if known else None

    def usd_per_thousand_good(self, limit_s: float) -> Spread | None:
        """None where it is not priced, or a repetition has no good request."""
        counts = [run.first_tokens.good(limit_s) for run in self.row.used if run.first_tokens is not None]
        if not self.usd or len(counts) != len(self.usd) or not all(counts):
            return None
        return spread_of([usd / count * 1000 for usd, count in zip(self.usd, counts, strict=True)])


@dataclass(frozen=True, slots=True)
class Offer:
    """The cheapest cell of a side that holds the promise."""

    arm: Arm
    attainment: Spread
    usd: Spread | None


@dataclass(frozen=True, slots=True)
class At:
    """A limit on the first token. `state`: neither | only own | only hosted | own | hosted | overlap | no interval | unpriced."""

    limit_s: float
    own: Offer | None
    hosted: Offer | None
    state: str

    def offer(self, side: str) -> Offer | None:
        return self.own if side == "own" else self.hosted


@dataclass(frozen=True, slots=True)
class Sides:
    """One workload under one promise: `metric` is the one whose limit walks, `rest` the limits that stay, `share` the attainment.

    `declared_s`: the limit that the experiment declares, None where it has none. `curve`: ascending limits.
    """

    workload: str
    metric: str
    rest: Mapping[str, float]
    share: float
    declared_s: float | None
    arms: tuple[Arm, ...]
    curve: tuple[At, ...]

    @property
    def bands(self) -> list[list[At]]:
        """Neighbouring limits at which the same is true."""
        return [list(group) for _, group in groupby(self.curve, key=lambda at: at.state)]


def sides(
    summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False
) -> tuple[Sides, ...]:
    """One a workload and promise that both an own and a hosted target were measured under; dollars as in the results table."""
    by_run = {cost.run_id: cost for cost in costs}
    found: dict[tuple[str, str, str], list[Arm]] = {}
    for row in rows(summaries, costs, allow_invalid=allow_invalid):
        first = next((run.first_tokens for run in row.used if run.first_tokens is not None), None)
        if first is None or row.target_kind == "hybrid" or (row.verdict == "INVALID" and not allow_invalid):
            continue
        promise = (
            f"{first.metric} {sorted(first.rest.items())} {slo_target(row.used[0])} {_declared(row, first.metric)}"
        )
        found.setdefault((row.experiment, row.workload, promise), []).append(_arm(row, by_run))
    return tuple(_sides(arms) for arms in found.values() if {arm.side for arm in arms} == set(SIDES))


def _declared(row: Row, metric: str) -> float | None:
    limit = (row.used[0].config.get("slo") or {}).get(metric)
    return None if limit is None else float(limit)


def _arm(row: Row, costs: Mapping[str, CostReport]) -> Arm:
    paid, side = [], SIDES[row.target_kind == "hosted"]
    for run in row.used:
        cost = costs.get(run.run_id)
        if cost is None:
            return Arm(side, row, (), "no cost was computed")
        if side == "hosted" and cost.paid is cost.own and cost.hardware is not None:
            side = "own"
        line = next((line for line in cost.paid if line.name.endswith(_WINDOW)), None)
        usd = formats.money(line.usd) if line is not None else None
        if usd is None:
            return Arm(side, row, (), line.formula if line is not None else "no price")
        paid.append(usd)
    return Arm(side, row, tuple(paid))


def _sides(arms: list[Arm]) -> Sides:
    row = arms[0].row
    first = next(run.first_tokens for run in row.used if run.first_tokens is not None)
    declared, share = _declared(row, first.metric), slo_target(row.used[0])
    share = 0.99 if share is None else share
    return Sides(
        workload=row.workload,
        metric=first.metric,
        rest=dict(first.rest),
        share=share,
        declared_s=declared,
        arms=tuple(arms),
        curve=tuple(_at(arms, limit, share) for limit in _limits(arms, declared)),
    )


def _limits(arms: Sequence[Arm], declared_s: float | None) -> list[float]:
    """Preferred numbers from below the quickest first token that was seen to above the slowest, and the declared limit."""
    times = [r.first_tokens.times_s for a in arms for r in a.row.used if r.first_tokens and len(r.first_tokens.times_s)]
    if not times:
        return [] if declared_s is None else [declared_s]
    low, high = max(1e-6, min(one[0] for one in times)), max(one[-1] for one in times)
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(max(high, low))) + 2)
    grid = [float(f"{step}e{decade}") for decade in decades for step in _R10]
    below = max(limit for limit in grid if limit < low)
    above = min(limit for limit in grid if limit >= high)
    return sorted({limit for limit in grid if below <= limit <= above} | ({declared_s} if declared_s else set()))


def _at(arms: Sequence[Arm], limit_s: float, share: float) -> At:
    own, hosted = (_offer([arm for arm in arms if arm.side == side], limit_s, share) for side in SIDES)
    return At(limit_s, own, hosted, _state(own, hosted))


def _offer(arms: Sequence[Arm], limit_s: float, share: float) -> Offer | None:
    offers = []
    for arm in arms:
        attained = arm.attainment(limit_s)
        if attained is not None and float(attained.median) >= share:
            offers.append(Offer(arm, attained, arm.usd_per_thousand_good(limit_s)))
    return min(
        offers, key=lambda offer: (offer.usd is None, offer.usd.median if offer.usd is not None else 0), default=None
    )


def _state(own: Offer | None, hosted: Offer | None) -> str:
    if own is None or hosted is None:
        return "only own" if own is not None else "only hosted" if hosted is not None else "neither"
    if own.usd is None or hosted.usd is None:
        return "unpriced"
    ours, theirs = _ends(own.usd), _ends(hosted.usd)
    if ours is None or theirs is None:
        return "no interval"
    if ours[1] < theirs[0]:
        return "own"
    return "hosted" if theirs[1] < ours[0] else "overlap"


def _ends(spread: Spread) -> tuple[float, float] | None:
    """The 95 % interval; repetitions that are all the same are their own. None: too few repetitions."""
    if spread.interval is not None:
        return float(spread.interval[0]), float(spread.interval[1])
    same = spread.count >= 3 and spread.minimum == spread.maximum
    return (float(spread.minimum), float(spread.maximum)) if same else None


# ---------------------------------------------------------------- in words


def sentence(found: Sides) -> str:
    """At which promise which side is cheaper. Plain text with words from outside: escape it."""
    head, parts = in_words(found)
    return f"{head}: {'; '.join(parts)}."


def in_words(found: Sides) -> tuple[str, list[str]]:
    """The sentence as the promise, and what is true in each range of its limit; last, what to know of it."""
    rest = "".join(f" and {_symbol(name)} within {_limit(limit)}" for name, limit in found.rest.items())
    share = formats.percent(found.share)
    head = (
        f"{formats.clean(found.workload, 60)}, {share} of requests with {_symbol(found.metric)} within the limit{rest}"
    )
    bands = found.bands
    parts = [f"{_range(bands, index)} {_band(band, found.declared_s)}" for index, band in enumerate(bands)]
    but = [f"{arm.side} has no price: {formats.clean(arm.unpriced, 200)}" for arm in found.arms if arm.unpriced]
    but += [f"runs of {arm.side} behind it are {arm.row.verdict}" for arm in found.arms if arm.row.verdict != "VALID"]
    return head, [*parts, *dict.fromkeys(but)]


def _limit(seconds: float) -> str:
    """As it was declared or chosen, without zeros behind: `200 ms`, `1.6 s`."""
    return f"{seconds * 1000:g} ms" if seconds < 1 else f"{seconds:g} s"


def _symbol(name: str) -> str:
    from harness.records.metrics import METRICS

    return METRICS[name].symbol


def _range(bands: Sequence[Sequence[At]], index: int) -> str:
    first, last = (_limit(bands[index][end].limit_s) for end in (0, -1))
    if len(bands) == 1:
        return "at every limit"
    if index == 0:
        return f"up to {last}"
    if index == len(bands) - 1:
        return f"from {first} on"
    return f"at {first}" if first == last else f"from {first} to {last}"


def _band(band: Sequence[At], declared_s: float | None) -> str:
    at = next((one for one in band if one.limit_s == declared_s), band[-1])
    where = f" (at {_limit(at.limit_s)})" if len(band) > 1 else ""
    own, hosted = _offer_words(at.own), _offer_words(at.hosted)
    match at.state:
        case "neither":
            return "neither side holds it"
        case "only own" | "only hosted":
            return f"only {at.state.removeprefix('only ')} holds it: {own or hosted}{where}"
        case "own":
            return f"own is cheaper: {own}, against {hosted}{where}"
        case "hosted":
            return f"hosted is cheaper: {hosted}, against {own}{where}"
        case "overlap":
            return f"they are not distinguishable: own {own}, hosted {hosted}, whose intervals overlap{where}"
        case "no interval":
            return (
                f"both hold it, and of fewer than 3 repetitions there is no interval: own {own}, hosted {hosted}{where}"
            )
        case _:
            return "both hold it"


def _offer_words(offer: Offer | None) -> str:
    """`$0.12 per 1,000 good requests (95 %: $0.11-$0.13; tiny, concurrency 4)`."""
    if offer is None:
        return ""
    cell = f"{formats.clean(offer.arm.row.target, 40)}, {formats.load_words(offer.arm.row.load)}"
    if offer.usd is None:
        return f"no price ({cell})"
    ends = offer.usd.interval
    between = "" if ends is None else f"95 %: {'-'.join(formats.usd(Decimal(end)) for end in ends)}; "
    return f"{formats.usd(Decimal(offer.usd.median))} per 1,000 good requests ({between}{cell})"
