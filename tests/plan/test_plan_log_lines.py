"""Lines of a vLLM server's log and chats of texts, one by one: every field of what they become."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.base.errors import ConfigError
from harness.measure.plan.traces.formats import recognise
from harness.measure.plan.traces.rows import rows_of
from harness.measure.plan.traces.server_log import is_server_log, logged_requests
from harness.measure.plan.traces.texts import _first_turn
from harness.measure.plan.traces.values import BadRow, TraceRow, clock_ns

HERE = Path("server.log")
PLACE = "07-01 10:00:0{} [a/b.py:5] "


def received(name, second=0, eos="False", most="9", least="0", more=""):
    return (f"INFO {PLACE.format(second)}Received request {name}: params: SamplingParams(n=1, ignore_eos={eos}, max_tokens={most}, "
            f"min_tokens={least}, x=1){more}, lora_request: None.")  # fmt: skip


def details(name, ids, second=0):
    return f"DEBUG {PLACE.format(second)}Request {name} details: prompt: 'x', prompt_token_ids: [{ids}], prompt_embeds shape: None."


def generated(name, ids, streaming=False, second=0):
    how = " (streaming delta)" if streaming else ""
    return f"INFO {PLACE.format(second)}Generated response {name}{how}: output: 'x', output_token_ids: [{ids}], finish_reason: stop"


def logged(*lines):
    return [asdict(one) for one in logged_requests(HERE, iter(lines))]


def expected(line, prompt, most, *, second=0, forced=False, generated=None, whole=False, cut=False):
    return {"line": line, "time_ns": clock_ns(f"2000-07-01 10:00:0{second}"), "prompt_tokens": prompt, "max_tokens": most,
            "forced": forced, "generated": generated, "whole": whole, "cut": cut}  # fmt: skip


def test_every_line_of_a_request():
    """Where it was first named, its second, its prompt, what was asked for, what was generated: whole, or the sum of chunks."""
    found = logged(
        "INFO 07-01 10:00:00 [a.py:1] start",
        details("a", "1, 2, 3"),
        received("a", 1),
        details("b", "7", 2),
        received("b", 2, eos="True"),
        received("c", 3, most="4", least="4", more=", prompt_token_ids: [5, 6]"),
        received("d", 3, most="None"),  # an embedding, a tokenization: asked for no tokens
        generated("a", "4, 5", streaming=True),
        generated("a", "6", streaming=True),
        generated("b", "1, 2", streaming=True),
        generated("c", ""),
        generated("before the log's first line", "1, 2"),
        received("e", 4, more=", prompt_token_ids: []"),
        generated("e", "1"),
        generated("e", "2, 3"),
    )
    assert found == [
        expected(2, 3, 9, generated=3),
        expected(4, 1, 9, second=2, forced=True, generated=2),
        expected(6, 2, 4, second=3, forced=True, generated=0, whole=True),
        expected(13, 0, 9, second=4, generated=3, whole=True),
    ]


def test_what_an_output_is_taken_for():
    """A whole answer's ids; else what it had to generate; else its chunks; else max_tokens, which is then only a bound."""
    found = logged_requests(HERE, iter([
        received("a", more=", prompt_token_ids: [1]"), received("b"), received("c", eos="True"), received("d", eos="True"),
        received("e"), generated("b", "1, 2", streaming=True), generated("c", "1", streaming=True), generated("d", "1, 2, 3"),
        generated("e", "5"),
    ]))  # fmt: skip
    assert [(one.output_tokens, one.bound) for one in found] == [
        (9, True),
        (2, False),
        (9, False),
        (3, False),
        (1, False),
    ]


def test_ids_that_were_cut():
    """As many ids as --max-log-len, or more, may have been cut; the first value counts, and only for what comes after it."""
    line = "INFO 07-01 10:00:00 [a.py:1] non-default args: {'max_log_len': %d}"
    found = logged(details("a", "1, 2, 3"), received("a"), line % 3, line % 1, details("b", "1, 2"), received("b"), details("c", "1, 2, 3"),
                   received("c"), received("d"), generated("d", "1, 2, 3, 4"))  # fmt: skip
    assert [one["cut"] for one in found] == [False, False, True, True]


def test_months_and_years():
    """Times have no year: a month that is before the one before it begins the next."""
    lines = [
        received(str(i), more=", prompt_token_ids: [1]").replace("07-01", day)
        for i, day in enumerate(("11-30", "12-31", "01-01", "02-01", "01-31"))
    ]
    assert [one["time_ns"] for one in logged(*lines)] == [
        clock_ns(f"{day} 10:00:00") for day in ("2000-11-30", "2000-12-31", "2001-01-01", "2001-02-01", "2002-01-31")
    ]


def test_rows_of_a_log(tmp_path):
    """Usable requests with their line, and bad ones with what the log lacks."""
    path = tmp_path / "x.log"
    path.write_text("\n".join([
        "INFO 07-01 10:00:00 [a.py:1] non-default args: {'max_log_len': 3}",
        details("a", "1, 2"), received("a"), received("b"), details("c", "1, 2, 3"), received("c"),
        details("d", "1"), received("d"), generated("d", ""), received("e", eos="True", more=", prompt_token_ids: [1]"),
    ]))  # fmt: skip
    start = clock_ns("2000-07-01 10:00:00")
    assert list(rows_of(path, recognise(path), None)) == [
        TraceRow(2, start, 2, 9, bound=True),
        BadRow(f"{path}, line 4", "prompt_token_ids", "", "the log does not say how long the prompt was"),
        BadRow(f"{path}, line 5", "token ids", "", "the log shows only the first ids of this request (--max-log-len)"),
        BadRow(f"{path}, line 7", "max_tokens", "0", "a request needs at least 1 token out"),
        TraceRow(10, start, 1, 9),
    ]


def test_what_is_a_server_log():
    """One line with vLLM's stamp, at its level, among the first 5,000 is enough; access lines alone are refused with the first."""
    for level in ("DEBUG", "INFO", "WARNING", "ERROR"):
        assert is_server_log(HERE, iter(["", f"(APIServer pid=7) {level} 07-01 10:00:00 [a.py:1] x"]))
    assert not is_server_log(HERE, iter(["INFO hello", "2026-07-01 INFO", ""]))
    stamp = f"INFO {PLACE.format(0)}x"
    assert is_server_log(HERE, iter([""] * 4999 + [stamp]))
    assert not is_server_log(HERE, iter([""] * 5000 + [stamp]))
    access = 'INFO:     127.0.0.1:33044 - "GET /health HTTP/1.1" 200 OK'
    assert is_server_log(HERE, iter([access, stamp]))
    with pytest.raises(ConfigError, match="no token counts") as caught:
        is_server_log(HERE, iter(["", access, access]))
    assert caught.value.value == f"server.log, line 2: {access!r}"


def test_the_first_turn_of_a_chat():
    """Messages before the first reply, and the reply: roles of ShareGPT and OpenAI; what a model says first is no reply."""
    for human in ("human", "user", "system"):
        for model in ("gpt", "assistant", "chatgpt", "bing", "bard"):
            assert _first_turn([{"from": model, "value": "hi"}, {"from": human, "value": "a"}, {"role": human, "content": "b"},
                                {"role": model, "content": "c"}, {"from": human, "value": "d"}]) == (["a", "b"], "c")  # fmt: skip
    assert _first_turn(
        [{"role": "user", "content": ["x"]}, 5, {"role": "tool", "content": "t"}, {"role": "user", "content": "y"}]
    ) == (["y"], None)
    assert _first_turn([]) == ([], None)


def test_rows_of_texts(tmp_path):
    """Every chat's first turn counted by the tokenizer, messages joined by a line end; a reply beside them; bad ones by number."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "?": 1}, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))

    def found(path):
        return list(rows_of(path, recognise(path), str(tmp_path / "tokenizer.json")))

    user, reply = {"role": "user", "content": "a a a"}, {"role": "assistant", "content": "a a"}
    chats = [{"messages": [user, user, reply]}, {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "a"}]},
             {"body": {"messages": [user]}, "response": "a a a a"}, {"request": {"messages": [user]}}, {"messages": [user, reply | {"content": " "}]},
             {"messages": [user], "response": 5}, {"conversations": 5, "messages": [user, reply]}, {"x": 1}]  # fmt: skip
    none, one = "no user message followed by a reply", "a request needs at least 1 token in and 1 out"

    def expected(path, step):
        lines = [1 + step * i for i in range(8)]
        bad = {3: none, 4: one, 5: none, 7: none}
        good = {0: (6, 2), 1: (1, 1), 2: (3, 4), 6: (3, 2)}
        return [
            TraceRow(n, None, *good[i]) if i in good else BadRow(f"{path}, line {n}", "messages", "", bad[i])
            for i, n in enumerate(lines)
        ]

    path = tmp_path / "c.jsonl"
    path.write_text("\n\n".join(map(json.dumps, chats)))
    assert found(path) == expected(path, 2)
    path = tmp_path / "c.json"
    path.write_text(" \n" + json.dumps(chats))
    assert found(path) == expected(path, 1)
    path.write_text(json.dumps(chats[0]) + "\n[1]\n{\n")
    rows = found(path)
    assert rows[:2] == [TraceRow(1, None, 6, 2), BadRow(f"{path}, line 2", "", "[1]", "not a JSON object")]
    assert (rows[2].where, rows[2].column, rows[2].reason) == (f"{path}, line 3", "", "not a JSON object")
    assert rows[2].value.startswith("'not JSON: ")
    path.write_text("[{")
    with pytest.raises(ConfigError, match="not JSON") as caught:
        found(path)
    assert caught.value.value == str(path)


def test_texts_without_a_tokenizer(tmp_path):
    """No tokenizer, and one that cannot be read: the error names the file that is meant."""
    path = tmp_path / "c.json"
    path.write_text("[]")
    with pytest.raises(ConfigError, match="needs a tokenizer") as caught:
        list(rows_of(path, recognise(path), None))
    assert caught.value.value == str(path)
    with pytest.raises(ConfigError, match="tokenizer") as caught:
        list(rows_of(path, recognise(path), "none.json"))
    assert caught.value.value == "none.json"
