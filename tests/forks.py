"""Load-generator workers and `harness` commands in processes that find their imports made: a fifth of a CPU second a worker, two thirds of a
short command, hundreds of times.

A process that has made them and does nothing else forks one a start: with the environment, the folder, the file size limit and the files
that whoever asks has. What a test sees of it is what it sees of a real one: pipes, session, exit status. The fixture `real_workers` has real
ones started, for tests of what a process gets when it begins.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
PIPE, DEVNULL = subprocess.PIPE, subprocess.DEVNULL
WORKER, COMMAND = "harness.measure.drive.worker", "harness"
_asked = threading.Lock()  # one start after the other
_line: socket.socket | None = None  # to the process that forks
_owner = 0  # whose it is: a fork of this process has one of its own


class Forked:
    """One process: `kind` with `words`. `pipes`: descriptors of its standard input, output and error."""

    def __init__(self, kind: str, words: Sequence[str], pipes: Sequence[int], env: Mapping[str, str], folder: Path | str,
                 largest_file: tuple[int, int] | None = None) -> None:  # fmt: skip
        self.returncode: int | None = None
        self._status, status = os.pipe()
        here = [kind, list(words), dict(env), str(folder), largest_file or resource.getrlimit(resource.RLIMIT_FSIZE)]
        try:
            with _asked:
                line = _start()
                socket.send_fds(line, [json.dumps(here).encode()], [*pipes, status])
                self.pid = int(line.recv(32))
        finally:
            os.close(status)

    def _read(self, wait_ms: int | None) -> None:
        if self.returncode is not None:
            return
        told = select.poll()
        told.register(self._status, select.POLLIN)
        if told.poll(wait_ms):
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


class Popen(Forked):
    """What `processes.WorkerProcess` asks of subprocess.Popen, in its words."""

    def __init__(self, words: list[str], *, stdin: int, stdout: int, stderr: IO[bytes], env: Mapping[str, str],
                 start_new_session: bool) -> None:  # fmt: skip
        assert (words[1:], stdin, stdout, start_new_session) == (["-m", WORKER], PIPE, DEVNULL, True)
        theirs, ours = os.pipe()
        nothing = os.open(os.devnull, os.O_WRONLY)
        try:
            super().__init__(WORKER, (), (theirs, nothing, stderr.fileno()), env, Path.cwd())
        finally:
            os.close(theirs)
            os.close(nothing)
        self.stdin: IO[bytes] = os.fdopen(ours, "wb")


def begin() -> None:
    """From here on the drivers of this process start such workers."""
    from harness.measure.drive import processes

    processes.subprocess = sys.modules[__name__]  # type: ignore[assignment]


def _start() -> socket.socket:
    global _line, _owner  # noqa: PLW0603 - one a test process, started by the first that asks
    if _line is None or _owner != os.getpid():
        _line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-m", "tests.forks", str(theirs.fileno())]
        mother = subprocess.Popen(words, stdin=DEVNULL, pass_fds=[theirs.fileno()], cwd=ROOT, env=env)
        _owner = os.getpid()
        theirs.close()
        atexit.register(_end, mother, _owner)
    return _line


def _end(mother: subprocess.Popen[bytes], owner: int) -> None:
    if owner == os.getpid() and _line is not None:
        _line.close()
        mother.wait()


# ---------------------------------------------------------------- the process that forks


def _fork_for(line: socket.socket) -> None:
    """A process a message, of whoever has a line; its exit status goes into the pipe that came with it. Ends with its maker."""
    from harness.measure.drive import sdk, worker  # noqa: F401 - the SDK's driver imports it where it is asked for

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()
    lines, running = {line}, dict[int, tuple[int, int]]()
    has_all = False
    while True:
        for ready in select.select([*lines, *running], [], [])[0]:
            if isinstance(ready, int):
                child, status = running.pop(ready)
                os.close(ready)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                with contextlib.suppress(BrokenPipeError):
                    os.write(status, str(code).encode())
                os.close(status)
                continue
            message, fds, _, _ = socket.recv_fds(ready, 1 << 20, 4)
            if not message:
                if ready is line:
                    return
                lines.remove(ready)
                ready.close()
                continue
            kind, words, env, folder, largest_file = json.loads(message)
            if kind == COMMAND and not has_all:
                _import_all()
                has_all = True
            mine, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            child = os.fork()
            if child == 0:
                _be(kind, words, env, folder, largest_file, [*fds[:3], theirs.fileno()])
            ready.send(str(child).encode())
            theirs.close()
            for fd in fds[:3]:
                os.close(fd)
            lines.add(mine)
            running[os.pidfd_open(child)] = child, fds[3]


def _import_all() -> None:
    """What a command may need."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401 - drawing is a third of a short run

    import harness
    from harness.report import pages

    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in pages.environment().list_templates(extensions=("j2",)):
        pages.environment().get_template(name)
    gc.freeze()


def _be(
    kind: str, words: list[str], env: dict[str, str], folder: str, largest_file: tuple[int, int], fds: list[int]
) -> None:
    """The worker or the command, whose own workers come from here too; never comes back."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number, file in enumerate(fds):
            os.dup2(file, number)
        os.closerange(len(fds), 4096)
        os.environ.clear()
        os.environ.update(env)
        os.chdir(folder)
        resource.setrlimit(resource.RLIMIT_FSIZE, largest_file)
        sys.argv = [kind, *words]
        if kind == WORKER:
            os.setsid()
            os.close(len(fds) - 1)
            from harness.measure.drive import worker

            code = worker.run()
        else:
            from harness.cli import main
            from tests import forks

            forks._line, forks._owner = socket.socket(fileno=len(fds) - 1), os.getpid()
            forks.begin()
            main()
            code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    _fork_for(socket.socket(fileno=int(sys.argv[1])))
