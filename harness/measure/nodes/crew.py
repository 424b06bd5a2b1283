"""Nodes with an agent each, as the parent sees them, whatever carries the calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.base import clock

WAIT_S = 0.1


@dataclass(frozen=True, slots=True)
class NodeGone:
    """In place of an answer: the node's agent cannot be called any more. `missing`: it never could, for want of that module."""

    why: str
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class NodeTrouble:
    """In place of an answer: what the agent raised."""

    why: str


@dataclass(frozen=True, slots=True)
class NodeUnheard:
    """In place of an answer: the call may have come to nothing; the next one may come through."""

    why: str


class Crew(Protocol):
    """Nodes by position. `names` for people; `addresses`: where a node's clock is asked; `ended`: those that `end` was called for."""

    names: Sequence[str]
    addresses: Sequence[str]
    ended: set[int]

    def ask(self, node: int, method: str, /, *args: Any) -> None:
        """Call a method of the node's Agent; one call at a time of each node."""

    def answers(self, within_s: float, /) -> list[tuple[int, Any]]:
        """(node, answer) of calls that came back, waited for no longer than that; a NodeGone, NodeTrouble or NodeUnheard may stand for the answer."""

    def end(self, node: int, /) -> None:
        """The agent's process goes, and what it started with it."""


def ask_all(crew: Crew, calls: Mapping[int, tuple[Any, ...]], within_s: float) -> dict[int, Any]:
    """Call a method (name, arguments) of several nodes at once: the answers of those that gave one in time."""
    for node, (method, *args) in calls.items():
        crew.ask(node, method, *args)
    came: dict[int, Any] = {}
    end_ns = clock.monotonic_ns() + int(within_s * clock.NS)
    while len(came) < len(calls) and clock.monotonic_ns() < end_ns:
        came |= {node: answer for node, answer in crew.answers(WAIT_S) if node in calls}
    return came
