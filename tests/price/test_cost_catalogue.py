"""Rows of the price books as people search them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version

import pytest
from click.testing import CliRunner
from genai_prices import data_snapshot

from harness.base.errors import ConfigError
from harness.cli import cli
from harness.price.prices import PriceRow, catalogue, instances

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
KARPENTER = "aws/karpenter-provider-aws zz_generated.pricing_aws.go (AWS Pricing API)"


def test_an_instance_and_a_model_as_rows():
    """Price, unit, date, source and age of both kinds, found by any part of the name in any case."""
    assert catalogue("AWS/G5.12x", AT) == [
        PriceRow(
            "instance", "aws/g5.12xlarge", "5.672", "USD/h", "2026-07-20", KARPENTER, "2026-07-20, 127 days old, STALE (limit 120)", 127, True
        )
    ]  # fmt: skip
    (row,) = (row for row in catalogue("Openai/GPT-5.5", AT) if row.name == "openai/gpt-5.5")
    book = f"genai-prices {version('genai-prices')}"
    assert row == PriceRow(
        "hosted", row.name, "5 / 30", "USD/M tokens in / out", "2026-11-24", book, "in force on 2026-11-24"
    )
    assert (row.age_days, row.stale) == (None, False)


def test_instances_are_found_by_their_gpu_too():
    """Every A10G of the table that has a price, and nothing else that is rented."""
    rows = [row for row in catalogue("a10G", AT) if row.kind == "instance"]
    assert {row.name for row in rows} == {
        i.full_name for i in instances(AT) if i.gpu_model == "A10G" and i.usd_per_hour
    }
    assert len(rows) > 3


def test_no_pattern_is_everything_that_has_a_price():
    """Each instance with an on-demand price and each model of the price book, once."""
    rows = catalogue("", AT)
    priced = [i.full_name for i in instances(AT) if i.usd_per_hour is not None]
    models = [f"{p.id}/{m.id}" for p in data_snapshot.get_snapshot().providers for m in p.models]
    assert [row.name for row in rows] == [*priced, *models]
    assert 0 < len(priced) < len(instances(AT))


@pytest.mark.parametrize(("days", "stale"), [(120, False), (121, True), (-120, False), (-121, True)])
def test_a_price_is_stale_beyond_its_limit_on_either_side(days, stale):
    """120 days for AWS, before or after."""
    (row,) = catalogue("aws/g5.12xlarge", datetime(2026, 7, 20, 12, tzinfo=UTC) + timedelta(days=days))
    assert (row.age_days, row.stale) == (days, stale)
    assert ("STALE" in row.dated) is stale


def test_the_day_is_that_of_utc():
    """00:30 of 25 November in Berlin is still the 24th; a model without a price per token shows a dash."""
    late = datetime(2026, 11, 25, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    rows = catalogue("", late)
    assert {row.as_of for row in rows if row.kind == "hosted"} == {"2026-11-24"}
    assert any(" / -" in row.usd or "- / " in row.usd for row in rows)
    assert not any("None" in row.usd for row in rows)


def test_show_is_a_word_that_may_be_left_out():
    """`harness prices show PATTERN` and `harness prices PATTERN` print the same; a second pattern is refused."""
    words = ["--at", "2026-11-24", "--json"]
    with_show, without = (
        CliRunner().invoke(cli, ["prices", *show, "g5.12x", *words], catch_exceptions=False).output
        for show in (["show"], [])
    )
    assert with_show == without
    assert [row["name"] for row in json.loads(without)] == ["aws/g5.12xlarge"]
    assert isinstance(CliRunner().invoke(cli, ["prices", "show", "a", "b"]).exception, ConfigError)
