"""The page of a decision: hosted, self-hosted, hybrid or dedicated, and everything it rests on, as one HTML file or as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from harness.base.quantities import HOURS_PER_MONTH
from harness.planner.scenario.decide import Decision
from harness.planner.scenario.inputs import MONTH_S, Base
from harness.planner.scenario.options import Against, Option, self_staircase
from harness.planner.scenario.run import ScenarioResult
from harness.report import formats, pages
from harness.report.decision.figures import break_even_plot, odds_plot, plot_limits_rps, tornado_plot
from harness.report.formats import md_text

_HEADLINES = {
    "hosted": "Buy it hosted",
    "self-hosted": "Host it yourself",
    "hybrid": "Own the base and send the peak to a hosted API",
    "dedicated": "Rent a dedicated endpoint",
}
NAMES = {  # assumptions of the odds, in words
    "demand_rps": "demand, requests/s",
    "replica_usd_per_hour": "machine, $/h",
    "hosted_usd_per_request": "hosted, $ a request",
    "headroom": "headroom",
    "fixed_usd_per_hour": "people and storage, $/h",
    "tokenizer_ratio": "hosted tokens / own tokens",
    "capacity_rps": "capacity, requests/s",
}


@dataclass(frozen=True, slots=True)
class AssumptionRow:
    """One input of the decision: what, its value, low and high of the odds (empty: not varied), where from, and its date."""

    what: str
    value: str
    between: str
    source: str
    as_of: str


def headline(decision: Decision) -> str:
    return f"{_HEADLINES[decision.choice]}: {decision.reason}."


def _in_words(flip: str) -> str:
    """A sentence of `Decision.flips` with the assumptions' names in words."""
    for name, words in NAMES.items():
        flip = flip.replace(name, words)
    return flip


def odds_words(result: ScenarioResult, decision: Decision) -> str:
    if decision.p_self_cheaper is None:
        return "No odds: there is no hosted price that could be compared with."
    words = f"P(self-hosting is cheaper than {result.reference}) = {decision.p_self_cheaper:.2f}"
    if decision.p_never:
        words += f"; in {decision.p_never:.0%} of the draws no volume makes it cheaper"
    return words


def _key_figures(result: ScenarioResult, decision: Decision) -> list[tuple[str, str]]:
    own, hosted = (_cheapest(result, kind) for kind in ("self-hosted", "hosted"))
    kpis = [] if decision.p_self_cheaper is None else [(f"{decision.p_self_cheaper:.2f}", "P(self-hosting is cheaper)")]
    if own is not None:
        kpis.append((formats.usd(own.usd_per_month), "self-hosted, a month"))
    if hosted is not None:
        kpis.append((formats.usd(hosted.usd_per_month), f"hosted, a month ({hosted.name})"))
    kpis.append((formats.usd(decision.option.usd_per_request * 1000), "per 1,000 requests, as decided"))
    use = result.figure("utilisation")
    kpis.append((formats.percent(None if use is None else Decimal(f"{use:.3f}")), "of the own machines' paid capacity would be used"))  # fmt: skip
    return kpis


def _cheapest(result: ScenarioResult, kind: str) -> Option | None:
    """The cheapest option of a kind: of the same model where one is feasible, as everywhere."""
    same = [o for o in result.options if o.kind == kind and o.infeasible is None]
    compared = [o for o in same if o.same_product]
    return min(compared or same, key=lambda o: o.usd_per_month, default=None)


def _reference(result: ScenarioResult) -> tuple[Against, Option] | None:
    if result.reference is None:
        return None
    against = next(a for a in result.against if a.hosted == result.reference)
    return against, next(o for o in result.options if o.kind == "hosted" and o.name == result.reference)


def _why_not(option: Option, decision: Decision) -> str | None:
    return dict(decision.excluded).get(f"{option.kind}: {option.name}")


def options_shown(result: ScenarioResult, decision: Decision) -> list[Option]:
    """Cheapest first, those that may not be taken last; hybrids that are the same as another option left out."""
    shown = [o for o in result.options if not o.is_another]
    return sorted(shown, key=lambda o: (_why_not(o, decision) is not None, o.usd_per_month))


def assumptions(result: ScenarioResult, base: Base) -> list[AssumptionRow]:
    """Every input with its source and date; ranges as drawn for the odds."""
    spec, machine, w = result.spec, base.machine, result.spec.workload
    drawn = {} if result.outlook is None else {bar.name: (bar.low, bar.high) for bar in result.outlook.tornado}

    def between(name: str, scale: float = 1.0) -> str:
        low, high = drawn.get(name, (None, None))
        return "" if low is None or high is None else f"{formats.number(low * scale)} to {formats.number(high * scale)}"

    capacity = base.capacity_inputs
    cached = f", {w.cached_input_tokens:,} of the input cached" if w.cached_input_tokens else ""
    rows = [
        AssumptionRow("requests a month", f"{base.requests:,.0f}", between("demand_rps", float(MONTH_S)), spec.demand.source, ""),
        AssumptionRow("shape of the day", f"{base.demand.name}, peak {base.demand.peak_to_mean * base.demand.peak_factor:.2f} x mean", "", base.demand.source, ""),
        AssumptionRow("tokens of a request", f"{w.input_tokens:,} input{cached}, {w.output_tokens:,} output", "", w.source, ""),
        AssumptionRow("capacity of a machine", f"{formats.number(base.capacity_rps)} requests/s", between("capacity_rps"), capacity["capacity source"], capacity.get("capacity as of", "")),
        AssumptionRow("headroom", f"{spec.fleet.headroom:g}", between("headroom"), "declared", ""),
        AssumptionRow("spare machines", f"{spec.fleet.spares}, {spec.fleet.scaling} fleet", "", "declared", ""),
        AssumptionRow("machine, $/h", f"{machine.usd_per_hour}", between("replica_usd_per_hour"), f"{machine.name}: {machine.source}", f"{machine.as_of}, {base.price_age}"),
        AssumptionRow("people", f"{spec.labour.full_time:g} at ${spec.labour.usd_per_work_hour:g} a work hour", between("fixed_usd_per_hour") and f"${between('fixed_usd_per_hour')} an hour, storage in", spec.labour.source, ""),
    ]  # fmt: skip
    for option in result.options:
        if option.kind == "hosted":
            inputs = option.inputs
            varied = between("hosted_usd_per_request", 1000) if option.name == result.reference else ""
            rows.append(AssumptionRow(f"hosted: {option.name}", f"{formats.usd(option.usd_per_request * 1000)} per 1,000 requests ({inputs.get('price', '')}; cached input: {inputs.get('cached input', 'none')})", varied and f"${varied}", inputs.get("price source", ""), inputs.get("price as of", "")))  # fmt: skip
    return rows


def html(result: ScenarioResult, decision: Decision, base: Base) -> str:
    """The page as one HTML text that loads nothing. Equal inputs give equal bytes; every word from outside is escaped."""
    demand, figures = base.demand.mean_rps, []
    reference = _reference(result)
    if reference is not None:
        against, option = reference
        words = f"Self-hosted stairs rise with every whole machine; the line is {option.name}. A full dot: self-hosting is cheaper above it, a hollow one: hosted is. Point at one for its volume."
        each, minimum = float(against.each_usd), float(against.minimum_usd_per_month / HOURS_PER_MONTH)
        ends = plot_limits_rps(against.crossings, demand, base.usable_rps)
        for name, end in zip(("Dollars per hour over volume", "The crossings, nearer"), ends, strict=False):
            stairs = self_staircase(base, end)
            plot = break_even_plot(name, stairs, each, option.name, against.crossings, demand, minimum)
            figures.append((name, plot, words))
            words = "The same, up to the last crossing."
    if result.outlook is not None:
        figures.append(("Odds over volume", odds_plot(result.outlook, demand), f"{result.outlook.draws:,} joint draws of all assumptions at each volume."))  # fmt: skip
        figures.append(("What the answer depends on", tornado_plot(result.outlook, NAMES), "One assumption at a time over its declared range, the others at their values; the numbers at a bar's ends are the assumption's. Left of the dashed 0 self-hosting is cheaper."))  # fmt: skip
    return (
        pages.environment()
        .get_template("decision.html.j2")
        .render(
            result=result,
            decision=decision,
            title=f"{result.name}: {decision.choice}",
            headline=headline(decision),
            odds=odds_words(result, decision),
            flips=[_in_words(line) for line in decision.flips],
            kpis=_key_figures(result, decision),
            options=[(o, _why_not(o, decision)) for o in options_shown(result, decision)],
            hosted=[o for o in result.options if o.kind == "hosted"],
            figures=[(name, pages.svg(text), words) for name, text, words in figures],
            crossings=_crossing_rows(result),
            assumptions=assumptions(result, base),
            hours_per_month=HOURS_PER_MONTH,
            peak_factor=base.demand.peak_factor,
        )
    )


def _crossing_rows(result: ScenarioResult) -> list[tuple[str, str, str, str]]:
    """(hosted price, first volume at which self-hosting is cheaper, for good from, how much of its usable rate a machine must carry)."""
    rows = []
    for a in result.against:
        crossings = a.crossings
        beyond = "never" if crossings.scanned_to_rps is None else f"not up to {_monthly(crossings.scanned_to_rps)}"
        first = beyond
        if crossings.crossings:
            first = _monthly(crossings.crossings[0].rps) if crossings.crossings[0].rps else "from the first request on"
        good = beyond if crossings.permanent_rps is None else _monthly(crossings.permanent_rps)
        use = crossings.break_even_utilisation
        rows.append((a.hosted, first, good, "-" if use is None else f"{use:.0%}"))
    return rows


def _monthly(rps: float) -> str:
    return f"{Decimal(repr(rps)) * MONTH_S:,.0f}"


# ---------------------------------------------------------------- Markdown


def _md_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    return "\n".join([*lines, *("| " + " | ".join(md_text(cell) for cell in row) + " |" for row in rows)])


def markdown(result: ScenarioResult, decision: Decision, base: Base) -> str:
    """The page without its plots, in GitHub's Markdown. Words from outside are escaped."""
    options = [(o.kind, o.name, formats.usd(o.usd_per_month), formats.usd(o.usd_per_request * 1000), _why_not(o, decision) or "; ".join(o.notes)) for o in options_shown(result, decision)]  # fmt: skip
    ladder = [(r.name, formats.usd(r.usd_per_1000_requests), f"{r.of_previous:.2f}", f"{r.of_first:.2f}") for r in result.ladder]  # fmt: skip
    rows = [(a.what, a.value, a.between, a.source, a.as_of) for a in assumptions(result, base)]
    parts = [
        f"# {md_text(result.name)}: {decision.choice}",
        f"**{md_text(headline(decision))}** {md_text(odds_words(result, decision))}.",
        "## What would flip it",
        "\n".join(f"- {md_text(line)}" for line in decision.flips),
        "## A month, every way",
        _md_table(("kind", "what", "$/month", "$/1,000 requests", "but"), options),
        "## Cost ladder of self-hosting",
        _md_table(("step", "$/1,000 requests", "x before", "x first"), ladder) if ladder else "The machine is free.",
        "## Break-even, requests a month",
        _md_table(("against", "first cheaper", "for good from", "a machine must carry"), _crossing_rows(result)),
        "## Assumptions",
        _md_table(("what", "value", "range of the odds", "source", "as of"), rows),
        "## What money does not say",
        "\n".join(f"- {md_text(line)}" for line in (*decision.constraints, *(f"not taken: {name}: {why}" for name, why in decision.excluded))),
        "## Warnings",
        "\n".join(f"- {md_text(line)}" for line in decision.warnings),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"
