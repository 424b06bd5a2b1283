"""What a server prints, on its way into its log: without the secrets that it was started with, and those that stand where secrets do."""

from __future__ import annotations

import contextlib
import os
import select
import threading

from harness.base import redaction

_BLOCK_BYTES = 65_536
_SILENCE_S = 0.1  # the last line waits so long for another one: a secret may go on there
_MOST_HELD_BYTES = 1 << 20


class LogPipe:
    """Give `write_fd` to the server, then `start`, then `finish` when the server is gone. A byte from `ask_fd` is answered with a line
    on `answer_fd` once all that was printed before it is in the log."""

    def __init__(self, log_fd: int, ask_fd: int, answer_fd: int) -> None:
        self._log_fd, self._answer_fd = log_fd, answer_fd
        self._asks = [ask_fd]
        self._read_fd, self.write_fd = os.pipe()
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    def start(self) -> None:
        """After the server was started, so that it alone holds the writing end. It is a thread of its own: the one that starts the
        server must be the one that lives as long as the guard."""
        os.close(self.write_fd)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Until all that was printed is in the log."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        held = b""
        while True:
            ready = select.select([self._read_fd, *self._asks], [], [], _SILENCE_S if held else None)[0]
            if ready and self._read_fd not in ready:
                self._answer(held)
                held = b""
                continue
            silent = not ready
            block = b"" if silent else os.read(self._read_fd, _BLOCK_BYTES)
            held += block
            if not block and not silent:
                self._write(held)
                return
            cut = len(held) if silent or len(held) > _MOST_HELD_BYTES else _before_last_line(held)
            self._write(held[:cut])
            held = held[cut:]

    def _answer(self, held: bytes) -> None:
        """Nothing stands in the pipe now."""
        self._write(held)
        if not os.read(self._asks[0], 1):
            self._asks = []  # the harness is gone
            return
        with contextlib.suppress(OSError):
            os.write(self._answer_fd, b"\n")

    def _write(self, data: bytes) -> None:
        text = redaction.text(data.decode("utf-8", "surrogateescape")) if data else ""
        left = text.encode("utf-8", "surrogateescape")
        while left:
            left = left[os.write(self._log_fd, left) :]


def _before_last_line(data: bytes) -> int:
    """Where the last whole line begins; a progress bar's carriage return ends one too."""
    lines = data.replace(b"\r", b"\n")
    end = lines.rfind(b"\n")
    return lines.rfind(b"\n", 0, max(0, end)) + 1
