"""Every value of every row of the audit by arithmetic that stands here, from prices and sizes as they are published."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from harness.planner.audit import AuditRow, as_markdown, audit
from harness.planner.audit_memory import PRICED_AT

ROWS = {row.row: row for row in audit()}
G5, P4D, P5, SPOT = (
    5.672,
    21.957642,
    55.04,
    2.7858,
)  # $/h of g5.12xlarge, p4d.24xlarge, p5.48xlarge; g5.12xlarge on spot
REQUEST = 500 * 1.5 / 1e6  # the post's hosted price
MEAN = 10e6 / (720 * 3600)  # requests/s of 10M in its month of 720 h
TWO = 2 * G5 * 720
PERSON = 150 * 40 / 168  # $/h of the clock
LLAMA_70B, LLAMA_2_KV, MISTRAL_7B = 70_553_706_496 * 2, 327_680, 7_241_732_096 * 2  # bytes, bytes a token, bytes
BEFORE, AFTER = 10 * 4096 * LLAMA_2_KV, 10 * 512 * LLAMA_2_KV
A10G, A100, H100 = 600e9, 1555e9, 3350e9  # bytes/s of one, by its datasheet
PER_RPS = 3600 * 0.0012  # what hosting costs an hour for a request a second

VALUES = {
    1: {f"u{u}": G5 / (2000 * 3600 * u / 100 / 1e6) for u in (10, 25, 50, 100)},
    2: {"said": f"{MEAN:.6g} rps need 16 replicas + 0 spares, there are 2"},
    3: {"gb": 4 * 24},
    4: {"gb": 8 * 24},
    5: {"gb": 8 * 40},
    6: {"now": P4D, "change": P4D / 32.77 - 1, "h100": P5, "h100_change": P5 / 98.32 - 1},
    7: {"right": 2 * G5 * 730.5, "printed": 2 * G5 * 730, "post": TWO},
    8: {"own_table": 10 * (300 * 1.5 + 200 * 2), "list": 10 * (300 * 0.5 + 200 * 1.5), "open_8b": 10 * (300 * 0.05 + 200 * 0.08)},
    9: {"loss": TWO - 10e6 * REQUEST},
    10: {
        "own_inputs": TWO / REQUEST, "mean_month": 2 * G5 * 730.5 / REQUEST, "first_month": (TWO + 6000) / REQUEST,
        "one_instance": G5 * 720 / REQUEST, "at_3m": 3e6 * REQUEST, "capacity": "never", "needed_use": G5 / (0.25 * 3600 * REQUEST),
    },
    11: {
        "crossings": ", ".join(f"{who} {rps:.2f}" for who, rps in (
            ("self", 3.49 / (3600 * 0.0000614)), ("hosted", 22.58), ("self", 2 * 3.49 / (3600 * 0.0000614)), ("hosted", 45.16),
            ("self", 3 * 3.49 / (3600 * 0.0000614)),
        )),
        "count": 5,
    },
    12: {"needed": 16, "usd": 16 * G5 * 720, "per_million": 16 * G5 * 720 / 5000},
    13: {"needed": 31 + 1, "flat": 16},
    14: {"quarter": PERSON / 4, "month": PERSON / 4 * 730.5, "more": 0.7 * PERSON},
    15: {"hours": 1200 / G5, "share": 1200 / (G5 * 720), "month": G5 * 720, "more": G5 * 720 / 1500 - 1},
    16: {"hours": 1e8 / 95 / 3600, "usd": 1e8 / 95 / 3600 * G5},
    17: {"tokens": 1500 / 15 * 1e6 / 1e5},
    18: {"price": 0.776, "times": 15 / 0.776, "newer_in": 0.135, "newer_out": 0.4},
    19: {"right": (1400 - 280) / 1400, "requests": 1 / (0.9 - 0.827), "limit": 0.9},
    20: {
        "per_token": LLAMA_2_KV, "before": 140 + BEFORE / 1e9, "after": 140 + AFTER / 1e9, "total": (BEFORE - AFTER) / (140e9 + BEFORE),
        "kv": 7 / 8,
    },
    21: {
        "needed": LLAMA_70B * 125 / 1e12, "has": 4 * A10G / 1e12, "ceiling": 4 * A10G / LLAMA_70B, "weights": LLAMA_70B / 1e9,
        "memory": 4 * 24, "a100": 8 * A100 / LLAMA_70B, "needed_7b": MISTRAL_7B * 280 / 1e12, "h100": H100 / MISTRAL_7B,
    },
    22: {"times": LLAMA_70B / (2 * 33.7e9), "post": 95 / 125},
    23: {"a": 125 / 45, "b": 280 / 120, "c": 95 / 35},
    24: {"reply_s": 500 / 125, "tokens": 125 * 0.2},
    25: {"rows_above": 1},
    26: {"idle": TWO * 4 / 24, "share": 4 / 24},
    27: {"right": TWO, "circular": TWO / 2},
    28: {"low": 0.2, "high": 1.0},
    29: {},
    30: {},
    31: {"small_in": 0.5, "small_out": 1.5, "large_in": 2.5, "large_out": 10},
    32: {"small": (3 * 10 + 9) / PER_RPS, "large": (24 * 4 + 9) / PER_RPS},
    33: {"listed": SPOT, "calm": SPOT / (1 - 0.05 * 0.5), "stormy": (G5 + SPOT / (1 - 0.5 * 0.5)) / 2, "demand": G5},
}  # fmt: skip


@pytest.mark.parametrize("row", VALUES)
def test_every_value_of_a_row(row):
    """All of them, by name, to the digits that a float has."""
    found = {name: float(v) if isinstance(v, Decimal) else v for name, v in ROWS[row].values.items()}
    assert found == {name: v if isinstance(v, str) else pytest.approx(v, rel=2e-13) for name, v in VALUES[row].items()}


def test_a_row_is_its_claim_its_values_and_the_test_of_them():
    """The text of the right value is made of the values."""
    assert list(ROWS) == list(VALUES) == list(range(1, 34))
    assert ROWS[3] == AuditRow(
        3,
        "g5.12xlarge has 48 GB",
        "4 x 24 = 96 GB",
        {"gb": Decimal(96)},
        "tests/planner/test_cost_audit.py::test_seed_row_3",
    )
    assert ROWS[22].right.startswith(
        "on the same hardware 34B reads 2.1 times fewer bytes a token, so it is faster, not 0.76 times"
    )


def test_the_day_of_the_prices():
    """Noon of the day that the page names, in UTC."""
    assert datetime(2026, 11, 24, 12, tzinfo=UTC) == PRICED_AT


def test_the_page():
    """A table with a head, one line a row even where its text has two, and an end."""
    rows = (AuditRow(1, "a", "b\nc", {}, "t::x"), AuditRow(2, "d", "e", {}, "t::y"))
    assert as_markdown(rows) == (
        "| # | The post says | Right | Test |\n|---|---|---|---|\n| 1 | a | b c | `t::x` |\n| 2 | d | e | `t::y` |\n"
    )
