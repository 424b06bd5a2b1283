"""The guard: a small process between the harness and a server, which ends the server when the harness is gone.

`python -m harness.measure.targets.server.guard HARNESS_PID GRACE_S RECORD_DIR LOG_PATH REMOVAL -- COMMAND..` starts COMMAND in a session of
its own with both outputs on the guard's standard error, by way of a pipe where the secrets that came on standard input (a JSON list)
are masked, writes its record, prints its pid and waits for the first of:

- the command ends: what it leaves behind is ended too, and the guard exits with its status (128 + signal number);
- the harness is gone, however it went (the guard looks who its parent is twice a second), or the guard is told to
  stop: every process of the server is ended.

REMOVAL is a JSON list: the command that ends what is no child of ours (a container), run last; [] for none.

PR_SET_PDEATHSIG set by the harness would not do: it follows the *thread* that started the child. Here that is the guard's first
thread, so its own child can carry it, and `kill -9` of the guard ends the server as well. As a subreaper the guard
inherits processes whose parents died, so that none leaves its family by starting a session of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

from harness.base import clock, redaction
from harness.measure.targets.server import proc, records

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.5
_BURY_S = 5.0
_BURY_POLL_S = 0.02
_BLOCK_BYTES = 65_536
_SILENCE_S = 0.1  # the last line waits so long for another one: a secret may go on there
_MOST_HELD_BYTES = 1 << 20
_ENDS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WAITED = (signal.SIGCHLD, *_ENDS)


class LogPipe:
    """What the server prints, on its way into its log: without the secrets that it was started with, and those that stand where secrets do.

    Give `write_fd` to the server, then `start`, then `finish` when the server is gone. A byte from `ask_fd` is answered with a line
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


# ---------------------------------------------------------------- the server


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _in_child(guard_pid: int) -> None:
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    if os.getppid() != guard_pid:  # the guard died before the line above took hold
        os._exit(1)


def _start(command: list[str], log: LogPipe) -> int:
    guard_pid = os.getpid()
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log.write_fd,
        stderr=log.write_fd,
        start_new_session=True,
        preexec_fn=lambda: _in_child(guard_pid),  # noqa: PLW1509 - one thread so far
    )
    server.returncode = 0  # waited for below, together with adopted children
    return server.pid


def _wait(pid: int, harness_pid: int) -> int | None:
    """Until the server ended (its status) or must be ended (None)."""
    while os.getppid() == harness_pid:
        signalled = signal.sigtimedwait(_WAITED, _LOOK_S)
        # not whatever is no SIGCHLD: one who stood still for longer than the wait (SIGSTOP, a frozen container) is told of signal 0
        if signalled and signalled.si_signo in _ENDS:
            return None
        # WNOWAIT: the server stays a zombie until the guard exits, so that its pid is nobody else's meanwhile.
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == pid:
                return ended.si_status if ended.si_code == os.CLD_EXITED else 128 + ended.si_status
            os.waitpid(ended.si_pid, 0)
    return None


def _bury() -> None:
    """Wait for every dead child, adopted ones too: whoever inherits them may never do it, and one whose first thread is
    gone may still be giving memory back in others.
    """
    deadline = clock.monotonic_ns() + int(_BURY_S * clock.NS)
    try:
        while clock.monotonic_ns() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                clock.sleep(_BURY_POLL_S)
    except ChildProcessError:
        return


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    harness_pid, grace_s, folder, log_path = int(argv[0]), float(argv[1]), Path(argv[2]), Path(argv[3])
    removal: list[str] = json.loads(argv[4])
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    for value in json.loads(sys.stdin.readline() or "[]"):
        redaction.learn(value)
    log = LogPipe(sys.stderr.fileno(), sys.stdin.fileno(), sys.stdout.fileno())
    pid = _start(argv[6:], log)
    log.start()
    me = os.getpid()

    def server_processes() -> list[proc.Process]:
        return [p for p in proc.family((me,)) if p.pid != me]

    status: int | None = None
    path = records.write(folder, pid, harness_pid, log_path, removal)
    try:
        print(pid, flush=True)
        status = _wait(pid, harness_pid)
    except BrokenPipeError:  # the harness died before it could read the pid
        status = None
    finally:
        # Leftovers of a server that ended by itself have lost their head: nothing they do is worth waiting for.
        left = proc.end(server_processes, grace_s if status is None else 0.0)
        records.remove(removal)
        _bury()
        log.finish(_BURY_S if not left else 0)
        if not left:
            path.unlink(missing_ok=True)
    return 143 if status is None else status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
