"""Lock files, all opened here: no other user can make us write through a link, or into a file of his that was not meant for it.

Locks of what a machine has once stand in HARNESS_LOCK_DIR, else in a directory of this user's own. Users of one machine who
must not measure at the same time name one directory: root's, mode 1777. The kernel lets a lock go when its holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from pathlib import Path

from harness.base.errors import StoreError

# Not XDG_RUNTIME_DIR: a timer has none, and it goes when its user logs out, with the locks of what still runs.
_OWN = "/tmp/vllm-cost-harness-locks-{uid}"  # noqa: S108 - checked to be this user's, and private
_SHARED_MODE = 0o666


def lock_dir() -> Path:
    """HARNESS_LOCK_DIR or this user's own directory, made (0700) if needed. Raises StoreError: it is not to be trusted."""
    given = os.environ.get("HARNESS_LOCK_DIR")
    path = Path(given or _OWN.format(uid=os.geteuid()))
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        seen = path.stat() if given else path.lstat()
    except OSError as error:
        raise StoreError("lock directory cannot be made", path, f"{error.strerror}; set HARNESS_LOCK_DIR") from None
    if not stat.S_ISDIR(seen.st_mode):
        raise _refused(path, "it is no directory")
    if seen.st_uid not in (os.geteuid(), 0) or (not given and seen.st_uid != os.geteuid()):
        raise _refused(path, f"it belongs to user {seen.st_uid}")
    if not given and seen.st_mode & 0o077:
        raise _refused(path, f"others may use it (mode {stat.S_IMODE(seen.st_mode):o}, not 700)")
    if seen.st_mode & stat.S_IWOTH and not seen.st_mode & stat.S_ISVTX:
        raise _refused(path, "others may rename files in it (give it mode 1777)")
    return path


def open_lock(path: Path) -> int:
    """A descriptor of a lock file, made if needed: a regular file under one name, of this user, root or its directory's owner;
    of anybody where the directory is shared (sticky). Raises StoreError."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        folder = path.parent.stat()
        shared = bool(folder.st_mode & stat.S_ISVTX)
        try:
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600)
            if shared:
                os.fchmod(descriptor, _SHARED_MODE)
        except FileExistsError:  # without O_CREAT, which the kernel refuses to other users in a sticky directory
            descriptor = os.open(path, flags)
    except OSError as error:
        why = "it is a link" if error.errno == errno.ELOOP else error.strerror
        raise StoreError("lock file cannot be opened", path, f"{why}; remove it, or set HARNESS_LOCK_DIR") from None
    seen = os.fstat(descriptor)
    why = ""
    if not stat.S_ISREG(seen.st_mode):
        why = "it is no regular file"
    elif seen.st_nlink != 1:
        why = "it has another name too"
    elif not shared and seen.st_uid not in (os.geteuid(), 0, folder.st_uid):
        why = f"it belongs to user {seen.st_uid}"
    if why:
        os.close(descriptor)
        raise _refused(path, why)
    return descriptor


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the lock, if nobody has it; it is held until the descriptor is closed."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refused(path: Path, why: str) -> StoreError:
    return StoreError("lock is not to be trusted", path, f"{why}; remove it, or set HARNESS_LOCK_DIR")
