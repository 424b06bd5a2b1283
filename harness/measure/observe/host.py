"""This machine's CPU and memory, and what the harness and a server of ours use of it; as a telemetry source too."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psutil

from harness.base import clock
from harness.records import HostSample

RESCAN_NS = 5 * clock.NS  # a walk over all processes costs about 15 us for each of them


def process_tree(pids: Iterable[int]) -> set[int]:
    """`pids` that exist, and all their descendants."""
    return {process.pid for process in _tree(_open(pids))}


def _open(pids: Iterable[int]) -> list[psutil.Process]:
    processes = []
    for pid in pids:
        try:
            processes.append(psutil.Process(pid))
        except psutil.Error:
            continue
    return processes


def _tree(roots: Iterable[psutil.Process]) -> set[psutil.Process]:
    processes: set[psutil.Process] = set()
    for root in roots:
        if root in processes:
            continue
        try:
            processes |= {root, *root.children(recursive=True)}
        except psutil.Error:
            continue
    return processes


def listener_pids(port: int) -> set[int]:
    """Processes listening on a TCP port of this machine, as far as this user may see them."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except (psutil.Error, OSError):
        return set()
    return {c.pid for c in connections if c.status == psutil.CONN_LISTEN and c.pid and c.laddr and c.laddr.port == port}


def is_own_address(host: str) -> bool:
    """Whether `host` is an address of one of this machine's interfaces."""
    return any(host == a.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for a in addresses)


@dataclass(slots=True)
class _Known:
    """CPU seconds of one process: at first sight, of itself and with its reaped children, and as last read."""

    base_own_s: float
    base_all_s: float
    own_s: float
    all_s: float
    alive: bool = True


class ProcessGroup:
    """CPU and memory of some processes and their descendants, from its creation on.

    CPU time of children that come and go is bounded from below in two ways, and the larger one counts: what each process
    was last seen to have used, and what the living ones have used with all children they have waited for (the kernel adds
    a child's time to its parent's then). The sum never falls. The second way would also count the children of `apart`
    (a group that belongs to somebody else); it is not used once one of those has ended.
    """

    def __init__(self, roots: Iterable[int], apart: ProcessGroup | None = None) -> None:
        self._apart = apart
        self._processes = set(_open(roots))
        self._known: dict[psutil.Process, _Known] = {}
        self._cpu_s = 0.0
        self._first = True
        self.rss_bytes = 0
        self.rescan()
        self.read()
        self._first = False

    @property
    def pids(self) -> frozenset[int]:
        return frozenset(process.pid for process in self._processes)

    @property
    def lost_one(self) -> bool:
        return any(not known.alive for known in self._known.values())

    def rescan(self) -> None:
        """Look for new descendants; one walk over the machine's processes for each root."""
        self._processes |= _tree(self._roots())
        if self._apart is not None:
            self._processes -= self._apart._processes | self._apart._known.keys()  # noqa: SLF001

    def _roots(self) -> list[psutil.Process]:
        """Processes whose parent is not in the group, so that children of a dead parent stay ours."""
        pids = self.pids
        roots = []
        for process in self._processes:
            try:
                if process.ppid() not in pids:
                    roots.append(process)
            except psutil.Error:
                continue
        return roots

    def read(self) -> float:
        """CPU seconds since creation; also refreshes `rss_bytes` (pages shared by several count in each)."""
        rss_bytes = 0
        for process in list(self._processes):
            known = self._known.get(process)
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss_bytes += process.memory_info().rss
                    gone = process.status() == psutil.STATUS_ZOMBIE
            except psutil.Error:
                self._processes.discard(process)
                if known is not None:
                    known.alive = False
                continue
            own_s = times.user + times.system
            all_s = own_s + times.children_user + times.children_system
            if known is None:  # one born after us has used all of its time since then
                base = (own_s, all_s) if self._first else (0.0, 0.0)
                known = self._known[process] = _Known(*base, own_s, all_s)
            known.own_s, known.all_s, known.alive = own_s, all_s, not gone
        self.rss_bytes = rss_bytes
        seen_s = sum(k.own_s - k.base_own_s for k in self._known.values())
        # a process that was there at the start and has ended took its earlier time along into its parent's
        waited_s = sum(k.all_s if p in self._processes else 0.0 for p, k in self._known.items())
        waited_s -= sum(k.base_all_s for k in self._known.values())
        if self._apart is not None and self._apart.lost_one:
            waited_s = 0.0
        self._cpu_s = max(self._cpu_s, seen_s, waited_s)
        return self._cpu_s


class HostSampler:
    """Reads HostSample rows; `server_pids` are those of a server that we started, empty if it is not ours."""

    def __init__(self, server_pids: Collection[int] = ()) -> None:
        server = ProcessGroup(server_pids) if server_pids else None
        self._server = server if server is not None and server.pids else None
        self._harness = ProcessGroup([os.getpid()], apart=self._server)
        self._scanned_ns = clock.monotonic_ns()
        self._busy_s, self._all_s = _machine_cpu_s()

    @property
    def server_pids(self) -> frozenset[int]:
        """The server's process tree as last seen."""
        return self._server.pids if self._server is not None else frozenset()

    def sample(self, *, rescan: bool = False) -> HostSample:
        """One row; new child processes are looked for every five seconds, or now with `rescan`."""
        now_ns = clock.monotonic_ns()
        if rescan or now_ns - self._scanned_ns >= RESCAN_NS:
            self._scanned_ns = now_ns
            if self._server is not None:
                self._server.rescan()
            self._harness.rescan()
        busy_s, all_s = _machine_cpu_s()
        span_s = all_s - self._all_s
        cpu_pct = 100.0 * min(1.0, max(0.0, (busy_s - self._busy_s) / span_s)) if span_s > 0 else None
        self._busy_s, self._all_s = busy_s, all_s
        memory = psutil.virtual_memory()
        server_s = None if self._server is None else self._server.read()
        harness_s = self._harness.read()
        return HostSample(
            stamp_ns=clock.monotonic_ns(),
            cpu_pct=cpu_pct,
            load1=psutil.getloadavg()[0],
            mem_used_bytes=memory.total - memory.available,
            mem_available_bytes=memory.available,
            harness_cpu_s=harness_s,
            harness_rss_bytes=self._harness.rss_bytes,
            server_cpu_s=server_s,
            server_rss_bytes=None if self._server is None else self._server.rss_bytes,
        )


def _machine_cpu_s() -> tuple[float, float]:
    """(busy, all) CPU seconds of all cores since boot; waiting for I/O is not busy, guests are inside user already."""
    times = psutil.cpu_times()
    all_s = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    return all_s - times.idle - getattr(times, "iowait", 0.0), all_s


class HostSource:
    """This machine, the harness and, where we started it, the server."""

    def __init__(self, server_pids: Collection[int]) -> None:
        self._sampler = HostSampler(server_pids)
        self._server_known = bool(self._sampler.server_pids)

    def read(self, edge: str | None) -> list[HostSample]:
        return [self._sampler.sample(rescan=edge is not None)]

    def about(self) -> str:
        return "harness and server" if self._server_known else "harness only; the server's processes are not ours"

    def complaint(self) -> str | None:
        return None

    def facts(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        return None
