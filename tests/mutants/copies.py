"""Copies of the tree that a mutation run works in, and pytest inside one: the working copy is only read."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = ("-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--continue-on-collection-errors")
OURS = ("harness", "tests", "conftest")


def copy_tree(to: Path) -> Path:
    leave = shutil.ignore_patterns(".venv", ".git", "results", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, to, ignore=leave)
    (to / "results").mkdir()
    return to


def enter(copy: Path, scratch: Path) -> None:
    """Makes this process, and what it starts, import the copy; quiet (MUTANTS_LOG: a file for what pytest says), in a
    process group of its own."""
    os.setsid()
    os.chdir(copy)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if Path(entry or ".").resolve() not in (ROOT, copy))]
    os.environ |= {"PYTHONPATH": str(copy), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1"}
    tempfile.tempdir = None
    for name in [name for name in sys.modules if name.partition(".")[0] in OURS]:
        del sys.modules[name]
    log = os.open(os.environ.get("MUTANTS_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)


def pytest_in(copy: Path, arguments: list[str], plugin: object) -> int:
    """pytest's exit code. Raises RuntimeError if another harness than the copy's was imported."""
    import pytest

    code = int(pytest.main([*arguments, *OPTIONS], plugins=[plugin]))
    imported = importlib.import_module("harness").__file__
    if imported is None or not Path(imported).is_relative_to(copy):
        raise RuntimeError(f"the tests imported {imported}, not the copy {copy}")
    return code
