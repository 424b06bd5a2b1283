"""What a telemetry source is, and those of the server and of this machine; boards are in boards/source.py."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Protocol

from harness.base import clock
from harness.measure.observe import host, vllm_metrics
from harness.records import HostSample, ServerSample


class Source(Protocol):
    """`read` returns rows for one table, at an edge all there is to read; it may raise, which counts as a failed read.

    `about` describes it; `complaint` is None, or what is incomplete about what it gives; `facts` are plain JSON values for
    the manifest, empty where there are none.
    """

    def read(self, edge: str | None) -> Sequence[Any]: ...

    def about(self) -> str: ...

    def complaint(self) -> str | None: ...

    def facts(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class ServerSource:
    """A vLLM server's /metrics, or those of every rank or replica of it."""

    def __init__(self, *urls: str) -> None:
        self._clients = {url: vllm_metrics.open_client(url) for url in urls}
        self._edges_failed: list[str] = []

    def read(self, edge: str | None) -> list[ServerSample]:
        try:
            return vllm_metrics.scrape_all(self._clients, edge)
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
                left = vllm_metrics.unfinished(vllm_metrics.scrape_all(self._clients))
            except vllm_metrics.ScrapeError:
                return False
            if not left:
                return left == 0
            if clock.monotonic_ns() >= end_ns:
                return False
            clock.sleep(0.05)

    def about(self) -> str:
        return "Prometheus page" if len(self._clients) == 1 else f"{len(self._clients)} Prometheus pages, summed"

    def complaint(self) -> str | None:
        return f"no scrape at an edge ({'; '.join(self._edges_failed)})" if self._edges_failed else None

    def facts(self) -> Mapping[str, Any]:
        return {"pages": list(self._clients)}

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


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

    def facts(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        return None
