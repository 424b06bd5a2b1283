"""Calibration: ceilings from points, the budget, what is kept, and one real step."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from harness.base.errors import ConfigError
from harness.cli import cli
from harness.measure import calibrate
from harness.measure.calibrate import Point, Step, calibration_limit, ceiling
from harness.measure.drive.golden import server as golden
from tests.waiting import Machine


def point(kind: str, load: float, error_s: float | None) -> Point:
    return Point(kind, int(load), load, load * 50, load, error_s, error_s, 10, 10, 0, 80, 5e-6, 0.0, ())


@pytest.fixture
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_ceiling_is_the_last_step_before_the_first_bad_one():
    """A good step above a bad one does not count; a ladder that ended without a bad one has no bound; lost tokens are bad."""
    points = [point("tokens", 50, 1e-5), point("tokens", 100, 2e-3), point("tokens", 200, 1e-5)]
    points += [point("requests", 10, 1e-5), point("held", 7, None)]
    found = ceiling(points, 0.001)
    assert (found.streams, found.tokens_per_s, found.tokens_bounded) == (50, 2500, True)
    assert (found.requests_per_s, found.requests_bounded) == (10, False)
    assert (found.held_streams, found.held_bounded) == (None, True)
    assert ceiling(points, 0.005).streams == 200
    nothing = ceiling([], 0.001)
    assert (nothing.tokens_per_s, nothing.tokens_bounded) == (None, False)


@pytest.fixture
def fake_steps(monkeypatch):
    """A machine whose client is right up to 800 streams and 1,000 requests a second; a step takes as long as it says."""
    now = [10**9]
    tried: list[Step] = []

    def measure(step: Step, _binary, _workers) -> Point:
        now[0] += int((step.seconds + 1) * 1e9)
        tried.append(step)
        load = step.rate_rps or step.streams
        good = load <= (1000 if step.kind == "requests" else 800)
        return point(step.kind, load, 1e-5 if good else 0.02)

    monkeypatch.setattr(calibrate, "measure", measure)
    monkeypatch.setattr(calibrate.clock, "monotonic_ns", lambda: now[0])
    monkeypatch.setattr(golden, "build", lambda _: None)
    return tried, now


@pytest.mark.parametrize(("quick", "budget_s"), [(False, 60), (True, 15)])
def test_ladders_stop_at_the_first_bad_step_and_within_the_budget(cache, fake_steps, quick, budget_s):
    """Each ladder ends at its first bad step, which is measured twice; the whole thing keeps to its time."""
    tried, now = fake_steps
    result = calibrate.calibrate(quick=quick)
    assert (now[0] - 10**9) / 1e9 <= budget_s
    loads = [step.streams for step in tried if step.kind == "tokens"]
    assert loads == ([100, 400, 1600, 1600] if quick else [50, 200, 400, 800, 1600, 1600])
    assert {p.kind for p in result.points} == ({"tokens", "requests"} if quick else {"tokens", "requests", "held"})
    assert result.ceilings[1].tokens_bounded
    assert result.ceilings[1].streams == (400 if quick else 800)


def test_saved_is_found_for_the_same_machine_and_workers_only(cache, fake_steps, monkeypatch):
    """What was saved is given back for the same number of workers and version; another, or a broken file, is none."""
    assert calibration_limit(1) is None
    result = calibrate.calibrate()
    path = calibrate.save(result)
    found = calibration_limit(1)
    assert found["ceilings"][1]["tokens_per_s"] == 40_000
    assert set(found) == {"made_utc", "workers", "load1", "quick", "ceilings"}
    assert json.loads(json.dumps(found)) == found
    assert calibration_limit(2) is None
    with monkeypatch.context() as other:
        other.setattr(calibrate, "__version__", "another")
        assert calibration_limit(1) is None
    path.write_text("{")
    assert calibration_limit(1) is None


def test_without_a_compiler_the_error_says_so(cache, monkeypatch):
    """No C compiler: three lines that name what was looked for, and nothing is left in the cache."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(ConfigError, match="no C compiler"):
        calibrate.calibrate()
    assert not list(cache.rglob("golden-server*"))


@pytest.mark.timing
def test_a_real_calibration_from_the_command_line(cache, monkeypatch):
    """Two light steps against the real server: nothing lost, no faster than asked, errors below the limit or what this machine is
    late, saved, and JSON alone on stdout."""
    steps = [
        [Step("tokens", 20, None, 20, 0.01, 0.2)],
        [Step("requests", None, 100.0, calibrate.REQUEST_TOKENS, calibrate.REQUEST_GAP_S, 0.3)],
    ]
    monkeypatch.setattr(calibrate, "ladders", lambda _most, *, quick: iter(steps))
    with Machine() as machine:
        result = CliRunner().invoke(cli, ["calibrate", "--quick", "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    late_s = machine.worst_ns / 1e9
    shown = json.loads(result.stdout)
    tokens, requests = shown["points"]
    assert (tokens["whole"], requests["whole"]) == (20, 30)
    assert 0 < tokens["error_p50_s"] < 0.001 + late_s
    assert 0 < requests["error_p50_s"] < 0.005 + late_s
    assert 0.2 / (0.3 + 10 * late_s) * 2000 < tokens["tokens_per_s"] < 2500
    assert 0.3 / (0.33 + 10 * late_s) * 100 < requests["requests_per_s"] < 110
    assert calibration_limit(1)["ceilings"] == shown["ceilings"]
    assert "100 requests/s x 8" in result.stderr
