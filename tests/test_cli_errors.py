"""What the user sees when something is wrong: three lines, the right exit code, nothing half-done."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.cli import main

GOOD = """\
experiment: t
targets: [{name: a, kind: adopt, url: "http://127.0.0.1:9/v1", model: m}]
workloads: ["fixed:8x4"]
loads: [{concurrency: [1], requests: 2}]
"""


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def harness(monkeypatch, capsys):
    """Runs the command line's entry point in this process: what a user types, less the start of a Python."""

    def run(*words: str, cwd: Path | None = None) -> Done:
        monkeypatch.setattr(sys, "argv", ["harness", *words])
        if cwd is not None:
            monkeypatch.chdir(cwd)
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Done(int(ended.value.code or 0), out, err)

    return run


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("requests: 2", "request: 2"), "did you mean requests, requests_per_slot?"),
        (("experiment: t", "experimnt: t"), "did you mean experiment?"),
        (("kind: adopt", "kind: adept"), "targets.0.kind"),
        (("concurrency: [1]", "concurrency: []"), "exactly one of concurrency"),
        (("concurrency: [1]", "concurrency: [0]"), "concurrency must be >= 1"),
        (('url: "http://127.0.0.1:9/v1", ', ""), "needs a url"),
        (("fixed:8x4", "fixed:8xx4"), "fixed:8xx4"),
        (("fixed:8x4", "chatt"), "chat"),
        (("loads: [", "loads: [[["), "not valid YAML"),
    ],
)
def test_a_bad_config_names_the_key_or_value_and_exits_2(harness, tmp_path, change, says):
    """Each broken config gives at most three lines, names what is wrong, and exits 2."""
    file = tmp_path / "e.yaml"
    file.write_text(GOOD.replace(*change))
    done = harness("run", str(file), cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


def test_no_such_config_exits_2(harness, tmp_path):
    """A config path that does not exist is named."""
    done = harness("run", "nothing.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "nothing.yaml" in done.stderr


def test_an_unreachable_url_exits_3_and_names_it(harness, tmp_path):
    """Nothing listens: the URL is in the error, no run directory stays behind."""
    done = harness(
        "run", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--workload", "fixed:8x4", "--concurrency", "1",
        "--requests", "2", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 3
    error = done.stderr[done.stderr.index("error:") :]
    assert "http://127.0.0.1:9" in error
    assert len(error.strip().splitlines()) <= 3
    assert not (tmp_path / "out").exists()


def test_a_missing_key_variable_is_named_and_no_value_is_asked_for(harness, tmp_path):
    """The hosted target's key comes from a named variable; the error names the variable."""
    done = harness(
        "run", "--url", "http://127.0.0.1:9/v1", "--model", "m", "--workload", "fixed:8x4", "--concurrency", "1",
        "--requests", "2", "--api-key-env", "NO_SUCH_KEY_HERE", "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "NO_SUCH_KEY_HERE" in done.stderr


@pytest.mark.parametrize("command", ["analyse", "report", "cost"])
def test_a_directory_without_runs_exits_5(harness, tmp_path, command):
    """The offline commands name the directory that holds no run."""
    done = harness(command, str(tmp_path))
    assert done.returncode == 5
    assert str(tmp_path) in done.stderr


def test_debug_shows_the_traceback(tmp_path):
    """--debug is the only way to a traceback."""
    words = [sys.executable, "-m", "harness", "--debug", "analyse", str(tmp_path)]
    done = subprocess.run(
        words, capture_output=True, text=True, timeout=240, check=False, cwd=Path(__file__).parents[1]
    )
    assert "Traceback" in done.stderr
