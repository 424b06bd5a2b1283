"""One real cluster for all tests of a session that want one."""

from __future__ import annotations

import pytest

from tests.cluster import nodes


@pytest.fixture(scope="session")
def cluster():
    """Four nodes, the head among them; skips, with its reason, where none can be had."""
    if (reason := nodes.why_not()) is not None:
        pytest.skip(reason)
    with nodes.alone(), nodes.Cluster(4) as up:
        yield up
