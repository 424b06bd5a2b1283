"""Where the commands run whose every output is searched for keys."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from harness.base import redaction
from harness.cli import main


@dataclass
class Place:
    """Where the commands run. `said`: what each printed; `codes`: its exit code."""

    folder: Path
    inputs: Path
    said: list[str] = field(default_factory=list)
    codes: Counter[tuple[str, int]] = field(default_factory=Counter)
    refused: list[int] = field(default_factory=list)  # codes for URLs with credentials
    left_by_refused: int = 0  # files

    def run(self, *words: str) -> int:
        out, code = io.StringIO(), 0
        redaction.forget()  # each command is a process of its own
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["harness", *words])
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or 0)
            except Exception:  # --debug
                traceback.print_exc()
                code = 99
        self.said.append(out.getvalue())
        self.codes[words[0], code] += 1
        return code

    def config(self, name: str, **data: object) -> str:
        path = self.inputs / f"{name}.yaml"
        whole = {
            "experiment": name,
            "workloads": ["fixed:8x4"],
            "loads": [{"concurrency": [8], "requests": 110}],
        } | data
        path.write_text(yaml.safe_dump({"warmup_requests": 0, "observe": {"gpu": "off"}} | whole, allow_unicode=True))
        return str(path)

    def files(self) -> list[Path]:
        return [p for p in self.folder.rglob("*") if p.is_file() and not p.is_symlink()]
