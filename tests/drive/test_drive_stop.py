"""A stop that is asked for while prompts are written down, before anything was sent."""

from __future__ import annotations

import pytest

from harness.measure.drive import driver
from harness.measure.job import Job
from harness.records import Endpoint, Load, Phase, PlannedRequest, Prompt, Timeouts
from tests.drive.offering import Watching


@pytest.mark.timing
@pytest.mark.parametrize(("word", "reason"), [("drain", "interrupted"), ("abort", "interrupted"), ("target_died", "target_died")])  # fmt: skip
def test_writing_prompts_down_is_interrupted(tmp_path, monkeypatch, word, reason):
    """Of a hundred thousand prompts no more are made after the word; no worker starts, no file stays, the report says why."""
    monkeypatch.setattr(driver, "STOP_POLL_NS", -1)  # at every prompt
    monkeypatch.setattr(driver, "start_workers", None)
    made = []

    def prompts():
        for i in range(100_000):
            made.append(i)
            yield Prompt(i, None, (1, 2))

    plan = [PlannedRequest(i, None, 2, 2, None, i) for i in range(100_000)]
    report = driver.drive(
        Job(plan, prompts(), Load(concurrency=1), Phase.MEASURE, "run", tmp_path),
        Watching(should_stop=lambda: word if len(made) == 20 else None),
        Endpoint("http://127.0.0.1:9/v1", "m", "completions"),
        driver="wire",
        workers=1,
        timeouts=Timeouts(),
    )
    assert (report.stop_reason, len(made), list(tmp_path.iterdir())) == (reason, 20, [])
