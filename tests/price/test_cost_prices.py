"""The table of machine prices and the files under configs/."""

from decimal import Decimal as D

import pytest

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.config.experiment import SloSpec, load_yaml, parse_experiment
from harness.config.target import HardwareSpec
from harness.price.prices import (
    STALE_SPOT_DAYS,
    age_words,
    day_of,
    declared,
    instance_price,
    instances,
    stale_after_days,
    staleness,
)

NOW = day_of("20261124T113000Z")
TABLE = {i.name: i for i in instances(NOW)}


@pytest.mark.parametrize(("name", "gb"), [("g5.12xlarge", 96), ("g5.48xlarge", 192), ("p4d.24xlarge", 320)])
def test_seed_rows_3_to_5_memory_of_the_whole_instance(name, gb):
    """4 x 24 is 96 and 8 x 24 is 192 GB, not 48 and 96; 8 x 40 is 320."""
    assert TABLE[name].gpu_mem_gb_total == gb


@pytest.mark.parametrize(
    ("name", "usd"),
    [("p4d.24xlarge", "21.957642"), ("p5.48xlarge", "55.04"), ("g5.12xlarge", "5.672"), ("g5.48xlarge", "16.288")],
)
def test_seed_row_6_prices_after_the_cut_of_june_2025(name, usd):
    """p4d is 21.957642 and no longer 32.77; p5 is 55.04 and no longer 98.32; g5 did not change."""
    assert instance_price(name, NOW).usd_per_hour == usd
    assert instance_price(f"aws/{name}", NOW).as_of == "2026-07-20"


def test_the_table_is_sane():
    """Every price has a source and a date; prices per GPU lie between 0.05 and 40 $/h; provider/name is unique."""
    assert len(TABLE) >= 70
    assert len({i.full_name for i in instances(NOW)}) == len(instances(NOW)) == 77
    for i in instances(NOW):
        if i.usd_per_hour is not None:
            assert i.source, i.name
            assert i.as_of.startswith("20"), i.name
            assert D("0.05") < i.usd_per_hour / i.gpu_count < 40, i.name


def test_an_unknown_instance_names_the_nearest():
    """A misspelt name is a ConfigError with suggestions."""
    with pytest.raises(ConfigError) as error:
        instance_price("g5.12xlrge", NOW)
    assert "g5.12xlarge" in error.value.advice


def test_an_instance_without_a_price_is_refused():
    """No on-demand price published: ConfigError, never 0."""
    with pytest.raises(ConfigError, match="no on-demand price"):
        instance_price("p5e.48xlarge", NOW)


def test_an_ambiguous_name_is_refused(tmp_path):
    """The same name at two providers: say which."""
    lines = (data_dir("configs") / "prices" / "instances.csv").read_text().splitlines()
    table = tmp_path / "instances.csv"
    table.write_text("\n".join([lines[0], lines[1], lines[1].replace("aws,", "other,", 1)]))
    with pytest.raises(ConfigError, match="not unique"):
        instance_price("g4dn.xlarge", NOW, table)
    assert instance_price("other/g4dn.xlarge", NOW, table).usd_per_hour == "0.526"


@pytest.mark.parametrize("text", ["provider,instance\naws,x\n", None])
def test_a_broken_table_is_a_config_error(tmp_path, text):
    """Missing columns or no file: ConfigError with the path."""
    table = tmp_path / "p.csv"
    if text:
        table.write_text(text)
    with pytest.raises(ConfigError) as error:
        instances(NOW, table)
    assert str(table) in error.value.value


@pytest.mark.parametrize("file", sorted((data_dir("configs") / "slo").glob("*.yaml")), ids=lambda p: p.stem)
def test_slo_files_are_slos(file):
    """Every example under configs/slo/ is a valid SloSpec."""
    assert SloSpec.model_validate(load_yaml(file)).attainment > 0


@pytest.mark.parametrize(
    ("hardware", "value", "advice"),
    [
        ({"nme": "x"}, ".nme", "did you mean name?"),
        ({"name": "x"}, ".usd_per_hour", "add it; "),
        (3, " = 3", "Input should be a valid dictionary"),
    ],
)
def test_what_is_wrong_with_a_declared_price_is_told_by_its_key(hardware, value, advice):
    """It may be a name or a mapping; of a mapping the key is told, not which of the two it was taken for."""
    target = {"name": "a", "kind": "vllm", "model": "m", "hardware": hardware}
    loads = [{"rate": [1], "requests": 2}]
    with pytest.raises(ConfigError) as error:
        parse_experiment({"experiment": "t", "targets": [target], "workloads": ["fixed:1x1"], "loads": loads}, "f")
    assert error.value.value == f"targets.0.hardware{value}"
    assert error.value.advice.startswith(advice)


def test_declared_prices_keep_their_digits():
    """0.1 stays 0.1: money does not pass through binary."""
    assert declared(HardwareSpec(name="x", usd_per_hour=0.1, source="s", as_of="2026-01-01")).usd_per_hour == "0.1"


def test_staleness_limits():
    """On demand 120 days, spot 45; a price dated to a month has no known age; a run much older than its price is told too."""
    run = day_of("20261124T113000Z")
    assert staleness("m", "2026-07-27", run) is None
    assert "2026-07-26" in staleness("m", "2026-07-26", run)
    assert staleness("m", "2026-10-10", run, STALE_SPOT_DAYS) is None
    assert "2026-10-09" in staleness("m", "2026-10-09", run, STALE_SPOT_DAYS)
    assert "after the run" in staleness("m", "2027-06-01", run)
    assert "not to the day" in staleness("m", "2026-07", run)
    assert "not a date" in staleness("m", "2026-02-30", run)


@pytest.mark.parametrize(
    ("name", "source", "days"),
    [
        ("aws/g5.12xlarge (4 x A10G, us-east-1, on demand)", "", 120),
        ("aws/g5.12xlarge (4 x A10G/24GB, us-east-1, on demand)", "", 120),  # a slash that names no provider
        ("runpod/h100 (1 x H100/80GB, on demand)", "", 45),
        ("our box, 2 x A100/80GB", "", 120),
        ("our box", "AWS Spot price history", 45),
    ],
)
def test_how_long_a_price_is_believed(name, source, days):
    """Hyperscalers and one's own machines 120 days, the small clouds and spot 45, whatever else the name says."""
    assert stale_after_days(name, source) == days


def test_the_age_of_a_price_in_words():
    """Today is 0 days old; the limit itself is not stale; a later price says so."""
    run = day_of("20261124T113000Z")
    assert age_words("2026-11-24", run) == "0 days old"
    assert age_words("2026-11-25", run) == "of 1 days later"
    assert age_words("2026-07-27", run) == "120 days old"
    assert age_words("2026-07-26", run) == "121 days old, STALE (limit 120)"


def test_run_dates_are_read_in_both_forms():
    """The manifest's stamp and ISO 8601 are the same instant; rubbish is a ConfigError."""
    assert day_of("20261124T113000Z") == day_of("2026-11-24T12:30:00+01:00")
    with pytest.raises(ConfigError):
        day_of("yesterday")
