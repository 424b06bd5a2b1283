"""The page on a published comparison (configs/scenarios/README.md): every figure of every row, computed by the harness's own functions."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal as D
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.base.quantities import HOURS_PER_MONTH
from harness.cli import cli
from harness.config.model.memory import GB, kv_bytes_per_token, sequence_kv_bytes, weight_bytes
from harness.config.model.shape import load_model
from harness.config.price_ref import PriceRef
from harness.planner.demand import flat
from harness.planner.fleet import FleetSpec, fleet_cost, labour_usd_per_hour, replicas_needed
from harness.planner.hybrid import clock_policy, spot_usd_per_hour
from harness.price.hosted import bill, find_price, unit_prices
from harness.price.prices import instance_price, instances
from harness.price.unit_cost import usd_per_million_tokens
from tests.planner.steady_fleet import break_even
from tests.planner.step_simulator import simulate

PAGE = (data_dir("configs") / "scenarios" / "README.md").read_text(encoding="utf-8")
ROWS = {
    int(cells[1]): cells[3]
    for line in PAGE.splitlines()
    if (cells := line.split("|"))[1:] and cells[1].strip().isdigit()
}
FIGURE = re.compile(
    r"(?<![\w.-])\d(?:[\d,]*\d)?(?:\.\d+)?(?![\w-])"
)  # a number, and no part of a name, a date or a range

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
TABLE = {row.full_name: row for row in instances(AT)}
G5 = D(instance_price("aws/g5.12xlarge", AT).usd_per_hour)
MONTH_H = 720  # the post's month
REQUESTS, TOKENS = 10_000_000, 500  # its first example
HOSTED = D("1.5") / 1_000_000 * TOKENS  # a request at its hosted price
MEAN_RPS = D(REQUESTS) / (MONTH_H * 3600)
TWO_USD = 2 * G5 * MONTH_H


def holds(row, *figures):
    """The figures of the row's right value are these, in this order."""
    assert FIGURE.findall(ROWS[row]) == [str(figure) for figure in figures]


def hosted(provider, model, at=AT, **own):
    return find_price(PriceRef(provider=provider, model=model, **own), at)


def month_usd(price):
    """10M requests of 300 + 200 tokens."""
    return bill(price, [(300, 0, 200, 0)]).total_usd * REQUESTS


def test_the_page_has_33_rows_whose_commands_exist():
    """Numbered 1-33, four cells each; a command that it names is one that the harness has."""
    assert list(ROWS) == list(range(1, 34))
    assert {line.count(" | ") for line in PAGE.splitlines() if re.match(r"\| \d", line)} == {3}
    costs = set(re.findall(r"`harness cost (\w+)", PAGE))
    assert len(costs) > 5
    assert costs <= set(cli.commands["cost"].commands)
    assert set(re.findall(r"`harness (\w+)", PAGE)) == {"cost", "prices"}
    assert [
        p for p in re.findall(r"`(\.\./[^`]+)`", PAGE) if not (data_dir("configs") / "scenarios" / p).exists()
    ] == []
    assert Path(__file__).name in PAGE


def test_row_1():
    """Cost per token goes by one over utilisation."""
    usd = {u: f"{usd_per_million_tokens(G5, D(2000), D(u) / 100):.3f}" for u in (10, 25, 50, 100)}
    holds(1, "2,000", usd[10], 10, usd[25], 25, usd[50], 50, usd[100], 100, 1)


def test_row_2():
    """A fleet refuses demand above its capacity, and says how many replicas it takes."""
    spec = FleetSpec(capacity_rps="0.25", replica_usd_per_hour=G5, headroom=1, spares=0, max_replicas=2)
    with pytest.raises(ConfigError) as error:
        fleet_cost(flat(MEAN_RPS), spec)
    assert ROWS[2].strip().endswith(error.value.value)
    holds(2, f"{MEAN_RPS:.5f}", 16, 0, 2)


@pytest.mark.parametrize(("row", "name"), [(3, "aws/g5.12xlarge"), (4, "aws/g5.48xlarge"), (5, "aws/p4d.24xlarge")])
def test_rows_3_to_5(row, name):
    """Memory of an instance: GPUs x memory of one."""
    machine = TABLE[name]
    assert machine.gpu_count * machine.gpu_mem_gb_each == machine.gpu_mem_gb_total
    holds(row, machine.gpu_count, machine.gpu_mem_gb_each, machine.gpu_mem_gb_total)


def test_row_6():
    """Two prices that fell."""
    p4d, p5 = (D(instance_price(name, AT).usd_per_hour) for name in ("aws/p4d.24xlarge", "aws/p5.48xlarge"))
    less = [f"{(1 - now / then) * 100:.1f}" for now, then in ((p4d, D("32.77")), (p5, D("98.32")))]
    holds(6, p4d, 2025, less[0], p5, "98.32", less[1])


def test_row_7():
    """Two instances for a month of 730.5, 730 and 720 hours."""
    holds(7, HOURS_PER_MONTH, f"{2 * G5 * HOURS_PER_MONTH:,.2f}", f"{2 * G5 * 730:,.2f}", 730, f"{TWO_USD:,.2f}")


def test_row_8():
    """Input and output each at their price; today's price; an open model's."""
    post = hosted("post", "m", input_usd_per_million=1.5, output_usd_per_million=2.0)
    usd = [month_usd(p) for p in (post, hosted("openai", "gpt-3.5-turbo"), hosted("groq", "llama-3.1-8b-instant"))]
    assert ROWS[8].strip().startswith("60/40")
    holds(8, 60, 40, *(f"{each:,.0f}" for each in usd))


def test_row_9():
    """Two instances against the hosted bill of the example."""
    holds(9, f"{TWO_USD - REQUESTS * HOSTED:.2f}")


def test_row_10():
    """The post's fixed cost over its hosted price; with a capacity there is no break-even."""
    full = break_even("0.25", G5, HOSTED)  # 125 tokens/s
    assert full.crossings == ()
    months = (TWO_USD, 2 * G5 * HOURS_PER_MONTH, TWO_USD + 6000)
    own, mean, first = (f"{usd / HOSTED:,.0f}" for usd in months)
    holds(10, own, mean, HOURS_PER_MONTH, first, f"{3_000_000 * HOSTED:,.0f}", f"{full.break_even_utilisation:.1f}")


def test_row_11():
    """Five crossings where it has one threshold: Qwen3-8B, 1024/128, an H100 at 0.7 x 32.26 requests/s."""
    crossings = break_even("22.58", "3.49", "0.0000614").crossings
    assert ", ".join(f"{c.cheaper_above} {c.rps:.2f}" for c in crossings) in ROWS[11]
    holds(11, *(f"{c.rps:.2f}" for c in crossings))


def test_row_12():
    """Whole instances for the mean, at each of its three throughputs."""
    needed = {tps: replicas_needed(MEAN_RPS * TOKENS, tps, 1) for tps in (125, 280, 95)}
    usd = {tps: n * G5 * MONTH_H for tps, n in needed.items()}
    per_million = usd[125] / (REQUESTS * TOKENS // 1_000_000)
    holds(
        12, 125, needed[125], f"{usd[125]:,.0f}", f"{per_million:.2f}", 280, needed[280], f"{usd[280]:,.0f}", 95, needed[95],
        f"{usd[95]:,.0f}",
    )  # fmt: skip


def test_row_13():
    """A peak and a spare."""
    holds(13, replicas_needed(2 * MEAN_RPS, "0.25", 1) + 1, replicas_needed(MEAN_RPS, "0.25", 1))


def test_row_14():
    """People are paid every month."""
    quarter = labour_usd_per_hour("0.25", 150)
    holds(14, f"{quarter:.2f}", f"{quarter * HOURS_PER_MONTH:,.0f}", f"{labour_usd_per_hour('0.7', 150):.0f}", "0.7")


def test_row_15():
    """What $1,200 buys of a month."""
    hours, month = 1200 / G5, G5 * MONTH_H
    holds(
        15,
        "1,200",
        f"{hours:.1f}",
        f"{hours / MONTH_H * 100:.1f}",
        f"{month:,.2f}",
        f"{(month / 1500 - 1) * 100:.0f}",
        "1,500",
    )


def test_row_16():
    """100M tokens, one request after the other."""
    hours = D(100_000_000) / 95 / 3600
    holds(16, 95, f"{hours:.1f}", f"{hours * G5:,.0f}")


def test_row_17():
    """Tokens of a request, from its own three numbers."""
    holds(17, f"{1500 * 1_000_000 // 15 // 100_000:,}", TOKENS)


def test_row_18():
    """The same model, and a newer and larger one, at hosted prices."""
    same = unit_prices(hosted("together", "codellama/CodeLlama-34b-Instruct-hf"))
    newer = unit_prices(hosted("novita", "meta-llama/llama-3.3-70b-instruct"))
    holds(18, same[0], f"{15 / same[0]:.0f}", *newer)


def test_row_19():
    """Its own function: weights once a request against weights and a tenth of them each."""

    def saved(requests):
        return (requests - (1 + requests / 10)) / requests * 100

    needed = 1 / (0.9 - 0.827)
    assert saved(needed) == pytest.approx(82.7)
    holds(19, f"{saved(10):.1f}", "82.7", f"{needed:.1f}", f"{saved(10**9):.0f}")


def test_row_20():
    """10 requests with 512 of 4,096 tokens beside 140 GB of weights."""
    model = load_model("llama-2-70b")
    kv = kv_bytes_per_token(model)
    weights, before, after = 140 * GB, 10 * 4096 * kv, 10 * sequence_kv_bytes(model, 512)
    total, part = (before - after) / (weights + before) * 100, (before - after) / before * 100
    gb = [f"{(weights + each) / GB:.1f}" for each in (before, after)]
    holds(20, f"{kv:,}", 10, *gb, f"{total:.2f}", f"{part:.0f}")


def test_row_21():
    """Every token of one stream reads all weights: bandwidth is a ceiling."""
    large, small = weight_bytes(load_model("llama-3.3-70b")), weight_bytes(load_model("mistral-7b-v0.1"))
    names = ("aws/g5.12xlarge", "aws/p4d.24xlarge", "aws/p5.4xlarge")
    a10g, a100, h100 = (float(TABLE[name].gpu_mem_bw_gb_per_s_each) * 1e9 * TABLE[name].gpu_count for name in names)
    assert [TABLE[name].gpu_count for name in names] == [4, 8, 1]
    holds(
        21, 125, f"{large * 125 / 1e12:.1f}", 4, f"{a10g / 1e12:.1f}", f"{a10g / large:.0f}", f"{large / GB:.0f}",
        TABLE[names[0]].gpu_mem_gb_total, 8, f"{a100 / large:.0f}", 280, f"{small * 280 / 1e12:.2f}", f"{h100 / small:.0f}",
    )  # fmt: skip


def test_row_22():
    """34B has half the weights to read."""
    holds(22, f"{weight_bytes(load_model('llama-3.3-70b')) / (33.7e9 * 2):.1f}", f"{95 / 125:.2f}")


def test_row_23():
    """Its three ratios."""
    holds(23, *(f"{ours / theirs:.2f}" for ours, theirs in ((125, 45), (280, 120), (95, 35))))


def test_row_24():
    """A reply of 500 tokens, and what 200 ms hold."""
    holds(24, TOKENS, 125, f"{TOKENS / 125:.1f}", 200, f"{125 * 0.2:.0f}")


def test_row_25():
    """One of its three rows."""
    rows = (85, 45, 110)
    holds(25, *rows, sum(ms >= 100 for ms in rows), 100)


def test_row_26():
    """What two instances cost in hours 0-3."""
    rule = clock_policy(None, 2, G5, 0, hours_per_month=MONTH_H)
    holds(26, f"{rule.idle_usd / rule.replicas_usd * 100:.1f}", f"{rule.idle_usd:,.0f}")


def test_row_27():
    """Half the traffic does not halve the bill."""
    holds(27, f"{TWO_USD / REQUESTS * REQUESTS / 2:,.0f}", f"{TWO_USD:,.0f}")


def test_row_28():
    """An engine at a fifth of its load is busy most of the time: busy share is not utilisation."""
    spec = FleetSpec(capacity_rps=10, replica_usd_per_hour=G5, headroom=1, spares=0)
    used = {rps: f"{fleet_cost(flat(rps), spec).utilisation * 100:.0f}" for rps in (2, 10)}
    busy = {rps: f"{(s := simulate(1155, 211, rps)).busy_s / s.wall_s * 100:.0f}" for rps in (2, 10)}
    holds(28, used[2], 2, 10, used[10], 10, busy[2], busy[10])


def test_row_29():
    """No wrong number is published for it; the experiment that measures it is there."""
    assert "send them all" in ROWS[29]
    holds(29)


def test_row_30():
    """The harness gives a vLLM server its model as an argument and never as MODEL_NAME."""
    targets = Path(__file__).parents[2] / "harness" / "measure" / "targets"
    source = "".join(p.read_text(encoding="utf-8") for p in targets.rglob("*.py"))
    assert "MODEL_NAME" not in source
    assert re.search(r"--model|\"serve\"|'serve'", source)
    assert "--model" in ROWS[30]


def test_row_31():
    """List prices of the day that it names."""
    day = datetime(2025, 10, 1, tzinfo=UTC)
    holds(
        31, 2023, *(usd for model in ("gpt-3.5-turbo", "gpt-4o") for usd in unit_prices(hosted("openai", model, day)))
    )


def test_row_32():
    """Eight GPUs a replica that serve eight times as much: the permanent crossing moves up."""
    small, large = (break_even(n, 3 * n, "0.0012", fixed_usd_per_hour=9).permanent_rps for n in (1, 8))
    holds(32, 8, f"{large:.2f}", 1, f"{small:.2f}")


def test_row_33():
    """A spot replica in calm, and where half of the hours have none and half are interrupted."""
    machine = TABLE["aws/g5.12xlarge"]
    calm, stormy = (
        spot_usd_per_hour(
            machine.spot_usd, machine.usd_per_hour, interruptions_per_hour=i, lost_hours="0.5", unavailable=u
        )
        for i, u in (("0.05", 0), ("0.5", "0.5"))
    )
    holds(33, machine.spot_usd, f"{calm:.2f}", f"{stormy:.2f}", machine.usd_per_hour)


def test_the_command_that_the_page_was_says_where_it_went():
    """Any words after it: exit code 2's error with the page's path; it is not listed any more."""
    for words in ([], ["--json"], ["--markdown"]):
        error = CliRunner().invoke(cli, ["cost", "audit", *words]).exception
        assert isinstance(error, ConfigError)
        assert "configs/scenarios/README.md" in error.advice
    assert "audit" not in CliRunner().invoke(cli, ["cost", "--help"]).output
