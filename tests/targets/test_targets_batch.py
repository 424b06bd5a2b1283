"""Offline batches: how a plan is cut into calls, what rows it becomes, and that the engine is gone on every way out.

The worker, its guard and its files are the real ones; `vllm` is a small package written below, in place of the engine.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base.errors import ConfigError, TargetError
from harness.config.target import TargetSpec
from harness.judge.columns import measured
from harness.judge.rates import rates
from harness.judge.window import find_window
from harness.measure.job import Job
from harness.measure.plan.prompts import prompts
from harness.measure.targets.batch.engine import cut, run_batch, start
from harness.measure.targets.batch.worker import one_token_words
from harness.measure.targets.server import proc
from harness.measure.targets.vocabulary import read_words, vocabulary
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt
from tests.drive.offering import Watching
from tests.fakes import fake_vllm
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
_ENGINE = """
import json, os, sys, time, types
__version__ = "0.0.fake"
MODE = os.environ.get("FAKE_OFFLINE", "")

class SamplingParams:
    def __init__(self, **said): self.said = said

class Words:
    def encode(self, text, add_special_tokens):
        return [100 + int.from_bytes(w.encode()[:4], "big") for w in text.split()]

class LLM:
    calls = 0
    @classmethod
    def from_engine_args(cls, args):
        assert args.disable_log_stats is False
        self = cls()
        part = types.SimpleNamespace(max_model_len=int(args.max_model_len), dtype="bf16", max_num_seqs=args.max_num_seqs)
        self.llm_engine = types.SimpleNamespace(vllm_config=types.SimpleNamespace(
            model_config=part, scheduler_config=part, cache_config=types.SimpleNamespace(enable_prefix_caching=False)))
        if MODE == "die": raise RuntimeError("no available memory for the cache blocks")
        if MODE == "hang": time.sleep(60)
        return self
    def get_tokenizer(self): return Words()
    def generate(self, prompts, params, use_tqdm):
        self.calls += 1
        asked = [[p["prompt_token_ids"], s.said["max_tokens"], s.said["min_tokens"], s.said["ignore_eos"]] for p, s in zip(prompts, params)]
        with open(os.environ["FAKE_OFFLINE_SEEN"], "a") as file: file.write(json.dumps(asked) + "\\n")
        if MODE == "dies" and self.calls == 3: os._exit(9)
        if MODE == "refuses" and self.calls == 3: raise ValueError("prompt is longer than the context")
        while MODE == "slow" and self.calls > 1 and not os.path.exists(os.environ["FAKE_OFFLINE_SEEN"] + ".go"): time.sleep(0.01)
        made = []
        for p, s in zip(prompts, params):
            now = time.monotonic(); time.sleep(0.001)
            stamps = None if MODE == "blind" else types.SimpleNamespace(first_token_ts=now, last_token_ts=time.monotonic())
            reply = types.SimpleNamespace(token_ids=[7] * s.said["max_tokens"], finish_reason="length")
            made.append(types.SimpleNamespace(prompt_token_ids=p["prompt_token_ids"], num_cached_tokens=0, outputs=[reply], metrics=stamps))
        return made
"""
_ARGUMENTS = """
class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        for name in ("model", "served-model-name", "max-model-len", "max-num-seqs"): parser.add_argument("--" + name)
        parser.add_argument("--enforce-eager", action="store_true")
        return parser
    @classmethod
    def from_cli_args(cls, parsed): return parsed
"""


def make_engine(folder: Path) -> None:
    """The package `vllm` under `folder`/site, and a model directory beside it."""
    package = folder / "site" / "vllm"
    for name in ("engine", "utils", "inputs"):
        (package / name).mkdir(parents=True)
        (package / name / "__init__.py").touch()
    (package / "__init__.py").write_text(_ENGINE)
    (package / "inputs" / "__init__.py").write_text("TokensPrompt = dict\n")
    (package / "engine" / "arg_utils.py").write_text(_ARGUMENTS)
    (package / "utils" / "argparse_utils.py").write_text(
        "from argparse import ArgumentParser as FlexibleArgumentParser\n"
    )
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")


def target_spec(folder: Path, mode: str = "", **more: object) -> TargetSpec:
    env = {"PYTHONPATH": f"{folder / 'site'}:{ROOT}", "FAKE_OFFLINE": mode, "FAKE_OFFLINE_SEEN": str(folder / "seen")}
    values = {"name": "batch", "kind": "vllm", "model": str(folder / "model"), "env": env, "start_timeout_s": 120}
    values["flags"] = {"max_model_len": 512, "max-num-seqs": 4, "enforce_eager": True}
    return TargetSpec.model_validate(values | more)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the stand-in engine, a model, a cache and a temporary directory of its own."""
    make_engine(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr("harness.measure.targets.server.process._CLOSE_GRACE_S", 0.5)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    importlib.invalidate_caches()
    return tmp_path


def running(place: Path) -> list[int]:
    found = []
    for p in proc.everything():
        try:
            line = Path(f"/proc/{p.pid}/cmdline").read_bytes().decode("utf-8", "replace")
        except OSError:
            continue
        if not p.dead and p.pid != os.getpid() and "batch.worker" in line and str(place) in line:
            found.append(p.pid)
    return found


def planned(lengths: list[int], scheduled_ns: int | None = 0) -> list[PlannedRequest]:
    return [PlannedRequest(i, scheduled_ns, n, 1 + i % 4, None, 1000 + i) for i, n in enumerate(lengths)]


def drive(target, requests, place, *, phase=Phase.MEASURE, stop=lambda: None, **how):
    """One batch through a started target: what the manifest says of it, and its rows."""
    rows: list = []
    made = prompts(requests, target.vocabulary, "completions")
    job = Job(requests, made, Load(arrivals="batch"), phase, "run", place)
    report = run_batch(job, Watching(rows.extend, should_stop=stop), target, say=str, **how)
    return report, sorted(rows, key=lambda row: row.seq)


def seen(place: Path) -> list[list[list]]:
    """What each LLM.generate was given, the start's own one left out."""
    return [json.loads(line) for line in (place / "seen").read_text().splitlines()][1:]


def once_called(place: Path, action: str):
    """A should_stop that asks for `action` once the engine is in the first call of a batch; a slow engine's call goes on when asked
    to drain."""

    def stop() -> str | None:
        if len((place / "seen").read_text().splitlines()) < 2:
            return None
        if action == "drain":
            (place / "seen.go").touch()
        return action

    return stop


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 12))
def test_every_request_is_in_exactly_one_call(lengths, batch_size):
    """In every order the calls together hold each request once; groups are full but the last, and lengths never fall."""
    requests = planned(lengths)
    for order in ("as_planned", "sorted", "grouped_by_length"):
        calls = cut(requests, order, batch_size)
        flat = [i for call in calls for i in call]
        assert sorted(flat) == list(range(len(lengths)))
        if order == "as_planned":
            assert flat == list(range(len(lengths)))
        else:
            assert [lengths[i] for i in flat] == sorted(lengths)
        if order == "grouped_by_length":
            assert all(len(call) == batch_size for call in calls[:-1])
            assert all(0 < len(call) <= batch_size for call in calls)
        else:
            assert len(calls) == (1 if lengths else 0)


def test_equal_lengths_keep_the_plans_order():
    """Grouping is stable, so that a plan of one length is only cut."""
    assert cut(planned([5, 5, 5, 2, 5]), "grouped_by_length", 2) == [[3, 0], [1, 2], [4]]


def test_a_group_of_nothing_is_refused():
    """A batch size of 0 is an error that names it."""
    with pytest.raises(ConfigError, match="batch size out of range\n0"):
        cut(planned([1]), "grouped_by_length", 0)


def test_the_engine_is_sent_the_plan_and_its_facts_become_rows(place):
    """Groups, token ids and forced lengths arrive as planned; rows hold the engine's counts and stamps, and nothing is left."""
    requests = planned([6, 2, 4, 3, 5, 9])
    with start(target_spec(place), place / "server.log", str) as target:
        assert (target.info.kind, target.info.model, target.info.max_model_len) == ("offline", "model", 512)
        assert target.info.checks["max_num_seqs"] == "asked 4, engine says 4"
        assert target.info.startup.process_s is not None
        assert target.info.startup.ready_s <= target.info.startup.first_token_s
        report, rows = drive(target, requests, place, order="grouped_by_length", batch_size=4)
        assert len(running(place)) >= 1
    ids = {p.seq: list(p.token_ids) for p in prompts(requests, target.vocabulary, "completions")}
    by_length = [[1, 3, 2, 4], [0, 5]]
    wanted = [
        [[ids[i], requests[i].target_output_tokens, requests[i].target_output_tokens, True] for i in call]
        for call in by_length
    ]
    assert seen(place) == wanted
    assert [row.seq for row in rows] == list(range(6))
    for row, request in zip(rows, requests, strict=True):
        assert (row.outcome, row.finish_reason) == ("ok", "length")
        assert (row.prompt_tokens, row.output_tokens) == (request.target_prompt_tokens, request.target_output_tokens)
        assert row.sent_ns == row.scheduled_ns == report.started_ns
        assert row.sent_ns < row.first_token_ns <= row.last_token_ns < row.ended_ns
        assert sum(row.chunk_tokens) == row.output_tokens
        assert row.counted_output_tokens is None
    assert rows[0].ended_ns == rows[5].ended_ns > rows[1].ended_ns == rows[4].ended_ns
    assert (report.driver, report.stop_reason) == ("offline", "done")
    assert report.notes[0] == "offline: 2 LLM.generate calls, order grouped_by_length, groups of 4"
    assert running(place) == []
    assert list((place / "tmp").iterdir()) == []


def test_rows_give_the_throughput_of_the_whole_batch(place):
    """The analysis finds the whole phase as window, in every order, and all of its tokens inside."""
    requests = planned([6, 2, 4, 3, 5, 9] * 3)
    with start(target_spec(place), place / "server.log", str) as target:
        for order in ("as_planned", "grouped_by_length"):
            _, rows = drive(target, requests, place, order=order, batch_size=4)
            frame = measured(pd.DataFrame([{name: getattr(row, name) for name in row.__slots__} for row in rows]))
            window, rule = find_window(frame, Load(arrivals="batch"))
            assert rule.startswith("whole phase")
            found = rates(frame, {}, window, Load(arrivals="batch"), {})
            assert found["output_tps"] == pytest.approx(found["output_tps_whole"], rel=1e-6)
            assert found["output_tps"] * window.seconds == pytest.approx(sum(row.output_tokens for row in rows))


def test_rows_say_their_phase(place):
    """A batch of warm-up requests makes warm-up rows, and the engine serves the measured batch after it."""
    with start(target_spec(place), place / "server.log", str) as target:
        rows = drive(target, planned([3]), place, phase=Phase.WARMUP)[1] + drive(target, planned([4, 2]), place)[1]
    assert [row.phase for row in rows] == ["warmup", "measure", "measure"]


def test_an_engine_without_stamps_gives_null_stamps(place):
    """Where a reply carries no metrics, token stamps and chunks are absent, and counts stand."""
    with start(target_spec(place, "blind"), place / "server.log", str) as target:
        _, rows = drive(target, planned([3, 4]), place)
    assert all(
        (row.first_token_ns, row.last_token_ns, row.chunk_tokens, row.chunk_ns) == (None, None, None, ())
        for row in rows
    )
    assert [row.output_tokens for row in rows] == [1, 2]


def test_an_engine_that_dies_leaves_a_row_for_every_request(place):
    """Replies of calls that returned stand; the call under way is truncated, later ones are dropped."""
    with start(target_spec(place, "dies"), place / "server.log", str) as target:
        report, rows = drive(target, planned([1, 2, 3, 4, 5, 6]), place, order="grouped_by_length", batch_size=2)
    assert [row.outcome for row in rows] == ["ok", "ok", "truncated", "truncated", "dropped", "dropped"]
    assert report.stop_reason == "target_died"
    assert "exit status 9" in rows[2].error
    assert rows[4].sent_ns is None
    assert rows[2].output_tokens is None


def test_a_call_that_the_engine_refuses_is_rows_and_the_rest_goes_on(place):
    """A ValueError of LLM.generate fails the requests of that call only."""
    with start(target_spec(place, "refuses"), place / "server.log", str) as target:
        report, rows = drive(target, planned([1, 2, 3, 4, 5, 6]), place, order="grouped_by_length", batch_size=2)
    assert [row.outcome for row in rows] == ["ok", "ok", "error_event", "error_event", "ok", "ok"]
    assert "longer than the context" in rows[2].error
    assert report.stop_reason == "done"
    assert rows[2].output_tokens is None


def test_a_drain_lets_the_call_under_way_end(place):
    """Asked to drain in the first of three calls, the first is whole and the others were never begun."""
    with start(target_spec(place, "slow"), place / "server.log", str) as target:
        report, rows = drive(
            target, planned([1, 2, 3]), place, order="grouped_by_length", batch_size=1, stop=once_called(place, "drain")
        )
        assert [row.outcome for row in rows] == ["ok", "dropped", "dropped"]
        assert report.stop_reason == "interrupted"
        again, rows = drive(target, planned([1]), place)
        assert (again.stop_reason, rows[0].outcome) == ("done", "ok")


def test_an_abort_returns_at_once_and_closing_ends_the_engine(place):
    """The call under way is cancelled without waiting for it, and leaving the target leaves no process."""
    with start(target_spec(place, "slow"), place / "server.log", str) as target:
        report, rows = drive(
            target, planned([1, 2]), place, order="grouped_by_length", batch_size=1, stop=once_called(place, "abort")
        )
    assert [row.outcome for row in rows] == ["cancelled", "dropped"]
    assert report.stop_reason == "interrupted"
    assert running(place) == []


def test_plans_that_are_no_batch_are_refused(place):
    """Arrival times, and prompts without token ids, are errors before anything is sent."""
    with start(target_spec(place), place / "server.log", str) as target:
        with pytest.raises(ConfigError, match="no arrival times"):
            drive(target, planned([1], scheduled_ns=5), place)
        job = Job(planned([1]), [Prompt(0, "text", None)], Load(arrivals="batch"), Phase.MEASURE, "run", place)
        with pytest.raises(ConfigError, match="token ids"):
            run_batch(job, Watching(), target, say=str)
    assert seen(place) == []


def test_a_start_that_fails_says_why_and_leaves_nothing(place):
    """An unknown flag, a dying and a hanging engine: each error has the cause, and no process or file is left."""
    for more, what in (
        ({"flags": {"max_modle_len": 3}}, r"unrecognized arguments: --max-modle-len=3"),
        ({"mode": "die"}, r"RuntimeError: no available memory.*\n.*less memory"),
        ({"mode": "hang", "start_timeout_s": 1.0}, r"not ready after 1 s"),
    ):
        with pytest.raises(TargetError, match=what):
            start(target_spec(place, **more), place / "server.log", str)
        assert running(place) == []
        assert list((place / "tmp").iterdir()) == []


def test_the_engine_ends_with_a_killed_harness(place):
    """kill -9 of the harness in the middle of a batch: the guard ends the engine."""
    program = (
        f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(place / 'site')!r}, {str(ROOT / 'tests' / 'targets')!r}, {str(ROOT / 'tests' / 'fakes')!r}]\n"
        "import tempfile; from pathlib import Path; import test_targets_batch as t\n"
        f"place = Path({str(place)!r}); tempfile.tempdir = str(place / 'tmp')\n"
        "with t.start(t.target_spec(place, 'slow'), place / 'server.log', str) as target:\n"
        "    print('up', flush=True)\n"
        "    t.drive(target, t.planned([1] * 50), place, order='grouped_by_length', batch_size=1)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "up\n"
        until(lambda: len((place / "seen").read_text().splitlines()) > 1, "the engine is in a call of the batch")
        assert running(place)
        child.send_signal(signal.SIGKILL)
    until(lambda: not running(place), "no process is left")


def test_offline_and_server_agree_on_the_vocabulary(place):
    """The rule over a tokenizer in the process gives the words and ids that the same tokenizer gives over HTTP."""
    words = read_words()[:120]
    known = one_token_words(fake_vllm.tokens, words)
    with fake_vllm.serve(fake_vllm.Fake()) as url:
        asked = vocabulary(Endpoint(f"{url}/v1", "tiny", "completions", vllm_extensions=True), words)
    assert (tuple(known), tuple(known.values())) == (asked.words, asked.token_ids)
    assert len(known) > 50


def test_too_few_words_are_none():
    """A tokenizer that makes a token of hardly any word gives no vocabulary, instead of prompts that repeat."""
    assert one_token_words(lambda text: [ord(c) for c in text], ["alpha", "beta"]) == {}
    assert one_token_words(lambda text: [hash(w) for w in text.split()], ["alpha", "beta"]) == {}
