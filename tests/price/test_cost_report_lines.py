"""Every line of a run's cost report with its formula and inputs, and what is said where there is no dollar."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal as D

import pytest

from harness.base.errors import InvalidRunError
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.price.run_cost import cost_run
from harness.price.unit_cost import decimal_text
from harness.records import Bill, CostLine, CostReport, Hardware, Reason, Verdict
from tests.price.cost_summaries import RUN_ID, summary

BOX = Hardware("box", "3.60", "quote", "2026-11-01")
HOST = PriceRef(
    provider="host", model="org/m", input_usd_per_million=2, output_usd_per_million=7, source="list", as_of="2026-11-02"
)
SPEC = CostSpec(utilisation=0.5, hosted=[HOST])
MILLION, THOUSAND, USD = "USD per million tokens", "USD per 1,000 requests", "USD"
OWN = {  # name: label, unit
    "self_usd_per_million_total_tokens": ("self-hosted, per million tokens (input + output)", MILLION),
    "self_usd_per_1000_requests": ("self-hosted, per 1,000 requests", THOUSAND),
    "self_usd_per_1000_good_requests": ("self-hosted, per 1,000 requests inside the SLO", THOUSAND),
    "self_usd_per_million_input_tokens": ("self-hosted, per million input tokens, split by price ratio", MILLION),
    "self_usd_per_million_output_tokens": ("self-hosted, per million output tokens, split by price ratio", MILLION),
    "self_usd_per_million_output_tokens_upper": ("self-hosted, per million output tokens, if all cost is put on output", MILLION),
    "self_usd_per_million_input_tokens_upper": ("self-hosted, per million input tokens, if all cost is put on input", MILLION),
    "self_usd_window": ("self-hosted, the requests sent in the window", USD),
}  # fmt: skip
HOSTED = {
    "hosted_usd_per_million_total_tokens": ("hosted, per million tokens (input + output)", MILLION),
    "hosted_usd_per_1000_requests": ("hosted, per 1,000 requests", THOUSAND),
    "hosted_usd_per_million_input_tokens": ("hosted, per million input tokens, as billed", MILLION),
    "hosted_usd_per_million_output_tokens": ("hosted, per million output tokens, as billed", MILLION),
    "hosted_usd_window": ("hosted, the requests sent in the window", USD),
}


def lines(names, values, inputs):
    """CostLines of a table: each (dollars, formula) in the order of the names."""
    return tuple(
        CostLine(name, label, usd, unit, formula, inputs)
        for (name, (label, unit)), (usd, formula) in zip(names.items(), values, strict=True)
    )


def test_the_whole_report_by_hand():
    """$3.60/h at half use is $0.002 a busy second: over 12,000, 10, 8 units/s; split 1 : 3.5; $2 and $1.40 hosted."""
    bound = "; a bound: it carries the whole machine, so input and output bounds must never be added"

    def over(rate, metric, units):
        return f"3.60 $/h / ({rate} {metric} x 3600 s/h x 0.5 utilisation) x {units}"

    split = "3.60 $/h / ((10000 input_tps + 3.5 x 2000 output_tps) x 3600 s/h x 0.5 utilisation) x 1000000"
    own = [
        ("0.166666666667", over(12000, "total_tps", 1_000_000)),
        ("0.2", over(10, "request_rps", 1000)),
        ("0.25", over(8, "goodput_rps", 1000)),
        (decimal_text(D(2000) / 17000), split),
        (decimal_text(D(7000) / 17000), f"3.5 x {split}"),
        ("1", over(2000, "output_tps", 1_000_000) + bound),
        ("0.2", over(10000, "input_tps", 1_000_000) + bound),
        ("0.2", "3.60 $/h x 100 s / 3600 s/h / 0.5 utilisation"),
    ]
    inputs = {
        "run": RUN_ID, "machine": "box", "price": "3.60 USD per hour", "price source": "quote", "price as of": "2026-11-01",
        "price age": "23 days old", "utilisation": "0.5 (declared)", "output:input price ratio": "3.5 (that of host/org/m)",
        "verdict": "VALID",
    }  # fmt: skip
    hosted = [
        (decimal_text(D("3.4") / D("1.2")), "bill of 1000 requests, each priced by itself: 3.4 $ / 1200000 x 1000000"),
        ("3.4", "bill of 1000 requests, each priced by itself: 3.4 $ / 1000 x 1000"),
        ("2", "input part of the bill of 1000 requests, each priced by itself: 2 $ / 1000000 x 1000000"),
        ("7", "output part of the bill of 1000 requests, each priced by itself: 1.4 $ / 200000 x 1000000"),
        ("3.4", "bill of 1000 requests, each priced by itself"),
    ]
    bill = {
        "run": RUN_ID, "basis": "list price: the tokens of a run elsewhere, nothing of it measured at this API", "requests": "1000", "prompt tokens": "1000000", "of them cached": "0", "of them written to the cache": "0",
        "cached input": "none: no cached_input_tokens declared", "output tokens": "200000", "of them reasoning": "0",
        "price": "$2.0 input, $2.0 cached input, $7.0 output per million tokens", "price source": "list", "price as of": "2026-11-02",
    }  # fmt: skip
    assert cost_run(summary(), BOX, SPEC) == CostReport(
        RUN_ID, "VALID", 0.5, BOX, lines(OWN, own, inputs), {"host/org/m": lines(HOSTED, hosted, bill)}, (),
        price_mismatch=None, unpriced=None, basis={"host/org/m": "list price"},
        bills={"host/org/m": Bill(1000, 1_000_000, 0, 0, 200_000, D(2), D(0), D(0), D("1.4"), D(0))},
    )  # fmt: skip


def test_without_a_machine_every_own_line_says_why():
    """All eight with name, label and unit, no dollar, and the run."""
    why = "not computed: no price of the machine is declared (hardware: in the experiment)"
    report = cost_run(summary(), None, CostSpec())
    want = lines(OWN, [(None, why)] * 8, {"run": RUN_ID})
    short = why.removeprefix("not computed: ")
    assert report == CostReport(RUN_ID, "VALID", 1.0, None, want, {}, (), no_price=short)


def test_usage_that_does_not_add_up_prices_nothing():
    """More cached than prompt tokens: no line has a dollar, own or hosted; the reason stands in each and in the report."""
    report = cost_run(summary(usage=((5, 6, 1, 0),)), BOX, SPEC)
    why = (
        "usage does not add up: prompt, cached, output, reasoning = (5, 6, 1, 0); cached tokens are part of the prompt, "
        "reasoning tokens of the output"
    )
    run = {"run": RUN_ID}
    assert report == CostReport(
        RUN_ID, "VALID", 0.5, BOX, lines(OWN, [(None, f"not computed: {why}")] * 8, run),
        {"host/org/m": lines(HOSTED, [(None, f"not computed: {why}")] * 5, run)}, (f"run {RUN_ID} is not priced: {why}",),
        unpriced=why,
    )  # fmt: skip


def own_of(run, spec=SPEC, box=BOX):
    return {line.name.removeprefix("self_usd_"): line for line in cost_run(run, box, spec).own}


def test_a_rate_that_is_unknown_or_0_has_no_cost_and_a_small_one_has():
    """Half a request a second costs $4 a thousand; a split needs both rates, and some token in either."""
    slow = own_of(summary(request_rps=0.5, input_tps=0.2, output_tps=0.1))
    assert slow["per_1000_requests"].usd == "4"
    assert slow["per_million_input_tokens"].usd == decimal_text(D(2000) / D("0.55"))
    for given, written in ((None, 5.0), (5.0, None), (0.0, 0.0)):
        found = own_of(summary(input_tps=given, output_tps=written))
        for side in ("input", "output"):
            line = found[f"per_million_{side}_tokens"]
            assert line.usd is None
            assert line.formula == "not computed: input_tps and output_tps are not both known in this run"
    only = own_of(summary(input_tps=5.0, output_tps=0.0))
    assert only["per_million_input_tokens"].usd == "400"
    assert only["per_million_output_tokens_upper"].formula == "not computed: output_tps is 0 in this run"
    none = own_of(summary(total_tps=None, window=False))
    assert none["per_million_total_tokens"].formula == "not computed: total_tps is not known in this run"
    assert (none["window"].usd, none["window"].formula) == (None, "not computed: the run has no window")


def test_hosted_lines_without_tokens_or_requests_say_so():
    """No output token: no price of one, and the rest stands; no usage at all: nothing."""

    def hosted_of(run):
        return {line.name: (line.usd, line.formula) for line in cost_run(run, BOX, SPEC).hosted["host/org/m"]}

    found = hosted_of(summary(usage=((500_000, 0, 0, 0),)))
    assert found["hosted_usd_per_million_output_tokens"] == (None, "not computed: this run has no such tokens")
    assert found["hosted_usd_window"] == ("1", "bill of 1 requests, each priced by itself")
    assert found["hosted_usd_per_1000_requests"][0] == "1000"
    none = "not computed: usage is not known for every request of the window, or there is none"
    assert set(hosted_of(summary(usage=())).values()) == {(None, none)}


def test_where_the_ratio_comes_from():
    """Declared, else of the first hosted price, else (none, or its input is free) 4:1."""
    other = PriceRef(provider="a", model="b", input_usd_per_million=1, output_usd_per_million=9, as_of="2026-11-02")
    free = PriceRef(provider="a", model="b", input_usd_per_million=0, output_usd_per_million=9, as_of="2026-11-02")
    for spec, said in (
        (CostSpec(input_output_price_ratio=1.23456789, hosted=[HOST]), "1.23457 (declared in the experiment)"),
        (CostSpec(hosted=[HOST, other]), "3.5 (that of host/org/m)"),
        (CostSpec(hosted=[other, HOST]), "9 (that of a/b)"),
        (CostSpec(hosted=[free]), "4 (4:1, the harness's default)"),
        (CostSpec(), "4 (4:1, the harness's default)"),
    ):
        line = own_of(summary(), spec)["per_million_input_tokens"]
        assert line.inputs["output:input price ratio"] == said
        ratio = D("1.23456789") if said.startswith("1.23457") else D(said.partition(" ")[0])
        assert line.usd == decimal_text(D(1000) / (10_000 + ratio * 2000))


@pytest.mark.parametrize(("price", "usd"), [("0", "0"), ("0.5", "0.0277777777778")])
def test_a_machine_may_be_cheap_or_free(price, usd):
    """$0 an hour is a price; so is half a dollar."""
    assert own_of(summary(), box=replace(BOX, usd_per_hour=price))["per_1000_requests"].usd == usd


def test_warnings_come_in_order_and_each_once():
    """Verdict, hosted price's age and tokenizer, machine, its telemetry and its age, full use, what the bill leaves out."""
    old = Hardware("m", "1", "s", "2026-07-26", "H100-SXM", 8)
    b = PriceRef(provider="a", model="b", input_usd_per_million=1, output_usd_per_million=2, as_of="2026-01-01")
    haiku = PriceRef(provider="anthropic", model="claude-haiku-4-5", cached_input_tokens=500)
    run = summary(state="UNKNOWN")
    doubts = (Reason("w", "warning", "a remark", ""), *run.verdict.reasons, Reason("y", "unknown", "and more", ""))
    report = cost_run(replace(run, verdict=Verdict("UNKNOWN", doubts)), old, CostSpec(hosted=[b, haiku]))
    starts = (
        f"run {RUN_ID} is UNKNOWN: too many failed; and more", "stale price of a/b: dated 2026-01-01", "mixed tokenizers: a/b is not m",
        "mixed tokenizers: anthropic/claude-haiku-4-5 is not m", "the price is for 8 GPUs and the run used 1",
        "that the run was on the machine priced (8 x H100-SXM) is not checked", "stale price of m: dated 2026-07-26",
        "utilisation 1.0 is the lower bound", "anthropic/claude-haiku-4-5 charges for cache writes",
    )  # fmt: skip
    assert len(report.warnings) == len(starts)
    for said, start in zip(report.warnings, starts, strict=True):
        assert said.startswith(start)
    assert report.warnings[0] == starts[0]
    assert report.price_mismatch == report.warnings[4]
    assert not any("lower bound" in w for w in cost_run(run, old, CostSpec(utilisation=0.99)).warnings)
    assert not any("lower bound" in w for w in cost_run(run, None, CostSpec()).warnings)


def test_an_invalid_run_says_that_it_was_asked_for():
    """Priced by name only, with the reason; one without a reason is refused all the same."""
    report = cost_run(summary(state="INVALID"), BOX, SPEC, allow_invalid=True)
    assert report.warnings == (
        f"run {RUN_ID} is INVALID, priced only because it was asked for by name: too many failed",
    )
    assert cost_run(summary(), BOX, SPEC).warnings == ()
    with pytest.raises(InvalidRunError) as error:
        cost_run(replace(summary(), verdict=Verdict("INVALID", ())), BOX, SPEC)
    assert error.value.value == f"{RUN_ID}: "


@pytest.mark.parametrize(
    ("value", "text"),
    [("2", "2"), ("200", "200"), ("1E+3", "1000"), ("0.10", "0.1"), ("1234567890126", "1234567890130"), ("1E-9", "0.000000001")],
)  # fmt: skip
def test_money_is_plain_text_of_twelve_digits(value, text):
    """Rounded at the twelfth, without an exponent or trailing zeros after the point."""
    assert decimal_text(D(value)) == text
    assert decimal_text(D(2) / 3) == "0.666666666667"


def test_figures_in_formulas_have_six_digits():
    """A rate of 1,234.5678 stands as 1234.57; the dollars are of the whole rate."""
    line = own_of(summary(total_tps=1234.5678))["per_million_total_tokens"]
    assert "(1234.57 total_tps x" in line.formula
    assert line.usd == decimal_text(D(2000) / D("1234.5678"))
