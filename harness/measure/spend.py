"""Money that cannot be overspent: a gate that admits a request when its worst case fits under every cap, and settles it by its usage.

    spent + worst cases in flight <= taken from the ledger <= cap

The ledger (price/ledger.py) is written before a request goes out, in parts larger than one request. Where the next worst case does not
fit, requests wait for those in flight, whose bills are mostly lower; once SHARE of a cap is spent, or nothing is in flight any
more, the drive drains.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import StoreError
from harness.judge.sent import sent_of
from harness.measure.gate import Answer, Asked
from harness.price.ledger import Ledger, Totals, fingerprint, today
from harness.price.request_price import RequestPrice
from harness.records import OVERRUN_SLACK, OVERRUN_TIMES, RequestRecord

MAX_USD = "max_usd"  # a drive's stop_reason
SHARE = Decimal("0.95")
AHEAD = 64  # requests of a closed loop, at least


def worst_of(price: RequestPrice, body_bytes: int, output_tokens: int) -> Decimal:
    """The most that a request of so many bytes, asked for so many tokens, can be billed."""
    return price.worst_usd(body_bytes, OVERRUN_TIMES * output_tokens + OVERRUN_SLACK)


def ledger_name(folder: Path, base_url: str, key: str | None) -> str:
    """The ledger of a key, or where there is none of an address. Raises StoreError."""
    return fingerprint(folder, key or f"no key at {base_url}")


class Budget:
    """The caps of one campaign over all its keys. `ledgers`: fingerprint -> the key's; this process's alone as far as `run` goes."""

    def __init__(self, run: str, caps: Mapping[str, Decimal], ledgers: Mapping[str, Ledger]) -> None:
        self.run, self.caps, self.ledgers = run, caps, dict[str, Ledger]()
        self._lock = threading.RLock()
        for key, ledger in ledgers.items():
            self.add_ledger(key, ledger)

    def add_ledger(self, key: str, ledger: Ledger) -> None:
        """Raises StoreError: it cannot be locked or read."""
        with self._lock:
            ledger.read()
            self.ledgers[key] = ledger

    def take(self, key: str, lease: str, least: Decimal, place: str) -> tuple[Decimal, str]:
        with self._lock:
            ledger = self.ledgers[key]
            return ledger.take(self.run, lease, least, lambda totals, day: self._room(key, totals, day), place)

    def add(self, key: str, lease: str, day: str, usd: Decimal, why: str) -> None:
        with self._lock:
            self.ledgers[key].add(self.run, lease, day, usd, why)

    def _counted(self, key: str, totals: Totals, day: str) -> dict[str, Decimal]:
        others = sum((x.totals.by_run[self.run] for k, x in self.ledgers.items() if k != key), Decimal(0))
        return {
            "run": totals.by_run[self.run] + others,
            "day": totals.by_day[day],
            "key": totals.key_usd,
        }

    def _room(self, key: str, totals: Totals, day: str) -> Decimal:
        counted = self._counted(key, totals, day)
        return min(cap - counted[name] for name, cap in self.caps.items())

    def nearest(self, key: str, idle: Decimal) -> tuple[str, Decimal]:
        """The cap that is nearest to being used up, and the share of it that is, without `idle` dollars that may come back."""
        with self._lock:
            counted = self._counted(key, self.ledgers[key].totals, today())
        return max(
            ((name, (counted[name] - idle) / cap) for name, cap in self.caps.items()), key=lambda named: named[1]
        )


@dataclass(slots=True)
class _Day:
    taken: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    reserved: Decimal = Decimal(0)

    @property
    def room(self) -> Decimal:
        return self.taken - self.spent - self.reserved


class Lease:
    """One run's part of a budget, at one key, under a name of its own in each drive. Thread-safe: two drives may share it. `place`: the
    run's directory, where who finds it killed looks for what it sent."""

    def __init__(self, budget: Budget, key: str, run: str, place: str = "") -> None:
        self.budget, self.key, self.place = budget, key, place
        self._run = run
        self.name, self._took = self._new_name(), False
        self._days: dict[str, _Day] = {}
        self._lock = threading.RLock()

    def _new_name(self) -> str:
        return f"{self._run}#{secrets.token_hex(4)}"

    def reserve(self, usd: Decimal) -> str | None:
        """The day that it counts for; None where it does not fit. Raises StoreError: the ledger cannot be written."""
        with self._lock:
            day = today()
            if day not in self._days:
                self._give_back()
            mine = self._days.setdefault(day, _Day())
            if usd > mine.room:
                taken, day = self.budget.take(self.key, self.name, usd - mine.room, self.place)
                mine = self._days.setdefault(day, _Day())
                mine.taken += taken
                self._took = True
            if usd > mine.room:
                return None
            mine.reserved += usd
            return day

    def release(self, day: str, reserved: Decimal, spent: Decimal = Decimal(0)) -> None:
        """A reservation is over. Beyond what was taken is written down too: then a server billed more than its worst case."""
        with self._lock:
            mine = self._days[day]
            mine.reserved -= reserved
            mine.spent += spent
            if mine.room < 0:
                over = -mine.room
                mine.taken += over
                self.budget.add(self.key, self.name, day, over, "over")

    def is_used_up(self) -> bool:
        """Whether waiting for what is in flight is no use: nothing is, or SHARE of a cap is spent."""
        with self._lock:
            idle = sum((d.reserved + d.room for d in self._days.values()), Decimal(0))
            in_flight = any(d.reserved for d in self._days.values())
        return not in_flight or self.budget.nearest(self.key, idle)[1] >= SHARE

    @property
    def spent_usd(self) -> Decimal:
        with self._lock:
            return sum((d.spent for d in self._days.values()), Decimal(0))

    def give_back(self) -> None:
        """What is neither spent nor in flight; where it cannot be written it goes on to count as spent."""
        with self._lock, suppress(StoreError):
            self._give_back()

    def end(self) -> None:
        """Its drive is over and nothing of it is in flight: as `give_back`, and the next drive has another name."""
        with self._lock, suppress(StoreError):
            self._give_back()
            if self._took:
                self.budget.add(self.key, self.name, today(), Decimal(0), "end")
        self.name, self._took = self._new_name(), False

    def _give_back(self) -> None:
        for day, mine in self._days.items():
            if (room := mine.room) > 0:
                self.budget.add(self.key, self.name, day, -room, "give")
                mine.taken -= room


class SpendGate:
    """Bounds the dollars of a run's drives at one key; one for all its phases, each told of its end."""

    lead_ns = 1_000_000_000  # admitted that long ahead, sends are never late by it
    stop_reason = MAX_USD

    def __init__(self, lease: Lease, price: RequestPrice, slots: int | None = None) -> None:
        """`slots`: of a closed loop, which may all come free at once: the next of each is admitted by then."""
        self.lease, self.price, self.ahead = lease, price, max(AHEAD, slots or 0)
        self._lock = threading.Lock()
        self._open: dict[int, tuple[Decimal, str]] = {}  # seq -> reserved, day
        self.unknown_usd = Decimal(0)
        self.unknown = self.waits = 0
        self.stopped_by: str | None = None  # name of the cap
        self._waiting: int | None = None

    def ask(self, asked: Asked) -> Answer:
        if self.stopped_by is not None:
            return Answer.STOP
        worst = worst_of(self.price, asked.body_bytes, asked.request.target_output_tokens)
        day = self.lease.reserve(worst)
        if day is not None:
            with self._lock:
                self._open[asked.request.seq] = worst, day
            return Answer.SEND
        if self.lease.is_used_up():
            self.stopped_by = self.lease.budget.nearest(self.lease.key, Decimal(0))[0]
            return Answer.STOP
        if self._waiting != asked.request.seq:
            self._waiting = asked.request.seq
            self.waits += 1
        return Answer.LATER

    def withdraw(self, asked: Asked) -> None:
        self._release(asked.request.seq, Decimal(0))

    def over(self, rows: Sequence[RequestRecord]) -> None:
        for row in rows:
            if row.seq not in self._open:
                continue
            worst = self._open[row.seq][0]
            usd, known = self.price.spent_usd(sent_of(row), worst)
            if not known:
                self.unknown_usd += usd
                self.unknown += 1
            self._release(row.seq, usd)

    def ended(self) -> None:
        for seq in list(self._open):
            self._release(seq, Decimal(0))
        self.lease.end()

    @property
    def words(self) -> str:
        """What it came to, in one line."""
        caps = ", ".join(f"{name} ${usd}" for name, usd in self.lease.budget.caps.items())
        unknown = (
            f", of it up to ${self.unknown_usd:.4f} for {self.unknown} request(s) of which nobody knows"
            if self.unknown
            else ""
        )
        end = f"; the cap of the {self.stopped_by} ended it" if self.stopped_by else ""
        waits = f"; {self.waits} request(s) waited for money" if self.waits else ""
        return f"counted as spent: ${self.lease.spent_usd:.6f}{unknown}, caps: {caps}{waits}{end}"

    def _release(self, seq: int, spent: Decimal) -> None:
        with self._lock:
            reserved, day = self._open.pop(seq)
        self.lease.release(day, reserved, spent)

    def told(self, target: str) -> dict[str, str]:
        """A drive's `paid`: where its money is taken, under which name, for which target's price, and since which start of this machine
        its send stamps count."""
        ledger = self.lease.budget.ledgers[self.lease.key]
        return {
            "ledger": str(ledger.path.absolute()),
            "lease": self.lease.name,
            "target": target,
            "boot": clock.boot_id(),
        }

    def facts(self) -> dict[str, Any]:
        """For the run's manifest."""
        budget = self.lease.budget
        return {
            "lease": self.lease.name,
            "ledger": self.lease.key,
            "caps_usd": {name: str(usd) for name, usd in budget.caps.items()},
            "spent_usd": str(self.lease.spent_usd),
            "unknown_usd": str(self.unknown_usd),
            "unknown_requests": self.unknown,
            "waited_for_money": self.waits,
            "stopped_by": self.stopped_by,
        }
