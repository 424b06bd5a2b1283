"""Samples GPU, server and host telemetry beside a run, one thread for each source.

    with Observers(target.info, spec.observe, writer.add) as observers:
        observers.edge("start")
        ...
        observers.settle()
        observers.edge("end")
    observers.telemetry  # {"gpu": "ok: ..", "server": "partial: ..", "host": "ok: .."}

A source that fails never stops the run: its failures are counted and told in `telemetry`. A sink that fails does: rows that
cannot be stored are a broken run, and the sink's exception is raised at the next edge or at the end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

from harness.base import clock
from harness.base.errors import TelemetryError
from harness.config.experiment import ObserveSpec
from harness.config.target import TargetSpec
from harness.measure.observe.boards.dcgm import ExporterError, ExporterSource
from harness.measure.observe.boards.source import GpuSource, open_gpu_source
from harness.measure.observe.host import HostSource
from harness.measure.observe.vllm_metrics import ServerSource
from harness.records import TargetInfo

Sink = Callable[[str, list[Any]], None]
_JOIN_S = 5.0
_PAGE_HZ = 1.0  # of an exporter's page: it collects more slowly than that


class Source(Protocol):
    """What is sampled: the server (vllm_metrics.py), this machine (host.py), boards (boards/).

    `read` returns rows for one table, at an edge all there is to read; it may raise, which counts as a failed read. `about`
    describes it; `complaint` is None, or what is incomplete about what it gives; `facts` are plain JSON values for the manifest,
    empty where there are none.
    """

    def read(self, edge: str | None) -> Sequence[Any]: ...

    def about(self) -> str: ...

    def complaint(self) -> str | None: ...

    def facts(self) -> Mapping[str, Any]: ...

    def close(self) -> None: ...


class _Ticker(threading.Thread):
    """Reads one source at absolute deadlines start + n/hz: no drift, and a deadline that has passed is skipped and counted."""

    def __init__(self, table: str, source: Source, hz: float, sink: Sink) -> None:
        super().__init__(name=f"observe-{table}", daemon=True)
        self.table, self.source = table, source
        self._hz, self._sink = hz, sink
        self._halt = threading.Event()
        self._reading = threading.Lock()  # an edge and a tick do not read one source at the same time
        self.reads = self.failed = self.missed = 0
        self.last_error: str | None = None
        self.sink_error: BaseException | None = None

    def run(self) -> None:
        period_ns = round(clock.NS / self._hz)
        start_ns = clock.monotonic_ns()
        n = 0
        while not self._halt.wait(max(0, start_ns + n * period_ns - clock.monotonic_ns()) / clock.NS):
            self.read(None)
            if self.sink_error is not None:
                return
            following = max(n + 1, (clock.monotonic_ns() - start_ns) // period_ns + 1)
            self.missed += following - n - 1
            n = following

    def read(self, edge: str | None) -> None:
        """Read once and store; a failed read is counted, a failed sink is kept for the caller to raise."""
        with self._reading:
            self.reads += 1
            try:
                rows = list(self.source.read(edge))
            except Exception as error:
                self.failed += 1
                self.last_error = str(error) or type(error).__name__
                return
            try:
                self._sink(self.table, rows)
            except Exception as error:
                self.sink_error = error

    def stop(self) -> None:
        self._halt.set()
        if self.ident is not None:
            self.join(_JOIN_S)

    def state(self) -> str:
        """`ok: ..`; `partial: ..` where something is missing that should be there; `absent: ..` where every read failed."""
        if self.reads and self.failed == self.reads:
            return f"absent: all {self.reads} reads failed: {self.last_error}"
        parts = [f"{self.source.about()}, {self.reads - self.failed} samples at {self._hz:g} Hz, {self.missed} missed"]
        if self.failed:
            parts.append(f"{self.failed} reads failed, the last with: {self.last_error}")
        complaint = self.source.complaint()
        return "; ".join([("partial: " if complaint else "ok: ") + (complaint or parts.pop(0)), *parts])


class Observers:
    """Context manager that samples from entry to exit and hands rows to `sink(table, rows)`, table in gpu | server | host.

    `sink` is never called by two threads at once. Raises TelemetryError on entry if spec.gpu is "required" and this machine
    has no NVML for the target. `gpu_static` holds what NVML says of the watched boards, for provenance. `target` may name
    boards and pages; `used_before`: bytes in use on each board, by uuid, before the target was started. `more`: other sources by their
    tables, each with its rate.
    """

    def __init__(
        self,
        info: TargetInfo,
        spec: ObserveSpec,
        sink: Sink,
        target: TargetSpec | None = None,
        used_before: Mapping[str, int] | None = None,
        more: Mapping[str, tuple[Source, float]] | None = None,
    ) -> None:
        self._more = more or {}
        self._info, self._spec, self._target, self._used_before = info, spec, target, used_before
        self._raw_sink = sink
        self._storing = threading.Lock()
        self._tickers: list[_Ticker] = []
        self._absent: dict[str, str] = {}
        self.gpu_static: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._add_gpu()
        named = self._target.metrics_urls if self._target is not None else []
        pages = named or [url for url in (self._info.metrics_url,) if url is not None]
        if pages:
            self._add("server", ServerSource(*pages), self._spec.server_hz)
        else:
            self._absent["server"] = "absent: the target has no metrics page"
        self._add("host", HostSource(self._info.pids), self._spec.host_hz)
        for table, (source, hz) in self._more.items():
            self._add(table, source, hz)
        for ticker in self._tickers:
            ticker.start()
        return self

    def _add(self, table: str, source: Source, hz: float) -> None:
        self._tickers.append(_Ticker(table, source, hz, self._sink))

    def _add_gpu(self) -> None:
        if self._spec.gpu == "off":
            self._absent["gpu"] = "absent: switched off (observe.gpu: off)"
            return
        source = self._boards()
        if not isinstance(source, str):
            self.gpu_static = source.static
            page_hz = min(self._spec.gpu_hz, _PAGE_HZ)
            self._add("gpu", source, self._spec.gpu_hz if isinstance(source, GpuSource) else page_hz)
            return
        if self._spec.gpu == "required":
            raise TelemetryError(
                "GPU telemetry is required (observe.gpu: required) and cannot be had",
                source,
                "run `harness doctor` on the server's machine, or set observe.gpu: auto to run without GPU telemetry",
            )
        self._absent["gpu"] = f"absent: {source}"

    def _boards(self) -> GpuSource | ExporterSource | str:
        """The target's boards, here or at its telemetry_url, or why there are none to watch."""
        declared = self._target.gpus if self._target is not None else []
        url = self._target.telemetry_url if self._target is not None else None
        if url is None:
            return open_gpu_source(self._info, declared, self._used_before)
        try:
            return ExporterSource(url, declared)
        except ExporterError as error:
            return f"telemetry_url: {error}"

    def _sink(self, table: str, rows: list[Any]) -> None:
        with self._storing:
            self._raw_sink(table, rows)

    def edge(self, name: str) -> None:
        """Read every source at once, the server's page with all its series, and return when the rows are stored.

        At "start" the server is read first, at "end" last: both edges enclose the measured phase, and GPU and host
        are read close to it. At "start" the server is given a moment to finish counting the warm-up.
        """
        if name not in {"start", "end"}:
            raise ValueError(f"an edge is start or end, not {name!r}")
        if name == "start":
            self.settle()
        first = "server" if name == "start" else "gpu"
        for ticker in sorted(self._tickers, key=lambda t: t.table != first):
            ticker.read(name)
        self._raise_sink_error()

    def settle(self, limit_s: float = 2.0) -> bool:
        """Wait until the server has nothing running or waiting; False if it still has, or does not say."""
        servers = [t.source for t in self._tickers if isinstance(t.source, ServerSource)]
        return all(source.settle(limit_s) for source in servers) if servers else False

    @property
    def telemetry(self) -> Mapping[str, Any]:
        """gpu | server | host -> "ok: ..", "partial: .." or "absent: .." with the reason; true at the time of asking. Under
        gpu_facts, server_facts what must be known to read their rows."""
        states = {ticker.table: ticker.state() for ticker in self._tickers}
        facts = {f"{ticker.table}_facts": dict(found) for ticker in self._tickers if (found := ticker.source.facts())}
        return {**self._absent, **states, **facts}

    def _raise_sink_error(self) -> None:
        for ticker in self._tickers:
            if ticker.sink_error is not None:
                raise ticker.sink_error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for ticker in self._tickers:
            ticker.stop()
        for ticker in self._tickers:
            if not ticker.is_alive():
                ticker.source.close()
        if error is None:
            self._raise_sink_error()
