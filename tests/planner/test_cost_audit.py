"""The published comparison, claim by claim: each row's right value against a known answer worked out apart from the code."""

from __future__ import annotations

import re
import sys
from decimal import Decimal as D
from pathlib import Path

import pytest

from harness.planner.audit import as_markdown, audit
from tests.planner.step_simulator import simulate

ROWS = {row.row: row for row in audit()}


def right(row, **known):
    """Each computed value of a row, to the digits of the known one."""
    for name, value in known.items():
        found = ROWS[row].values[name]
        if isinstance(value, str):
            assert value in str(found)
        else:
            digits = max(0, -D(str(value)).as_tuple().exponent)
            assert round(D(str(found)), digits) == D(str(value)), (row, name, found)


def test_every_row_is_there_and_its_test_exists():
    """33 rows, numbered 1-33, each naming a test of this file."""
    assert sorted(ROWS) == list(range(1, 34))
    here = vars(sys.modules[__name__])
    for row in ROWS.values():
        assert callable(here[row.test.rsplit("::", 1)[1]])
    assert as_markdown(audit()).count("\n") == 35


def test_rows_with_numbers_are_computed_when_the_table_is_made():
    """A row is text with places for values: every number that a place holds comes out of `values`."""
    assert {r for r, row in ROWS.items() if not row.values} == {29, 30}


def test_seed_row_1():
    """2,000 tokens/s at 5.672 $/h: 7.878, 3.151, 1.576, 0.788 $/M at 10, 25, 50, 100 % use."""
    right(1, u10=7.878, u25=3.151, u50=1.576, u100=0.788)


def test_seed_row_2():
    """10M requests on two instances of 0.25 requests/s are refused, with how many it takes."""
    right(2, said="need 16 replicas + 0 spares, there are 2")


def test_seed_row_3():
    """g5.12xlarge: 96 GB."""
    right(3, gb=96)


def test_seed_row_4():
    """g5.48xlarge: 192 GB."""
    right(4, gb=192)


def test_seed_row_5():
    """p4d.24xlarge: 320 GB, as it says."""
    right(5, gb=320)


def test_seed_row_6():
    """p4d 21.957642, 33.0 % less; p5 55.04, 44.0 % less."""
    right(6, now=21.957642, change=-0.330, h100=55.04, h100_change=-0.440)


def test_seed_row_7():
    """Two instances: 8,167.68 in 720 h, 8,281.12 in 730, 8,286.79 in 730.5."""
    right(7, post=8167.68, printed=8281.12, right=8286.79)


def test_seed_row_8():
    """8,500 at 60/40 of its own prices, 4,500 at the list price, 310 for an open 8B model."""
    right(8, own_table=8500, list=4500, open_8b=310)


def test_seed_row_9():
    """It loses $667.68 a month in its own example."""
    right(9, loss=667.68)


def test_seed_row_10():
    """10.89M, 11.05M, 18.89M in the first month, 5.45M with one instance; never with the capacity; $2,250 at 3M."""
    right(10, own_inputs=10_890_240, mean_month=11_049_056, first_month=18_890_240, one_instance=5_445_120, at_3m=2250, capacity="never", needed_use=8.4)  # fmt: skip


def test_seed_row_11():
    """Five crossings where it has one threshold: 15.79, 22.58, 31.58, 45.16, 47.37 requests/s."""
    right(11, count=5, crossings="self 15.79, hosted 22.58, self 31.58, hosted 45.16, self 47.37")


def test_seed_row_12():
    """16 instances, $65,341 a month, $13.07/M; 7 and $28,587 at 280 tokens/s; 21 and $85,761 at 95."""
    from harness.planner.audit import _fleet

    right(12, needed=16, usd=65341, per_million=13.07)
    assert (_fleet(280)["needed"], round(_fleet(280)["usd"])) == (7, 28587)
    assert (_fleet(95)["needed"], round(_fleet(95)["usd"])) == (21, 85761)


def test_seed_row_13():
    """Twice the mean at the peak and one spare: ceil(7.716 / 0.25) + 1 = 32."""
    right(13, needed=32, flat=16)


def test_seed_row_14():
    """0.25 people at $150: $8.93 a clock hour; 0.7: $25."""
    right(14, quarter=8.93, more=25)


def test_seed_row_15():
    """$1,200 buys 211.6 h, 29.4 %; the month is $4,083.84, 172 % above $1,500."""
    right(15, hours=211.6, share=0.294, month=4083.84, more=1.72)


def test_seed_row_16():
    """100M tokens at 95 tokens/s: 292.4 h, $1,658."""
    right(16, hours=292.4, usd=1658)


def test_seed_row_17():
    """$1,500 at $15/M over 100K requests is 1,000 tokens each."""
    right(17, tokens=1000)


def test_seed_row_18():
    """The same model is listed at 0.776 $/M, a 70B at 0.135 / 0.40: 19 times less than $15."""
    right(18, price=0.776, times=19, newer_in=0.135, newer_out=0.4)


def test_seed_row_19():
    """(1400 - 280) / 1400 = 80.0 %; 82.7 % would take 13.7 requests."""
    right(19, right=0.800, requests=13.7)


def test_seed_row_20():
    """327,680 B/token; 153.4 against 141.7 GB: 7.65 % of the total, 88 % of the KV part."""
    right(20, per_token=327680, before=153.4, after=141.7, total=0.0765, kv=0.88)


def test_seed_row_21():
    """70B at 125 tokens/s needs 17.6 TB/s; ceilings 17 on 4 x A10G, 88 on 8 x A100, 231 for 7B on an H100 (280 needs 4.06)."""
    right(21, needed=17.6, has=2.4, ceiling=17, weights=141, memory=96, a100=88, needed_7b=4.06, h100=231)


def test_seed_row_22():
    """34B has half the weights to read, so it cannot be 0.76 times as fast on the same hardware."""
    right(22, times=2.1, post=0.76)


def test_seed_row_23():
    """125/45, 280/120, 95/35."""
    right(23, a=2.78, b=2.33, c=2.71)


def test_seed_row_24():
    """500 tokens at 125 tokens/s: 4.0 s; 200 ms are 25 tokens."""
    right(24, reply_s=4.0, tokens=25)


def test_seed_row_25():
    """One of its three rows is above 100 ms."""
    right(25, rows_above=1)


def test_seed_row_26():
    """Hours 0-3 are 16.7 % of what is paid: $1,361 a month."""
    right(26, idle=1361, share=0.167)


def test_seed_row_27():
    """Half the traffic does not halve the bill: 8,167.68 stays, the circular formula says 4,083.84."""
    right(27, right=8167.68, circular=4083.84)


def test_seed_row_28():
    """An engine at a fifth of its load is busy most of the time: busy share is not utilisation."""
    right(28, low=0.20, high=1.00)
    low, high = simulate(1155, 211, 2), simulate(1155, 211, 10)
    assert low.busy_s / low.wall_s > 0.85
    assert high.busy_s / high.wall_s > 0.95


def test_seed_row_29():
    """No wrong number is published for it, so none is computed: the row says what to do."""
    assert "send them all" in ROWS[29].right


def test_seed_row_30():
    """The harness gives a vLLM server its model as an argument and never as MODEL_NAME."""
    source = "".join(
        p.read_text() for p in (Path(__file__).parents[2] / "harness" / "measure" / "targets").rglob("*.py")
    )
    assert "MODEL_NAME" not in source
    assert re.search(r"--model|\"serve\"|'serve'", source)
    assert "--model" in ROWS[30].right


def test_seed_row_31():
    """In October 2025 gpt-3.5-turbo was 0.5 / 1.5 and gpt-4o 2.5 / 10."""
    right(31, small_in=0.5, small_out=1.5, large_in=2.5, large_out=10)


def test_seed_row_32():
    """Eight GPUs a replica at the same cost per request: the permanent crossing moves up, by hand to 24.31 from 9.03."""
    assert ROWS[32].values["large"] > ROWS[32].values["small"]
    # P = 4.32 $/h per rps; 1 GPU: (3 x 10 + 9) / 4.32; 8 GPUs: (24 x 4 + 9) / 4.32
    right(32, small=9.03, large=24.31)


def test_seed_row_33():
    """2.7858 listed; 2.7858 / (1 - 0.025) in calm; half of the hours on demand and half interrupted: 4.69."""
    right(33, listed=2.7858, calm=2.86, stormy=4.69, demand=5.672)


@pytest.mark.parametrize("row", range(1, 34))
def test_no_row_is_left_with_an_unfilled_place(row):
    """Every place in the text was filled."""
    assert "{" not in ROWS[row].right
