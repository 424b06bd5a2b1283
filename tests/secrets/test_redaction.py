"""harness.base.redaction: what is a secret by name, place and value, what becomes of it, and what stays."""

from __future__ import annotations

import io
import json
import marshal
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keys import SPELLINGS, found_in, make_keys

from harness.base import redaction
from harness.base.errors import ConfigError
from harness.config.experiment import parse_experiment
from harness.measure.drive.spool import Tail, Writer
from harness.measure.drive.worker import without_key

KEY = "sk-Zq8/W+t5&x\"Yv'7=Kp"
TARGET = {"name": "a", "kind": "hosted", "url": "http://127.0.0.1:9/v1", "model": "m"}
GOOD = {"experiment": "t", "workloads": ["fixed:8x4"], "loads": [{"concurrency": [1], "requests": 2}]}


@pytest.mark.parametrize("spell", SPELLINGS)
def test_every_spelling_of_a_known_value_is_masked(spell):
    """A hundred keys, plain, encoded for URLs, JSON, HTML, base64 and a shell, or broken by a line end; the words around them stay."""
    for key in make_keys():
        redaction.forget()
        redaction.learn(key)
        shown = redaction.known(f"before {spell(key)} after")
        assert found_in(shown, [key]) == []
        assert "***" in shown
        assert shown.startswith("before ")
        assert shown.endswith(" after")


@given(st.text("abcdefgh0123456789-_+/=%&\\\"'<>", min_size=12, max_size=40), st.integers(0, len(SPELLINGS) - 1))
def test_any_value_in_any_spelling(value, way):
    """Also values that look like an encoding themselves."""
    redaction.forget()
    redaction.learn(value)
    assert value not in "".join(redaction.known(f"x {SPELLINGS[way](value)} y").split())


@pytest.mark.parametrize("word", ["", "true", "8000", "localhost", "none"])
def test_a_word_that_stands_everywhere_is_no_known_value(word):
    """`SOME_KEY=true` does not black out every page."""
    redaction.learn(word)
    assert redaction.known(f"a {word} b") == f"a {word} b"


def test_a_short_value_is_no_part_of_other_words():
    """Six characters and numbers count only by themselves."""
    redaction.learn("pass12")
    redaction.learn("12345678")
    assert redaction.known("pass12, compass123, 912345678, 12345678!") == "***, compass123, 912345678, ***!"


def test_a_key_that_was_cut_is_masked():
    """The beginning of a key at the end of a text, because somebody cut the text there."""
    redaction.learn("abcdefghijklmnopqrstuvwxyz")
    assert redaction.known("key abcdefghijklm") == "key ***"
    assert redaction.known("key abcdefghijklm…") == "key ***…"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:PW@host:8000/v1", "http://***@host:8000/v1"),
        ("http://user:p/w@host/v1", "http://***@host/v1"),
        ("https://host/v1?api_key=abc&n=1", "https://host/v1?api_key=***&n=1"),
        ("http://host:8000/a@b", "http://host:8000/a@b"),
        ("Authorization: Basic abc def", "Authorization: ***"),
        ("{'x-api-key': 'abc', 'n': 1}", "{'x-api-key': '***', 'n': 1}"),
        ("vllm --api-key abc --port 1 --hf-token=d", "vllm --api-key *** --port 1 --hf-token=***"),
        ("{'hf_token': 'x', 'max_num_batched_tokens': 8192}", "{'hf_token': '***', 'max_num_batched_tokens': 8192}"),
        ("HF_TOKEN=abc OMP_NUM_THREADS=2", "HF_TOKEN=*** OMP_NUM_THREADS=2"),
        ("max_num_batched_tokens=8192, max_tokens=5", "max_num_batched_tokens=8192, max_tokens=5"),
    ],
)
def test_a_secrets_place_hides_what_stands_there(text, shown):
    """Userinfo, query, header, flag, member and variable, without the value being known; masking twice changes nothing."""
    assert redaction.text(text) == shown
    assert redaction.text(shown) == shown


def test_plain_values_are_hidden_by_name():
    """Members with a secret's name and words after a secret's flag; switches, nulls, counts and other names stay."""
    given_ = {
        "env": {"HF_TOKEN": "x", "A": "1", "B_TOKEN": None}, "flags": {"hf-token": 7, "return_token": True, "max_num_batched_tokens": 5},
        "command": ["curl", "--token", "abc", "--x", "y"], "api_key_env": "MY_KEY",
    }  # fmt: skip
    assert redaction.data(given_) == {
        "env": {"HF_TOKEN": "***", "A": "1", "B_TOKEN": None}, "flags": {"hf-token": "***", "return_token": True, "max_num_batched_tokens": 5},
        "command": ["curl", "--token", "***", "--x", "y"], "api_key_env": "MY_KEY",
    }  # fmt: skip


def test_a_config_makes_its_secrets_known(monkeypatch):
    """The key in the variable that a target names, its own secret variables, and the webhook's URL are masked from then on."""
    monkeypatch.setenv("MINE", "the-key-of-the-target")
    monkeypatch.setenv("HOOK", "https://hooks.example/T0/B1/abcdef")
    target = TARGET | {"api_key_env": "MINE", "env": {"DB_PASSWORD": "of-the-database"}}
    parse_experiment(GOOD | {"targets": [target], "notify": {"webhook_env": "HOOK"}}, "x")
    for value in ("the-key-of-the-target", "of-the-database", "https://hooks.example/T0/B1/abcdef"):
        assert redaction.known(f"said {value}.") == "said ***."


@pytest.mark.parametrize(
    "change",
    [
        {"url": "http://user:hunter-2-hunter@h/v1"},
        {"url": "http://h/v1?x=hunter-2-hunter"},
        {"url": "user:hunter-2-hunter@h"},
        {"api_key_env": "hunter-2-hunter"},
        {"env": {"HF_TOKEN": "hunter-2-hunter"}, "port": "x"},
        {"env": {"HF_TOKEN": "hunter-2-hunter", "A": 3}},
        {"kind": "vllm", "env": {"OTHER": "hunter-2-hunter"}},
    ],
)
def test_an_error_of_the_config_tells_the_place_and_not_the_value(change):
    """URLs with credentials, a key in place of its variable's name, and a target with an environment are refused unshown."""
    with pytest.raises(ConfigError) as caught:
        parse_experiment(GOOD | {"targets": [TARGET | change]}, "x")
    assert "hunter" not in str(caught.value)
    assert "targets.0" in str(caught.value)


def test_a_spool_holds_no_key(tmp_path):
    """What a worker writes down of a reply has stars of the same length, in a stream and in an error; facts of the SDK too."""
    writer = Writer(tmp_path, 0)
    writer.veil = without_key(KEY)
    redaction.learn(KEY)
    stream, error = f"HTTP/1.1 200 OK\r\n\r\n{KEY}".encode(), f"HTTP/1.1 401 no\r\n\r\n{SPELLINGS[2](KEY)}".encode()
    for data in (stream, error):
        writer.put(("exchange", 1, b"", b"", data))
    writer.put(("facts", 1, {"error": f"no {KEY}", "status": 401}, ([KEY[:5], KEY[5:]], [1])))
    writer.close()
    assert found_in(next(tmp_path.glob("spool-0-0*")).read_bytes().decode("latin-1"), [KEY]) == []
    *exchanges, facts = Tail(tmp_path, 0).messages()
    assert [len(message[-1]) for message in exchanges] == [len(stream), len(error)]
    assert facts == ("facts", 1, {"error": "no ***", "status": 401}, (["***"], [1]))
    assert marshal.dumps(facts)


def test_the_terminal_is_masked(monkeypatch):
    """What is printed, in one piece or in lines, and a second call changes nothing."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", out)
    redaction.learn("an-own-key-0123")
    redaction.terminal()
    redaction.terminal()
    print("key an-own-key-0123")
    sys.stderr.writelines([json.dumps({"k": "an-own-key-0123"}), os.linesep])
    assert out.getvalue() == 'key ***\n{"k": "***"}\n'


def test_an_error_holds_no_secret():
    """Three lines of an error, and its arguments, as a traceback shows them."""
    redaction.learn("an-own-key-0123")
    error = ConfigError("no an-own-key-0123", "http://u:p@h", "--api-key=abc")
    assert str(error) == "no ***\nhttp://***@h\n--api-key=***"
    assert error.args == ("no ***", "http://***@h", "--api-key=***")
