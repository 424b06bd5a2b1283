"""What disciplines a clock, out of programs that answer as the real ones do, do not answer, or are not there."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.nodes.clock_source import chrony, clock_facts, hardware_clocks, ptp, systemd

TRACKING = "C0A80A01,192.168.10.1,3,1795713201.482093515,-0.000002117,0.000001385,0.000004920,-18.623,0.001,0.042,0.000212,0.000091,64.2,Normal\n"
PMC = """sending: GET TIME_STATUS_NP
sending: GET CURRENT_DATA_SET
\t90e2ba.fffe.20c7f8-0 seq 0 RESPONSE MANAGEMENT TIME_STATUS_NP
\t\tmaster_offset              -37
\t\tingress_time               1795713201361089345
\t\tcumulativeScaledRateOffset +0.000000000
\t\tgmPresent                  true
\t\tgmIdentity                 00a069.fffe.0b552d
\t90e2ba.fffe.20c7f8-0 seq 1 RESPONSE MANAGEMENT CURRENT_DATA_SET
\t\tstepsRemoved     1
\t\toffsetFromMaster -37.0
\t\tmeanPathDelay    9310.0
"""


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Writes a program of that name onto a PATH that has nothing else."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def write(name: str, said: str, code: int = 0) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{said}END\nexit {code}\n")
        (tmp_path / name).chmod(0o755)

    return write


def test_a_machine_with_all_of_them(programs):
    """Each program's answer under its own key, in plain units, and the whole goes into a manifest."""
    programs("chronyc", TRACKING)
    programs("pmc", PMC)
    programs("timedatectl", "NTPSynchronized=yes\n")
    found = clock_facts()
    assert found["chrony"]["reference"] == "192.168.10.1"
    assert found["chrony"]["frequency_ppm"] == -18.623
    assert found["chrony"]["rms_offset_s"] == 4.92e-6
    assert found["chrony"]["leap_status"] == "Normal"
    assert found["ptp"] == {
        "offset_ns": -37, "has_master": True, "master": "00a069.fffe.0b552d", "steps_removed": 1, "path_delay_ns": 9310,
    }  # fmt: skip
    assert found["synchronised"] is True
    json.dumps(found)


def test_a_machine_with_none_of_them(programs, tmp_path):
    """No program, or programs that find nobody: no key, and no error."""
    assert set(clock_facts(tmp_path)) <= {"time_source"}
    programs("chronyc", "506 Cannot talk to daemon\n", 1)
    programs("pmc", "sending: GET TIME_STATUS_NP\nsending: GET CURRENT_DATA_SET\n")
    programs("timedatectl", "", 1)
    assert set(clock_facts(tmp_path)) <= {"time_source"}


def test_hardware_clocks_are_named(tmp_path):
    """The hypervisor's and a card's, in the kernel's order."""
    for name, said in (("ptp0", "KVM virtual PTP\n"), ("ptp1", "mlx5_ptp\n")):
        (tmp_path / "sys/class/ptp" / name).mkdir(parents=True)
        (tmp_path / "sys/class/ptp" / name / "clock_name").write_text(said)
    assert hardware_clocks(tmp_path) == ["KVM virtual PTP", "mlx5_ptp"]


@given(st.text() | st.lists(st.sampled_from([*TRACKING.split(","), *PMC.splitlines(), "x", "nan"])).map(",".join))
def test_whatever_is_said_is_facts_or_nothing(said):
    """Another version's words, half an answer, noise: values of the right kinds or none."""
    json.dumps([chrony(said), ptp(said)], allow_nan=False)
    assert set(chrony(said)) in (set(), set(chrony(TRACKING)))
    assert set(ptp(said)) <= set(ptp(PMC))
    assert systemd(said) in (None, True, False)
