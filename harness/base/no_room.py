"""A disk that is full: how it is told from other errors, in every process of ours."""

from __future__ import annotations

import errno
from pathlib import Path

from harness.base.errors import StoreError

_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
EXIT_CODE = 28  # of a worker: its last words may have found no room either


def is_no_room(error: BaseException) -> bool:
    """True for a full disk, a quota and a limit on a file's size."""
    return isinstance(error, OSError) and error.errno in _ERRNOS


def no_room(what: str, path: Path, error: OSError) -> StoreError:
    """The error of `what` that found no room at `path`."""
    advice = "free disk space or write elsewhere (--out DIR); what was stored is readable"
    return StoreError(f"no room on disk for {what}", f"{path}: {error.strerror}", advice)
