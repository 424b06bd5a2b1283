"""Load-generator workers that find their imports made: a fifth of a core's second each, hundreds of times.

A process that has imported what a worker imports and does nothing else forks one a start. What a test sees of it is what it sees of a
real one: pipe, standard error, session, exit status. The fixture `real_workers` has real ones started, for tests of the start itself.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
_WORDS = ["-m", "harness.measure.drive.worker"]
_asked = threading.Lock()  # one start after the other
_mother: subprocess.Popen[bytes] | None = None
_line: socket.socket | None = None
_owner: int | None = 0  # who may ask; None: forks too


def begin(*, forks_too: bool = False) -> None:
    """From here on the drivers of this process start such workers; `forks_too`: its forks share its mother, one fork at a time."""
    global _owner  # noqa: PLW0603
    from harness.measure.drive import processes

    processes.subprocess = sys.modules[__name__]  # type: ignore[assignment]
    if forks_too:
        _start()
        _owner = None


class Popen:
    """What `processes.WorkerProcess` asks of subprocess.Popen, in its words."""

    def __init__(
        self,
        words: list[str],
        *,
        stdin: int,
        stdout: int,
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        assert (words[1:], stdin, stdout, start_new_session) == (_WORDS, PIPE, DEVNULL, True)
        self.returncode: int | None = None
        theirs, ours = os.pipe()
        self._status, status = os.pipe()
        try:
            with _asked:
                line = _start()
                here = [dict(env), os.getcwd(), resource.getrlimit(resource.RLIMIT_FSIZE)]
                socket.send_fds(line, [json.dumps(here).encode()], [theirs, stderr.fileno(), status])
                self.pid = int(line.recv(32))
        finally:
            os.close(theirs)
            os.close(status)
        self.stdin: IO[bytes] = os.fdopen(ours, "wb")

    def _read(self, wait_ms: int | None) -> None:
        told = select.poll()
        if self.returncode is None:
            told.register(self._status, select.POLLIN)
        if self.returncode is None and told.poll(wait_ms):
            self.returncode = int(os.read(self._status, 32) or -signal.SIGKILL)
            os.close(self._status)

    def poll(self) -> int | None:
        self._read(0)
        return self.returncode

    def wait(self) -> int | None:
        self._read(None)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def __del__(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(OSError):
                os.close(self._status)


def _start() -> socket.socket:
    global _mother, _line, _owner  # noqa: PLW0603 - one a test process, started by the first that asks
    if _line is None or _owner not in (None, os.getpid()):
        _line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "tests.workers", str(theirs.fileno())]
        _mother = subprocess.Popen(words, stdin=DEVNULL, pass_fds=[theirs.fileno()], cwd=ROOT, env=env)
        _owner = os.getpid()
        theirs.close()
        atexit.register(_end, os.getpid())
    return _line


def _end(owner: int) -> None:
    if owner == os.getpid() and _line is not None and _mother is not None:
        _line.close()
        _mother.wait()


# ---------------------------------------------------------------- the process that forks


def _fork_for(line: socket.socket) -> None:
    """Imports, and then a worker a message; its exit status goes into the pipe that came with it. Ends with its maker."""
    from harness.measure.drive import sdk, worker  # noqa: F401 - the SDK's driver imports it where it is asked for

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    running: dict[int, tuple[int, int]] = {}
    while True:
        for ready in select.select([line, *running], [], [])[0]:
            if ready is line:
                message, fds, _, _ = socket.recv_fds(line, 1 << 20, 3)
                if not message:
                    return
                child = os.fork()
                if child == 0:
                    _be(*json.loads(message), *fds[:2])
                line.send(str(child).encode())
                os.close(fds[0])
                os.close(fds[1])
                running[os.pidfd_open(child)] = child, fds[2]
            else:
                child, status = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(status, str(code).encode())
                os.close(status)


def _be(env: dict[str, str], folder: str, largest_file: tuple[int, int], stdin: int, stderr: int) -> None:
    """The worker; never comes back."""
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        nothing = os.open(os.devnull, os.O_WRONLY)
        for number, file in enumerate((stdin, nothing, stderr)):
            os.dup2(file, number)
        os.closerange(3, 4096)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, largest_file)
        sys.argv = ["worker"]
        from harness.measure.drive import worker

        code = worker.run()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _fork_for(socket.socket(fileno=int(sys.argv[1])))
