"""The rules of files: whole or not at all, kept and locked where no other user can meddle, and how a full disk is told.

Every lock file is opened here: nobody else can make us write through a link, or into a file of his that was not meant for it. Locks
of what a machine has once stand in HARNESS_LOCK_DIR, else in a directory of this user's own. Users of one machine who must not
measure at the same time name one directory: root's, mode 1777. The kernel lets a lock go when its holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeGuard

from harness.base.errors import ConfigError, StoreError

NO_ROOM_EXIT_CODE = 28  # of a worker that found no room: its last words may have found none either
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_HARNESS = Path(__file__).resolve().parents[1]
# Not XDG_RUNTIME_DIR: a timer has none, and it goes when its user logs out, with the locks of what still runs.
_OWN = "/tmp/vllm-cost-harness-locks-{uid}"  # noqa: S108 - checked to be this user's, and private
_SHARED_MODE = 0o666


# ---------------------------------------------------------------- written whole


@contextmanager
def whole_file(path: Path, *, new: bool = False, synced: bool = True) -> Iterator[Path]:
    """A name beside `path`, ending in .tmp, to write to; after the block the file is there under `path`, in one step, and on the disk
    itself unless `synced` is False. Of a block that raises nothing stays.

    `new`: raises FileExistsError where there is a file already. Raises OSError.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.tmp")  # another process may write the same file
    try:
        yield part
        if synced:
            _sync(part)
        if new:
            os.link(part, path)
        else:
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink()
    if synced:
        with suppress(OSError):  # there are filesystems that sync no directory
            _sync(path.parent)


def write_whole(path: Path, content: str | bytes, *, new: bool = False, synced: bool = True) -> None:
    """Write text (UTF-8) or bytes as `whole_file` does. Raises OSError."""
    with whole_file(path, new=new, synced=synced) as part:
        part.write_bytes(content.encode() if isinstance(content, str) else content)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- a full disk, told apart in every process of ours


def is_no_room(error: BaseException) -> TypeGuard[OSError]:
    """True for a full disk, a quota and a limit on a file's size."""
    return isinstance(error, OSError) and error.errno in _NO_ROOM


def no_room(what: str, path: Path, error: OSError) -> StoreError:
    """The error of `what` that found no room at `path`."""
    advice = "free disk space or write elsewhere (--out DIR); what was stored is readable"
    return StoreError(f"no room on disk for {what}", f"{path}: {error.strerror}", advice)


# ---------------------------------------------------------------- places


def data_dir(name: str) -> Path:
    """`workloads` or `configs`: inside the installed package, else beside it in a checkout."""
    packaged = _HARNESS / "_data" / name
    return packaged if packaged.is_dir() else _HARNESS.parent / name


def cache_dir(name: str) -> Path:
    """`$XDG_CACHE_HOME/vllm-cost-harness/NAME` (else under `~/.cache`), made if needed: for prepared models, compiled code,
    calibrations and records of running servers. Raises ConfigError."""
    return _own_dir("cache", "XDG_CACHE_HOME", ".cache", name)


def state_dir(name: str) -> Path:
    """`$XDG_STATE_HOME/vllm-cost-harness/NAME` (else under `~/.local/state`), made if needed: for what must not be lost with a cache.
    Raises ConfigError."""
    return _own_dir("state", "XDG_STATE_HOME", ".local/state", name)


def _own_dir(what: str, variable: str, otherwise: str, name: str) -> Path:
    setting = os.environ.get(variable, "")
    # The XDG rule: a relative value is invalid and counts as unset.
    root = Path(setting) if Path(setting).is_absolute() else Path.home() / otherwise
    path = root / "vllm-cost-harness" / name
    try:
        for folder in (root, path.parent, path):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _close(path.parent)
        _close(path)
    except OSError as error:
        raise ConfigError(f"the {what} directory cannot be made", path, f"{error.strerror}; set {variable}") from None
    return path


def _close(folder: Path) -> None:
    """Others may not write into a directory of ours, whatever the umask was when it was made."""
    status = folder.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o022:
        folder.chmod(stat.S_IMODE(status.st_mode) & ~0o022)


# ---------------------------------------------------------------- locks


def lock_dir() -> Path:
    """HARNESS_LOCK_DIR or this user's own directory, made (0700) if needed. Raises StoreError: it is not to be trusted."""
    shared = os.environ.get("HARNESS_LOCK_DIR")
    path = Path(shared or _OWN.format(uid=os.geteuid()))
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = path.stat() if shared else path.lstat()
    except OSError as error:
        raise StoreError("lock directory cannot be made", path, f"{error.strerror}; set HARNESS_LOCK_DIR") from None
    if not stat.S_ISDIR(status.st_mode):
        raise _refused(path, "it is no directory")
    if status.st_uid not in (os.geteuid(), 0) or (not shared and status.st_uid != os.geteuid()):
        raise _refused(path, f"it belongs to user {status.st_uid}")
    if not shared and status.st_mode & 0o077:
        raise _refused(path, f"others may use it (mode {stat.S_IMODE(status.st_mode):o}, not 700)")
    if status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
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
    status = os.fstat(descriptor)
    why = ""
    if not stat.S_ISREG(status.st_mode):
        why = "it is no regular file"
    elif status.st_nlink != 1:
        why = "it has another name too"
    elif not shared and status.st_uid not in (os.geteuid(), 0, folder.st_uid):
        why = f"it belongs to user {status.st_uid}"
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
