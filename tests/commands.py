"""`harness` commands as processes (tests/forks.py); one that needs a real start is started by its test."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.forks import COMMAND, ROOT, Forked


def harness(
    *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, limit_file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python -m harness WORDS` does, is left with and says; stdin is empty. `limit_file_bytes`: no larger file can be written."""
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as errors,
        Path(os.devnull).open() as nothing,
    ):
        pipes = [file.fileno() for file in (nothing, out, errors)]
        limit = None if limit_file_bytes is None else (limit_file_bytes, limit_file_bytes)
        code = Forked(COMMAND, words, pipes, os.environ if env is None else env, cwd, limit).wait()
        assert code is not None
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess(list(words), code, out.read(), errors.read())
