"""Sessions, closed loop inside: a later turn goes out `think_ns` after the reply it waits for, with that reply in its context.

The parent, which parses replies anyway, builds the later turn's body, appends it to the worker's late file and tells the worker
`turn INDEX OFFSET LENGTH DUE_NS`, or `skip INDEX` when it cannot be sent. A turn keeps its planned length: where its planned
prompt goes on after the earlier turn's prompt, the reply's own tokens stand in for planned ones.
"""

from __future__ import annotations

import heapq
import os
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.base import redaction
from harness.measure.drive import dialect
from harness.records import Endpoint, PlannedRequest, Prompt

BLOCK_TOKENS = 64  # the longest block of a session trace: two prompts that agree up to it go on from each other


def late_file(scratch: Path, worker: int) -> Path:
    return scratch / f"shard-{worker}.late"


def tree_file(scratch: Path, worker: int) -> Path:
    return scratch / f"shard-{worker}.turns"


def left_bytes(scratch: Path, worker: int) -> dict[str, int]:
    """Request id -> bytes, of the later turns that the parent had built. Raises OSError, ValueError: the file is damaged."""
    data, at, sizes = late_file(scratch, worker).read_bytes(), 0, dict[str, int]()
    while (end := data.find(b"\r\n\r\n", at)) >= 0:
        lines = dict(line.split(b": ", 1) for line in data[at:end].split(b"\r\n"))
        length = end + 4 - at + int(lines[b"content-length"])
        sizes[lines[b"x-request-id"].decode()] = length
        at += length
    return sizes


# ---------------------------------------------------------------- in the worker


class Turns:
    """What a worker knows of its sessions. `followers` and `root`: per index of the shard."""

    def __init__(self, scratch: Path, worker: int) -> None:
        rows = array("q")
        rows.frombytes(tree_file(scratch, worker).read_bytes())
        self.followers, self.root = rows[0::2], rows[1::2]
        self.bodies: dict[int, bytes] = {}  # of turns that the parent has built, until they are over
        self.due: list[tuple[int, int]] = []  # heap: due_ns, index
        self._open: dict[int, int] = {}  # root -> turns of its session that are in flight, due or awaited
        self._awaited = 0
        self._late = os.open(late_file(scratch, worker), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def pending(self) -> int:
        """Turns still to be sent in sessions that have begun, as far as known."""
        return self._awaited + len(self.due)

    def command(self, word: bytes, values: bytes) -> int | None:
        """Take `turn` or `skip` from the parent; the root of a session that this ends, if it does."""
        index, *rest = map(int, values.split())
        self._awaited -= 1
        if word == b"turn":
            offset, length, due_ns = rest
            self.bodies[index] = os.pread(self._late, length, offset)
            heapq.heappush(self.due, (due_ns, index))
            return None
        return self._one_less(self.root[index])

    def next_due(self, now_ns: int) -> tuple[int, int] | None:
        """(due_ns, index) of a turn that is due, taken off the heap."""
        return heapq.heappop(self.due) if self.due and self.due[0][0] <= now_ns else None

    def ended(self, index: int) -> bool:
        """A turn is over; True if its session is, too."""
        self.bodies.pop(index, None)
        root, more = self.root[index], self.followers[index]
        self._open[root] = self._open.get(root, 1) + more
        self._awaited += more
        return self._one_less(root) is not None

    def _one_less(self, root: int) -> int | None:
        left = self._open[root] = self._open[root] - 1
        if left:
            return None
        del self._open[root]
        return root


def of_worker(scratch: Path, worker: int) -> Turns | None:
    """None where the plan has no sessions."""
    return Turns(scratch, worker) if tree_file(scratch, worker).exists() else None


# ---------------------------------------------------------------- in the parent


@dataclass(frozen=True, slots=True)
class Turn:
    """A later turn that was built: its worker sends it once it is told `line`."""

    worker: int
    position: int
    due_ns: int
    body_bytes: int
    line: str


@dataclass(slots=True)
class Content:
    """A reply's content, kept only where a later turn needs it."""

    text: list[str] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Tree:
    """Who waits for whom, by position in the list of requests."""

    followers: dict[int, list[int]]
    root: dict[int, int]  # of every request that waits for another

    @property
    def waiting(self) -> bool:
        return bool(self.root)


NO_TURNS = Tree({}, {})


def tree_of(requests: Sequence[PlannedRequest]) -> Tree:
    """Positions linked by `after_seq`. A request whose `after_seq` is not in the list begins by itself."""
    tree = Tree({}, {})
    if all(request.after_seq is None for request in requests):
        return tree
    place = {request.seq: i for i, request in enumerate(requests)}
    for i, request in enumerate(requests):
        before = None if request.after_seq is None else place.get(request.after_seq)
        if before is not None:
            tree.followers.setdefault(before, []).append(i)
            tree.root[i] = tree.root.get(before, before)
    return tree


@dataclass(frozen=True, slots=True)
class Splice:
    """A reply inside a later prompt: its content replaces `tokens` planned units from `start` on."""

    start: int
    tokens: int
    content: tuple[int, ...] | str


class Planned:
    """Planned prompts of requests in sessions, in a file: they are needed again when replies come. A unit is a token
    id, or a word with the space before it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w+b")
        self._at: dict[int, tuple[int, int, bool]] = {}

    def add(self, position: int, prompt: Prompt) -> int:
        """Bytes that it took."""
        ids = prompt.token_ids
        data = (prompt.text or "").encode() if ids is None else array("I", ids).tobytes()
        self._at[position] = (self._file.seek(0, os.SEEK_END), len(data), ids is not None)
        return self._file.write(data)

    def units(self, position: int) -> list[Any]:
        offset, length, is_ids = self._at[position]
        self._file.flush()
        data = os.pread(self._file.fileno(), length, offset)
        if not is_ids:
            return data.decode().removeprefix(" ").split(" ")
        ids = array("I")
        ids.frombytes(data)
        return ids.tolist()

    def close(self) -> None:
        with suppress(OSError):  # what is not written yet nobody reads
            self._file.close()


class NextTurns:
    """Builds later turns out of planned prompts and real replies."""

    def __init__(
        self, requests: Sequence[PlannedRequest], tree: Tree, units: Callable[[int], list[Any]], endpoint: Endpoint
    ) -> None:
        self.requests, self.tree, self._units, self._endpoint = requests, tree, units, endpoint
        self._splices: dict[int, tuple[Splice, ...]] = {}  # of turns sent whose followers are still to be built

    def body(self, position: int, before: int, reply: Content) -> bytes:
        """JSON body of the turn at `position` after the reply to the one at `before`."""
        units, earlier = self._units(position), self._units(before)
        splices = self._splices_of(units, earlier, self._splices.get(before, ()), reply)
        if position in self.tree.followers:
            self._splices[position] = splices
        if position == self.tree.followers[before][-1]:
            self._splices.pop(before, None)
        prompt = _spliced(self._endpoint.api, self.requests[position].seq, units, splices)
        return dialect.encode(self._endpoint, self.requests[position], prompt, followed=position in self.tree.followers)

    def descendants(self, position: int) -> list[int]:
        """All that wait for this one, directly or through others."""
        waiting = list(self.tree.followers.get(position, ()))
        for one in waiting:  # grows while it is read
            waiting += self.tree.followers.get(one, ())
        return waiting

    def _splices_of(
        self, units: list[Any], earlier: list[Any], inherited: tuple[Splice, ...], reply: Content
    ) -> tuple[Splice, ...]:
        """What the context holds of real replies: those before, as far as the two planned prompts agree, and the newest
        one where the earlier prompt is resent whole (but for a part of a block)."""
        common = _common(units, earlier)
        kept = tuple(splice for splice in inherited if splice.start + splice.tokens <= common)
        content: tuple[int, ...] | str = (
            tuple(reply.token_ids) if isinstance(units[0], int) else redaction.known("".join(reply.text))
        )
        room = len(units) - common - (self._endpoint.api != "completions")  # a chat ends with words of the user
        if common + BLOCK_TOKENS <= len(earlier) or room <= 0 or not content:
            return kept
        if isinstance(content, tuple):
            content = content[:room]
            return (*kept, Splice(common, len(content), content))
        tokens = min(room, max(1, len(reply.token_ids) or len(reply.text)))
        return (*kept, Splice(common, tokens, content))


def write_tree(tree: Tree, owner: Sequence[int], workers: int, scratch: Path) -> None:
    """For every index of each shard: how many wait for its reply, and the index its session began with."""
    rows = [array("q") for _ in range(workers)]
    index: list[int] = []
    for i, w in enumerate(owner):
        index.append(len(rows[w]) // 2)
        rows[w].extend((len(tree.followers.get(i, ())), index[tree.root.get(i, i)]))
    for w, values in enumerate(rows):
        tree_file(scratch, w).write_bytes(values.tobytes())


def _common(one: list[Any], other: list[Any]) -> int:
    length = min(len(one), len(other))
    if one[:length] == other[:length]:
        return length
    return next(i for i in range(length) if one[i] != other[i])


def _spliced(api: str, seq: int, units: list[Any], splices: tuple[Splice, ...]) -> Prompt:
    parts: list[tuple[str, Any]] = []
    at = 0
    for splice in splices:
        parts += [("user", units[at : splice.start]), ("assistant", splice.content)]
        at = splice.start + splice.tokens
    parts.append(("user", units[at:]))
    if isinstance(units[0], int):
        return Prompt(seq, None, tuple(token for _, part in parts for token in part))
    texts = [(role, part if isinstance(part, str) else "".join(f" {word}" for word in part)) for role, part in parts]
    if api != "completions":
        return Prompt(seq, texts[-1][1], None, tuple(texts))
    return Prompt(seq, "".join(text for _, text in texts), None)
