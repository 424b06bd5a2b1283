"""A worker's share of the plan, on disk: request bytes back to back, an index beside them, and a column of send stamps.

The bytes begin after the lines that all requests share (those hold the API key and stay in memory):
`x-request-id`, `content-length`, an empty line, the body. The stamps survive a worker that is killed, so that
the parent knows which of its requests were on their way.
"""

from __future__ import annotations

import mmap
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.drive import dialect, turns
from harness.records import Endpoint, Phase, PlannedRequest, Prompt

UNSCHEDULED = -1
AWAITS = -2  # goes out after the reply to another


NO_TURNS = turns.Tree({}, {})


@dataclass(frozen=True, slots=True)
class ShardFiles:
    bodies: Path
    index: Path  # int64, four a request: offset, length, scheduled_ns (UNSCHEDULED in a closed loop, AWAITS for a later turn), asked
    sent: Path  # int64 per request: CLOCK_MONOTONIC of the send, 0 before it


@dataclass(frozen=True, slots=True)
class Shard:
    """A shard mapped into memory; `sent` is writable and shared with the parent."""

    bodies: memoryview
    offset: Sequence[int]
    length: Sequence[int]
    scheduled_ns: Sequence[int]
    asked: Sequence[int]  # output tokens
    sent: memoryview

    def __len__(self) -> int:
        return len(self.offset)


def request_id(run_id: str, phase: Phase, seq: int) -> str:
    """Unique within a campaign and safe as a header value."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in run_id)
    return f"{safe}-{phase.value[0]}{abs(seq)}"


def files(scratch: Path, worker: int) -> ShardFiles:
    stem = f"shard-{worker}"
    return ShardFiles(scratch / f"{stem}.bodies", scratch / f"{stem}.index", scratch / f"{stem}.sent")


def write(
    requests: Sequence[PlannedRequest],
    prompts: Iterable[Prompt],
    owner: Sequence[int],
    workers: int,
    endpoint: Endpoint,
    run_id: str,
    phase: Phase,
    scratch: Path,
    tree: turns.Tree = NO_TURNS,
    planned: turns.Planned | None = None,
) -> list[ShardFiles]:
    """Encode every request into the shard of its owner; `owner[i]` is the worker of `requests[i]`. Requests that wait for
    another's reply are left for later: `planned` keeps their prompts."""
    shards = [files(scratch, w) for w in range(workers)]
    index = [array("q") for _ in range(workers)]
    at = [0] * workers
    out = [shard.bodies.open("wb") for shard in shards]
    try:
        for i, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
            w = owner[i]
            followed = i in tree.followers
            if planned is not None and (followed or i in tree.root):
                planned.add(i, prompt)
            if i in tree.root:
                index[w].extend((0, 0, AWAITS, request.target_output_tokens))
                continue
            body = dialect.encode(endpoint, request, prompt, followed=followed)
            piece = with_headers(body, request_id(run_id, phase, request.seq))
            out[w].write(piece)
            due = UNSCHEDULED if request.scheduled_ns is None else request.scheduled_ns
            index[w].extend((at[w], len(piece), due, request.target_output_tokens))
            at[w] += len(piece)
    finally:
        for file in out:
            file.close()
    if tree.waiting:
        _write_tree(tree, owner, workers, scratch)
    for shard, rows in zip(shards, index, strict=True):
        shard.index.write_bytes(rows.tobytes())
        shard.sent.write_bytes(bytes(8 * (len(rows) // 4)))
    return shards


def with_headers(body: bytes, name: str) -> bytes:
    """A request after the lines that all share."""
    return f"x-request-id: {name}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _write_tree(tree: turns.Tree, owner: Sequence[int], workers: int, scratch: Path) -> None:
    """For every index of each shard: how many wait for its reply, and the index its session began with."""
    rows = [array("q") for _ in range(workers)]
    index: list[int] = []
    for i, w in enumerate(owner):
        index.append(len(rows[w]) // 2)
        rows[w].extend((len(tree.followers.get(i, ())), index[tree.root.get(i, i)]))
    for w, values in enumerate(rows):
        turns.tree_file(scratch, w).write_bytes(values.tobytes())


def forget_sent(share: Shard) -> None:
    """Give back the memory of request bytes that were read so far; they are read from the file again where needed."""
    mapped = share.bodies.obj
    if isinstance(mapped, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


def load(shard: ShardFiles) -> Shard:
    """Map a shard that `write` made; an empty one has length 0."""
    rows = array("q")
    rows.frombytes(shard.index.read_bytes())
    if not rows:
        return Shard(memoryview(b""), rows, rows, rows, rows, memoryview(b"").cast("q"))
    with shard.bodies.open("rb") as file:
        bodies = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    with shard.sent.open("r+b") as file:
        sent = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
    return Shard(bodies, rows[0::4], rows[1::4], rows[2::4], rows[3::4], sent)
