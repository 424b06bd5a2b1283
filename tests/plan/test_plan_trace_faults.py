"""What is wrong with a trace is said with its place; what a trace cannot do is refused."""

from __future__ import annotations

import gzip
import json

import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.traces.formats import recognise
from harness.measure.plan.traces.rows import rows_of
from harness.measure.plan.traces.values import TraceRow
from harness.measure.plan.workload import with_options
from harness.records import Load
from tests.plan.trace_values import AZURE, lengths, plan_of, write

HEAD = "prompt_tokens,output_tokens,arrival_s"
BAD = [
    ([HEAD, "1,1,0", "5,-3,1"], "line 3, column output_tokens: '-3'", "negative"),
    ([HEAD, "1,1,0", "99999999999,3,1"], "line 3, column prompt_tokens: '99999999999'", "absurd"),
    ([HEAD, "1,1,0", "nan,3,1"], "line 3, column prompt_tokens: 'nan'", "whole number"),
    ([HEAD, "1,1,0", "4.5,3,1"], "line 3, column prompt_tokens: '4.5'", "whole number"),
    ([HEAD, "1,1,0", "4,0,1"], "line 3, column output_tokens: 0", "at least 1 token"),
    ([HEAD, "1,1,0", "4,1,soon"], "line 3, column arrival_s: 'soon'", "not a time"),
    ([HEAD, "1,1,0", "4,1,inf"], "line 3, column arrival_s: 'inf'", "not a time"),
    ([HEAD, "1,1,0", "4,1"], "line 3: '4,1'", "2 columns where the header has 3"),
    ([HEAD, "1,1,5", "4,1,3"], "line 3, column arrival_s: 3.0 s", "backwards by 2 s"),
    ([AZURE[0], AZURE[1], "yesterday,3,4"], "line 3, column TIMESTAMP: 'yesterday'", "not a date"),
    (['{"prompt_tokens":1,"output_tokens":1}', '{"prompt_tokens":1,"outp'], "line 2", "not JSON"),
    (['{"prompt_tokens":1,"output_tokens":1}', "[1,2]"], "line 2", "a JSON object is needed"),
    (['{"prompt_tokens":1,"output_tokens":1}', '{"input_length":9,"output_length":3}'], "line 2, column output_tokens", "whole number"),
    (['{"timestamp":0,"input_length":5,"output_length":1,"hash_ids":[1]}', '{"timestamp":0,"input_length":5,"output_length":1,"hash_ids":7}'],
     "line 2, column hash_ids: 7", "list of block hashes"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "where", "why"), BAD)
def test_bad_rows_name_their_place(tmp_path, lines, where, why):
    """A bad row is an error with file, line, column and value; with skip_bad=1 it is counted and the rest planned."""
    path = write(tmp_path / "bad.csv", *lines)
    with pytest.raises(ConfigError) as caught:
        plan_of(path, Load(concurrency=1), requests=2)
    assert f"{path}, {where}" in caught.value.value
    assert why in caught.value.advice
    plan, _ = plan_of(f"{path}?skip_bad=1", Load(rate_rps=1.0, arrivals="constant"), requests=1)
    assert len(plan.requests) == 1
    with pytest.raises(ConfigError, match="shorter than asked"):
        plan_of(f"{path}?skip_bad=1", Load(concurrency=1), requests=2)


def test_skipped_rows_are_counted(tmp_path):
    """skip_bad says how many rows were skipped and which was the first."""
    path = write(tmp_path / "bad.csv", HEAD, "1,1,0", "5,-3,1", "x,3,1", "2,2,9")
    plan, notes = plan_of(f"{path}?skip_bad=1")
    assert lengths(plan) == [(1, 1), (2, 2)]
    assert any("2 bad rows skipped; the first:" in note and "line 3" in note for note in notes)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"a,b,c\n1,2,3\n", "not recognised"),
        (b'{"x": 1}\n', "not recognised"),
        (HEAD.encode() + b"\n", "no row of the trace is left"),
        (gzip.compress(HEAD.encode() + b"\n1,1,0\n" * 2000, mtime=0)[:-30], "cannot be read"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (b"PAR1 but nothing else", "Parquet"),
        (HEAD.encode() + b"\n1,1,\xff\xfe\n", "UTF-8"),
        (b'[{"conversations": []}]', "needs a tokenizer"),
        (b'{"messages": [{"role": "user", "content": "hi"}]}\n', "needs a tokenizer"),
    ],
)
def test_files_that_are_no_trace(tmp_path, content, word):
    """Empty, unknown, damaged or text files are ConfigErrors that say so."""
    path = tmp_path / "file.csv"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=word):
        plan_of(path)


def test_texts_are_counted_by_a_tokenizer_or_not_at_all(tmp_path):
    """Without the package or the file there is an error, never an estimate from words."""
    path = write(
        tmp_path / "chat.json",
        json.dumps([{"conversations": [{"from": "human", "value": "a b"}, {"from": "gpt", "value": "c"}]}]),
    )
    with pytest.raises(ConfigError, match="tokenizer"):
        plan_of(f"{path}?tokenizer={tmp_path}/none.json", Load(concurrency=1), requests=1)


def test_texts_with_a_tokenizer(tmp_path):
    """First turn of each chat, counted by the tokenizer file."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    file = tmp_path / "tokenizer.json"
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(file))
    chats = [
        {
            "conversations": [
                {"from": "human", "value": "a b a"},
                {"from": "gpt", "value": "b b"},
                {"from": "human", "value": "x"},
            ]
        }
    ]
    path = write(tmp_path / "chat.json", json.dumps(chats))
    assert lengths(plan_of(f"{path}?tokenizer={file}", Load(concurrency=1), requests=1)[0]) == [(3, 2)]


COLUMNS = {
    "Azure": ("csv", ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]),
    "BurstGPT": ("csv", ["Timestamp", "Request tokens", "Response tokens"]),
    "Mooncake": ("jsonl", ["timestamp", "input_length", "output_length", "hash_ids"]),
    "Qwen-Bailian": ("jsonl", ["timestamp", "input_length", "output_length", "chat_id", "parent_chat_id", "hash_ids"]),
}
VALUES = dict.fromkeys(("timestamp", "Timestamp", "chat_id"), 1) | {"parent_chat_id": -1, "hash_ids": [3]}


@pytest.mark.parametrize(
    ("name", "left_out"), [(name, column) for name, (_, c) in COLUMNS.items() for column in [None, *c]]
)
def test_a_format_has_all_its_columns(tmp_path, name, left_out):
    """Without one of its columns a file is not that format: it is another one, whose rows can be read, or it is refused by
    name. Qwen-Bailian's hashes alone may be absent."""
    kind, columns = COLUMNS[name]
    row = {column: VALUES.get(column, 9) for column in columns if column != left_out}
    row |= {"TIMESTAMP": "2023-11-16 18:15:46"} if "TIMESTAMP" in row else {}
    csv_lines = (",".join(row), ",".join(str(value) for value in row.values()))
    path = write(tmp_path / "t", *(csv_lines if kind == "csv" else [json.dumps(row)]))
    if left_out in ("input_length", "output_length") or (kind == "csv" and left_out is not None):
        with pytest.raises(ConfigError, match="not recognised"):
            recognise(path)
        return
    layout = recognise(path)
    assert (layout.name == name) == (left_out is None or (name, left_out) == ("Qwen-Bailian", "hash_ids"))
    assert [isinstance(one, TraceRow) for one in rows_of(path, layout, None)] == [True]


def test_a_plan_holds_as_many_rows_as_one_may(tmp_path, monkeypatch):
    """A trace of just the most requests is planned whole; one more is refused, never cut."""
    monkeypatch.setattr("harness.measure.plan.traces.reading.MAX_REQUESTS", 5)
    rows = [f"{n},4,4" for n in range(6)]
    plan, _ = plan_of(write(tmp_path / "a.csv", "arrival_s,prompt_tokens,output_tokens", *rows[:5]))
    assert len(plan.requests) == 5
    with pytest.raises(ConfigError, match="plan too large"):
        plan_of(write(tmp_path / "b.csv", "arrival_s,prompt_tokens,output_tokens", *rows))


def test_gap_of_hours(tmp_path):
    """A planned pause of more than an hour is refused with its lines, unless it is sped up, or kept on purpose."""
    path = write(tmp_path / "gap.csv", HEAD, "1,1,0", "2,2,10", "3,3,9000")
    with pytest.raises(ConfigError, match="gap of hours") as caught:
        plan_of(path)
    assert "2.5 h without a request between lines 3 and 4" in caught.value.value
    assert len(plan_of(path, Load(arrivals="trace:10"))[0].requests) == 3
    assert len(plan_of(f"{path}?gaps=keep")[0].requests) == 3


def test_what_a_trace_cannot_do(tmp_path):
    """Times that are not there, a rate beside a speed-up, slices of what is no trace: ConfigErrors."""
    path = write(tmp_path / "t.csv", "prompt_tokens,output_tokens", "1,1", "2,2")
    with pytest.raises(ConfigError, match="no times"):
        plan_of(path)
    with pytest.raises(ConfigError, match="cannot be brought to a rate"):
        plan_of(write(tmp_path / "a.csv", *AZURE), Load(rate_rps=1.0, arrivals="trace:2"))
    with pytest.raises(ConfigError, match="need a trace"):
        plan_of("chat", requests=3)
    with pytest.raises(ConfigError, match="only a trace can be sliced"):
        plan_of("chat?limit=3", Load(concurrency=1), requests=3)
    with pytest.raises(ConfigError, match="unknown workload option") as caught:
        plan_of(f"{path}?limitt=3")
    assert "did you mean limit?" in caught.value.advice
    for bad in ("limit=0", "sample=2", "from=-1", "scale=nan", "context=cut", "skip_bad=yes", "limit=x"):
        with pytest.raises(ConfigError, match="bad workload option"):
            plan_of(f"{path}?{bad}")
    with pytest.raises(ConfigError, match="no such workload file"):
        plan_of(tmp_path / "none.jsonl")


def test_with_options():
    """Options are added to a SPEC, replace earlier ones, and leave it alone where there are none."""
    assert with_options("a.csv", {"from": None, "skip_bad": False}) == "a.csv"
    assert with_options("a.csv?limit=3", {"limit": 5, "skip_bad": True}) == "a.csv?limit=5&skip_bad=1"
