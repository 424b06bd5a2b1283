"""The capacity search as it runs: against simulated servers of known capacity, and against the golden server's queue."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from harness.config.experiment import ExperimentSpec
from harness.config.load import CapacitySpec, LoadSpec
from harness.judge.capacity.orders import ProbeOrder
from harness.judge.capacity.probe import FAIL_NOW, PASS_NOW, Watch
from harness.measure.capacity_search import STOPPED_BY_SEARCH, probe_by_run, search_capacity, stop_word, untrusted
from harness.measure.drive.golden import server as golden
from harness.records import CapacityResult, Cell, Load, ProbeResult, Reason, RequestRecord, Verdict
from harness.report import capacity as page
from harness.report.capacity import probes_plot
from harness.store.manifest import CAPACITY, read_capacity, write_capacity
from tests.bench import golden_capacity
from tests.drive.offering import offer
from tests.judge import capacity_server as servers
from tests.judge.run_builder import request
from tests.waiting import Machine

SERVICE_S, LIMIT_S = 0.05, 0.5
TRUTH = servers.md1_capacity(SERVICE_S, LIMIT_S, 0.95)


def search(seed: int, spec: CapacitySpec, **words) -> CapacityResult:
    return search_capacity(spec, 0.95, servers.probe(servers.fifo(SERVICE_S), seed, LIMIT_S), **words)


@pytest.fixture(scope="module")
def found() -> CapacityResult:
    return search(1, CapacitySpec(start_rps=5))


def test_the_formula_is_the_simulation():
    """Erlang's formula and a simulation of a million requests agree on the attainment at the capacity."""
    import numpy as np

    arrivals = np.cumsum(np.random.default_rng(7).exponential(1 / TRUTH, 1_000_000))
    ttft, *_ = servers.fifo(SERVICE_S)(arrivals)
    assert (ttft <= LIMIT_S).mean() == pytest.approx(0.95, abs=0.003)


def test_the_capacity_of_a_queue_with_any_service_time_is_as_known():
    """Pollaczek and Khinchine's wait on a grid gives M/M/1's capacity, and a simulation's attainment for a long tail."""
    import numpy as np

    rate = servers.mg1_capacity(SERVICE_S, lambda t_s: 1 - np.exp(-t_s / SERVICE_S), LIMIT_S, 0.95)
    assert rate == pytest.approx(servers.mm1_capacity(SERVICE_S, LIMIT_S, 0.95), rel=1e-4)
    rate = servers.mg1_capacity(SERVICE_S, servers.lognormal_cdf(SERVICE_S, 2.0), 1.0, 0.95)
    arrivals = np.cumsum(np.random.default_rng(7).exponential(1 / rate, 4_000_000))
    ttft, *_ = servers.lognormal(SERVICE_S, 2.0)(arrivals)
    assert (ttft <= 1.0).mean() == pytest.approx(0.95, abs=0.003)


def test_md1_is_found_within_3_percent():
    """Three searches from a third and from three times the capacity end within 3 % of it, with 12 probes at most."""
    for seed, start in ((1, 5.0), (2, 50.0), (3, 17.0)):
        result = search(seed, CapacitySpec(start_rps=start))
        assert result.state == "found"
        assert result.capacity_rps == pytest.approx(TRUTH, rel=0.03)
        assert len(result.probes) <= 12


@pytest.mark.parametrize("limit_s", [0.25, 0.5])
def test_the_interval_covers_the_truth_with_short_probes(limit_s):
    """30 searches of M/D/1 at 99 % with probes of a minute: the interval, or the bounds where none was found, hold the true capacity
    in 28 or more, and most were found."""
    truth = servers.md1_capacity(SERVICE_S, limit_s, 0.99)
    results = [
        search_capacity(
            CapacitySpec(start_rps=truth * 4 ** ((seed % 21 - 10) / 10), probe_s=(6, 60)),
            0.99,
            servers.probe(servers.fifo(SERVICE_S), seed, limit_s),
        )
        for seed in range(30)
    ]
    assert sum((one.low_rps or 0.0) <= truth <= (one.high_rps or math.inf) for one in results) >= 28
    assert sum(one.state == "found" for one in results) >= 25


def test_a_fast_server_is_found_in_a_tenth_of_the_time():
    """M/D/1 with a capacity of 176/s: within 3 %, in at most 8 minutes of schedule (a search in probes of ten minutes takes 35 at least)."""
    truth = servers.md1_capacity(0.005, 0.05, 0.95)
    for seed, start in ((1, 60.0), (2, 500.0)):
        spec = CapacitySpec(start_rps=start)
        result = search_capacity(spec, 0.95, servers.probe(servers.fifo(0.005), seed, 0.05))
        assert result.state == "found"
        assert result.capacity_rps == pytest.approx(truth, rel=0.03)
        assert result.seconds <= 8 * 60


def test_far_probes_are_short(found):
    """Probes far from the target stop early: none of them takes half as long as the longest one."""
    far = [p for p in found.probes if not 0.8 < p.rate_rps / TRUTH < 1.25]
    assert far
    assert all(p.seconds < 300 for p in far)


def test_a_search_cut_off_goes_on_with_its_probes(found):
    """Resumed after any number of probes it makes only the others and ends with the same result."""
    for cut in (1, 4, len(found.probes)):
        seen: list[ProbeResult] = []
        again = search(1, CapacitySpec(start_rps=5), made=found.probes[:cut], on_event=seen.append)
        assert again == found
        assert [p.index for p in seen] == [p.index for p in found.probes[cut:]]


def test_a_stop_concludes_what_is_there_and_drops_the_probe_in_progress():
    """Ctrl-C in the third probe: the two before it are concluded, the cut one is not among them."""
    asked: list[int] = []
    simulated = servers.probe(servers.fifo(SERVICE_S), 1, LIMIT_S)

    def probe(order: ProbeOrder, watch: Watch) -> ProbeResult:
        asked.append(order.index)
        return simulated(order, watch)

    result = search_capacity(CapacitySpec(start_rps=5), 0.95, probe, stopped=lambda: len(asked) >= 3)
    assert [p.index for p in result.probes] == [1, 2]


def test_a_server_beyond_max_rps_is_censored():
    """Ten requests a second are no limit for this server: at least 10."""
    result = search(1, CapacitySpec(start_rps=4, max_rps=10))
    assert (result.state, result.low_rps, result.capacity_rps) == ("censored_above", 10, None)


def test_a_promise_that_cannot_be_kept_is_censored_below():
    """A limit below the service time: every probe fails, down to min_rps."""
    result = search_capacity(
        CapacitySpec(start_rps=4, min_rps=1), 0.95, servers.probe(servers.fifo(SERVICE_S), 1, 0.04)
    )
    assert (result.state, result.high_rps, result.capacity_rps) == ("censored_below", 1, None)


# ---------------------------------------------------------------- a probe as a run


def one_probe(verdict: Verdict, rows: list[RequestRecord], folder: Path) -> tuple[ProbeResult, list[str | None]]:
    words: list[str | None] = []

    def run_probe(order, load, should_stop, on_rows) -> Path:
        assert (load.rate, load.duration_s, load.arrivals) == ([order.rate_rps], order.longest_s, "poisson")
        for row in rows:
            on_rows([row])
            words.append(should_stop())
        return folder

    watch = Watch(10.0, 0.9, 10.0)
    return probe_by_run(
        ProbeOrder(3, 10.0, 600.0, 10.0), watch, {"ttft_from_schedule_s": 0.2}, run_probe, lambda _: verdict
    ), words


def test_a_run_is_stopped_when_it_is_clear_and_warm_up_does_not_count(tmp_path):
    """Rows of a good run: drained as soon as it is clear; warm-up rows are not judged."""
    warm = [replace(request(-1 - i, i * 0.01, scheduled_s=None, ttft_s=9), phase="warmup") for i in range(50)]
    rows = warm + [request(i, i * 0.1, scheduled_s=i * 0.1) for i in range(1000)]
    result, words = one_probe(Verdict("VALID", ()), rows, tmp_path / "run3")
    assert (result.verdict, result.index, result.run_id) == ("pass", 3, "run3")
    assert words.index("drain") < 400
    assert result.good == result.offered


def test_overload_is_a_failed_probe_and_a_late_client_an_invalid_one(tmp_path):
    """What the load itself brings about in the run's verdict is a result; anything else makes the probe invalid."""
    late = [request(i, i * 0.1, scheduled_s=i * 0.1, ttft_s=0.5) for i in range(100)]
    grown = Verdict(
        "UNKNOWN", (Reason("queue_growing", "unknown", "grew", ""), Reason("window_too_short", "unknown", "", ""))
    )
    result, words = one_probe(grown, late, tmp_path)
    assert result.verdict == "fail"
    assert words[-1] == STOPPED_BY_SEARCH
    client = Verdict("INVALID", (Reason("send_lag", "invalid", "p99 send lag is 30 ms", ""),))
    result, _ = one_probe(client, late, tmp_path)
    assert result.verdict == "invalid"
    assert "send_lag" in result.stopped


def test_warnings_do_not_make_a_probe_invalid():
    """A warning changes nothing, as in the verdict itself."""
    assert untrusted(Verdict("VALID", (Reason("merged_reads", "warning", "", ""),))) is None


def test_words_for_the_driver():
    """Passed: let replies end. Failed: cancel the queue. Else go on."""
    assert [stop_word(w) for w in (PASS_NOW, FAIL_NOW, None)] == ["drain", STOPPED_BY_SEARCH, None]


# ---------------------------------------------------------------- config, report


def test_a_load_is_a_capacity_search_and_nothing_else():
    """capacity stands alone in its load, needs its rates in order, and needs a promise."""
    assert LoadSpec(capacity={"start_rps": 3}).points() == [Load(arrivals="capacity")]
    for words in (
        {"capacity": {"start_rps": 3}, "rate": [1]},
        {"capacity": {"start_rps": 3}, "duration_s": 5},
        {"capacity": {"start_rps": 3}, "arrivals": "constant"},
        {"capacity": {"start_rps": 3, "max_rps": 2}},
        {"capacity": {"start_rps": 3, "probe_s": [60, 5]}},
        {"capacity": {"start_rps": 3, "probes": 13}},
    ):
        with pytest.raises(ValidationError):
            LoadSpec(**words)
    base = {
        "experiment": "x",
        "targets": [{"name": "t", "kind": "adopt", "model": "m", "url": "http://h/v1"}],
        "workloads": ["fixed:8x8"],
        "loads": [{"capacity": {"start_rps": 3}}],
    }
    with pytest.raises(ValidationError, match="needs slo"):
        ExperimentSpec(**base, slo={"attainment": 0.9})
    with pytest.raises(ValidationError, match="below 1"):
        ExperimentSpec(**base, slo={"ttft_from_schedule_s": 1, "attainment": 1})
    assert ExperimentSpec(**base, slo={"ttft_from_schedule_s": 1}).loads[0].capacity.start_rps == 3


def test_the_report_says_the_capacity_and_shows_every_probe(found):
    """Headline with interval, a table row a probe, and a figure that holds each probe's number and the capacity."""
    assert f"{found.capacity_rps:.1f}" in page.headline(found)
    table = page.markdown(found)
    assert table.count("\n| ") == len(found.probes) + 1
    svg = probes_plot(found)
    assert svg.startswith("<svg")
    for probe in found.probes:
        assert f"probe {probe.index}:" in svg
    assert f"capacity {found.capacity_rps:.1f}" in svg
    assert page.as_values(found)["probes"][0]["rate_rps"] == found.probes[0].rate_rps


def test_several_searches_of_a_cell_are_said_together(found):
    """Two repetitions: one sentence with their mean and an interval that holds both; one repetition: none."""
    cells = [Cell("t", "w", Load(arrivals="capacity"), k) for k in (1, 2)]
    other = replace(found, capacity_rps=found.capacity_rps * 1.02)
    ((words, sentence),) = page.together([(cells[0], found), (cells[1], other)])
    assert words == "t, w"
    assert f"Over 2 repetitions: {found.capacity_rps * 1.02**0.5:.1f} requests/s" in sentence
    assert page.together([(cells[0], found)]) == []


def test_the_report_of_other_ends_makes_up_no_number(found):
    """Censored, undecided and empty searches are words and figures too, without a capacity."""
    above = replace(found, state="censored_above", capacity_rps=None, high_rps=None, low_rps=10.0)
    assert "at least 10.0" in page.headline(above)
    assert "at least 10.0" in probes_plot(above)
    nothing = CapacityResult("undecided", None, None, None, None, 0.99, 0.03, 0.0, (), "no probe was made")
    assert "undecided" in page.headline(nothing)
    assert "no probe was made" in probes_plot(nothing)


def test_a_probe_survives_json(found):
    """Probes written as JSON come back equal: that is what a resumed search is given."""
    import json

    assert {probe.work_cv2 for probe in found.probes} == {0.0}
    for probe in found.probes:
        values = json.loads(json.dumps(asdict(probe)))
        values["batches"] = tuple(tuple(pair) for pair in values["batches"])
        assert ProbeResult(**values) == probe


def test_a_search_stored_before_probes_told_of_their_work_is_read(found, tmp_path):
    """capacity.json comes back equal, and one without `work_cv2` with None in its place."""
    import json

    write_capacity(tmp_path, found)
    assert read_capacity(tmp_path) == found
    data = json.loads((tmp_path / CAPACITY).read_text())
    for probe in data["probes"]:
        del probe["work_cv2"]
    (tmp_path / CAPACITY).write_text(json.dumps(data))
    assert read_capacity(tmp_path).probes == tuple(replace(probe, work_cv2=None) for probe in found.probes)


# ---------------------------------------------------------------- the golden server's queue


@pytest.fixture(scope="module")
def golden_binary(tmp_path_factory) -> Path:
    return golden.build(tmp_path_factory.mktemp("golden"))


@pytest.mark.timing
def test_the_golden_server_takes_one_at_a_time(golden_binary, tmp_path):
    """Twenty requests at once are answered one service time apart, by the server's own log: never before its time, and after it by
    no more than what this machine is late."""
    with Machine() as machine, golden.GoldenProcess(golden_binary, 0.0, 0.0001, tmp_path, 0.02) as server:
        rows, _ = offer(server.url, 20, concurrency=20, tokens=2)
        served = sorted((one for one in server.stop().values()), key=lambda one: int(one.sent_ns[0]))
    assert {row.outcome for row in rows} == {"ok"}
    late_s = machine.worst_ns / 1e9
    assert (
        19 * 0.02 - 0.001
        <= int(served[-1].sent_ns[0] - served[0].received_ns) / 1e9 - 0.02
        <= 19 * 0.02 + 0.03 + 20 * late_s
    )
    assert 0.02 <= int(served[0].sent_ns[0] - served[0].received_ns) / 1e9 < 0.05 + late_s


@pytest.mark.timing
def test_a_real_overload_is_stopped_before_its_end(golden_binary, tmp_path):
    """The driver at four times the golden server's rate: failed and ended before its plan; the next probe is
    ordered below what the server completed."""
    spec = CapacitySpec(start_rps=200, min_rps=10, probe_s=(1, 9), probes=2, tolerance=0.5)
    with Machine() as machine:
        result = golden_capacity.search(golden_binary, spec, 0.02, 0.2, 0.9, 1, tmp_path, max_late_share=10)
    first, second = result.probes
    assert first.verdict == "fail"
    assert first.seconds < 2 + 5 * machine.worst_ns / 1e9  # of a plan of 3; a busy machine hears of the stop later
    assert second.rate_rps < 100
