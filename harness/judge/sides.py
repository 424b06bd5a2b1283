"""A hybrid's run by side: which requests each served, how many of them were good, and what the hosted one is to bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from harness.judge.columns import BoolArray, FloatArray, Requests
from harness.judge.metrics import good
from harness.judge.sent import sent_requests
from harness.judge.usage import usage_of
from harness.judge.window import offered
from harness.records import Phase, RunData, SideOfRun, Window


def names_of(run: RunData) -> tuple[str, ...]:
    """The own side's name and the hosted one's; empty where the run is of no hybrid."""
    return tuple(run.manifest.target_config.get("sides") or ())


def served_by(run: RunData, name: str) -> BoolArray:
    """Of each measured request, whether that side served it."""
    rows = run.requests[run.requests["phase"] == Phase.MEASURE.value]
    if "served_by" not in rows:
        return np.zeros(len(rows), np.bool_)
    return np.asarray((rows["served_by"] == name).fillna(value=False).to_numpy(dtype=np.bool_))


def of_side(run: RunData, name: str) -> RunData:
    """The run with the requests of one side alone, warm-up included."""
    rows = run.requests
    return replace(run, requests=rows[(rows["served_by"] == name).fillna(value=False)])


def sides_of_run(
    run: RunData,
    requests: Requests,
    values: Mapping[str, FloatArray],
    window: Window | None,
    slo: Mapping[str, float],
    population: BoolArray,
) -> tuple[SideOfRun, ...]:
    """Both sides of a hybrid's run, the own one first; empty of any other. `population`: the ok requests sent in the window."""
    names = names_of(run)
    if not names:
        return ()
    inside = offered(requests, window.start_ns, window.end_ns) if window else np.zeros(requests.count, np.bool_)
    kept = good(requests, values, slo) & inside if slo else None
    sides = []
    for at, name in enumerate(names):
        mine = served_by(run, name)
        sides.append(
            SideOfRun(
                name,
                int((inside & mine).sum()),
                None if kept is None else int((kept & mine).sum()),
                usage_of(requests, population & mine),
                sent_requests(of_side(run, name)) if at else (),
            )
        )
    return tuple(sides)
