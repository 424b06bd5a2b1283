"""`harness` commands in processes of their own that find its modules imported: two thirds of a short command are imports.

A process that has them and does nothing else forks one a command, which takes the words, the folder, the environment and the files to
write to from the test. A test of what a process gets when it begins (LD_LIBRARY_PATH, a signal before its words) starts a real one.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import harness as harness_package
from tests import workers

ROOT = Path(__file__).resolve().parents[1]
_asked = threading.Lock()  # one command after the other
_mother: subprocess.Popen[bytes] | None = None


def harness(
    *words: str, cwd: Path = ROOT, env: Mapping[str, str] | None = None, limit_file_bytes: int | None = None
) -> subprocess.CompletedProcess[str]:
    """What `python -m harness WORDS` does, is left with and says; stdin is empty. `limit_file_bytes`: no larger file can be written."""
    with _asked, tempfile.TemporaryDirectory(prefix="command-") as name:
        out, errors = Path(name) / "out", Path(name) / "errors"
        ask = {"words": words, "cwd": str(cwd), "env": dict(os.environ if env is None else env)}
        ask |= {"out": str(out), "errors": str(errors), "limit_file_bytes": limit_file_bytes}
        mother = _start()
        assert mother.stdin is not None
        assert mother.stdout is not None
        mother.stdin.write(json.dumps(ask).encode() + b"\n")
        mother.stdin.flush()
        code = int(mother.stdout.readline())
        return subprocess.CompletedProcess(list(words), code, out.read_text("utf-8"), errors.read_text("utf-8"))


def _start() -> subprocess.Popen[bytes]:
    global _mother  # noqa: PLW0603 - one a test process, started by the first that asks
    if _mother is None or _mother.poll() is not None:
        words = [sys.executable, "-m", "tests.commands"]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        _mother = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env=env)
        atexit.register(_end)
    return _mother


def _end() -> None:
    if _mother is not None and _mother.stdin is not None:
        with contextlib.suppress(OSError):
            _mother.stdin.close()
        _mother.wait()


# ---------------------------------------------------------------- the process that forks


def _wait_for_words() -> None:
    """Imports, and then a process a line of stdin; its exit code is a line of stdout."""
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401 - drawing is a third of a short run

    from harness.report import pages

    for module in pkgutil.walk_packages(harness_package.__path__, "harness."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in pages.environment().list_templates(extensions=("j2",)):
        pages.environment().get_template(name)
    workers.begin(forks_too=True)
    gc.freeze()
    for line in sys.stdin.buffer:
        child = os.fork()
        if child == 0:
            _be(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _be(ask: dict[str, Any]) -> None:
    """The command; never comes back."""
    code = 1
    try:
        for number, (path, mode) in enumerate(
            (
                (os.devnull, os.O_RDONLY),
                *((ask[key], os.O_WRONLY | os.O_CREAT | os.O_TRUNC) for key in ("out", "errors")),
            )
        ):
            file = os.open(path, mode)
            os.dup2(file, number)
            os.close(file)
        os.environ.clear()
        os.environ.update(ask["env"])
        os.chdir(ask["cwd"])
        if ask["limit_file_bytes"]:
            import resource

            resource.setrlimit(resource.RLIMIT_FSIZE, (ask["limit_file_bytes"],) * 2)
        sys.argv = ["harness", *ask["words"]]
        from harness.cli import main

        main()
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
            atexit._run_exitfuncs()
        os._exit(code)


if __name__ == "__main__":
    _wait_for_words()
