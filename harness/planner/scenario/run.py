"""A workload priced every way: hosted, self-hosted with whole machines, hybrid, dedicated; break-even, odds, published claims.

Every figure carries its formula and its inputs with their dates. A month has 730.5 hours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.base.quantities import HOURS_PER_MONTH
from harness.planner.fleet import Rung, cost_ladder, paid_shares, replicas_needed
from harness.planner.measured import Measured
from harness.planner.scenario.claims import Claim, compare
from harness.planner.scenario.inputs import MONTH_S, Base, base_of
from harness.planner.scenario.options import (
    Against,
    HostedSide,
    Option,
    against,
    hosted_sides,
    options_of,
    reference_of,
)
from harness.planner.scenario.spec import ScenarioSpec
from harness.planner.uncertainty import Assumption, Case, Interval, Outlook, outlook
from harness.price.machine_match import price_mismatch


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with everything it was made of. `value` None: there is none, and `formula` says why."""

    name: str
    label: str
    value: Decimal | None
    unit: str
    formula: str
    inputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ScenarioResult:
    """Everything that is said about a scenario. `reference` names the hosted price that self-hosting is compared with.

    `ladder`: a request's cost from a machine that is full at all times to what is paid; empty for a machine that is free.
    """

    name: str
    description: str
    at: str
    model: str
    slo: str
    figures: tuple[Figure, ...]
    ladder: tuple[Rung, ...]
    options: tuple[Option, ...]
    reference: str | None
    against: tuple[Against, ...]
    outlook: Outlook | None
    claims: tuple[Claim, ...]
    warnings: tuple[str, ...]
    verdict: str
    spec: ScenarioSpec

    def figure(self, name: str) -> Decimal | None:
        """The value of a figure. Raises KeyError for a name that there is not."""
        return {f.name: f.value for f in self.figures}[name]


def _number(value: float) -> Decimal:
    return Decimal(repr(float(value)))


def _month_formula(base: Base, side: HostedSide) -> str:
    words = f"{base.requests:,.0f} requests x {side.each_usd:.6g} $"
    return words + (f", at least the commitment of {side.bill.due_usd:,.2f} $" if side.bill.unused_usd else "")


def _figures(base: Base, sides: Sequence[HostedSide]) -> list[Figure]:
    spec, fleet, w = base.spec, base.fleet, base.spec.workload
    tokens = w.input_tokens + w.output_tokens
    machine = {
        "machine": base.machine.name,
        "price source": base.machine.source,
        "price as of": base.machine.as_of,
        "price age": base.price_age,
    }
    shape = {"workload": w.source, "demand": spec.demand.source, "shape": base.demand.name}
    parts = {p.name: p.usd / _number(fleet.hours) * HOURS_PER_MONTH for p in fleet.parts}
    peak, factor = base.demand.highest_rps, base.demand.peak_factor
    rows: list[tuple[str, str, Decimal | None, str, str, Mapping[str, str]]] = [
        ("requests_per_month", "requests", base.requests, "per month", "declared", shape),
        ("tokens_per_request", "tokens of a request", Decimal(tokens), "tokens", f"{w.input_tokens} input + {w.output_tokens} output", shape),
        ("mean_rps", "mean demand", base.requests / MONTH_S, "requests/s", f"requests / ({HOURS_PER_MONTH} h x 3600 s)", shape),
        ("peak_rps", "peak demand", _number(peak), "requests/s", f"highest hour of the shape x {factor:.3g} for peaks it averages out", shape),
        ("capacity_rps", "capacity of a machine at the SLO", _number(base.capacity_rps), "requests/s", f"{spec.machine.replicas} replica(s) a machine", base.capacity_inputs),
        ("machine_usd_per_hour", "price of a machine", base.price, "USD per hour", f"paid whether busy or idle; price of {base.machine.as_of}, {base.price_age}", machine),
        ("machines", "machines at the peak, spares in", Decimal(max(fleet.replicas)), "machines", f"ceil(peak / (capacity x headroom {spec.fleet.headroom})) + {spec.fleet.spares} spare(s), {spec.fleet.scaling}", {**machine, **base.capacity_inputs}),
        ("machines_needed_flat", "machines for the mean alone, full and without spare", Decimal(replicas_needed(base.demand.mean_rps, base.capacity_rps, 1)), "machines", "ceil(mean / capacity): the least that can be", base.capacity_inputs),
        ("utilisation", "utilisation of what is paid", _number(fleet.utilisation), "", "served / (paid machine-hours x capacity): a result", machine),
        ("machines_usd_per_month", "machines", parts["replicas"], "USD per month", f"paid machine-hours x {base.price} $/h x {HOURS_PER_MONTH} h", machine),
        ("labour_usd_per_month", "labour", parts["labour"], "USD per month", f"{spec.labour.full_time} people x 40/168 x {spec.labour.usd_per_work_hour} $/h x {HOURS_PER_MONTH} h", {"labour": spec.labour.source}),
        ("self_usd_per_month", "self-hosted, all in", fleet.usd_per_month, "USD per month", "machines + labour + storage", machine),
        ("self_first_month_usd", "self-hosted, first month", fleet.usd_per_month + _number(spec.labour.one_off_usd), "USD", f"+ {spec.labour.one_off_usd:g} once", machine),
        ("self_usd_per_request", "self-hosted, a request", fleet.usd_per_month / base.requests, "USD", "month / requests", machine),
        ("self_usd_per_million_tokens", "self-hosted, a million tokens (input + output)", fleet.usd_per_month / base.requests / tokens * 1_000_000, "USD", "month / tokens", machine),
    ]  # fmt: skip
    for n, side in enumerate(sides):
        rows += [
            (f"hosted_{n}_usd_per_month", f"hosted, {side.name}", side.bill.due_usd, "USD per month", _month_formula(base, side), side.price.inputs),
            (f"hosted_{n}_usd_per_request", f"hosted, {side.name}, a request", side.each_usd, "USD", "each request priced by itself", side.price.inputs),
        ]  # fmt: skip
    return [Figure(*row) for row in rows]


def _crossing_figures(base: Base, sides: Sequence[HostedSide], comparisons: Sequence[Against]) -> list[Figure]:
    figures = []
    for n, (side, a) in enumerate(zip(sides, comparisons, strict=True)):
        inputs = {**side.price.inputs, "machine": base.machine.name, "price of the machine as of": base.machine.as_of}
        first = a.crossings.crossings[0].rps if a.crossings.crossings else None
        for name, label, rps in (
            ("first", "self-hosting first becomes cheaper", first),
            ("permanent", "and stays cheaper", a.crossings.permanent_rps),
        ):
            value = None if rps is None else _number(rps) * MONTH_S
            formula = "crossing of the two computed curves, whole machines, labour and spares in"
            if rps == 0:
                formula = "from the first request on: the hosted minimum commitment alone is more"
            elif value is None and first is not None:
                formula = "never for good: only where the hosted minimum commitment is more than the machines"
            if value is None and a.crossings.scanned_to_rps is not None:
                formula = f"not found up to {a.crossings.scanned_to_rps:.4g} requests/s; nothing is said above"
            elif value is None and first is None:
                formula = "never: hosted is cheaper at every volume"
            figures.append(
                Figure(f"{name}_crossing_{n}", f"{label} than {side.name}", value, "requests per month", formula, inputs)
            )  # fmt: skip
    return figures


def _measured_capacity(planned_rps: float, measured: Measured, interval: Interval) -> Assumption:
    """A machine's capacity with its measured interval; the machine holds as many replicas as the plan says."""
    scale = planned_rps / measured.plan_rps
    low, middle, high = (v * scale for v in (interval.low, interval.middle, interval.high))
    mode = min(max(planned_rps, low), high)
    return Assumption(
        "capacity_rps", low, mode, high, "interval of the measurement", estimate=middle, level=interval.level
    )


def case_of(base: Base, side: HostedSide) -> Case:
    """The comparison with one hosted price as the odds draw around it: the same fleet and the same bill."""
    shares = paid_shares(base.demand, base.fleet_spec)
    return Case(
        demand_rps=base.demand.mean_rps,
        replica_usd_per_hour=float(base.price),
        hosted_usd_per_request=float(side.each_usd),
        headroom=base.spec.fleet.headroom,
        fixed_usd_per_hour=float(base.fixed_usd_per_hour),
        tokenizer_ratio=1.0,  # of the hosted price, which has the declared ratio in it
        capacity_rps=base.capacity_rps,
        hosted_minimum_usd_per_hour=float(Decimal(repr(side.minimum_usd_per_month)) / HOURS_PER_MONTH),
        spares=base.spec.fleet.spares,
        min_replicas=base.spec.fleet.min_replicas,
        shape=tuple(rate / base.demand.mean_rps for rate, _ in shares),
        shares=tuple(float(part) for _, part in shares),
    )


def _outlook(base: Base, side: HostedSide) -> Outlook:
    ranges, case = base.spec.ranges, case_of(base, side)
    assumptions = []
    for name in type(ranges).model_fields:
        value = getattr(case, name)
        if name == "capacity_rps" and base.measured is not None and base.measured.interval is not None:
            assumptions.append(_measured_capacity(value, base.measured, base.measured.interval))
            continue
        low, high = (value * f for f in getattr(ranges, name))
        if name == "headroom":
            high = min(1.0, high)
        if low < high:
            assumptions.append(Assumption(name, low, value, high, "ranges of the scenario"))
    return outlook(case, assumptions)


def _claims(spec: ScenarioSpec, figures: Sequence[Figure]) -> tuple[Claim, ...]:
    values = {f.name: f.value for f in figures} | {
        "hours_per_month": HOURS_PER_MONTH,
        "input_tokens": Decimal(spec.workload.input_tokens),
        "output_tokens": Decimal(spec.workload.output_tokens),
    }
    return tuple(compare(c.row, c.says, c.stated, c.arithmetic, c.ours, c.unit, c.reason, values) for c in spec.claims)


def _verdict(options: Sequence[Option], reference: HostedSide | None, odds: Outlook | None) -> str:
    """One line: the cheapest of each kind that serves the same model; a cheaper other product is named as one."""
    feasible = sorted((o for o in options if o.infeasible is None), key=lambda o: o.usd_per_month)
    same = [o for o in feasible if o.same_product]
    words, seen = [], set[str]()
    for o in same:
        if o.kind not in seen:
            words.append(f"{o.kind} ${o.usd_per_month:,.0f} a month" + ("" if seen else f" ({o.name})"))
            seen.add(o.kind)
    line = f"cheapest: {'; '.join(words)}"
    if feasible[0] not in same:
        line += f"; a different product, {feasible[0].name}, ${feasible[0].usd_per_month:,.0f}"
    if reference is not None and odds is not None:
        line += f"; P(self-hosted is cheaper than {reference.name}) = {odds.p_self_cheaper:.2f}"
    return line


def _price_mismatch(base: Base) -> str | None:
    """How the machine that is priced differs from what the measured capacity is of."""
    if base.measured is None or base.measured.ran_on is None:
        return None
    return price_mismatch(base.machine, base.measured.ran_on, base.spec.machine.replicas)


def _measured_warnings(base: Base) -> list[str]:
    """What a measured run says against the scenario it is used in."""
    if base.measured is None:
        return []
    w, usage = base.spec.workload, base.measured.usage
    warnings = list(base.measured.warnings)
    if (mismatch := _price_mismatch(base)) is not None:
        warnings.append(mismatch)
    if base.measured.models != (base.spec.model,):
        warnings.append(f"the run served {', '.join(base.measured.models)}, the scenario is of {base.spec.model}")
    for what, asked, at in (("input", w.input_tokens, 0), ("output", w.output_tokens, 2)):
        seen = sum(u[at] for u in usage) / len(usage)
        if abs(seen / asked - 1) > 0.2:
            warnings.append(
                f"the run's requests have {seen:.0f} {what} tokens on average, the scenario's {asked}: its capacity is of another workload"
            )
    return warnings


def run_scenario(spec: ScenarioSpec, measured: Measured | None = None) -> ScenarioResult:
    """Price a scenario. `measured`: capacity and usage of the run it names. Raises ConfigError, never a silent 0."""
    base = base_of(spec, measured)
    sides = hosted_sides(base)
    options = options_of(base, sides)
    reference = reference_of(sides)
    comparisons = tuple(against(base, side) for side in sides)
    odds = _outlook(base, reference) if reference is not None else None
    figures = [*_figures(base, sides), *_crossing_figures(base, sides, comparisons)]
    warnings = [
        f"{o.kind}, {o.name}: {note}" for o in options if o.kind in {"self-hosted", "hosted"} for note in o.notes
    ]
    warnings += _measured_warnings(base)
    mismatch = _price_mismatch(base)
    if base.capacity_inputs.get("capacity as of") == "not given":
        warnings.append(f"capacity is not measured here: {base.capacity_inputs['capacity source']}")
    warnings.append("ranges of the odds and the tornado are assumptions (ranges: in the scenario), not findings")
    return ScenarioResult(
        name=spec.scenario,
        description=spec.description,
        at=spec.as_of.isoformat(),
        model=spec.model,
        slo=spec.slo,
        figures=tuple(figures),
        ladder=cost_ladder(base.demand, base.fleet_spec) if base.price else (),
        options=options,
        reference=None if reference is None else reference.name,
        against=comparisons,
        outlook=odds,
        claims=_claims(spec, figures),
        warnings=tuple(dict.fromkeys(warnings)),
        verdict=_verdict(options, reference, odds)
        + ("" if mismatch is None else f"; NOT THE MACHINE PRICED: {mismatch}"),
        spec=spec,
    )
