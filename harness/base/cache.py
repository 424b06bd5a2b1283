"""Where this user's prepared models and records of running servers stand."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from harness.base.errors import ConfigError


def _close(folder: Path) -> None:
    """Others may not write into a directory of ours, whatever the umask was when it was made."""
    seen = folder.stat()
    if seen.st_uid == os.geteuid() and seen.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(seen.st_mode) & ~0o022)


def cache_dir(name: str) -> Path:
    """`$XDG_CACHE_HOME/vllm-cost-harness/NAME` (else under `~/.cache`), made if needed. Raises ConfigError."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative value is invalid and counts as unset.
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    path = root / "vllm-cost-harness" / name
    try:
        for folder in (root, path.parent, path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close(path.parent)
        _close(path)
    except OSError as error:
        raise ConfigError("the cache directory cannot be made", path, f"{error.strerror}; set XDG_CACHE_HOME") from None
    return path
