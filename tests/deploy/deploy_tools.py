"""The files of configs/deploy, and the tools that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "configs" / "deploy"
UNITS = sorted((DEPLOY / "systemd").iterdir())
MANIFESTS = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
HARNESS = "/opt/vllm-harness/.venv/bin/harness"


def tool(name: str, package: str) -> str:
    """The tool's path, from the virtual environment or the system; skips where it is in neither."""
    here = Path(sys.executable).with_name(name)
    found = str(here) if here.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not on this machine: {package}")
    return found


def said(*words: str, cwd: Path | None = None) -> tuple[int, str]:
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False, cwd=cwd)
    return done.returncode, done.stdout + done.stderr


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kind(name: str) -> dict:
    (found,) = [document for path in MANIFESTS for document in documents(path) if document["kind"] == name]
    return found


def settings(path: Path, key: str) -> list[str]:
    """Every value of a key in a unit, in order."""
    return re.findall(rf"^{key}=(.+)$", path.read_text(), re.MULTILINE)
