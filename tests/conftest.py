"""What every test shares: what ran against a real vLLM server (and that it is not nothing), and what was skipped and why."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import subprocess
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from harness.base import redaction
from harness.measure.drive import processes
from tests import forks

# how long an example takes is the machine's affair; examples are the same each time, others each time with HARNESS_LONG=1
settings.register_profile(
    "any machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="HARNESS_LONG" not in os.environ,
    database=None,
)
settings.load_profile("any machine")

# folders of these tests alone, within one that goes with the process that made it: a worker of several inherits it
if "HARNESS_TEST_FOLDER" not in os.environ:
    os.environ["HARNESS_TEST_FOLDER"] = tempfile.mkdtemp(prefix="harness-tests-")

    def _clear(folder: str = os.environ["HARNESS_TEST_FOLDER"], maker: int = os.getpid()) -> None:
        if os.getpid() == maker:  # no fork of it
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(_clear)
# two suites, or two processes of one, do not wait for each other
if "PYTEST_XDIST_WORKER" in os.environ or "HARNESS_LOCK_DIR" not in os.environ:
    os.environ["HARNESS_LOCK_DIR"] = tempfile.mkdtemp(prefix="locks-", dir=os.environ["HARNESS_TEST_FOLDER"])
# and what a test spends is in nobody's ledger
os.environ["HARNESS_LEDGER_DIR"] = tempfile.mkdtemp(prefix="ledger-", dir=os.environ["HARNESS_TEST_FOLDER"])

# and workers find their imports made
forks.begin()

OWN_ENGINES = ("tests/live/test_batch_vllm.py", "tests/live/test_starts_vllm.py")
_ran_on_vllm: set[str] = set()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Each file is one process's, and so is all that talks to the one real server (beside it run engines of their own), or to the one
    Ray cluster."""
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            shared = (folder for folder in ("tests/live", "tests/cluster") if file.startswith(f"{folder}/"))
            return file if file in OWN_ENGINES else next(shared, file)

    config.option.loadscopereorder = False  # as `pytest_collection_modifyitems` has put them
    return Files(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Beside others the files that wait come first, of each sort those with the most tests: what is left in the end is short."""
    if config.getoption("dist", "no") == "no" and "PYTEST_XDIST_WORKER" not in os.environ:
        return
    tests = Counter(item.path for item in items)
    waits = {item.path for item in items if item.get_closest_marker("timing")}
    items.sort(key=lambda item: (item.path not in waits, -tests[item.path], item.path))


def pytest_collection_finish() -> None:
    """What was collected stays: no later collection of garbage goes through its million objects again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_secret_of_another_test():
    """What one test calls a secret is a word of the next."""
    redaction.forget()


@pytest.fixture
def real_workers(monkeypatch):
    """Workers are started as anywhere: for tests that look at their processes."""
    monkeypatch.setattr(processes, "subprocess", subprocess)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """A test's name never holds bytes: two processes that share the tests must make the same names."""
    return f"{argname}{len(val)}B" if isinstance(val, bytes) else None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # elsewhere `vllm` is a parameter's name: marked tests are all in live (test_timing.py)
    if (
        report.when == "call"
        and report.passed
        and "vllm" in report.keywords
        and report.nodeid.startswith("tests/live/")
    ):
        _ran_on_vllm.add(report.nodeid)


def skipped(reports) -> Counter[tuple[str, str]]:
    """(file, reason) -> how many tests were skipped there for it."""
    return Counter(
        (report.nodeid.partition("::")[0], report.longrepr[2].removeprefix("Skipped: ")) for report in reports
    )


def pytest_terminal_summary(terminalreporter) -> None:
    terminalreporter.write_line(f"tests that ran against a real vLLM server: {len(_ran_on_vllm)}")
    found = skipped(terminalreporter.stats.get("skipped", []))
    terminalreporter.write_line(f"tests that were skipped: {sum(found.values())}")
    for (file, reason), count in sorted(found.items()):
        terminalreporter.write_line(f"  {count} of {file}: {reason}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    option, asked = session.config.getoption, session.config.args
    whole = asked == ["tests/live"] or (asked == ["tests"] and option("markexpr") in ("", "timing"))
    if (
        os.environ.get("HARNESS_REQUIRE_VLLM")
        and whole
        and not option("keyword")
        and not _ran_on_vllm
        and exitstatus == 0
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
