"""Pauses until the boards are back."""

from __future__ import annotations

import pytest

from harness.campaign import cool_down
from harness.campaign.cool_down import CoolDown
from harness.config import CoolDownSpec
from harness.records import GpuSample

pytestmark = pytest.mark.timing


class Board:
    """A board that cools by `step_c` at every look."""

    def __init__(self, celsius: float = 40, mhz: int = 345, reasons: int = 0x1, step_c: float = 0) -> None:
        self.celsius, self.mhz, self.reasons, self.step_c = celsius, mhz, reasons, step_c

    def read(self) -> list[GpuSample]:
        self.celsius -= self.step_c
        return [
            GpuSample(
                stamp_ns=0, gpu_index=0, gpu_uuid="GPU-0", power_mw=None, energy_mj=None, sm_util_pct=None, mem_util_pct=None,
                mem_used_bytes=None, sm_clock_mhz=self.mhz, mem_clock_mhz=None, temperature_c=round(self.celsius),
                throttle_reasons=self.reasons, process_count=None, other_process_count=None, error=None,
            )
        ]  # fmt: skip


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(cool_down, "_POLL_S", 0.001)


def test_it_waits_until_the_temperature_is_back():
    """40 degC before, 70 after a cell, 1 degree a look: ends at 45 with margin 5, after some 25 looks."""
    board = Board()
    cool = CoolDown(CoolDownSpec(timeout_s=200), board.read)
    board.celsius, board.step_c = 70, 1
    said: list[str] = []
    pause = cool.wait(said.append)
    assert pause is not None
    assert pause.state == "back"
    assert round(board.celsius) == 45
    assert len(said) == 1
    assert "limit 45" in said[0]


def test_it_gives_up_after_the_timeout():
    """A board that stays hot: timeout, said and recorded with what was not back."""
    board = Board()
    cool = CoolDown(CoolDownSpec(timeout_s=0.05), board.read)
    board.celsius = 80
    pause = cool.wait(lambda _: None)
    assert pause is not None
    assert pause.state == "timeout"
    assert pause.waited_s >= 0.05
    assert "80 degC" in pause.why


def test_clocks_are_held_against_the_idle_server_not_the_idle_machine():
    """345 MHz without a server, 1,755 with one: 1,740 is back, 1,200 and 345 are not."""
    board = Board(mhz=345)
    cool = CoolDown(CoolDownSpec(timeout_s=0.01), board.read)
    board.mhz = 1755
    cool.server_is_up()
    outcome = {}
    for mhz in (1740, 1200, 345):
        board.mhz = mhz
        pause = cool.wait(lambda _: None)
        assert pause is not None
        outcome[mhz] = pause.state
    assert outcome == {1740: "back", 1200: "timeout", 345: "timeout"}


@pytest.mark.parametrize(
    ("reasons", "state"), [(0x1, "back"), (0x4, "back"), (0x40, "timeout"), (0x8 | 0x1, "timeout")]
)
def test_a_slowed_board_is_not_back(reasons, state):
    """Idle and power-cap bits are no slow-down; hardware and thermal ones are."""
    board = Board()
    cool = CoolDown(CoolDownSpec(timeout_s=0.01), board.read)
    board.reasons = reasons
    pause = cool.wait(lambda _: None)
    assert pause is not None
    assert pause.state == state


def test_without_nvml_and_with_no_timeout_there_is_no_pause():
    """No NVML on this machine, or timeout_s 0: None at once."""
    with CoolDown(CoolDownSpec(timeout_s=0)) as never:
        assert never.wait(print) is None
    assert CoolDown(CoolDownSpec(timeout_s=0), Board().read).wait(print) is None


def test_nvmls_boards_through_the_real_binding(with_nvml):
    """The fake library's boards at 61 degC and 1,755 MHz, never changing: back at once; without the library None."""
    code = """
from harness.campaign.cool_down import CoolDown, as_facts
from harness.config import CoolDownSpec
said = []
with CoolDown(CoolDownSpec(timeout_s=200)) as cool:
    cool.server_is_up()
    print(json.dumps([as_facts(cool.wait(said.append)), said]))
"""
    seen, said = with_nvml(code, gpus=2)
    assert seen["state"] == "back"
    assert said == []  # nothing was waited for
    assert with_nvml(code, library=False) == [None, []]
