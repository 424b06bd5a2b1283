"""Every trace format: the layout that its first line gives, and its rows, all fields of them, good and bad."""

from __future__ import annotations

import json
from dataclasses import asdict

import pandas as pd
import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.traces.formats import Layout, open_text, recognise, session_files, value_at
from harness.measure.plan.traces.rows import rows_of, unreadable
from harness.measure.plan.traces.values import BadRow, TraceRow

WEKA = Layout("Claude Code sessions (WEKA)", "weka", hashes="hash_ids", block_tokens=64)
TEXTS = Layout("chat texts", "texts")
BURST = Layout("BurstGPT", "csv", "Request tokens", "Response tokens", "Timestamp", zero_is_failure=True, ticks=True)
MOONCAKE = Layout("Mooncake", "jsonl", "input_length", "output_length", "timestamp", "ms", None, None, "hash_ids", 512,
                  False, True)  # fmt: skip
BAILIAN = Layout("Qwen-Bailian", "jsonl", "input_length", "output_length", "timestamp", "s", "chat_id", "parent_chat_id",
                 "hash_ids", 16, False, False)  # fmt: skip


def plain(kind, prompt, output, time=None, unit="any", session=None, hashes=None):
    return Layout(f"plain {kind.upper()}", kind, prompt, output, time, unit, session, None, hashes, None, False, False)


def test_what_a_format_does_not_say():
    """A layout names no column, counts seconds and marks nothing, unless its format says so."""
    assert asdict(Layout("a", "b")) == {
        "name": "a", "kind": "b", "prompt": "", "output": "", "time": None, "time_unit": "s", "session": None, "parent": None,
        "hashes": None, "block_tokens": None, "zero_is_failure": False, "ticks": False,
    }  # fmt: skip
    assert asdict(TraceRow(1, None, 2, 3)) == {
        "line": 1, "time_ns": None, "prompt_tokens": 2, "output_tokens": 3, "session": None, "parent": None, "hashes": None,
        "scope": 0, "think_ns": None, "bound": False,
    }  # fmt: skip
    assert BadRow("a", "b", "c", "d").failure is False


@pytest.mark.parametrize(
    ("first", "layout"),
    [
        ("TIMESTAMP,ContextTokens,GeneratedTokens", Layout("Azure", "csv", "ContextTokens", "GeneratedTokens", "TIMESTAMP", "clock")),
        ("Timestamp,Model,Request tokens,Response tokens", BURST),
        ("Timestamp,Session ID,Request tokens,Response tokens",
         Layout("BurstGPT 3", "csv", "Request tokens", "Response tokens", "Timestamp", "s", "Session ID", None, None, None, True, True)),
        ('\n\n{"timestamp":1,"input_length":1,"output_length":1,"hash_ids":[]}', MOONCAKE),
        ('{"timestamp":1,"input_length":1,"output_length":1,"hash_ids":[],"chat_id":1,"parent_chat_id":-1}', BAILIAN),
        ("prompt_tokens,output_tokens,arrival_s,session", plain("csv", "prompt_tokens", "output_tokens", "arrival_s", "s", "session")),
        ('"Input_Tokens" , Completion_Tokens,startTime', plain("csv", "Input_Tokens", "Completion_Tokens", "startTime")),
        ("input_length,generated_tokens,start_time,session_id",
         plain("csv", "input_length", "generated_tokens", "start_time", "any", "session_id")),
        ("created,output_length,prompt_tokens", plain("csv", "prompt_tokens", "output_length", "created")),
        ("prompt_tokens,input_tokens,output_tokens,completion_tokens,timestamp,arrival_s,session_id,session",
         plain("csv", "prompt_tokens", "output_tokens", "arrival_s", "s", "session")),
        ('{"usage":{"input_tokens":1,"output_tokens":2},"created":5}', plain("jsonl", "usage.input_tokens", "usage.output_tokens", "created")),
        ('{"usage":{"prompt_tokens":1,"completion_tokens":2}}', plain("jsonl", "usage.prompt_tokens", "usage.completion_tokens")),
        ('{"prompt_tokens":1,"output_tokens":2,"hash_ids":[1]}',
         plain("jsonl", "prompt_tokens", "output_tokens", hashes="hash_ids")),
        ('{"timestamp":1,"input_length":1,"output_length":1}', plain("jsonl", "input_length", "output_length", "timestamp")),
        ("timestamp,input_length,output_length,hash_ids", plain("csv", "input_length", "output_length", "timestamp", hashes="hash_ids")),
        ('{"TIMESTAMP":1,"ContextTokens":1,"GeneratedTokens":1,"prompt_tokens":1,"output_tokens":1}',
         plain("jsonl", "prompt_tokens", "output_tokens", "TIMESTAMP")),
        ('{"id":1,"requests":[]}', WEKA),
        ("{", WEKA),
        ('{"id":1,"requests":[', WEKA),
        ('[{"conversations":[]}]', TEXTS),
        ('{"conversations":[]}', TEXTS),
        ('{"messages":[]}', TEXTS),
        ('{"body":{"messages":[]}}', TEXTS),
        ('{"request":{"messages":[]}}', TEXTS),
        ("INFO 07-01 10:00:00 [x.py:1] hello",
         Layout("vLLM server log", "server-log", "prompt_token_ids", "output_token_ids", "log line", ticks=True)),
    ],
)  # fmt: skip
def test_what_a_first_line_means(tmp_path, first, layout):
    """The whole layout: columns as the file spells them, the unit of its time, sessions, hashes, blocks, failures and ticks."""
    path = tmp_path / "file"
    path.write_text(first + "\n", encoding="utf-8-sig")
    assert recognise(path) == layout


def test_layouts_of_parquet_and_of_folders(tmp_path):
    """Columns of a Parquet file; a folder is what its first file is, by name; an empty one is refused."""
    pd.DataFrame({"input_tokens": [1], "output_tokens": [1], "created": [0]}).to_parquet(tmp_path / "p")
    assert recognise(tmp_path / "p") == plain("parquet", "input_tokens", "output_tokens", "created")
    with pytest.raises(ConfigError, match="no session files"):
        recognise(tmp_path)
    (tmp_path / "b.json").write_text('[{"conversations":[]}]')
    (tmp_path / "a.json").write_text('{"requests":[]}')
    assert session_files(tmp_path) == [tmp_path / "a.json", tmp_path / "b.json"]
    assert session_files(tmp_path / "p") == [tmp_path / "p"]
    assert recognise(tmp_path) == WEKA
    with pytest.raises(ConfigError, match="cannot be read"):
        recognise(tmp_path / "none")


@pytest.mark.parametrize(
    "first", ["prompt_tokens,arrival_s", '{"output_tokens":1}', "ContextTokens,GeneratedTokens", '{"messages":"x"}', '{"requests":1}',
              "[x", '{"x":1'],
)  # fmt: skip
def test_lines_that_say_nothing(tmp_path, first):
    """Half of a format is none: the error shows the line and names what is known."""
    path = tmp_path / "file"
    path.write_text(first + "\n")
    if first == "[x":
        assert recognise(path) == TEXTS  # a list may be cut by the line's end
        return
    with pytest.raises(ConfigError, match="not recognised") as caught:
        recognise(path)
    assert caught.value.value == f"{path}, line 1: {first!r}"
    assert caught.value.advice.startswith("known formats: Azure")


@pytest.mark.parametrize("begin", ["x", '{"x":"'])
def test_a_long_first_line_is_shown_in_part(tmp_path, begin):
    """Its first 160 characters: a file that is something else may have no line ends."""
    path = tmp_path / "file"
    path.write_text(first := begin + "y" * 300 + ('"}' if begin != "x" else ""))
    with pytest.raises(ConfigError, match="not recognised") as caught:
        recognise(path)
    assert caught.value.value == f"{path}, line 1: {first[:160]!r}"


def test_values_inside_others():
    """`a.b` is b inside a; absent, or not inside an object, is None."""
    row = {"a": {"b": 1, "c": {"d": 2}}, "x": 3}
    assert [value_at(row, key) for key in ("x", "a.b", "a.c.d")] == [3, 1, 2]
    assert [value_at(row, key) for key in ("y", "a.z", "x.b", "a.b.c")] == [None] * 4


def rows(path, tokenizer=None):
    return list(rows_of(path, recognise(path), tokenizer))


def written(tmp_path, *lines):
    path = tmp_path / "file"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_rows_of_csv(tmp_path):
    """Lines of the file, by the columns' names in any case; what is wrong with each bad one, and where."""
    path = written(
        tmp_path, " Arrival_S ,prompt_tokens,OUTPUT_TOKENS,session,note", '1.5,5,6,"a\nb",x', "2,7,8,,y", "", "2,7", "3,0,1,a,x",
        "3,1,0,a,x", "3,1.5,2,a,x", "x,1,2,a,x", "4,3.0,1e2,7,x",
    )  # fmt: skip
    needs_one = "a request needs at least 1 token in and 1 out"
    assert rows(path) == [
        TraceRow(3, 1_500_000_000, 5, 6, "a\nb"),
        TraceRow(4, 2_000_000_000, 7, 8, None),
        BadRow(f"{path}, line 6", "", "'2,7'", "2 columns where the header has 5"),
        BadRow(f"{path}, line 7", "prompt_tokens", "0", needs_one),
        BadRow(f"{path}, line 8", "OUTPUT_TOKENS", "0", needs_one),
        BadRow(f"{path}, line 9", "prompt_tokens", "'1.5'", "a whole number of tokens is needed"),
        BadRow(f"{path}, line 10", "Arrival_S", "'x'", "not a time"),
        TraceRow(11, 4_000_000_000, 3, 100, "7"),
    ]


def test_rows_of_requests_that_failed(tmp_path):
    """BurstGPT's output of 0 says that the request failed, whatever its prompt; elsewhere 0 is a bad row."""
    path = written(
        tmp_path, "Timestamp,Session ID,Request tokens,Response tokens", "5,s,0,0", "6,s,3,0", "7,s,0,3", "8,s,3,4"
    )
    needs_one = "a request needs at least 1 token in and 1 out"
    assert rows(path) == [
        BadRow(f"{path}, line 2", "Response tokens", "0", "a failed request", failure=True),
        BadRow(f"{path}, line 3", "Response tokens", "0", "a failed request", failure=True),
        BadRow(f"{path}, line 4", "Request tokens", "0", needs_one),
        TraceRow(5, 8_000_000_000, 3, 4, "s"),
    ]


def test_rows_of_jsonl(tmp_path):
    """Sessions, parents and hashes as they stand; lists and objects are no sessions, numbers no hashes."""
    good = {
        "chat_id": 1,
        "parent_chat_id": -1,
        "timestamp": 0.25,
        "input_length": 5,
        "output_length": 6,
        "hash_ids": [1, "x"],
    }
    lines = [good, good | {"chat_id": [1]}, good | {"hash_ids": 5}, good | {"hash_ids": [1.5]}, good | {"hash_ids": None},
             good | {"chat_id": ""}]  # fmt: skip
    path = written(tmp_path, json.dumps(lines[0]), "", "[1]", "{", *map(json.dumps, lines[1:]))
    found = rows(path)
    assert found[2].reason.startswith("not JSON: ")
    assert [one for i, one in enumerate(found) if i != 2] == [
        TraceRow(1, 250_000_000, 5, 6, 1, -1, [1, "x"]),
        BadRow(f"{path}, line 3", "", "'[1]'", "a JSON object is needed"),
        BadRow(f"{path}, line 5", "chat_id", "[1]", "a session is a number or a name"),
        BadRow(f"{path}, line 6", "hash_ids", "5", "a list of block hashes is needed"),
        BadRow(f"{path}, line 7", "hash_ids", "[1.5]", "a list of block hashes is needed"),
        TraceRow(8, 250_000_000, 5, 6, 1, -1, None),
        TraceRow(9, 250_000_000, 5, 6, None, -1, [1, "x"]),
    ]
    assert (found[2].where, found[2].column, found[2].value) == (f"{path}, line 4", "", "'{'")


def test_rows_of_parquet(tmp_path):
    """Row 1 is the first; cells that are arrays are lists, whole numbers written as fractions are whole."""
    frame = pd.DataFrame({"input_tokens": [5.0, 2.5], "output_tokens": [6, 7], "hash_ids": [[1, 2], [3]], "session": ["a", "b"],
                          "created": ["2026-01-01T00:00:01", "2026-01-01T00:00:02"]})  # fmt: skip
    frame.to_parquet(tmp_path / "p")
    start = 1_767_225_600_000_000_000  # 2026-01-01
    assert rows(tmp_path / "p") == [
        TraceRow(1, start + 1_000_000_000, 5, 6, "a", None, [1, 2]),
        BadRow(f"{tmp_path / 'p'}, line 2", "input_tokens", "2.5", "a whole number of tokens is needed"),
    ]


def test_rows_of_sessions(tmp_path):
    """All files merged by time: bad files and requests first, each call with its session, scope (0 where hashes are global),
    hashes and think time."""

    def call(t, prompt, output, **more):
        return {"t": t, "in": prompt, "out": output, **more}

    inner = {"t": 2.0, "requests": [call(1.0, 4, 1), call(5.0, 5, 1)]}
    one = {
        "hash_id_scope": "local",
        "requests": [call(0.0, 1, 2, hash_ids=[7], think_time=0.5), inner, call(3.0, 2, 2)],
    }
    two = {"hash_id_scope": "global", "requests": [call(0.25, 3, 1, hash_ids=["h"]), call(1, 0, 1), call(1, 1, 0), 5,
                                                   call("x", 1, 1), call(1, 1, 1, think_time="x"), call(1, 1, 1, hash_ids=3)]}  # fmt: skip
    for name, data in (("a", one), ("b", two), ("d", {"requests": 1}), ("e", [])):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    (tmp_path / "c.json").write_text("{")
    found = rows(tmp_path)
    b, needs_one = f"{tmp_path}/b.json", "a request needs at least 1 token in and 1 out"
    assert found[6].reason.startswith("not JSON: ")
    assert (found[6].where, found[6].column, found[6].value) == (f"{tmp_path}/c.json", "", "")
    assert [row for i, row in enumerate(found) if i != 6] == [
        BadRow(f"{b}, request 2", "in", "0", needs_one),
        BadRow(f"{b}, request 3", "out", "0", needs_one),
        BadRow(f"{b}, request 4", "", "5", "a JSON object is needed"),
        BadRow(f"{b}, request 5", "t", "'x'", "not a time"),
        BadRow(f"{b}, request 6", "think_time", "'x'", "not a time"),
        BadRow(f"{b}, request 7", "hash_ids", "3", "a list of block hashes is needed"),
        BadRow(f"{tmp_path}/d.json", "requests", "", "a list of requests is needed"),
        BadRow(f"{tmp_path}/e.json", "requests", "", "a list of requests is needed"),
        TraceRow(1, 0, 1, 2, 2, None, [7], 1, 500_000_000),
        TraceRow(1, 250_000_000, 3, 1, 3, None, ["h"], 0, None),
        TraceRow(1, 3_000_000_000, 4, 1, 1, None, None, 1, None),
        TraceRow(3, 3_000_000_000, 2, 2, 2, None, None, 1, None),
        TraceRow(2, 7_000_000_000, 5, 1, 1, None, None, 1, None),
    ]


def test_an_error_of_a_bad_row():
    """Place, column and value where there are some; how to skip such rows."""
    skip = "; skip_bad=1 (--skip-bad) counts and skips such rows"
    error = unreadable(BadRow("f, line 2", "t", "'x'", "not a time"))
    assert (error.what, error.value, error.advice) == (
        "trace row cannot be used",
        "f, line 2, column t: 'x'",
        "not a time" + skip,
    )
    assert unreadable(BadRow("f, line 2", "", "", "bad")).value == "f, line 2"


def test_text_files_are_read_as_they_are(tmp_path):
    """A BOM is no text, line ends stay, gzip is seen by its first bytes, whatever the name."""
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    with open_text(path) as text:
        assert text.read() == "a\r\nb"
    path.write_bytes(b"\x1fx")
    with open_text(path) as text:
        assert text.read() == "\x1fx"
