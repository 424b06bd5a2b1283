import io
import json
import math
import statistics
from dataclasses import replace
from decimal import Decimal

import pytest
from rich.console import Console

from harness.records import Load
from harness.report.run import cells, tables
from tests.report.report_values import INVALID, UNKNOWN, bare, closed_loop, cost, everything, hostile, run


def _print(width, summaries, costs, **words):
    console = Console(width=width, file=io.StringIO(), color_system=None)
    tables.render(console, summaries, costs, **words)
    return console.file.getvalue()


def test_repetitions_become_median_and_min_max():
    """A cell of three runs is one row with the median, the least and the greatest of them, and Student's interval of the
    mean of their logarithms (t of 2 degrees: 4.3027)."""
    runs = [run(Load(concurrency=4), rep, tps=100) for rep in (3, 1, 2)]
    (row,) = cells.rows(runs, [])
    found = row.values["output_tps"]
    assert (found.median, found.minimum, found.maximum, found.count) == (100, 98, 102, 3)
    logs = [math.log(value) for value in (98, 100, 102)]
    half = 4.302653 * statistics.stdev(logs) / 3**0.5
    middle = statistics.fmean(logs)
    assert found.interval == pytest.approx((math.exp(middle - half), math.exp(middle + half)), rel=1e-6)
    assert cells.rows(runs[:2], [])[0].values["output_tps"].interval is None
    assert [r.cell.repetition for r in row.runs] == [1, 2, 3]


def test_invalid_repetition_is_left_out_of_the_numbers_and_named():
    """An INVALID repetition improves no number, and the row says how many were used."""
    runs = [run(Load(concurrency=4), 1, tps=100), run(Load(concurrency=4), 2, tps=900, verdict=INVALID)]
    (row,) = cells.rows(runs, [])
    assert row.values["output_tps"].maximum == pytest.approx(98)
    assert row.verdict_words == "VALID 1/2"


def test_a_row_is_as_good_as_its_worst_used_run():
    """UNKNOWN beside VALID makes the row UNKNOWN."""
    (row,) = cells.rows([run(Load(concurrency=4), 1), run(Load(concurrency=4), 2, verdict=UNKNOWN)], [])
    assert row.verdict == "UNKNOWN"


def test_campaigns_are_pooled_only_while_repetitions_differ():
    """A resumed experiment is one row; the same repetition of two nights is two."""
    load = Load(concurrency=4)
    resumed = [run(load, 1, campaign="A"), run(load, 2, campaign="B")]
    nights = [run(load, 1, campaign="A"), run(load, 1, campaign="B")]
    assert [len(cells.rows(runs, [])) for runs in (resumed, nights)] == [1, 2]


def test_both_drivers_stand_side_by_side():
    """What the SDK driver measured is a row of its own, marked as such, never pooled with the wire driver's."""
    wire, sdk = run(Load(concurrency=4), 1), run(Load(concurrency=4), 2)
    sdk = replace(sdk, config={**sdk.config, "driver": "sdk"})
    assert [row.target for row in cells.rows([wire, sdk], [])] == ["smollm2-cpu", "smollm2-cpu (sdk)"]


def test_plain_requests_are_a_row_of_their_own():
    """Runs of one target with exact and with plain requests are never averaged, and the row says which it is."""
    exact, plain = run(Load(concurrency=4), 1), run(Load(concurrency=4), 2)
    server = {**(plain.environment.get("server") or {}), "body": "plain"}
    plain = replace(plain, environment={**plain.environment, "server": server})
    assert [row.target for row in cells.rows([exact, plain], [])] == ["smollm2-cpu", "smollm2-cpu (plain body)"]


def test_dollars_are_those_of_the_cost_stage():
    """The table's dollar is the cost line's Decimal, untouched."""
    summary = run(Load(concurrency=4))
    report = cost(summary)
    (row,) = cells.rows([summary], [report])
    line = next(line for line in report.own if line.name == "self_usd_per_million_total_tokens")
    assert row.middle("usd_per_million_total_tokens") == Decimal(line.usd)


def test_invalid_run_has_no_dollar_unless_allowed():
    """A cost that was computed for an INVALID run is shown only when asked for by name."""
    summary = run(Load(concurrency=4), verdict=INVALID)
    refused, allowed = (cells.rows([summary], [cost(summary)], allow_invalid=a)[0] for a in (False, True))
    assert refused.middle("usd_per_million_output_tokens") is None
    assert "INVALID" in refused.absent["usd_per_million_output_tokens"]
    assert allowed.middle("usd_per_million_output_tokens") > 0


def test_every_dash_has_a_reason():
    """Each shown column that a row lacks is in the reasons, with that row."""
    table = cells.rows([bare(), run(Load(concurrency=1))], [])
    columns = cells.shown_columns(table)
    reasons = cells.absent_reasons(table, columns)
    explained = {(name, id(row)) for names, _, where in reasons for name in names.split(", ") for row in where}
    lacking = {(c.header, id(row)) for c in columns for row in table if row.values[c.key] is None}
    assert lacking
    assert explained == lacking
    assert any("too few requests for a p99" in why for _, why, _ in reasons)


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_terminal_table_fits(width):
    """No line of the table itself is wider than the terminal, and run ids are there at every width."""
    text = _print(width, *everything())
    body = text.split("median over")[0]
    assert max(map(len, body.splitlines())) <= width
    assert "output" in body
    assert "INVALID" in body
    assert "20261124T113000Z_smollm2-cpu_fixed-128x32_c32_rep1,2  INVALID, not used:" in text


def test_terminal_at_100_columns_keeps_money_and_the_slo():
    """At 100 columns dollars, TTFT and the verdict stay; what was left out is named."""
    text = _print(100, *everything())
    assert all(
        word in text for word in ("$/M output", "$/M total", "TTFT p50", "SLO met", "left out to fit 100 columns")
    )


def test_closed_loop_without_money_has_no_dollar_or_slo_column():
    """Columns that nothing could fill are not shown."""
    text = _print(120, closed_loop(), [])
    assert "$" not in text
    assert "SLO met" not in text


def test_terminal_survives_hostile_words():
    """Markup and escape sequences in names come out as plain text."""
    text = _print(100, [hostile(), bare()], [cost(hostile())], allow_invalid=True)
    assert "\x1b" not in text
    assert "<script>" in text


def test_no_runs_is_a_sentence():
    """Zero runs print a sentence instead of an empty table."""
    assert "no runs" in _print(80, [], [])


def test_costs_show_formula_and_inputs():
    """Every dollar line in the terminal stands above its formula; an input that changed is beside it."""
    console = Console(width=100, file=io.StringIO(), color_system=None)
    report = cost(run(Load(concurrency=4)))
    tables.render_costs(console, [report])
    text = console.file.getvalue()
    assert all(line.formula in text for group in (report.own, *report.hosted.values()) for line in group)
    assert "price = 0.10 USD per hour" in text
    assert "openai/gpt-4o-mini" in text


def test_json_holds_full_numbers_units_and_null():
    """The JSON survives a round trip, keeps every digit, writes dollars as decimal text and absent as null."""
    summaries, costs = everything()
    document = json.loads(json.dumps(tables.as_json([*summaries, bare()], costs), allow_nan=False))
    first = next(r for r in document["rows"] if r["concurrency"] == 4 and r["target"] == "smollm2-cpu")
    assert first["output_tps"]["median"] == summaries[4].scalars["output_tps"]
    assert isinstance(first["usd_per_million_total_tokens"]["median"], str)
    empty = next(r for r in document["rows"] if r["run_ids"] == ["bare"])
    assert empty["output_tps"] is None
    assert document["units"]["ttft_p50_s"] == "s"
    assert document["answer"]["run_ids"]
    assert len(document["runs"]) == len(summaries) + 1


def test_json_leaves_costs_of_invalid_runs_out():
    """A cost of an INVALID run is in the JSON only if allowed."""
    summary = run(Load(concurrency=4), verdict=INVALID)
    counts = [len(tables.as_json([summary], [cost(summary)], allow_invalid=a)["costs"]) for a in (False, True)]
    assert counts == [0, 1]


def test_worst_of_states():
    """INVALID beats UNKNOWN beats VALID, and nothing is UNKNOWN."""
    assert [cells.worst(s) for s in (["VALID", "INVALID"], ["VALID", "UNKNOWN"], ["VALID"], [], ["odd"])] == [
        "INVALID",
        "UNKNOWN",
        "VALID",
        "UNKNOWN",
        "UNKNOWN",
    ]
