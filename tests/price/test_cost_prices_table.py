"""The price table row by row, and the record that a price becomes: every field, every fallback, every limit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.config.target import HardwareSpec
from harness.price.prices import (
    STALE_DAYS,
    STALE_SPOT_DAYS,
    Instance,
    age_days,
    age_words,
    day_of,
    declared,
    instance_price,
    instances,
    machine_age_words,
    machine_staleness,
    stale_after_days,
    staleness,
)
from harness.records import Hardware

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
NEEDED = (
    "provider", "instance", "region", "gpu_model", "gpu_count", "gpu_mem_gb_total", "on_demand_usd_h", "source", "source_date",
    "confidence", "notes",
)  # fmt: skip


def table(tmp_path, *rows, more=()):
    """A price table with the needed columns and those named."""
    file = tmp_path / "t.csv"
    file.write_text("\n".join([",".join([*NEEDED, *more]), *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return file


def row(usd="1.50", day="2026-11-01", name="x", provider="p", notes="n"):
    return (provider, name, "r", "A10G", "2", "48", usd, "s", day, "high", notes)


def test_every_column_of_a_row(tmp_path):
    """All columns, by their names; those that an older table lacks, and empty ones, are not known."""
    more = ("gpu_mem_gb_each", "gpu_mem_bw_gbps_each", "spot_usd_h", "commitment_usd_h")
    whole = Instance(
        provider="p", name="x", region="r", gpu_model="A10G", gpu_count=2, gpu_mem_gb_each=D(24), gpu_mem_gb_total=D(48),
        gpu_mem_bw_gb_per_s_each=D("600.5"), usd_per_hour=D("1.50"), spot_text="0.4-0.5", commitment_text="1.1 (1 y)", source="s",
        as_of="2026-11-01", confidence="high", notes="n",
    )  # fmt: skip
    assert whole.full_name == "p/x"
    assert instances(AT, table(tmp_path, (*row(), "24", "600.5", "0.4-0.5", "1.1 (1 y)"), more=more)) == (whole,)
    bare = Instance("p", "x", "r", "A10G", 2, None, D(48), None, None, "", "", "s", "2026-11-01", "high", "n")
    assert instances(AT, table(tmp_path, row(usd=""))) == (bare,)
    assert instances(AT, table(tmp_path, (*row(usd=""), "", "", "", ""), more=more)) == (bare,)


def test_names_may_be_of_any_script(tmp_path):
    """The table is UTF-8, and a note may have two lines."""
    (found,) = instances(AT, table(tmp_path, row(notes='"Zürich,\r\nGenève"')))
    assert found.notes == "Zürich,\r\nGenève"


@pytest.mark.parametrize(
    ("rows", "usd"),
    [
        ((("1", "2026-11-01"), ("2", "2026-11-24"), ("3", "2026-11-25")), 2),
        ((("2", "2026-11-24"), ("1", "2026-11-01")), 2),
        ((("1", "2026-11-24"), ("2", "2026-11-24")), 2),  # of one date, the row further down
        ((("3", "2026-12-02"), ("1", "2026-12-01")), 1),  # all later: the earliest
        ((("1", "2026-12-01"), ("3", "2026-12-02")), 1),
        ((("1", "2026-12-01"), ("2", "2026-12-01")), 1),
        ((("9", "2026-12-01"), ("1", "2020-01-01")), 1),
        ((("1", "2020-01-01"), ("9", "2026-12-01")), 1),
    ],
)
def test_the_price_in_force(tmp_path, rows, usd):
    """The newest that is not after the day in UTC; where all are, the earliest."""
    file = table(tmp_path, *(row(*one) for one in rows))
    assert [i.usd_per_hour for i in instances(AT, file)] == [usd]
    evening = datetime(2026, 11, 25, 0, 30, tzinfo=timezone(timedelta(hours=1)))  # the 24th in UTC
    assert [i.usd_per_hour for i in instances(evening, file)] == [usd]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (row(usd="much"), "InvalidOperation: "),
        ((*row()[:4], "two", *row()[5:]), "ValueError: invalid literal"),
        (row(usd="1,234.5"), "ValueError: p/x has more or fewer cells than the header"),
        (row()[:-1], "ValueError: p/x has more or fewer cells than the header"),
    ],
)
def test_a_bad_row_is_told(tmp_path, bad, why):
    """A price or a count that is no number, a cell too many (a comma in a price) or too few: the path and what is wrong."""
    with pytest.raises(ConfigError, match="bad row") as error:
        instances(AT, table(tmp_path, bad))
    assert error.value.value == str(tmp_path / "t.csv")
    assert error.value.advice.startswith(why)


def test_a_table_that_cannot_be_read_is_told(tmp_path):
    """No such file, and a file without the columns."""
    with pytest.raises(ConfigError, match="cannot be read") as error:
        instances(AT, tmp_path / "none.csv")
    assert error.value.advice == "No such file or directory"
    (tmp_path / "p.csv").write_text("provider\naws\n")
    with pytest.raises(ConfigError, match="bad row") as error:
        instances(AT, tmp_path / "p.csv")
    assert error.value.advice == "KeyError: 'instance'"


def test_an_instance_becomes_a_price(tmp_path):
    """Name, dollars as they stand, source, day, model and count; by either name."""
    file = table(tmp_path, row(), row(name="y", usd="2", provider="q"), row(name="y"))
    want = Hardware("p/x (2 x A10G, r, on demand)", "1.50", "s", "2026-11-01", "A10G", 2)
    assert instance_price("x", AT, file) == instance_price("p/x", AT, file) == want
    assert instance_price("q/y", AT, file).usd_per_hour == "2"
    with pytest.raises(ConfigError, match="not unique") as error:
        instance_price("y", AT, file)
    assert error.value.advice == "say which: q/y, p/y"
    with pytest.raises(ConfigError, match="no such instance") as error:
        instance_price("p/z", AT, file)
    assert error.value.advice == "did you mean p/y, p/x?"
    with pytest.raises(ConfigError, match="no such instance") as error:
        instance_price("qqqqqqqqq", AT, file)
    assert "prices show" in error.value.advice
    with pytest.raises(ConfigError, match="no on-demand price") as error:
        instance_price("x", AT, table(tmp_path, row(usd="", notes="ask them")))
    assert error.value.advice.endswith("yourself. ask them")


def test_a_declared_machine_becomes_a_price():
    """Each field in its place; dollars without an exponent or binary digits."""
    spec = HardwareSpec(name="b", usd_per_hour=0.1, source="s", as_of="2026-01-02", gpu_model="L4", gpu_count=3)
    assert declared(spec) == Hardware("b", "0.1", "s", "2026-01-02", "L4", 3)
    assert (
        declared(HardwareSpec(name="b", usd_per_hour=1e-7, source="s", as_of="2026-01-02")).usd_per_hour == "0.0000001"
    )


# ---------------------------------------------------------------- how old a price is


def test_a_run_s_date_is_an_instant_in_utc():
    """The manifest's stamp, ISO with another zone, and without one: taken as UTC."""
    want = datetime(2026, 11, 24, 11, 30, tzinfo=UTC)
    for text in ("20261124T113000Z", "2026-11-24T12:30:00+01:00", "2026-11-24T11:30:00"):
        assert day_of(text) == want
        assert day_of(text).utcoffset() == timedelta(0)
    with pytest.raises(ConfigError, match="no readable date") as error:
        day_of("x")
    assert error.value.value == "x"


@pytest.mark.parametrize(
    ("as_of", "days"),
    [("2026-11-24", 0), ("2026-11-23", 1), ("2026-11-25", -1), ("2026-11", None), ("20261124", None), ("2026-02-30", None), ("2026-11-24 ", None)],
)  # fmt: skip
def test_the_age_of_a_price_in_days(as_of, days):
    """Whole days to the day of the run; only for a date to the day."""
    assert age_days(as_of, AT) == days
    assert age_days(as_of, AT.replace(hour=23, minute=59)) == days


def test_age_in_words_and_warnings_at_their_limits():
    """Today, before, after; stale beyond the limit on either side, by the default of 120 days or another."""
    assert (STALE_DAYS, STALE_SPOT_DAYS) == (120, 45)
    day = lambda n: (AT - timedelta(days=n)).date().isoformat()  # noqa: E731
    assert age_words("2026-11", AT) == "age not known"
    assert [age_words(day(n), AT) for n in (0, 120, 121, -1, -121)] == [
        "0 days old", "120 days old", "121 days old, STALE (limit 120)", "of 1 days later", "of 121 days later, STALE (limit 120)",
    ]  # fmt: skip
    assert [staleness("m", day(n), AT) for n in (120, -120)] == [None, None]
    assert (
        staleness("m", day(121), AT)
        == f"stale price of m: dated {day(121)}, 121 days before the run (limit 120): look it up again"
    )
    assert (
        staleness("m", day(-46), AT, 45)
        == f"stale price of m: dated {day(-46)}, 46 days after the run (limit 45): look it up again"
    )
    assert staleness("m", "2026-02-30", AT) == "price of m is dated '2026-02-30', which is not a date"
    assert staleness("m", "2026", AT) == "price of m is dated '2026', not to the day: its age is not known"


def test_a_machine_has_the_limit_of_its_seller():
    """46 days: stale of a small cloud or by its source, not of a hyperscaler; words and warning by the same limit."""
    day = (AT - timedelta(days=46)).date().isoformat()
    for name, source, limit in (
        ("runpod/h100", "s", 45),
        ("box", "Spot history", 45),
        ("aws/g5", "s", 120),
        ("box", "s", 120),
    ):
        machine = Hardware(name, "1", source, day)
        assert stale_after_days(name, source) == limit
        assert machine_age_words(machine, AT) == "46 days old" + (", STALE (limit 45)" if limit == 45 else "")
        assert (machine_staleness(machine, AT) is not None) is (limit == 45)
    assert machine_staleness(Hardware("box", "1", "vast.ai", day), AT).startswith("stale price of box: dated")


@pytest.mark.parametrize("word", ["spot", "Community", "MARKETPLACE", "vast.ai"])
def test_words_of_a_quick_market_in_name_or_source(word):
    """In either, in any case."""
    assert stale_after_days(f"aws/{word} x") == stale_after_days("aws/x", f"a {word} price") == 45
    assert [stale_after_days(name) for name in ("aws/x", "azure/x", "gcp/x", "a b/x", "x", "lambda/x")] == [120] * 5 + [
        45
    ]
