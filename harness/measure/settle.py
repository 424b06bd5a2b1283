"""Money that a killed drive had taken from its ledger, settled by what it left: never less than its API can have billed.

    a reply with usage                                      what it billed
    known not to be billed, or not a byte of it went out    0
    cut, or begun and without a reply                       its worst case, as it was reserved

`harness recover` settles a run before it clears its scratch folder away, a campaign under a cap what earlier ones left in the same
ledgers. The ledger has the last word: a lease is settled once, whoever comes first, and a kill in mid-way leaves it as it was or done.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from harness.base import clock
from harness.base.errors import HarnessError, StoreError
from harness.judge.sent import StoredRow, sent_of
from harness.measure.left_drive import LetOut, about, left_folders, left_rows, let_out, planned
from harness.measure.spend import worst_of
from harness.price.hosted_api import api_in
from harness.price.ledger import Ledger
from harness.price.request_price import RequestPrice, request_price
from harness.records import Manifest, PlannedRequest, SentRequest
from harness.store.manifest import goes_on, read_manifest
from harness.store.parts import SCRATCH
from harness.store.reader import read_columns

_MOVED = "interrupted"  # folder beside a run's or a search's, where a resumption moves it (campaign/stock.py)


@dataclass(frozen=True, slots=True)
class Settled:
    """A lease of a killed drive. `spent_usd`: what was, or may have been, billed; `back_usd`: given back by that (below 0: billed beyond
    what was taken)."""

    lease: str
    spent_usd: Decimal
    back_usd: Decimal

    @property
    def words(self) -> str:
        return f"the killed {self.lease} counts ${self.spent_usd:.6f}, ${self.back_usd:.6f} that it had taken are free again"


def spent_of(price: RequestPrice, let: Iterable[LetOut], ended: Mapping[int, SentRequest]) -> Decimal:
    """The most that the requests of a drive can have been billed, dollars. `ended`: those that have a row, by seq."""
    spent = Decimal(0)
    for one in let:
        worst = worst_of(price, one.body_bytes, one.output_tokens)
        if (sent := ended.get(one.seq)) is not None:
            spent += price.spent_usd(sent, worst)[0]
        elif one.begun:
            spent += worst
    return spent


def settle_drive(
    run_dir: Path, folder: Path, manifest: Manifest, requests: Sequence[PlannedRequest], ledger: Ledger | None = None
) -> Settled | None:
    """Settle the drive that left `folder`; `ledger`: where it took its money, opened if not given. None where it took none, it was settled
    before, or the machine was started anew since, so that its send stamps may be lost. Raises StoreError: it lives, or a file of it
    or the ledger cannot be read; ConfigError: no price any more."""
    of = about(folder)
    if of is None or of.paid is None or of.paid["boot"] != clock.boot_id():
        return None
    stored = _stored(run_dir, of.paid["target"])
    unread: list[str] = []
    for rows in left_rows(folder, requests, manifest.cell.load, unread):
        stored |= {row.seq: sent_of(row) for row in rows}
    let = let_out(folder, of, requests, manifest.cell.load)
    spent = spent_of(_price(manifest, of.paid["target"]), let, stored)
    if ledger is not None:
        back = ledger.settle(of.paid["lease"], spent)
    elif not Path(of.paid["ledger"]).exists():
        return None
    else:
        opened = Ledger(Path(of.paid["ledger"]))
        back = opened.settle(of.paid["lease"], spent)
        opened.close()
    return None if back is None else Settled(of.paid["lease"], spent, back)


def settle_left(ledger: Ledger) -> tuple[list[Settled], list[str]]:
    """Settle every lease of a ledger whose drive was killed and is found: (those, why others that were found could not be). Raises
    StoreError: the ledger cannot be read or written."""
    settled, why = [], []
    for name, lease in list(ledger.read().open.items()):
        for run_dir, folder in _found(Path(lease.place), name) if lease.place else ():
            try:
                one = settle_drive(run_dir, folder, read_manifest(run_dir), planned(run_dir), ledger)
            except (HarnessError, OSError, ValueError, LookupError) as error:
                why.append(f"what the killed {name} had taken counts as spent: {str(error).splitlines()[0]}")
                continue
            settled += [one] if one is not None else []
    return settled, why


def _found(place: Path, lease: str) -> Iterable[tuple[Path, Path]]:
    """(run directory, folder) of a lease's drive, where a run that was killed has it."""
    search = place.parent  # of a probe
    moved = (search.glob(f"{_MOVED}/{place.name}.*"), search.parent.glob(f"{_MOVED}/{search.name}.*/{place.name}"))
    for run_dir in (place, *(path for paths in moved for path in sorted(paths))):
        for folder in left_folders(run_dir / SCRATCH):
            try:
                of = about(folder)
                mine = of is not None and of.paid is not None and of.paid["lease"] == lease
                if mine and not goes_on(read_manifest(run_dir)):
                    yield run_dir, folder
            except (StoreError, ValueError):
                continue  # it says nothing that money could be given back for


def _stored(run_dir: Path, target: str) -> dict[int, SentRequest]:
    """Rows that were stored, by seq; of a hybrid none of the other side's, whose warm-up has the same."""
    seqs, sides, *columns = read_columns(run_dir, "requests", ["seq", "served_by", *StoredRow._fields])
    rows = zip(seqs, sides, *columns, strict=True)
    return {seq: sent_of(StoredRow(*values)) for seq, side, *values in rows if side in (None, target)}


def _price(manifest: Manifest, target: str) -> RequestPrice:
    """As the run had it. Raises ConfigError, StoreError."""
    api = api_in(manifest.config, target, manifest.run_id)
    if api.ref is None:
        raise StoreError(
            "a run took money for a target without a price", f"{manifest.run_id}: {target}", "its manifest is damaged"
        )
    begun = datetime.fromisoformat(manifest.created_utc)
    caps = manifest.config.get("max_usd") or {}
    unbilled = caps.get("unbilled_statuses") or () if isinstance(caps, Mapping) else ()
    return request_price(api.ref, begun if begun.tzinfo else begun.replace(tzinfo=UTC), api.service, unbilled)
