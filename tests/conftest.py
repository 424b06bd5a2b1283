"""What every test shares: the count of tests that ran against a real vLLM server, and that it is not zero."""

from __future__ import annotations

import os

import pytest

_ran_on_vllm: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed and "vllm" in report.keywords:
        _ran_on_vllm.add(report.nodeid)


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(f"tests that ran against a real vLLM server: {len(_ran_on_vllm)}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    selected = (
        session.config.getoption("keyword") or session.config.getoption("markexpr") or session.config.args != ["tests"]
    )
    whole = not selected or not session.config.invocation_params.args
    if os.environ.get("HARNESS_REQUIRE_VLLM") and whole and not _ran_on_vllm and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
