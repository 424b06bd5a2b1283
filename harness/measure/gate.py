"""Who is asked before each request of a drive goes out: the protocol of gates, several as one, starts, drives that begin together.

`drive/admission.py` asks; whoever bounds dollars, keeps to an account's limits, or divides a plan among two targets answers.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from harness.base import clock
from harness.records import PlannedRequest, RequestRecord


class Answer(Enum):
    """What a gate says of a request that is to be sent."""

    SEND = "send"
    LATER = "later"  # ask again in about LATER_NS; what is due after it waits behind it, and its row says how late it went out
    SKIP = "skip"  # never by this drive, nor the later turns of its session: no row
    STOP = "stop"  # nor anything after it: the drive drains, with the gate's stop_reason


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that a gate is asked about. `position`: in the job's requests. `due_ns`: CLOCK_MONOTONIC; None where it goes out
    as soon as a slot is free. `body_bytes`: as it is sent, its own headers included: no prompt has more tokens than that."""

    position: int
    request: PlannedRequest
    due_ns: int | None
    body_bytes: int


class Gate(Protocol):
    """Asked about every request of a drive before its worker may send it, and told of each that ended: who bounds dollars, keeps to
    an account's limits, or divides a plan among two targets. Every call comes from the thread that drives; a gate that two
    drives share has its own lock. A gated drive never sends a request twice by itself (see rows.RETRIED).

    Firsts are asked about in the order in which they are due, a session's later turn when the reply before it is there.
    `lead_ns`: not longer than this before they are due (0: sends are late by what the asking takes, some ms). `ahead`: in a
    closed loop, admitted beyond the slots that are free, of each worker (0: a free slot waits some ms). `stop_reason`: the drive's,
    read after STOP. Several gates are one, see `Gates`.
    """

    lead_ns: int
    ahead: int
    stop_reason: str

    def ask(self, asked: Asked, /) -> Answer:
        """SEND takes at once whatever it takes: the request will go out, unless `withdraw` comes right after it."""

    def withdraw(self, asked: Asked, /) -> None:
        """It does not go out after all: another gate did not say SEND. It may be asked about again."""

    def over(self, rows: Sequence[RequestRecord], /) -> None:
        """Rows of requests that ended, after the watcher has them; also of such as were never asked about (turns whose session
        broke off). Not those that a dead worker left behind: nobody knows whether they went out."""

    def ended(self) -> None:
        """The workers are gone and every row was given: what was admitted and has no row was never sent. Not called where a worker
        died, or the drive raised."""


class Gates:
    """Several gates as one: a request goes out when all say SEND, asked in their order; the first other answer counts."""

    def __init__(self, *gates: Gate) -> None:
        self.gates = gates
        self.lead_ns, self.ahead = min(g.lead_ns for g in gates), min(g.ahead for g in gates)
        self.stop_reason = ""

    def ask(self, asked: Asked) -> Answer:
        for i, gate in enumerate(self.gates):
            answer = gate.ask(asked)
            if answer is not Answer.SEND:
                self.stop_reason = gate.stop_reason
                for earlier in self.gates[:i]:
                    earlier.withdraw(asked)
                return answer
        return Answer.SEND

    def withdraw(self, asked: Asked) -> None:
        for gate in self.gates:
            gate.withdraw(asked)

    def over(self, rows: Sequence[RequestRecord]) -> None:
        for gate in self.gates:
            gate.over(rows)

    def ended(self) -> None:
        for gate in self.gates:
            gate.ended()


class Start(Protocol):
    """Says when a drive whose workers stand ready begins."""

    def wait(self) -> int:
        """CLOCK_MONOTONIC at the start, no sooner than that."""

    def give_up(self) -> None:
        """This drive will not start: who waits for it need not."""


class CommonStart:
    """One start instant for drives in several threads: each is given it when the workers of all of them stand ready."""

    def __init__(self, drives: int) -> None:
        self._all = threading.Barrier(drives, action=self._now)
        self._at_ns = 0

    def _now(self) -> None:
        self._at_ns = clock.monotonic_ns()

    def wait(self) -> int:
        """CLOCK_MONOTONIC when the last drive was ready. Raises threading.BrokenBarrierError where another gave up (`give_up`)."""
        self._all.wait()
        return self._at_ns

    def give_up(self) -> None:
        """A drive will not start: nobody waits for it any longer. After the start it does nothing: who has not woken yet has begun too."""
        if not self._at_ns:
            self._all.abort()
