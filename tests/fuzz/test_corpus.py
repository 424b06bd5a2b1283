"""Inputs that once ended in a traceback, hung, or were taken although they make no sense: each is refused, in three lines that say why."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from harness.base.documents import csv_cell, dump_yaml, load_yaml, parse_json, parse_yaml
from harness.base.errors import ConfigError, StoreError
from harness.cli import cli
from harness.config.experiment import load_experiment, parse_experiment
from harness.measure.plan.arrivals import arrivals
from harness.measure.plan.traces import values as trace_values
from harness.records import HostSample
from harness.report.figures import Figure
from harness.store.columns import to_table
from harness.store.manifest import from_json, to_json
from harness.store.parts import write_file
from harness.store.reader import read_columns
from tests.fuzz import values
from tests.fuzz.configs import EXPERIMENT

BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 8)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("a: 1\nb: 2\na: 3", "x:3:1", "stands twice"),
        ("a:\n  b: 1\n  b: 2", "x:3:3", "stands twice"),
        ("a: " + "9" * 5_000, "x:1:4", "5,000 digits"),
        ("a: .nan", "x:1:4", "not a finite number"),
        ("a: 1e400", "x:1:4", "not a finite number"),
        ("a: 1e-400", "x:1:4", "too small"),
        ("[" * 100_000, "x:1:65", "nested deeper than 64"),
        ("{a: " * 100_000, "x:1:", "nested deeper than 64"),
        (BOMB, "x:", "more than 50,000 values"),
        ("a: &a [*a]", "x:1:8", "holds itself"),
        ("? [a]\n: 1", "x:1:3", "a key is a word"),
        ("a: !!python/object/apply:os.system [x]", "x:1:4", "constructor"),
        ('a: "\\0"', "x:1:4", "control character"),
        ('a: "\\ud800"', "x:1:4", "control character"),
        ("a: 1\n---\na: 1", "x:2:1", "another document"),
    ],
)  # fmt: skip
def test_yaml_that_is_refused(text, at, why):
    """Each names the line and what is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "x")
    assert caught.value.value.startswith(at)
    assert why in caught.value.advice


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("190:20:30", "190:20:30"), ("1:30", "1:30"), ("yes", "yes"), ("off", "off"), ("2026-13-45", "2026-13-45"), ("2026-11-01", "2026-11-01"),
        ("010", 10), ("0o10", 8), ("0x1F", 31), ("1e6", 1e6), ("1_000", 1000), ("true", True), ("~", None), ("'1'", "1"),
    ],
)  # fmt: skip
def test_plain_words_are_read_by_yaml_1_2(text, value):
    """No sexagesimals, no yes and no, no dates; 010 is ten."""
    found = parse_yaml(text, "x")
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("text", ["1e6", "yes", "0o7", "1:30", "2026-11-01", "~", "<<", "010", "=x", "1_000"])
def test_what_is_written_is_read_as_the_same(text):
    """A text that looks like a number in either version of YAML stays a text."""
    assert parse_yaml(dump_yaml({text: [text]}), "x") == {text: [text]}


def test_aliases_and_merges_are_read():
    """Short aliases are what presets of one experiment share; a mapping's own keys win over what it merges."""
    text = "a: &a {x: 1, y: 1}\nb: {<<: *a, x: 2}\nc: [*a, *a]"
    assert parse_yaml(text, "x")["b"] == {"x": 2, "y": 1}


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    """Not more than half a MiB is read of whatever is named as a config."""
    path = tmp_path / "x.yaml"
    path.write_text("a: 1\n#" + "x" * (1 << 19))
    with pytest.raises(ConfigError, match="too large"):
        load_yaml(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[" * 100 + "]" * 100,
        "9" * 5_000,
        "NaN",
        "[1e999]",
        '{"a":1,"a":2}',
        "-Infinity",
        '{"a":1e-999}',
        "",
    ],
)
def test_json_that_is_refused(text):
    """Whatever is wrong with JSON is a ValueError, which every reader takes for a damaged file."""
    with pytest.raises(ValueError):
        parse_json(text)


CHANGES = [
    (("repetitions",), 10**9), (("repetitions",), 2_000), (("loads", 0, "concurrency", 0), 10**9), (("loads", 1, "rate", 0), 1e-300),
    (("loads", 1, "rate", 0), 1e300), (("loads", 1, "requests"), 10**12), (("loads", 2, "duration_s"), 1e300), (("cost", "utilisation"), 1e-300),
    (("targets", 0, "name"), ""), (("targets", 0, "name"), "../../x"), (("targets", 0, "name"), "a/b"), (("targets", 0, "model"), ""),
    (("experiment",), "../x"), (("experiment",), ""), (("experiment",), "x" * 200), (("workloads", 0), ""), (("timeouts", "connect_s"), 1e300),
    (("slo", "tpot_s"), 1e-300), (("targets", 0, "hardware", "usd_per_hour"), 1e300), (("targets", 0, "hardware", "as_of"), "2026-13-45"),
    (("targets", 0, "hardware", "as_of"), "soon"), (("targets", 0, "hardware", "name"), " "), (("observe", "gpu_hz"), 1e-300),
    (("context_limit_tokens",), 10**18), (("max_hours",), 1e300), (("warmup_requests",), 10**9), (("loads", 5, "capacity", "start_rps"), 1e300),
    (("loads", 0, "requests_per_slot"), 10**7),
]  # fmt: skip


@pytest.mark.parametrize(("place", "value"), CHANGES)
def test_a_number_or_name_beyond_its_bounds_is_refused(place, value):
    """The error names the key; what is refused never reaches a plan, a folder or a bill."""
    parse_experiment(EXPERIMENT, "x")
    with pytest.raises(ConfigError) as caught:
        parse_experiment(values.put(EXPERIMENT, place, value), "x")
    assert caught.value.advice
    assert str(caught.value).count("\n") <= 2


def test_an_experiment_for_ever_says_how_many_cells_it_has(tmp_path):
    """The number of cells and the bound stand in the error."""
    path = tmp_path / "e.yaml"
    path.write_text(dump_yaml(EXPERIMENT | {"repetitions": 1_000_000_000}))
    with pytest.raises(ConfigError, match="targets x workloads x load points x repetitions"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("kind", "rate", "requests"),
    [
        ("poisson", 1e-5, 10_000), ("onoff:0.000001:1", 1e-4, 2000), ("ramp:1-" + "9" * 400, 1.0, 5), ("step:" + "9" * 400, 1.0, 5),
        ("onoff:1:9999999999", 1.0, 5), ("diurnal:m-large:0.0000001", 1.0, 5),
    ],
)  # fmt: skip
def test_arrivals_without_end_are_refused(kind, rate, requests):
    """A plan of more than a year, bursts beyond counting, numbers no float holds."""
    with pytest.raises(ConfigError):
        arrivals(kind, rate, 1, requests, None)


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        ("1e999999999", "s"), ("-1e999999999", "ms"), ([10**5_000], "s"), ("9999-12-31 23:59:59", "clock"), ("0001-01-01 00:00:00", "clock"), ("sNaN", "s"),
        ("2026-13-45 00:00:00", "clock"), ("nan", "any"), (2**70, "ms"), (True, "clock"),
    ],
)  # fmt: skip
def test_times_of_a_trace_that_are_none(value, unit):
    """Each is a bad value of its row, which can be counted and skipped."""
    with pytest.raises(trace_values.BadValueError) as caught:
        trace_values.instant_ns("t", value[0] if isinstance(value, list) else value, unit)
    assert len(trace_values.shown(caught.value.value)) <= 80


@pytest.mark.parametrize(
    "value", [True, [10**5_000], "9" * 5_000, "1e400", float("inf"), float("nan"), "nan", [], None, -1, 2.5, 10**8]
)
def test_lengths_of_a_trace_that_are_none(value):
    """A truth value is no length, nor is a number of thousands of digits."""
    with pytest.raises(trace_values.BadValueError) as caught:
        trace_values.tokens("n", value[0] if value and isinstance(value, list) else value)
    assert len(trace_values.shown(caught.value.value)) <= 80


ROWS = {
    "arrival_s,prompt_tokens,output_tokens\n0,10,5\n1e999999999,10,5\n2,10,5\n": 2,
    '{"timestamp":0,"input_length":9,"output_length":5,"chat_id":1,"parent_chat_id":[]}\n'
    '{"timestamp":1,"input_length":9,"output_length":5,"chat_id":2,"parent_chat_id":-1,"hash_ids":[' + "9" * 400 + "]}\n"
    '{"timestamp":2,"input_length":9,"output_length":5,"chat_id":3,"parent_chat_id":-1}\n': 1,
    "\nTIMESTAMP,ContextTokens,GeneratedTokens\n9999-12-31 00:00:00,3,4\n2024-05-12 00:00:01,3,4\n2024-05-12 00:00:02,3,4\n": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "kept"), ROWS.items(), ids=["decimal", "parents and hashes", "an empty first line, a far date"]
)
def test_bad_rows_are_counted_and_the_file_goes_on(tmp_path, capsys, text, kept):
    """With skip_bad the rest of the file is a plan; the note counts what was left out."""
    path = tmp_path / ("t.jsonl" if text[0] == "{" else "t.csv")
    path.write_text(text)
    words = [
        "plan",
        "--workload",
        f"{path}?skip_bad=1",
        "--arrivals",
        "trace",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    cli.main(words, standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)
    assert row["requests"] == kept
    assert any("bad rows skipped" in note for note in row["notes"])


def test_a_trace_whose_column_stands_twice_is_refused(tmp_path):
    """Which of the two is meant is not guessed."""
    path = tmp_path / "t.csv"
    path.write_text("arrival_s,prompt_tokens,prompt_tokens,output_tokens\n0,1,2,3\n")
    with pytest.raises(ConfigError, match="stands twice"):
        cli.main(["workloads", "show", str(path)], standalone_mode=False)


@pytest.mark.parametrize("text", ["=1+1", "+x", "-x", "@x", "\tx", "\rx", " =x", "\uff1dx"])
def test_text_that_a_spreadsheet_would_run(text):
    """An apostrophe stands before it; a number with a sign stays a number."""
    assert csv_cell(text) == f"'{text}"
    assert [csv_cell(plain) for plain in ("-5.5", "+1e5", "x=1", "", 5, None)] == ["-5.5", "+1e5", "x=1", "", 5, None]


def test_sql_of_the_history_as_csv_holds_no_formula(tmp_path, capsys):
    """Names of columns and cells of text are guarded as in every other export."""
    query = "SELECT '=1+1' AS \"@a\", -5 AS b, '-x' AS c"
    cli.main(["history", "sql", query, "--results", str(tmp_path), "--csv"], standalone_mode=False)
    assert capsys.readouterr().out == "'@a,b,c\n'=1+1,-5,'-x\n"


WRONG = [
    (("drive",), []), (("drive", "measure"), [1]), (("drive", "measure", "reads"), "x"), (("target", "startup"), {"ready_s": "x"}), (("target",), []),
    (("config", "slo"), {"tpot_s": "x"}), (("config", "targets"), [1]), (("config", "cost"), []), (("state",), "over"), (("created_utc",), "x"), (("seed",), "1"),
    (("error",), 5), (("cell", "target"), 1), (("cell", "load", "rate_rps"), "x"), (("row_counts",), {"a": 1.5}), (("telemetry",), {"gpu": None}),
    (("environment",), None), (("environment", "gpus"), {}), (("environment", "calibration"), {"a": {"b": [1]}}), (("environment", "cores"), {"logical": "x"}), (("environment", "cpu_model"), [-1]), (("environment", "git"), {"commit": 1}),
    (("environment", "gpus"), [{"name": 5}]), (("run_id",), None), (("owner_pid",), "x"), (("campaign_id",), 7), (("schema_version",), "x"),
]  # fmt: skip


@pytest.fixture(scope="module")
def manifest():
    """The text of a whole manifest as data."""
    from harness.records import Cell, Load
    from tests.fuzz.stored import manifest_of

    return json.loads(to_json(manifest_of(Cell("a", "fixed:1x1", Load(concurrency=1), 1), "r")))


@pytest.mark.parametrize(("place", "value"), WRONG)
def test_a_field_of_a_manifest_of_a_wrong_type_is_named(manifest, place, value):
    """Its file and the field stand in the error; none is passed on to what reads it."""
    from_json(json.dumps(manifest), "m")
    with pytest.raises(StoreError):
        from_json(json.dumps(values.put(manifest, place, value)), "m")


def test_a_backslash_in_a_name_stays_one_in_a_plot():
    """A label is text, not part of a pattern: `\\1` and `\\g<0>` stand in the page as they are."""
    with Figure(r"a\1\g<0>\q target", 1, 1.0) as figure:
        figure.axes[0].plot([1, 2], [1, 2])
    assert r'aria-label="a\1\g&lt;0&gt;\q target"' in figure.svg


def test_a_flipped_bit_of_a_stored_column_is_no_other_number(tmp_path):
    """The values of every column are under a checksum: a damaged page is an error, not another result."""
    path = tmp_path / "host.parquet"
    rows = [HostSample(10**18 + k, 50.0, 1.0, k, k, 0.1 * k, 1, 0.2 * k, 1) for k in range(50)]
    write_file(path, "host", to_table("host", rows))
    raw, group = path.read_bytes(), pq.ParquetFile(path).metadata.row_group(0)
    for column in map(group.column, range(group.num_columns)):
        begin = column.dictionary_page_offset or column.data_page_offset
        last = begin + column.total_compressed_size - 1
        path.write_bytes(raw[:last] + bytes([raw[last] ^ 1]) + raw[last + 1 :])
        with pytest.raises(StoreError, match="cannot be read"):
            read_columns(tmp_path, "host", ["cpu_pct"])


@pytest.mark.parametrize("number", ["inf", "-inf", "nan", "1e999"])
def test_a_number_of_the_command_line_is_finite(number):
    """Of an option that is used and of one that is not: the option and the word, exit code 2."""
    for words in (
        ["breakeven", "--headroom", number],
        ["instances", "--lost-hours", number],
        ["memory", "x", "--kv-cache-gb", number],
    ):
        done = CliRunner().invoke(cli, ["cost", *words])
        assert done.exit_code == 2
        assert words[-2] in done.output
        assert "finite" in done.output or "range" in done.output


@pytest.mark.parametrize(
    "words",
    [["workloads", "show"], ["cost", "scenario"], ["cost", "memory"], ["reproduce"], ["run"], ["cost", "attribute"]],
)
def test_a_word_too_long_for_a_file_is_no_file(words):
    """300 letters where a file or a name may stand: a ConfigError, as for any other word that is neither."""
    done = CliRunner().invoke(cli, [*words, "é" * 300])
    assert isinstance(done.exception, ConfigError | StoreError | SystemExit)


def test_a_model_of_a_billion_layers_is_refused(tmp_path):
    """Not built in memory: 10,000 layers may be, one more may not."""
    from harness.config.model.layers import layer_kinds, read_config

    def kinds(layers: int):
        return layer_kinds(read_config({"model_type": "llama", "num_hidden_layers": layers}, "m"))

    assert len(kinds(10_000)) == 10_000
    with pytest.raises(ConfigError, match="beyond any"):
        kinds(10_001)
