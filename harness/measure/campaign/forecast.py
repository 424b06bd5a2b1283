"""What a campaign will take: seconds, dollars at hosted targets, disk. Estimates, each with what it rests on.

A cell's time is that of the newest run of the same cell in the experiment's directory; else its duration or the plan's last
arrival; else a guess from its tokens, which is only there to have a number. The pause before it is what such pauses took here,
else the longest that the config allows.
"""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.base import clock
from harness.base.errors import StoreError
from harness.config.experiment import ExperimentSpec
from harness.config.target import TargetSpec
from harness.measure.campaign.disk import CellBytes, cell_bytes
from harness.measure.campaign.order import Step, server_key
from harness.measure.fits import paced_s
from harness.measure.observe.boards.inventory import boards
from harness.measure.spending import EXPECTED, WORST, lacks_price, price_of_requests, worst_of_plan
from harness.price.hosted import HostedPrice, bill
from harness.price.request_price import RequestPrice
from harness.records import Manifest, Plan, RunState
from harness.store.manifest import read_manifest
from harness.store.reader import find_runs

_OVERHEAD_S = 1.5  # of a cell beside its phases: telemetry opened, plan drawn, files merged
_WARMUP_S = 6.0  # two requests a slot; an open loop in two rounds
_START_S = {"vllm": 90.0}  # a server of ours that was never started here; others are only asked what they are
_ASK_S = 1.0
_GUESSED_TOKEN_S = 0.03  # a token of one stream, where nothing is known
_GUESSED_PROMPT_TOKEN_S = 0.0005
_MANIFESTS = 500  # the newest so many are looked at

Key = tuple[str, str, int]  # workload, load, repetition: see key_of


@dataclass(frozen=True, slots=True)
class PlanSize:
    """What a drawn plan holds; `last_s` is its last arrival, None in a closed loop. `turn_tokens`: prompt tokens of later turns."""

    requests: int
    prompt_tokens: int
    output_tokens: int
    last_s: float | None
    turn_tokens: int = 0
    sha256: str = ""


def size_of(plan: Plan) -> PlanSize:
    last = max((r.scheduled_ns for r in plan.requests if r.scheduled_ns is not None), default=None)
    return PlanSize(
        len(plan.requests),
        sum(r.target_prompt_tokens for r in plan.requests),
        sum(r.target_output_tokens for r in plan.requests),
        None if last is None else last / clock.NS,
        sum(r.target_prompt_tokens for r in plan.requests if r.after_seq is not None),
        plan.sha256,
    )


@dataclass(frozen=True, slots=True)
class CellForecast:
    """`usd`, `worst_usd` (see spending.EXPECTED and WORST) are None for targets that are not hosted, or have no known price. `basis`: earlier run | declared | guess. `disk_bytes`:
    what stays; `scratch_bytes`: what stands beside it while the cell runs. `cool_down_s`: the pause before it, in `seconds`."""

    index: int
    name: str
    repetition: int
    seconds: float
    basis: str
    requests: int
    disk_bytes: int
    scratch_bytes: int
    usd: Decimal | None
    cool_down_s: float = 0.0
    worst_usd: Decimal | None = None
    box: str | None = None  # of a fleet


@dataclass(frozen=True, slots=True)
class Forecast:
    """`start_s`: starting servers. `cool_down_s`: pauses until the GPUs are cool, in `total_s`. `disk_bytes`: of all cells, and beside them what the largest takes while it runs. `unpriced`: hosted
    targets whose dollars are not known, a line each. `notes`: these, and what else the numbers leave out."""

    campaign_id: str | None
    cells: tuple[CellForecast, ...]
    start_s: float
    total_s: float
    disk_bytes: int
    free_bytes: int
    hosted_usd: Decimal | None
    unpriced: tuple[str, ...]
    notes: tuple[str, ...]
    cool_down_s: float = 0.0
    worst_usd: Decimal | None = None
    formulas: tuple[str, ...] = ()  # of the dollars


def _stem(name: str) -> str:
    """A cell's name without its repetition."""
    return re.sub(r"_rep\d+$", "", name)


class Pace:
    """How long cells and server starts took here, newest first; `saw_*` adds what this campaign sees."""

    def __init__(self, out: Path, cool_down_s: float = 0.0) -> None:
        """`cool_down_s`: the pause before a cell where none was seen yet, see `longest_cool_down_s`."""
        self._longest_s = cool_down_s
        self._pauses: list[float] = []
        self._cells: dict[str, float] = {}
        self._starts: dict[str, float] = {}
        self._requests: dict[str, int] = {}
        for name, manifest in _manifests(out):
            seconds = _seconds(manifest)
            pause = manifest.environment.get("cool_down")
            if isinstance(pause, Mapping) and isinstance(pause.get("waited_s"), int | float):
                self._pauses.append(float(pause["waited_s"]))
            if seconds is not None and manifest.state == RunState.COMPLETE:
                self._cells.setdefault(_stem(name), seconds + _OVERHEAD_S)
                self._requests.setdefault(_stem(name), manifest.row_counts.get("requests", 0))
            ready = (manifest.target.get("startup") or {}).get("first_token_s")
            if ready is not None:
                self._starts.setdefault(manifest.cell.target, float(ready))

    def saw_cell(self, step: Step, seconds: float, cool_down_s: float | None) -> None:
        """`seconds`: without the pause before it; `cool_down_s`: that pause, None where nothing was waited for."""
        self._cells[_stem(step.name)] = seconds
        if cool_down_s is not None:
            self._pauses.append(cool_down_s)
        else:
            self._longest_s = 0.0

    def cool_down_s(self) -> float:
        """The pause before a cell: the mean of those seen, else the longest that may be."""
        return fmean(self._pauses) if self._pauses else self._longest_s

    def saw_start(self, target: str, seconds: float) -> None:
        self._starts[target] = seconds

    def start_s(self, target: TargetSpec) -> float:
        return self._starts.get(target.name, _START_S.get(target.kind, _ASK_S))

    def cell(self, step: Step, size: PlanSize, spec: ExperimentSpec) -> tuple[float, str, int]:
        """(seconds without the pause before it, basis, requests) of one cell."""
        stem = _stem(step.name)
        if stem in self._cells:
            return self._cells[stem], "earlier run", self._requests.get(stem, size.requests)
        mean = 1 / max(1, size.requests)
        one_s = (size.output_tokens * _GUESSED_TOKEN_S + size.prompt_tokens * _GUESSED_PROMPT_TOKEN_S) * mean
        if step.load.capacity is not None:
            search = step.load.capacity
            shortest_s, longest_s = search.lengths_s(search.start_rps, spec.attainment)
            probes = search.probes * (shortest_s + longest_s) / 2  # some end early, some are extended
            return probes, "guess", int(size.requests * probes / longest_s)
        slots = step.cell.load.concurrency
        if step.load.duration_s is not None:
            sent = size.requests if slots is None else int(slots * step.load.duration_s / max(one_s, 1e-3)) + slots
            return step.load.duration_s + _WARMUP_S + _OVERHEAD_S, "declared", min(sent, size.requests)
        account = spec.sides_of(next(target for target in spec.targets if target.name == step.cell.target))[-1]
        held_s = paced_s(account, size.requests + spec.warmup_requests, size.prompt_tokens, size.output_tokens)
        if size.last_s:
            return max(size.last_s, held_s) + one_s + _WARMUP_S + _OVERHEAD_S, "declared", size.requests
        busy_s = one_s * size.requests / (slots or 1)
        if held_s > busy_s:
            return held_s + one_s + _WARMUP_S + _OVERHEAD_S, "declared", size.requests
        return busy_s + _WARMUP_S + _OVERHEAD_S, "guess", size.requests

    def seconds(self, steps: Sequence[Step], sizes: Mapping[Key, PlanSize], spec: ExperimentSpec) -> float:
        """Of these steps, server starts and pauses included."""
        cells_s = sum(self.cell(step, sizes[key_of(step)], spec)[0] + self.cool_down_s() for step in steps)
        return cells_s + self.starts_s(steps, spec)

    def starts_s(self, steps: Sequence[Step], spec: ExperimentSpec) -> float:
        targets = {target.name: target for target in spec.targets}
        started = [key[0] for key, _ in groupby(steps, key=lambda step: server_key(spec, step))]
        return sum(self.start_s(targets[name]) for name in started)


def key_of(step: Step) -> Key:
    """Which plan a step sends: equal for all targets."""
    return step.cell.workload, step.cell.load.name, step.cell.repetition


def _manifests(out: Path) -> Iterable[tuple[str, Manifest]]:
    """(cell name, manifest) of the experiment's newest runs."""
    try:
        paths = sorted(find_runs(out), reverse=True)[:_MANIFESTS]
    except StoreError:  # nothing there yet
        return
    for path in paths:
        try:
            yield path.name.partition("_")[2], read_manifest(path)
        except StoreError:
            continue


def longest_cool_down_s(spec: ExperimentSpec) -> float:
    """cool_down.timeout_s where boards are read, or the config requires them (a dry run elsewhere); else nothing is waited for."""
    cooling = spec.observe.gpu == "required" or bool(boards())
    return spec.cool_down.timeout_s if cooling else 0.0


def _seconds(manifest: Manifest) -> float | None:
    phases: Sequence[Mapping[str, Any]] = [p for p in manifest.drive.values() if p.get("ended_ns")]
    return sum((p["ended_ns"] - p["started_ns"]) / clock.NS for p in phases) if phases else None


# ---------------------------------------------------------------- the whole campaign


def forecast(
    spec: ExperimentSpec, out: Path, steps: Sequence[Step], sizes: Mapping[Key, PlanSize], campaign_id: str | None
) -> Forecast:
    """The steps in their order with what each will take. Raises ConfigError for a price that is not known."""
    pace = Pace(out, longest_cool_down_s(spec))
    pause_s = pace.cool_down_s()
    targets = {target.name: target for target in spec.targets}
    prices = {name: price_of_requests(spec, side) for name, target in targets.items() if (side := paying(spec, target))}
    cells = []
    for step in steps:
        size = sizes[key_of(step)]
        seconds, basis, requests = pace.cell(step, size, spec)
        price = prices.get(step.cell.target)
        usd, worst = (None, None) if price is None else _usd(price, size, requests, spec.warmup_requests)
        disk = disk_of(size, requests, seconds)
        cells.append(
            CellForecast(
                step.index,
                step.name,
                step.block,
                seconds + pause_s,
                basis,
                requests,
                disk.stays,
                disk.beside,
                usd,
                pause_s,
                worst,
            )
        )
    start_s = pace.starts_s(steps, spec)
    billed = [cell.usd for cell in cells if cell.usd is not None]
    worst_usd = [cell.worst_usd for cell in cells if cell.worst_usd is not None]
    unpriced = tuple(
        f"target {name} is hosted and has no price: give it a price: ({targets[name].model})"
        for name in prices
        if (side := paying(spec, targets[name])) and lacks_price(spec, side)
    )
    guessed = any(cell.basis == "guess" for cell in cells)
    more = ("times with the basis 'guess' rest on tokens alone; they are better after a first run",) if guessed else ()
    return Forecast(
        campaign_id,
        tuple(cells),
        start_s,
        start_s + sum(cell.seconds for cell in cells),
        sum(cell.disk_bytes for cell in cells) + max((cell.scratch_bytes for cell in cells), default=0),
        free_bytes(out),
        sum(billed, Decimal(0)) if billed else None,
        unpriced,
        unpriced + more,
        pause_s * len(cells),
        sum(worst_usd, Decimal(0)) if worst_usd else None,
        (EXPECTED, WORST) if billed else (),
    )


def price_of(spec: ExperimentSpec, target: TargetSpec) -> HostedPrice | None:
    """The price that a hosted target's dollars are forecast with; None where none is known. Raises ConfigError."""
    price = price_of_requests(spec, target)
    return None if price is None else price.prices[0]


def paying(spec: ExperimentSpec, target: TargetSpec) -> TargetSpec | None:
    """The hosted API behind a target: itself, or a hybrid's second side, which may get all of its plan."""
    hosted = spec.sides_of(target)[1] if target.kind == "hybrid" else target
    return hosted if hosted.kind == "hosted" else None


def _usd(price: RequestPrice, size: PlanSize, requests: int, warmup: int) -> tuple[Decimal, Decimal]:
    """(expected, worst) dollars of that many of the plan's requests and the warm-up's."""
    each = [round(tokens / max(1, size.requests)) for tokens in (size.prompt_tokens, size.output_tokens)]
    sent = requests + warmup
    expected = bill(price.prices[0], [(each[0], 0, each[1], 0)] * sent).total_usd
    mean = [tokens / Fraction(max(1, size.requests)) for tokens in (size.prompt_tokens, size.output_tokens)]
    return expected, worst_of_plan(price, sent, *(math.ceil(sent * tokens) for tokens in mean))


def disk_of(size: PlanSize, requests: int, seconds: float) -> CellBytes:
    """What a cell takes that answers `requests` of its plan."""
    tokens = size.output_tokens / max(1, size.requests) * requests
    return cell_bytes(requests, size.prompt_tokens, tokens, size.turn_tokens, size.requests, seconds)


def free_bytes(out: Path) -> int:
    """Free space where `out` is, or will be."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free
