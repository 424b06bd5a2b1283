"""The words of a workload SPEC: what a name is taken for, and what may stand after the `?`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from harness.base.errors import ConfigError
from harness.base.files import data_dir
from harness.measure.plan.arrivals import Process
from harness.measure.plan.lengths import Fixed
from harness.measure.plan.preset import load_preset, presets
from harness.measure.plan.workload import Options, Workload, read_workload, with_options

LEFT_OUT = {
    "from_s": None, "to_s": None, "limit": None, "sample": 1.0, "scale": 1.0, "skip_bad": False, "context": "drop",
    "gaps": "refuse", "block": None, "tokenizer": None, "system": 0, "think": 1.0,
}  # fmt: skip

KEYS = "options: from=.., to=.., limit=.., sample=.., scale=.., skip_bad=.., context=.., gaps=.., block=.., tokenizer=.., system=.., think=.."


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("prompt_tokens,output_tokens\n5,5\n")
    return path


def options(trace, query):
    found = read_workload(f"{trace}?{query}")
    assert (found.trace, found.text) == (trace, f"{trace}?{query}")
    return {key: value for key, value in asdict(found.options).items() if value != LEFT_OUT[key]}


def test_what_is_left_out(trace):
    """Every option has its documented value where it is not given; empty parts of the query say nothing."""
    assert asdict(Options()) == LEFT_OUT
    assert read_workload(f"{trace}?&").options == Options()
    assert read_workload(str(trace)) == Workload(str(trace), Options(), None, None, trace, None)


def test_every_option(trace):
    """Each key sets its own field, as a number, a flag or a word."""
    query = (
        "from=1.5&to=20&limit=7&sample=0.5&scale=0.25&skip_bad=1&context=truncate&gaps=keep&block=32&tokenizer=a.json&"
        "system=9&think=0"
    )
    assert options(trace, query) == {
        "from_s": 1.5, "to_s": 20.0, "limit": 7, "sample": 0.5, "scale": 0.25, "skip_bad": True, "context": "truncate",
        "gaps": "keep", "block": 32, "tokenizer": "a.json", "system": 9, "think": 0.0,
    }  # fmt: skip


ENDS = [  # key, values taken with what they become (nothing where that is the default), values refused
    ("from", {"0": 0.0, "0.5": 0.5}, ["-0.1", "nan", "inf", "x", ""]),
    ("to", {"0.5": 0.5}, ["0", "-1", "nan", "inf"]),
    ("sample", {"0.001": 0.001}, ["0", "1.001", "-1", "nan"]),
    ("scale", {"0.5": 0.5, "3": 3.0}, ["0", "-1", "inf"]),
    ("think", {"0": 0.0, "2": 2.0}, ["-0.1", "nan", "inf"]),
    ("limit", {"1": 1, "10000000": 10_000_000}, ["0", "10000001", "1.5", "x"]),
    ("block", {"1": 1, "10000000": 10_000_000}, ["0", "10000001"]),
    ("system", {"1": 1, "10000000": 10_000_000}, ["0", "10000001"]),
    ("skip_bad", {"1": True}, ["2", "yes", ""]),
    ("context", {"truncate": "truncate"}, ["cut", "keep", "refuse"]),
    ("gaps", {"keep": "keep"}, ["drop", "truncate"]),
]


@pytest.mark.parametrize(("key", "taken", "refused"), ENDS, ids=[key for key, _, _ in ENDS])
def test_the_ends_of_what_an_option_may_be(trace, key, taken, refused):
    """The ends of each range belong to it; what lies beyond is refused with the word."""
    field = f"{key}_s" if key in ("from", "to") else key
    for word, value in taken.items():
        assert options(trace, f"{key}={word}") == {field: value}
    for word in refused:
        with pytest.raises(ConfigError, match="bad workload option") as caught:
            options(trace, f"{key}={word}")
        assert caught.value.value == f"{trace}?{key}={word}: {key}={word}"


def test_the_defaults_may_be_said(trace):
    """Words that say what holds anyway are taken."""
    assert options(trace, "sample=1&scale=1&think=1&skip_bad=0&context=drop&gaps=refuse") == {}


@pytest.mark.parametrize(
    ("query", "what", "value", "advice"),
    [
        ("scal=2", "unknown workload option", "scal=2", "did you mean scale, sample? " + KEYS),
        ("qqqq=2", "unknown workload option", "qqqq=2", KEYS),
        ("scale", "unknown workload option", "scale", "did you mean scale, sample? " + KEYS),
        ("from=5&to=5", "the slice is empty", "from 5 s to 5 s", "from must be below to"),
        ("from=5.5&to=5", "the slice is empty", "from 5.5 s to 5 s", "from must be below to"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_used(trace, query, what, value, advice):
    """An unknown key names the nearest and all of them; a slice ends after it begins."""
    with pytest.raises(ConfigError) as caught:
        read_workload(f"{trace}?{query}")
    assert (caught.value.what, caught.value.value, caught.value.advice) == (what, value, advice)
    assert options(trace, "from=0&to=5") == {"from_s": 0.0, "to_s": 5.0}


def test_what_a_name_is_taken_for(trace, tmp_path, monkeypatch):
    """A short form, a preset by its name or file (.yaml or .yml), a trace (a path, a name with a dot, a folder); all with options."""
    chat = load_preset(data_dir("workloads") / "chat.yaml")
    assert read_workload("fixed:3x2?system=5") == Workload("fixed:3x2?system=5", Options(system=5), Fixed(3, 2))
    assert read_workload("chat") == Workload("chat", Options(), chat.lengths(), chat)
    for ending in ("yaml", "yml"):
        copy = tmp_path / f"own.{ending}"
        copy.write_bytes((data_dir("workloads") / "chat.yaml").read_bytes())
        assert read_workload(str(copy)) == Workload(str(copy), Options(), chat.lengths(), chat)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name in ("t.csv", "./t.csv", "folder"):
        assert read_workload(name).trace == Path(name)
    (tmp_path / "word").write_bytes(trace.read_bytes())
    with pytest.raises(ConfigError, match="unknown workload"):
        read_workload("word")  # a bare word is a preset's name
    assert read_workload("./word").trace == Path("word")


@pytest.mark.parametrize("name", ["x.csv", "x.json", "x.jsonl", "x.gz", "x.parquet", "a/b"])
def test_files_that_are_not_there(name):
    """What looks like a file's name is said to be missing, not taken for a misspelt preset."""
    with pytest.raises(ConfigError, match="no such workload file") as caught:
        read_workload(f"{name}?limit=3")
    assert caught.value.value == name


def test_unknown_words_name_the_nearest():
    """A hint where one is near, the list in any case."""
    forms = "fixed:PROMPTxOUTPUT, uniform:LO-HIxLO-HI, lognormal:MEANxMEAN[:CV]"
    rest = f"presets: {', '.join(presets())}; or {forms}; or a path to a preset or trace file"
    for name, hint in (
        ("chatt", "did you mean chat, seed-chat, long-chat? "),
        ("unifrom:1-2x1-2", "did you mean uniform? "),
        ("qqq", ""),
    ):
        with pytest.raises(ConfigError, match="unknown workload") as caught:
            read_workload(f"{name}?limit=3")
        assert (caught.value.value, caught.value.advice) == (name, hint + rest)


def test_only_files_take_options_for_rows():
    """Lengths take a system prompt, sessions a system prompt and a factor of their think times; all else is refused."""
    assert read_workload("agent?think=0.5&system=3").options == Options(think=0.5, system=3)
    assert read_workload("chat?think=1").options == Options()
    for text in ("chat?think=0.5", "fixed:1x1?limit=3", "agent?limit=3", "agent?sample=0.5", "chat?from=3"):
        with pytest.raises(ConfigError, match="only a trace can be sliced") as caught:
            read_workload(text)
        assert caught.value.value == text


def test_arrivals_of_its_own(tmp_path):
    """A preset's process and rate; rates of histograms; none of a short form or a trace."""
    path = tmp_path / "p.yaml"
    path.write_text("shape: 'fixed:3x2'\narrivals: {process: constant, mean_rate_rps: 4}\n"
                    "source: {name: x, repository: y, licence: CC0}\n")  # fmt: skip
    found = read_workload(str(path))
    assert (found.own_process(), found.own_rate_rps()) == (Process("constant"), 4.0)
    short = read_workload("fixed:3x2")
    assert (short.own_process(), short.own_rate_rps()) == (None, None)


def test_options_added_to_a_spec():
    """Keys are added in order, a flag as 1, numbers as they are written; None and False are left out, an old value is replaced."""
    assert (
        with_options("a.csv", {"from": 0, "to": 2.5, "skip_bad": True, "limit": None})
        == "a.csv?from=0&to=2.5&skip_bad=1"
    )
    assert with_options("a.csv?limit=3&gaps=keep", {"limit": 5}) == "a.csv?limit=5&gaps=keep"
    assert with_options("a.csv?&limit=3", {}) == "a.csv?limit=3"
    assert with_options("chat", {"skip_bad": False}) == "chat"
