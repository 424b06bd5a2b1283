"""A real Ray cluster on this machine: a network namespace a node, and, but for the head, a time namespace.

So every node has an address of its own, and a CLOCK_MONOTONIC whose origin lies `k x STEP_S` seconds from the head's. Root is needed
(`why_not` says what is missing). Names carry this process's number: clusters of several processes stand beside each other, and what
one that was killed left behind is swept away by the next.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tests.waiting import until

ROOT = Path(__file__).parents[2]
STEP_S = 50_000
PORT, CLIENT_PORT = 6399, 10001
STORE_BYTES = 80_000_000  # the least that Ray takes is 75 MiB
_PREFIX = "hrn"
_SERIALS = itertools.count(1)
_SUBNET = "10.231.7"
_RAY = Path(sys.executable).with_name("ray")


def why_not() -> str | None:
    """Why no cluster can be had here; None where it can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces need root on Linux"
    for program in ("ip", "unshare", "nsenter"):
        if shutil.which(program) is None:
            return f"no program {program}"
    if not _RAY.exists():
        return "no Ray: `make cluster` installs it"
    tried = subprocess.run(["unshare", "-n", "-T", "--monotonic", "1", "true"], capture_output=True, check=False)
    return None if tried.returncode == 0 else f"namespaces are not permitted: {tried.stderr.decode().strip()}"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One cluster at a time of all test processes of this tree; a name in memory that goes with its process, no file."""
    name = f"\0harness-cluster-{hashlib.sha256(str(ROOT).encode()).hexdigest()[:12]}"
    with socket.socket(socket.AF_UNIX) as mine:

        def taken() -> bool:
            with contextlib.suppress(OSError):
                mine.bind(name)
                return True
            return False

        until(taken, "the cluster of another test process", hang_s=800)
        yield


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stderr.strip() or done.stdout.strip()}"


def _namespaces() -> list[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    return [line.split()[0] for line in listed.splitlines() if line.startswith(_PREFIX)]


def _pids(namespace: str) -> list[int]:
    return [int(pid) for pid in subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True, check=False).stdout.split()]  # fmt: skip


def _end(namespace: str) -> None:
    """Every process in it, then itself."""

    def is_empty() -> bool:
        pids = _pids(namespace)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not pids

    until(is_empty, f"processes in {namespace} to end")
    subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def sweep() -> None:
    """What a process left behind that is gone."""
    for namespace in _namespaces():
        owner = re.match(rf"{_PREFIX}(\d+)c\d+n\d+$", namespace)
        if owner and not Path("/proc", owner[1]).exists():
            _end(namespace)
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}[0-9]*-*"):
        if not Path("/proc", folder.name.removeprefix(_PREFIX).partition("-")[0]).exists():
            shutil.rmtree(folder, ignore_errors=True)


class Cluster:
    """`nodes` nodes, 1 is the head; its clock is the machine's. A context manager. `environment`: more of it, by node. `hidden`: files that
    a node (2 and on) does not have."""

    def __init__(
        self,
        nodes: int,
        *,
        cpus: int = 2,
        environment: Mapping[int, Mapping[str, str]] | None = None,
        hidden: Mapping[int, Sequence[Path]] | None = None,
    ) -> None:
        self.numbers = range(1, nodes + 1)
        self._serial = next(_SERIALS)
        self._token = secrets.token_hex(32)
        self.cpus, self._environment, self._hidden = cpus, environment or {}, hidden or {}
        self.broken: set[int] = set()  # nodes that are to be made anew before another test
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))  # short: sockets have their names in it
        self.state = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-state-"))  # of all nodes
        self.address = f"{self.ip(1)}:{PORT}"  # for processes in the head's namespace
        self.client_address = f"ray://{self.ip(1)}:{CLIENT_PORT}"

    def namespace(self, node: int) -> str:
        return f"{_PREFIX}{os.getpid()}c{self._serial}n{node}"

    def ip(self, node: int) -> str:
        return f"{_SUBNET}.{node}"

    def ahead_ns(self, node: int) -> int:
        """A node's CLOCK_MONOTONIC minus the head's: the truth that an estimate is held against."""
        return 0 if node == 1 else node * STEP_S * 1_000_000_000

    def environment(self, node: int) -> dict[str, str]:
        own = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", "RAY_enable_worker_prestart": "0"}
        own |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self._token}  # not that of whoever owns this machine
        own |= {"TMPDIR": str(self.folder), "XDG_STATE_HOME": str(self.state)}
        own["RAY_raylet_start_wait_time_s"] = "120"  # a machine with other work
        return {**os.environ, **own, **self._environment.get(node, {})}

    def inside(self, node: int, words: Sequence[str]) -> list[str]:
        """The words as a command in that node's namespaces."""
        clock = ["unshare", "-T", "--monotonic", str(node * STEP_S)] if node > 1 else []
        return ["ip", "netns", "exec", self.namespace(node), *clock, *words]

    def popen(self, node: int, words: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """A process in a node; the caller ends it, and the cluster's end does at the latest."""
        return subprocess.Popen(
            self.inside(node, words), env=self.environment(node) | more.pop("env", {}), text=True, **more
        )

    def start(self, node: int) -> None:
        """The node's raylet, of the head with what belongs to it. Ray gives up after two minutes: once more then."""
        if node == 1:
            where = ["--head", "--port", str(PORT), "--ray-client-server-port", str(CLIENT_PORT), "--include-dashboard", "false"]  # fmt: skip
            where += ["--temp-dir", str(self.folder)]
        else:
            where = ["--address", self.address, "--resources", f'{{"node{node}": 1}}']
        words = [str(_RAY), "start", *where, "--node-ip-address", self.ip(node), "--num-cpus", str(self.cpus)]
        words += ["--object-store-memory", str(STORE_BYTES), "--include-log-monitor", "false"]
        # a folder of its own, for nodes that start at once would choose the same names of sockets in it
        mounts = 'mount -t tmpfs none "$0" && ' + "".join(
            f"mount --bind /dev/null {shlex.quote(str(path))} && " for path in self._hidden.get(node, ())
        )
        own = ["sh", "-c", f'{mounts}exec "$@"', str(self.folder)] if node > 1 else []
        for last in (False, True):
            done = subprocess.run(
                self.inside(node, [*own, *words]),
                env=self.environment(node),
                capture_output=True,
                text=True,
                check=False,
            )
            if last or not done.returncode or "timed out during startup" not in done.stderr:
                break
            until(lambda: not self.kill(node), f"node {node} to be empty")
        assert done.returncode == 0, f"node {node} did not start: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _wire(self, node: int) -> None:
        head, own = self.namespace(1), self.namespace(node)
        _run("ip", "netns", "add", own)
        _run("ip", "-n", own, "link", "set", "lo", "up")
        if node == 1:
            _run("ip", "-n", own, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", own, "link", "set", "br0", "up")
            _run("ip", "-n", own, "addr", "add", f"{self.ip(1)}/24", "dev", "br0")
            return
        _run("ip", "link", "add", f"p{node}", "netns", head, "type", "veth", "peer", "name", "eth0", "netns", own)
        _run("ip", "-n", head, "link", "set", f"p{node}", "master", "br0")
        _run("ip", "-n", head, "link", "set", f"p{node}", "up")
        _run("ip", "-n", own, "addr", "add", f"{self.ip(node)}/24", "dev", "eth0")
        _run("ip", "-n", own, "link", "set", "eth0", "up")

    def cut(self, node: int) -> None:
        """Its cable out."""
        _run("ip", "-n", self.namespace(node), "link", "set", "eth0", "down")

    def mend(self, node: int) -> None:
        _run("ip", "-n", self.namespace(node), "link", "set", "eth0", "up")

    def processes(self, node: int) -> dict[int, str]:
        """pid -> command line of what runs in a node."""
        found = {}
        for pid in _pids(self.namespace(node)):
            with contextlib.suppress(OSError):
                found[pid] = Path("/proc", str(pid), "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")  # fmt: skip
        return found

    def kill(self, node: int, *, of: str = "") -> int:
        """SIGKILL to the node's processes with `of` in their command line (all of them); how many there were."""
        pids = [pid for pid, words in self.processes(node).items() if of in words]
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return len(pids)

    def mend_all(self) -> None:
        """Every node that is `broken`, anew."""
        for node in self.broken:
            self.mend(node)
            until(lambda node=node: not self.kill(node), f"node {node} to be empty")
        with ThreadPoolExecutor() as threads:
            list(threads.map(self.start, self.broken))
        self.broken.clear()

    def __enter__(self) -> Self:
        sweep()
        try:
            for node in self.numbers:
                self._wire(node)
            self.start(1)
            with ThreadPoolExecutor() as threads:
                list(threads.map(self.start, self.numbers[1:]))
        except BaseException:
            self.down()
            raise
        return self

    def down(self) -> None:
        for node in reversed(self.numbers):
            if self.namespace(node) in _namespaces():
                _end(self.namespace(node))
        for folder in (self.folder, self.state):
            shutil.rmtree(folder, ignore_errors=True)

    def __exit__(self, *_: object) -> None:
        self.down()
