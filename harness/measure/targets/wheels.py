"""What pip brings for `install`: the lists of packages, a folder of their wheels, FlashInfer's compiled kernels. Standard library only:
nothing else is installed yet.

Without the package flashinfer-cubin, or nvcc and ninja, vLLM 0.32 turns FlashInfer off; without flashinfer-jit-cache it compiles
at the server's start (vllm/utils/flashinfer.py). Where the list does not pin them (the index of the list has none of that
FlashInfer) they come by vLLM's own `download-kernels`: from FlashInfer's index, not held to hashes, which is said.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from harness.base import clock
from harness.measure import gpu_build
from harness.measure.gpu_build import InstallError, lock_files

_HEARTBEAT_S = 10.0
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# No package that is not listed, and no source archive: its build would fetch what no list names.
_LISTED_ONLY = ("--progress-bar", "off", "--no-deps", "--only-binary", ":all:")
_OURS = ("base", "build", "dev")
_KERNELS = ("-m", "vllm.entrypoints.cli.main", "download-kernels")
_KERNELS_TIMEOUT_S = 3600.0


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


class _Progress:
    """Says what pip is at: a package a line while it collects, a sign of life while it is silent."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.collected = 0
        self.doing = "asking the package index"
        self.lines: list[str] = []
        self.started_ns = clock.monotonic_ns()
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._heartbeat, daemon=True)

    def _heartbeat(self) -> None:
        while not self._stop.wait(_HEARTBEAT_S):
            say(f"  .. {self.doing}, {(clock.monotonic_ns() - self.started_ns) / clock.NS:.0f} s")

    def read(self, stream: IO[str]) -> None:
        """Follow pip's output to its end."""
        self._beat.start()
        try:
            for line in stream:
                self._take(line.strip())
        finally:
            self._stop.set()
            self._beat.join()

    def _take(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith(("Collecting ", "Requirement already satisfied")):
            self.collected += 1
            name = line.removeprefix("Collecting ").removeprefix("Requirement already satisfied: ").split(" ")[0]
            self.doing = f"[{self.collected}/{self.total}] {name}"
        elif line.startswith(("Downloading ", "Using cached ")) and " MB)" in line:
            say(f"  [{self.collected}/{self.total}] {line}")
        elif line.startswith("Installing collected packages"):
            self.doing = f"unpacking {line.count(',') + 1} packages"
            say(f"  {self.doing} (this is silent for about a minute)")
        elif line.startswith(("ERROR", "error")):
            say(f"  pip: {line}")


def pip(arguments: list[str], total: int) -> tuple[int, list[str]]:
    """Run pip of this Python with `arguments`, for `total` packages; returns its exit status and lines."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    progress = _Progress(total)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        progress.read(process.stdout)
    return process.returncode, progress.lines


def uninstall(names: list[str]) -> None:
    """Raises InstallError."""
    code, lines = pip(["uninstall", "-y", *names], len(names))
    if code:
        raise InstallError(
            f"pip could not remove packages\n{lines[-1] if lines else ''}\nremove {', '.join(names)} by hand"
        )


def torch_not_found(lines: list[str]) -> bool:
    """Whether pip failed because the index has no `+cpu` build of torch or torchvision."""
    return any(
        re.search(r"(No matching distribution found for|satisfies the requirement) torch(vision)?==\S*\+cpu", line)
        for line in lines
    )


def _from(wheels: Path | None) -> tuple[str, ...]:
    return () if wheels is None else ("--no-index", "--find-links", str(wheels))


def install_lists(locked: Path, unhashed: Path, totals: tuple[int, int], wheels: Path | None = None) -> str:
    """Run pip for either list; torch's once more with PyTorch's CPU index where its builds are missing. Returns who served."""
    served = "pip's own index" if wheels is None else str(wheels)
    words = ["install", *_from(wheels), *_LISTED_ONLY]
    arguments = [*words, "-r", str(unhashed)]
    code, lines = pip(arguments, totals[1])
    if code and wheels is None and torch_not_found(lines):
        say(f"torch's +cpu build is not on pip's own index: once more with {_CPU_INDEX}")
        code, lines = pip([*arguments, "--extra-index-url", _CPU_INDEX], totals[1])
        served = f"pip's own index and {_CPU_INDEX}"
    if code == 0:
        code, lines = pip([*words, "--require-hashes", "-r", str(locked)], totals[0])
    if code:
        raise _failure(code, lines, locked.name, wheels)
    return served


def _failure(code: int, lines: list[str], name: str, wheels: Path | None) -> InstallError:
    """pip's failure in three lines."""
    if any("No module named pip" in line for line in lines):
        return InstallError(f"this Python has no pip\n{sys.executable}\nrun: {sys.executable} -m ensurepip")
    last = " | ".join(line for line in lines[-4:] if line)[:500]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        return InstallError(f"a file is not the one that {name} names\n{last}\nask the package index's owner why")
    missing = next(
        (match[1] for line in lines if (match := re.search(r"No matching distribution found for (\S+)", line))), None
    )
    if wheels is not None and missing:
        fill = f"fill it where there is a network: python -m harness.measure.targets.install --download DIR, Python {sys.version_info[0]}.{sys.version_info[1]}"
        return InstallError(f"the folder of wheels lacks a package\n{missing}, looked for in {wheels}\n{fill}")
    return InstallError(
        f"pip failed (exit status {code})\n{last}\ncheck the network and the disk's free space, then run this again"
    )


def download(name: str, folder: Path) -> None:
    """Fill `folder` with every wheel that `make vllm WHEELS=folder` takes, the harness's own too. Raises InstallError."""
    folder.mkdir(parents=True, exist_ok=True)
    locked, unhashed = lock_files(name)
    words = ["download", "--dest", str(folder), *_LISTED_ONLY]
    for path in (unhashed, *(lock_files(one)[0] for one in _OURS), locked):
        hashes = () if path == unhashed else ("--require-hashes",)
        total = len(re.findall(r"^[A-Za-z0-9]", path.read_text(encoding="utf-8"), re.MULTILINE))
        arguments = [*words, *hashes, "-r", str(path)]
        code, lines = pip(arguments, total)
        if code and torch_not_found(lines):
            code, lines = pip([*arguments, "--extra-index-url", _CPU_INDEX], total)
        if code:
            raise _failure(code, lines, path.name, None)
    say(
        f"{folder} holds the wheels of {name} for {sys.platform}, Python {sys.version_info[0]}.{sys.version_info[1]}: make vllm WHEELS={folder}"
    )


# ---------------------------------------------------------------- FlashInfer's kernels


def kernels_plan(wanted: Mapping[str, str], wheels: Path | None) -> str | None:
    """What `fetch_kernels` would do, None where nothing is to be done: no FlashInfer, or the list itself holds its kernels."""
    version = wanted.get("flashinfer-python")
    if version is None or "flashinfer-cubin" in wanted:
        return None
    if wheels is not None:
        names = ", ".join(path.name for path in kernels_in(wheels, version)) or "none is there"
        return f"install FlashInfer's kernels {version} from {wheels}: {names}"
    return f"download FlashInfer's kernels {version} by vLLM's own command, not held to hashes (--no-kernels leaves them out)"


def fetch_kernels(wanted: Mapping[str, str], wheels: Path | None) -> bool:
    """Bring the kernels that belong to the list's FlashInfer; whether there was anything to do. A failure is said, for vLLM
    serves without them, only otherwise."""
    coming = kernels_plan(wanted, wheels)
    state = gpu_build.flashinfer()
    if coming is None or (state.complete and state.python == wanted["flashinfer-python"]):
        return False
    say(coming)
    why = _kernels_from(wheels, wanted["flashinfer-python"]) if wheels is not None else _kernels_by_vllm()
    if why is not None:
        say(f"note: FlashInfer's kernels are not there ({why}): vLLM turns FlashInfer off, or compiles at each start")
        say(f"later: {sys.executable} {' '.join(_KERNELS)}")
    return True


def kernels_in(wheels: Path, version: str) -> list[Path]:
    """Wheels of the kernels of FlashInfer `version`: flashinfer-cubin, flashinfer-jit-cache and its parts for boards."""
    return sorted(
        path
        for pattern in ("flashinfer_cubin-{}-*.whl", "flashinfer_jit_cache*-{}-*.whl", "flashinfer_jit_cache*-{}+*.whl")
        for path in wheels.glob(pattern.format(version))
    )


def _kernels_from(wheels: Path, version: str) -> str | None:
    kernels = kernels_in(wheels, version)
    if not kernels:
        return f"no flashinfer_cubin-{version}-*.whl in {wheels}"
    code, lines = pip(["install", "--no-index", "--no-deps", *map(str, kernels)], len(kernels))
    return None if code == 0 else (lines or ["pip said nothing"])[-1]


def _kernels_by_vllm() -> str | None:
    """vLLM's own step, its output passed on; None if it worked, else why not."""
    try:
        done = subprocess.run([sys.executable, "-P", *_KERNELS], timeout=_KERNELS_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{type(error).__name__}"
    return None if done.returncode == 0 else f"exit status {done.returncode}"
