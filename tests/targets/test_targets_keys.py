"""Where a target's key is read: a variable, a file of its owner alone, a command; each way in which it cannot be is told without the key."""

from __future__ import annotations

import os
import signal

import pytest
from pydantic import ValidationError

from harness.base import redaction
from harness.base.errors import ConfigError
from harness.config.target import TargetSpec
from harness.measure.targets import key as keys
from harness.measure.targets.key import read_key
from tests.waiting import until

pytestmark = pytest.mark.timing
KEY = "sk-hunter-2-hunter"


def spec(**more) -> TargetSpec:
    return TargetSpec(name="a", kind="hosted", url="http://127.0.0.1:9/v1", model="m", **more)


def file_of(folder, text: str = f"{KEY}\n", mode: int = 0o600):
    path = folder / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


def refused(**more) -> list[str]:
    """The three lines of the error, without the key."""
    with pytest.raises(ConfigError) as caught:
        read_key(spec(**more))
    assert "hunter" not in str(caught.value)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    return lines


def test_a_key_is_read_from_each_place_and_is_a_secret_from_then_on(tmp_path, monkeypatch):
    """Without the line end; masked in all that is said."""
    monkeypatch.setenv("MY_KEY", KEY)
    path = file_of(tmp_path)
    for place in ({"api_key_env": "MY_KEY"}, {"api_key_file": str(path)}, {"api_key_command": ["cat", str(path)]}):
        redaction.forget()
        assert read_key(spec(**place)) == KEY
        assert redaction.known(f"said {KEY}.") == "said ***."
    assert read_key(spec()) is None


@pytest.mark.parametrize("mode", [0o604, 0o644, 0o602, 0o601, 0o666])
def test_a_file_that_others_may_read_or_change_is_refused(mode, tmp_path):
    """Its mode is shown and what to do."""
    path = file_of(tmp_path, mode=mode)
    what, value, advice = refused(api_key_file=str(path))
    assert "can be read by others" in what
    assert f"{mode:04o}" in value
    assert "chmod 600" in advice


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640])
def test_a_file_of_its_owner_or_group_is_taken(mode, tmp_path):
    """As secrets of containers are mounted."""
    assert read_key(spec(api_key_file=str(file_of(tmp_path, mode=mode)))) == KEY


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda folder: folder / "absent", "cannot be read"),
        (lambda folder: folder, "is no file"),
        (lambda folder: file_of(folder, "\n"), "is empty"),
        (lambda folder: file_of(folder, "hunter " * 9_000), "more than 16,384 bytes"),
        (lambda folder: file_of(folder, "hunter 2\n"), "cannot stand in a header"),
        (lambda folder: file_of(folder, "hunter\nsecond"), "cannot stand in a header"),
    ],
    ids=["absent", "folder", "empty", "long", "space", "two-lines"],
)
def test_a_file_that_holds_no_key_is_refused(make, word, tmp_path):
    """Three lines, and none of what stands there."""
    assert word in refused(api_key_file=str(make(tmp_path)))[0]


def test_a_pipe_that_nobody_writes_to_holds_nobody_up(tmp_path):
    """It is no file."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no file" in refused(api_key_file=str(tmp_path / "pipe"))[0]


@pytest.mark.parametrize(
    ("command", "word"),
    [
        (["no-such-program-hunter"], "cannot be run"),
        (["false"], "ended with exit status 1"),
        (["true"], "printed nothing"),
        (["sh", "-c", "echo hunter; exit 4"], "ended with exit status 4"),
        (["sh", "-c", "yes hunter"], "prints too much"),
        (["sh", "-c", "echo hunter 2 >&2; false"], "ended with exit status 1"),
    ],
    ids=["absent", "fails", "silent", "fails-after", "endless", "complains"],
)
def test_a_command_that_gives_no_key_is_refused(command, word):
    """And neither its words nor what it says are shown."""
    with pytest.raises(ConfigError) as caught:
        read_key(spec(api_key_command=command))
    assert word in caught.value.what
    assert "hunter" not in caught.value.what + caught.value.advice


def test_a_command_that_hangs_is_ended_with_what_it_started(tmp_path, monkeypatch):
    """Its child too, after the limit."""
    monkeypatch.setattr(keys, "_COMMAND_S", 0.5)
    pid_file = tmp_path / "pid"
    what = refused(api_key_command=["sh", "-c", f"sleep 600 & echo $! > {pid_file}; wait"])[0]
    assert "does not end" in what
    pid = int(pid_file.read_text())
    until(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIG_DFL)
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


@pytest.mark.parametrize(
    "two",
    [
        {"api_key_env": "K", "api_key_file": "/k"},
        {"api_key_env": "K", "api_key_command": ["c"]},
        {"api_key_file": "/k", "api_key_command": ["c"]},
    ],
    ids=["env-file", "env-command", "file-command"],
)
def test_two_places_of_one_key_are_refused(two):
    """Which of them would count?"""
    with pytest.raises(ValidationError, match="give one of"):
        spec(**two)
