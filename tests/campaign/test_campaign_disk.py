"""The disk that a campaign is said to need, held against what runs on the golden server write."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from campaign_values import run, small

from harness.measure.campaign import disk
from harness.measure.campaign.campaign import foresee
from harness.measure.campaign.disk import cell_bytes
from harness.measure.drive import driver, feed

pytestmark = pytest.mark.timing


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def most(monkeypatch) -> list[int]:
    """Bytes of each run directory at the moment before its load generator's files go, which is when they are most."""
    seen: list[int] = []

    def remove(place, **words) -> None:
        seen.append(size(Path(place).parent.parent))
        shutil.rmtree(place, **words)

    monkeypatch.setattr(driver, "shutil", type("", (), {"rmtree": staticmethod(remove)}))
    return seen


SHAPES = {
    "short prompts, long replies": {"workloads": ["fixed:16x100"], "loads": [{"concurrency": [4], "requests": 120}]},
    "long prompts": {"workloads": ["fixed:3000x4"], "loads": [{"concurrency": [2], "requests": 300}]},
    "both": {"workloads": ["fixed:500x30"], "loads": [{"concurrency": [4], "requests": 200}]},
    "an open loop": {"workloads": ["chat"], "loads": [{"rate": [30.0], "requests": 90}], "context_limit_tokens": 8192},
    "more planned than sent": {
        "workloads": ["fixed:2000x40"], "loads": [{"concurrency": [1], "duration_s": 2}],
    },
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_the_forecast_of_disk_is_what_a_run_writes(golden, tmp_path, most, shape):
    """What it needs at its most, prompts and received bytes included, within 20 %, where a run of the cell was seen before."""
    made = small(golden.url, repetitions=1, **SHAPES[shape])
    run(made, tmp_path)
    seen = foresee(made, tmp_path)
    assert [cell.basis for cell in seen.cells] == ["earlier run"]
    assert 0.8 < seen.disk_bytes / most[-1] < 1.2, (seen.disk_bytes, most)


def test_what_stays_is_summed_and_what_goes_is_not(golden, tmp_path):
    """Two cells need the room of what stays of both, and of the larger one's running."""
    seen = foresee(small(golden.url, repetitions=2, loads=[{"concurrency": [1], "requests": 4}]), tmp_path)
    one, two = seen.cells
    assert seen.disk_bytes == one.disk_bytes + two.disk_bytes + max(one.scratch_bytes, two.scratch_bytes)


def test_a_plan_of_long_prompts_needs_what_is_written_ahead():
    """100,000 prompts of 3,000 tokens: not their 1.4 GB, but what may be ahead of the sends, however few are answered."""
    most = feed.AHEAD_BYTES + 2 * feed.SEGMENT_BYTES
    assert 0.99 < cell_bytes(10, 3e8, 100, 0, 100_000, 60).beside / most < 1.05


def test_a_plan_larger_than_what_may_be_ahead(golden, tmp_path, most, monkeypatch):
    """Prompts of 6 MB where 1 MiB may be ahead: the disk never held more than the forecast says, and no fifth less. What was sent and not yet
    told to the parent is not ahead: how much that is, is the machine's affair."""
    for module in (feed, disk):
        monkeypatch.setattr(module, "AHEAD_BYTES", 1 << 20)
        monkeypatch.setattr(module, "SEGMENT_BYTES", 1 << 16)
    seen = []
    made = small(
        golden.url, repetitions=1, workloads=["fixed:3000x1"], loads=[{"concurrency": [2], "requests": 500}]
    )  # 5 MB
    over = feed.Feed.over

    def look(self, worker, index) -> None:
        written = self._of_worker[worker]
        untold_bytes = (sum(map(bool, written._sent)) - len(seen)) * max(written._size)
        seen.append(sum(path.stat().st_size for path in tmp_path.glob("**/shard-*bodies*")) - untold_bytes)
        over(self, worker, index)

    monkeypatch.setattr(feed.Feed, "over", look)
    run(made, tmp_path)
    assert len(seen) == 500
    # beside what is ahead: a segment that is being filled, and those that are over but for a request
    assert 1 << 19 < max(seen) < (1 << 20) + 8 * (1 << 16)
    cell = foresee(made, tmp_path).cells[0]
    assert 0.8 < (cell.disk_bytes + cell.scratch_bytes) / (max(seen) + most[-1] - seen[-1]) < 1.2
