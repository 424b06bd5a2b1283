"""A cell that was broken off and is run again, before a server that keeps its prompts: what it measures is no cache of the first attempt's."""

from __future__ import annotations

import pytest
from campaign_values import Quiet, run, small, states

from harness.judge.runs import analyse
from harness.measure.campaign import stock
from harness.measure.run import Stop
from harness.store.reader import read_run
from tests.fakes.golden_server import GoldenServer

pytestmark = pytest.mark.timing


class _CtrlCOnceSent(Quiet):
    """Asks the campaign to stop when some requests of a cell have ended; the others have no reply before."""

    def __init__(self, server: GoldenServer, stop: Stop) -> None:
        super().__init__()
        self.stop, until = stop, server.finished + 20
        server.hold = lambda _: server.finished >= until and not stop.asked

    def progress(self, progress) -> None:
        if progress.done >= 20 and not self.stop.asked:
            self.stop.request()


@pytest.mark.parametrize(
    ("workload", "load"),
    [("fixed:200x4", {"concurrency": [2]}), ("fixed:200x4?system=50", {"rate": [30]})],
)
def test_a_resumed_cell_finds_nothing_of_its_first_attempt_in_the_cache(tmp_path, workload, load):
    """Ctrl-C amid a cell, twice, and a server that goes on: the attempt that is counted has the plan of the first, row by row, and other
    words, so that its hits are those of the plan alone and it is not INVALID as one that the server has seen."""
    with GoldenServer(ttft_s=0.02, itl_s=0.002, caches_by_token=True) as server:
        made = small(server.url, workloads=[workload], loads=[{**load, "requests": 60}], repetitions=1)
        for resume in (None, "newest"):
            stop = Stop()
            ran = run(made, tmp_path, resume=resume, stop=stop, display=_CtrlCOnceSent(server, stop))
            assert ran.stopped
        run(made, tmp_path, resume="newest")
        (summary,) = analyse(tmp_path).summaries
    assert list(states(tmp_path).values()) == ["complete"]
    (name,) = states(tmp_path)
    path = stock.run_dir(tmp_path, ran.campaign_id, name)
    attempts = [read_run(kept) for kept in sorted((tmp_path / "interrupted").iterdir())]
    attempts.append(read_run(path))
    assert len(attempts) == 3
    assert len({a.manifest.plan_sha256 for a in attempts}) == 1
    lengths = [a.plan[["seq", "scheduled_ns", "target_prompt_tokens", "target_output_tokens"]] for a in attempts]
    assert all(one.equals(lengths[0]) for one in lengths[1:])
    assert len({seed for a in attempts for seed in a.plan.prompt_seed}) == sum(len(a.plan) for a in attempts)
    assert "prefix_cache" not in {reason.code for reason in summary.verdict.reasons}
    cached = attempts[-1].requests.cached_prompt_tokens
    assert cached.max() < (56 if "system" in workload else 6)  # a few words by chance
    assert len({a.manifest.environment["prompt_salt"] for a in attempts}) == 3
