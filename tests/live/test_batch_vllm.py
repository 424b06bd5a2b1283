"""The real `LLM.generate` over a plan, and every preset's flags before the installed vLLM's own parser."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

from harness.base.files import data_dir
from harness.config.experiment import load_yaml
from harness.config.target import TargetSpec
from harness.measure.job import Job
from harness.measure.plan.drawing import draw
from harness.measure.plan.prompts import prompts
from harness.measure.targets import command
from harness.measure.targets.batch.engine import run_batch, start
from harness.measure.targets.server import proc
from harness.records import Load, Phase
from tests.drive.offering import Watching

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.timing,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed here"),
]
_PARSE = """
import importlib, json, sys
from vllm.utils.argparse_utils import FlexibleArgumentParser
for place in ("vllm.entrypoints.launchers.cli_args", "vllm.entrypoints.openai.cli_args"):
    try: make = importlib.import_module(place).make_arg_parser; break
    except ImportError: continue
parser = make(FlexibleArgumentParser(prog="server"))
refused = {}
class Refused(Exception): pass
def error(message): raise Refused(message)
parser.error = error
for name, words in json.load(sys.stdin).items():
    try: parser.parse_args(words)
    except Refused as why: refused[name] = str(why)
print("REFUSED " + json.dumps(refused))
"""


def test_a_real_batch_in_three_orders(tmp_path):
    """Every reply has exactly the planned tokens, stamps lie inside its call, and the engine is gone afterwards."""
    spec = TargetSpec(
        name="tiny",
        kind="vllm",
        model="embedded:tiny",
        flags={"enforce-eager": True, "max-model-len": 1024, "max-num-seqs": 8, "enable-prefix-caching": False},
        env={"VLLM_CPU_KVCACHE_SPACE": "1"},
        start_timeout_s=600,
    )
    drawn, _ = draw(
        "uniform:8-200x1-24",
        Load(arrivals="batch"),
        requests=20,
        duration_s=None,
        seed=11,
        warmup_requests=2,
        context_limit_tokens=1024,
    )
    with start(spec, tmp_path / "server.log", print) as target:
        info = target.info
        assert (info.kind, info.model, info.max_model_len) == ("offline", "tiny", 1024)
        assert info.checks["max_num_seqs"] == "asked 8, engine says 8"
        assert info.checks["enable_prefix_caching"] == "asked False, engine says False"
        assert 0 < info.startup.process_s < info.startup.ready_s < info.startup.first_token_s
        assert len(target.vocabulary.words) > 300
        for order, calls in (("as_planned", 1), ("grouped_by_length", 3), ("sorted", 1)):
            rows: list = []
            made = prompts(drawn.requests, target.vocabulary, "completions")
            job = Job(drawn.requests, made, drawn.load, Phase.MEASURE, order, tmp_path)
            report = run_batch(job, Watching(rows.extend), target, order=order, batch_size=8, say=print)
            assert (len({row.ended_ns for row in rows}), report.stop_reason) == (calls, "done")
            assert sorted(row.seq for row in rows) == list(range(20))
            for row in rows:
                assert (row.outcome, row.finish_reason) == ("ok", "length")
                assert row.prompt_tokens == row.target_prompt_tokens
                assert row.output_tokens == row.target_output_tokens == sum(row.chunk_tokens)
                assert row.cached_prompt_tokens == 0
                assert report.started_ns == row.sent_ns < row.first_token_ns <= row.last_token_ns < row.ended_ns
    assert not any(proc.read(pid) and not proc.read(pid).dead for pid in info.pids)


def test_every_flag_of_every_preset_is_one_of_this_vllm():
    """The installed vLLM's own parser takes each target's command line, and refuses one with a flag it does not have."""
    lines = {}
    for path in sorted((data_dir("configs") / "experiments").glob("*.yaml")):
        for raw in load_yaml(path)["targets"]:
            own = {key: value for key, value in raw.items() if key not in ("batch_order", "batch_size", "url")} | {
                "kind": "vllm"
            }
            spec = TargetSpec.model_validate(own)
            model = command.Model("some/model", "model", {})
            lines[f"{path.stem}/{spec.name}"] = ["--model=m", *command.flag_words(command.flags(spec, model))]
    assert len(lines) > 20
    lines["wrong name"] = ["--model=m", "--max-num-sequences=4"]
    lines["wrong value"] = ["--model=m", "--kv-cache-dtype=fp7"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", _PARSE], check=True, input=json.dumps(lines), capture_output=True, text=True
    )
    said = next(line for line in done.stdout.splitlines() if line.startswith("REFUSED "))
    refused = json.loads(said.removeprefix("REFUSED "))
    assert sorted(refused) == ["wrong name", "wrong value"], refused
