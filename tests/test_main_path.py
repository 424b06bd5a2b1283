"""The whole path against the golden server: plan, drive, store, analyse, cost, report, by the command line."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.base.errors import HarnessError
from harness.store.reader import read_run
from tests import commands
from tests.fakes.golden_server import GoldenServer, Served
from tests.waiting import Machine, until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[1]
LIMIT_S = 240  # of one command: against hanging only
CONVERSION_NS = 50_000  # between two anchors the wall clock, which the kernel stamps with, may be slewed so far


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "harness", *words]


def words_of(server: GoldenServer, out: Path, *more: str) -> list[str]:
    """One cell of fixed 16x8 requests against the golden server."""
    model = [] if "--model" in more else ["--model", "golden"]
    return [
        "run",
        "--url",
        server.url,
        "--workload",
        "fixed:16x8",
        "--out",
        str(out),
        "--usd-per-hour",
        "1.0",
        *more,
        *model,
    ]


def against(server: GoldenServer, out: Path, *more: str) -> list[str]:
    """The same as a command of its own process."""
    return command(*words_of(server, out, *more))


def harness(*words: str) -> subprocess.CompletedProcess[str]:
    return commands.harness(*words)


@pytest.fixture(scope="module")
def golden():
    with GoldenServer(ttft_s=0.03, itl_s=0.01) as server:
        yield server


@pytest.fixture(scope="module")
def closed_run(golden, tmp_path_factory):
    """One closed-loop run and what the command printed as JSON."""
    out = tmp_path_factory.mktemp("closed") / "run"
    done = subprocess.run(
        against(golden, out, "--concurrency", "4", "--requests", "40", "--json"),
        capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode in (0, 7), done.stderr
    return out, json.loads(done.stdout)


def test_every_planned_request_is_a_row_and_every_token_is_counted(closed_run):
    """40 measured requests of 8 tokens: 40 rows, ok, 8 stamps each, usage and our count agree."""
    out, _ = closed_run
    rows = read_run(out).requests
    rows = rows[rows.phase == "measure"]
    assert len(rows) == 40
    assert set(rows.outcome) == {"ok"}
    assert set(rows.output_tokens) == {8}
    assert set(rows.counted_output_tokens) == {8}
    assert {len(c) for c in rows.chunk_ns} == {8}


def test_ttft_and_tpot_are_the_golden_servers_own(closed_run, golden):
    """Every token is stamped while the server wrote it and every request was sent before it had it: TTFT and TPOT are the server's
    own, at least 30 ms and, from token to token, 10 ms."""
    out, _ = closed_run
    rows = read_run(out).requests
    rows = rows[rows.phase == "measure"]
    for row in rows.itertuples():
        served = golden.log[row.request_id]
        assert max(golden.strays_ns(row.request_id, row.chunk_ns)) < CONVERSION_NS
        assert (row.first_token_ns, row.last_token_ns) == (row.chunk_ns[0], row.chunk_ns[-1])
        assert row.sent_ns <= served.recv_ns
        assert row.first_token_ns - row.sent_ns >= 30_000_000 - CONVERSION_NS


def test_the_run_directory_is_complete(closed_run):
    """Manifest, plan and tables stand under their names; nothing temporary is left."""
    out, _ = closed_run
    names = {p.name for p in out.iterdir()}
    assert {"manifest.json", "plan.parquet", "requests.parquet", "host.parquet", "derived"} <= names
    assert not {"parts", "scratch"} & names
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["state"] == "complete"
    assert manifest["plan_sha256"]
    assert (out / "derived" / "report.html").stat().st_size > 10_000


def test_a_run_directory_that_exists_is_refused_and_untouched(closed_run, golden):
    """A second run into the same directory: exit 5, one clear error, the first run's rows still there."""
    out, _ = closed_run
    before = (out / "requests.parquet").read_bytes()
    done = harness(
        *words_of(golden, out, "--concurrency", "1", "--requests", "1")
    )  # fmt: skip
    assert done.returncode == 5
    assert str(out) in done.stderr
    assert (out / "requests.parquet").read_bytes() == before


def test_the_same_words_give_the_same_plan(tmp_path):
    """`harness plan` twice gives the same bytes' digest; another seed gives another."""
    shas = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        words = ("plan", "--workload", "chat", "--rate", "3", "--requests", "50", "--seed", seed)
        done = harness(*words, "--out", str(tmp_path / name), "--json")
        assert done.returncode == 0, done.stderr
        shas.append(json.loads(done.stdout)[0]["sha256"])
    assert shas[0] == shas[1] != shas[2]
    assert (tmp_path / "a" / "plan.parquet").read_bytes() == (tmp_path / "b" / "plan.parquet").read_bytes()


def test_open_loop_sends_when_the_plan_says(golden, tmp_path):
    """Poisson at 50/s: requests leave within 20 ms of their scheduled times and what this machine is late, and rows carry both
    stamps."""
    out = tmp_path / "open"
    with Machine() as machine:
        done = harness(
            *words_of(golden, out, "--rate", "50", "--requests", "100")
        )  # fmt: skip
    assert done.returncode in (0, 7), done.stderr
    rows = read_run(out).requests
    rows = rows[rows.phase == "measure"]
    lag_ms = (rows.sent_ns - rows.scheduled_ns).astype(float) / 1e6
    assert len(rows) == 100
    assert lag_ms.min() >= 0
    assert lag_ms.quantile(0.9) < 20 + machine.worst_ns / 1e6


def stored(out: Path) -> set[str]:
    """The ids of a run's stored rows; empty until it can be read."""
    try:
        rows = read_run(out).requests
    except HarnessError:
        return set()
    return set() if rows is None else set(rows.request_id)


def heard_ns(golden: GoldenServer, run_id: str) -> dict[str, int]:
    """When the client had certainly read each measured reply: when the next request came on its connection."""
    last: dict[int, Served] = {}
    found = {}
    for served in sorted(golden.log.values(), key=lambda one: one.recv_ns):
        if served.request_id.startswith(f"{run_id}-m"):
            if before := last.get(served.connection):
                found[before.request_id] = served.recv_ns
            last[served.connection] = served
    return found


def test_kill_9_leaves_a_readable_run_and_recover_what_was_received(golden, tmp_path):
    """The parsing parent stands still and is killed while its workers go on: what had ended 2 s (and what the machine is late)
    before it stood still is stored; after `harness recover`, which a living run refuses, every reply that a worker had read
    is a row, once."""
    out = tmp_path / "killed"
    words = against(golden, out, "--concurrency", "4", "--requests", "20000", "--workers", "2")

    def heard(until_ns: int) -> set[str]:
        return {name for name, at_ns in heard_ns(golden, "killed").items() if at_ns < until_ns}

    with (
        Machine() as machine,
        subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        contextlib.ExitStack() as end,
    ):
        end.callback(process.kill)  # whatever fails here does not wait for all its requests
        until(lambda: any("-m" in name for name in stored(out)), "rows of the measured phase are stored")
        refused = harness("recover", str(out))
        assert refused.returncode == 5
        assert "the run is going on" in refused.stderr

        def then() -> tuple[int, int] | None:
            now_ns, late_ns = time.monotonic_ns(), machine.worst_ns
            return (now_ns, late_ns) if len(heard(now_ns - 2_500_000_000 - late_ns)) > 20 else None

        at_ns, late_ns = until(then, "20 replies were read 2.5 s ago, and what the machine is late")
        workers = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGSTOP)
        until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
        stands_ns = time.monotonic_ns()
        until(lambda: len(heard(time.monotonic_ns()) - heard(stands_ns)) > 60, "60 replies more")
        killed_ns = time.monotonic_ns()
        process.kill()
    psutil.wait_procs(workers)

    before = read_run(out)
    assert before.manifest.state == "interrupted"
    assert f"harness recover {out}" in before.manifest.error
    old = heard(at_ns - 2_000_000_000 - late_ns)
    assert old
    assert old <= set(before.requests.request_id)
    assert before.requests.ended_ns.astype("int64").max() <= stands_ns
    assert "interrupted" in harness("analyse", str(out), "--json").stdout
    missing = heard(killed_ns) - set(before.requests.request_id)
    assert len(missing) > 50

    (said,) = json.loads(harness("recover", str(tmp_path), "--json").stdout)
    after = read_run(out)
    assert said["recovered"] == len(after.requests) - len(before.requests) >= len(missing)
    assert missing <= set(after.requests.request_id)
    assert after.requests.request_id.is_unique
    new = after.requests[~after.requests.request_id.isin(before.requests.request_id)]
    assert set(new.outcome) == {"ok"}
    assert set(new.output_tokens) == set(new.target_output_tokens) == {8}
    assert (
        max(off for row in new.itertuples() for off in golden.strays_ns(row.request_id, row.chunk_ns)) < CONVERSION_NS
    )
    assert "recover" not in (after.manifest.error or "")
    assert "no killed run left anything" in harness("recover", str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("sent", "said"),
    [(signal.SIGINT, ["draining"]), (signal.SIGINT, ["draining", "aborting"]), (signal.SIGTERM, ["aborting"])],
)
def test_ctrl_c_ends_with_what_was_measured(tmp_path, sent, said):
    """Ctrl-C once, twice, or SIGTERM: exit 130, rows stored, state interrupted, report written. Once lets the replies in flight
    end; twice and SIGTERM cancel them (the server keeps them back until then)."""
    out = tmp_path / "stopped"
    with GoldenServer(ttft_s=0.03, itl_s=0.01) as golden:
        process = subprocess.Popen(
            against(golden, out, "--concurrency", "4", "--requests", "5000"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
        until(lambda: len(stored(out)) > 20, "20 rows are stored")
        kept: dict[str, bool] = {}
        golden.hold = lambda served: kept.setdefault(served.request_id, True)
        until(lambda: len(kept) == 4, "4 are kept back")
        for word in said:
            os.kill(process.pid, sent)
            until(lambda word=word: word in process.stderr.readline(), f"it says that it is {word}")
        if said == ["draining"]:
            golden.hold = None
        output, errors = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130, errors
    run = read_run(out)
    assert run.manifest.state == "interrupted"
    assert len(run.requests) > 20
    assert (run.requests.outcome == "cancelled").sum() == (0 if said == ["draining"] else 4)
    assert (out / "derived" / "report.html").exists()
    assert "interrupted" in output + errors


def test_cost_of_a_run_follows_from_its_throughput(closed_run):
    """$ per million output tokens x throughput x 3600 x U is the declared hourly price."""
    out, _ = closed_run
    done = harness("cost", str(out), "--usd-per-hour", "3.6", "--utilisation", "0.5", "--json", "--allow-invalid")
    assert done.returncode == 0, done.stderr
    text = done.stdout
    document = json.loads(text)
    own = {line["name"]: line for line in document["costs"][0]["own"]}
    scalars = document["runs"][0]["scalars"]
    per_million = float(own["self_usd_per_million_total_tokens"]["usd"])
    total_tps = scalars["total_tps"]["value"] if isinstance(scalars["total_tps"], dict) else scalars["total_tps"]
    assert per_million == pytest.approx(3.6 / (total_tps * 3600 * 0.5) * 1e6, rel=1e-6)
