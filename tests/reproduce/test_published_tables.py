"""Published tables: what comes with the harness parses, and a bad one says what is wrong."""

from __future__ import annotations

import pytest
import yaml

from harness.base.errors import ConfigError
from harness.config.published import load_table, tables
from tests.reproduce.published_values import row, table


@pytest.mark.parametrize("name", sorted(tables()))
def test_every_table_that_comes_with_the_harness_parses(name):
    """Each file of configs/experiments/tables validates, names its source, and each row is one cell of an experiment."""
    found = load_table(name)
    assert found.table == name
    assert found.source.url
    for one in found.rows:
        assert len(found.experiment([one]).loads[0].points()) == 1


def test_single_stream_and_aggregate_of_the_posts_models_are_apart():
    """seed.yaml: three models, each with a row of one stream and a row of the server, the post's number unclaimed in both."""
    found = load_table("seed")
    for label, value in (("Llama 3 70B", 125), ("Mistral 7B", 280), ("CodeLlama 34B", 95)):
        figures = [
            f for r in found.rows if found.targets[r.target].label == label for f in r.figures if f.value == value
        ]
        assert {f.column for f in figures} == {"single_stream", "aggregate"}
        assert not any(f.column_stated for f in figures)


def test_figures_that_are_not_at_hand_are_null_in_the_nightly_table():
    """vllm-nightly.yaml: only the row that the build page shows has numbers; all twelve rows have settings."""
    found = load_table("vllm-nightly")
    with_numbers = [r.name for r in found.rows if any(f.value for f in r.figures)]
    assert with_numbers == ["llama70b-tp4-qps-1"]
    assert len(found.rows) == 12


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"rows": [row("a", "nobody")]}, "no target 'nobody'"),
        ({"rows": [row("a", "small"), row("a", "small", 8)]}, "row names must differ"),
        ({"rows": [row("a", "small"), row("b", "small")]}, "the same cell"),
        ({"rows": [row("a", "small", load={"concurrency": [1, 2], "requests": 4})]}, "must be one cell"),
        ({"rows": [row("a", "small", figures=[{"metric": "tps", "column": "aggregate", "value": 1, "unit": "s"}])]}, "unknown"),
        ({"rows": [row("a", "small", figures=[{"metric": "ttft_s", "column": "aggregate", "value": 1, "unit": "ms"}])]}, "statistic"),
        ({"rows": [row("a", "small", figures=[{"metric": "output_tps", "column": "aggregate", "value": 1, "unit": "ms"}])]}, "unit"),
        ({"rowz": []}, "rowz"),
    ],
)  # fmt: skip
def test_a_bad_table_is_a_config_error_that_says_what(tmp_path, changes, said):
    """Unknown targets, metrics, units, keys and double cells: ConfigError naming the value, nothing is run."""
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(table(**changes)))
    with pytest.raises(ConfigError) as caught:
        load_table(str(path))
    assert said in str(caught.value)


def test_no_such_table_names_those_that_are_there():
    """An unknown name is exit 2 and lists the tables that come with the harness."""
    with pytest.raises(ConfigError) as caught:
        load_table("nothing")
    assert "embedded" in caught.value.advice
