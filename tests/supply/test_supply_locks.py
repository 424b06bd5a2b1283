"""What `make` installs is held to hashes: the lists are whole, and a file that is another one is refused by pip itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from harness.measure.gpu_build import GPU_LISTS, InstallError
from harness.measure.targets.wheels import install_lists
from tests.supply import tiny_wheel
from tests.supply.locks import CONSTRAINTS, LOCKS, ROOT, UNHASHED, package, pins

MAKEFILE = (ROOT / "Makefile").read_text()
NAMES = sorted(path.stem for path in CONSTRAINTS.glob("*.txt"))


def versions(text: str) -> dict[str, str]:
    """Package -> version, in a list with or without hashes."""
    return {package(line): line.partition("==")[2].split()[0] for line in pins(text) if "==" in line}


def hashed(name: str) -> dict[str, list[str]]:
    """Package -> its hashes in a lock."""
    blocks = re.split(r"^(?=[A-Za-z0-9])", (LOCKS / f"{name}.txt").read_text(), flags=re.MULTILINE)[1:]
    return {package(block): re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block) for block in blocks}


def unhashed(name: str) -> str:
    path = LOCKS / f"{name}-unhashed.txt"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize("name", NAMES)
def test_every_version_has_hashes_or_stands_in_the_list_that_says_why_not(name):
    """Lock and unhashed list hold what the constraints hold, each package once and in its version; locks are made anew after an edit."""
    lock, rest = versions((LOCKS / f"{name}.txt").read_text()), versions(unhashed(name))
    assert not lock.keys() & rest.keys()
    assert lock | rest == versions((CONSTRAINTS / f"{name}.txt").read_text()), "run: make locks"
    assert {key for key, hashes in hashed(name).items() if not hashes} == set()


@pytest.mark.parametrize("name", GPU_LISTS)
def test_a_gpu_builds_lock_says_how_large_its_wheels_are(name):
    """The set-up and `harness doctor` say how much disk a GPU build takes before it is downloaded."""
    assert (
        3e9
        < int(re.search(r"^# Its wheels .* take (\d+) bytes", (LOCKS / f"{name}.txt").read_text(), re.MULTILINE)[1])
        < 9e9
    )


@pytest.mark.parametrize("path", sorted(LOCKS.glob("*-unhashed.txt")), ids=lambda path: path.stem)
def test_only_torch_goes_without_hashes_and_its_list_says_why(path):
    """An unhashed list names torch and torchvision at most, and its first lines name them and the reason."""
    text = path.read_text()
    reason = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert versions(text).keys() <= set(UNHASHED)
    assert all(name in reason for name in versions(text))
    assert "other builds" in reason


def test_every_lock_is_of_a_list():
    """No lock stays behind when its list of versions goes."""
    assert {path.stem.removesuffix("-unhashed") for path in LOCKS.glob("*.txt")} == set(NAMES)


def test_the_lists_hold_all_that_the_project_needs():
    """pip asks for no dependencies any more, so base, build and dev must be closed under them (of this Python), in fitting versions, and
    with cluster, where it is installed, those of the extras ray and s3."""
    lists, extras = ["base", "build", "dev"], ["dev"]
    if _is_installed("ray") and _is_installed("s3fs"):
        lists, extras = [*lists, "cluster"], [*extras, "ray", "s3"]
    listed = {}
    for name in lists:
        listed |= versions((LOCKS / f"{name}.txt").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["build-system"]["requires"], *project["project"]["dependencies"]]
    asked += [word for extra in extras for word in project["project"]["optional-dependencies"][extra]]
    todo = [Requirement(word) for word in asked]
    seen = set()
    while todo:
        need = todo.pop()
        name = package(need.name)
        extras = need.extras or {""}
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        assert name in listed, f"{need} is in no list"
        assert need.specifier.contains(listed[name], prereleases=True), (str(need), listed[name])
        for extra in extras - {extra for extra in extras if (name, extra) in seen}:
            seen.add((name, extra))
            inner = [Requirement(word) for word in metadata.requires(name) or ()]
            todo += [
                Requirement(str(one).partition(";")[0])
                for one in inner
                if one.marker is None or one.marker.evaluate({"extra": extra})
            ]


def _is_installed(name: str) -> bool:
    try:
        return bool(metadata.version(name))
    except metadata.PackageNotFoundError:
        return False


def test_the_build_backend_is_the_locked_one():
    """pyproject.toml's build requirement is the exact version of build.txt, which is installed before the project is built."""
    requires = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert requires == [f"hatchling=={versions((LOCKS / 'build.txt').read_text())['hatchling']}"]


@pytest.mark.parametrize("path", ["Makefile", "configs/deploy/container/Containerfile"])
def test_no_install_fetches_what_is_not_hashed(path):
    """Every `pip install` asks for no dependencies, and either demands hashes or builds the project with what is there."""
    text = (ROOT / path).read_text().replace("\\\n", " ")
    commands = re.findall(r"pip install [^\n&]*", text)
    assert len(commands) >= 2
    for command in commands:
        assert "--no-deps" in command
        assert "--require-hashes --only-binary :all:" in command or "--no-build-isolation" in command, command


# ---------------------------------------------------------------- pip itself


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory with one wheel as pip's only source, and a folder to install into; returns the wheel's sha256."""
    folder = tmp_path / "index"
    digest = tiny_wheel.make(folder, "pinned-thing", "1.0")
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    return digest


def lock(folder: Path, digest: str) -> Path:
    path = folder / "lock.txt"
    path.write_text(f"pinned-thing==1.0 \\\n    --hash=sha256:{digest}\n")
    return path


def one_digit_off(digest: str) -> str:
    return digest[:-1] + ("0" if digest[-1] != "0" else "1")


def makes_pip(path: Path) -> subprocess.CompletedProcess:
    """The Makefile's own pip command, of this Python."""
    words = re.search(r"^LOCKED := (.+)$", MAKEFILE, re.MULTILINE)[1].split()
    return subprocess.run([sys.executable, *words, "-r", str(path)], capture_output=True, text=True, check=False)


def test_make_setup_refuses_a_file_of_another_hash(index, tmp_path):
    """The Makefile's command installs the wheel by its hash, and nothing where one digit is another."""
    done = makes_pip(lock(tmp_path, one_digit_off(index)))
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not (tmp_path / "site").exists()
    done = makes_pip(lock(tmp_path, index))
    assert (done.returncode, (tmp_path / "site" / "pinned_thing.py").exists()) == (0, True), done.stderr


def test_make_setup_refuses_a_package_without_a_hash(index, tmp_path):
    """A line that somebody adds without a hash stops the whole command."""
    path = tmp_path / "lock.txt"
    path.write_text("pinned-thing==1.0\n")
    done = makes_pip(path)
    assert done.returncode != 0
    assert "hash" in done.stderr.lower()


def test_the_vllm_set_up_refuses_a_file_of_another_hash(index, tmp_path):
    """`harness.measure.targets.install` says that the file is another one than its list names; with the right hash it installs."""
    nothing = tmp_path / "unhashed.txt"
    nothing.write_text("# nothing\n")
    with pytest.raises(InstallError, match=r"a file is not the one that lock\.txt names"):
        install_lists(lock(tmp_path, one_digit_off(index)), nothing, (1, 0))
    install_lists(lock(tmp_path, index), nothing, (1, 0))
    assert (tmp_path / "site" / "pinned_thing.py").exists()
