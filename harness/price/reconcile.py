"""A vendor's invoice against our rows, a day and a model at a time, to the cent; and what a difference is made of.

    difference = theirs - ours = sum over parts of (their tokens - ours) x what a token of ours cost + what is left

What is left is the price's part; the tokens' part is named by the requests: as many here and there, and the tokens differ; more there
than here, and they are those of ours that failed, where these can be so many, or else somebody else's; fewer, and the file lacks some.
Amounts agree where they differ by less than half a cent, or half a cent for each amount of the file that was rounded to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal

from harness.price.invoice import InvoiceRow
from harness.price.reconcile_sides import ALL_MODELS, Ours, Theirs, days_alone, our_days, our_name, their_days
from harness.records import RunSummary

ROUNDING = "rounding"
PRICE = "price differs"
TOKENS = "tokens differ"
MISSING_HERE = "rows missing here"
MISSING_THERE = "rows missing there"
FAILED = "failed requests billed"
ANOTHER_DAY = "billed on another day"
ROWS_OR_TOKENS = "rows or tokens differ"  # the file counts no requests
UNTOLD = "price, tokens or rows differ"  # the file has dollars alone
_HALF_A_CENT = Decimal("0.005")


@dataclass(frozen=True, slots=True)
class Cause:
    """One reason for a difference, and its dollars (theirs - ours); None: they cannot be told apart."""

    name: str
    usd: Decimal | None
    words: str


@dataclass(frozen=True, slots=True)
class Line:
    """A day and a model. `theirs_usd`: of a file without dollars, its tokens at our prices (`is_priced_here`)."""

    day: date
    model: str
    ours: Ours | None
    theirs: Theirs | None
    ours_usd: Decimal
    theirs_usd: Decimal
    is_priced_here: bool
    causes: tuple[Cause, ...]
    agrees: bool

    @property
    def difference_usd(self) -> Decimal:
        return self.theirs_usd - self.ours_usd


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """`left_out`: runs of ours that could not be priced, and why. `notes`: what was not compared."""

    lines: tuple[Line, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def agrees(self) -> bool:
        return bool(self.lines) and all(line.agrees for line in self.lines)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is compared: days from `since` to `until` (both in; None: those of the file), one model, one key of the file."""

    since: date | None = None
    until: date | None = None
    model: str | None = None
    key: str | None = None


# ---------------------------------------------------------------- one against the other


def reconcile(rows: Sequence[InvoiceRow], summaries: Sequence[RunSummary], wanted: Wanted = Wanted()) -> Reconciliation:
    """Every day and model that either side has, of what is wanted."""
    days, refs, left_out = our_days(summaries)
    taken = [row for row in rows if wanted.key is None or row.key == wanted.key]
    since = wanted.since or min((row.day for row in rows), default=date.min)
    until = wanted.until or max((row.day for row in rows), default=date.max)
    theirs = their_days(taken, refs)
    if any(model == ALL_MODELS for _, model in theirs):
        days = days_alone(days)
    one = None if wanted.model is None else our_name(wanted.model, refs)
    every = sorted({*days, *theirs})
    chosen = [at for at in every if since <= at[0] <= until and one in (None, at[1])]
    outside = sorted({at[0].isoformat() for at in days if not since <= at[0] <= until})
    notes = (
        [f"{len(outside)} days of ours are not among the file's, and were not compared: {', '.join(outside[:5])}"]
        if outside
        else []
    )
    lines = [_line(*at, days.get(at), theirs.get(at)) for at in chosen]
    return Reconciliation(tuple(_across_midnight(lines)), tuple(left_out), tuple(notes))


def _line(day: date, model: str, ours: Ours | None, theirs: Theirs | None) -> Line:
    ours_usd = Decimal(0) if ours is None else ours.total_usd
    if theirs is None:
        assert ours is not None
        named = (
            []
            if not ours.requests
            else [Cause(MISSING_THERE, -ours_usd, f"{_requests(ours.requests)} of {_runs(ours)} are not in the file")]
        )
        return Line(day, model, ours, None, ours_usd, Decimal(0), False, tuple(named), not named)
    tokens_usd, changed = _tokens_part(ours, theirs)
    theirs_usd = ours_usd + tokens_usd if theirs.usd is None else theirs.usd
    left = theirs_usd - ours_usd
    tolerance = _HALF_A_CENT * max(1, theirs.rounded)
    if ours is None:
        has_any = bool(theirs.usd or theirs.requests or theirs.input_tokens or any(theirs.tokens.values()))
        keys = f", of key {', '.join(theirs.keys)}" if theirs.keys else ""
        cause = Cause(MISSING_HERE, left, f"no row of ours is of this day and model{keys}")
        return Line(
            day, model, None, theirs, ours_usd, theirs_usd, theirs.usd is None, (cause,) if has_any else (), not has_any
        )
    causes = []
    if changed or (theirs.requests is not None and theirs.requests != ours.requests):
        causes.append(replace(_named_tokens(ours, theirs, changed), usd=tokens_usd))
        left -= tokens_usd
    if theirs.usd is not None and abs(left) > tolerance:
        causes.append(_named_money(ours, theirs, left, changed))
    elif theirs.usd is not None and left:
        causes.append(Cause(ROUNDING, left, f"within {tolerance.normalize():f} $"))
    agrees = abs(theirs_usd - ours_usd) <= tolerance if theirs.usd is not None else not causes
    return Line(day, model, ours, theirs, ours_usd, theirs_usd, theirs.usd is None, tuple(causes), agrees)


def _tokens_part(ours: Ours | None, theirs: Theirs) -> tuple[Decimal, dict[str, int]]:
    """Dollars of the tokens that one side has more, at what ours cost, and {part: theirs - ours} of those that differ."""
    if ours is None:
        return Decimal(0), {}
    more = {part: count - ours.tokens[part] for part, count in theirs.tokens.items()}
    usd = sum((ours.unit_usd(part, count) for part, count in more.items()), Decimal(0))
    if (
        theirs.input_tokens is not None and "fresh" not in more
    ):  # cached ones are not told apart: at the prompts' mean price
        prompts = ("fresh", "cached", "written")
        ours_given, ours_usd = (sum(of[part] for part in prompts) for of in (ours.tokens, ours.usd))
        more["input"] = theirs.input_tokens - int(ours_given)
        usd += Decimal(ours_usd) / ours_given * more["input"] if ours_given else ours.unit_usd("fresh", more["input"])
    return usd, {part: count for part, count in more.items() if count}


def _named_tokens(ours: Ours, theirs: Theirs, changed: Mapping[str, int]) -> Cause:
    words = ", ".join(f"{count:+,} {part}" for part, count in changed.items()) or "no token"
    given = sum(count for part, count in changed.items() if part != "output")
    can_be_failed = 0 <= given <= ours.unknown_tokens[0] and 0 <= changed.get("output", 0) <= ours.unknown_tokens[1]
    can_be_failed = can_be_failed and ours.unknown > 0
    more = None if theirs.requests is None else theirs.requests - ours.requests
    if more is None:
        if can_be_failed:
            return Cause(
                FAILED, None, f"{words}: within what {_requests(ours.unknown)} of ours that failed can be billed"
            )
        mixed = min(changed.values()) < 0 < max(changed.values())
        return Cause(TOKENS if mixed else ROWS_OR_TOKENS, None, f"{words}; the file counts no requests")
    if more == 0:
        return Cause(TOKENS, None, f"{words}, in as many requests")
    if more < 0:
        return Cause(MISSING_THERE, None, f"{_requests(-more)} of {_runs(ours)} are not in the file: {words}")
    if more <= ours.unknown and can_be_failed:
        return Cause(FAILED, None, f"{words} in {_requests(more)}, of {ours.unknown} of ours that failed")
    keys = f"; keys of the file: {', '.join(theirs.keys)}" if len(theirs.keys) > 1 else ""
    return Cause(
        MISSING_HERE, None, f"{words} in {_requests(more)}: somebody else's use of the key, or inquiries of ours{keys}"
    )


def _named_money(ours: Ours, theirs: Theirs, left: Decimal, changed: Mapping[str, int]) -> Cause:
    """Dollars that no token explains."""
    if theirs.tokens or theirs.input_tokens is not None:
        due = theirs.usd - left if theirs.usd is not None else Decimal(0)
        times = f"{theirs.usd / due:.4g} times ours" if due and theirs.usd is not None else "ours is free"
        return Cause(PRICE, left, f"their tokens cost {times}" + (", beside the tokens that differ" if changed else ""))
    if ours.unknown and 0 < left <= ours.unknown_usd + _HALF_A_CENT:
        return Cause(
            FAILED,
            left,
            f"within the {ours.unknown_usd:.2f} $ that {_requests(ours.unknown)} of ours that failed can be billed",
        )
    return Cause(UNTOLD, None, "the file has dollars alone: give the usage export too")


def _across_midnight(lines: Sequence[Line]) -> list[Line]:
    """Requests that began before midnight and ended after it, which the vendor has on the day before: the two days cancel out."""
    found = list(lines)
    for n, line in enumerate(found):
        after = next(
            (
                m
                for m, other in enumerate(found)
                if other.model == line.model and other.day == line.day + timedelta(days=1)
            ),
            None,
        )
        if after is None or line.agrees or found[after].agrees or not _is_moved(line, found[after]):
            continue
        for m, usd in ((n, line.difference_usd), (after, found[after].difference_usd)):
            words = "began before midnight (UTC), ended after it, and is of the day before in the file"
            found[m] = replace(found[m], causes=(Cause(ANOTHER_DAY, usd, words),), agrees=True)
    return found


def _is_moved(line: Line, after: Line) -> bool:
    crossed = 0 if after.ours is None else after.ours.crossed
    if not crossed or abs(line.difference_usd + after.difference_usd) > 2 * _HALF_A_CENT:
        return False
    more = [_whole_difference(one) for one in (line, after)]
    return all(a + b == 0 for a, b in zip(*more, strict=True)) and 0 < more[0][0] <= crossed


def _whole_difference(line: Line) -> tuple[int, int, int]:
    """Requests, prompts' tokens and output tokens, theirs - ours."""
    ours = (0, 0, 0)
    if line.ours is not None:
        counts = line.ours.tokens
        ours = (line.ours.requests, counts["fresh"] + counts["cached"] + counts["written"], counts["output"])
    t = line.theirs
    theirs = (0, 0, 0) if t is None else (t.requests or 0, t.input_tokens or 0, t.tokens.get("output", 0))
    return (theirs[0] - ours[0], theirs[1] - ours[1], theirs[2] - ours[2])


def _requests(count: int) -> str:
    return f"{count:,} request{'s' * (count != 1)}"


def _runs(ours: Ours) -> str:
    return ", ".join(ours.run_ids[:3]) + (f" and {len(ours.run_ids) - 3} more" if len(ours.run_ids) > 3 else "")
