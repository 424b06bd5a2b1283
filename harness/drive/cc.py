"""The C files of this package, compiled on first use and kept: as Triton does beside vLLM, so such a machine has a compiler."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from harness.errors import ConfigError, HarnessError


def compiler() -> str:
    """Path of the C compiler ($CC, cc, gcc, clang). Raises ConfigError where there is none."""
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and (found := shutil.which(name)):
            return found
    raise ConfigError(
        "no C compiler",
        "looked for $CC, cc, gcc, clang",
        "install one (Debian and Ubuntu: apt-get install gcc libc6-dev)",
    )


def build(source: Path, cache: Path, *, library: bool = False) -> Path:
    """The program (or shared library) of one C file in `cache`, compiled unless this very source was before.
    Raises ConfigError, HarnessError."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()[:12]
    binary = cache / f"{source.stem.replace('_', '-')}-{platform.machine()}-{digest}{'.so' if library else ''}"
    if not binary.exists():
        compile_c(source, binary, library=library)
    return binary


def compile_c(source: Path, binary: Path, *, library: bool = False) -> None:
    """Compile one C file; the binary appears whole or not at all. Raises ConfigError, HarnessError."""
    with tempfile.TemporaryDirectory(dir=binary.parent) as folder:
        made = Path(folder) / binary.name
        kind = ["-shared", "-fPIC"] if library else []
        words = [compiler(), "-O2", *kind, "-o", str(made), str(source)]
        result = subprocess.run(words, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            said = result.stderr.strip().splitlines()
            raise HarnessError(
                f"{source.name} cannot be compiled",
                said[0] if said else f"exit status {result.returncode}",
                "the C library's headers may be missing (Debian and Ubuntu: libc6-dev); Linux only: epoll, timerfd",
            )
        made.replace(binary)
