"""The ways to serve a scenario's workload, each priced for a month, and where self-hosting crosses a hosted price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness.config import PriceRef
from harness.cost.breakeven import BreakEven, break_even_over_demand, staircase
from harness.cost.fleet import labour_usd_per_hour
from harness.cost.hosted import HostedPrice, bill, find_price
from harness.cost.hosted_terms import (
    MonthlyBill,
    RateLimits,
    Shape,
    cross_check,
    find_variant,
    limit_capacity,
    monthly_bill,
    provisioned_usd_per_hour,
)
from harness.cost.hybrid import HybridPlan, plan_hybrid
from harness.cost.measured import Usage
from harness.cost.prices import staleness
from harness.cost.quantities import HOURS_PER_MONTH
from harness.cost.scenario_inputs import Base
from harness.cost.scenario_spec import HostedPart
from harness.cost.token_exchange import same_tokenizer
from harness.errors import ConfigError

_NO_MACHINE_PAYS = "not a machine pays for itself: the same as hosted"
_ALL_ON_MACHINES = "the machines carry everything: the same as self-hosted"
_OTHER_PRODUCT = "a different product"


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve the workload. `infeasible` says why it cannot be taken; `notes` what must be known about it."""

    kind: str  # self-hosted | hosted | hybrid | dedicated
    name: str
    usd_per_month: Decimal
    usd_per_request: Decimal
    infeasible: str | None
    notes: tuple[str, ...]
    inputs: Mapping[str, str]

    @property
    def is_another(self) -> bool:
        """A hybrid that comes out as one of the other options."""
        return self.infeasible in {_NO_MACHINE_PAYS, _ALL_ON_MACHINES}

    @property
    def same_product(self) -> bool:
        return not any(_OTHER_PRODUCT in note for note in self.notes)


@dataclass(frozen=True, slots=True)
class HostedSide:
    """One hosted price of the scenario: per request of this workload, and the month's bill."""

    part: HostedPart
    price: HostedPrice
    usd_per_request: Decimal
    tokenizer_ratio: Decimal
    bill: MonthlyBill
    peak_allowed_rps: float | None
    infeasible: str | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.price.name


@dataclass(frozen=True, slots=True)
class Against:
    """Self-hosting against one hosted price: crossings in requests/s of mean demand, and break-even prices at this demand.

    hosted_usd_per_request (p*): self-hosting is cheaper above it. machine_usd_per_hour (c*): below it; None: not even a free
    machine. full_time: cheaper with fewer people than this; None: not even with none.
    """

    hosted: str
    crossings: BreakEven
    hosted_usd_per_request: Decimal
    machine_usd_per_hour: Decimal | None
    full_time: Decimal | None


def hosted_sides(base: Base) -> tuple[HostedSide, ...]:
    return tuple(_hosted_side(base, part) for part in base.spec.hosted)


def _ratio(base: Base, part: HostedPart) -> tuple[Decimal, list[str]]:
    """Exchange rate of tokens, and a note where it is not the same tokenizer's. ConfigError: two tokenizers and no rate."""
    own = base.spec.tokenizer
    if part.tokenizer_ratio is None and (own is None or part.tokenizer is None):
        note = "tokenizers are not declared: equal token counts are taken for granted"
        return Decimal(1), [] if part.same_model else [note]
    ratio = same_tokenizer(own, part.tokenizer, part.tokenizer_ratio)
    if part.tokenizer_ratio is None or (own is not None and own == part.tokenizer and ratio == 1):
        return ratio, []
    names = f"{part.tokenizer or 'not named'} against {own or 'not named'}"
    return ratio, [f"mixed tokenizers, {names}: {ratio:g} tokens for one of ours as declared (harness cost tokens measures it); compare $/request, not $/M tokens"]  # fmt: skip


def _against_the_book(base: Base, part: HostedPart, price: HostedPrice) -> str | None:
    """A note where an own price and the price book's of the same provider and model are more than 10 % apart."""
    try:
        return cross_check(price, find_price(PriceRef(provider=part.provider, model=part.model), base.at))
    except ConfigError:  # not in the book: there is no second source
        return None


def _usd_per_request(base: Base, price: HostedPrice, ratio: Decimal) -> Decimal:
    """Every request priced by itself; the mean request where there are no measured ones."""
    w = base.spec.workload
    mean = (w.input_tokens, w.cached_input_tokens, w.output_tokens, 0)
    usage: Usage = (mean,) if base.measured is None else base.measured.usage
    if ratio != 1:
        usage = tuple((round(i * ratio), round(c * ratio), round(o * ratio), round(r * ratio)) for i, c, o, r in usage)
    return bill(price, usage).total_usd / len(usage)


def _hosted_side(base: Base, part: HostedPart) -> HostedSide:
    spec, w = base.spec, base.spec.workload
    price = find_price(part, base.at) if part.service is None else find_variant(part, base.at, part.service)
    ratio, notes = _ratio(base, part)
    each = _usd_per_request(base, price, ratio)
    month = monthly_bill(
        each, base.requests, discount=part.discount, minimum_usd=part.minimum_usd_per_month, billed_retries=part.billed_retries
    )  # fmt: skip
    if not part.same_model:
        notes.append(f"{_OTHER_PRODUCT}: not {spec.model}; its quality is not compared here")
    if price.as_of is not None and (stale := staleness(price.name, price.as_of, base.at)):
        notes.append(stale)
    if price.own is not None and (apart := _against_the_book(base, part, price)) is not None:
        notes.append(apart)
    infeasible: str | None = None
    allowed: float | None = None
    if part.limits is not None:
        shape = Shape(
            input_tokens=float(w.input_tokens * ratio), output_tokens=float(w.output_tokens * ratio), max_tokens=w.max_tokens,
            cached_input_tokens=float(w.cached_input_tokens * ratio), usd_per_request=each,
        )  # fmt: skip
        found = limit_capacity(RateLimits(**part.limits.model_dump()), shape, base.demand.peak_rps * base.peak_factor)
        allowed, infeasible = found.rps, found.infeasible
    if part.meets_slo is False:
        infeasible = f"does not meet the SLO, as declared: {spec.slo}"
    elif part.meets_slo is None and w.kind == "interactive":
        notes.append("whether it meets the SLO is not measured")
    if part.service == "batch" and w.kind == "interactive":
        infeasible = "a batch price is not for users who wait: compare batch with batch"
    return HostedSide(part, price, month.due_usd / base.requests, ratio, month, allowed, infeasible, tuple(notes))


def _hosted_option(side: HostedSide) -> Option:
    inputs = {**side.price.inputs, "tokenizer ratio": str(side.tokenizer_ratio)}
    if side.bill.unused_usd > 0:
        inputs["commitment unused"] = f"{side.bill.unused_usd:.2f} USD per month"
    return Option("hosted", side.name, side.bill.due_usd, side.usd_per_request, side.infeasible, side.notes, inputs)


def _self_option(base: Base) -> Option:
    fleet, machine = base.fleet, base.machine
    notes = [] if (stale := staleness(machine.name, machine.as_of, base.at)) is None else [stale]
    if base.spec.fleet.spares == 0:
        notes.append("no spare: losing one machine loses its part of the load")
    inputs = {
        "machine": machine.name, "price": f"{machine.usd_per_hour} USD per hour", "price source": machine.source,
        "price as of": machine.as_of, "capacity": f"{base.capacity_rps:.6g} requests/s a machine", **base.capacity_inputs,
        "labour": base.spec.labour.source,
    }  # fmt: skip
    low, high = min(fleet.replicas), max(fleet.replicas)
    counts = plural(high) if low == high else f"{low}-{plural(high)}"
    return Option(
        "self-hosted", f"{counts}, {machine.name}", fleet.usd_per_month, fleet.usd_per_month / base.requests, None,
        tuple(notes), inputs,
    )  # fmt: skip


def plural(machines: int) -> str:
    return f"{machines} machine{'s' * (machines != 1)}"


def hybrid_plan(base: Base, side: HostedSide) -> HybridPlan:
    return plan_hybrid(base.demand, base.usable_rps, base.machine.usd_per_hour, side.usd_per_request)


def _hybrid_option(base: Base, side: HostedSide) -> Option:
    plan = hybrid_plan(base, side)
    fixed = base.fixed_usd_per_hour if plan.replicas else Decimal(0)
    month = (plan.usd_per_hour + fixed) * HOURS_PER_MONTH
    infeasible = side.infeasible
    if infeasible is not None and side.peak_allowed_rps is not None and plan.hosted_peak_rps <= side.peak_allowed_rps:
        infeasible = None  # the rate limit that the whole demand breaks holds for the burst alone
    if plan.replicas == 0:
        infeasible = infeasible or _NO_MACHINE_PAYS
    elif plan.hosted_share == 0 and base.spec.fleet.spares == 0:
        infeasible = infeasible or _ALL_ON_MACHINES
    notes = (f"{plan.hosted_share:.1%} of requests hosted; the hosted API is the spare", *side.notes)
    name = f"{plural(plan.replicas)} always on, the rest to {side.name}"
    return Option("hybrid", name, month, month / base.requests, infeasible, notes, {**side.price.inputs, "machine": base.machine.name})  # fmt: skip


def _dedicated_option(base: Base, side: HostedSide) -> Option | None:
    part = side.part.dedicated
    if part is None:
        return None
    peak = base.demand.peak_rps * base.peak_factor / base.spec.fleet.headroom
    units, per_hour = provisioned_usd_per_hour(peak, part.unit_requests_per_s, part.usd_per_unit_hour)
    month = per_hour * HOURS_PER_MONTH
    notes = tuple(n for n in side.notes if _OTHER_PRODUCT in n)
    return Option("dedicated", f"{units} units of {side.name}", month, month / base.requests, None, notes, {"unit": f"{part.usd_per_unit_hour} USD per hour, {part.unit_requests_per_s} requests/s", "source": part.source})  # fmt: skip


def options_of(base: Base, sides: Sequence[HostedSide]) -> tuple[Option, ...]:
    """Self-hosted first, then every hosted price with its hybrid and dedicated forms."""
    found = [_self_option(base)]
    for side in sides:
        found += [_hosted_option(side), _hybrid_option(base, side)]
        if (dedicated := _dedicated_option(base, side)) is not None:
            found.append(dedicated)
    return tuple(found)


def reference_of(sides: Sequence[HostedSide]) -> HostedSide | None:
    """The hosted price to compare with: the cheapest feasible one of the same model, else of any; None if none is feasible."""
    feasible = [s for s in sides if s.infeasible is None]
    same = [s for s in feasible if s.part.same_model]
    return min(same or feasible, key=lambda s: s.usd_per_request, default=None)


def self_staircase(base: Base, up_to_rps: float) -> list[tuple[float, float]]:
    """Self-hosted dollars per hour over mean demand, as `breakeven.staircase` gives them."""
    return staircase(base.demand, base.usable_rps, base.machine.usd_per_hour, up_to_rps, **_fleet_terms(base))


def _fleet_terms(base: Base) -> dict[str, Any]:
    fleet = base.spec.fleet
    return {
        "spares": fleet.spares,
        "fixed_usd_per_hour": base.fixed_usd_per_hour,
        "autoscaled": fleet.scaling == "autoscaled",
        "min_replicas": fleet.min_replicas,
    }


def against(base: Base, side: HostedSide) -> Against:
    fleet, labour = base.fleet, base.spec.labour
    hours = Decimal(repr(fleet.hours))
    replica_hours = fleet.paid_replica_hours / hours  # machines paid for, on average
    hosted_hour = side.usd_per_request * base.requests / HOURS_PER_MONTH
    left = hosted_hour - base.fixed_usd_per_hour
    machine = left / replica_hours
    person = labour_usd_per_hour(1, labour.usd_per_work_hour)
    for_people = left + labour_usd_per_hour(labour.full_time, labour.usd_per_work_hour) - base.price * replica_hours
    return Against(
        hosted=side.name,
        crossings=break_even_over_demand(
            base.demand, base.usable_rps, base.machine.usd_per_hour, side.usd_per_request, **_fleet_terms(base)
        ),
        hosted_usd_per_request=fleet.usd_per_month / base.requests,
        machine_usd_per_hour=machine if machine >= 0 else None,
        full_time=for_people / person if person and for_people >= 0 else None,
    )  # fmt: skip
