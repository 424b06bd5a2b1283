"""Boards of another machine through a DCGM exporter's page: the target's `telemetry_url`.

Field names and units are those of NVIDIA's dcgm-exporter, etc/default-counters.csv (read 2026-11-26): power in W, energy in mJ, memory in
MiB. Clock reasons are not among its defaults; DCGM named their field anew in 3.3, with the bits of NVML.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from harness.base import clock
from harness.measure.observe import vllm_metrics
from harness.measure.observe.boards.source import no_energy
from harness.records import GpuSample

# DCGM's field -> column, and what to multiply by
_COLUMNS: Mapping[str, tuple[str, int]] = {
    "DCGM_FI_DEV_POWER_USAGE": ("power_mw", 1000),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy_mj", 1),
    "DCGM_FI_DEV_GPU_UTIL": ("sm_util_pct", 1),
    "DCGM_FI_DEV_MEM_COPY_UTIL": ("mem_util_pct", 1),
    "DCGM_FI_DEV_FB_USED": ("mem_used_bytes", 1 << 20),
    "DCGM_FI_DEV_SM_CLOCK": ("sm_clock_mhz", 1),
    "DCGM_FI_DEV_MEM_CLOCK": ("mem_clock_mhz", 1),
    "DCGM_FI_DEV_GPU_TEMP": ("temperature_c", 1),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": ("throttle_reasons", 1),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": ("throttle_reasons", 1),
}
_XID = "DCGM_FI_DEV_XID_ERRORS"
_EMPTY = dict.fromkeys(column for column, _ in _COLUMNS.values())
_SLICE_LABELS = ("GPU_I_ID", "GPU_I_PROFILE")


class ExporterError(Exception):
    """A page without boards, with the reason in a few words; never leaves this package."""


class _Board:
    """One board's labels and values of one page."""

    def __init__(self, index: int, uuid: str, name: str | None, driver: str | None) -> None:
        self.index, self.uuid, self.name, self.driver = index, uuid, name, driver
        self.values: dict[str, int | None] = dict(_EMPTY)
        self.xid = 0
        self.sliced = False


def parse(page: str) -> dict[str, _Board]:
    """Boards of a page by UUID. Raises ExporterError where it has none, or is no Prometheus text."""
    lines = [line for line in page.split("\n") if line.startswith("DCGM_FI_DEV_")]
    boards: dict[str, _Board] = {}
    try:
        for family in text_string_to_metric_families("\n".join([*lines, ""])):
            for sample in family.samples:
                _note(boards, sample.name, sample.labels, float(sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise ExporterError(f"the page is not Prometheus text: {error}") from None
    if not boards:
        raise ExporterError("the page has no DCGM_FI_DEV_ series with a board's UUID")
    return boards


def _note(boards: dict[str, _Board], name: str, labels: Mapping[str, str], value: float) -> None:
    uuid, index = labels.get("UUID") or labels.get("uuid"), labels.get("gpu", "")
    if not uuid or not index.isdigit():
        return
    new = _Board(int(index), uuid, labels.get("modelName"), labels.get("DCGM_FI_DRIVER_VERSION"))
    board = boards.setdefault(uuid, new)
    if any(labels.get(label) for label in _SLICE_LABELS):
        board.sliced = True
        return  # of a slice; the board's own series stand beside it
    if name == _XID:
        board.xid = int(value)
    elif name in _COLUMNS:
        column, factor = _COLUMNS[name]
        board.values[column] = round(value * factor)


class ExporterSource:
    """The boards at `telemetry_url`; `declared`: those of them that are the target's (indices, UUIDs), all where it is empty."""

    def __init__(self, url: str, declared: Sequence[str]) -> None:
        """Scrapes once. Raises ExporterError, where a declared board is not on the page too."""
        self._url, self._declared = url, tuple(declared)
        self._client = vllm_metrics.open_client(url)
        self._energy: dict[str, int] = {}
        self._changed_ns: list[int] = []
        try:
            boards = self._scrape()
        except ExporterError:
            self._client.close()
            raise
        self._sliced = any(board.sliced for board in boards)
        self._xids = {board.uuid: board.xid for board in boards}
        self._new_xids: list[tuple[int, int]] = []
        self.static = [{"index": b.index, "uuid": b.uuid, "name": b.name, "driver_version": b.driver} for b in boards]

    def _scrape(self) -> list[_Board]:
        try:
            page = vllm_metrics.page(self._client, self._url, vllm_metrics.TICK_TIMEOUT_S)
        except vllm_metrics.ScrapeError as error:
            raise ExporterError(str(error)) from None
        except httpx.HTTPError as error:
            raise ExporterError(f"{type(error).__name__}: {error}") from None
        boards = parse(page)
        if not self._declared:
            return sorted(boards.values(), key=lambda board: board.index)
        chosen = []
        for word in self._declared:
            fits = [b for b in boards.values() if (str(b.index) == word if word.isdigit() else b.uuid.startswith(word))]
            if len(fits) != 1:
                have = ", ".join(f"{b.index} ({b.uuid})" for b in boards.values())
                raise ExporterError(f"no board {word!r} at telemetry_url, or several; it has {have}")
            chosen.append(fits[0])
        return chosen

    def read(self, edge: str | None) -> Sequence[GpuSample]:  # noqa: ARG002 - a page is the same at an edge
        """A row a board. The exporter collects every so many seconds, and a page repeats what it had: the energy counter stands only
        in the row where it is new, so that no time is counted to it that it does not cover."""
        boards = self._scrape()
        stamp_ns = clock.monotonic_ns()
        rows = []
        for board in boards:
            values = dict(board.values)
            energy_mj = values["energy_mj"]
            if energy_mj is not None and self._energy.get(board.uuid) == energy_mj:
                values["energy_mj"] = None
            elif energy_mj is not None:
                if board.uuid in self._energy and board is boards[0]:
                    self._changed_ns.append(stamp_ns)
                self._energy[board.uuid] = energy_mj
            if board.xid and board.xid != self._xids.get(board.uuid):
                self._new_xids.append((board.index, board.xid))
            self._xids[board.uuid] = board.xid
            rows.append(
                GpuSample(
                    stamp_ns=stamp_ns, gpu_index=board.index, gpu_uuid=board.uuid, process_count=None, other_process_count=None,
                    error=None, **values,
                )
            )  # fmt: skip
        return rows

    def _period_ns(self) -> int | None:
        changed = self._changed_ns
        return (changed[-1] - changed[0]) // (len(changed) - 1) if len(changed) > 1 else None

    def about(self) -> str:
        period_ns = self._period_ns()
        every = "not seen to change twice" if period_ns is None else f"new every {period_ns / 1e9:.1f} s"
        return f"{len(self.static)} boards of a DCGM exporter ({self._why()}); its energy counter {every}"

    def _why(self) -> str:
        return "devices " + ",".join(self._declared) if self._declared else "all at telemetry_url"

    def complaint(self) -> str | None:
        parts = (
            [] if self._declared else ["the target's key gpus does not say which of the exporter's boards are its own"]
        )
        parts += [f"Xid {xid} on GPU {index}" for index, xid in self._new_xids]
        return "; ".join(parts) or None

    def facts(self) -> Mapping[str, Any]:
        """As of source.GpuSource; an exporter knows no processes."""
        return {
            "source": "DCGM exporter",
            "chosen": self._why(),
            "certain": bool(self._declared),
            "no_energy": no_energy(certain=bool(self._declared), why=self._why(), slices=int(self._sliced)),
            "others_unknown": "a DCGM exporter does not list processes",
            "energy_counter_period_ns": self._period_ns(),
            "xids": [list(xid) for xid in self._new_xids],
        }

    def close(self) -> None:
        self._client.close()
