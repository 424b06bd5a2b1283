"""Where this user's prepared models and records of running servers stand."""

from __future__ import annotations

import os
from pathlib import Path

from harness.errors import ConfigError


def cache_dir(name: str) -> Path:
    """`$XDG_CACHE_HOME/vllm-cost-harness/NAME` (else under `~/.cache`), made if needed. Raises ConfigError."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG rule: a relative value is invalid and counts as unset.
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".cache"
    path = root / "vllm-cost-harness" / name
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError("the cache directory cannot be made", path, f"{error.strerror}; set XDG_CACHE_HOME") from None
    return path
