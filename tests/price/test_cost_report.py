"""The cost report of a run."""

from dataclasses import replace
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError, InvalidRunError
from harness.config.experiment import CostSpec
from harness.config.price_ref import PriceRef
from harness.price.run_cost import cost_run
from harness.price.unit_cost import decimal_text
from harness.records import Hardware
from tests.price.cost_summaries import RUN_ID, summary

G5 = Hardware("aws/g5.12xlarge", "5.672", "AWS price list", "2026-11-01")
GPT55 = PriceRef(provider="openai", model="gpt-5.5")
HALF = CostSpec(utilisation=0.5, hosted=[GPT55])


def lines(report):
    return {line.name: line for line in report.own}


def usd(report, name):
    return D(lines(report)[name].usd)


def test_own_lines_have_known_answers():
    """5.672 $/h at U = 0.5: 10,000 in/s, 2,000 out/s, 10 requests/s of which 8 good, ratio 6, 100 s."""
    report = cost_run(summary(), G5, HALF)
    per_second = D("5.672") / 3600 / D("0.5")
    want = {
        "self_usd_per_million_total_tokens": per_second / 12000 * 10**6,
        "self_usd_per_1000_requests": per_second / 10 * 1000,
        "self_usd_per_1000_good_requests": per_second / 8 * 1000,
        "self_usd_per_million_input_tokens": per_second / 22000 * 10**6,
        "self_usd_per_million_output_tokens": per_second / 22000 * 6 * 10**6,
        "self_usd_per_million_output_tokens_upper": per_second / 2000 * 10**6,
        "self_usd_per_million_input_tokens_upper": per_second / 10000 * 10**6,
        "self_usd_window": per_second * 100,
    }
    assert {name: line.usd for name, line in lines(report).items()} == {n: decimal_text(v) for n, v in want.items()}


def test_cost_per_request_times_requests_is_the_window():
    """1,000 requests completed in the window at their cost are the cost of the window."""
    report = cost_run(summary(), G5, HALF)
    assert usd(report, "self_usd_per_1000_requests") == usd(report, "self_usd_window")


def test_the_window_s_cost_is_over_the_time_that_its_rates_are_over():
    """Requests offered in 80 s lie between edges 100 s apart: 80 s are paid, as cost a request x 800 requests says."""
    run = summary()
    report = cost_run(replace(run, window=replace(run.window, offered_s=80.0)), G5, HALF)
    assert usd(report, "self_usd_window") == pytest.approx(
        usd(report, "self_usd_per_1000_requests") * D("0.8"), rel=D("1e-10")
    )


def test_every_line_shows_formula_and_inputs():
    """Each own figure carries the run, price, source, date and utilisation, and a formula with the numbers in it."""
    for line in cost_run(summary(), G5, HALF).own:
        assert line.inputs["run"] == RUN_ID
        assert line.inputs["price source"] == "AWS price list"
        assert line.inputs["price as of"] == "2026-11-01"
        assert line.inputs["utilisation"].startswith("0.5")
        assert "5.672 $/h" in line.formula
        assert "0.5 utilisation" in line.formula


def test_bounds_say_that_they_must_not_be_added():
    """All cost on output and all on input each carry the whole machine."""
    for name in ("self_usd_per_million_output_tokens_upper", "self_usd_per_million_input_tokens_upper"):
        assert "never be added" in lines(cost_run(summary(), G5, HALF))[name].formula


@pytest.mark.parametrize(
    ("spec", "ratio", "source"),
    [
        (CostSpec(input_output_price_ratio=2.5, hosted=[GPT55]), "2.5", "declared"),
        (CostSpec(hosted=[GPT55]), "6", "openai/gpt-5.5"),
        (CostSpec(), "4", "default"),
    ],
)
def test_where_the_split_ratio_comes_from(spec, ratio, source):
    """Declared, else the first hosted price's, else 4:1: and it says which."""
    line = lines(cost_run(summary(), G5, spec))["self_usd_per_million_input_tokens"]
    assert line.inputs["output:input price ratio"].startswith(f"{ratio} (")
    assert source in line.inputs["output:input price ratio"]


def test_hosted_lines_have_known_answers():
    """1,000 requests of 1,000 + 200 tokens at gpt-5.5: $11.00, 9.1667 per million, 5 in and 30 out."""
    group = {line.name: line for line in cost_run(summary(), G5, HALF).hosted["openai/gpt-5.5"]}
    assert group["hosted_usd_window"].usd == "11"
    assert group["hosted_usd_per_1000_requests"].usd == "11"
    assert group["hosted_usd_per_million_total_tokens"].usd == decimal_text(D(11) / D("1.2"))
    assert group["hosted_usd_per_million_input_tokens"].usd == "5"
    assert group["hosted_usd_per_million_output_tokens"].usd == "30"
    inputs = group["hosted_usd_window"].inputs
    assert (inputs["run"], inputs["requests"], inputs["prompt tokens"]) == (RUN_ID, "1000", "1000000")
    assert "genai-prices 0." in inputs["price source"]


def test_no_price_of_the_machine_gives_no_cost_and_a_reason():
    """Own lines are None with why, never 0; the hosted bill is there all the same."""
    report = cost_run(summary(), None, HALF)
    assert [line.usd for line in report.own] == [None] * 8
    assert all("no price of the machine" in line.formula for line in report.own)
    assert report.hosted["openai/gpt-5.5"][0].usd is not None
    assert "not ours" in cost_run(summary(kind="hosted"), None, CostSpec()).own[0].formula


def test_no_usage_gives_no_cost_and_a_reason():
    """Unknown tokens: every figure that needs them is None with why, those that do not are there."""
    unknown = summary(usage=(), total_tps=None, input_tps=None, output_tps=None, goodput_rps=None)
    report = cost_run(unknown, G5, HALF)
    known = {name for name, line in lines(report).items() if line.usd is not None}
    assert known == {"self_usd_per_1000_requests", "self_usd_window"}
    assert all(line.usd is None and "usage is not known" in line.formula for line in report.hosted["openai/gpt-5.5"])
    assert all("not computed" in line.formula for line in report.own if line.usd is None)


def test_nothing_served_has_no_cost_per_unit():
    """A rate of 0 gives None: money was paid and nothing came of it, which is not a price of 0."""
    line = lines(cost_run(summary(goodput_rps=0.0), G5, HALF))["self_usd_per_1000_good_requests"]
    assert line.usd is None
    assert "goodput_rps is 0" in line.formula


def test_an_invalid_run_is_refused_unless_asked_for():
    """INVALID: InvalidRunError (exit 7) with the reason; by name it is priced, with a warning first."""
    with pytest.raises(InvalidRunError, match="too many failed") as error:
        cost_run(summary(state="INVALID"), G5, HALF)
    assert error.value.exit_code == 7
    report = cost_run(summary(state="INVALID"), G5, HALF, allow_invalid=True)
    assert report.verdict == "INVALID"
    assert "is INVALID" in report.warnings[0]
    assert all(line.inputs["verdict"] == "INVALID" for line in report.own)


def test_an_unknown_run_is_priced_with_a_warning():
    """UNKNOWN: priced, and the doubt stands in the warnings."""
    assert "is UNKNOWN" in cost_run(summary(state="UNKNOWN"), G5, HALF).warnings[0]
    assert [w for w in cost_run(summary(), G5, HALF).warnings if not w.startswith("mixed tokenizers")] == []


def test_a_stale_price_is_told_with_its_date():
    """121 days before the run: the warning names the date; spot prices go stale in 46; an own hosted price too."""
    old = Hardware("m", "1", "s", "2026-07-26")
    assert any("2026-07-26" in w for w in cost_run(summary(), old, HALF).warnings)
    spot = Hardware("aws spot m", "1", "s", "2026-10-09")
    assert any("2026-10-09" in w for w in cost_run(summary(), spot, HALF).warnings)
    hosted = PriceRef(
        provider="a", model="b", input_usd_per_million=1.0, output_usd_per_million=2.0, as_of="2026-01-01"
    )
    assert any(
        "a/b" in w and "2026-01-01" in w
        for w in cost_run(summary(), G5, CostSpec(utilisation=0.5, hosted=[hosted])).warnings
    )


def test_full_utilisation_is_told_to_be_a_lower_bound():
    """U = 1 is what no fleet reaches: a warning says so."""
    assert any("lower bound" in w for w in cost_run(summary(), G5, CostSpec()).warnings)


@pytest.mark.parametrize("price", ["free", "-1", "NaN", "Infinity", ""])
def test_a_price_that_is_no_amount_is_refused(price):
    """ConfigError with the machine and the text."""
    with pytest.raises(ConfigError) as error:
        cost_run(summary(), Hardware("m", price, "s", "2026-11-01"), HALF)
    assert error.value.value == f"m: {price}"


@given(st.decimals("0.01", "100", places=2), st.floats(0.05, 1), st.integers(2, 50))
def test_report_scales_with_the_price(price, utilisation, x):
    """x times the machine's price is x times every own figure, to the twelfth digit; hosted figures stay."""
    spec = CostSpec(utilisation=utilisation, hosted=[GPT55])
    once = cost_run(summary(), Hardware("m", str(price), "s", "2026-11-01"), spec)
    more = cost_run(summary(), Hardware("m", str(price * x), "s", "2026-11-01"), spec)
    for a, b in zip(once.own, more.own, strict=True):
        assert abs(D(b.usd) - D(a.usd) * x) <= D(b.usd) * D("1e-11") * 2
    assert more.hosted == once.hosted


@given(st.decimals(min_value="1e-12", max_value="1e9", allow_nan=False, allow_infinity=False))
def test_money_as_text_is_plain_and_right(value):
    """No exponent, and the same value to twelve digits."""
    text = decimal_text(value)
    assert "E" not in text.upper()
    assert abs(D(text) - value) <= value * D("1e-11")


def test_a_hosted_price_of_another_model_is_flagged_as_mixed_tokenizers():
    """Another model makes other tokens of the same text: said with the price's name; the same model's price is not flagged."""
    other = CostSpec(hosted=[PriceRef(provider="openai", model="gpt-5.5")])
    same = CostSpec(
        hosted=[
            PriceRef(
                provider="host", model="org/m", input_usd_per_million=1, output_usd_per_million=1, as_of="2026-11-01"
            )
        ]
    )
    assert any("mixed tokenizers: openai/gpt-5.5 is not m" in w for w in cost_run(summary(), None, other).warnings)
    assert not any("mixed" in w for w in cost_run(summary(), None, same).warnings)
