"""The C files of this package, compiled on first use and kept: as Triton does beside vLLM, so such a machine has a compiler.

What only compiling needs is imported where it compiles: each worker asks whether the file is whole.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from harness.base.errors import ConfigError, HarnessError
from harness.base.files import whole_file

_SEAL_BYTES = 32  # SHA-256 of all before it


def compiler() -> str:
    """Path of the C compiler ($CC, cc, gcc, clang). Raises ConfigError where there is none."""
    import shutil

    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (path := shutil.which(name)):
            return path
    raise ConfigError(
        "no C compiler",
        "looked for $CC, cc, gcc, clang",
        "install one (Debian and Ubuntu: apt-get install gcc libc6-dev)",
    )


def build(source: Path, cache: Path, *, library: bool = False) -> Path:
    """The program (or shared library) of one C file in `cache`, compiled unless this very source was before and the file is
    whole. Raises ConfigError, HarnessError: there is no compiler, or `cache` cannot be written or may be by others."""
    import platform

    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    binary = cache / f"{source.stem.replace('_', '-')}-{platform.machine()}-{digest}{'.so' if library else ''}"
    try:
        _refuse_open(cache)
        if not is_whole(binary):
            compile_c(source, binary, library=library)
    except OSError as error:
        advice = f"{error.strerror}; set XDG_CACHE_HOME to a directory that can be written"
        raise ConfigError(f"{source.name} cannot be compiled into the cache", cache, advice) from None
    return binary


def is_whole(binary: Path) -> bool:
    """True for a file that compile_c made and nobody has changed, cut short or may change but its owner: code that is cut
    short kills whoever maps it."""
    try:
        seen, data = binary.stat(), binary.read_bytes()
    except OSError:
        return False
    made, seal = data[:-_SEAL_BYTES], data[-_SEAL_BYTES:]
    return _is_ours(seen) and hashlib.sha256(made).digest() == seal


def _is_ours(seen: os.stat_result) -> bool:
    return seen.st_uid in (os.geteuid(), 0) and not seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _refuse_open(cache: Path) -> None:
    """Raises ConfigError for a directory whose files others may replace."""
    seen = cache.stat()
    if not _is_ours(seen):
        value = f"{cache}: user {seen.st_uid}, mode {stat.S_IMODE(seen.st_mode):o}"
        raise ConfigError("compiled code is not kept where others may change it", value, f"chmod 700 {cache}")


def compile_c(source: Path, binary: Path, *, library: bool = False) -> None:
    """Compile one C file; the binary appears whole or not at all, its digest behind it, for nobody but this user. Raises
    ConfigError, HarnessError, OSError."""
    import subprocess

    with whole_file(binary) as part:
        kind = ["-shared", "-fPIC"] if library else []
        words = [compiler(), "-O2", *kind, "-o", str(part), str(source)]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            errors = result.stderr.strip().splitlines()
            raise HarnessError(
                f"{source.name} cannot be compiled",
                errors[0] if errors else f"exit status {result.returncode}",
                "the C library's headers may be missing (Debian and Ubuntu: libc6-dev); Linux only: epoll, timerfd",
            )
        with part.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(
                hashlib.sha256(part.read_bytes()).digest()
            )  # loaders do not mind what stands behind the sections
            os.fchmod(file.fileno(), 0o600 if library else 0o700)
