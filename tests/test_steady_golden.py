"""Windows by the real driver against a server that writes down what it did: a sample of what tests/judge/test_analyse_steady.py simulates."""

import json
from pathlib import Path

import pytest

from harness.store.reader import read_run
from tests.commands import harness
from tests.fakes.golden_server import GoldenServer
from tests.waiting import Machine

pytestmark = pytest.mark.timing
SLOTS = 8


def measured(server: GoldenServer, out: Path, *load: str) -> dict:
    """One run of 40-token replies of about a second; the summary as --json prints it."""
    done = harness(
        "run", "--url", server.url, "--model", "golden", "--workload", "fixed:16x40",
        "--slo", "tpot_s=10", "--usd-per-hour", "3.6", "--out", str(out), "--json", *load,
    )  # fmt: skip
    assert done.returncode in (0, 7), done.stderr
    return json.loads(done.stdout)


def received_ns(server: GoldenServer, run_dir: Path) -> list[int]:
    """When the server had each request of the run, in order."""
    return sorted(server.log[name].recv_ns for name in read_run(run_dir).requests.request_id)


@pytest.mark.parametrize("requests", [SLOTS * 8, SLOTS * 8 + 3])
def test_a_closed_loop_has_the_rate_that_the_server_saw(requests, tmp_path):
    """Eight streams, whole waves or not: requests/s and tokens/s are those of the server's own log over its whole waves, to 3 %; and
    dollars are those of the tokens."""
    with GoldenServer(ttft_s=0.2, itl_s=0.02) as server, Machine() as machine:
        run = measured(
            server, tmp_path / "run", "--concurrency", str(SLOTS), "--requests", str(requests), "--warmup", "0"
        )
        stamps = received_ns(server, tmp_path / "run")
    assert len(stamps) == requests
    first, last = 2 * SLOTS - 1, (requests // SLOTS - 1) * SLOTS - 1  # the same place in two waves
    span_ns = stamps[last] - stamps[first]
    rate = (last - first) / span_ns * 1e9
    rel = 0.03 + machine.worst_ns / span_ns  # of which one of the two windows may have had all
    scalars = run["runs"][0]["scalars"]
    assert scalars["request_rps"] == pytest.approx(rate, rel=rel)
    assert scalars["output_tps"] == pytest.approx(40 * rate, rel=rel)
    assert scalars["goodput_rps"] <= scalars["request_rps"]
