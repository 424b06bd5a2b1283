"""A run against a paid API from its words to its report: asked for a cap, bounded, drained at it, stored and said so."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from harness.measure.drive import spool
from harness.price.ledger import Ledger, rows_of
from harness.store.parts import SCRATCH
from harness.store.reader import find_runs, read_run
from tests import commands
from tests.fakes.golden_server import GoldenServer
from tests.waiting import until

pytestmark = pytest.mark.timing
D = Decimal
KEY = "sk-money-0123456789abcdef"
PRICE = {"provider": "acme", "model": "golden", "input_usd_per_million": 0, "output_usd_per_million": 1000}
OUTPUT = 6
EACH = D(OUTPUT) / 1000  # dollars of a request: a tenth of a cent a token
WORST = D(2 * OUTPUT + 64) / 1000


def experiment(folder: Path, url: str, *, requests=60, concurrency=4, **more) -> Path:
    target = {"name": "api", "kind": "hosted", "url": url, "model": "golden", "api_key_env": "TEST_KEY", "price": PRICE}
    config = {
        "experiment": "t",
        "targets": [target | more.pop("target", {})],
        "workloads": [f"fixed:16x{OUTPUT}"],
        "loads": [{"concurrency": [concurrency], "requests": requests}],
        "warmup_requests": 2,
    } | more
    path = folder / "experiment.yaml"
    path.write_text(json.dumps(config))
    return path


def command(*words: str, cwd: Path, **env: str):
    environment = os.environ | {"TEST_KEY": KEY, "HARNESS_LEDGER_DIR": str(cwd / "ledger")} | env
    return {
        "args": [sys.executable, "-m", "harness", *words],
        "cwd": cwd,
        "env": environment | {"PYTHONPATH": str(Path(__file__).parents[2])},
    }


def harness(*words: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return commands.harness(*words, cwd=cwd, env=command(*words, cwd=cwd, **env)["env"])


def counted(folder: Path) -> Decimal:
    return sum((row.usd for row in rows_of(folder / "ledger")[0]), D(0))


@pytest.fixture
def server():
    with GoldenServer(ttft_s=0.002, itl_s=0.0005, api_keys=(KEY,)) as running:
        yield running


def test_a_paid_run_without_a_cap_is_refused_in_a_pipe(tmp_path, server):
    """Exit 2, three lines, --max-usd named; nothing was sent."""
    done = harness("run", str(experiment(tmp_path, server.url)), cwd=tmp_path)
    assert done.returncode == 2
    assert "--max-usd" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 3
    assert server.log == {}


@pytest.mark.parametrize("words", [("--max-usd", "0"), ("--max-usd", "-1"), ("--max-usd", "nan"), ("--max-usd", "much")], ids=["zero", "below", "nan", "word"])  # fmt: skip
def test_a_cap_that_is_none_is_refused(tmp_path, server, words):
    """Exit 2."""
    done = harness("run", str(experiment(tmp_path, server.url)), *words, cwd=tmp_path)
    assert (done.returncode, server.log) == (2, {})
    assert "max-usd" in done.stderr


def test_a_hosted_api_elsewhere_without_a_price_is_refused(tmp_path):
    """Nobody knows what it costs: exit 2 before anything is asked of it, with a cap too."""
    target = {"url": "https://api.example.com/v1", "price": None}
    done = harness("run", str(experiment(tmp_path, "", target=target)), "--max-usd", "5", cwd=tmp_path)
    assert done.returncode == 2
    assert "price" in done.stderr


def test_a_local_api_without_a_price_needs_no_cap(tmp_path, server):
    """kind hosted on this machine, no price: nobody is billed, no ledger is made."""
    done = harness("run", str(experiment(tmp_path, server.url, target={"price": None}, requests=8)), cwd=tmp_path)
    assert done.returncode in (0, 7), done.stderr
    assert not (tmp_path / "ledger").exists()


def test_a_run_within_its_cap_is_counted_by_its_usage(tmp_path, server):
    """62 requests of 6 tokens: the ledger has their dollars to the last digit, `harness spend` shows them, the key is in no file."""
    done = harness("run", str(experiment(tmp_path, server.url)), "--max-usd", "10", "--json", cwd=tmp_path)
    assert done.returncode in (0, 7), done.stderr
    assert counted(tmp_path) == 62 * EACH
    shown = harness("spend", "--json", cwd=tmp_path)
    (row,) = json.loads(shown.stdout)["rows"]
    assert D(row["usd"]) == 62 * EACH
    assert row["run"].startswith("t ")
    assert "0.372000" in harness("spend", cwd=tmp_path).stdout
    assert KEY.encode() not in b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())


# every pair of a driver, a number of workers and a kind of load
@pytest.mark.parametrize(
    ("driver", "workers", "load"),
    [
        pytest.param("wire", 1, {"concurrency": [8]}, id="wire-1worker-closed"),
        pytest.param("wire", 3, {"rate": [200]}, id="wire-3workers-open"),
        pytest.param("sdk", 1, {"rate": [200]}, id="sdk-1worker-open"),
        pytest.param("sdk", 2, {"concurrency": [8]}, id="sdk-2workers-closed"),
    ],
)
def test_at_its_cap_a_run_drains_and_says_so(tmp_path, server, driver, workers, load):
    """A cap of $2 before 2,000 requests of 0.6 cents: it ends with 90 % of it spent, none beyond it, every request served a row, the reason
    in the manifest and on the screen."""
    loads = [load | {"requests": 2000}]
    config = experiment(tmp_path, server.url, loads=loads, driver=driver, workers=workers, max_usd=2)
    done = harness("run", str(config), cwd=tmp_path)
    assert done.returncode in (0, 7), done.stderr
    billed = len(server.log) * EACH
    assert billed <= counted(tmp_path) <= 2
    assert billed >= D("1.8")
    (run,) = map(read_run, find_runs(tmp_path / "results" / "t"))
    assert len(run.requests) == len(server.log)
    assert run.manifest.drive["measure"]["stop_reason"] == "max_usd"
    assert run.manifest.drive["spending"]["api"]["stopped_by"] == "run"
    assert "cap of the run" in done.stdout + done.stderr
    (page,) = (tmp_path / "results" / "t").rglob("report.html")
    assert re.search(r"the cap of the run \(\$2\) ended it: [0-9]+ of 2,000", page.read_text())


def test_a_day_and_a_key_are_capped_over_campaigns(tmp_path, server):
    """A second campaign finds what the first has left of the key's cap; a third nothing to measure with: exit 2, and it says why."""
    config = experiment(tmp_path, server.url, max_usd={"run": 5, "key": 1}, requests=100)
    for _ in range(2):
        harness("run", str(config), cwd=tmp_path)
    before = len(server.log)
    last = harness("run", str(config), cwd=tmp_path)
    assert last.returncode == 2
    assert len(server.log) - before <= 2  # its warm-up
    assert "within the cap of the key" in last.stderr
    assert len(server.log) * EACH <= counted(tmp_path) <= 1
    assert counted(tmp_path) >= D("0.9")


def test_a_person_is_asked_and_the_worst_case_becomes_the_cap(tmp_path, server):
    """At a terminal: expected and worst dollars, a question; y sends, n does not."""
    config = experiment(tmp_path, server.url, requests=8)
    for word, code, sent in (("n", 2, 0), ("y", 0, 10)):
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            **command("run", str(config), "--allow-invalid", cwd=tmp_path),
            stdin=theirs,
            stderr=theirs,
            stdout=subprocess.PIPE,
        )
        os.close(theirs)
        said = b""
        while b"cap?" not in said:
            said += os.read(ours, 4096)
        os.write(ours, word.encode() + b"\n")
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:
            pass  # the other end is closed
        assert process.wait() == code, said
        assert b"at worst $" in said
        assert len(server.log) == sent
        os.close(ours)


def test_a_dry_run_shows_both_with_their_formula(tmp_path, server):
    """Expected and worst dollars of each cell and in sum, as a table and as JSON; nothing is sent, no cap is needed."""
    config = str(experiment(tmp_path, server.url))
    plain = harness("run", config, "--dry-run", cwd=tmp_path)
    assert plain.returncode == 0, plain.stderr
    data = json.loads(harness("run", config, "--dry-run", "--json", cwd=tmp_path).stdout)
    assert D(data["hosted_usd"]) == 62 * EACH
    assert D(data["worst_usd"]) == 62 * WORST
    assert D(data["cells"][0]["worst_usd"]) == 62 * WORST
    assert "about $0.37, at worst $4.71" in plain.stdout
    assert all(formula in plain.stdout.replace("\n", " ") for formula in data["formulas"])


def test_killed_runs_never_pass_the_cap_and_are_settled(tmp_path):
    """Three campaigns under one key, killed with -9 in the midst, in the first one's place recovered twice, the others found by the next
    start; then one that ends: no more was billed than is counted, and that within the cap; and once settled, a killed run counts no more
    than what its requests billed and the worst case of those in flight."""
    slots = 8
    with GoldenServer(ttft_s=0.02, itl_s=0.002, api_keys=(KEY,)) as server:
        config = experiment(tmp_path, server.url, requests=3000, concurrency=slots, max_usd={"key": 3})
        for kill in range(3):
            before, resumes = server.served, ["--resume"] if kill == 2 else []  # which moves the killed run aside
            process = subprocess.Popen(
                **command("run", str(config), *resumes, cwd=tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )  # fmt: skip
            until(
                lambda before=before, process=process: server.served > before + 12 or process.poll() is not None,
                "it sends, or has no money",
            )
            process.send_signal(signal.SIGKILL)
            process.wait()
            assert server.served * EACH <= counted(tmp_path) <= 3
            if kill == 0:
                taken = counted(tmp_path)
                (first,) = recovered(tmp_path)
                (settled,) = first["settled"]
                assert (
                    D(settled["spent_usd"]) + 2 * EACH == counted(tmp_path) == taken - D(settled["back_usd"])
                )  # a warm-up before it
                assert server.served * EACH <= counted(tmp_path) <= server.served * EACH + slots * WORST
                assert recovered(tmp_path) == []
        until(lambda: not sends(tmp_path), "the killed run's worker has ended: who lives is not settled yet")
        last = harness("run", str(config), cwd=tmp_path)
        assert "are free again" in last.stdout + last.stderr
        assert server.served * EACH <= counted(tmp_path) <= 3
        assert counted(tmp_path) <= server.served * EACH + 3 * slots * WORST
        (ledger,) = (tmp_path / "ledger").glob("key-*")
        assert Ledger(ledger).read().open == {}
    assert counted(tmp_path) >= D("2.7")


def test_a_killed_probe_is_settled_where_its_search_was_moved(tmp_path):
    """A search killed in a probe, and resumed: what the probe had taken and nobody billed is free again before anything is sent."""
    with GoldenServer(ttft_s=0.02, itl_s=0.002, api_keys=(KEY,)) as server:
        search = {"capacity": {"start_rps": 30, "probe_s": [60, 60]}}
        promise = {"ttft_s": 5, "attainment": 0.9}
        config = experiment(tmp_path, server.url, loads=[search], slo=promise, max_usd={"key": 3})
        with subprocess.Popen(
            **command("run", str(config), cwd=tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:  # fmt: skip
            until(lambda: server.served > 12 or process.poll() is not None, "its first probe sends")
            process.send_signal(signal.SIGKILL)
        until(lambda: not sends(tmp_path), "the killed probe's worker has ended")
        with subprocess.Popen(
            **command("run", str(config), "--resume", cwd=tmp_path), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:  # fmt: skip
            assert process.stdout is not None
            said = next((line for line in process.stdout if "are free again" in line or "probe 1" in line), "")
            process.send_signal(signal.SIGKILL)
        assert "are free again" in said
        assert server.served * EACH <= counted(tmp_path) <= 3


def sends(folder: Path) -> bool:
    """Does a worker of a killed run still live?"""
    return any(spool.is_written(path, 0) for path in (folder / "results").rglob(f"{SCRATCH}/drive-*") if path.is_dir())


def recovered(folder: Path) -> list[dict]:
    """What `harness recover` says of each run; of one whose workers still live it is asked again."""

    def done() -> subprocess.CompletedProcess[str] | None:
        came = harness("recover", str(folder / "results"), "--json", cwd=folder)
        return None if "still lives" in came.stderr else came

    came = until(done, "the killed run's workers have ended")
    assert came.returncode == 0, came.stderr
    return json.loads(came.stdout)


def test_a_ledger_that_cannot_be_written_sends_nothing(tmp_path, server):
    """Exit 5, three lines."""
    (tmp_path / "ledger").write_text("a file")
    done = harness("run", str(experiment(tmp_path, server.url)), "--max-usd", "1", cwd=tmp_path)
    assert (done.returncode, server.log) == (5, {}), done.stderr
    assert "ledger" in done.stderr
