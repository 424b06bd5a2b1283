"""Runs that are VALID, and the verdict of one that is not."""

from dataclasses import replace

from harness.judge.summary import summarise
from harness.records import Load
from tests.judge.run_builder import closed_loop, open_loop, run

C4, R10 = Load(concurrency=4), Load(rate_rps=10)

CLOSED = closed_loop(4, 400)  # 12 s
OPEN = open_loop(10, 200)  # 20 s


def verdict(records=CLOSED, load=C4, **kw):
    return summarise(run(records, load, **kw)).verdict


def codes(v):
    return {r.code: r.severity for r in v.reasons}


def each(records, share, **changes):
    """Every `1/share`-th record changed."""
    step = round(1 / share)
    return [replace(r, **changes) if i % step == 0 else r for i, r in enumerate(records)]
