"""harness.measure.nvidia_driver: what shows of a driver, and which CUDA it runs."""

from __future__ import annotations

import pytest

from harness.measure import nvidia_driver
from harness.measure.nvidia_driver import Box, look
from tests.fakes.driver import boxes

NONE = "libno-such-nvml.so.1"


@pytest.fixture(autouse=True)
def no_tools(monkeypatch, tmp_path):
    """No nvidia-smi of this machine is asked."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return boxes.build(tmp_path_factory.mktemp("driver"), "libnvidia-ml.so.1")


@pytest.fixture(scope="module")
def cuda_library(tmp_path_factory):
    return boxes.build(tmp_path_factory.mktemp("cuda"), "libcuda.so.1")


@pytest.mark.parametrize("driver", ["535.183.01", "550.54.15", "570.26", "580.65.06", "590.44.01"])
@pytest.mark.parametrize("banner", [boxes.CLOSED, boxes.OPEN], ids=["closed", "open"])
def test_a_container_without_nvml_and_nvidia_smi_has_a_gpu(tmp_path, driver, banner):
    """/dev/nvidiaN is a GPU; the version is read from /proc where sysfs does not show it, of either kernel module."""
    root = boxes.box(tmp_path / "box", driver, boards=8, nodes=1, banner=banner, sysfs=False)
    assert look(root, NONE) == Box(driver, "/proc/driver/nvidia/version", 1, "/dev/nvidia0", 8)


def test_sysfs_tells_the_driver_first(tmp_path):
    """/sys/module/nvidia/version is the loaded module's."""
    root = boxes.box(tmp_path / "box", "570.26", boards=2)
    (root / "proc/driver/nvidia/version").unlink()
    assert look(root, NONE) == Box("570.26", "/sys/module/nvidia/version", 2, "/dev/nvidia0", 2)


def test_a_container_that_was_given_no_board_has_no_gpu(tmp_path):
    """The host's driver shows in /proc and /sys of every container; without a device node nothing can be used."""
    found = look(boxes.box(tmp_path / "box", "580.65.06", boards=8, nodes=0), NONE)
    assert (found.has_gpu, found.listed, found.driver) == (False, 8, "580.65.06")


def test_a_machine_without_a_driver_has_no_gpu(tmp_path):
    """Nothing shows, nothing is guessed."""
    assert look(boxes.box(tmp_path / "box", None), NONE) == Box(None, "", 0, "", 0)


def test_nvml_is_asked_first(tmp_path, monkeypatch, library):
    """NVML's version and count stand above the kernel's files: under WSL there are none."""
    monkeypatch.setenv("FAKE_DRIVER_VERSION", "575.51.03")
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "4")
    assert look(boxes.box(tmp_path / "wsl", None), library) == Box("575.51.03", "NVML", 4, "NVML", 0)
    monkeypatch.setenv("FAKE_DRIVER_NVML", "9")
    assert look(boxes.box(tmp_path / "no-driver", None), library) == Box(None, "", 0, "", 0)


@pytest.mark.parametrize(
    ("said", "status", "gpus"),
    [("GPU 0: NVIDIA H100\\nGPU 1: NVIDIA H100", 0, 2), ("No devices were found", 0, 0), ("GPU 0: x", 9, 0)],
    ids=["two", "none", "fails"],
)
def test_nvidia_smi_is_asked_where_nvml_does_not_tell(tmp_path, monkeypatch, said, status, gpus):
    """What nvidia-smi lists counts, unless it fails."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{said}\\n'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert look(boxes.box(tmp_path / "box", None), NONE).gpus == gpus


@pytest.mark.parametrize(
    ("driver", "cuda", "answer"),
    [
        ("535.183.01", "13.0", "no"), ("550.54.15", "13.0", "no"), ("570.26", "13.0", "no"), ("580.65.05", "13.0", "no"),
        ("580.65.06", "13.0", "yes"), ("590.44.01", "13.0", "yes"), ("580.95.05", "13.1", "minor"),
        ("470.82.01", "12.8", "no"), ("525.60.13", "12.8", "minor"), ("535.183.01", "12.8", "minor"),
        ("570.26", "12.8", "yes"), ("590.44.01", "12.8", "yes"), ("999.1", "14.0", "unknown"),
    ],
)  # fmt: skip
def test_which_cuda_a_driver_runs(driver, cuda, answer):
    """The floor is the major version's; below the toolkit's own driver it is minor version compatibility."""
    assert nvidia_driver.runs(driver, cuda) == answer


def test_fabric_states_are_nvmls(monkeypatch, library):
    """A state a board; boards that do not know the question, and a machine without NVML, have none."""
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "8")
    assert nvidia_driver.fabric_states(library) == []
    monkeypatch.setenv("FAKE_DRIVER_FABRIC", "2")
    assert nvidia_driver.fabric_states(library) == [2] * 8
    assert nvidia_driver.fabric_states(NONE) == []


def test_cuda_works_only_where_cuinit_says_so(monkeypatch, cuda_library):
    """A fabric manager that is down is 802; no device, and no library, are problems too."""
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "8")
    assert nvidia_driver.cuda_problem_here(cuda_library) is None
    monkeypatch.setenv("FAKE_DRIVER_CUDA", "802")
    assert "nvidia-fabricmanager" in nvidia_driver.cuda_problem_here(cuda_library)
    monkeypatch.setenv("FAKE_DRIVER_CUDA", "0")
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "0")
    assert "there are 0 devices" in nvidia_driver.cuda_problem_here(cuda_library)
    assert "libcuda.so.1 cannot be used" in nvidia_driver.cuda_problem_here(NONE)
