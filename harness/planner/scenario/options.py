"""The ways to serve a scenario's workload, each priced for a month, and where self-hosting crosses a hosted price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from harness.base.errors import ConfigError
from harness.base.quantities import HOURS_PER_MONTH
from harness.config.price_ref import PriceRef
from harness.planner.breakeven import BreakEven, break_even_over_demand, equal_prices, staircase
from harness.planner.demand import Load, load_above
from harness.planner.fleet import labour_usd_per_hour
from harness.planner.hosted_terms import (
    MeanRequest,
    MonthlyBill,
    RateLimits,
    limit_capacity,
    monthly_bill,
    provisioned_usd_per_hour,
)
from harness.planner.hybrid import HybridPlan, plan_hybrid
from harness.planner.scenario.inputs import Base
from harness.planner.scenario.spec import HostedPart
from harness.planner.token_exchange import same_tokenizer
from harness.price.hosted import HostedPrice, Tokens, bill, cross_check, find_price
from harness.price.hosted_cache import NONE_DECLARED, cache_of, unbilled_writes
from harness.price.hosted_service import service_price
from harness.price.prices import machine_staleness, staleness
from harness.records import Bill

_NO_MACHINE_PAYS = "not a machine pays for itself: the same as hosted"
_ALL_ON_MACHINES = "the machines carry everything: the same as self-hosted"
_OTHER_PRODUCT = "a different product"


@dataclass(frozen=True, slots=True)
class Option:
    """One way to serve the workload. `infeasible` says why it cannot be taken; `notes` what must be known about it.

    `usd_per_request`: of a hosted one its price, what a commitment adds aside; of the others the month's sum over its requests.
    """

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
    """One hosted price of the scenario. each_usd: a request after discount and retries, the minimum commitment aside, which is a fixed
    sum of the month's `bill`. barred: why it may not be taken at any load; infeasible: that, or its limits.
    """

    part: HostedPart
    price: HostedPrice
    each_usd: Decimal
    tokenizer_ratio: Decimal
    bill: MonthlyBill
    billed: Bill
    shape: MeanRequest
    barred: str | None
    infeasible: str | None
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.price.name

    @property
    def minimum_usd_per_month(self) -> float:
        return self.part.minimum_usd_per_month


@dataclass(frozen=True, slots=True)
class Against:
    """Self-hosting against one hosted price: crossings in requests/s of mean demand, and break-even prices at this demand.

    hosted_usd_per_request (p*): self-hosting is cheaper above it; 0: at every price, its minimum is more. machine_usd_per_hour
    (c*): below it; None: not even a free machine. full_time: cheaper with fewer people than this; None: not even with none.
    """

    hosted: str
    each_usd: Decimal  # a hosted request, the minimum aside
    minimum_usd_per_month: Decimal
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


def _tokens(base: Base, part: HostedPart, ratio: Decimal) -> tuple[tuple[Tokens, ...], str]:
    """The requests that are billed, in the API's tokens, and whose cache they are billed with: never that of our own server.

    The measured requests where there are some, else the mean one.
    """
    w = base.spec.workload
    usage = ((w.input_tokens, 0, w.output_tokens, 0),) if base.measured is None else base.measured.usage
    cache = cache_of(part, declared=w.cached_input_tokens, ratio=ratio, ours=sum(one[1] for one in usage))
    return cache.tokens([tuple(round(n * ratio) for n in one) for one in usage]), cache.source


def _hosted_side(base: Base, part: HostedPart) -> HostedSide:
    spec, w = base.spec, base.spec.workload
    price = service_price(part, base.at, part.service)
    ratio, notes = _ratio(base, part)
    tokens, cached = _tokens(base, part, ratio)
    billed = bill(price, tokens)
    each = billed.total_usd / billed.requests
    price = replace(price, inputs={**price.inputs, "cached input": cached})
    if cached != NONE_DECLARED:
        notes.append(f"cached input: {cached}")
    if (writes := unbilled_writes(price, tokens)) is not None:
        notes.append(writes)
    month = monthly_bill(
        each, base.requests, discount=part.discount, minimum_usd=part.minimum_usd_per_month, billed_retries=part.billed_retries
    )  # fmt: skip
    if not part.same_model:
        notes.append(f"{_OTHER_PRODUCT}: not {spec.model}; its quality is not compared here")
    if price.as_of is not None and (stale := staleness(price.name, price.as_of, base.at)):
        notes.append(stale)
    if price.as_of is not None and (apart := _against_the_book(base, part, price)) is not None:
        notes.append(apart)
    barred: str | None = None
    if part.meets_slo is False:
        barred = f"does not meet the SLO, as declared: {spec.slo}"
    elif part.meets_slo is None and w.kind == "interactive":
        seen = None if base.measured is None else next((api for api in base.measured.apis if api.is_of(part)), None)
        if seen is not None and seen.misses:
            barred = f"does not meet the SLO: {seen.words}"
        else:
            notes.append("whether it meets the SLO is not measured" if seen is None else seen.words)
    if part.service == "batch" and w.kind == "interactive":
        barred = "a batch price is not for users who wait: compare batch with batch"
    each = month.usd_per_request
    shape = MeanRequest(
        input_tokens=float(w.input_tokens * ratio), output_tokens=float(w.output_tokens * ratio), max_tokens=w.max_tokens,
        cached_input_tokens=float(w.cached_input_tokens * ratio), usd_per_request=each,
    )  # fmt: skip
    barred = barred or _over_its_cap(part)
    infeasible = barred or _over_limits(part, shape, load_above(base.demand))
    return HostedSide(part, price, each, ratio, month, billed, shape, barred, infeasible, tuple(notes))


def _over_its_cap(part: HostedPart) -> str | None:
    cap = None if part.limits is None else part.limits.spend_usd_per_month
    if cap is None or part.minimum_usd_per_month <= cap:
        return None
    return f"its minimum commitment of ${part.minimum_usd_per_month:,.2f} a month is more than its cap of ${cap:,.2f}"


def _over_limits(part: HostedPart, shape: MeanRequest, load: Load) -> str | None:
    if part.limits is None:
        return None
    return limit_capacity(RateLimits(**part.limits.model_dump()), shape, load).infeasible


def _hosted_option(side: HostedSide) -> Option:
    inputs, notes = {**side.price.inputs, "tokenizer ratio": str(side.tokenizer_ratio)}, side.notes
    if (unused := side.bill.unused_usd) > 0:
        inputs["commitment unused"] = f"{unused:.2f} USD per month"
        due = f"${side.bill.due_usd:,.2f} a month is due by the minimum commitment, ${unused:,.2f} of it unused"
        notes = (*notes, f"{due}: a fixed sum, in no price of a request")
    return Option("hosted", side.name, side.bill.due_usd, side.each_usd, side.infeasible, notes, inputs)


def _self_option(base: Base) -> Option:
    fleet, machine = base.fleet, base.machine
    notes = [] if (stale := machine_staleness(machine, base.at)) is None else [stale]
    if base.spec.fleet.spares == 0:
        notes.append("no spare: losing one machine loses its part of the load")
    inputs = {
        "machine": machine.name, "price": f"{machine.usd_per_hour} USD per hour", "price source": machine.source,
        "price as of": machine.as_of, "price age": base.price_age, "capacity": f"{base.capacity_rps:.6g} requests/s a machine", **base.capacity_inputs,
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
    return plan_hybrid(
        base.demand, base.usable_rps, base.machine.usd_per_hour, side.each_usd, minimum_usd_per_month=side.minimum_usd_per_month
    )  # fmt: skip


def _hybrid_option(base: Base, side: HostedSide) -> Option:
    plan = hybrid_plan(base, side)
    fixed = base.fixed_usd_per_hour if plan.replicas else Decimal(0)
    month = (plan.usd_per_hour + fixed) * HOURS_PER_MONTH
    # limits that the whole demand breaks may hold for the burst alone
    burst = load_above(base.demand, plan.replicas * base.usable_rps)
    infeasible = side.barred or _over_limits(side.part, side.shape, burst)
    if plan.replicas == 0:
        infeasible = infeasible or _NO_MACHINE_PAYS
    elif plan.hosted_peak_rps == 0 and base.spec.fleet.spares == 0 and not side.minimum_usd_per_month:
        infeasible = infeasible or _ALL_ON_MACHINES
    notes = (f"{plan.hosted_share:.1%} of requests hosted; the hosted API is the spare", *side.notes)
    name = f"{plural(plan.replicas)} always on, the rest to {side.name}"
    return Option("hybrid", name, month, month / base.requests, infeasible, notes, {**side.price.inputs, "machine": base.machine.name})  # fmt: skip


def _dedicated_option(base: Base, side: HostedSide) -> Option | None:
    part = side.part.dedicated
    if part is None:
        return None
    peak = base.demand.highest_rps / base.spec.fleet.headroom
    units, per_hour = provisioned_usd_per_hour(peak, part.unit_requests_per_s, part.usd_per_unit_hour)
    month = per_hour * HOURS_PER_MONTH
    notes = tuple(n for n in side.notes if _OTHER_PRODUCT in n)
    return Option("dedicated", f"{units} units of {side.name}", month, month / base.requests, None, notes, {"unit": f"{part.usd_per_unit_hour} USD per hour, {part.unit_requests_per_s} requests/s", "price source": part.source})  # fmt: skip


def options_of(base: Base, sides: Sequence[HostedSide]) -> tuple[Option, ...]:
    """Self-hosted first, then every hosted price with its hybrid and dedicated forms."""
    options = [_self_option(base)]
    for side in sides:
        options += [_hosted_option(side), _hybrid_option(base, side)]
        if (dedicated := _dedicated_option(base, side)) is not None:
            options.append(dedicated)
    return tuple(options)


def reference_of(sides: Sequence[HostedSide]) -> HostedSide | None:
    """The hosted price to compare with: the cheapest feasible one of the same model, else of any; None if none is feasible."""
    feasible = [s for s in sides if s.infeasible is None]
    same = [s for s in feasible if s.part.same_model]
    return min(same or feasible, key=lambda s: s.bill.due_usd, default=None)


def self_staircase(base: Base, up_to_rps: float) -> list[tuple[float, float]]:
    """Self-hosted dollars per hour over mean demand, as `breakeven.staircase` gives them."""
    return staircase(base.demand, base.fleet_spec, up_to_rps)


def against(base: Base, side: HostedSide) -> Against:
    labour = base.spec.labour
    terms = (base.demand, base.fleet_spec, side.each_usd)
    equal = equal_prices(*terms, minimum_usd_per_month=side.minimum_usd_per_month)
    person = labour_usd_per_hour(1, labour.usd_per_work_hour)
    paid_people = labour_usd_per_hour(labour.full_time, labour.usd_per_work_hour)
    for_people = side.bill.due_usd / HOURS_PER_MONTH - base.fleet.usd_per_hour + paid_people
    return Against(
        hosted=side.name,
        each_usd=side.each_usd,
        minimum_usd_per_month=Decimal(repr(side.minimum_usd_per_month)),
        crossings=break_even_over_demand(*terms, minimum_usd_per_month=side.minimum_usd_per_month),
        hosted_usd_per_request=equal.hosted_usd_per_request,
        machine_usd_per_hour=equal.replica_usd_per_hour,
        full_time=for_people / person if person and for_people >= 0 else None,
    )
