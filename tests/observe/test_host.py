"""harness.measure.observe.host with real processes."""

import subprocess
import sys
from contextlib import contextmanager

import pytest

from harness.base import clock
from harness.measure.observe.host import HostSampler, listener_pids, process_tree

pytestmark = pytest.mark.timing
BURN = "import time\nt = time.process_time()\nwhile time.process_time() - t < {s}: pass\n"


@contextmanager
def process(code):
    """A Python child with its stdout piped, ended on exit."""
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_children_that_come_and_go_stay_counted():
    """CPU of children that lived wholly between two samples is in the sum, and the sum never falls."""
    sampler = HostSampler()
    before = sampler.sample().harness_cpu_s
    for _ in range(2):
        subprocess.run([sys.executable, "-c", BURN.format(s=0.15)], check=True)
    after = sampler.sample().harness_cpu_s
    again = sampler.sample().harness_cpu_s
    assert after - before >= 0.28
    assert again >= after


def test_a_child_that_was_there_before_does_not_bring_its_past():
    """CPU that a child used before the sampler began is not counted when the child is waited for."""
    with process(BURN.format(s=0.3) + "print('done', flush=True)\ninput()") as child:
        child.stdout.readline()
        own_s = clock.process_cpu_s()
        sampler = HostSampler()
        child.stdin.write("\n")
        child.stdin.flush()
        child.wait()
        seen_s = sampler.sample(rescan=True).harness_cpu_s
        assert seen_s < clock.process_cpu_s() - own_s + 0.25


def test_server_and_harness_are_told_apart():
    """A server that is our child, with a child of its own, counts as server only, and its CPU not as the harness's."""
    inner = BURN.format(s=0.3) + "print('done', flush=True)\ninput()"
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}])"
    with process(outer) as server:
        own_s = clock.process_cpu_s()
        sampler = HostSampler([server.pid])
        assert server.stdout.readline() == "done\n"
        row = sampler.sample(rescan=True)
        assert row.server_cpu_s >= 0.28
        assert row.harness_cpu_s < clock.process_cpu_s() - own_s + 0.05
        assert row.server_rss_bytes > 5_000_000
        assert len(sampler.server_pids) == 2
        server.stdin.write("\n")
        server.stdin.flush()
        server.wait()
    after = sampler.sample(rescan=True)
    assert after.server_cpu_s >= row.server_cpu_s
    assert after.harness_cpu_s < clock.process_cpu_s() - own_s + 0.05


def test_a_server_that_is_not_ours_is_null():
    """Without pids, or with those of nobody, the server's columns are null and not 0."""
    with process("") as gone:
        gone.wait()
    for pids in ((), (gone.pid,)):
        row = HostSampler(pids).sample()
        assert row.server_cpu_s is None
        assert row.server_rss_bytes is None


def test_the_machine_itself():
    """Machine fields are sane: a busy core shows, memory adds up."""
    sampler = HostSampler()
    until_s = clock.process_cpu_s() + 0.2
    while clock.process_cpu_s() < until_s:
        pass
    row = sampler.sample()
    assert 0 < row.cpu_pct <= 100
    assert row.mem_used_bytes > 0
    assert row.mem_available_bytes > 0
    assert row.load1 >= 0
    assert row.harness_cpu_s >= 0.15
    assert row.harness_rss_bytes > 10_000_000


def test_process_tree_and_listeners():
    """The tree holds descendants; the owner of a listening port is found."""
    serve = "import socket\ns = socket.create_server(('127.0.0.1', 0))\nprint(s.getsockname()[1], flush=True)\ninput()"
    with process(serve) as child:
        port = int(child.stdout.readline())
        assert listener_pids(port) == {child.pid}
        assert process_tree([child.pid]) == {child.pid}
    assert process_tree([child.pid]) == set()
