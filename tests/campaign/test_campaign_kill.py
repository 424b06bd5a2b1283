"""kill -9 at random moments of a campaign, then --resume: no cell lost, none doubled, none mixed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from campaign_values import small

from harness.measure.campaign import file, stock
from harness.measure.campaign.order import ordered
from harness.store.reader import read_run
from tests.waiting import until

pytestmark = pytest.mark.timing
ROOT = Path(__file__).resolve().parents[2]
LONG = bool(os.environ.get("HARNESS_LONG"))


class Children:
    """Campaigns in processes of their own (campaign_child.py)."""

    def __init__(self) -> None:
        here = Path(__file__).parent
        path = os.pathsep.join([str(ROOT), str(here)])
        self._server = subprocess.Popen(
            [sys.executable, str(here / "campaign_child.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        assert self._server.stdout.readline() == "ready\n"

    def live(self, config: dict, out: Path, *, resume: str | None, kill_after_s: float | None) -> tuple[int, float]:
        """Exit status of one life (-9 if it was killed in time) and how long it lasted."""
        begun = time.monotonic()
        self._server.stdin.write(json.dumps({"config": config, "out": str(out), "resume": resume}) + "\n")
        self._server.stdin.flush()
        pid = int(self._server.stdout.readline())
        if kill_after_s is not None:
            until(
                lambda: time.monotonic() > begun + kill_after_s or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
            )
            os.kill(pid, signal.SIGKILL)
        self._server.stdin.write("wait\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline()), time.monotonic() - begun

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture
def children():
    made = Children()
    yield made
    made.close()


def resumable(out: Path) -> str | None:
    """ "newest" if a campaign is open there, None if none was begun; fails if it is finished."""
    files = sorted((out / "campaigns").glob("*.json")) if (out / "campaigns").is_dir() else []
    return "newest" if any(file.read(p).state == file.OPEN for p in files) else None


def is_finished(out: Path) -> bool:
    files = list((out / "campaigns").glob("*.json")) if (out / "campaigns").is_dir() else []
    return any(file.read(p).state == file.FINISHED for p in files)


def check_whole(out: Path, config: dict, killed: int) -> None:
    """One campaign; each planned cell has exactly one run, complete, with its own plan's rows, each once."""
    made = small(config["targets"][0]["url"], **{k: config[k] for k in ("repetitions", "loads")})
    files = list((out / "campaigns").glob("*.json"))
    assert len(files) == 1
    campaign = file.read(files[0])
    names = [s.name for s in ordered(made)]
    assert campaign.state == file.FINISHED
    assert list(campaign.order) == names
    runs = {p.name for p in out.iterdir() if (p / "manifest.json").exists()}
    assert runs == {f"{campaign.campaign_id}_{name}" for name in names}  # none lost, none more
    plans = set()
    for name in names:
        found = read_run(stock.run_dir(out, campaign.campaign_id, name))
        assert (found.manifest.state, found.manifest.error) == ("complete", None)
        assert found.manifest.campaign_id == campaign.campaign_id
        assert not (Path(found.path) / "parts").exists()
        assert sorted(found.requests.seq) == list(range(4))  # none doubled
        assert all(r.startswith(found.manifest.run_id) for r in found.requests.request_id)  # none mixed
        assert list(found.plan.seq) == list(range(4))
        plans.add(found.manifest.plan_sha256)
    assert len(plans) == len(names)
    aside = list((out / "interrupted").iterdir()) if (out / "interrupted").exists() else []
    assert len(aside) <= killed


def config_of(url: str) -> dict:
    loads = [{"concurrency": [1, 2], "requests": 4}]
    return small(url, repetitions=2, loads=loads).model_dump(mode="json")


def test_killed_again_and_again_a_campaign_still_ends_whole(golden, tmp_path, children):
    """Six kills within campaigns of four cells, each at a random moment of the first half of what a whole life takes here."""
    config = config_of(golden.url)
    _, life_s = children.live(config, tmp_path / "unharmed", resume=None, kill_after_s=None)
    draw = random.Random(7)
    killed, out = 0, tmp_path / "c0"
    for number in range(60):
        if killed == 6:
            break
        if is_finished(out):  # a quick life: what was killed so far must be whole, and the next campaign goes on
            check_whole(out, config, killed)
            out = tmp_path / f"c{number}"
        after_s = draw.uniform(0.02, 0.5) * life_s
        status, lasted_s = children.live(config, out, resume=resumable(out), kill_after_s=after_s)
        killed += status == -9
        life_s = min(life_s, lasted_s) if status == 0 and resumable(out) is None else life_s
    if not is_finished(out):
        assert children.live(config, out, resume=resumable(out), kill_after_s=None)[0] == 0
    assert killed == 6
    check_whole(out, config, killed)


@pytest.mark.skipif(not LONG, reason="30 campaigns; set HARNESS_LONG=1")
def test_thirty_campaigns_killed_at_thirty_moments(golden, tmp_path, children):
    """30 campaigns, each killed once at a moment spread evenly over a whole life, then resumed: every one ends whole."""
    config = config_of(golden.url)
    _, life_s = children.live(config, tmp_path / "unharmed", resume=None, kill_after_s=None)
    check_whole(tmp_path / "unharmed", config, 0)
    draw = random.Random(11)
    outcomes = {"killed": 0, "before the file": 0, "ended first": 0, "attempts aside": 0}
    for number in range(90):  # a life that ended before its kill tests nothing: 30 are those that were killed
        if outcomes["killed"] == 30:
            break
        out = tmp_path / f"c{number}"
        after_s = life_s * (outcomes["killed"] + draw.random()) / 30
        status, lasted_s = children.live(config, out, resume=None, kill_after_s=after_s)
        if status == 0:
            life_s = min(life_s, lasted_s)
        outcomes["killed"] += status == -9
        outcomes["before the file"] += status == -9 and resumable(out) is None and not is_finished(out)
        outcomes["ended first"] += status == 0
        if not is_finished(out):
            assert children.live(config, out, resume=resumable(out), kill_after_s=None)[0] == 0
        check_whole(out, config, 1)
        outcomes["attempts aside"] += (
            len(list((out / "interrupted").glob("*"))) if (out / "interrupted").exists() else 0
        )
    print(f"one life {life_s:.2f} s; {outcomes}")
    assert outcomes["killed"] == 30
