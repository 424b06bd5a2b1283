"""A bounded sample of what `make fuzz` runs without end."""

from __future__ import annotations

import random

import pytest

from tests.fuzz import checking, configs, run_directories, stored, traces

QUICK = ("analyse", "cost of", "prune", "recover", "resume", "raw sql")  # commands that take a fraction of a second


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A results directory with nothing broken in it."""
    results = tmp_path_factory.mktemp("fuzz") / "whole"
    stored.build(results)
    return results


def test_nothing_is_found_in_a_whole_directory(whole, tmp_path):
    """What the broken ones are held against: no command finds fault with it."""
    for name in QUICK:
        assert checking.run(run_directories.COMMANDS[name](whole, whole)).finding is None, name


@pytest.mark.parametrize("seed", range(24))
def test_broken_run_directories(whole, tmp_path, seed):
    """A damaged file, or a JSON field of a wrong type, ends in no traceback, no hang and no NaN."""
    draw = random.Random(seed)
    case, _ = next(run_directories.cases(whole, draw))
    broken = run_directories.copied(whole, tmp_path / "broken")
    case.spoil(broken)
    came = checking.run(run_directories.COMMANDS[draw.choice(QUICK)](broken, whole))
    assert came.finding is None, (case.what, came)


@pytest.mark.parametrize("kind", [configs, traces], ids=["configs", "traces"])
def test_broken_files(tmp_path, monkeypatch, kind):
    """Configs of every kind and traces of every format: refused in three lines, or a value that makes sense."""
    monkeypatch.chdir(tmp_path)
    for (what, words, refused), _ in zip(kind.cases(tmp_path, random.Random(1)), range(12), strict=False):
        came = checking.run(words)
        assert came.finding is None, (what, words, came)
        assert not refused or came.code, (what, words, came.said[:200])


def test_the_check_sees_what_it_looks_for(monkeypatch):
    """A traceback, a hang and NaN in JSON are findings; a HarnessError is none."""

    def command(act):
        monkeypatch.setattr(checking.cli, "main", lambda *_, **__: act())
        return checking.run(["x", "--json"]).finding

    def spin():
        while True:
            pass

    def fail():
        raise KeyError

    monkeypatch.setattr(checking, "HANG_S", 0.05)
    assert command(spin) == "hang"
    assert command(fail) == "not foreseen"
    assert command(lambda: print('{"a": NaN}')) == "nonsense"
    assert command(lambda: print('{"a": 1}')) is None
