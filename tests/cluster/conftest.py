"""One real cluster for all tests of a session that want one."""

from __future__ import annotations

import shutil

import pytest

from tests.cluster import nodes


@pytest.fixture(scope="session")
def _one():
    if (reason := nodes.why_not()) is not None:
        pytest.skip(reason)
    with nodes.alone(), nodes.Cluster(4) as up:
        yield up


@pytest.fixture
def cluster(_one):
    """Four nodes, the head among them, those that a test broke made anew for the next; skips, with its reason, where none can be had."""
    _one.mend_all()
    shutil.rmtree(_one.state / "vllm-cost-harness", ignore_errors=True)  # rows that nodes kept of another test's run
    return _one
