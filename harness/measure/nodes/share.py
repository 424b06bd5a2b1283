"""One share of a plan, where several load generators offer it without knowing of each other: every request is in exactly one share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from harness.base import clock
from harness.base.errors import ConfigError
from harness.config.share import ShareSpec
from harness.measure.drive.driver import owners
from harness.measure.drive.turns import tree_of
from harness.records import Plan

_LOOK_S = 0.1


def share_of(plan: Plan, share: ShareSpec) -> tuple[Plan, str]:
    """The share's own plan, and a sentence for the manifest. Dealt as requests are dealt to workers: by position in an open loop, whose times
    stay, by slot in a closed one; a session stays whole. The load is the share's: its part of the rate, its slots. Raises ConfigError where
    nothing is left for it."""
    load, of = plan.load, share.of
    few = min(len(plan.requests), load.concurrency or len(plan.requests))
    if few < of:
        what = "slots" if load.concurrency is not None and load.concurrency < of else "requests"
        raise ConfigError(f"there are more shares than {what}", f"{of} shares of {few} {what}", f"at most {few} shares")
    dealt = owners(plan.requests, load, of, tree_of(plan.requests))
    own = tuple(request for request, owner in zip(plan.requests, dealt, strict=True) if owner == share.index)
    if not own:
        raise ConfigError(
            "nothing of the plan is in this share",
            f"share {share.words} of {len(plan.requests)} requests",
            "fewer shares",
        )
    slots = None if load.concurrency is None else len(range(share.index, load.concurrency, of))
    rate = None if load.rate_rps is None else load.rate_rps / of
    sha256 = hashlib.sha256(f"{plan.sha256} {share.words}".encode()).hexdigest()
    mine = replace(
        plan,
        requests=own,
        warmup=plan.warmup[share.index :: of],
        load=replace(load, concurrency=slots, rate_rps=rate),
        sha256=sha256,
    )
    note = (
        f"share {share.words} of the plan {plan.sha256[:12]} ({len(own):,} of {len(plan.requests):,} requests): "
        "what the server did for the other shares is not in this run"
    )
    return mine, note


@dataclass(frozen=True, slots=True)
class StartAt:
    """A start instant on the wall clock, for drives on several machines; `asked`: the user wants no start any more."""

    instant: datetime
    asked: Callable[[], bool]
    say: Callable[[str], None]

    def wait(self) -> int:
        """CLOCK_MONOTONIC at the instant, or now where it is over; that is said, since the other shares have begun without this one."""
        late_s = -self._left_s()
        if late_s > 0:
            self.say(f"--start-at was {late_s:.1f} s ago: this share begins now, later than the others")
        while not self.asked() and (left_s := self._left_s()) > 0:
            clock.sleep(min(left_s, _LOOK_S))
        return clock.monotonic_ns()

    def give_up(self) -> None:
        """The other shares begin without it."""

    def _left_s(self) -> float:
        return (self.instant - clock.utc_now()).total_seconds()
