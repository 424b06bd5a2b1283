"""A box's end of the line: the process that runs its part of a campaign, and what it says, kept until it is fetched.

Whatever carries the calls (Ray, or nothing at all) finds plain values here. The part runs in a process of its own with the environment
that this one was started with: what the carrier has set since (visible devices, threads) is not a measurement's.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness import __version__

_CHUNK_LINES = 1000
_LAST_WORDS = 4000  # bytes of what it wrote to stderr
_END_S = 20.0


class BoxProcess:
    """One part at a time. `environment`: of its process, left out: this one's as it was started."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self._environment = dict(environment) if environment is not None else _as_started()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def facts(self) -> dict[str, Any]:
        """What must be equal everywhere, and the process's id."""
        return {"harness_version": __version__, "pid": os.getpid()}

    def begin(self, work: str) -> None:
        """Start the part that the line `work` tells of."""
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - it is read when the process has ended
        words = [sys.executable, "-m", "harness", "box"]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            env=self._environment, start_new_session=True,
        )  # fmt: skip
        self._hear(work)
        threading.Thread(target=self._listen, args=(self._process, errors), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str], errors: Any) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._lines.put(line)
        code = process.wait()
        errors.seek(max(0, errors.seek(0, os.SEEK_END) - _LAST_WORDS))
        words = errors.read().decode("utf-8", "replace").strip()
        errors.close()
        self._lines.put(json.dumps({"end": {"code": code, "words": words}}))

    def _hear(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with suppress(OSError):  # it is gone: its end is among the news
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def news(self, wait_s: float) -> list[str]:
        """Lines that came since, of which the last of a part tells its end; waits so long for the first."""
        lines: list[str] = []
        with suppress(queue.Empty):
            lines.append(self._lines.get(timeout=wait_s))
            while len(lines) < _CHUNK_LINES:
                lines.append(self._lines.get_nowait())
        return lines

    def read(self, path: str, offset: int, size: int) -> bytes:
        """Bytes of a run that is packed. Raises OSError."""
        with Path(path).open("rb") as packed:
            packed.seek(offset)
            return packed.read(size)

    def fetched(self) -> None:
        """The run that was told last is safe elsewhere: the next cell may begin."""
        self._hear("fetched")

    def stop(self) -> None:
        """As Ctrl-C: once drains, twice aborts."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """End the part, if one is going on, with its server."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()  # it hears the end
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _as_started() -> dict[str, str]:
    """This process's environment as it was executed."""
    pairs = Path("/proc/self/environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
