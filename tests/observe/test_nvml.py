"""harness.measure.observe.boards.nvml against a C library under NVML's name, through the real nvidia-ml-py."""

import pytest

pytestmark = pytest.mark.timing
GIB = 1 << 30
MS = 1_000_000
SAMPLE = "g = open_gpus(); print(json.dumps([asdict(r) for r in g.sample(())]))"


def test_every_field_of_every_board(with_nvml):
    """Eight boards give eight rows whose fields hold the library's values, in their documented units."""
    rows = with_nvml(SAMPLE)
    assert [r["gpu_index"] for r in rows] == list(range(8))
    assert rows[3]["gpu_uuid"].startswith("GPU-00000003-")
    expected = {
        "power_mw": 330_000,
        "sm_util_pct": 90,
        "mem_util_pct": 40,
        "mem_used_bytes": 70 * GIB,
        "sm_clock_mhz": 1755,
        "mem_clock_mhz": 2619,
        "temperature_c": 61,
        "throttle_reasons": 4,
        "process_count": 0,
        "other_process_count": None,
        "error": None,
    }
    assert {k: rows[3][k] for k in expected} == expected


def test_energy_is_power_times_time(with_nvml):
    """The counter's rise between two samples is the board's power times a whole number of counter periods, no more of them than
    lie between the begin of the first and the end of the last, no fewer than between the samples."""
    code = """
g = open_gpus(); looks = []
for pause_s in (0.35, 0):
    begun_ns = clock.monotonic_ns(); rows = [asdict(r) for r in g.sample(())]; looks.append([begun_ns, rows, clock.monotonic_ns()])
    clock.sleep(pause_s)
print(json.dumps(looks))"""
    (begun_ns, before, between_ns), (again_ns, after, ended_ns) = with_nvml(code, period_ms=20)
    for a, b in zip(before, after, strict=True):
        counted_ms = (b["energy_mj"] - a["energy_mj"]) * 1000 / a["power_mw"]
        assert counted_ms % 20 == 0
        assert (again_ns - between_ns) / MS - 21 <= counted_ms <= (ended_ns - begun_ns) / MS + 21
        assert begun_ns < a["stamp_ns"] < between_ns


def test_counter_period_is_found(with_nvml):
    """The period is that at which the counter really moves, as near as this machine let it look, and gives up on one that
    stands still."""
    code = """
from tests.waiting import Machine
g = open_gpus()
with Machine() as machine: period = g.counter_period_ns(limit_s=60)
g.close()
os.environ["FAKE_NVML_PERIOD_MS"] = "1000000"
g = open_gpus(); t = clock.monotonic_ns(); still = g.counter_period_ns(limit_s=0.2); spent = clock.monotonic_ns() - t
print(json.dumps([period, machine.worst_ns, still, spent]))"""
    period_ns, late_ns, still, spent_ns = with_nvml(code, period_ms=50)
    assert 40 * MS - 2 * late_ns <= period_ns <= 60 * MS + 2 * late_ns
    assert still is None
    assert spent_ns >= 200 * MS


def test_unsupported_counters_are_null_and_not_asked_again(with_nvml):
    """NOT_SUPPORTED and NO_PERMISSION give null in every row, are asked once per board, and are told by missing()."""
    code = """
from harness.measure.observe.boards import nvml
calls = []
real = nvml._READERS["utilisation"][0]
nvml._READERS["utilisation"] = (lambda h: (calls.append(1), real(h))[1],)
g = open_gpus(); first = g.sample(()); g.sample(())
print(json.dumps([asdict(first[0]), len(calls), g.missing()]))"""
    row, calls, missing = with_nvml(code, gpus=2, flags="bare no_energy")
    nulls = ("energy_mj", "sm_util_pct", "mem_util_pct", "sm_clock_mhz", "temperature_c", "throttle_reasons")
    assert {row[name] for name in (*nulls, "process_count", "other_process_count", "error")} == {None}
    assert row["power_mw"] == 300_000
    assert row["mem_used_bytes"] == 70 * GIB
    assert calls == 2
    assert missing["energy"] == missing["processes"] == missing["utilisation"] == 2
    assert "power" not in missing
    assert "MIG mode" not in missing


def test_an_older_driver_is_read_through_its_own_functions(with_nvml):
    """Functions that a driver lacks are replaced by their predecessors, not by nulls."""
    row = with_nvml(SAMPLE, gpus=1, flags="old", processes="0:77")[0]
    assert row["mem_used_bytes"] == 71 * GIB
    assert row["temperature_c"] == 60
    assert row["throttle_reasons"] == 8
    assert row["process_count"] == 1


def test_not_available_is_null(with_nvml):
    """A value with all bits set is NVML's "not available", not 4.3 MW."""
    assert with_nvml(SAMPLE, gpus=1, flags="unavailable")[0]["power_mw"] is None


def test_a_board_that_fails_in_mid_run(with_nvml, tmp_path):
    """A lost board and one with an unknown error become rows with their error and nulls; the others go on."""
    code = f"""
g = open_gpus(); a = g.sample(()); Path({str(tmp_path / "fails")!r}).touch()
until(lambda: g.sample(())[3].energy_mj > a[3].energy_mj); b = g.sample(())
print(json.dumps([[asdict(r) for r in a], [asdict(r) for r in b]]))"""
    before, after = with_nvml(code, gpus=4, lost=f"1:{tmp_path / 'fails'}", unknown=f"2:{tmp_path / 'fails'}")
    assert [r["error"] for r in before] == [None] * 4
    assert [r["error"] for r in after] == [None, "NVML: GPU is lost", "NVML: Unknown Error", None]
    identity = {"stamp_ns", "gpu_index", "gpu_uuid", "error"}
    assert {v for k, v in after[1].items() if k not in identity} == {None}
    assert after[3]["energy_mj"] > before[3]["energy_mj"]


def test_mig_slices_give_memory_and_the_board_its_energy_once(with_nvml):
    """In MIG mode each slice has its memory, and power and energy stand only on the board's row."""
    code = """
g = open_gpus(); rows = [asdict(r) for r in g.sample(())]; facts = g.static(); g.close()
g = open_gpus((), ["MIG-00000000-0000-0000-0000-000000000001"]); one = [asdict(r) for r in g.sample(())]
print(json.dumps([rows, facts, one]))"""
    rows, facts, one = with_nvml(code, gpus=2, mig=3, processes="0.1:77")
    board = rows[0]
    slices = [r for r in rows if r["gpu_uuid"].startswith("MIG-")]
    assert len(rows) == 5
    assert [r["gpu_index"] for r in slices] == [0, 0, 0]
    assert [r["mem_used_bytes"] for r in slices] == [5 * GIB, 6 * GIB, 7 * GIB]
    assert [r["process_count"] for r in slices] == [0, 1, 0]
    assert {r[k] for r in slices for k in ("power_mw", "energy_mj", "sm_util_pct")} == {None}
    assert board["energy_mj"] is not None
    assert board["mem_used_bytes"] is None
    assert board["sm_util_pct"] is None  # NVML does not give it in MIG mode
    assert sum(r["power_mw"] or 0 for r in rows) == 300_000 + 310_000
    assert [f["mig_enabled"] for f in facts] == [True, False]
    assert len(facts[0]["mig_slices_watched"]) == 3
    assert [r["gpu_uuid"][:3] for r in one] == ["GPU", "MIG"]


def test_boards_of_the_target_and_processes_of_others(with_nvml):
    """With the target's pids only its boards are watched, and processes that are not its own are counted there."""
    code = """
g = open_gpus([501, 502]); rows = g.sample([501, 502])
print(json.dumps([[r.gpu_index for r in rows], [r.process_count for r in rows], [r.other_process_count for r in rows],
                  g.target_seen, sorted(g.foreign)]))"""
    answer = with_nvml(code, processes="2:501,5:502,5:999,7:888")
    assert answer == [[2, 5], [1, 2], [0, 1], True, [999]]


def test_processes_of_others_are_unknown_without_the_target(with_nvml):
    """Where no process of the target is found, all boards are watched and nobody is called a stranger."""
    code = """
g = open_gpus([501]); rows = g.sample([501])
print(json.dumps([len(rows), rows[7].process_count, rows[7].other_process_count, g.target_seen]))"""
    assert with_nvml(code, processes="7:888") == [8, 1, None, False]


def test_devices_as_in_cuda_visible_devices(with_nvml):
    """Indices and UUID beginnings choose boards; an unknown or empty list is a reason, not a crash."""
    code = """
g = open_gpus([501], ["6", "GPU-00000001"]); rows = [r.gpu_index for r in g.sample([501])]; g.close()
print(json.dumps([rows, open_gpus((), ["8"]), open_gpus((), ["GPU-0000000"]), open_gpus((), [])]))"""
    rows, unknown, ambiguous, empty = with_nvml(code, processes="2:501")
    assert rows == [6, 1]
    assert "no GPU '8'" in unknown
    assert "no GPU 'GPU-0000000'" in ambiguous
    assert "sees no GPU" in empty


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"init": 18}, "differ in version"),
        ({"init": 9}, "kernel driver is not loaded"),
        ({"init": 4}, "no permission"),
        ({"gpus": 0}, "no usable GPU"),
        ({"lost": "0:/dev/null", "gpus": 1}, "GPU 0 could not be opened: GPU is lost"),
    ],
)
def test_why_there_is_no_nvml(with_nvml, settings, words):
    """An NVML that does not start, or has no board, is a string that says why."""
    assert words in with_nvml("print(json.dumps(open_gpus()))", **settings)


def test_static_facts(with_nvml):
    """Provenance of a board: names, versions and modes as NVML tells them, null where it does not."""
    code = "g = open_gpus(); print(json.dumps(g.static()[1]))"
    facts = with_nvml(code, gpus=2)
    assert facts["name"] == "Fake H100"
    assert facts["driver_version"] == "999.10.01"
    assert facts["cuda_driver_version"] == "13.1"
    assert facts["power_limit_mw"] == 700_000
    assert facts["memory_total_bytes"] == 80 * GIB
    assert facts["memory_used_includes_reserved"] is False
    assert facts["persistence_enabled"] is True
    assert facts["ecc_enabled"] is True
    assert facts["mig_enabled"] is None
    assert with_nvml(code, gpus=2, flags="bare")["ecc_enabled"] is None
