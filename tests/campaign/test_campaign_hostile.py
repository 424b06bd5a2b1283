"""Campaigns among hostile servers: what is hostile costs its own cells and no others."""

from __future__ import annotations

import pytest
from campaign_values import Quiet, run, small, spec, states

from harness.base.errors import ConfigError, TargetError
from harness.judge.runs import analyse
from harness.measure import control_request, refusals
from harness.measure.campaign import failure, preflight, stock
from harness.measure.campaign.campaign import foresee
from harness.measure.campaign.order import ordered
from harness.measure.phases import Phases
from harness.measure.targets import open_target
from harness.records import Outcome
from harness.report.run.document import write_report
from harness.store.reader import find_runs, read_run
from tests.fakes.fault_server import FaultServer
from tests.fakes.hostile_replies import MODELS

pytestmark = pytest.mark.timing


@pytest.fixture(scope="module")
def hostile():
    with FaultServer() as running:
        yield running


def hosted(url: str, name: str = "api") -> dict:
    return {"name": name, "kind": "hosted", "url": url, "model": "golden"}


def test_one_hostile_server_in_three_costs_its_own_cells(golden, hostile, tmp_path):
    """Twelve cells, every reply of one target of three another hostility: eight good cells, four whose requests all failed, all of them
    stored, and a report of all."""
    own = [{"name": n, "kind": "adopt", "url": golden.url, "model": "golden"} for n in ("a", "b")]
    targets = [own[0], hosted(hostile.url("every"), "c"), own[1]]
    experiment = spec(targets=targets, workloads=["fixed:16x4"], loads=[{"concurrency": [1, 2], "requests": 8}])
    ran = run(experiment, tmp_path)
    assert list(states(tmp_path).values()) == ["complete"] * 12
    outcomes = {path.name: set(read_run(path).requests.outcome) for path in ran.run_dirs}
    good = [name for name, seen in outcomes.items() if seen == {"ok"}]
    assert len(good) == 8
    assert all("ok" not in seen for name, seen in outcomes.items() if name not in good)
    assert sum(len(read_run(path).requests) for path in ran.run_dirs) == 12 * 8
    analysis = analyse(tmp_path)
    assert len(analysis.summaries) == 12
    assert not analysis.problems
    paths = write_report(tmp_path, analysis, [])
    assert paths["html"].exists()


def test_an_error_that_was_not_foreseen_stays_in_its_cell(golden, tmp_path, monkeypatch):
    """A fault of ours in one cell: that cell is failed, with the traceback beside its rows; the others run."""
    real, begun = Phases.measure, []

    def once(phases):
        begun.append(phases.run.cell.name)
        if len(begun) == 2:
            raise RuntimeError("api_key=sk-verysecret1 of a bug of ours")
        real(phases)

    monkeypatch.setattr(Phases, "measure", once)
    ran = run(small(golden.url), tmp_path)
    assert sorted(states(tmp_path).values()) == ["complete"] * 3 + ["failed"]
    ((name, error),) = ran.failures
    assert "not foreseen" in error.what
    run_dir = stock.run_dir(tmp_path, ran.campaign_id, name)
    said = (run_dir / failure.TRACEBACK).read_text()
    assert "RuntimeError" in said
    assert "in once" in said
    assert "verysecret1" not in said + str(error)
    assert read_run(run_dir).manifest.error == "RuntimeError"


def test_a_server_that_refuses_is_not_asked_on(hostile, tmp_path):
    """402 to everything by an own server: after 20 in a row the run ends as failed, its rows stored; the exit code is a target's."""
    loads = [{"concurrency": [4], "requests": 100_000}]
    experiment = spec(
        targets=[hosted(hostile.url("status_402")) | {"kind": "adopt"}],
        workloads=["fixed:16x4"],
        loads=loads,
        repetitions=1,
    )
    ran = run(experiment, tmp_path)
    assert isinstance(ran.worst(), TargetError)
    assert ran.worst().exit_code == 3
    assert "refused 20 requests in a row" in ran.worst().what
    (path,) = find_runs(tmp_path)
    stored = read_run(path)
    assert stored.manifest.state == "failed"
    assert "402" in stored.manifest.error
    refused = stored.requests[stored.requests.http_status == 402]
    assert len(refused) >= refusals.IN_A_ROW
    assert hostile.hits["status_402"] < 100_000
    assert set(stored.requests.outcome) <= {Outcome.HTTP_ERROR, Outcome.CANCELLED}


@pytest.mark.parametrize("name", [*MODELS, "models_endless"])
def test_a_hostile_list_of_models_is_a_target_error(hostile, name, tmp_path):
    """Whatever /models says, the target is refused with the URL, and nothing else happens."""
    experiment = spec(targets=[hosted(hostile.url(name))])
    with pytest.raises(TargetError, match=r"/models|longer than|cannot be reached"):
        open_target(experiment.targets[0], tmp_path / "log", lambda _: None)


def test_a_list_of_models_that_drips_has_an_end(hostile, tmp_path, monkeypatch):
    """A byte now and then keeps every time limit between bytes: the whole answer has one of its own."""
    monkeypatch.setattr(control_request, "TOTAL_S", 0.5)
    with pytest.raises(TargetError, match="cannot be reached"):
        open_target(spec(targets=[hosted(hostile.url("models_drip"))]).targets[0], tmp_path / "log", lambda _: None)


def test_hosted_dollars_are_told_before_the_first_request(hostile, tmp_path):
    """By list price: 8 requests of 16 prompt and 4 output tokens at $2.50 and $10 a million are $0.00064."""
    target = hosted(hostile.url("status_400")) | {"model": "gpt-4o", "price": {"model": "gpt-4o", "provider": "openai"}}
    experiment = spec(
        targets=[target], workloads=["fixed:1000x400"], loads=[{"concurrency": [1], "requests": 8}], repetitions=1
    )
    display = Quiet()
    run(experiment, tmp_path, display=display)
    (line,) = [text for text in display.said if text.startswith("hosted APIs")]
    coming = foresee(experiment, tmp_path).hosted_usd
    assert f"${coming:,.2f} for 8 requests" in line
    assert float(coming) == pytest.approx(8 * (1000 * 2.5 + 400 * 10) / 1e6)
    measuring = next(i for i, text in enumerate(display.said) if text == "phase measuring")
    assert display.said.index(line) < measuring


def test_too_few_open_files_are_told_before_the_start(monkeypatch):
    """A hard limit below what a worker's connections need: refused with the number; at the number itself it may run."""
    steps = ordered(spec(loads=[{"concurrency": [1000], "requests": 2000}]))
    for workers, needed in ((1, 1064), (4, 314)):
        experiment = spec(workers=workers)
        monkeypatch.setattr(preflight.resource, "getrlimit", lambda _, n=needed: (64, n))
        preflight.check_files(experiment, steps)
        monkeypatch.setattr(preflight.resource, "getrlimit", lambda _, n=needed: (64, n - 1))
        with pytest.raises(ConfigError, match=str(needed)):
            preflight.check_files(experiment, steps)
