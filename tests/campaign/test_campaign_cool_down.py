"""Pauses until the boards are back."""

from __future__ import annotations

import pytest

from harness.config.experiment import CoolDownSpec
from harness.measure.campaign import cool_down
from harness.measure.campaign.cool_down import CoolDown
from harness.records import GpuSample, TargetInfo

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


INFO = TargetInfo(
    name="t", kind="vllm", base_url="http://127.0.0.1:1/v1", model="m", max_model_len=None, server_version=None, flags={},
    cache_config={}, pids=(), startup=None, metrics_url=None, checks={},
)  # fmt: skip


def beside_idle(spec: CoolDownSpec, board: Board) -> CoolDown:
    """With the baseline of the board as it is now."""
    cool = CoolDown(spec, board.read)
    cool.server_is_up(INFO)
    return cool


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(cool_down, "_POLL_S", 0.001)


def test_it_waits_until_the_temperature_is_back():
    """40 degC beside the idle server, 70 after a cell, 1 degree a look: ends at 45 with margin 5, after some 25 looks."""
    board = Board()
    cool = beside_idle(CoolDownSpec(timeout_s=200), board)
    board.celsius, board.step_c = 70, 1
    said: list[str] = []
    pause = cool.wait(said.append)
    assert pause is not None
    assert pause.state == "back"
    assert round(board.celsius) == 45
    assert len(said) == 1
    assert "limit 45" in said[0]


def test_the_baseline_is_the_idle_servers_not_the_empty_boards():
    """30 degC before a server stood, 48 with one idle: 52 is back. The start of a second one at 70 is no new baseline."""
    board = Board(celsius=30)
    cool = CoolDown(CoolDownSpec(timeout_s=0.02), board.read)
    board.celsius = 48
    cool.server_is_up(INFO)
    board.celsius = 52
    assert state(cool) == "back"
    board.celsius = 70
    cool.server_is_up(INFO)
    assert state(cool) == "timeout"


def state(cool: CoolDown) -> str:
    pause = cool.wait(lambda _: None)
    assert pause is not None
    return pause.state


def test_it_gives_up_after_the_timeout():
    """A board that stays hot: timeout, said and recorded with what was not back."""
    board = Board()
    cool = beside_idle(CoolDownSpec(timeout_s=0.05), board)
    board.celsius = 80
    pause = cool.wait(lambda _: None)
    assert pause is not None
    assert pause.state == "timeout"
    assert pause.waited_s >= 0.05
    assert "80 degC" in pause.why


def test_a_board_that_no_longer_cools_is_not_waited_for(monkeypatch):
    """Above the limit and not a degree less for a while: settled, well before the timeout, with what was not back."""
    monkeypatch.setattr(cool_down, "_SETTLED_S", 0.02)
    board = Board()
    cool = beside_idle(CoolDownSpec(timeout_s=200), board)
    board.celsius = 60
    pause = cool.wait(lambda _: None)
    assert pause is not None
    assert pause.state == "settled"
    assert "60 degC, limit 45" in pause.why


def test_only_a_clock_that_is_held_down_is_waited_for():
    """Beside an idle server 1,755 MHz: higher is no harm, nor is a low one of a board that idles; 1,200 at work is."""
    board = Board(mhz=1755, reasons=0)
    cool = beside_idle(CoolDownSpec(timeout_s=0.01), board)
    outcome = {}
    for mhz, reasons in ((1740, 0), (1980, 0), (345, 1), (1200, 0), (345, 0)):
        board.mhz, board.reasons = mhz, reasons
        outcome[mhz, reasons] = state(cool)
    expected = {(1740, 0): "back", (1980, 0): "back", (345, 1): "back", (1200, 0): "timeout", (345, 0): "timeout"}
    assert outcome == expected


@pytest.mark.parametrize(
    ("reasons", "state"), [(0x1, "back"), (0x4, "back"), (0x40, "timeout"), (0x8 | 0x1, "timeout")]
)
def test_a_slowed_board_is_not_back(reasons, state):
    """Idle and power-cap bits are no slow-down; hardware and thermal ones are."""
    board = Board()
    cool = beside_idle(CoolDownSpec(timeout_s=0.01), board)
    board.reasons = reasons
    pause = cool.wait(lambda _: None)
    assert pause is not None
    assert pause.state == state


def test_without_nvml_and_with_no_timeout_there_is_no_pause():
    """No NVML on this machine, or timeout_s 0: None at once."""
    with CoolDown(CoolDownSpec(timeout_s=0)) as never:
        assert never.wait(print) is None
    assert CoolDown(CoolDownSpec(timeout_s=0), Board().read).wait(print) is None


NVML = """
from harness.measure.campaign.cool_down import CoolDown, as_facts
from harness.config.experiment import CoolDownSpec
from harness.records import TargetInfo
info = TargetInfo(name="t", kind="vllm", base_url="http://127.0.0.1:1/v1", model="m", max_model_len=None, server_version=None,
                  flags={}, cache_config={}, pids=(os.getpid(),), startup=None, metrics_url=None, checks={})
said = []
state = Path(os.environ["FAKE_NVML_STATE"])
with CoolDown(CoolDownSpec(timeout_s=0.1)) as cool:
    os.environ["FAKE_NVML_PROCESSES"] = f"1:{os.getpid()}"
    state.write_text("0 1755 0 40 1 1755 0 40")
    cool.server_is_up(info, DECLARED)
    pauses = []
    for now in ("0 1755 0 90 1 1755 0 44", "0 1755 0 40 1 1755 0 46", "0 1755 0 40 1 345 1 40"):
        state.write_text(now)
        pauses.append(as_facts(cool.wait(said.append)))
print(json.dumps(pauses))
"""


def test_only_the_servers_own_boards_are_waited_for(with_nvml, tmp_path):
    """Two boards, the server on the second: the first may be as hot as it likes; `gpus:` names another; without NVML None."""
    settings = {"gpus": 2, "state": tmp_path / "state"}
    found = with_nvml(f"DECLARED = ()\n{NVML}", **settings)
    assert [pause["state"] for pause in found] == ["back", "timeout", "back"]
    assert found[1]["why"] == "GPU 1 at 46 degC, limit 45"
    found = with_nvml(f"DECLARED = ['0']\n{NVML}", **settings)
    assert [pause["state"] for pause in found] == ["timeout", "back", "back"]
    assert with_nvml(f"DECLARED = ()\n{NVML}", **settings, library=False) == [None, None, None]
    assert with_nvml(f"DECLARED = ()\n{NVML}", **settings, flags="hidden") == [None, None, None]
