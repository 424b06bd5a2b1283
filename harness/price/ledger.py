"""What was spent with one API key: an append-only file that processes share and that outlives being killed.

Money is taken before it is spent and the rest given back: a line is on the disk (fsync) before a request that it pays for is sent. So
the sum of the lines is at no instant less than what was spent and what is in flight; what a killed process had taken counts as spent,
until somebody settles it by what its run directory (`place`) says (measure/settle.py).

    {"at": UTC, "day": UTC day that it counts for, "run": campaign, "lease": one drive's part of it, "usd": "0.25", "why": "take", "place": ".."}

A file's name is a fingerprint: HMAC-SHA256 of the key with a random salt of this machine's user, so that who has the file and a
list of keys learns nothing.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from harness.base import clock
from harness.base.errors import StoreError
from harness.base.files import open_lock, state_dir, write_whole

PARTS = 32  # of what is left that one taking takes: few lines, and little of it lost to a kill
_UNIT_USD = Decimal("1e-12")  # a part is a whole number of them: sums are exact
_SALT = "salt"
_LAST = ("end", "settle")  # of a lease: after it nothing is given back in its name
_LOCK_S = 30.0  # holders have it for milliseconds
_LOCK_REST_S = 0.002
_NOT_SAFE = "nothing more is sent: a cap that cannot be kept is none"


@dataclass(slots=True)
class Totals:
    """Dollars taken and not given back."""

    key_usd: Decimal = Decimal(0)
    by_day: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    by_run: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))
    open: dict[str, Open] = field(default_factory=dict)
    settled: set[str] = field(default_factory=set)

    def add(self, line: Line) -> None:
        self.key_usd += line.usd
        self.by_day[line.day] += line.usd
        self.by_run[line.run] += line.usd
        if line.why in _LAST:
            self.open.pop(line.lease, None)
            self.settled.add(line.lease)
        elif line.lease not in self.settled:
            mine = self.open.setdefault(line.lease, Open(line.run))
            mine.by_day[line.day] += line.usd
            mine.place = line.place or mine.place


@dataclass(slots=True)
class Open:
    """A lease that has not ended: its drive goes on, or was killed. `place`: its run directory, where it began."""

    run: str
    place: str = ""
    by_day: dict[str, Decimal] = field(default_factory=lambda: defaultdict(Decimal))


@dataclass(frozen=True, slots=True)
class Line:
    """`usd`: taken, or given back where negative. `why`: take | give | over (billed beyond what was taken) | end (the drive is over, the
    rest is given back) | settle (the same for a drive that was killed)."""

    at: str
    day: str
    run: str
    lease: str
    usd: Decimal
    why: str
    place: str = ""


def ledger_dir() -> Path:
    """HARNESS_LEDGER_DIR, else spend/ in the user's state directory, made if needed. Raises StoreError."""
    given = os.environ.get("HARNESS_LEDGER_DIR")
    try:
        path = Path(given) if given else state_dir("spend")
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise unwritable(given or "spend", error.strerror or "unknown") from None
    return path


def unwritable(path: object, why: str) -> StoreError:
    return StoreError(
        "the ledger of what was spent cannot be written", path, f"{why}; {_NOT_SAFE} (HARNESS_LEDGER_DIR)"
    )


def fingerprint(folder: Path, key: str) -> str:
    """A key's name in this folder. Raises StoreError."""
    path = folder / _SALT
    try:
        if not path.exists():
            try:
                write_whole(path, secrets.token_hex(32), new=True)
                path.chmod(0o600)
            except FileExistsError:
                pass  # another process was first
        salt = path.read_bytes()
    except OSError as error:
        raise unwritable(path, error.strerror or "unknown") from None
    if len(salt) < 64:
        raise unwritable(path, "its salt is damaged: restore it, or every key begins anew under another one")
    return hmac.new(salt, key.encode(), hashlib.sha256).hexdigest()[:16]


def ledgers(folder: Path) -> list[Path]:
    return sorted(folder.glob("key-*.jsonl"))


def ledger_of(folder: Path, name: str) -> Ledger:
    return Ledger(folder / f"key-{name}.jsonl")


class Ledger:
    """One key's file, open. `damaged`: lines that cannot be read, such as one that was being written in a power cut: they pay for
    nothing, since their money was never used."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.totals = Totals()
        self.damaged = 0
        self._at = 0  # bytes read
        self._mine = threading.Lock()
        try:
            self._descriptor = open_lock(path)
        except StoreError as error:
            raise unwritable(path, error.advice.partition(";")[0]) from None

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self) -> Totals:
        """What it comes to now."""
        with self._locked():
            return self.totals

    def take(
        self, run: str, lease: str, least: Decimal, room: Callable[[Totals, str], Decimal], place: str = ""
    ) -> tuple[Decimal, str]:
        """(dollars, day): `least`, or more where there is much left; 0 where `room(totals, day)` has less. Raises StoreError."""
        with self._locked():
            if lease in self.totals.settled:
                raise unwritable(self.path, f"another process took this one for dead and settled {lease}")
            day = today()
            left = room(self.totals, day)
            if left < least:
                return Decimal(0), day
            usd = min(left, max(least, (left / PARTS).quantize(_UNIT_USD)))
            self._append(Line(_now(), day, run, lease, usd, "take", place))
            return usd, day

    def add(self, run: str, lease: str, day: str, usd: Decimal, why: str) -> None:
        """Give back (below 0), or note what was billed beyond what was taken. Of a lease that was settled meanwhile nothing is given back
        a second time. Raises StoreError."""
        with self._locked():
            if usd > 0 or lease not in self.totals.settled:
                self._append(Line(_now(), day, run, lease, usd, why))

    def settle(self, lease: str, spent_usd: Decimal) -> Decimal | None:
        """Let a lease whose drive was killed count as what was, or may have been, spent of it: the dollars that this gives back (below 0:
        it was billed beyond what was taken), None where it had ended or was settled before. Raises StoreError.

        Which part of it was spent on which day nobody knows, so each day keeps as much of it, up to what was taken there."""
        with self._locked():
            mine = self.totals.open.get(lease)
            if mine is None:
                return None
            back = {day: min(Decimal(0), spent_usd - taken) for day, taken in mine.by_day.items()}
            last = max(back)
            back[last] += max(Decimal(0), spent_usd - sum(mine.by_day.values()))
            told = {day: usd for day, usd in back.items() if usd} or {last: Decimal(0)}
            self._append(*(Line(_now(), day, mine.run, lease, usd, "settle") for day, usd in told.items()))
            return -sum(back.values(), Decimal(0))

    # ------------------------------------------------------------ the file

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """This process's alone, with what others have added read."""
        with self._mine:
            give_up = clock.monotonic_ns() + int(_LOCK_S * 1e9)
            while True:
                try:
                    fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if clock.monotonic_ns() > give_up:
                        raise unwritable(self.path, f"another process has held it for {_LOCK_S:.0f} s") from None
                    clock.sleep(_LOCK_REST_S)
                except OSError as error:
                    raise unwritable(self.path, error.strerror or "it cannot be locked") from None
            try:
                self._read_on()
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _read_on(self) -> None:
        try:
            mine, there = os.fstat(self._descriptor), self.path.stat()
            if (mine.st_ino, mine.st_dev) != (there.st_ino, there.st_dev) or mine.st_size < self._at:
                raise unwritable(self.path, "it was replaced or cut while it was in use")
            data = os.pread(self._descriptor, mine.st_size - self._at, self._at)
        except OSError as error:
            raise unwritable(self.path, error.strerror or "it cannot be read") from None
        whole = data.rfind(b"\n") + 1  # a line without its end is being written, or never will be
        for text in data[:whole].splitlines():
            line = _line_of(text)
            if line is not None:
                self.totals.add(line)
            elif text:
                self.damaged += 1
        self._at += whole
        self._torn = len(data) > whole

    def _append(self, *lines: Line) -> None:
        records = [
            {name: str(getattr(line, name)) for name in Line.__slots__ if name != "place" or line.place}
            for line in lines
        ]
        text = (b"\n" if self._torn else b"") + b"".join(json.dumps(record).encode() + b"\n" for record in records)
        try:
            size = os.fstat(self._descriptor).st_size
            done = os.pwrite(self._descriptor, text, size)
            if done != len(text):
                raise unwritable(self.path, "no room on the disk")
            os.fsync(self._descriptor)
        except OSError as error:
            raise unwritable(self.path, error.strerror or "unknown") from None
        self.damaged += self._torn
        self._torn = False
        self._at = size + done
        for line in lines:
            self.totals.add(line)


def _now() -> str:
    return clock.utc_now().isoformat(timespec="milliseconds")


def _line_of(text: bytes) -> Line | None:
    """None where it cannot be read."""
    try:
        record: dict[str, Any] = json.loads(text)
        at, day, run, lease, why = (str(record[name]) for name in ("at", "day", "run", "lease", "why"))
        line = Line(at, day, run, lease, Decimal(record["usd"]), why, str(record.get("place", "")))
        date.fromisoformat(line.day)
    except (ValueError, KeyError, TypeError, InvalidOperation, RecursionError):
        return None
    return line if line.usd.is_finite() else None


@dataclass(frozen=True, slots=True)
class SpentRow:
    """Dollars that count for one key, day and campaign. `leases`: of how many runs."""

    key: str
    day: str
    run: str
    usd: Decimal
    leases: int


def rows_of(folder: Path) -> tuple[list[SpentRow], dict[str, int]]:
    """(what every ledger of a folder says, lines that cannot be read by file). Raises StoreError."""
    sums: dict[tuple[str, str, str], Decimal] = defaultdict(Decimal)
    leases: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    damaged: dict[str, int] = {}
    for path in ledgers(folder):
        try:
            texts = [text for text in path.read_bytes().splitlines() if text]
        except OSError as error:
            raise StoreError("a ledger cannot be read", path, error.strerror or "") from None
        for line in map(_line_of, texts):
            if line is None:
                damaged[str(path)] = damaged.get(str(path), 0) + 1
                continue
            at = path.stem.removeprefix("key-"), line.day, line.run
            sums[at] += line.usd
            leases[at].add(line.lease)
    return [SpentRow(*at, usd, len(leases[at])) for at, usd in sorted(sums.items())], damaged


def today() -> str:
    """The day that a send counts for: UTC."""
    return clock.utc_now().date().isoformat()
