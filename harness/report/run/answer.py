"""The answer in one sentence, its verdict, the rule by which its cell was chosen, and the price of the machine in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness.price.hosted import same_model
from harness.price.unit_cost import SHARE_PREFIX
from harness.records import MEASURED, CostReport, RunSummary
from harness.report import formats
from harness.report.run.cells import Row, cost_line, rows, slo_target, worst

_BASIS = {"proposed": "PROPOSED from the price table, not declared", "example": "an EXAMPLE price, nobody's quote"}
_SAME_WITHIN = Decimal("0.03")  # a difference below it is called equal


@dataclass(frozen=True, slots=True)
class Answer:
    """`headline` is the sentence, `rule` how the cell was chosen, `verdict` VALID | UNKNOWN | INVALID | NONE.

    `row`, `run_ids`: the chosen cell; None and () without one. `cost`: the chosen run's, None where there is no dollar.
    """

    headline: str
    rule: str
    verdict: str
    verdict_words: str
    row: Row | None = None
    run_ids: tuple[str, ...] = ()
    cost: CostReport | None = None

    @property
    def text(self) -> str:
        return " ".join(part for part in (self.headline, f"{self.verdict_words}.", self.rule) if part)

    def as_json(self) -> dict[str, Any]:
        return {"text": self.text, "verdict": self.verdict, "run_ids": list(self.run_ids)}


def answer(summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False) -> str:
    """The answer as plain text (it may hold words from outside: print it without markup)."""
    return find_answer(summaries, costs, allow_invalid=allow_invalid).text


def find_answer(summaries: Sequence[RunSummary], costs: Sequence[CostReport], *, allow_invalid: bool = False) -> Answer:
    """Choose the best cell and say what a token costs there.

    The rule: of the VALID cells, those that meet the SLO if one is declared; of these, those on own hardware with a
    cost if there are any; of these, the highest output throughput. If none is VALID the sentence begins with that and
    has no dollar unless `allow_invalid`.
    """
    table = rows(summaries, costs, allow_invalid=allow_invalid)
    if not table:
        return Answer("No runs: nothing was measured, so there is no answer.", "", "NONE", "no verdict")
    measured = [row for row in table if row.middle("output_tps") is not None]
    valid = [row for row in measured if row.verdict == "VALID"]
    count = sum(run.verdict.state == "VALID" for run in summaries)
    overall = "VALID" if valid else worst([run.verdict.state for run in summaries])
    words = f"{overall} ({count} of {len(summaries)} runs{'' if overall == 'VALID' else ' VALID'})"
    if not valid and not (allow_invalid and measured):
        return Answer(_nothing_valid(summaries), "", "INVALID" if overall == "VALID" else overall, words)
    pool = valid or measured
    pool, rule = _meeting_slo(pool)
    priced = [row for row in pool if row.middle("usd_per_million_output_tokens") is not None]
    own = [row for row in priced if row.target_kind != "hosted"]
    priced = own or priced
    chosen = max(priced or pool, key=lambda row: float(row.middle("output_tps") or 0))
    cost = _cost_of(chosen, costs)
    parts = (
        []
        if valid
        else [f"NOT TO BE TRUSTED, no run is VALID (worst: {overall}); shown because it was asked for by name."]
    )
    parts += [_own(chosen, cost), *_mismatch(cost), *_hosted(chosen, cost)]
    what = "VALID cells" if valid else "cells, although none is VALID"
    rule = f"Best cell: the highest output throughput of the {what}{rule}"
    rule += f" that have {'an own' if own else 'a'} price" if priced and len(priced) < len(pool) else ""
    spread = _spread_words(chosen, "usd_per_million_output_tokens") or _spread_words(chosen, "output_tps")
    rule += f"; its numbers are medians of {spread}." if spread else "."
    return Answer(" ".join(parts), rule, overall, words, chosen, tuple(run.run_id for run in chosen.used), cost)


def _nothing_valid(summaries: Sequence[RunSummary]) -> str:
    messages: dict[str, None] = {}
    for run in summaries:
        for reason in run.verdict.reasons:
            if reason.severity in {"invalid", "unknown"}:
                messages.setdefault(formats.clean(reason.message, 200).rstrip("."))
    why = "; ".join(list(messages)[:3]) or "see the reasons below"
    more = f" (and {len(messages) - 3} more)" if len(messages) > 3 else ""
    return f"No run is VALID, so there is no price per token: {why}{more}."


def _meeting_slo(pool: list[Row]) -> tuple[list[Row], str]:
    """The rows that meet their SLO and the words for the rule; all rows where no SLO is declared or none meets it."""
    targets = {id(row): slo_target(row.used[0]) for row in pool}
    if all(target is None for target in targets.values()):
        return pool, ""
    share = max(target for target in targets.values() if target is not None)
    meeting = [
        row
        for row in pool
        if (target := targets[id(row)]) is None
        or ((share_met := row.middle("attainment")) is not None and float(share_met) >= target)
    ]
    promise = f"SLO (attainment at least {formats.percent(share)})"
    if not meeting:
        return pool, f", although NONE of them meets the {promise}: this is no price under that promise"
    return meeting, f" that meet the {promise}"


def _cost_of(row: Row, costs: Sequence[CostReport]) -> CostReport | None:
    """The cost of the row's run whose output throughput is nearest its median."""
    middle = float(row.middle("output_tps") or 0)
    by_run = {cost.run_id: cost for cost in costs if cost.unpriced is None}
    near = sorted(row.used, key=lambda run: abs((run.scalars.get("output_tps") or 0) - middle))
    return next((by_run[run.run_id] for run in near if run.run_id in by_run), None)


def _spread_words(row: Row, key: str) -> str:
    """`3 repetitions (95 %: $0.160-$0.163)`; empty with fewer than two."""
    spread = row.values[key]
    if spread is None or spread.count < 2:
        return ""
    low, high = (formats.usd(v) if isinstance(v, Decimal) else f"{formats.number(v)} tok/s" for v in spread.between)
    return f"{spread.count} repetitions ({'95 %: ' if spread.interval else ''}{low}-{high})"


def _own(row: Row, cost: CostReport | None) -> str:
    """What the cell produced and what a token costs on the measured machine."""
    hardware = cost.hardware if cost else None
    where = formats.clean(hardware.name, 60) if hardware else f"target {formats.clean(row.target, 40)}"
    tps = f"{formats.number(row.middle('output_tps'))} output tok/s"
    cell = f"{formats.load_words(row.load)}, {formats.clean(row.workload, 40)}, {tps}"
    output, total = row.middle("usd_per_million_output_tokens"), row.middle("usd_per_million_total_tokens")
    subject = f"{formats.clean(row.model, 80)} on {where}"
    if output is None and total is None:
        why = f"not computed: {formats.clean(cost.no_price, 900)}" if cost is not None and cost.no_price else ""
        why = why or row.absent.get("usd_per_million_output_tokens", "no cost was computed")
        return f"{subject}: {tps} at its best measured cell ({formats.load_words(row.load)}, {formats.clean(row.workload, 40)}); no own price per token: {why}."
    line = cost_line(cost.paid, "output") if cost is not None else None
    split = line.label.rpartition("output tokens")[2].strip(" ,") if line is not None else ""
    price = f"{_usd(output)} per million output tokens" + (f", {formats.clean(split, 60)}" if split else "")
    if total is not None:
        price += f" ({_usd(total)} per million input + output)"
    terms = ""
    if cost is not None and hardware is not None:
        terms = f", at a declared {formats.percent(cost.utilisation)} utilisation and {_hourly_words(cost)}"
    return f"{subject}: {price} at its best measured cell ({cell}){terms}."


def _mismatch(cost: CostReport | None) -> list[str]:
    """That the price is not of the machine that ran: it stands in the sentence, not below it."""
    if cost is None or cost.price_mismatch is None:
        return []
    return [f"NOT THE MACHINE PRICED: {formats.clean(cost.price_mismatch, 300)}.", *filter(None, [_share_words(cost)])]


def _usd(value: Any) -> str:
    return formats.usd(value) if isinstance(value, Decimal) else formats.ABSENT


def _hosted(row: Row, cost: CostReport | None) -> list[str]:
    """What the same tokens cost hosted: at the cheapest price of the same model, else the cheapest of all."""
    if cost is None:
        return []
    offers: list[tuple[bool, Decimal, str, str]] = []
    for name, lines in cost.hosted.items():
        if row.target_kind == "hosted" and cost.basis.get(name) == MEASURED:
            continue  # its price was said already
        for quantity in ("total", "requests"):
            line = cost_line(lines, quantity)
            amount = formats.money(line.usd) if line else None
            if amount is not None:
                offers.append((not same_model(row.model, name), amount, name, quantity))
                break
    if not offers:
        return []
    different, amount, name, quantity = min(
        offers, key=lambda offer: (offer[0], offer[3] != "total", offer[1], offer[2])
    )
    own = row.middle("usd_per_million_total_tokens" if quantity == "total" else "usd_per_thousand_requests")
    unit = "per million input + output" if quantity == "total" else "per 1,000 requests"
    text = f"The same tokens cost {formats.usd(amount)} {unit} at {formats.clean(name, 80)}"
    text += f" ({basis})" if (basis := cost.basis.get(name)) else ""
    text += f", {_compare(own, amount)}" if isinstance(own, Decimal) else ""
    text += " (a different product, not the model measured)" if different else ""
    return [f"{text}."]


def _compare(own: Decimal, hosted: Decimal) -> str:
    if own <= 0 or hosted <= 0:
        return "so one of the two is free"
    low, high = min(own, hosted), max(own, hosted)
    if high / low - 1 < _SAME_WITHIN:
        return "so both cost the same within 3 %"
    return f"so {'hosted' if hosted < own else 'own'} is {formats.ratio(high / low)} cheaper"


# ---------------------------------------------------------------- the machine's price: declared, proposed, an example, or none


def price_line(cost: CostReport) -> str:
    """`aws/p5.4xlarge .. at $6.88/h (source, date, age)`, or why there is no price. Plain text from outside: escape it."""
    hardware = cost.hardware
    if hardware is None:
        return cost.no_price or "no hardware price declared"
    basis = f", {_BASIS[hardware.basis]}" if hardware.basis in _BASIS else ""
    return f"{hardware.name} at ${hardware.usd_per_hour}/h{basis} ({hardware.source}, {cost.price_dated})"


def _hourly_words(cost: CostReport) -> str:
    """The end of the answer's price: `$6.88/h (price of 2026-07-20, 127 days old)`, and that nobody declared it."""
    hardware = cost.hardware
    if hardware is None:
        return ""
    dated = f"${formats.clean(hardware.usd_per_hour, 20)}/h (price of {formats.clean(cost.price_dated, 60)})"
    match hardware.basis:
        case "proposed":
            why = formats.clean(hardware.why, 200)
            return f"{dated}. PROPOSED, not declared: {why}; {formats.clean(hardware.source, 120)}"
        case "example":
            return f"{dated}, {_BASIS['example']}"
        case _:
            return dated


def _share_words(cost: CostReport) -> str:
    """What a token costs at the share of the price that belongs to the GPUs used; empty where the price is of just those."""
    shares = {line.name.removeprefix(SHARE_PREFIX): line for line in cost.own if line.name.startswith(SHARE_PREFIX)}
    output = shares.get("usd_per_million_output_tokens")
    if output is None or output.usd is None:
        return ""
    total = shares.get("usd_per_million_total_tokens")
    more = f", {formats.usd(total.usd)} per million input + output" if total is not None and total.usd else ""
    what = formats.clean(output.label.rpartition("; ")[2], 60)
    return f"That is the whole price; {what}: {formats.usd(output.usd)} per million output tokens{more}."
