"""Hosted, self-hosted, hybrid or dedicated: one answer with its reason, what would flip it, and what money does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.planner.scenario.inputs import MONTH_S
from harness.planner.scenario.options import Against, Option
from harness.planner.scenario.run import ScenarioResult

_CLOSE = Decimal("0.10")  # two options nearer than this are a tie: the simpler one is taken


@dataclass(frozen=True, slots=True)
class Decision:
    """`choice`: hosted | self-hosted | hybrid | dedicated. `excluded`: option and why it may not be taken, money aside or not.

    `flips`: thresholds at which the answer changes, one sentence each. `p_self_cheaper`, `p_never`: None without a hosted price
    that may be compared.
    """

    choice: str
    option: Option
    reason: str
    flips: tuple[str, ...]
    constraints: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]
    p_self_cheaper: float | None
    p_never: float | None
    warnings: tuple[str, ...]


_SIMPLER = ("hosted", "dedicated", "self-hosted", "hybrid")  # in order of what has to be run


def _why_not(option: Option, result: ScenarioResult) -> str | None:
    """Why an option may not be taken, or None."""
    limits = result.spec.constraints
    if option.infeasible is not None:
        return option.infeasible
    if limits.data_stays_inside and option.kind != "self-hosted":
        return "data may not leave (data_stays_inside)"
    people = result.spec.labour.full_time
    if limits.engineers is not None and option.kind in {"self-hosted", "hybrid"} and people > limits.engineers:
        return f"needs {people:g} people to run, there are {limits.engineers:g} (engineers)"
    if not option.same_product:
        return f"a different product than {result.model}: decide on its quality first"
    return None


def _constraint_lines(result: ScenarioResult) -> tuple[str, ...]:
    limits = result.spec.constraints
    lines = [f"SLO: {result.slo}"]
    if limits.data_stays_inside:
        lines.append("privacy: data stays inside; what that costs is the difference to the cheapest hosted option")
    if limits.latency:
        lines.append(f"latency: {limits.latency}")
    if limits.engineers is not None:
        lines.append(
            f"engineers: {limits.engineers:g} to run it, {result.spec.labour.full_time:g} needed for self-hosting"
        )
    return tuple(lines)


def _money(value: Decimal) -> str:
    return f"{value:.4g}" if 0 < value < 1 else f"{value:,.2f}"


def _crossing_words(a: Against) -> str:
    crossings = a.crossings
    if not crossings.crossings:
        use = crossings.break_even_utilisation
        return f"volume: no volume flips it against {a.hosted}: a machine would have to carry {use:.0%} of what headroom and peaks leave of it" if use else f"volume: none against {a.hosted}"  # fmt: skip
    first = Decimal(repr(crossings.crossings[0].rps)) * MONTH_S
    words = f"volume: self-hosting is first cheaper than {a.hosted} at {first:,.0f} requests a month"
    if first == 0:
        words = f"volume: self-hosting is cheaper than {a.hosted}, whose minimum commitment is due, from the first request on"
        back = next((c.rps for c in crossings.crossings if c.cheaper_above == "hosted"), None)
        words += "" if back is None else f"; above {Decimal(repr(back)) * MONTH_S:,.0f} requests a month hosted is"
    if crossings.permanent_rps:
        words += f", for good from {Decimal(repr(crossings.permanent_rps)) * MONTH_S:,.0f}"
    return words


def flips(result: ScenarioResult) -> tuple[str, ...]:
    """What would change the answer, against the hosted price that self-hosting is compared with."""
    if result.reference is None:
        return ("a hosted price that is feasible would be something to compare with",)
    a = next(x for x in result.against if x.hosted == result.reference)
    now = next(o.usd_per_request for o in result.options if o.kind == "hosted" and o.name == result.reference)
    price = result.figure("machine_usd_per_hour")
    lines = [
        f"hosted price: self-hosting is cheaper above ${_money(a.hosted_usd_per_request * 1000)} per 1,000 requests; {a.hosted} is at ${_money(now * 1000)}"
        if a.hosted_usd_per_request
        else f"hosted price: self-hosting is cheaper at every price: the minimum commitment of {a.hosted} alone is more",
        f"machine price: self-hosting is cheaper below ${_money(a.machine_usd_per_hour)} per hour; it is ${price}"
        if a.machine_usd_per_hour is not None
        else f"machine price: not even a free machine is cheaper than {a.hosted}: labour and storage alone are more than its bill",
        _crossing_words(a),
    ]
    if a.full_time is not None:
        lines.append(
            f"people: self-hosting is cheaper with fewer than {_money(a.full_time)} people; {result.spec.labour.full_time:g} are planned"
        )
    if result.outlook is not None:
        names = ", ".join(result.outlook.flips)
        lines.append(f"assumptions whose declared range alone flips it: {names or 'none'}")
    return tuple(lines)


def _reason(best: Option, allowed: Sequence[Option], cheapest: Option, result: ScenarioResult) -> str:
    others = [o for o in allowed if o.kind != best.kind]
    if not others:
        words = f"the only one that may be taken: {best.name}, ${best.usd_per_month:,.0f} a month"
    elif best is cheapest:
        other = min(others, key=lambda o: o.usd_per_month)
        words = f"{best.name}: ${best.usd_per_month:,.0f} a month, against ${other.usd_per_month:,.0f} for {other.kind} ({other.name})"
    else:
        words = f"{best.name}: ${best.usd_per_month:,.0f} a month, within 10 % of the cheapest ({cheapest.kind}, ${cheapest.usd_per_month:,.0f}) and simpler to run"
    free = [o for o in result.options if o.infeasible is None and o.same_product]
    cheaper = min(free, key=lambda o: o.usd_per_month)
    if cheaper not in allowed and cheaper.usd_per_month < best.usd_per_month:
        words += f"; the constraints cost ${best.usd_per_month - cheaper.usd_per_month:,.0f} a month ({cheaper.name} is ${cheaper.usd_per_month:,.0f})"
    return words


def decide(result: ScenarioResult) -> Decision:
    """The cheapest option that may be taken; of those within 10 % the one with the least to run.

    Raises ConfigError where the declared constraints leave nothing.
    """
    reasons = {id(o): _why_not(o, result) for o in result.options}
    allowed = [o for o in result.options if reasons[id(o)] is None]
    excluded = tuple((f"{o.kind}: {o.name}", why) for o in result.options if (why := reasons[id(o)]) is not None)
    if not allowed:
        first = "; ".join(dict.fromkeys(why for _, why in excluded))
        raise ConfigError(
            "nothing may be taken under these constraints", first, "relax constraints:, or declare another option"
        )
    cheapest = min(allowed, key=lambda o: o.usd_per_month)
    near = [o for o in allowed if o.usd_per_month <= cheapest.usd_per_month * (1 + _CLOSE)]
    best = min(near, key=lambda o: (_SIMPLER.index(o.kind), o.usd_per_month))
    return Decision(
        choice=best.kind,
        option=best,
        reason=_reason(best, allowed, cheapest, result),
        flips=flips(result),
        constraints=_constraint_lines(result),
        excluded=excluded,
        p_self_cheaper=None if result.outlook is None else result.outlook.p_self_cheaper,
        p_never=None if result.outlook is None else result.outlook.p_never,
        warnings=result.warnings,
    )
