"""The three telemetry sources behind one protocol, and which GPUs are the target's."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import psutil

from harness import clock
from harness.observe import boards, host, machine, nvml, vllm_metrics
from harness.records import GpuSample, HostSample, ServerSample, TargetInfo


class Source(Protocol):
    """`read` returns rows for one table, at an edge all there is to read; it may raise, which counts as a failed read.

    `about` describes it; `complaint` is None, or what is incomplete about what it gives.
    """

    def read(self, edge: str | None) -> Sequence[Any]: ...

    def about(self) -> str: ...

    def complaint(self) -> str | None: ...

    def close(self) -> None: ...


class GpuSource:
    """Boards through NVML; `tree` tells the target's processes when asked (empty where they are not known)."""

    def __init__(self, gpus: boards.Gpus, tree: Callable[[], Collection[int]]) -> None:
        self._gpus = gpus
        self._ask = tree
        self._tree = frozenset(tree())
        self._judged: frozenset[int] = frozenset()  # foreign ones that a fresh look at the tree did not claim
        self._lost: dict[str, tuple[str, int]] = {}
        self.static = gpus.static()
        self._period_ns = gpus.counter_period_ns()

    def read(self, edge: str | None) -> list[GpuSample]:
        rows = self._gpus.sample(self._tree)
        if edge is not None or self._gpus.foreign - self._judged:
            self._tree = frozenset(self._ask())
            rows = self._gpus.sample(self._tree)
            self._judged = self._gpus.foreign
        for row in rows:
            if row.error is not None:
                error, count = self._lost.get(row.gpu_uuid, (row.error, 0))
                self._lost[row.gpu_uuid] = error, count + 1
        return rows

    def about(self) -> str:
        parts = [f"{self._gpus.board_count} boards ({self._gpus.why})"]
        if self._period_ns is None:
            parts.append("energy counter period not seen")
        else:
            parts.append(f"energy counter moves every {self._period_ns / 1e6:.0f} ms")
        if self._gpus.slice_count:
            parts.append(
                f"{self._gpus.slice_count} MIG slices: memory only; their board's power and energy include all its slices"
            )
        if missing := self._gpus.missing():
            parts.append("not given: " + ", ".join(f"{name} ({n} boards)" for name, n in sorted(missing.items())))
        parts.extend(self._gpus.notes)
        return "; ".join(parts)

    def complaint(self) -> str | None:
        parts = []
        if silent := self._gpus.missing().get("energy"):
            parts.append(f"no energy counter on {silent} boards")
        parts += [f"{uuid} stopped answering ({error}) in {n} samples" for uuid, (error, n) in self._lost.items()]
        if not self._gpus.target_seen and not self._gpus.why.startswith("devices"):
            parts.append("no process of the target was found on a board, so these may not be the target's boards")
        return "; ".join(parts) or None

    def close(self) -> None:
        self._gpus.close()


class ServerSource:
    """A vLLM server's /metrics."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = vllm_metrics.open_client(url)
        self._edges_failed: list[str] = []

    def read(self, edge: str | None) -> list[ServerSample]:
        try:
            return vllm_metrics.scrape(self._client, self._url, edge)
        except vllm_metrics.ScrapeError as error:
            if edge is not None:
                self._edges_failed.append(f"{edge}: {error}")
            raise

    def settle(self, limit_s: float) -> bool:
        """Wait until the server has no request running or waiting; False if it still had one after `limit_s`.

        Its counters are complete then: a reply can reach us a moment before the server has counted it.
        """
        end_ns = clock.monotonic_ns() + int(limit_s * clock.NS)
        while True:
            try:
                left = vllm_metrics.unfinished(vllm_metrics.scrape(self._client, self._url))
            except vllm_metrics.ScrapeError:
                return False
            if not left:
                return left == 0
            if clock.monotonic_ns() >= end_ns:
                return False
            clock.sleep(0.05)

    def about(self) -> str:
        return "Prometheus page"

    def complaint(self) -> str | None:
        return f"no scrape at an edge ({'; '.join(self._edges_failed)})" if self._edges_failed else None

    def close(self) -> None:
        self._client.close()


class HostSource:
    """This machine, the harness and, where we started it, the server."""

    def __init__(self, server_pids: Collection[int]) -> None:
        self._sampler = host.HostSampler(server_pids)
        self._server_known = bool(self._sampler.server_pids)

    def read(self, edge: str | None) -> list[HostSample]:
        return [self._sampler.sample(rescan=edge is not None)]

    def about(self) -> str:
        return "harness and server" if self._server_known else "harness only; the server's processes are not ours"

    def complaint(self) -> str | None:
        return None

    def close(self) -> None:
        return None


def open_gpu_source(info: TargetInfo) -> GpuSource | str:
    """The boards of the target, or why there are none to watch.

    The boards are those where the target's processes run. Where NVML shows none of them: no board if they have not loaded
    CUDA, else those that their environment (or ours, if that cannot be read) names in CUDA_VISIBLE_DEVICES, else all.
    """
    if not _is_here(info):
        return f"the target at {urlsplit(info.base_url).hostname} runs on another machine"
    url = urlsplit(info.base_url)
    roots = info.pids or tuple(host.listener_pids(url.port or (443 if url.scheme == "https" else 80)))
    tree = host.process_tree(roots)
    gpus = nvml.open_gpus(tree)
    if isinstance(gpus, str):
        return gpus
    reason = None
    if not gpus.target_seen and _loaded_cuda(tree) is False:
        reason = "no process of the target has loaded CUDA, so it uses no GPU"
    elif not gpus.target_seen and (visible := _visible_devices(roots)) is not None:
        reason = gpus.watch(tree, visible)
    if reason is not None:
        gpus.close()
        return reason
    return GpuSource(gpus, lambda: host.process_tree(roots))


def _is_here(info: TargetInfo) -> bool:
    name = urlsplit(info.base_url).hostname or ""
    return info.kind != "hosted" and (
        bool(info.pids) or vllm_metrics.is_loopback(info.base_url) or host.is_own_address(name)
    )


def _loaded_cuda(pids: Collection[int]) -> bool | None:
    """Whether one of the processes has CUDA's driver library mapped; None if none of them may be looked at."""
    maps = [text for pid in pids if (text := machine.read_text(f"/proc/{pid}/maps")) is not None]
    return any("libcuda.so" in text for text in maps) if maps else None


def _visible_devices(roots: Collection[int]) -> list[str] | None:
    """CUDA_VISIBLE_DEVICES of the first process that may be asked, else of ours; CUDA stops at the first negative one."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES")
    for pid in roots:
        try:
            text = psutil.Process(pid).environ().get("CUDA_VISIBLE_DEVICES")
            break
        except psutil.Error:
            continue
    if text is None:
        return None
    words: list[str] = []
    for word in (w.strip() for w in text.split(",")):
        if not word or word.startswith("-") or word == "NoDevFiles":
            break
        words.append(word)
    return words
