"""The main path on a real vLLM server (tiny model, random weights): tokens, verdicts, both drivers, both APIs."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.cli.run import run as run_command
from harness.judge.validity.verdict import MIN_WINDOW_S
from harness.measure.plan.prompts import prompts
from harness.records import PlannedRequest
from harness.store.reader import read_run
from tests import commands
from tests.bench import bench_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.timing, pytest.mark.timeout(900)]


# What a machine that does something else for a moment brings about: it is no fault of the program, and a short run shows it
BUSY_MACHINE = {
    "send_lag",
    "achieved_below_scheduled",
    "client_bottleneck",
    "foreign_cpu",
    "harness_cpu",
    "merged_reads",
}


def run(server, out: Path, *more: str) -> dict:
    """One run of the command line against the session's server; its JSON document. Nothing but a busy machine may
    have made it INVALID."""
    done = commands.harness(
        "run", "--url", server.info.base_url, "--model", server.info.model, "--out", str(out), "--usd-per-hour", "1.0", "--json", *more
    )  # fmt: skip
    assert done.returncode in (0, 7), done.stderr
    document = json.loads(done.stdout)
    reasons = document["runs"][0]["reasons"]
    assert done.returncode == 0 or {r["code"] for r in reasons if r["severity"] == "invalid"} <= BUSY_MACHINE, reasons
    return document


def rate_rps(server, seed: int) -> float:
    """A pilot: how many requests of 64 and 24 tokens a second this server answers on this machine, four at a time."""
    plan = [PlannedRequest(i, None, 64, 24, None, seed + i) for i in range(40)]
    rows = bench_prompts.send(server, plan, list(prompts(plan, server.vocabulary, "completions")), 4, f"pilot{seed}")
    return len(rows) * 1e9 / (max(row.ended_ns for row in rows) - min(row.sent_ns for row in rows))


@pytest.fixture(scope="module")
def wire(vllm_server, tmp_path_factory):
    """A closed-loop wire run of twice as many requests as the shortest window needs by a pilot just before it, and twice as many
    again should the machine have become so much faster: its directory, its document, the number of its requests."""
    for seed in (11, 1011, 2011):
        count = max(48, round(rate_rps(vllm_server, seed) * MIN_WINDOW_S * 2 * 2 ** (seed // 1000)))
        out = tmp_path_factory.mktemp("wire") / "run"
        words = ("--workload", "fixed:64x24", "--concurrency", "4", "--requests", str(count), "--seed", str(seed))
        document = run(vllm_server, out, *words)
        if "window_too_short" not in {reason["code"] for reason in document["runs"][0]["reasons"]}:
            break
    return out, document, count


def test_tokens_agree_exactly_with_the_servers_counters(wire):
    """Prompt and output tokens: plan = our stamps = usage = the server's own counter deltas, to the token."""
    _, document, count = wire
    checks = {check["kind"]: check for check in document["runs"][0]["tokens"]}
    assert checks["prompt"]["usage"] == checks["prompt"]["server_counter"] == checks["prompt"]["planned"] == count * 64
    output = checks["output"]
    assert output["counted"] == output["usage"] == output["server_counter"] == output["planned"] == count * 24


def test_the_server_was_warmed_up_at_the_runs_own_load(wire):
    """Two requests a slot at the run's four slots, each a row of the warm-up with a prompt of its own; the log of an adopted server tells
    of no compilation."""
    out, _, _ = wire
    data = read_run(out)
    told = data.manifest.drive["compiling"]
    assert (told["rounds"], told["round_lines"], told["lines"]) == ([[8, 4]], [0], [])
    warm = data.requests[data.requests.phase == "warmup"]
    assert set(warm.seq) == set(range(-8, 0))
    assert set(warm.outcome) == {"ok"}


def test_a_clean_run_is_valid(wire):
    """Nothing is wrong with this run, and the verdict says so (or names the machine's other work)."""
    _, document, _ = wire
    (one,) = document["runs"]
    found = {reason["code"] for reason in one["reasons"] if reason["severity"] != "warning"}
    assert found <= BUSY_MACHINE, one["reasons"]
    assert one["verdict"] == "VALID" or found


def test_kernel_stamps_were_used_and_increase(wire):
    """Stamps come from the kernel and never go backwards within a request."""
    out, _, _ = wire
    data = read_run(out)
    assert data.manifest.drive["measure"]["stamp_source"] == "kernel"
    for row in data.requests.itertuples():
        stamps = list(row.chunk_ns)
        assert stamps == sorted(stamps)
        assert row.sent_ns < stamps[0]


def test_the_prompt_was_not_in_the_prefix_cache(wire):
    """Warm-up and measurement share no prompt: usage reports no cached tokens."""
    out, _, _ = wire
    rows = read_run(out).requests
    assert int(rows.cached_prompt_tokens.fillna(0).sum()) == 0


def test_a_plain_run_is_valid_with_exact_tokens(vllm_server, tmp_path):
    """Text prompts, no min_tokens and usage at the end alone: lengths are those planned, the server's counters agree to the token, chunks
    say no number of tokens, and the run is VALID but for its length or a busy machine."""
    out = tmp_path / "plain"
    words = ("--workload", "uniform:40-90x8-24", "--concurrency", "4", "--requests", "64", "--seed", "16")
    (one,) = run(vllm_server, out, "--body", "plain", *words)["runs"]
    data = read_run(out)
    rows = data.requests
    assert data.manifest.target["body"] == "plain"
    assert (rows.prompt_tokens == rows.target_prompt_tokens).all()
    assert (rows.output_tokens == rows.target_output_tokens).all()
    assert rows.counted_output_tokens.isna().all()
    for check in one["tokens"]:
        assert check["planned"] == check["usage"] == check["server_counter"]
    found = {reason["code"] for reason in one["reasons"] if reason["severity"] != "warning"}
    assert found <= BUSY_MACHINE | {"window_too_short"}, one["reasons"]


def test_chat_prompts_are_token_exact_with_the_template(vllm_server, tmp_path):
    """Over the chat API the server's usage equals the planned prompt length, template included."""
    run(
        vllm_server,
        tmp_path / "chat",
        "--api",
        "chat",
        "--workload",
        "uniform:60-90x8-16",
        "--concurrency",
        "4",
        "--requests",
        "24",
        "--seed",
        "12",
    )
    rows = read_run(tmp_path / "chat").requests
    assert (rows.prompt_tokens == rows.target_prompt_tokens).all()
    assert (rows.output_tokens == rows.target_output_tokens).all()


def test_the_chat_preset_replays_on_the_server_in_open_loop(vllm_server, tmp_path):
    """The chat preset under Poisson arrivals: every request ok, lengths exact, sent on time."""
    document = run(
        vllm_server, tmp_path / "preset", "--workload", "chat", "--rate", "2", "--requests", "12", "--context-limit", "1000", "--seed", "13",
    )  # fmt: skip
    assert document["runs"][0]["outcomes"] == {"ok": 12}
    rows = read_run(tmp_path / "preset").requests
    assert (rows.prompt_tokens == rows.target_prompt_tokens).all()


def test_the_sdk_driver_sees_the_same_tokens(vllm_server, tmp_path):
    """openai over httpx, same kind of run: every token counted, verdict not INVALID."""
    document = run(
        vllm_server, tmp_path / "sdk", "--driver", "sdk", "--workload", "fixed:64x24", "--concurrency", "4", "--requests", "16", "--seed", "14",
    )  # fmt: skip
    output = {check["kind"]: check for check in document["runs"][0]["tokens"]}["output"]
    assert output["usage"] == output["server_counter"] == 16 * 24


@pytest.mark.parametrize("salted", [True, False])
def test_only_the_same_words_again_are_found_in_the_prefix_cache(vllm_server, tmp_path, monkeypatch, salted):
    """The same seed twice on one server: the second run finds none of its prompts cached; without a salt it finds them and is not VALID."""
    monkeypatch.setenv("HARNESS_LOCK_DIR", str(tmp_path / "locks"))
    words = (
        "--workload",
        "fixed:256x4",
        "--concurrency",
        "2",
        "--requests",
        "12",
        "--seed",
        "15",
        "--warmup",
        "2",
        "--json",
    )
    if not salted:
        monkeypatch.setattr(secrets, "randbits", lambda _: 0)
    for name in ("first", "second"):
        target = ("--url", vllm_server.info.base_url, "--model", vllm_server.info.model, "--out", str(tmp_path / name))
        done = CliRunner().invoke(run_command, [*target, *words], standalone_mode=False)
    assert (
        "prefix_cache" in {reason["code"] for reason in json.loads(done.stdout)["runs"][0]["reasons"]}
    ) is not salted
