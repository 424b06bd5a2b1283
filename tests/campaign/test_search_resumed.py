"""A capacity search that was broken off goes on from the probes that had ended, where it is the same machine and server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign_values import Quiet, run, small, states

from harness.judge.runs import analyse, history_of
from harness.measure import capacity_search
from harness.measure.run import Stop
from harness.store.manifest import read_capacity, read_manifest, read_probes
from harness.store.reader import read_run
from tests.waiting import until

pytestmark = pytest.mark.timing
CHILD = Path(__file__).parent / "campaign_child.py"
# no reply keeps this promise on any machine: lower rates again and again
SEARCH = {"start_rps": 80, "min_rps": 0.1, "probe_s": [0.5, 1], "probes": 4}
ALL = [1, 2, 3, 4]


def searching(url: str):
    return small(url, loads=[{"capacity": SEARCH}], slo={"ttft_s": 1e-6, "attainment": 0.9}, repetitions=1)


class _StopAfter(Quiet):
    """Ctrl-C when so many probes have ended."""

    def __init__(self, probes: int) -> None:
        super().__init__()
        self.stop, self._number = Stop(), probes

    def say(self, text: str) -> None:
        super().say(text)
        if text.startswith(f"probe {self._number}: ") and "attainment" in text:
            self.stop.request()


def stopped_after(probes: int, experiment, out: Path, resume: str | None = None) -> _StopAfter:
    display = _StopAfter(probes)
    assert run(experiment, out, resume=resume, stop=display.stop, display=display).stopped
    return display


def search_dir(out: Path) -> Path:
    (found,) = (path for path in out.glob("*Z*_*") if path.is_dir())
    return found


def ordered(display: Quiet) -> int:
    """Probes that were begun."""
    return sum(line.startswith("probe ") and "at most" in line for line in display.said)


def rows_of(directory: Path, probes) -> dict[int, str]:
    """What cannot be measured twice: the first request's id and the stamps of each probe's run."""
    return {p.index: read_run(directory / p.run_id).requests[["request_id", "sent_ns"]].to_json() for p in probes}


def test_a_search_stopped_twice_repeats_no_probe(golden, tmp_path):
    """Ctrl-C after one probe and after three: the fourth is all that is left to measure. The result is that of all four, the probes lie
    beside it, the rows of the earlier ones are those of the attempts before, and the search knows its machine."""
    experiment = searching(golden.url)
    stopped_after(1, experiment, tmp_path)
    first = rows_of(search_dir(tmp_path), read_probes(search_dir(tmp_path)))
    second = stopped_after(3, experiment, tmp_path, "newest")
    assert "the search goes on after probe 1 of the attempt before" in second.said
    done = read_probes(search_dir(tmp_path))
    before = rows_of(search_dir(tmp_path), done)
    assert [probe.index for probe in done] == [1, 2, 3]
    assert before[1] == first[1]
    display = Quiet()
    run(experiment, tmp_path, resume="newest", display=display)
    assert list(states(tmp_path).values()) == ["complete"]
    found = search_dir(tmp_path)
    result = read_capacity(found)
    assert [probe.index for probe in result.probes] == ALL
    assert result.probes[:3] == done
    assert rows_of(found, result.probes[:3]) == before
    assert ordered(display) == 1
    assert not (found / "probes.json").exists()
    assert sorted(path.name for path in found.iterdir() if path.is_dir()) == sorted(p.run_id for p in result.probes)
    seeds = [set(read_run(found / probe.run_id).plan.prompt_seed) for probe in result.probes]
    assert len(set.union(*seeds)) == sum(map(len, seeds))
    (row,) = history_of(analyse(tmp_path))
    assert row.environment["host_sha256"] == read_manifest(found / result.probes[0].run_id).environment["host_sha256"]


def test_a_killed_search_goes_on_from_its_probes(golden, tmp_path, monkeypatch):
    """SIGKILL in the third probe: two are kept, the third is measured again beside its other attempt."""
    experiment = searching(golden.url)
    monkeypatch.setattr(golden, "hold", lambda served: "_probe03-" in served.request_id)
    with subprocess.Popen([sys.executable, CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        asked = {"config": experiment.model_dump(mode="json"), "out": str(tmp_path), "resume": None}
        print(json.dumps(asked), file=child.stdin, flush=True)
        pid = int(child.stdout.readline())
        until(lambda: list(tmp_path.glob("*Z*_*/*_probe03/manifest.json")), "its third probe has begun")
        os.kill(pid, signal.SIGKILL)
        print("wait", file=child.stdin, flush=True)
        assert int(child.stdout.readline()) == -signal.SIGKILL
        child.stdin.close()
    golden.hold = None
    done = read_probes(search_dir(tmp_path))
    assert [probe.index for probe in done] == [1, 2]
    run(experiment, tmp_path, resume="newest")
    result = read_capacity(search_dir(tmp_path))
    assert [probe.index for probe in result.probes] == ALL
    assert result.probes[:2] == done
    assert [path.name[-7:] for path in tmp_path.glob("interrupted/*/*_probe*")] == ["probe03"]


@pytest.mark.parametrize("change", ["machine", "harness", "server", "damaged", "a probe is gone"])
def test_what_was_measured_elsewhere_is_measured_again(golden, tmp_path, monkeypatch, change):
    experiment = searching(golden.url)
    stopped_after(2, experiment, tmp_path)
    attempt = search_dir(tmp_path)
    second = attempt / str(read_probes(attempt)[1].run_id) / "manifest.json"
    manifest = json.loads(second.read_text())
    if change == "machine":
        monkeypatch.setattr(capacity_search, "host_sha256", lambda: "another")
    elif change == "harness":
        second.write_text(json.dumps({**manifest, "harness_version": "0.0.1"}))
    elif change == "server":
        second.write_text(json.dumps({**manifest, "target": {**manifest["target"], "flags": {"max_num_seqs": 7}}}))
    elif change == "damaged":
        (attempt / "probes.json").write_text('{"schema_version": 1, "probes": [{"index": 1}]}')
    else:
        second.unlink()
    display = Quiet()
    run(experiment, tmp_path, resume="newest", display=display)
    result = read_capacity(search_dir(tmp_path))
    assert [probe.index for probe in result.probes] == ALL
    begun = [line for line in display.said if line.startswith("the search ")]
    words = {
        "machine": "begins anew: another machine than",
        "harness": "another version of the harness than",
        "server": "another flags of the server than",
        "damaged": "begins anew: a capacity search cannot be read",
        "a probe is gone": "goes on after probe 1",
    }[change]
    assert len(begun) == 1
    assert words in begun[0]
    assert ordered(display) == (3 if change == "a probe is gone" else 4)
