"""A server in a container: the engine's words, and its end, by a stand-in whose containers are no children of the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.base.errors import TargetError
from harness.measure.targets import open_target, vllm
from harness.measure.targets.at_hand import hub_folders
from harness.measure.targets.container import Container, named
from harness.measure.targets.server import proc, records
from harness.measure.targets.vocabulary import read_words
from tests.targets.target_spawning import make_package, spec
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "tests" / "fakes" / "fake_engine.py"
IMAGE = "vllm/vllm-openai:v0.32.0"


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A daemon, and its command `docker` first on PATH; a model, a cache and a HF_HOME of its own."""
    make_package(tmp_path)
    folder = tmp_path / "engine"
    (folder / "bin").mkdir(parents=True)
    docker = folder / "bin" / "docker"
    docker.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{ENGINE}" cli "{folder}" "$@"\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr("harness.measure.targets.server.process._CLOSE_GRACE_S", 0.5)
    monkeypatch.setattr("harness.measure.targets.vllm.read_words", lambda: read_words()[:60])
    with subprocess.Popen([sys.executable, str(ENGINE), "daemon", str(folder)], stdout=subprocess.PIPE) as daemon:
        daemon.stdout.readline()
        yield folder
        daemon.terminate()


def calls(engine: Path, verb: str) -> list[list[str]]:
    return [
        words for line in (engine / "calls.jsonl").read_text().splitlines() if (words := json.loads(line))[0] == verb
    ]


def boxed(place: Path, **more):
    env = {"FAKE_VLLM_MODE": "ok", "MY_SERVICE_TOKEN": "tok-0123456789abcdef", **more.pop("env", {})}
    return spec(place, image=IMAGE, **more).model_copy(update={"env": env})


def inside(place: Path) -> list[int]:
    """Live servers in containers: the stand-in with this test's model."""
    found = []
    for p in proc.everything():
        line = Path(f"/proc/{p.pid}/cmdline")
        try:
            words = line.read_bytes().decode().split("\0")
        except OSError:
            continue
        if not p.dead and any("fake_vllm.py" in word for word in words) and str(place / "some-model") in words:
            found.append(p.pid)
    return found


def test_a_server_in_a_container_is_started_read_back_and_removed(engine, tmp_path):
    """Its own process is among the pids, image and digest are in the checks, and after close there is no container."""
    with open_target(boxed(tmp_path, flags={"max_model_len": 512}), tmp_path / "c_own_rep1.log", str) as target:
        (server,) = inside(tmp_path)
        assert server in target.info.pids
        checks = target.info.checks
        assert checks["image"] == IMAGE
        assert checks["image_digest"].startswith("registry.example/vllm@sha256:abab")
        assert checks["image_id"].startswith("sha256:cdcd")
        assert target.info.max_model_len == 512
    assert inside(tmp_path) == []
    assert calls(engine, "rm")
    assert not list((tmp_path / "cache" / "vllm-cost-harness" / "servers").glob("*"))


def test_an_engine_that_told_no_process_yet_is_asked_when_the_server_answers(engine, tmp_path, monkeypatch):
    """However lately it was asked: a server may answer a moment after its engine knew of no process."""
    told: list[bool] = []
    check, pid = vllm._check_listener, Container.pid

    def answers(server, port):
        server.note_members()
        told.append(True)
        return check(server, port)

    monkeypatch.setattr(vllm, "_check_listener", answers)
    monkeypatch.setattr(Container, "pid", lambda self: pid(self) if told else None)
    monkeypatch.setattr("harness.measure.targets.server.process._ASK_AGAIN_NS", 10**15)
    with open_target(boxed(tmp_path), tmp_path / "c_own_rep1.log", str) as target:
        (server,) = inside(tmp_path)
        assert server in target.info.pids


def test_no_value_of_a_variable_stands_on_the_command_line(engine, tmp_path, monkeypatch):
    """Names are passed; those of the shell that mean something else inside are not."""
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnop")
    monkeypatch.setenv("CUDA_HOME", "/usr/local/cuda")
    open_target(boxed(tmp_path), tmp_path / "c_own_rep1.log", str).close()
    (words,) = calls(engine, "run")
    passed = {name for flag, name in zip(words, words[1:], strict=False) if flag == "--env"}
    assert {"HF_TOKEN", "MY_SERVICE_TOKEN", "FAKE_VLLM_MODE", "HF_HOME", "HF_HUB_OFFLINE"} <= passed
    assert not passed & {"CUDA_HOME", "PATH", "HOME", "PYTHONPATH"}
    assert "tok-0123456789abcdef" not in " ".join(words)
    assert "hf_abcdefghijklmnop" not in " ".join(words)
    assert words[words.index("--name") + 1].startswith("harness-c_own_rep1-")
    assert f"{tmp_path / 'some-model'}:{tmp_path / 'some-model'}:ro" in words


def test_an_image_that_is_not_there_is_told_with_the_engines_words(engine, tmp_path):
    """The exit status of docker and its line."""
    with pytest.raises(TargetError, match="Unable to find image"):
        open_target(boxed(tmp_path).model_copy(update={"image": "no/such:image"}), tmp_path / "x.log", str)


HARNESS = """
import signal, sys
from pathlib import Path
sys.path[:0] = [{root!r}, {tests!r}]
from test_targets_container import boxed
from harness.measure.targets import open_target
place = Path({place!r})
target = open_target(boxed(place), place / "server.log", str)
print(target.server.pid, target.server._guard.pid, flush=True)
signal.pause()
"""


def other_harness(place: Path) -> tuple[subprocess.Popen[str], int, int]:
    code = HARNESS.format(root=str(ROOT), tests=str(Path(__file__).parent), place=str(place))
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    command, guard = child.stdout.readline().split()
    return child, int(command), int(guard)


def test_a_killed_harness_leaves_no_container(engine, tmp_path):
    """kill -9 of the harness: its guard ends the container, which is no child of either."""
    child, _, _ = other_harness(tmp_path)
    assert inside(tmp_path)
    child.kill()
    child.wait()
    child.stdout.close()
    until(lambda: not inside(tmp_path), "the container is gone")
    until(lambda: not list((tmp_path / "cache" / "vllm-cost-harness" / "servers").glob("*")), "its record too")


def test_a_container_whose_harness_and_guard_were_killed_is_removed_by_a_later_start(engine, tmp_path):
    """Its record knows the command."""
    child, command, guard = other_harness(tmp_path)
    os.kill(guard, signal.SIGSTOP)
    for pid in (child.pid, guard):
        os.kill(pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    until(lambda: not (p := proc.read(command)) or p.dead)
    assert inside(tmp_path), "the container outlives its command"
    said: list[str] = []
    records.reap_orphans(tmp_path / "cache" / "vllm-cost-harness" / "servers", said.append)
    until(lambda: not inside(tmp_path), "the container is gone")
    assert "harness is gone" in said[0]


@pytest.mark.parametrize(
    ("engine_path", "gpus", "words"),
    [
        ("/usr/bin/docker", True, ["--gpus", "all"]),
        ("/usr/bin/podman", True, ["--device", "nvidia.com/gpu=all", "--security-opt", "label=disable"]),
        ("/usr/bin/docker", False, []),
    ],
    ids=["docker", "podman", "no GPU"],
)
def test_each_engine_is_asked_for_gpus_in_its_own_words(engine_path, gpus, words):
    """Docker's own flag, podman's device of the container device interface; the rest is the same."""
    box = Container(engine_path, IMAGE, "harness-x")
    made = box.words({"VLLM_A": "1", "PATH": "/x", "B": "2"}, ["B", "C"], {"/m": "ro"}, gpus=gpus)
    head = [engine_path, "run", "--rm", "--name", "harness-x", "--network", "host", "--ipc", "host"]
    assert made == [
        *head,
        *words,
        "--volume",
        "/m:/m:ro",
        "--env",
        "B",
        "--env",
        "VLLM_A",
        "--entrypoint",
        "vllm",
        IMAGE,
    ]


def test_the_first_engine_on_path_is_taken_unless_one_is_named(tmp_path):
    """Docker before podman; a named one alone; none is an error that names both."""
    for name in ("podman", "docker"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    path = str(tmp_path)
    assert named(IMAGE, None, Path("a b.log"), path).engine == f"{path}/docker"
    assert named(IMAGE, "podman", Path("a b.log"), path).engine == f"{path}/podman"
    assert named(IMAGE, None, Path("a b.log"), path).name.startswith("harness-a-b-")
    with pytest.raises(TargetError, match="docker or podman"):
        named(IMAGE, None, Path("x.log"), str(tmp_path / "none"))


def test_the_hubs_folders_are_those_of_the_environment(tmp_path):
    """HF_HUB_CACHE only where it was set."""
    assert hub_folders({"HF_HOME": str(tmp_path)}) == {"HF_HOME": str(tmp_path)}
    both = hub_folders({"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")})
    assert both == {"HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
