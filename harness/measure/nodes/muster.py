"""Nodes made ready for a run, and refused before the first send: equal in all that must be equal, each with a clock on the parent's line."""

from __future__ import annotations

import platform
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import harness
from harness.base.errors import ConfigError, TargetError
from harness.measure.drive import reader
from harness.measure.nodes.crew import Crew, NodeGone, NodeTrouble, NodeUnheard, ask_all
from harness.measure.nodes.echo import Asker, new_secret
from harness.measure.nodes.same import differences, source_digest
from harness.measure.nodes.time_line import TimeLine
from harness.store.parcels import warm_up

DESCRIBE_S = 120.0  # a cold node imports, and compiles the reader
ANSWER_S = 20.0
CLOSE_S = 15.0  # what is in flight is cancelled, and its files go


@dataclass(frozen=True, slots=True)
class Nodes:
    """A crew that is ready: what each said of itself, and its clock's line. `mark`: told to nodes, so that a run knows their rows again.
    `asked()` waits until every clock was asked, as long as it takes; raises TargetError where one cannot be. `stored`: set once every row that came
    is on this machine's disk, so that nodes need keep none."""

    crew: Crew
    described: Sequence[dict[str, Any]]
    lines: Sequence[TimeLine]
    workers: int
    asked: Callable[[], None]
    mark: str = field(default_factory=lambda: secrets.token_hex(6))
    stored: threading.Event = field(default_factory=threading.Event)

    @property
    def count(self) -> int:
        return len(self.described)

    def facts(self, node: int) -> dict[str, Any]:
        """For the manifest."""
        return {"node": self.crew.names[node], **self.described[node], "clock": self.lines[node].facts()}


@contextmanager
def mustered(crew: Crew, workers: int) -> Iterator[Nodes]:
    """The crew, described, compared, its clocks asked as long as the context lasts; its agents are ended with it. Raises ConfigError, TargetError."""
    asker = nodes = None
    try:
        described = _described(crew, workers)
        asker = _asking(crew)
        nodes = Nodes(crew, described, asker.lines, workers, partial(_asked, crew, asker))
        yield nodes
    finally:
        if asker is not None:
            asker.close()
        every = [node for node in range(len(crew.names)) if node not in crew.ended]
        stored = nodes is not None and nodes.stored.is_set()
        ask_all(crew, dict.fromkeys(every, ("close", stored)), CLOSE_S)
        for node in every:
            crew.end(node)


def here() -> dict[str, Any]:
    """What a node must be equal to."""
    return {
        "harness_version": harness.__version__,
        "harness_sha256": source_digest(),
        "python": platform.python_version(),
        "reader": "C" if reader.library() else "Python",
    }


def _described(crew: Crew, workers: int) -> list[dict[str, Any]]:
    every = range(len(crew.names))
    warm_up()
    came, ours = ask_all(crew, dict.fromkeys(every, ("describe", workers)), DESCRIBE_S), here()
    for node in every:
        name, said = crew.names[node], came.get(node)
        if said is None:
            advice = "its cores may be taken by others: `ray status`; lower nodes or workers_per_node"
            raise TargetError(f"node {name} did not begin within {DESCRIBE_S:g} s", "nothing was sent", advice)
        if isinstance(said, NodeGone) and said.missing:
            advice = "install the same version of the harness on every node, or start Ray there from its environment"
            raise ConfigError(f"node {name} has no harness", f"no module named {said.missing}", advice)
        if isinstance(said, NodeGone | NodeTrouble | NodeUnheard):
            raise TargetError(f"node {name} cannot be used", said.why, "look at Ray's logs there; nothing was sent")
        if differ := differences(ours, said):
            advice = "what sends must be the same everywhere: install the same version, Python and a C compiler on every node"
            raise ConfigError(f"node {name} differs", "; ".join(differ), advice)
    return [came[node] for node in every]


def _asking(crew: Crew) -> Asker:
    secret = new_secret()
    every = range(len(crew.names))
    ports = ask_all(crew, {node: ("listen", crew.addresses[node], secret) for node in every}, ANSWER_S)
    for node in every:
        if not isinstance(ports.get(node), int):
            why = getattr(ports.get(node), "why", f"no answer within {ANSWER_S:g} s")
            raise TargetError(f"node {crew.names[node]} cannot answer for its clock", why, "nothing was sent")
    asker = Asker([(crew.addresses[node], ports[node]) for node in every], secret)
    asker.open()
    return asker


def _asked(crew: Crew, asker: Asker) -> None:
    silent = asker.opened()
    if silent:
        names = ", ".join(crew.names[node] for node in silent)
        raise TargetError(
            f"the clock of {names} cannot be asked",
            "no answer to UDP questions",
            "let UDP through between this machine and the nodes; nothing was sent",
        )
