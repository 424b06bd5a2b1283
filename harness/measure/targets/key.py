"""An API's key, from where a target says that it is: a variable of the environment, a file of its owner alone, or a command such as a
keyring's. Only the place is ever shown: from here on the key's value is known as a secret, and no process that holds it leaves a core."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base import redaction
from harness.base.errors import ConfigError

if TYPE_CHECKING:
    from harness.config.target import TargetSpec

_MOST_BYTES = 16_384
_COMMAND_S = 60.0  # a keyring may ask its owner for a password meanwhile


def read_key(spec: TargetSpec) -> str | None:
    """The target's key; None where it names none. Raises ConfigError, without the value: a variable that is not set, a file that others may
    read, a command that fails or prints nothing, a key that cannot stand in a header."""
    if spec.api_key_env is not None:
        key, place = os.environ.get(spec.api_key_env, ""), spec.api_key_env
        if not key.strip():
            advice = f"set {place} to the key and run again"
            raise ConfigError("the API key's environment variable is not set", place, advice)
    elif spec.api_key_file is not None:
        key, place = _of_file(Path(spec.api_key_file).expanduser()), spec.api_key_file
    elif spec.api_key_command is not None:
        key, place = _of_command(spec.api_key_command), f"what {Path(spec.api_key_command[0]).name} prints"
    else:
        return None
    key = key.strip()
    redaction.learn(key)
    redaction.no_core()
    if not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ConfigError(
            "the API key holds characters that cannot stand in a header",
            place,
            "look for spaces, line breaks or quotes inside its value",
        )
    return key


def _of_file(path: Path) -> str:
    try:
        # O_NONBLOCK: a pipe that nobody writes to would hold us for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            data = os.read(descriptor, _MOST_BYTES + 1) if stat.S_ISREG(status.st_mode) else None
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no path"
        raise ConfigError("api_key_file cannot be read", path, f"{why}; it holds the key alone") from None
    if data is None:
        raise ConfigError("api_key_file is no file", path, "name a file that holds the key alone")
    if status.st_mode & 0o007:
        shown = f"{path} (mode {stat.S_IMODE(status.st_mode):04o})"
        raise ConfigError("api_key_file can be read by others", shown, f"chmod 600 {path}, and think of a new key")
    if not data.strip() or len(data) > _MOST_BYTES:
        what = "is empty" if not data.strip() else f"has more than {_MOST_BYTES:,} bytes"
        raise ConfigError(f"api_key_file {what}", path, "it holds the key alone, on one line")
    return data.decode("latin-1")


def _of_command(command: list[str]) -> str:
    """What the command prints. What it says of errors is not shown: it may be the key."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "no program's name"
        raise ConfigError("api_key_command cannot be run", name, f"{why}; its first word is a program") from None
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    watch = threading.Timer(_COMMAND_S, end)
    watch.start()
    try:
        assert process.stdout
        data = process.stdout.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise ConfigError("api_key_command prints too much", name, f"at most {_MOST_BYTES:,} bytes: the key alone")
        code = process.wait()
    finally:
        watch.cancel()
        _kill(process)
        process.wait()
        if process.stdout:
            process.stdout.close()
    if late.is_set():
        raise ConfigError("api_key_command does not end", name, f"it was ended after {_COMMAND_S:.0f} s")
    if code or not data.strip():
        how = f"ended with exit status {code}" if code else "printed nothing"
        raise ConfigError(f"api_key_command {how}", name, "run it by itself and look; it prints the key alone")
    return data.decode("latin-1")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The command and what it started, while its own process is not collected: after that the number may be another's."""
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
