"""GPU energy from counters."""

from dataclasses import replace

import pytest

from harness.judge.energy import SHARED, Energy, gpu_energy
from harness.judge.summary import summarise
from harness.records import GpuSample, Load, Window
from tests.judge.run_builder import closed_loop, frame, gpu, ns, run

W = Window(ns(0.55), ns(3.13), "", 1, 0, 0)


def energy(rows, window=W):
    return gpu_energy(frame(rows, GpuSample), window)


def test_counters_are_interpolated_at_the_edges_and_summed():
    """Two boards of 100 W and 200 W over 2.58 s, edges between samples: 774 J."""
    found = energy(gpu(5))
    assert found.energy_j == pytest.approx(300 * 2.58, abs=0.002)
    assert found.boards == 2


def test_power_is_never_integrated():
    """Without the counter energy is None, though power is there."""
    found = energy(gpu(5, energy_mj=None))
    assert found.energy_j is None
    assert "no energy counter" in found.reason


def test_one_board_without_a_counter_makes_the_sum_unknown():
    """The other board's energy alone would be too small a number."""
    rows = [replace(r, energy_mj=None) if r.gpu_index == 1 else r for r in gpu(5)]
    assert energy(rows).energy_j is None


def test_a_counter_that_goes_backwards_in_the_window_is_no_energy():
    """A driver reload inside the window resets the counter: None. Before the window it does no harm."""

    def reset(after_s):
        return [replace(r, energy_mj=r.energy_mj - 5_000_000_000) if r.stamp_ns > ns(after_s) else r for r in gpu(5)]

    assert "backwards" in energy(reset(2)).reason
    assert energy(reset(-0.5)).energy_j == pytest.approx(774, abs=0.002)


def test_a_board_that_fails_for_good_makes_energy_unknown():
    """Null rows to the end: None with the board named. A gap that closes again costs nothing: it is a counter."""

    def silent(a, b):
        return [
            replace(r, energy_mj=None, error="lost") if r.gpu_index == 1 and ns(a) < r.stamp_ns < ns(b) else r
            for r in gpu(5)
        ]

    assert "GPU 1" in energy(silent(2, 99)).reason
    assert energy(silent(1, 2)).energy_j == pytest.approx(774, abs=0.002)


def test_samples_that_do_not_reach_the_edges_make_energy_unknown():
    """Nothing is extrapolated beyond the first or last reading."""
    assert "before the window" in energy(gpu(5), Window(ns(-3), ns(3), "", 1, 0, 0)).reason
    assert "after the window" in energy(gpu(5), Window(ns(0), ns(9), "", 1, 0, 0)).reason


def test_a_boards_energy_is_not_a_slices():
    """A run with rows of a MIG slice has no energy: the board's counter is of all its slices."""
    slices = [replace(r, gpu_index=0, gpu_uuid="MIG-1", energy_mj=None) for r in gpu(5, (100.0,))]
    assert energy([*gpu(5, (100.0,)), *slices]) == Energy(None, 0, SHARED)


@pytest.mark.parametrize(
    ("telemetry", "known"),
    [
        ({"gpu": "ok: 2 boards", "gpu_facts": {"no_energy": None}}, True),
        ({"gpu": "ok: 2 boards"}, True),
        ({"gpu": "partial: ..", "gpu_facts": {"no_energy": "boards not known"}}, False),
        (
            {"gpu": "partial: no process of the target was found on a board, so these may not be the target's boards"},
            False,
        ),
    ],
    ids=["certain", "old", "uncertain", "old and in doubt"],
)
def test_energy_of_boards_that_may_be_others_is_none(telemetry, known):
    """What the sampler said of its boards decides, in runs from before its facts by its sentence; the reason is a note."""
    summary = summarise(run(closed_loop(4, 400), Load(concurrency=4), gpu_rows=gpu(14), telemetry=telemetry))
    assert (summary.scalars["energy_j"] is not None) == known
    assert any(note.startswith("GPU energy unknown") for note in summary.notes) != known


def test_energy_per_output_token():
    """Joules over the output tokens of the same window."""
    summary = summarise(run(closed_loop(4, 400), Load(concurrency=4), gpu_rows=gpu(14)))
    assert summary.scalars["energy_per_output_token_j"] == pytest.approx(300 / summary.scalars["output_tps"], rel=1e-4)
    assert summary.timeline.series["gpu_power_w"][60] == pytest.approx(300)


def test_no_gpu_is_a_note():
    """No telemetry: energy None, said in the notes."""
    summary = summarise(run(closed_loop(4, 40), Load(concurrency=4), telemetry={"gpu": "no NVML on this machine"}))
    assert summary.scalars["energy_j"] is None
    assert "gpu telemetry absent: no NVML on this machine" in summary.notes


def board(points, index=0, uuid="GPU-0"):
    return [GpuSample(ns(at), index, uuid, 1, mj, 0, 0, 0, 0, 0, 0, 0, 0, 0, None) for at, mj in points]


def joules(rows, start=1.0, end=3.0):
    return gpu_energy(frame(rows, GpuSample), Window(ns(start), ns(end), "", 1, 0, 0))


HIGH = 5_000_000_000


def test_energy_between_the_edges():
    """Interpolated between the readings around each edge, which may be on it; readings in any order; nulls left out."""
    points = [(0.0, HIGH), (2.0, HIGH + 4000), (4.0, HIGH + 10_000), (3.5, None)]
    assert joules(board(points)) == Energy(pytest.approx(7.0 - 2.0), 1, None)
    assert joules(board(points[::-1])).energy_j == pytest.approx(5.0)
    assert joules(board(points), 0.0, 4.0) == Energy(pytest.approx(10.0), 1, None)
    two = [*board(points), *board([(0.5, 0), (3.0, 2500)], 1, "GPU-1")]
    assert joules(two) == Energy(pytest.approx(5.0 + 2.0), 2, None)


@pytest.mark.parametrize(
    ("rows", "start", "end", "boards", "why"),
    [
        (board([(0.0, HIGH), (4.0, HIGH + 1)]), -0.001, 3.0, 0, "GPU 0 gave no energy reading before the window"),
        (board([(0.0, HIGH), (4.0, HIGH + 1)]), 1.0, 4.001, 0, "GPU 0 gave no energy reading after the window"),
        (board([(0.0, None), (4.0, None)]), 1.0, 3.0, 0, "GPU 0 has no energy counter"),
        ([*board([(0.0, 0), (4.0, 9)]), *board([(0.0, None)], 3, "x")], 1.0, 3.0, 1, "GPU 3 has no energy counter"),
        (
            board([(0.0, 9), (2.0, 8), (4.0, 10)]),
            1.0,
            3.0,
            0,
            "GPU 0: the energy counter went backwards inside the window",
        ),
        (
            board([(0.0, 9), (2.0, 10), (4.0, 9)]),
            1.0,
            2.5,
            0,
            "GPU 0: the energy counter went backwards inside the window",
        ),
        ([], 1.0, 3.0, 0, "no GPU telemetry"),
    ],
)
def test_energy_that_is_not_known(rows, start, end, boards, why):
    """None, how many boards were added up before, and which board and why."""
    assert joules(rows, start, end) == Energy(None, boards, why)


def test_a_counter_that_falls_beside_the_window_does_no_harm():
    """Before the reading at or before its start, and after the one at or behind its end."""
    assert joules(board([(0.0, 9000), (1.0, 0), (2.0, 1000), (3.0, 3000), (4.0, 0)])) == Energy(
        pytest.approx(3.0), 1, None
    )
    assert joules(board([(0.0, 9000), (0.9, 0), (3.1, 2200), (4.0, 0)])) == Energy(pytest.approx(2.0), 1, None)
    assert gpu_energy(None, None) == Energy(None, 0, "no GPU telemetry")
    assert gpu_energy(frame(gpu(5), GpuSample), None) == Energy(None, 0, "no window")
