"""Runs pip and says what it is at. Standard library only: nothing else is installed yet."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import IO

from harness.base import clock

_HEARTBEAT_S = 10.0


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


class _Progress:
    """Says what pip is at: a package a line while it collects, a sign of life while it is silent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.collected = 0
        self.doing = "asking the package index"
        self.lines: list[str] = []
        self.started_ns = clock.monotonic_ns()
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._heartbeat, daemon=True)

    def _heartbeat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_S):
            say(f"  .. {self.doing}, {(clock.monotonic_ns() - self.started_ns) / clock.NS:.0f} s")

    def read(self, stream: IO[str]) -> None:
        """Follow pip's output to its end."""
        self._beat.start()
        try:
            for line in stream:
                self._take(line.strip())
        finally:
            self._stop.set()
            self._beat.join()

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self.collected += 1
            name = line.removeprefix("Collecting ").removeprefix("Requirement already satisfied: ").split(" ")[0]
            self.doing = f"[{self.collected}/{self.total}] {name}"
        elif line.startswith(("Downloading ", "Using cached ")) and " MB)" in line:
            say(f"  [{self.collected}/{self.total}] {line}")
        elif line.startswith("Installing collected packages"):
            self.doing = f"unpacking {line.count(',') + 1} packages"
            say(f"  {self.doing} (this is silent for about a minute)")
        elif line.startswith(("ERROR", "error")):
            say(f"  pip: {line}")


def pip(arguments: list[str], total: int) -> tuple[int, list[str]]:
    """Run pip of this Python with `arguments`, for `total` packages; returns its exit status and lines."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    progress = _Progress(total)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        progress.read(process.stdout)
    return process.returncode, progress.lines
