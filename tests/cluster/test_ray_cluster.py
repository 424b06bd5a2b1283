"""Against a real Ray cluster: nodes with addresses and clocks of their own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.timing

_CLOCKS = """
import json, sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=0)
def clock():
    return time.monotonic_ns()
seen = {}
for node in sys.argv[2:]:
    before = time.monotonic_ns()
    there = ray.get(clock.options(resources={f"node{node}": 0.1}).remote())
    seen[node] = [before, there, time.monotonic_ns()]
print(json.dumps(seen))
"""


def test_every_node_has_a_clock_of_its_own(cluster):
    """What a node says its clock is lies as far ahead of the head's as its time namespace was made with."""
    others = [str(node) for node in cluster.numbers if node > 1]
    words = [sys.executable, "-c", _CLOCKS, cluster.address, *others]
    with cluster.popen(1, words, stdout=subprocess.PIPE) as asking:
        said, _ = asking.communicate()
    clocks = json.loads(said.splitlines()[-1])
    assert sorted(clocks) == others
    for node, (before, there, after) in clocks.items():
        assert before <= there - cluster.ahead_ns(int(node)) <= after
