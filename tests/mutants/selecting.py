"""pytest plugins of the mutation run: which tests execute which line, and only the tests that execute a mutant."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import coverage
import pytest
from hypothesis import Phase, is_hypothesis_test, settings

EXAMPLES = 50
NOT_HERE = ("vllm", "gpu", "hosted")
"""Markers of tests that need what a mutation run does not have."""


def steady(items: list[pytest.Item]) -> None:
    """Property tests draw the same examples for every mutant, and do not shrink what they find."""
    for item in items:
        test = getattr(getattr(item, "obj", None), "__func__", getattr(item, "obj", None))
        if test is not None and is_hypothesis_test(test):
            old = test._hypothesis_internal_use_settings
            test._hypothesis_internal_use_settings = settings(
                old,
                max_examples=min(old.max_examples, EXAMPLES),
                derandomize=True,
                database=None,
                deadline=None,
                phases=(Phase.explicit, Phase.generate),
            )


@dataclass(eq=False)  # pytest keeps its plugins in sets
class Recorder:
    """Records what each test executes; what a fixture executes counts for every test of its file.

    `seconds` of processor time of each test, its set-up, tear-down and children included: a busy machine chooses the same tests.
    """

    coverage: coverage.Coverage
    seconds: dict[str, float] = field(default_factory=dict)
    _bad: set[str] = field(default_factory=set)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        steady(items)
        items[:] = [item for item in items if not any(item.get_closest_marker(name) for name in NOT_HERE)]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid.partition("::")[0])

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid.partition("::")[0])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item):
        before = sum(os.times()[:4])
        result = yield
        self.seconds[item.nodeid] = sum(os.times()[:4]) - before
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if not report.passed:
            self._bad.add(report.nodeid)

    def passed(self) -> dict[str, float]:
        return {test: seconds for test, seconds in self.seconds.items() if test not in self._bad}


@dataclass(eq=False)
class Only:
    """Keeps the named tests, in the order of the names."""

    names: list[str]

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        steady(items)
        order = {name: at for at, name in enumerate(self.names)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])
