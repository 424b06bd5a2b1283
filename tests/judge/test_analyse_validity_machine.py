"""Validity by what the machine shows: the harness itself, boards, throttling, other processes."""

from dataclasses import replace

import pytest

from harness.judge.summary import summarise
from tests.judge.run_builder import gpu, host, run
from tests.judge.validity_values import C4, CLOSED, codes, verdict


def test_a_hungry_harness_is_a_warning():
    """10 % of the server's CPU: warning; 1 % nothing."""
    assert codes(verdict(host_rows=host(CLOSED, harness_per_s=0.1))) == {"harness_cpu": "warning"}


def test_missing_host_telemetry_is_a_warning_on_our_server():
    """A server of ours without host telemetry: warning; a hosted one has no host to watch."""
    assert codes(verdict(host_rows=None)) == {"host_telemetry_missing": "warning"}
    assert verdict(host_rows=None, kind="hosted").reasons == ()


@pytest.mark.parametrize("bit", [0x08, 0x20, 0x40, 0x80])
def test_throttling_by_heat_or_power_supply_is_invalid(bit):
    """Any of NVML's slowdown bits all the time, at three quarters of the board's highest clock: INVALID; at 98 % of it a warning;
    where no clock without is known, UNKNOWN. The idle bit is nothing."""
    rows = gpu(14, throttle_reasons=bit)

    def boards(limit_mhz):
        return {"gpus": [{"index": i, "sm_clock_limit_mhz": limit_mhz} for i in range(2)]}

    assert codes(verdict(gpu_rows=rows, environment=boards(2000))) == {"gpu_throttled": "invalid"}
    assert codes(verdict(gpu_rows=rows, environment=boards(1530))) == {"gpu_throttled": "warning"}
    assert codes(verdict(gpu_rows=rows)) == {"gpu_throttled": "unknown"}
    assert verdict(gpu_rows=gpu(14, throttle_reasons=0x1)).reasons == ()


def test_the_power_limit_is_a_warning():
    """SwPowerCap is usual under full load: VALID, said."""
    assert codes(verdict(gpu_rows=gpu(14, throttle_reasons=0x4))) == {"gpu_power_capped": "warning"}


def test_throttling_outside_the_window_does_no_harm():
    """Only samples of the window count."""
    rows = [replace(r, throttle_reasons=0x40) if i < 8 else r for i, r in enumerate(gpu(14))]
    assert verdict(gpu_rows=rows).reasons == ()


def test_other_processes_on_the_gpu():
    """Somebody else on the board: INVALID for our server, a warning where we cannot know the server's own processes."""
    rows = gpu(14, other_process_count=1)
    assert codes(verdict(gpu_rows=rows)) == {"other_gpu_processes": "invalid"}
    assert codes(verdict(gpu_rows=rows, kind="adopt")) == {"other_gpu_processes": "warning"}


def told(**facts):
    return {"gpu": "ok", "gpu_facts": facts}


@pytest.mark.parametrize(("kind", "severity"), [("vllm", "unknown"), ("offline", "unknown"), ("adopt", "warning")])
def test_that_no_process_was_seen_is_not_that_there_was_none(kind, severity):
    """Where the sampler says that others cannot be known, or the boards, our own server's run is UNKNOWN."""
    rows = gpu(14, other_process_count=None)
    hidden = told(certain=True, others_unknown="hidden")
    assert codes(verdict(gpu_rows=rows, telemetry=hidden, kind=kind)) == {"gpu_others_unknown": severity}
    guessed = told(certain=False, no_energy="guessed", chosen="all visible", others_unknown="guessed")
    assert codes(verdict(gpu_rows=rows, telemetry=guessed, kind=kind)) == {"gpu_boards_unknown": severity}
    assert codes(verdict(gpu_rows=rows, telemetry=told(certain=True, others_unknown=None), kind=kind)) == {}


def test_lists_of_processes_count_that_are_seconds_apart():
    """A list before and one after the window tell of it where none is inside; one further away does not."""
    window = summarise(run(CLOSED, C4)).window

    def listed(*at_s):
        rows = [replace(r, process_count=None, other_process_count=None) for r in gpu(14)]
        lists = [
            replace(rows[0], stamp_ns=window.start_ns + round(s * 1e9), process_count=2, other_process_count=n)
            for s, n in at_s
        ]
        return codes(verdict(gpu_rows=[*rows, *lists], telemetry=told(certain=True)))

    assert listed((-0.5, 1), (window.seconds + 0.5, 0)) == {"other_gpu_processes": "invalid"}
    assert listed((-0.5, 0), (window.seconds + 0.5, 1)) == {"other_gpu_processes": "invalid"}
    assert listed((-0.8, 1), (-0.5, 0), (window.seconds + 0.5, 0)) == {}


def test_a_slice_shares_its_board():
    """Rows of a MIG slice: a warning that clocks, power and energy are the whole board's."""
    rows = [replace(r, gpu_uuid="MIG-1", gpu_index=0) if r.gpu_index else r for r in gpu(14)]
    assert codes(verdict(gpu_rows=rows)) == {"gpu_board_shared": "warning"}


def test_an_xid_makes_a_run_unknown():
    """A critical error of the driver during the run is told with its number and board."""
    v = verdict(gpu_rows=gpu(14), telemetry=told(certain=True, xids=[[3, 79]]))
    assert codes(v) == {"gpu_xid": "unknown"}
    assert "Xid 79 on GPU 3" in v.reasons[0].message


def test_a_failed_board_is_unknown():
    """A board that stopped answering in the window: what it did is not known."""
    rows = [
        replace(r, energy_mj=None, throttle_reasons=None, other_process_count=None, error="GPU is lost")
        if r.gpu_index == 1 and i > 80
        else r
        for i, r in enumerate(gpu(14))
    ]
    v = verdict(gpu_rows=rows)
    assert codes(v) == {"gpu_board_failed": "unknown"}
    assert "GPU 1" in v.reasons[0].message
