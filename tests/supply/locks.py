"""Writes configs/locks from configs/constraints: the same versions, with the hashes of every file that PyPI has of them.

    make locks [LISTS=vllm-cu12]

uv collects the hashes, for every platform and Python at once, and never chooses a version. What UNHASHED names goes into a
list of its own, `LIST-unhashed.txt`, whose first lines say why. A list of a GPU build says how large its wheels are: the
set-up and `harness doctor` read that.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "configs" / "constraints"
LOCKS = ROOT / "configs" / "locks"
UNHASHED = ("torch", "torchvision")
_HEADER = (
    "# Made by `make locks` from configs/constraints/{name}.txt: edit that. Every file is held to the hashes here.\n"
)
_UNHASHED_HEADER = (
    "# Made by `make locks` from configs/constraints/{name}.txt: edit that. Not held to hashes, and installed by a command of its own:\n"
    "# torch and torchvision have other builds under the same version (PyPI's, those of PyTorch's own index, files on the machine that\n"
    "# pip's find-links names), each with other hashes, and the +cpu builds are not on PyPI at all.\n"
)
_SIZE = "# Its wheels for Linux x86-64 and Python 3.11 take {size} bytes, torch's included.\n"


def pins(text: str) -> list[str]:
    """A list's lines without its comments: `name==version`, some with a marker."""
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def package(pin: str) -> str:
    """A pin's package, in PyPI's spelling of names."""
    return re.sub(r"[-_.]+", "-", pin.partition("==")[0]).lower()


def hashed(lines: list[str]) -> str:
    """The pins with their hashes, by uv. Raises CalledProcessError where uv fails (it says why on stderr)."""
    words = ("pip", "compile", "--quiet", "--no-config", "--no-deps", "--universal", "--generate-hashes")
    words += ("--no-header", "--no-annotate", "--python-version", "3.11", "-")
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


def wheel_bytes(lines: list[str]) -> int:
    """Sum of the wheels that Linux x86-64 with Python 3.11 takes, the largest of each package, as the index tells it."""
    words = ("pip", "compile", "--quiet", "--no-config", "--no-deps", "--no-header", "--format", "pylock.toml")
    words += ("--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_39", "-")
    done = subprocess.run(
        [sys.executable, "-m", "uv", *words], input="\n".join(lines), stdout=subprocess.PIPE, text=True, check=True
    )
    packages = tomllib.loads(done.stdout)["packages"]
    return sum(max(wheel["size"] for wheel in one["wheels"]) for one in packages)


def main(names: list[str]) -> int:
    """Write the locks of `names`, or all, the unhashed lists included."""
    for path in sorted(CONSTRAINTS.glob("*.txt")):
        if names and path.stem not in names:
            continue
        lines = pins(path.read_text(encoding="utf-8"))
        without = [line for line in lines if package(line) in UNHASHED]
        header = _HEADER.format(name=path.stem)
        if any(package(line).startswith("nvidia-cuda-runtime") for line in lines):
            header += _SIZE.format(size=wheel_bytes(lines))
        lock = header + hashed([line for line in lines if line not in without])
        (LOCKS / path.name).write_text(lock, encoding="utf-8")
        if without:
            text = _UNHASHED_HEADER.format(name=path.stem) + "\n".join(without) + "\n"
            (LOCKS / f"{path.stem}-unhashed.txt").write_text(text, encoding="utf-8")
        print(
            f"{path.name}: {len(lines) - len(without)} packages with {lock.count('--hash=')} hashes, {len(without)} without"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
