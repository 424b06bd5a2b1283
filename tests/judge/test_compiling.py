"""What the server's log said of compilations, in a run's verdict."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import closed_loop, run

RECORDS = closed_loop(4, 400)


def line(at_ns: int, kind: str = "kernel JIT", logged_at: str | None = "11-26 04:40:01") -> dict:
    return {"kind": kind, "seen_ns": at_ns, "logged_at": logged_at, "text": "Triton kernel JIT compilation: _fwd"}


def summary(lines=(), round_lines=(0,)):
    data = run(RECORDS, Load(concurrency=4))
    told = {
        "rounds": [[8, 4]] * len(round_lines),
        "round_lines": list(round_lines),
        "lines": list(lines),
        "count": len(lines),
    }
    drive = {**data.manifest.drive, "compiling": told}
    return summarise(replace(data, manifest=replace(data.manifest, drive=drive)))


CLEAN = summary()
START, END = CLEAN.window.start_ns, CLEAN.window.end_ns


@pytest.mark.parametrize(
    ("offset_ns", "state"), [(-1, "VALID"), (0, "UNKNOWN"), (END - START + 10**9, "UNKNOWN"), (END - START + 10**9 + 1, "VALID")],
    ids=["before", "at the start", "told a second after the end", "later"],
)  # fmt: skip
def test_a_compilation_inside_the_window_makes_the_run_unknown(offset_ns, state):
    """One before it, in the ramp, does not; one that ended in it and was read a moment later does."""
    assert summary([line(START + offset_ns)]).verdict.state == state


def test_the_reason_counts_the_kinds_and_shows_the_first():
    """With the log's time, or where the line has none with the second of the window."""
    (reason,) = summary([line(START + 5), line(START + 6, "Triton autotune"), line(START + 7)]).verdict.reasons
    assert reason.code == "compiled_in_window"
    assert "(1 Triton autotune, 2 kernel JIT)" in reason.message
    assert "at 11-26 04:40:01: Triton kernel JIT compilation: _fwd" in reason.message
    assert "warmup_requests" in reason.advice
    (reason,) = summary([line(START + 1_500_000_000, logged_at=None)]).verdict.reasons
    assert "1.5 s into it" in reason.message


@pytest.mark.parametrize(("rounds", "codes"), [([3, 0], []), ([3, 2, 1], ["still_compiling"]), ([], [])])
def test_a_warm_up_that_ended_by_its_bound_is_a_warning(rounds, codes):
    """The last round tells; a warm-up that came to its end is silent."""
    assert [reason.code for reason in summary(round_lines=rounds).verdict.reasons] == codes
