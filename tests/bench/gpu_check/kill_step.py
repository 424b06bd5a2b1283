"""kill -9 of a run that measures: its server's processes and the boards' memory are gone, its rows are not."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from harness.base import clock
from harness.measure.observe.boards.gpus import UNOWNED_BYTES
from harness.store.reader import read_run
from tests.bench.gpu_check import experiments
from tests.bench.gpu_check.nvml_steps import open_all
from tests.bench.gpu_check.step import HARNESS, Figures, Place, Step, StepError, finish, last_lines, now_s, started

_POLL_S = 0.2


def wait_for(condition: Callable[[], Any], what: str, limit_s: float) -> Any:
    """The first true value. Raises StepError where none comes in time."""
    end_s = now_s() + limit_s
    while not (found := condition()):
        if now_s() > end_s:
            raise StepError(f"waited {limit_s:.0f} s in vain for {what}")
        clock.sleep(_POLL_S)
    return found


_BACK_S = 60.0


def _kill(place: Place) -> Figures:
    folder = place.folder("kill")
    out = folder / f"runs-{len(list(folder.glob('runs-*')))}"
    load = {"concurrency": [8], "requests": 20_000}
    path = experiments.write(
        place.on_cpu(), "kill", [experiments.target(place.on_cpu(), "server")], [load], warmup_requests=4
    )
    before = _held(place)
    with started([*HARNESS, "run", str(path), "--out", str(out)], folder / "run.log") as process:

        def measuring() -> list[Path]:
            if process.poll() is not None:
                raise StepError(f"harness run ended by itself: {last_lines(folder / 'run.log')}")
            return [part.parents[1] for part in out.glob("*/parts/requests-*.parquet")]

        run_dir = wait_for(measuring, "the first stored rows", 900)[0]
        tree = psutil.Process(process.pid).children(recursive=True)
        during, rss_bytes = _held(place), _rss_bytes(tree)
        process.send_signal(signal.SIGKILL)
        killed_s = now_s()
        process.wait()
        gone = _gone(tree, killed_s)
        after = _settled(place, before)
    code = finish([*HARNESS, "recover", str(run_dir)], folder / "recover.log", 300)
    rows = len(read_run(run_dir).requests)
    found = {
        "processes": len(tree), "rss_bytes": rss_bytes, "gone_s": gone, "left": [p.pid for p in tree if p.is_running()],
        "held_before_bytes": before, "held_during_bytes": during, "held_after_bytes": after,
        "recover": code, "rows": rows, "planned": load["requests"],
    }  # fmt: skip
    board = "" if not before else f", boards {_gib(before)} before, {_gib(during)} during, {_gib(after)} after"
    found["said"] = (
        f"{len(tree)} processes of {rss_bytes / 2**30:.1f} GiB gone {_shown(gone)} after kill -9{board}; {rows:,} rows kept"
    )
    return found


def _shown(seconds: float | None) -> str:
    return f"not within {_BACK_S:g} s" if seconds is None else f"{seconds:.1f} s"


def _gib(held: Mapping[str, int]) -> str:
    return f"{sum(held.values()) / 2**30:.1f} GiB"


def _held(place: Place) -> dict[str, int]:
    """Memory in use by board, empty without NVML."""
    if place.no_gpu is not None:
        return {}
    gpus = open_all()
    try:
        return gpus.used_bytes()
    finally:
        gpus.close()


def _rss_bytes(tree: list[psutil.Process]) -> int:
    total = 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total


def _gone(tree: list[psutil.Process], since_s: float) -> float | None:
    """Seconds until no process of the tree was left (a zombie holds nothing); None if some are after _BACK_S."""

    def over() -> bool:
        return all(not p.is_running() or _status(p) == psutil.STATUS_ZOMBIE for p in tree)

    with contextlib.suppress(StepError):
        wait_for(over, "the server's end", _BACK_S)
        return now_s() - since_s
    return None


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return psutil.STATUS_ZOMBIE


def _settled(place: Place, before: Mapping[str, int]) -> dict[str, int]:
    """What the boards hold when that is back, or _BACK_S have passed."""
    with contextlib.suppress(StepError):
        wait_for(lambda: not _more(before, _held(place)), "the boards' memory", _BACK_S)
    return _held(place)


def _more(before: Mapping[str, int], after: Mapping[str, int]) -> list[str]:
    return [uuid for uuid, held in after.items() if held > before.get(uuid, 0) + UNOWNED_BYTES]


def check_kill(found: Mapping[str, Any]) -> list[str]:
    """Every process of the server is gone, the boards hold what they held before, and the rows of the killed run can be read."""
    wrong = []
    if found["gone_s"] is None:
        wrong.append(f"processes left {_BACK_S:g} s after kill -9: {found['left']}")
    before, after = found["held_before_bytes"], found["held_after_bytes"]
    wrong += [
        f"{uuid} holds {(after[uuid] - before.get(uuid, 0)) / 2**20:,.0f} MiB more than before"
        for uuid in _more(before, after)
    ]
    if before and not _more(before, found["held_during_bytes"]):
        wrong.append("the boards held no more memory while the server ran than before: was it on them?")
    if found["recover"] != 0:
        wrong.append(f"harness recover ends with {found['recover']}")
    if not 0 < found["rows"] <= found["planned"]:
        wrong.append(f"{found['rows']} rows of the killed run can be read")
    return wrong


STEPS = (
    Step(
        "kill",
        "kill -9 of harness run while it measures, then harness recover",
        f"all processes of its server are gone within {_BACK_S:g} s, memory is back, the rows are there",
        3,
        ("vllm",),
        _kill,
        check_kill,
    ),
)
