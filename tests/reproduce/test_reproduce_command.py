"""`harness reproduce` as a command, and its pages."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from harness.base.errors import ConfigError, StoreError
from harness.cli.reproduce import reproduce_command
from harness.measure.reproduce.rows import dry_run
from harness.report import published as page
from tests.reproduce.published_values import CPU, parsed, table


def invoke(*words: str):
    return CliRunner().invoke(reproduce_command, list(words), standalone_mode=False)


def test_the_command_prints_what_was_skipped_and_keeps_the_columns_apart(cpu):
    """`reproduce seed --dry-run`: exit 0, every row skipped with its reason, one stream and server in columns of their own."""
    done = invoke("seed", "--dry-run")
    assert done.exception is None
    assert done.return_value == 0
    for words in ("1 stream", "server", "needs 4 GPUs for 141.1 GB", "0 of 6 rows would run", "125.0 ?"):
        assert words in done.output
    assert max(map(len, done.output.splitlines()[4:])) <= 120


def test_json_and_markdown_hold_the_same_numbers(cpu, runner, tmp_path):
    """--json and --markdown after a measured run: published 100, here 117.6, ratio 1.176, and the reason of the skipped row."""
    path = tmp_path / "t.yaml"
    path.write_text(yaml.safe_dump(table()))
    markdown = tmp_path / "deep" / "m.md"
    done = invoke(str(path), "--json", "--results", str(runner.out), "--markdown", str(markdown))
    assert done.exception is None
    found = json.loads(done.stdout)
    figure = found["rows"][0]["figures"][0]
    assert (figure["published"], figure["measured"], figure["ratio"]) == pytest.approx((100, 117.6, 1.176))
    text = markdown.read_text()
    assert "| 100.0 | 117.6 | 1.18 | measured |" in text
    assert "needs 2 GPUs" in text
    assert runner.places == [runner.out / "reproduce-two"]


def test_words_of_a_table_cannot_forge_a_page():
    """A hostile title, label and reason come out escaped, in the terminal without control characters."""
    hostile = "<script>| a\x1b[31m\n# h"
    found = dry_run(parsed(title=hostile, source={"name": hostile, "url": "https://example.org"}), CPU)
    text = page.markdown(found)
    assert "<script>" not in text
    assert "\x1b" not in text
    assert "\n# h" not in text


@pytest.mark.parametrize("words", [("embedded", "--dry-run", "--from", "x"), ("embedded", "--model", "smollm2")])
def test_words_that_do_not_fit_together_are_refused(words, cpu):
    """--dry-run with --from, and --model without =: ConfigError."""
    assert isinstance(invoke(*words).exception, ConfigError)


def test_a_results_directory_that_is_not_there_is_a_store_error(cpu, tmp_path):
    """--from a directory without runs: exit 5."""
    assert isinstance(invoke("embedded", "--from", str(tmp_path / "none")).exception, StoreError)
