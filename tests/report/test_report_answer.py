import dataclasses

import pytest

from harness.price.hosted import same_model
from harness.records import Load
from harness.report.run.answer import answer, find_answer
from tests.report.report_values import INVALID, UNKNOWN, bare, cost, everything, run


def test_best_valid_cell_is_chosen_and_its_dollar_said():
    """The answer is the fastest VALID cell with its own price, the comparison and the count of runs."""
    summaries, costs = everything()
    found = find_answer(summaries, costs)
    assert found.row.load == Load(concurrency=32)
    assert found.verdict == "VALID"
    for words in (
        "SmolLM2-135M on 2-core VM: $0.08",
        "per million output tokens, split by price ratio",
        "concurrency 32",
        "100 % utilisation and $0.10/h",
        "a different product",
        "VALID (17 of 20 runs).",
        "Best cell",
    ):
        assert words in found.text


def test_an_invalid_cell_never_wins():
    """A faster INVALID cell is not the answer."""
    runs = [run(Load(concurrency=4), tps=100), run(Load(concurrency=8), tps=500, verdict=INVALID)]
    assert find_answer(runs, [cost(r) for r in runs]).row.load == Load(concurrency=4)


def test_an_slo_that_is_missed_excludes_a_faster_cell():
    """With an SLO declared only cells at its attainment are candidates, and the text says so."""
    slow, fast = run(Load(rate_rps=1), tps=50, slo=True), run(Load(rate_rps=4), tps=200, slo=True, attainment=0.7)
    found = find_answer([slow, fast], [cost(slow), cost(fast)])
    assert found.run_ids == (slow.run_id,)
    assert "attainment at least 99 %" in found.text


def test_no_cell_meets_the_slo_is_said():
    """If every cell misses the SLO the price is called none under that promise."""
    summary = run(Load(rate_rps=4), slo=True, attainment=0.7)
    assert "no price under that promise" in answer([summary], [cost(summary)])


@pytest.mark.parametrize("verdict", [INVALID, UNKNOWN])
def test_no_valid_run_says_so_first_and_gives_no_dollar(verdict):
    """Without a VALID run there is no dollar and the sentence begins with that."""
    summary = run(Load(concurrency=4), verdict=verdict)
    text = answer([summary], [cost(summary)])
    assert text.startswith("No run is VALID")
    assert "$" not in text
    assert verdict.reasons[0].message in text


def test_allowed_invalid_is_flagged_before_its_dollar():
    """Asked for by name, the dollar comes after the warning and under the INVALID verdict."""
    summary = run(Load(concurrency=4), verdict=INVALID)
    found = find_answer([summary], [cost(summary)], allow_invalid=True)
    assert found.text.startswith("NOT TO BE TRUSTED")
    assert "$" in found.text
    assert found.verdict == "INVALID"


def test_the_comparison_is_between_the_same_tokens():
    """Hosted and own are both per million input + output tokens, and the factor is their quotient."""
    summary = run(Load(concurrency=4))
    report = cost(summary)
    own = next(line for line in report.own if line.name == "self_usd_per_million_total_tokens")
    hosted = next(
        line
        for line in report.hosted["groq/llama-3.1-8b-instant"]
        if line.name == "hosted_usd_per_million_total_tokens"
    )
    dear = dataclasses.replace(own, usd=str(float(hosted.usd) * 12))
    report = dataclasses.replace(report, own=tuple(dear if line is own else line for line in report.own))
    assert "so hosted is 12x cheaper (a different product" in answer([summary], [report])


def test_the_same_model_is_preferred_and_not_called_different():
    """A dearer hosted price of the very model measured is compared before a cheaper other model."""
    summary = run(Load(concurrency=4), model="openai/GPT-4o-mini")
    text = answer([summary], [cost(summary)])
    assert "at openai/gpt-4o-mini" in text
    assert "different product" not in text


def test_same_model_is_strict():
    """Only equal names count: a size or a variant more is another product."""
    assert same_model("Qwen/Qwen3-8B", "novita/qwen3-8b")
    assert not same_model("Qwen3-8B", "x/qwen3-8b-fp8")
    assert not same_model("", "x/")


def test_without_hardware_there_is_a_throughput_and_a_reason():
    """No declared price: tokens per second and the cost stage's reason, no own dollar."""
    summary = run(Load(concurrency=4))
    text = answer([summary], [cost(summary, hardware=None, hosted=False)])
    assert "output tok/s" in text
    assert "no own price per token: not computed: no price of the machine is declared" in text
    assert "$" not in text


def test_own_hardware_is_preferred_to_a_faster_hosted_target():
    """A hosted target has no own price, so a slower own cell is the answer, and the rule says it."""
    own, hosted = run(Load(concurrency=4), tps=50), run(Load(concurrency=4), tps=900, target="api", kind="hosted")
    found = find_answer([own, hosted], [cost(own), cost(hosted, hardware=None)])
    assert found.run_ids == (own.run_id,)
    assert "that have an own price" in found.rule


def test_nothing_measured():
    """No runs, and a run without numbers, are sentences without dollars."""
    assert answer([], []).startswith("No runs")
    assert answer([bare()], [], allow_invalid=True).startswith("No run is VALID")
