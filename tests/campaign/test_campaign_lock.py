"""Two campaigns do not share a GPU or a machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.base.errors import TargetError
from harness.config.target import TargetSpec
from harness.measure.campaign.lock import hold, lock_names

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
_HOLDER = """
import sys
from harness.measure.campaign.lock import hold
with hold(["machine"], "20261124T000000Z", wait=False, say=print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder():
    """Another process that holds the machine."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_the_second_campaign_is_refused_with_the_holders_name(holder):
    """Exit code 3, the holder's pid and campaign in the message; after a kill -9 the lock is free at once."""
    with pytest.raises(TargetError) as caught, hold(["machine"], "mine", wait=False, say=print):
        pass
    assert f"pid {holder.pid}" in caught.value.value
    assert "20261124T000000Z" in caught.value.value
    assert caught.value.exit_code == 3
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with hold(["machine"], "mine", wait=False, say=print):
        pass


def test_waiting_gets_the_lock_when_it_is_let_go(holder):
    """--wait-lock says once whom it waits for, and goes on when the holder ends."""
    said: list[str] = []

    def let_go(text: str) -> None:
        said.append(text)
        threading.Timer(0.1, holder.stdin.close).start()

    with hold(["machine"], "mine", wait=True, say=let_go):
        pass
    assert len(said) == 1
    assert f"pid {holder.pid}" in said[0]


def test_other_gpus_are_free():
    """Two campaigns on two GPUs run beside each other; on one they do not, whatever else they use."""
    with hold(["gpu-A"], "first", wait=False, say=print) as rename:
        rename("second name")
        with hold(["gpu-B", "machine"], "other", wait=False, say=print):
            pass
        with pytest.raises(TargetError, match="second name"), hold(["gpu-0", "gpu-A"], "third", wait=False, say=print):
            pass
        with hold(["gpu-0"], "fourth", wait=False, say=print):  # the refusal let go of what it had
            pass


def _target(**words) -> TargetSpec:
    return TargetSpec.model_validate({"name": "x", "model": "m", "kind": "adopt"} | words)


def test_what_is_locked_without_a_gpu():
    """Hosted and remote servers need no lock; a server of ours and one on loopback take the machine."""
    assert lock_names([_target(kind="hosted", url="https://api.example.com/v1")]) == []
    assert lock_names([_target(url="http://gpu-box:8000/v1")]) == []
    assert lock_names([_target(url="http://127.0.0.1:8000/v1"), _target(kind="vllm")]) == ["machine"]


def test_what_is_locked_with_gpus(with_nvml):
    """Two boards: a server on device 1 takes board 1, one that may be anywhere takes both; MIG slices are taken one by one."""
    code = """
from harness.measure.campaign.lock import lock_names
from harness.config.target import TargetSpec
def names(**words):
    return lock_names([TargetSpec.model_validate({"name": "x", "model": "m", "kind": "vllm"} | words)])
adopt = {"kind": "adopt", "url": "http://localhost:8000/v1"}
print(json.dumps([names(), names(env={"CUDA_VISIBLE_DEVICES": "1"}), names(**adopt), names(env={"CUDA_VISIBLE_DEVICES": ""}), names(gpus=[1])]))
"""
    every, one, adopted, none, named = with_nvml(code, gpus=2)
    assert len(every) == 2
    assert len(one) == 1
    assert one[0] in every
    assert adopted == every
    assert none == ["machine"]
    assert named == one
    sliced, *_ = with_nvml(code, gpus=2, mig=3)
    assert len(sliced) == 4
    assert all(name.startswith("gpu-") for name in every + sliced)
