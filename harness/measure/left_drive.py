"""What a drive that was killed left in its folder: its replies as rows, out of its workers' spools, and what it had let out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base import clock
from harness.base.errors import StoreError
from harness.measure.drive import driver, shard, spool, turns
from harness.measure.drive.collect import Collector
from harness.measure.job import Job
from harness.records import Load, Phase, PlannedRequest, RequestRecord
from harness.store.reader import read_columns

_SLICE_NS = 500_000_000
_WITHHELD = "a reply that was read after its run was killed: its text is not kept, for it may hold the API key"
_USUAL_ENDS = frozenset(
    ("stop", "length", "tool_calls", "function_call", "content_filter", "end_turn", "max_tokens", "abort")
)


def planned(run_dir: Path) -> list[PlannedRequest]:
    """The plan of a run, without what only prompts need. Raises StoreError."""
    names = [
        "seq",
        "scheduled_ns",
        "target_prompt_tokens",
        "target_output_tokens",
        "session_id",
        "after_seq",
        "think_ns",
    ]
    columns = read_columns(run_dir, "plan", names)
    return [
        PlannedRequest(prompt_seed=0, **dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)
    ]


@dataclass
class _Ended:
    """A worker as the collector sees it."""

    number: int
    ready: bool = True


def left_folders(scratch: Path) -> list[Path]:
    """Folders under `scratch` of drives that did not end by themselves."""
    return sorted(path for path in scratch.glob("drive-*") if path.is_dir())


@dataclass(frozen=True, slots=True)
class About:
    """What a drive said of itself as it began. `warm_up`: (seq, prompt, output tokens) of each of a warm-up's requests, at `slots` at once,
    where it was bounded: its plan is kept nowhere else. `paid`: see `driver.About`; None where nothing was bounded."""

    run_id: str
    workers: int
    phase: Phase
    has_key: bool
    spoken: str
    warm_up: tuple[tuple[int, int, int], ...] = ()
    slots: int = 1
    paid: Mapping[str, str] | None = None

    def driven(self, requests: Sequence[PlannedRequest], load: Load) -> tuple[Sequence[PlannedRequest], Load]:
        """The requests and the load of this drive, where the run's are `requests` and `load`; none of a warm-up that was not kept."""
        if self.phase is Phase.MEASURE:
            return requests, load
        kept = [PlannedRequest(seq, None, prompt, output, None, 0) for seq, prompt, output in self.warm_up]
        return kept, Load(concurrency=self.slots)


def about(folder: Path) -> About | None:
    """None where the drive was killed before its workers began. Raises ValueError."""
    try:
        told = json.loads((folder / driver.ABOUT).read_bytes())
        paid = told.get("paid")
        return About(
            str(told["run_id"]), int(told["workers"]), Phase(told["phase"]), bool(told["has_key"]),
            str(told.get("spoken", "completions")),
            tuple((int(seq), int(prompt), int(output)) for seq, prompt, output in told.get("warm_up", ())),
            int(told.get("slots") or 1),
            None if paid is None else {str(key): str(value) for key, value in paid.items()},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if not any(folder.glob("spool-*-*")):
            return None
        raise ValueError(f"{driver.ABOUT} cannot be read: {type(error).__name__}: {error}") from None


def left_rows(
    folder: Path, requests: Sequence[PlannedRequest], load: Load, unread: list[str]
) -> Iterator[list[RequestRecord]]:
    """Rows of every reply in the spool, those that were stored before the kill too, and none of a warm-up whose plan was not
    kept. `requests` and `load`: the run's. What cannot be read is passed over and added to `unread`. Raises StoreError
    while a worker of that drive still lives; OSError, ValueError and LookupError where what stands beside the spool is damaged."""
    of = about(folder)
    if of is None:
        return
    requests, load = of.driven(requests, load)
    if not requests:
        return
    count = of.workers
    if any(spool.is_written(folder, worker) for worker in range(count)):
        raise StoreError("a load-generator worker of this run still lives", folder, "wait until it has ended")
    owner = driver.owners(requests, load, count, turns.tree_of(requests))
    job = Job(requests, (), load, of.phase, of.run_id, folder)
    collector = Collector(job, owner, count, folder, spoken=of.spoken, written=False)
    for worker, anchor in _first_anchors(folder, count).items():
        collector.stamps[worker].add(anchor)
    workers = [_Ended(worker) for worker in range(count)]
    while True:
        rows = collector.collect(workers, _SLICE_NS)
        yield [_without_key(row) for row in rows] if of.has_key else rows
        if not collector.behind:
            break
    unread += filter(None, (collector.damage(worker) for worker in range(count)))


@dataclass(frozen=True, slots=True)
class LetOut:
    """A request that the gate had let out. `begun`: its worker had begun to send it, so that its API may have had all of it."""

    seq: int
    body_bytes: int
    output_tokens: int
    begun: bool


def let_out(folder: Path, of: About, requests: Sequence[PlannedRequest], load: Load) -> list[LetOut]:
    """Every one of a drive, whether or not it has a row. `requests`, `load`: the run's. Raises OSError, ValueError, LookupError: a file of
    the drive is not there, or not whole."""
    requests, load = of.driven(requests, load)
    tree = turns.tree_of(requests)
    seen = [0] * of.workers
    columns = [shard.left(folder, worker) for worker in range(of.workers)]
    late = [turns.left_bytes(folder, worker) for worker in range(of.workers)] if tree.waiting else []
    found = []
    for position, worker in enumerate(driver.owners(requests, load, of.workers, tree)):
        request, index = requests[position], seen[worker]
        seen[worker] += 1
        one = columns[worker]
        if one.gate[index] != shard.ADMITTED:
            continue
        name = shard.request_id(of.run_id, of.phase, request.seq)
        size = late[worker][name] if position in tree.root else one.lengths[index]
        found.append(LetOut(request.seq, size, request.target_output_tokens, begun=one.sent[index] != 0))
    return found


def _first_anchors(folder: Path, workers: int) -> dict[int, clock.Anchor]:
    """Per worker the first anchor that can be read, its own or else another's: damage may have taken the one before a reply."""
    anchors: dict[int, clock.Anchor] = {}
    for worker in range(workers):
        tail = spool.Tail(folder, worker, written=False)
        anchor = next((clock.Anchor(*values) for kind, *values in tail.messages() if kind == "anchor"), None)
        tail.close()
        if anchor is not None:
            anchors[worker] = anchor
    other = next(iter(anchors.values()), None)
    return {} if other is None else {worker: anchors.get(worker, other) for worker in range(workers)}


def _without_key(row: RequestRecord) -> RequestRecord:
    end = row.finish_reason if row.finish_reason in _USUAL_ENDS else None
    return replace(row, error=None if row.error is None else _WITHHELD, finish_reason=end)
