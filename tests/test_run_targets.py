"""Targets as a run meets them: two that replay one plan, keys, refusals, a server that dies, a disk that is full."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from harness.store.reader import find_runs, read_run
from tests import commands
from tests.fakes.golden_server import GoldenServer
from tests.targets.target_spawning import make_package, write_command

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[1]
KEY = "sk-secret-0123456789"


def harness(
    *words: str, cwd: Path, limit_file_bytes: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line; `limit_file_bytes` makes every larger file fail as a full disk does."""
    own = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "cache"), "HARNESS_LOCK_DIR": str(cwd / "locks")}
    return commands.harness(*words, cwd=cwd, env={**os.environ, **own, **env}, limit_file_bytes=limit_file_bytes)


def error_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of the error, which are at most three."""
    lines = done.stderr[done.stderr.index("error:") :].strip().splitlines()
    assert len(lines) <= 3, done.stderr
    return lines


def experiment(folder: Path, targets: list[dict], **more) -> Path:
    """An experiment file of a few small requests over the given targets."""
    path = folder / "experiment.yaml"
    data = {
        "experiment": "t",
        "targets": targets,
        "workloads": ["fixed:24x6"],
        "loads": [{"concurrency": [2], "requests": 12}],
        **more,
    }
    path.write_text(yaml.safe_dump(data))
    return path


def test_two_targets_replay_the_very_same_plan(tmp_path):
    """A vLLM-like server and a hosted API with a key: equal plan digests and rows; the key is in no file, no output."""
    with (
        GoldenServer(ttft_s=0.01, itl_s=0.002) as own,
        GoldenServer(ttft_s=0.02, itl_s=0.004, api_keys=(KEY,)) as hosted,
    ):
        config = experiment(
            tmp_path,
            [
                {"name": "own", "kind": "adopt", "url": own.url, "model": "golden"},
                {"name": "api", "kind": "hosted", "url": hosted.url, "model": "golden", "api": "chat", "api_key_env": "TEST_KEY"},
            ],
        )  # fmt: skip
        done = harness("run", str(config), "--json", cwd=tmp_path, TEST_KEY=KEY)
    assert done.returncode in (0, 7), done.stderr
    runs = [read_run(path) for path in find_runs(tmp_path / "results" / "t")]
    assert {r.manifest.cell.target for r in runs} == {"own", "api"}
    assert len({r.manifest.plan_sha256 for r in runs}) == 1
    for r in runs:
        assert set(r.requests.outcome) == {"ok"}
        assert sorted(r.requests[r.requests.phase == "measure"].seq) == list(range(12))
    written = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY.encode() not in written
    assert KEY not in done.stdout + done.stderr


def test_two_bodies_replay_one_plan_and_each_is_recorded(tmp_path):
    """One server asked with exact and with plain requests: equal plans, the body in the manifest, and chunks that say no number of
    tokens where it was not asked for, while usage does."""
    with GoldenServer(ttft_s=0.01, itl_s=0.002) as own:
        targets = [
            {"name": b, "kind": "adopt", "url": own.url, "model": "golden", "body": b} for b in ("exact", "plain")
        ]
        done = harness("run", str(experiment(tmp_path, targets)), "--json", cwd=tmp_path)
    assert done.returncode in (0, 7), done.stderr
    runs = {r.manifest.cell.target: r for r in map(read_run, find_runs(tmp_path / "results" / "t"))}
    assert runs["exact"].manifest.plan_sha256 == runs["plain"].manifest.plan_sha256
    for body, run in runs.items():
        assert run.manifest.target["body"] == body
        assert (run.requests.output_tokens == 6).all()
        assert run.requests.counted_output_tokens.isna().all() == (body == "plain")


@pytest.mark.parametrize("kind", ["hosted", "offline"])
def test_a_body_is_chosen_for_vllm_servers_alone(tmp_path, kind):
    """An API without extensions and an engine without a server have only one: exit 2 that says where it belongs."""
    url = {} if kind == "offline" else {"url": "http://127.0.0.1:9/v1"}
    done = harness(
        "run",
        str(experiment(tmp_path, [{"name": "x", "kind": kind, "model": "m", "body": "plain"} | url])),
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "body belongs to kinds vllm and adopt" in done.stderr


def test_a_refused_key_exits_3_without_showing_it(tmp_path):
    """HTTP 401 before anything is sent: exit 3, three lines, no key."""
    with GoldenServer(api_keys=("another",)) as server:
        config = experiment(
            tmp_path,
            [{"name": "api", "kind": "hosted", "url": server.url, "model": "golden", "api_key_env": "TEST_KEY"}],
        )
        done = harness("run", str(config), cwd=tmp_path, TEST_KEY=KEY)
    assert done.returncode == 3
    assert "key" in " ".join(error_of(done))
    assert KEY not in done.stderr


def test_a_wrong_model_name_lists_the_servers_own(tmp_path):
    """Asked for a model that the server does not have: exit 3 and its names."""
    with GoldenServer() as server:
        config = experiment(tmp_path, [{"name": "own", "kind": "adopt", "url": server.url, "model": "goldne"}])
        done = harness("run", str(config), cwd=tmp_path)
    assert done.returncode == 3
    assert "golden" in " ".join(error_of(done)).replace("goldne", "")


def test_a_model_path_that_does_not_exist_is_named_before_anything_starts(tmp_path):
    """kind vllm with a missing path: a clear error at once."""
    config = experiment(tmp_path, [{"name": "own", "kind": "vllm", "model": str(tmp_path / "no-such-model")}])
    done = harness("run", str(config), cwd=tmp_path)
    assert done.returncode in (2, 3)
    assert "no-such-model" in " ".join(error_of(done))


def test_too_many_requests_are_rows_and_the_run_is_invalid(tmp_path):
    """A server that answers 429 above one in flight: every request is a row, the 429s say so, exit 7."""
    with GoldenServer(ttft_s=0.05, reject_above=1) as server:
        server.hold = lambda _: server.rejected == 0
        config = experiment(tmp_path, [{"name": "own", "kind": "adopt", "url": server.url, "model": "golden"}])
        done = harness("run", str(config), "--json", cwd=tmp_path)
    assert done.returncode == 7, done.stderr
    rows = read_run(find_runs(tmp_path / "results" / "t")[0]).requests
    rows = rows[rows.phase == "measure"]
    assert len(rows) == 12
    refused = rows[rows.outcome == "http_error"]
    assert len(refused) > 0
    assert set(refused.http_status) == {429}
    assert refused.first_token_ns.isna().all()
    assert json.loads(done.stdout)["runs"][0]["verdict"] == "INVALID"


_DIES = """
import argparse, sys, threading, os
sys.path.insert(0, {root!r})
from tests import commands
from tests.fakes.golden_server import GoldenServer
words = argparse.ArgumentParser()
words.add_argument("--port", type=int)
words.add_argument("--served-model-name")
known, _ = words.parse_known_args()
with GoldenServer(ttft_s=0.05, itl_s=0.02, port=known.port, model=known.served_model_name or "some-model") as server:
    server.hold = lambda _: server.finished >= 12
    while server.finished < 12 or server.in_flight < 2:
        threading.Event().wait(0.01)
    print("RuntimeError: out of imaginary memory", file=sys.stderr, flush=True)
    os._exit(1)
"""


def test_a_server_that_dies_in_mid_run_ends_it_with_its_last_words(tmp_path):
    """Our own server exits after 12 replies: exit 3, its error line shown, the rows so far stored, state failed."""
    model = make_package(tmp_path)
    write_command(tmp_path / "fake_site", _DIES.format(root=str(ROOT)))
    config = experiment(
        tmp_path,
        [{"name": "own", "kind": "vllm", "model": str(model), "env": {"PYTHONPATH": f"{tmp_path}/fake_site:{ROOT}"}}],
        loads=[{"concurrency": [2], "requests": 500}],
    )
    done = harness("run", str(config), cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert "out of imaginary memory" in " ".join(error_of(done))
    run = read_run(find_runs(tmp_path / "results" / "t")[0])
    assert run.manifest.state == "failed"
    assert (run.requests.outcome == "ok").sum() >= 10
    assert (Path(run.path) / "server.log").read_text().count("imaginary")


@pytest.mark.parametrize("limit", [200_000, 3_000_000])
def test_a_full_disk_is_one_clear_error_and_nothing_written_is_lost(tmp_path, limit):
    """Files fail beyond a size as on a full disk (the plan's bodies, or the worker's spool): exit 5 or 7, named, readable."""
    with GoldenServer(ttft_s=0, itl_s=0) as server:
        done = harness(
            "run", "--url", server.url, "--model", "golden", "--workload", "fixed:16x60", "--concurrency", "8",
            "--requests", "6000", "--out", "out", cwd=tmp_path, limit_file_bytes=limit,
        )  # fmt: skip
    assert done.returncode in (5, 7), done.stderr
    assert any(word in " ".join(error_of(done)) for word in ("large", "space", "no room"))
    run = read_run(tmp_path / "out")
    assert run.manifest.state == "failed"
    assert "out-of-memory" not in done.stderr
