"""What every test shares: the count of tests that ran against a real vLLM server, and that it is not zero."""

from __future__ import annotations

import os
import tempfile

import pytest

os.environ.setdefault("HARNESS_LOCK_DIR", tempfile.mkdtemp(prefix="harness-locks-")) two suites do not wait for each other# two suites do not wait for each other

_ran_on_vllm: set[str] = set()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call):
 two suites do not wait for each other  report = yield
 two suites do not wait for each other  if report.when == "call" and report.passed and item.get_closest_marker("vllm"):
 two suites do not wait for each other      _ran_on_vllm.add(item.nodeid)
 two suites do not wait for each other  return report


def pytest_terminal_summary(terminalreporter) -> None:
 two suites do not wait for each other  terminalreporter.write_line(f"tests that ran against a real vLLM server: {len(_ran_on_vllm)}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
 two suites do not wait for each other  selected = (
 two suites do not wait for each other      session.config.getoption("keyword") or session.config.getoption("markexpr") or session.config.args != ["tests"]
 two suites do not wait for each other  )
 two suites do not wait for each other  whole = not selected or not session.config.invocation_params.args
 two suites do not wait for each other  if os.environ.get("HARNESS_REQUIRE_VLLM") and whole and not _ran_on_vllm and exitstatus == 0:
 two suites do not wait for each other      session.exitstatus = pytest.ExitCode.TESTS_FAILED
