"""Starts of real engines of their own: one that is refused, one whose harness is killed, one of a real model."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys

import pytest

from harness.base.errors import TargetError
from harness.config.target import TargetSpec
from harness.measure.targets import open_target
from harness.measure.targets.server import proc
from tests.live.test_target_vllm import ask
from tests.waiting import until

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timing,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]


def test_a_wrong_flag_is_told_by_its_name(tmp_path):
    """A flag that vLLM does not know ends as a TargetError that holds it."""
    spec = TargetSpec(name="w", kind="vllm", model="embedded:tiny", flags={"max_modle_len": 3})
    with pytest.raises(TargetError, match=r"unrecognized arguments: --max-modle-len=3"):
        open_target(spec, tmp_path / "log", str)


@pytest.mark.skipif(
    not os.environ.get("HARNESS_LONG"), reason="a server start of its own, as in `make bench`: HARNESS_LONG=1"
)
def test_the_embedded_model_answers_and_leaves_nothing(tmp_path):
    """SmolLM2 as de-quantised from the wheel is a real model: it knows France's capital; after close nothing runs."""
    spec = TargetSpec(
        name="real",
        kind="vllm",
        model="embedded:smollm2-135m",
        api="chat",
        flags={"enforce_eager": True, "max_model_len": 1024, "max_num_seqs": 8},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=600,
    )
    with open_target(spec, tmp_path / "log", print) as target:
        family = target.server.processes()
        question = {"role": "user", "content": "What is the capital of France?"}
        body = {"model": "smollm2-135m", "messages": [question], "max_tokens": 20, "temperature": 0}
        answer = ask(f"{target.endpoint.base_url}/chat/completions", body)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert target.vocabulary.prompt_overhead_tokens == 30
        assert target.info.startup.weights_s > 0
    assert [p for p in family if proc.alive(p.pid, p.start_ticks)] == []
    assert target.died() == "the server was closed"


HARNESS = """
import sys
from pathlib import Path
from harness.config.target import TargetSpec
from harness.measure.targets import open_target
spec = TargetSpec(name="k", kind="vllm", model="embedded:tiny", env={"VLLM_CPU_KVCACHE_SPACE": "1"},
                  flags={"enforce_eager": True, "max_model_len": 512, "max_num_seqs": 4})
seen = lambda line: print(line, flush=True)
open_target(spec, Path(sys.argv[1]), seen)
"""


def test_a_killed_harness_leaves_no_vllm_process(tmp_path):
    """kill -9 of a harness while its engine loads: every process of the server is gone."""
    child = subprocess.Popen([sys.executable, "-c", HARNESS, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    for line in child.stdout:
        if "starting the engine" in line or "loading" in line:
            break
    until(lambda: len(proc.family((child.pid,))) >= 4, "harness, guard, API server, engine")
    family = proc.family((child.pid,))
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    until(lambda: not [p for p in family if proc.alive(p.pid, p.start_ticks)], "no process is left")
