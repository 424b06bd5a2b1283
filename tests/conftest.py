"""What every test shares: the count of tests that ran against a real vLLM server, and that it is not zero."""

from __future__ import annotations

import os
import tempfile

import pytest

# two suites at a time do not wait for each other
os.environ.setdefault("HARNESS_LOCK_DIR", tempfile.mkdtemp(prefix="harness-locks-"))

_ran_on_vllm: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call):
    report = yield
    if report.when == "call" and report.passed and item.get_closest_marker("vllm"):
        _ran_on_vllm.add(item.nodeid)
    return report


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(f"tests that ran against a real vLLM server: {len(_ran_on_vllm)}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    selected = (
        session.config.getoption("keyword") or session.config.getoption("markexpr") or session.config.args != ["tests"]
    )
    whole = not selected or not session.config.invocation_params.args
    if os.environ.get("HARNESS_REQUIRE_VLLM") and whole and not _ran_on_vllm and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
