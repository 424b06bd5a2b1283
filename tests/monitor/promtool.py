"""Debian's prometheus and promtool, from the system or from where `make prometheus` puts them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"


def program(name: str) -> str:
    """Path of `prometheus` or `promtool`; skips where it is not on this machine."""
    found = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), str(UNPACKED))))
    if found is None:
        pytest.skip(f"{name} is not on this machine: make prometheus, or apt install prometheus")
    return found


def promtool(*words: str, text: str = "") -> tuple[int, str]:
    """Exit code and all that `promtool WORDS` says, with `text` on its stdin."""
    done = subprocess.run(
        (program("promtool"), *words), input=text, capture_output=True, text=True, timeout=240, check=False
    )
    return done.returncode, done.stdout + done.stderr
