"""Servers of ours: started, waited for, and gone afterwards, whatever happened (a stand-in program for vLLM)."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from target_spawning import make_package, spec

from harness.base.errors import ConfigError, TargetError
from harness.measure.targets import open_target
from harness.measure.targets.server import proc, records
from harness.measure.targets.server.guard import _LOOK_S
from harness.measure.targets.vocabulary import read_words
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the stand-in package, a model and a cache of its own."""
    make_package(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "fake_site"))
    monkeypatch.setattr("harness.measure.targets.server.process._CLOSE_GRACE_S", 0.5)
    monkeypatch.setattr("harness.measure.targets.vllm.read_words", lambda: read_words()[:60])
    importlib.invalidate_caches()
    return tmp_path


def record_files(place: Path) -> list[Path]:
    return list((place / "cache" / "vllm-cost-harness" / "servers").glob("*"))


def running(place: Path) -> list[str]:
    """Command lines of live processes that carry this test's folder, or the stand-in's child, and are not this one."""
    found = []
    for p in proc.everything():
        if p.dead or p.pid == os.getpid():
            continue
        try:
            line = Path(f"/proc/{p.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            env = Path(f"/proc/{p.pid}/environ").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if str(place) in line or f"{place}/fake_site" in env:
            found.append(f"{p.pid} {line}")
    return found


def test_a_server_is_started_read_back_and_gone_after_close(place):
    """Start, info, vocabulary, close: what the server says is in the info, and no process or record is left."""
    said: list[str] = []
    flags = {"max_model_len": 512, "enable-prefix-caching": True}
    with open_target(spec(place, flags=flags), place / "logs" / "server.log", said.append) as target:
        assert target.died() is None
        assert target.info.model == target.endpoint.model == "some-model"
        assert (target.info.max_model_len, target.info.server_version) == (512, "0.0.fake")
        assert target.info.cache_config["block_size"] == "16"
        assert target.info.checks["max_model_len"] == "asked 512, server says 512"
        assert target.info.checks["enable_prefix_caching"] == "asked True, server says True"
        assert target.info.flags["enable_prompt_tokens_details"] is True
        assert target.endpoint.vllm_extensions
        assert target.info.pids == (target.server.pid,)
        startup = target.info.startup
        assert 0 < startup.process_s <= startup.ready_s <= startup.first_token_s
        assert startup.weights_s == 0.25
        assert len(target.vocabulary.token_ids) == len(target.vocabulary.words) > 50
        assert json.loads(record_files(place)[0].read_text())["members"][0][0] == target.server.pid
        assert running(place)
    assert running(place) == []
    assert record_files(place) == []
    assert target.died() == "the server was closed"
    target.close()
    assert any("first token" in line for line in said)


def test_a_server_that_dies_while_starting_names_the_root_cause(place):
    """The error holds the engine's own exception, not the echo of it, and the log's path."""
    with pytest.raises(TargetError) as error:
        open_target(spec(place, "die"), place / "server.log", str)
    assert "exit status 1; torch.OutOfMemoryError: CUDA out of memory." in error.value.value
    assert "less memory" in error.value.advice
    assert str(place / "server.log") in error.value.advice
    assert (running(place), record_files(place)) == ([], [])


def test_an_unknown_flag_is_named(place):
    """A flag that the server does not take is in the error, as the server said it."""
    with pytest.raises(TargetError) as error:
        open_target(spec(place, flags={"max_modle_len": 3}), place / "server.log", str)
    assert error.value.value == "exit status 2; unrecognized arguments: --max-modle-len=3"


def test_a_server_that_hangs_is_given_up_and_ended(place):
    """After start_timeout_s the error says what was last seen, and the server is gone. The limit is three times what a start that
    fails takes here: the server has said something by then."""
    begun = time.monotonic()
    with pytest.raises(TargetError):
        open_target(spec(place, "die"), place / "first.log", str)
    limit_s = round(1 + 3 * (time.monotonic() - begun), 1)
    said: list[str] = []
    with pytest.raises(TargetError, match=rf"not ready after {limit_s:g} s\n.*FakeForCausalLM"):
        open_target(spec(place, "hang", start_timeout_s=limit_s), place / "server.log", said.append)
    assert (running(place), record_files(place)) == ([], [])
    assert any("reading the model's config (FakeForCausalLM)" in line for line in said)


def test_a_start_whose_log_falls_silent_is_given_up_and_ended(place):
    """Nothing new for ready_silence_s: the error says so, with what was last seen; there is no other limit."""
    with pytest.raises(TargetError, match=r"said nothing for 1 s and was not ready") as error:
        open_target(spec(place, "hang", ready_silence_s=1, start_timeout_s=None), place / "server.log", str)
    assert "ready_silence_s" in error.value.advice
    assert (running(place), record_files(place)) == ([], [])


@pytest.mark.parametrize("mode", ["deaf", "child", "escape"])
def test_close_ends_whatever_does_not_go_by_itself(place, mode):
    """A server or child that ignores SIGTERM, even in a session of its own, is killed by close."""
    target = open_target(spec(place, mode), place / "server.log", str)
    assert len(target.info.pids) == (1 if mode == "deaf" else 2)
    target.close()
    assert (running(place), record_files(place)) == ([], [])


def test_a_server_that_dies_later_is_noticed_with_its_reason(place):
    """died() turns from None into the exit status and the exception in the log, and its children are ended."""
    target = open_target(spec(place, "late"), place / "server.log", str)
    try:
        assert target.died() is None
        root = target.info.base_url.removesuffix("/v1")
        subprocess.run(
            [sys.executable, "-c", f"import httpx; httpx.get('{root}/health', trust_env=False)"], check=False
        )
        until(target.died)
        assert target.died() == "exit status 3; ValueError: the fake engine broke"
    finally:
        target.close()
    assert (running(place), record_files(place)) == ([], [])


def test_a_context_length_other_than_the_one_asked_for_is_refused(place):
    """A server that runs with another max_model_len than its flag is not measured."""
    wrong = spec(place, flags={"max_model_len": 512}, env={**spec(place).env, "FAKE_MAX_MODEL_LEN": "256"})
    with pytest.raises(TargetError, match="asked 512, server says 256"):
        open_target(wrong, place / "server.log", str)
    assert running(place) == []


def test_a_port_in_use_is_refused_before_anything_starts(place):
    """The error names the port; no log and no process exist."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(TargetError, match=f"127.0.0.1:{port}"):
            open_target(spec(place, port=port), place / "server.log", str)
    assert not (place / "server.log").exists()


def test_a_log_that_cannot_be_written_is_a_config_error(place):
    """A log path under a file is refused with that path."""
    (place / "file").touch()
    with pytest.raises(ConfigError, match="server's log"):
        open_target(spec(place), place / "file" / "server.log", str)
    assert running(place) == []


HARNESS = """
import signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from target_spawning import spec
from harness.measure.targets import open_target
place = Path({place!r})
target = open_target(spec(place, {mode!r}), place / "server.log", str)
print(target.server.pid, target.server._guard.pid, flush=True)
signal.pause()
"""


def other_harness(place: Path, mode: str) -> tuple[subprocess.Popen[str], int, int]:
    """A second harness process with a running server: it, the server's pid, the guard's pid."""
    code = HARNESS.format(place=str(place), mode=mode, tests=str(Path(__file__).parent))
    env = os.environ | {"PYTHONPATH": f"{place / 'fake_site'}:{ROOT}"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
    server, guard = child.stdout.readline().split()
    return child, int(server), int(guard)


@pytest.mark.parametrize(("sig", "mode"), [(signal.SIGKILL, "escape"), (signal.SIGTERM, "ok")])
def test_a_killed_harness_takes_its_server_along(place, sig, mode):
    """Without a word from the harness, the guard ends the server, and a deaf child in its own session."""
    child, server, guard = other_harness(place, mode)
    sessions = {p.sid for p in proc.family((guard,))}
    assert server in sessions
    child.send_signal(sig)
    child.wait()
    child.stdout.close()
    until(lambda: not running(place), "no process is left")
    assert record_files(place) == []
    zombies = [p for p in proc.everything() if p.dead and p.sid in sessions and p.pid != guard]
    assert zombies == [], "the guard waits for what it inherits; itself is for init"


def test_a_guard_that_stood_still_leaves_its_server_up(place):
    """Stopped for longer than it waits at a time, as in a container that is paused: the server goes on."""
    target = open_target(spec(place), place / "server.log", str)
    own = psutil.Process(target.server._guard.pid)
    for _ in range(3):
        own.suspend()
        end = time.monotonic() + 1.1 * _LOOK_S
        until(lambda end=end: time.monotonic() > end and own.status() == psutil.STATUS_STOPPED)
        own.resume()
        until(lambda: own.status() != psutil.STATUS_STOPPED)
        end = time.monotonic() + 1.1 * _LOOK_S
        until(lambda end=end: target.died() or time.monotonic() > end)
    assert not target.died()
    target.close()
    assert (running(place), record_files(place)) == ([], [])


def test_a_killed_guard_takes_the_server_along(place):
    """kill -9 of the guard ends the server's first process at once; close ends its child."""
    target = open_target(spec(place, "child"), place / "server.log", str)
    os.kill(target.server._guard.pid, signal.SIGKILL)
    until(target.died)
    assert "guard process was ended by SIGKILL" in target.died()
    target.close()
    assert (running(place), record_files(place)) == ([], [])


def test_orphans_of_a_harness_and_guard_killed_at_once_are_reaped(place, monkeypatch):
    """With harness and guard killed together, a later reap ends the child that is left, and says so."""
    child, server, guard = other_harness(place, "child")
    os.kill(guard, signal.SIGSTOP)  # so that it cannot act between the two kills
    for pid in (child.pid, guard):
        os.kill(pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    until(lambda: not (p := proc.read(server)) or p.dead)
    assert len(running(place)) == 1, "the deaf child outlives the server"
    monkeypatch.setattr(records, "_REAP_GRACE_S", 0.3)
    said: list[str] = []
    servers_dir = place / "cache" / "vllm-cost-harness" / "servers"
    assert records.reap_orphans(servers_dir, said.append) == [server]
    assert (running(place), record_files(place)) == ([], [])
    assert f"pid {server}" in said[0]


def test_reaping_spares_reused_pids_live_harnesses_and_other_machines(tmp_path):
    """A record whose pid now belongs to another process, whose harness lives, or which is of elsewhere, kills nothing."""
    bystander = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        path = records.write(tmp_path, bystander.pid, os.getpid(), tmp_path / "log")
        mine = json.loads(path.read_text())
        gone = mine | {"harness_start_ticks": mine["harness_start_ticks"] - 1}
        ticks = mine["start_ticks"]
        reused = gone | {"start_ticks": ticks - 1, "members": [[bystander.pid, ticks - 1]]}
        elsewhere = gone | {"host": "another"}
        before_boot = gone | {"boot_id": "other"}
        for name, data in {"1": mine, "2": reused, "3": elsewhere, "4": before_boot}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(data))
        (tmp_path / "5.json").write_text("{")
        path.unlink()
        said: list[str] = []
        assert records.reap_orphans(tmp_path, said.append) == []
        assert bystander.poll() is None
        assert sorted(p.name for p in tmp_path.iterdir()) == ["1.json", "3.json", "5.json"]
        (tmp_path / "6.json").write_text(json.dumps(gone))
        assert records.reap_orphans(tmp_path, said.append) == [bystander.pid]
        assert bystander.wait() == -signal.SIGTERM
    finally:
        bystander.kill()
        bystander.wait()
