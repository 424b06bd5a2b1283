"""Two campaigns never share a GPU, or the machine where there is none: one lock file each, held by flock.

The kernel lets a lock go when its holder dies, however it dies; the file stays and says who had it last. `base/files.py` says
where the files stand.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import TargetError
from harness.base.files import lock_dir, open_lock, try_lock
from harness.base.loopback import is_loopback
from harness.config.target import TargetSpec
from harness.measure.observe.boards.choice import visible_devices
from harness.measure.observe.boards.nvml import open_gpus

_WAIT_S = 1.0
_MACHINE = "machine"


def lock_names(targets: Sequence[TargetSpec]) -> list[str]:
    """What the targets compute on here: `gpu-UUID` for each board or MIG slice, `machine` where NVML shows none.

    Hosted targets, hybrids (their sides are targets too) and servers on other machines need none; an adopted server here may be on any GPU.
    """
    names: set[str] = set()
    for target in targets:
        if target.kind in ("hosted", "hybrid") or (target.url is not None and not is_loopback(target.url)):
            continue
        gpus = open_gpus((), None if target.url is not None else visible_devices({**os.environ, **target.env}))
        if isinstance(gpus, str):
            names.add(_MACHINE)
            continue
        for board in gpus.static():
            names |= {f"gpu-{uuid}" for uuid in board["mig_slices_watched"] or [board["uuid"]]}
        gpus.close()
    return sorted(names)


@contextmanager
def hold(
    names: Sequence[str], campaign: str, *, wait: bool, say: Callable[[str], None]
) -> Iterator[Callable[[str], None]]:
    """Hold the locks, taken in order, while the body runs; `wait` for others instead of refusing. What it gives changes the name
    that the locks are held under.

    Raises TargetError naming the holder, StoreError where there can be no lock files.
    """
    held: list[int] = []

    def rename(to: str) -> None:
        for descriptor in held:
            _sign(descriptor, to)

    with ExitStack() as stack:
        for name in names:
            path = lock_dir() / f"{name}.lock"
            what = "this machine's server" if name == _MACHINE else f"GPU {name.removeprefix('gpu-')}"
            held.append(stack.enter_context(_held(path, what, campaign, wait=wait, say=say)))
        yield rename


@contextmanager
def hold_file(path: Path, campaign: str) -> Iterator[None]:
    """Hold one campaign itself. Raises TargetError where another process runs it."""
    with _held(path, f"campaign {campaign}", campaign, wait=False, say=lambda _: None):
        yield


@contextmanager
def _held(path: Path, what: str, campaign: str, *, wait: bool, say: Callable[[str], None]) -> Iterator[int]:
    descriptor = open_lock(path)
    try:
        said = False
        while not try_lock(descriptor):
            holder = _holder(descriptor)
            if not wait:
                advice = "wait for it with --wait-lock, or end it"
                raise TargetError(f"{what} is in use by another campaign", holder, advice)
            if not said:
                say(f"waiting for {what}: {holder}")
                said = True
            clock.sleep(_WAIT_S)
        _sign(descriptor, campaign)
        yield descriptor
    finally:
        os.close(descriptor)


def _sign(descriptor: int, campaign: str) -> None:
    now = clock.utc_now().isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "campaign": campaign, "since_utc": now})
    with contextlib.suppress(OSError):  # who holds it is a courtesy; that it is held is the kernel's
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        data: dict[str, Any] = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {data['pid']}, campaign {data['campaign']}, since {data['since_utc']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "held by a process that has not said who it is"
