"""The ledger: shared by processes, on the disk before it is used, whole after a kill, and no send where it cannot be written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.base import clock
from harness.base.errors import StoreError
from harness.measure.spend import Budget, Lease
from harness.price import ledger as ledgers
from harness.price.ledger import Ledger, fingerprint, rows_of
from tests.waiting import until

pytestmark = pytest.mark.timing
D = Decimal
KILLS = 20 if "HARNESS_LONG" in os.environ else 6
TAKER = """
import sys
from decimal import Decimal
from pathlib import Path
from harness.measure.spend import Budget, Lease
from harness.price.ledger import Ledger
path, caps, used = Path(sys.argv[1]), {"key": Decimal(sys.argv[2])}, Path(sys.argv[3])
lease = Lease(Budget("r", caps, {"k": Ledger(path)}), "k", "child")
while (day := lease.reserve(Decimal("0.01"))) is not None:
    with used.open("ab") as file:
        file.write(b".")   # a cent is spent, and that is known, only after it was taken
    lease.release(day, Decimal("0.01"), Decimal("0.01"))
lease.give_back()
"""


def lease_of(path, cap="1", name="run", run="r", caps=None):
    return Lease(Budget(run, caps or {"key": D(cap)}, {"k": Ledger(path)}), "k", name)


def child(path: Path, cap: str, used: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", TAKER, str(path), cap, str(used)])


def cents(used: Path) -> int:
    return used.stat().st_size if used.exists() else 0


def test_kills_lose_little_and_pass_no_cap(tmp_path):
    """Processes, one after the other, are killed while they spend cents of $30; the last one ends by itself: what was spent is never
    more than the ledger says, that never more than the cap, and 90 % of it is in the ledger's count."""
    path, used = tmp_path / "key-k.jsonl", tmp_path / "used"
    for _ in range(KILLS):
        before = cents(used)
        process = child(path, "30", used)
        until(lambda before=before: cents(used) > before + 3, "the child spends")
        process.send_signal(signal.SIGKILL)
        process.wait()
        counted = Ledger(path).read().key_usd
        assert D(cents(used)) / 100 <= counted <= 30
    assert child(path, "30", used).wait() == 0
    counted = Ledger(path).read().key_usd
    assert D(cents(used)) / 100 <= counted <= 30
    assert counted > D("29.9")


def test_four_processes_share_one_cap(tmp_path):
    """Each spends what it can get: together no cent more than the cap, and all of it but what is smaller than a cent."""
    path = tmp_path / "key-k.jsonl"
    processes = [child(path, "5", tmp_path / f"used-{n}") for n in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    spent = D(sum(cents(tmp_path / f"used-{n}") for n in range(4))) / 100
    assert spent <= 5
    assert spent == Ledger(path).read().key_usd
    assert spent > D("4.5")


@given(st.integers(1, 400))
def test_a_torn_tail_counts_for_nothing_and_is_told(cut):
    """Of the last line any part may be missing: what stood before counts, the next line stands by itself, and the damage is counted."""
    import tempfile

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "key-k.jsonl"
        first = lease_of(path)
        first.reserve(D("0.1"))
        whole = path.read_bytes()
        second = json.dumps(
            {"at": "x", "day": "2026-01-01", "run": "r", "lease": "l", "usd": "0.5", "why": "take"}
        ).encode()
        kept = second[: min(cut, len(second) - 1)]
        path.write_bytes(whole + kept)
        again = Ledger(path)
        before = again.read().key_usd
        again.add("r", "l", "2026-01-01", D("0.25"), "take")
        last = Ledger(path)
        assert last.read().key_usd == before + D("0.25")
        assert last.damaged == 1
        assert rows_of(Path(name))[1] == {str(path): 1}


def test_the_day_is_that_of_utc_and_begins_anew(tmp_path, monkeypatch):
    """A cap of the day: what is left of yesterday's taking goes back to yesterday, today has its whole cap."""
    day = ["2026-11-26"]
    monkeypatch.setattr(ledgers, "today", lambda: day[0])
    monkeypatch.setattr("harness.measure.spend.today", lambda: day[0])
    lease = lease_of(tmp_path / "key-k.jsonl", caps={"day": D("1")})
    assert lease.reserve(D("0.9")) == "2026-11-26"
    assert lease.reserve(D("0.2")) is None
    day[0] = "2026-11-27"
    assert lease.reserve(D("0.9")) == "2026-11-27"
    lease.release("2026-11-26", D("0.9"), D("0.4"))
    lease.release("2026-11-27", D("0.9"), D("0.3"))
    lease.give_back()
    assert [(r.day, r.usd) for r in rows_of(tmp_path)[0]] == [("2026-11-26", D("0.4")), ("2026-11-27", D("0.3"))]


def test_a_run_counts_over_all_its_keys(tmp_path):
    """Two keys, one cap of the run: the second gets what the first has left; another campaign's money does not count."""
    caps = {"run": D("1")}
    a, b = Ledger(tmp_path / "key-a.jsonl"), Ledger(tmp_path / "key-b.jsonl")
    a.add("another", "l", "2026-01-01", D("50"), "take")
    budget = Budget("r", caps, {"a": a, "b": b})
    assert Lease(budget, "a", "one").reserve(D("0.7")) is not None
    second = Lease(budget, "b", "two")
    assert second.reserve(D("0.4")) is None
    assert second.reserve(D("0.25")) is not None


def test_what_was_billed_beyond_its_worst_case_is_written_down(tmp_path):
    """A server that bills more than anyone may expect: the ledger has it, above the cap too, and nothing more goes out."""
    lease = lease_of(tmp_path / "key-k.jsonl", "1")
    day = lease.reserve(D("0.9"))
    lease.release(day, D("0.9"), D("2.5"))
    assert Ledger(tmp_path / "key-k.jsonl").read().key_usd == D("2.5")
    assert lease.reserve(D("0.01")) is None


def test_a_ledger_that_cannot_be_made_is_an_error(tmp_path):
    """Its folder is not there: three lines and exit code 5."""
    with pytest.raises(StoreError, match="cannot be written") as refused:
        Ledger(tmp_path / "gone" / "key-k.jsonl")
    assert (len(str(refused.value).splitlines()), refused.value.exit_code) == (3, 5)


def test_a_full_disk_is_an_error_before_anything_is_spent(tmp_path, monkeypatch):
    """The line cannot be synced: nothing is reserved."""
    lease = lease_of(tmp_path / "key-k.jsonl")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.price.ledger.os.fsync", full)
    with pytest.raises(StoreError, match="No space left") as refused:
        lease.reserve(D("0.1"))
    assert len(str(refused.value).splitlines()) == 3
    assert refused.value.exit_code == 5


def test_a_ledger_that_was_replaced_is_an_error(tmp_path):
    """Deleted and made anew in mid-run: what was spent is no longer known."""
    path = tmp_path / "key-k.jsonl"
    lease = lease_of(path)
    lease.reserve(D("0.1"))
    path.unlink()
    path.write_bytes(b"")
    with pytest.raises(StoreError, match="replaced"):
        lease.reserve(D("0.9"))


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=80))
def test_a_key_is_in_no_file(key):
    """A fingerprint is the key's in this folder, another one's elsewhere, and tells nothing of it."""
    import tempfile

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        name = fingerprint(Path(one), key)
        assert name == fingerprint(Path(one), key) != fingerprint(Path(two), key)
        lease = Lease(Budget("r", {"key": D(1)}, {name: Ledger(Path(one) / f"key-{name}.jsonl")}), name, "run")
        lease.reserve(D("0.1"))
        for path in Path(one).iterdir():
            assert key not in path.read_text() + path.name
            assert path.stat().st_mode & 0o077 == 0


def test_the_clock_of_a_line_is_utc(tmp_path):
    """`at` and `day` agree."""
    lease_of(tmp_path / "key-k.jsonl").reserve(D("0.1"))
    (line,) = (tmp_path / "key-k.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["at"].startswith(record["day"])
    assert record["day"] == clock.utc_now().date().isoformat()
