"""A monitor's boards through NVML's own interface: each a row of its own."""

from __future__ import annotations

import pytest

WATCHED = """
import asyncio
from pathlib import Path
from harness.base import clock
from harness.config.monitor import PoolSpec
from harness.monitor.pool import Means, PoolWatch

async def main():
    steady = clock.SteadyUtc()
    spec = PoolSpec(name="p", servers=["h:1"], nvml=True)
    pool = PoolWatch(spec, Means("m", 0.02, 10, steady.now_ns, True, Path("/")))
    task = asyncio.create_task(pool.boards())
    while not task.done() and min([board._scrapes for board in pool._boards.values()], default=0) < 3:
        await asyncio.sleep(0.01)
    rows = pool.drain(None)
    task.cancel()
    await pool.close()
    print(json.dumps({"says": pool.says, "rows": [[r.server, r.engine, r.energy_j, r.power_w, r.sm_util_pct, r.model] for r in rows]}))

asyncio.run(main())
"""


@pytest.mark.timing
def test_boards_of_this_machine_are_rows(with_nvml):
    """Eight boards: energy since their driver was loaded in joules, power in watts, use in per cent."""
    told = with_nvml(WATCHED)
    assert told["says"] == ""
    rows = {row[0]: row for row in told["rows"]}
    assert len(rows) == 8
    for server, engine, energy_j, power_w, sm_util_pct, model in rows.values():
        assert server.startswith("gpu:GPU-")
        assert (engine, model) == ("nvml", "")
        assert energy_j > 0
        assert 0 < power_w < 2000
        assert 0 <= sm_util_pct <= 100


@pytest.mark.timing
def test_a_machine_without_a_driver_says_so(with_nvml):
    """No row, and why."""
    told = with_nvml(WATCHED, library=False)
    assert told["rows"] == []
    assert "pool p: no boards: no NVML" in told["says"]
